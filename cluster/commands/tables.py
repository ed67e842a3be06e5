"""What a store holds: best, importance, export."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from fairsweep.cluster.commands import path
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.masking import masked_uri


def register(add: Any) -> None:
    """Adds the verbs of this file. add: see `cluster.cli`."""
    add("best", _best, "the best configuration of a sweep, over its seeds", sweep=True)
    p = add(
        "importance", _importance, "how much of what a sweep saw follows from which parameter", sweep=True
    )
    p.add_argument(
        "--method",
        default="fanova",
        help="fanova (of the variance over the space; default) or ped_anova (of being among the best)",
    )
    p.add_argument("--metric", help="of this objective only (each)")
    p.add_argument(
        "--step",
        help="compare values here, or at the `end` (the highest step that 4 of 5 configurations reached)",
    )
    p.add_argument("--quantile", type=float, default=0.1, help="of ped_anova: who is among the best (0.1)")
    p.add_argument("--region", type=float, default=1.0, help="of ped_anova: among which best (1: all)")
    p = add("export", _export, "write a table of a sweep to a file", sweep=True)
    p.add_argument(
        "--format",
        choices=["parquet", "csv", "arrow", "optuna"],
        default="parquet",
        help="of the file; optuna: a study, for optuna-dashboard and Optuna's own plots",
    )
    p.add_argument(
        "--table",
        choices=["trials", "results", "sweeps", "claims", "architectures", "comparisons"],
        help="which table; default results, of a comparison comparisons (a study is of trials and results)",
    )
    p.add_argument(
        "--output",
        "-o",
        type=path,
        help="file to write; default <sweep>-<table>.<format>. A study: SQLite, default <sweep>.db; a journal if it"
        " ends in .log; or the URL of a database; beside other studies",
    )


def print_trials(store: Any, sweep: str, most: int | None = None) -> None:
    """Prints the trials of a sweep in their order; where there are more than `most`, the ten best, best first."""
    from fairsweep.analysis import report
    from fairsweep.search_spaces.space import Space, SpaceError

    rows = store.table("trials", sweep).sort_by("number").to_pylist()
    row = store.table("sweeps", sweep).to_pylist()[0]
    of_all = len(rows)
    if most is not None and of_all > most:
        rows = _best_rows(rows, row["mode"])
    try:
        space = Space.from_yaml(row["space"], source=sweep, papers=False)
        fixed = [name for name, p in space.parameters.items() if p.fixed]
    except SpaceError:
        fixed = []
    for r in rows:
        r[row["objective"]] = r["value"]
        r["configuration"] = report.configuration(json.loads(r["config_json"]), fixed)
        if r["state"] not in ("failed", "interrupted"):
            r["reason"] = None
    metrics = [c for c in (rows[0] if rows else {}) if c.startswith("metric.")]
    origin = ["parent", "parent_step"] if any(r["parent"] for r in rows) else []
    columns = [
        "trial",
        *origin,
        "state",
        row["objective"],
        *metrics,
        "steps",
        "cost_s",
        "configuration",
        "reason",
    ]
    report.show_rows(rows, [c for c in columns if c != f"metric.{row['objective']}"])
    if len(rows) < of_all:
        shown = masked_uri(store.uri)
        print(f"The {len(rows)} best of {of_all} trials. All: fairsweep show {sweep} --storage {shown}\n")


def _best_rows(rows: list[dict[str, Any]], mode: str, most: int = 10) -> list[dict[str, Any]]:
    """Complete trials before those that were stopped, then by value; those that failed or have no value are none."""
    sign = 1.0 if mode == "min" else -1.0
    valued = [r for r in rows if r["value"] is not None and r["state"] != "failed"]
    return sorted(valued, key=lambda r: (r["state"] != "complete", sign * r["value"], r["number"]))[:most]


def _best(args: argparse.Namespace, rest: list[str]) -> int:
    from fairsweep.analysis import report

    store = existing(args.storage)
    from fairsweep.cluster.jobs.best import best_of  # SciPy with it: after what can be refused

    best = best_of(store, args.sweep)
    for note in store.notes(args.sweep):
        print(f"note: {note}", file=sys.stderr)
    if best is None:
        print(f"fairsweep: error: {args.sweep} has no trial with a value yet", file=sys.stderr)
        return 1
    if args.json:
        report.print_json(best)
    else:
        print_best(best)
    return 0


def _importance(args: argparse.Namespace, rest: list[str]) -> int:
    from fairsweep.analysis import report
    from fairsweep.cluster.jobs.importance import asked, of_sweep

    step, measure = asked(args.step, args.method, args.quantile, args.region)
    said = of_sweep(existing(args.storage), args.sweep, step, measure, args.metric)
    if args.json:
        report.print_json(
            {"sweep": args.sweep, "method": measure.method, "objectives": [s.to_json() for s in said]}
        )
        return 0
    columns = [
        "parameter",
        "other",
        "importance",
        "low",
        "high",
        "first",
        "configurations",
        "conditions",
        "reason",
    ]
    for s in said:
        print(s.sentence)
        report.show_rows(s.rows, columns)
        if shown := [pair for pair in s.pairs if pair["importance"] > 0.02][:5]:
            report.show_rows(shown, columns, title="two together, beyond each alone")
        for note in s.notes:
            print(f"note: {note}", file=sys.stderr)
    print(
        "low, high: 95 % of the importances of resampled configurations; first: in how many of them it is the first"
    )
    return 0


def print_front(best: dict[str, Any]) -> None:
    """A front as `best_of` has it: a row a configuration, and the hypervolume with its reference."""
    from fairsweep.analysis import report
    from fairsweep.analysis.report import number

    rows = []
    for point in best["front"]:
        row = {"config": point["config_id"], "seeds": point["seeds"]}
        for name, s in point["metrics"].items():
            ci = s["ci95"]
            row[name] = (
                s["mean"] if ci is None else f"{number(s['mean'])} ({number(ci[0])} .. {number(ci[1])})"
            )
        rows.append({**row, "configuration": report.configuration(point["config"])})
    said = ", ".join(f"{name} {mode}" for name, mode in best["objectives"].items())
    title = f"front of {best['configurations']} configurations ({said}); intervals are 95 % over seeds"
    report.show_rows(rows, list(rows[0]), title=title)
    if best["hypervolume"] is None:
        print(f"no configuration keeps {json.dumps(best['constraints'])}; these break it least")
    else:
        reference = ", ".join(f"{n}={number(v)}" for n, v in best["reference"].items())
        print(
            f"hypervolume {number(best['hypervolume'])} beyond {reference} (the worst of all configurations)"
        )


def print_best(best: dict[str, Any]) -> None:
    """The best configuration, or the front, as `best_of` has it."""
    from fairsweep.analysis.report import number

    if "front" in best:
        print_front(best)
        return

    def spread(ci: Any) -> str:
        return f" (95 % CI {number(ci[0])} .. {number(ci[1])})" if ci else ""

    flag = ""
    if best["completed"] and not best["complete"]:
        of = f"{best['completed']} of its {len(best['trials'])} seeds"
        flag = f"  (no configuration is complete with all of its seeds; of this one {of})"
    elif not best["complete"]:
        flag = "  (no configuration is complete; this one was stopped early)"
    print(
        f"best     {best['objective']} {number(best['value'])}{spread(best['ci95'])}, {best['seeds']} seed(s){flag}"
    )
    for name, s in best["metrics"].items():
        print(f"         {name} {number(s['mean'])}{spread(s['ci95'])}")
    stopped = best.get("stopped")
    if stopped:
        where = f"{stopped['trial']} had {number(stopped['value'])} when it was stopped at step {stopped['steps']}"
        print(f"         ({where}; only complete configurations are compared)")
    before: dict[str, Any] = {}
    for part in best.get("lineage") or [{"config": best["config"]}]:
        where = f"{part['trial']}, steps {part['first']} to {part['last']}: " if "trial" in part else ""
        said = {k: v for k, v in part["config"].items() if k not in before or before[k] != v}
        print("config   " + where + " ".join(f"{k}={number(v)}" for k, v in said.items()))
        before = part["config"]


def _export(args: argparse.Namespace, rest: list[str]) -> int:
    import pyarrow as pa
    import pyarrow.csv

    from fairsweep.analysis import report
    from fairsweep.analysis.store import write_parquet

    store = existing(args.storage)
    if args.format == "optuna":
        return _export_study(args, store)
    one = store.has(args.sweep)
    compared = not one and store.derived("comparisons", args.sweep).num_rows > 0
    which = args.table or ("comparisons" if compared else "results")
    table = store.table(which, args.sweep)
    if not table.num_rows and not one:
        raise store.unknown(args.sweep)
    for note in store.notes(args.sweep) if one else ():
        print(f"note: {note}", file=sys.stderr)
    name = f"{args.sweep}-{which}.{args.format}"
    file = Path(args.output or name)
    if file.is_dir():
        raise UserError(f"--output={file}: is a folder; name the file too, such as {file / name}")
    if not file.parent.is_dir():
        raise UserError(f"--output={file}: the folder {file.parent} does not exist")
    try:
        if args.format == "parquet":
            write_parquet(table, file)
        elif args.format == "csv":
            pa.csv.write_csv(table, file)
        else:
            with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
    except OSError as error:
        raise UserError(f"--output={file}: cannot be written ({error.strerror or error})") from None
    if args.json:
        report.print_json({"path": str(file), "rows": table.num_rows, "columns": table.column_names})
    else:
        print(f"{file}: {table.num_rows} rows, {table.num_columns} columns")
    return 0


def _export_study(args: argparse.Namespace, store: Any) -> int:
    if args.table:
        raise UserError(f"--table={args.table}: a study has trials with their reports; leave it out")
    from fairsweep.analysis import report
    from fairsweep.cluster.jobs import studies

    where = args.output or f"{args.sweep}.db"
    states = studies.export(store, args.sweep, where)
    for note in store.notes(args.sweep):
        print(f"note: {note}", file=sys.stderr)
    trials = sum(states.values())
    if args.json:
        report.print_json(
            {"path": masked_uri(where), "study": args.sweep, "trials": trials, "states": states}
        )
        return 0
    said = ", ".join(f"{count} {state}" for state, count in states.items() if count)
    print(f"{masked_uri(where)}: study {args.sweep}, {trials} trials ({said or 'none yet'})")
    return 0


def existing(storage: str) -> Any:
    from fairsweep.cluster import storage as stores

    return stores.existing(storage, "--storage")
