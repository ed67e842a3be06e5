"""Trainables of the user's own: functions and classes by `file.py:name` or `package.module:name`."""
