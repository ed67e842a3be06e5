"""Do the papers' claims hold? The verb claims."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from fairsweep.cluster import DEFAULT_STORAGE, masking
from fairsweep.cluster.commands import of_a_run, quiet
from fairsweep.cluster.errors import UserError

TRIALS = 8  # candidates of an arm where `--tuning-trials` does not say


def register(add: Any) -> None:
    """Adds the verbs of this file. add: see `cluster.cli`."""
    p = add("claims", _claims, "do the papers' claims hold? paired sweeps over seeds")
    p.add_argument("slugs", nargs="*", metavar="SLUG", help="papers, and key=value such as data_dir=FOLDER")
    p.add_argument("--all", action="store_true", help="all papers that declare claims (most of an hour)")
    p.add_argument(
        "--only", action="append", default=[], metavar="CLAIM", help="this claim alone; may be repeated"
    )
    p.add_argument("--seed", type=int, default=0, help="the first seed (0)")
    p.add_argument("--seeds", type=int, help="pairs of seeds for each claim (5, or what it asks for)")
    p.add_argument(
        "--tuned",
        action="store_true",
        help="tune each arm first, alike and on validation data, under other seeds",
    )
    p.add_argument(
        "--tuning-trials", type=int, metavar="N", help=f"configurations of an arm, with --tuned ({TRIALS})"
    )
    p.add_argument("--name", help="of the run; the same name goes on with one that was interrupted")
    p.add_argument(
        "--report", action="append", default=[], metavar="RUN",
        help="run nothing: a Markdown table of this run's verdicts; further ones are counted beside it",
    )  # fmt: skip
    p.add_argument("--storage", default=DEFAULT_STORAGE, help="folder or URI of the store")
    of_a_run(p)


def _claims(args: argparse.Namespace, rest: list[str]) -> int:
    from fairsweep.cluster.engine.local import prepare_environment

    prepare_environment()
    from datetime import datetime

    from fairsweep.analysis import report
    from fairsweep.analysis.claims_report import markdown
    from fairsweep.cluster.jobs import claims
    from fairsweep.cluster.storage import open_store

    for field, value, low in (
        ("--seed", args.seed, 0),
        ("--seeds", args.seeds, 2),
        ("--tuning-trials", args.tuning_trials, 2),
    ):
        if value is not None and value < low:
            raise UserError(f"{field}={value}: must be at least {low}")
    if args.tuning_trials is not None and not args.tuned:
        raise UserError(f"--tuning-trials={args.tuning_trials}: goes with --tuned")
    words = [*rest, *(word for word in args.slugs if "=" in word)]
    given = [word.removeprefix("name=") for word in words if word.startswith("name=")]
    words = [word for word in words if not word.startswith("name=")]
    if len({*given, *filter(None, [args.name])}) > 1:
        raise UserError(f"name={given[-1]}: the run is named twice; once is enough")
    allowed = ("cluster.", "cluster=", "data_dir=", "tracking", "metrics.", "budget.")
    odd = [word for word in words if not word.startswith(allowed)]
    if odd:
        raise UserError(f"claims: does not know {' '.join(odd)}; a claim fixes what it runs")
    slugs = [word for word in args.slugs if "=" not in word]
    if args.report:
        runs = claims.recorded(open_store(args.storage), args.report)
        runs = [[row for row in rows if not slugs or row["paper"] in slugs] for rows in runs]
        if args.json:
            report.print_json(dict(zip(args.report, runs, strict=True)))
        else:
            print(markdown(runs))
        return 0
    name = args.name or next(iter(given), f"claims-{datetime.now():%Y%m%d-%H%M%S}")
    tuned = (args.tuning_trials or TRIALS) if args.tuned else 0
    chosen = claims.with_claims(slugs, args.all)
    groups = claims.plan(chosen, name, args.storage, words, args.seed, args.seeds, args.only, tuned)

    rows, state = claims.run(groups, name, args.storage, quiet(args))
    if args.json:
        report.print_json({"run": name, "state": state, "claims": rows})
    else:
        show_claims(rows)
        if state == "interrupted":
            named = [] if given or args.name else ["--name", name]
            print(f"resume   {masking.command(['fairsweep', 'claims', *sys.argv[2:], *named])}")
    return 130 if state == "interrupted" else 0


def show_claims(rows: list[dict[str, Any]]) -> None:
    """Prints verdicts as a table, and what was left out of them below it."""
    from fairsweep.analysis import claims_report, report

    shown = [
        {
            **row,
            "claimed": claims_report.claimed(row),
            "interval": claims_report.interval(row),
            "direction": row["direction_verdict"],
            "size": row["size_verdict"],
            "again": row["size_replication"],
        }
        for row in rows
    ]
    columns = [
        "paper",
        "claim",
        "effect",
        "interval",
        "pairs",
        "direction",
        "claimed",
        "origin",
        "size",
        "again",
    ]
    report.show_rows(shown, columns)
    for which in ("direction", "size"):
        print(f"{which}: {claims_report.counts(rows, f'{which}_verdict')}")
    for row in rows:
        if row["pairs"] < row["seeds"]:
            print(f"note: {row['paper']}/{row['claim']}: {row['reason']}", file=sys.stderr)
