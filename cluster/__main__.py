"""`fairsweep` and `python -m cluster`: the command line."""

from __future__ import annotations

import sys
import warnings


def main() -> None:
    """Runs the command line and exits with its code."""
    from fairsweep.cluster.cli import run_cli
    from fairsweep.cluster.jobs.submitted import words

    # Python's own form adds the place in our code and its line of source.
    warnings.formatwarning = lambda message, *_, **__: f"fairsweep: warning: {message}\n"
    sys.argv[1:] = words(sys.argv[1:])
    sys.exit(run_cli(sys.argv[1:]))


if __name__ == "__main__":
    main()
