"""The verbs of the command line: one file a family, each parses, calls and prints."""

import os


def path(text: str) -> str:
    """The type of options that are paths: ~ is the home folder, also where the shell leaves it (--data-dir=~/data)."""
    return os.path.expanduser(text)
