"""Ray Tune's own trainables as they are: `fairsweep run trainable=train.py:train`. See `adapter`."""
