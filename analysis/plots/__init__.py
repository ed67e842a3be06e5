"""Figures: rows of the store in, `Figure` out. See `figure.py`."""
