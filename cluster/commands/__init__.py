"""The verbs of the command line: one file a family, each parses, calls and prints."""

import argparse
import os
from typing import Any


def path(text: str) -> str:
    """The type of options that are paths: ~ is the home folder, also where the shell leaves it (--data-dir=~/data)."""
    return os.path.expanduser(text)


def examples(p: Any, *commands: str) -> None:
    """Has the help of a verb end with commands that work as they stand."""
    p.formatter_class = argparse.RawDescriptionHelpFormatter
    p.epilog = "\n".join(["examples:", *(f"  {command}" for command in commands)])


def of_a_run(p: Any) -> None:
    """Adds the options of what a run says meanwhile."""
    p.add_argument("--quiet", action="store_true", help="no progress")
    p.add_argument("--log-format", metavar="text|json", help="json: what it says is JSON lines, for machines")
    p.set_defaults(log_json=False)


def quiet(args: argparse.Namespace) -> bool:
    """Whether a run says nothing meanwhile."""
    return args.quiet or (args.json and not args.log_json)
