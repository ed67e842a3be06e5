"""Public examples of Optuna and Ray Tune, rewritten small with the same calls: see `test_others.py`."""
