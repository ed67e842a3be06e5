"""The driver: Hydra, Ray, the command line."""

DEFAULT_STORAGE = "fairsweep-store"  # where a store lies if nothing is said; from where the command is given
