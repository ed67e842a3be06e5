"""The job `compare`: which method is best on these data when all get the same budget, and how sure are we?"""
