"""What a sweep or a comparison came to: the verb show, as tables or as plots for a terminal."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from fairsweep.cluster.commands.compare import print_absent, print_answer
from fairsweep.cluster.commands.tables import existing, print_trials
from fairsweep.cluster.errors import UserError


def register(add: Any) -> None:
    """Adds the verbs of this file. add: see `cluster.cli`."""
    p = add("show", _show, "a sweep's trials, or a comparison's answer, as tables or plots", sweep=True)
    p.add_argument(
        "--plot",
        action="store_true",
        help="in place of the rows: the best so far over the trials, the front of several objectives, importance; of a"
        " comparison also its intervals",
    )
    p.add_argument("--by", choices=["trials", "cost"], help="what --plot has along; default trials")


def _show(args: argparse.Namespace, rest: list[str]) -> int:
    from fairsweep.analysis import report

    if args.by and not args.plot:
        raise UserError(f"--by={args.by}: is for --plot")
    if args.plot and args.json:
        raise UserError("--plot: is for people; --json has the values")
    store = existing(args.storage)
    if not store.has(args.sweep) and (code := _show_comparison(args, store)) is not None:
        return code
    sweep = store.table("sweeps", args.sweep).to_pylist()[0]
    if args.json:
        trials = store.table("trials", args.sweep).sort_by("number").to_pylist()
        report.print_json({"sweep": sweep, "trials": trials, "notes": store.notes(args.sweep)})
        return 0
    reports = store.table("results", args.sweep, columns=["trial"]).num_rows
    print(f"{args.sweep}: {sweep['title']} on {sweep['data']}, {sweep['state']}, {reports} reports")
    found = None
    if sweep.get("objectives"):
        from fairsweep.cluster.jobs.best import front_of

        found = front_of(store, args.sweep)
    if args.plot:
        print_plots(store, sweep, found, args.by or "trials")
    else:
        print_trials(store, args.sweep)
    if found is not None:
        on = [str(p.config_id) for p in found.best]
        print(f"front: configurations {', '.join(on)}" if on else "front: no configuration is complete yet")
    for note in store.notes(args.sweep):
        print(f"note: {note}", file=sys.stderr)
    return 0


def _show_comparison(args: argparse.Namespace, store: Any) -> int | None:
    """Shows the comparison of this name; None if there is none."""
    from fairsweep.analysis import report, terminal
    from fairsweep.analysis.comparing import answering
    from fairsweep.cluster.jobs.comparing import job

    found, spec = job.answered(store, args.sweep), job.stored(store, args.sweep)
    if found is None and spec is None:
        return None
    absent = [] if spec is None else [{"method": x.method, "why": x.why} for x in spec.left_out]
    if args.json:
        rows = store.derived("comparisons", args.sweep).to_pylist()
        said = None if found is None else answering.jsonable(found)
        report.print_json({"run": args.sweep, "answer": said, "rows": rows, "absent": absent})
        return 0
    if found is None:
        print(f"{args.sweep}: no repeat has ended yet")
        print_absent([(each["method"], each["why"]) for each in absent])
        return 0
    print_answer(found)
    if args.plot:
        screen = terminal.Screen.of(report.console())
        print(f"\n{found.metric} ({found.mode}), mean and 95 % interval over repeats")
        print(terminal.intervals([(s.method, s.value, s.ci95) for s in found.standings], screen))
    return 0


def print_plots(store: Any, sweep: dict[str, Any], front: Any, by: str) -> None:
    """The best so far, or the front of several objectives; then the importance of parameters, where it is known."""
    from fairsweep.analysis import terminal
    from fairsweep.analysis.report import console
    from fairsweep.cluster.jobs.importance import of_sweep

    screen = terminal.Screen.of(console())
    name = sweep["sweep"]
    try:
        if front is not None:
            print(terminal.front(front.points, front.modes, screen))
            return
        trials = store.table("trials", name)
        print(terminal.best_over(trials, sweep["objective"], sweep["mode"], screen, by))
    except terminal.NoPlots as error:
        raise UserError(f"--plot: {error}") from None
    try:
        said = of_sweep(store, name)
    except UserError:  # too few configurations: nothing to say of them
        return
    for each in said:
        rows = [(row["parameter"], row["importance"]) for row in each.rows if row["importance"] is not None]
        print(f"\n{each.sentence}\n{terminal.bars(rows, screen)}")
