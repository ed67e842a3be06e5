"""Where a job's copy of its working directory lies: on each node that runs something of it, until Ray deletes it.

Workers need this before anything else, so it imports nothing.
"""

from __future__ import annotations

import os
import sys

RAY_COPIES = "/runtime_resources/working_dir_files/"


def at_hand(path: str) -> str:
    """`path`; of what lies in Ray's copy of a job's working directory, where this node's copy has it."""
    _, found, inside = path.partition(RAY_COPIES)
    if not found or os.path.exists(path):
        return path
    package, _, rest = inside.partition("/")
    for own in (os.environ.get("TUNE_ORIG_WORKING_DIR", ""), os.getcwd(), *sys.path):
        root, found, _ = own.partition(f"{RAY_COPIES}{package}")
        if found and os.path.exists(place := os.path.join(root + found, rest)):
            return place
    return path
