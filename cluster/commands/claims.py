"""Do the papers' claims hold? The verb claims."""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import Any

from cluster.commands import DEFAULT_STORAGE
from cluster.errors import UserError


def register(add: Any) -> None:
    """Adds the verbs of this file. add: see `cluster.cli`."""
    p = add("claims", _claims, "do the papers' claims hold? paired sweeps over seeds")
    p.add_argument("slugs", nargs="*", metavar="SLUG", help="papers; default: all that declare claims")
    p.add_argument(
        "--only", action="append", default=[], metavar="CLAIM", help="this claim alone; may be repeated"
    )
    p.add_argument("--seed", type=int, default=0, help="the first seed (0)")
    p.add_argument("--seeds", type=int, help="pairs of seeds for each claim (5, or what it asks for)")
    p.add_argument("--name", help="of the run; the same name goes on with one that was interrupted")
    p.add_argument("--storage", default=DEFAULT_STORAGE, help="folder or URI of the store")
    p.add_argument("--quiet", action="store_true", help="no progress")


def _claims(args: argparse.Namespace, rest: list[str]) -> int:
    from cluster.local import prepare_environment

    prepare_environment()
    from datetime import datetime

    from analysis import report
    from cluster import claims
    from cluster.display import make_display

    for field, value, low in (("--seed", args.seed, 0), ("--seeds", args.seeds, 2)):
        if value is not None and value < low:
            raise UserError(f"{field}={value}: must be at least {low}")
    words = [*rest, *(word for word in args.slugs if "=" in word)]
    allowed = ("cluster.", "cluster=", "data_dir=", "tracking", "budget.")
    odd = [word for word in words if not word.startswith(allowed)]
    if odd:
        raise UserError(f"claims: does not know {' '.join(odd)}; a claim fixes what it runs")
    name = args.name or f"claims-{datetime.now():%Y%m%d-%H%M%S}"
    slugs = claims.with_claims([word for word in args.slugs if "=" not in word])
    groups = claims.plan(slugs, name, args.storage, words, args.seed, args.seeds, args.only)

    def display() -> Any:
        return make_display(args.quiet or args.json)

    rows, state = claims.run(groups, name, args.storage, display)
    if args.json:
        report.print_json({"run": name, "state": state, "claims": rows})
    else:
        show_claims(rows)
        if state == "interrupted":
            print(f"resume   {shlex.join(['fairsweep', 'claims', *sys.argv[2:]])} --name {name}")
    return 130 if state == "interrupted" else 0


def show_claims(rows: list[dict[str, Any]]) -> None:
    """Prints verdicts as a table, and the statements below it."""
    from analysis import report
    from cluster.claims import statement

    shown = []
    for row in rows:
        low, high = row["ci_low"], row["ci_high"]
        interval = None if low is None else f"{report.number(low)} .. {report.number(high)}"
        shown.append({**row, "claimed": statement(row), "interval": interval})
    columns = ["paper", "claim", "claimed", "effect", "interval", "pairs", "verdict", "replication", "cost_s"]
    report.show_rows(shown, columns)
    counts = {v: sum(row["verdict"] == v for row in rows) for v in ("holds", "fails", "inconclusive")}
    print(", ".join(f"{n} {v}" for v, n in counts.items()))
    for row in rows:
        if row["pairs"] < row["seeds"]:
            print(f"note: {row['paper']}/{row['claim']}: {row['reason']}", file=sys.stderr)
