"""Who runs where: trials and their states, the conductor of a sweep, workers, what travels between them. No verbs."""
