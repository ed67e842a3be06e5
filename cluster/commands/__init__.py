"""The verbs of the command line: one file a family, each parses, calls and prints."""

DEFAULT_STORAGE = "fairsweep-store"
