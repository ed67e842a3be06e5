"""What is to be looked at: report."""

from __future__ import annotations

import argparse

from fairsweep.cluster import DEFAULT_STORAGE
from fairsweep.cluster.commands import path
from fairsweep.cluster.commands.tables import existing


def register(add: object) -> None:
    """Adds the verbs of this file. add: see `cluster.cli`."""
    p = add(  # type: ignore[operator]
        "report", _report, "a page with the answer, figures and tables of sweeps, a comparison or claims"
    )
    p.add_argument("sweeps", nargs="+", metavar="SWEEP", help="sweeps, a comparison, or a run of claims")
    p.add_argument("--output", "-o", type=path, help="file to write; default <name>-report.<format>")
    p.add_argument(
        "--format",
        choices=["html", "md", "pdf"],
        help="html: one file that needs no network; md: a file and a folder of pictures; default by --output",
    )
    p.add_argument("--storage", default=DEFAULT_STORAGE, help="folder or URI of the store")


def _report(args: argparse.Namespace, rest: list[str]) -> int:
    store = existing(args.storage)
    from fairsweep.analysis import report
    from fairsweep.cluster.jobs.reporting import write

    file = write(store, args.sweeps, args.output, args.format)
    if args.json:
        report.print_json({"path": str(file), "bytes": file.stat().st_size})
    else:
        print(f"{file}: {file.stat().st_size / 2**20:.1f} MiB")
    return 0
