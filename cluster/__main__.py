"""`fairsweep` and `python -m cluster`: the command line."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line and exits with its code."""
    from cluster.cli import run_cli

    sys.exit(run_cli(sys.argv[1:]))


if __name__ == "__main__":
    main()
