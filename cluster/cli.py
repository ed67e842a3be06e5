"""The command line. Answers go to standard output, progress to standard error; `--json` on all that answer.

Exit codes: 0 done, 1 the sweep or the store has a problem, 2 the request is wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.errors import UserError

DEFAULT_STORAGE = "fairsweep-store"
EPILOG = """examples:
  fairsweep run trainable=dagnn budget.trials=20 scheduler=asha
  fairsweep run trainable=biper space.omega.high=60 seeds=3 name=biper-omega
  fairsweep resume dagnn-20261124-101500 budget.trials=+20
  fairsweep best dagnn-20261124-101500 --json"""


def run_cli(argv: Sequence[str]) -> int:
    """Parses and runs one command; returns the exit code."""
    parser = _parser()
    args, rest = parser.parse_known_args(list(argv))
    if not args.command:
        parser.print_help()
        return 0
    if rest and args.command not in ("run", "nas", "resume", "claims"):
        print(
            f"fairsweep: error: {args.command}: does not know {' '.join(rest)}; see --help", file=sys.stderr
        )
        return 2
    from analysis.store import StoreError, SweepLocked, UnknownSweep
    from search_spaces.space import SpaceError
    from trainables.catalog import UnknownPaper

    try:
        return args.handle(args, rest)
    except (UserError, UnknownSweep, UnknownPaper, SpaceError, SweepLocked) as error:
        print(f"fairsweep: error: {_one_line(error)}", file=sys.stderr)
        return 2
    except StoreError as error:
        print(f"fairsweep: error: {_one_line(error)}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def _one_line(error: BaseException) -> str:
    return " ".join(str(error.args[0] if error.args else error).split())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fairsweep",
        description="Fair hyperparameter sweeps over published methods, on a laptop or a Ray cluster.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def add(
        name: str, handle: Any, text: str, json: bool = True, sweep: bool = False, hydra: bool = False
    ) -> Any:
        p = commands.add_parser(name, help=text, description=text, add_help=not hydra, allow_abbrev=False)
        p.set_defaults(handle=handle)
        if json:
            p.add_argument("--json", action="store_true", help="answer in JSON on standard output")
        if sweep:
            p.add_argument("sweep", help="name of the sweep (`fairsweep ls`)")
            p.add_argument("--storage", default=DEFAULT_STORAGE, help="folder or URI of the store")
        return p

    add("list", _list, "the papers that can be tuned")
    add("info", _info, "a paper: data sets, metrics, space, claims").add_argument("slug")
    p = add("run", _run, "run a sweep: fairsweep run trainable=<slug> [key=value ...]", hydra=True)
    p.add_argument(
        "--help", "-h", nargs="?", const="", metavar="GROUP", help="settings, or the options of a group"
    )
    p.add_argument("--cfg", choices=["job"], help="print the composed configuration and stop")
    p.add_argument("--quiet", action="store_true", help="no progress")
    p = add(
        "nas",
        _nas,
        "search for a network: fairsweep nas algorithm=<name> supernet=<kind> [key=value ...]",
        hydra=True,
    )
    p.add_argument(
        "--help", "-h", nargs="?", const="", metavar="GROUP", help="settings, or the options of a group"
    )
    p.add_argument("--cfg", choices=["job"], help="print the composed configuration and stop")
    p.add_argument("--quiet", action="store_true", help="no progress")
    p = add("resume", _resume, "go on with a sweep that ended in any way, or let it grow", sweep=True)
    p.add_argument("--quiet", action="store_true", help="no progress")
    p = add("ls", _ls, "the sweeps of a store")
    p.add_argument("--storage", default=DEFAULT_STORAGE, help="folder or URI of the store")
    add("show", _show, "a sweep: its trials, one a row", sweep=True)
    add("best", _best, "the best configuration of a sweep, over its seeds", sweep=True)
    p = add("export", _export, "write a table of a sweep to a file", sweep=True)
    p.add_argument("--format", choices=["parquet", "csv", "arrow"], default="parquet")
    p.add_argument(
        "--table", choices=["trials", "results", "sweeps", "claims", "architectures"], default="results"
    )
    p.add_argument("--output", "-o", help="file to write; default <sweep>-<table>.<format>")
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
    p = add("rank", _rank, "how well a trained supernet ranks the architectures of a table")
    p.add_argument("supernet", help="its key in the store (the first digits will do)")
    p.add_argument("--table", required=True, help="a table by name, or a .parquet file")
    p.add_argument("--storage", default=DEFAULT_STORAGE, help="folder or URI of the store")
    p.add_argument("--data-dir", help="folder with data sets in their public layouts")
    p.add_argument("--limit", type=int, help="so many of the table's architectures, drawn once")
    p.add_argument(
        "--recalibrate",
        type=int,
        metavar="IMAGES",
        help="training images from which each path takes its statistics (the scored batch)",
    )
    p = add("prune", _prune, "what of a network can be cut away", json=False)
    p.add_argument(
        "--explain",
        metavar="MODEL",
        required=True,
        help="a paper's slug, timm:NAME, torchvision:NAME or MODULE:FUNCTION",
    )
    p.add_argument("--input-shape", help="of one input, such as 3,224,224; a paper knows its own")
    p.add_argument("--data-dir", help="folder with data sets in their public layouts")
    p = add("bench", _bench, "tables of architectures that are each trained alone")
    p.add_argument("action", choices=["build-table"], help="build-table: train and write one")
    p.add_argument("protocol", help="which architectures, and how each is trained")
    p.add_argument(
        "--output", "-o", type=Path, help="Parquet file (<protocol>.parquet); trainings go on beside it"
    )
    p.add_argument("--data-dir", type=Path, help="folder with the data set in its public layout")
    p.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="trainings at a time (all cores)"
    )
    p.add_argument("--quiet", action="store_true", help="no progress")
    p = add("new-paper", _new_paper, "write the skeleton of a paper into this checkout")
    p.add_argument("slug")
    p.add_argument("--room", default="vision", help="folder of trainables/ (vision)")
    p.add_argument("--title", help="of the paper")
    p = add("space", _space, "a paper's search space for other tools", json=False)
    p.add_argument("slug")
    p.add_argument("--to", choices=["yaml", "optuna", "wandb"], default="yaml")
    return parser


# -- papers -------------------------------------------------------------------------------------------


def _list(args: argparse.Namespace, rest: list[str]) -> int:
    from analysis import report
    from trainables import catalog

    papers = [catalog.get(slug) for slug in catalog.slugs()]
    rows = [{"slug": p.slug, "task": p.task, "data": p.datasets[0], "title": p.title} for p in papers]
    if args.json:
        report.print_json(rows)
    else:
        report.show_rows(rows, ["slug", "task", "data", "title"])
    return 0


def _info(args: argparse.Namespace, rest: list[str]) -> int:
    from analysis import report
    from analysis.report import number
    from trainables import catalog

    paper = catalog.get(args.slug)
    space = paper.space()
    fidelity = paper.fidelity(space.paper_config(paper.datasets[0]))
    about = {
        "slug": paper.slug,
        "title": paper.title,
        "citation": paper.citation,
        "task": paper.task,
        "datasets": list(paper.datasets),
        "objective": paper.objective,
        "metrics": [{"name": m.name, "mode": m.mode, "split": m.split} for m in paper.metrics],
        "fidelity": {"unit": fidelity.unit, "minimum": fidelity.minimum, "maximum": fidelity.maximum},
        "claims": [c.statement for c in paper.claims],
        "space": space.to_mapping(),
    }
    if args.json:
        report.print_json(about)
        return 0
    print(f"{paper.slug}: {paper.title}\n{paper.citation}\n")
    print(f"task       {paper.task}\ndata sets  {', '.join(paper.datasets)}   (the first is the default)")
    print(f"objective  {paper.objective} ({paper.metric(paper.objective).mode})")
    print(f"metrics    {', '.join(f'{m.name} ({m.split})' for m in paper.metrics)}")
    print(f"fidelity   {fidelity.minimum} to {fidelity.maximum} x {fidelity.unit}")
    for claim in paper.claims:
        print(f"claim      {claim.statement}")
    rows = []
    for name, p in space.parameters.items():
        if p.kind == "boolean":
            domain = "true|false"
        elif p.choices:
            domain = "|".join(map(number, p.choices))
        else:
            domain = f"{number(p.low)} .. {number(p.high)}"
            if p.highs:
                domain += f" ({', '.join(f'{data}: {number(high)}' for data, high in p.highs.items())})"
        scale = "log" if p.log else f"step {p.step}" if p.step else None
        when = ", ".join(f"{k}={'|'.join(map(number, v))}" for k, v in p.when.items()) or None
        own = (
            ", ".join(number(v) if k == "default" else f"{k}: {number(v)}" for k, v in p.paper.items())
            or None
        )
        rows.append(
            {
                "parameter": name,
                "kind": p.kind,
                "range": f"= {number(p.value)}" if p.fixed else domain,
                "scale": scale,
                "paper": own,
                "when": when,
                "meaning": p.help or None,
            }
        )
    report.show_rows(rows, ["parameter", "kind", "range", "scale", "paper", "when", "meaning"])
    return 0


def _space(args: argparse.Namespace, rest: list[str]) -> int:
    import yaml

    from trainables import catalog

    paper = catalog.get(args.slug)
    space = paper.space()
    if args.to == "yaml":
        print(space.to_yaml(), end="")
        return 0
    space = space.for_data(paper.datasets[0])
    if args.to == "optuna":
        for name, distribution in space.distributions().items():
            print(f"{name}: {distribution}")
    else:
        sweep = space.to_wandb(paper.objective, paper.metric(paper.objective).mode, prefix="space.")
        print(yaml.safe_dump(sweep, sort_keys=False), end="")
    return 0


# -- sweeps -------------------------------------------------------------------------------------------


def _run(args: argparse.Namespace, rest: list[str]) -> int:
    from cluster import config

    if args.help is not None:
        return _run_help(args.help)
    return _composed(args, rest, config.load, lambda: _module("sweep"), _finished)


def _nas(args: argparse.Namespace, rest: list[str]) -> int:
    from cluster import nas_config

    if args.help is not None:
        return _run_help(args.help, "nas")
    return _composed(args, rest, nas_config.load, lambda: _module("nas"), _searched)


def _module(name: str) -> Any:
    """A module of this room that imports Ray, which reads its environment when it is imported."""
    import importlib

    from cluster.local import prepare_environment

    prepare_environment()
    return importlib.import_module(f"cluster.{name}")


def _composed(args: argparse.Namespace, rest: list[str], load: Any, job: Any, answer: Any) -> int:
    """Composes `rest`, shows it or runs it. load: its reader; job: gives the module that runs it."""
    flags = [word for word in rest if word.startswith("-")]
    if flags:
        raise UserError(
            f"{args.command}: does not know {' '.join(flags)}; settings are written key=value, see "
            f"{args.command} --help"
        )
    if args.cfg:
        print(load(rest).to_yaml(), end="")
        return 0
    module = job()
    from cluster.display import make_display

    return answer(module.run(load(rest), make_display(args.quiet or args.json)), args.json)


def _resume(args: argparse.Namespace, rest: list[str]) -> int:
    from cluster.local import prepare_environment

    prepare_environment()
    from cluster import nas, sweep
    from cluster.display import make_display

    changes = [word.removeprefix("storage=") for word in rest if word.startswith("storage=")]
    storage = changes[-1] if changes else args.storage
    words = [word for word in rest if not word.startswith("storage=")]
    display = make_display(args.quiet or args.json)
    if sweep.open_store(storage).read(args.sweep).sweep["paper"] == nas.SearchJob.slug:
        return _searched(nas.resume(storage, args.sweep, words, display), args.json)
    return _finished(sweep.resume(storage, args.sweep, words, display), args.json)


def _searched(result: Any, as_json: bool) -> int:
    """What a search found: the front, the networks that were trained alone, and where they lie."""
    from analysis import report
    from analysis.store import Store
    from cluster import nas_report

    store = Store(result.storage)
    rows = store.table("architectures", result.sweep).to_pylist()
    cost = nas_report.cost_of_front(store, result.sweep)
    front, alone = nas_report.front(rows, cost), nas_report.retrained(rows)
    if as_json:
        answer = {"sweep": result.sweep, "storage": result.storage, "state": result.state}
        report.print_json({**answer, "front": front, "retrained": alone})
    else:
        report.show_rows(front, nas_report.SHOWN, title=f"front of {len(rows)} scored: score against {cost}")
        report.show_rows(alone, nas_report.SHOWN, title="trained alone (95 % CI over seeds)")
        if alone and alone[0]["folder"]:
            print(f"best     {alone[0]['architecture']}\nmodel    {alone[0]['folder']}")
            print(f"drawing  {alone[0]['folder']}/{nas_report.DRAWING}")
        print(f"store    {result.storage}  (tables architectures, trials and results; run {result.sweep})")
    return _ended(result, as_json)


def _finished(result: Any, as_json: bool) -> int:
    from analysis import report
    from analysis.store import Store

    store = Store(result.storage)
    if as_json:
        answer = {"sweep": result.sweep, "storage": result.storage, "state": result.state}
        report.print_json({**answer, "best": _best_of(store, result.sweep)})
    else:
        _print_trials(store, result.sweep)
        best = _best_of(store, result.sweep)
        if best is not None:
            _print_best(best)
        print(f"store    {result.storage}  (tables results, trials and sweeps; sweep {result.sweep})")
    return _ended(result, as_json)


def _ended(result: Any, as_json: bool) -> int:
    """The exit code of a run, and how to go on with one that was interrupted."""
    if result.state == "interrupted":
        if not as_json:
            print(f"resume   fairsweep resume {result.sweep} --storage {result.storage}")
        return 130
    return 1 if result.state == "failed" else 0


def _ls(args: argparse.Namespace, rest: list[str]) -> int:
    from analysis import report

    store = _existing(args.storage)
    names = store.sweeps()
    table = {row["sweep"]: row for row in store.table("sweeps").to_pylist()} if names else {}
    rows = [table[name] for name in names if name in table]
    for row in rows:
        row["trials"] = store.table("trials", row["sweep"], columns=["trial"]).num_rows
    columns = ["sweep", "paper", "data", "state", "trials", "trials_budget", "seeds", "objective", "created"]
    if args.json:
        report.print_json([{c: row.get(c) for c in columns} for row in rows])
    elif not rows:
        print(f"{store.uri} has no sweeps yet")
    else:
        for row in rows:
            row["created"] = row["created"].strftime("%Y-%m-%d %H:%M") if row["created"] else None
        report.show_rows(rows, columns)
    return 0


def _show(args: argparse.Namespace, rest: list[str]) -> int:
    from analysis import report

    store = _existing(args.storage)
    if args.json:
        sweep = store.table("sweeps", args.sweep).to_pylist()[0]
        trials = store.table("trials", args.sweep).sort_by("number").to_pylist()
        report.print_json({"sweep": sweep, "trials": trials, "notes": store.notes(args.sweep)})
        return 0
    sweep = store.table("sweeps", args.sweep).to_pylist()[0]
    reports = store.table("results", args.sweep, columns=["trial"]).num_rows
    print(f"{args.sweep}: {sweep['title']} on {sweep['data']}, {sweep['state']}, {reports} reports")
    _print_trials(store, args.sweep)
    for note in store.notes(args.sweep):
        print(f"note: {note}", file=sys.stderr)
    return 0


def _print_trials(store: Any, sweep: str) -> None:
    import json

    from analysis import report
    from search_spaces.space import Space, SpaceError

    rows = store.table("trials", sweep).sort_by("number").to_pylist()
    row = store.table("sweeps", sweep).to_pylist()[0]
    try:
        import yaml

        space = Space.from_mapping(yaml.safe_load(row["space"]), source=sweep)
        fixed = [name for name, p in space.parameters.items() if p.fixed]
    except SpaceError:
        fixed = []
    for r in rows:
        r[row["objective"]] = r["value"]
        r["configuration"] = report.configuration(json.loads(r["config_json"]), fixed)
        if r["state"] not in ("failed", "interrupted"):
            r["reason"] = None
    metrics = [c for c in (rows[0] if rows else {}) if c.startswith("metric.")]
    columns = ["trial", "state", row["objective"], *metrics, "steps", "cost_s", "configuration", "reason"]
    report.show_rows(rows, [c for c in columns if c != f"metric.{row['objective']}"])


def _best(args: argparse.Namespace, rest: list[str]) -> int:
    from analysis import report

    store = _existing(args.storage)
    best = _best_of(store, args.sweep)
    for note in store.notes(args.sweep):
        print(f"note: {note}", file=sys.stderr)
    if best is None:
        print(f"fairsweep: error: {args.sweep} has no trial with a value yet", file=sys.stderr)
        return 1
    if args.json:
        report.print_json(best)
    else:
        _print_best(best)
    return 0


def _best_of(store: Any, sweep: str) -> dict[str, Any] | None:
    from analysis import statistics

    row = store.table("sweeps", sweep).to_pylist()[0]
    trials = store.table("trials", sweep)
    try:
        found = statistics.best(trials, row["mode"])
    except ValueError:
        return None
    if found is None:
        return None
    rows = [r for r in trials.sort_by("number").to_pylist() if r["config_id"] == found.config_id]
    import json

    return {
        "sweep": sweep,
        "config_id": found.config_id,
        "trials": [r["trial"] for r in rows],
        "complete": found.complete,
        "objective": row["objective"],
        "mode": row["mode"],
        "value": found.value.mean,
        "seeds": found.value.n,
        "ci95": found.value.ci95,
        "metrics": {
            name: {"mean": s.mean, "ci95": s.ci95, "n": s.n} for name, s in found.metrics.items() if s.n
        },
        "config": json.loads(rows[0]["config_json"]),
    }


def _print_best(best: dict[str, Any]) -> None:
    from analysis.report import number

    def spread(ci: Any) -> str:
        return f" (95 % CI {number(ci[0])} .. {number(ci[1])})" if ci else ""

    flag = "" if best["complete"] else "  (no configuration is complete; this one was stopped early)"
    print(
        f"best     {best['objective']} {number(best['value'])}{spread(best['ci95'])}, {best['seeds']} seed(s){flag}"
    )
    for name, s in best["metrics"].items():
        print(f"         {name} {number(s['mean'])}{spread(s['ci95'])}")
    print("config   " + " ".join(f"{k}={number(v)}" for k, v in best["config"].items()))


def _export(args: argparse.Namespace, rest: list[str]) -> int:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    from analysis import report

    store = _existing(args.storage)
    table = store.table(args.table, args.sweep)
    for note in store.notes(args.sweep):
        print(f"note: {note}", file=sys.stderr)
    path = Path(args.output or f"{args.sweep}-{args.table}.{args.format}")
    if not path.parent.is_dir():
        raise UserError(f"--output={path}: the folder {path.parent} does not exist")
    if args.format == "parquet":
        pa.parquet.write_table(table, path)
    elif args.format == "csv":
        pa.csv.write_csv(table, path)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    if args.json:
        report.print_json({"path": str(path), "rows": table.num_rows, "columns": table.column_names})
    else:
        print(f"{path}: {table.num_rows} rows, {table.num_columns} columns")
    return 0


def _existing(storage: str) -> Any:
    from cluster.sweep import locate, open_store

    if "://" not in storage and not Path(locate(storage)).is_dir():
        raise UserError(
            f"--storage={storage}: no such folder; `fairsweep run` makes one, --storage says where it is"
        )
    return open_store(storage)


# -- claims -------------------------------------------------------------------------------------------


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


def _rank(args: argparse.Namespace, rest: list[str]) -> int:
    from analysis import report
    from analysis.report import number
    from cluster import rank

    if args.limit is not None and args.limit < 10:
        raise UserError(f"--limit={args.limit}: must be at least 10")
    if args.recalibrate is not None and args.recalibrate < 2:
        raise UserError(f"--recalibrate={args.recalibrate}: must be at least 2")
    found = rank.rank(
        args.storage, args.supernet, args.table, args.data_dir, args.limit, recalibrate=args.recalibrate
    )
    if args.json:
        report.print_json(found)
        return 0
    rows = [
        {
            name: value
            if name == "by"
            else f"{number(value['value'])} ({number(value['ci95'][0])} .. {number(value['ci95'][1])})"
            for name, value in row.items()
        }
        for row in found["rankings"]
    ]
    about = f"{found['architectures']} architectures of {found['table']}, {found['metric']}, 95 % bootstrap intervals"
    report.show_rows(rows, list(rows[0]), title=about)
    if found["ceiling"] is not None:
        ceiling = found["ceiling"]
        low, high = ceiling["ci95"]
        print(
            f"ceiling  Kendall's tau of a perfect score against the mean of {ceiling['seeds']} seeds: "
            f"{number(ceiling['tau'])} ({number(low)} .. {number(high)})"
        )
    return 0


def _prune(args: argparse.Namespace, rest: list[str]) -> int:
    from rich.console import Console

    from analysis.report import WIDE
    from cluster.models import load_model
    from search_spaces.pruning import TraceError, partition
    from search_spaces.pruning.report import explain

    shape = None
    if args.input_shape is not None:
        try:
            shape = [int(n) for n in args.input_shape.split(",")]
        except ValueError:
            shape = []
        if not shape or min(shape) < 1:
            raise UserError(f"--input-shape={args.input_shape}: must be sizes, such as 3,224,224")
    model, inputs = load_model(args.explain, shape, args.data_dir)
    try:
        table = explain(partition(model, inputs), model)
    except TraceError as error:
        raise UserError(f"model={args.explain}: {error}") from None
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, WIDE)
    console.print(table)
    return 0


def _bench(args: argparse.Namespace, rest: list[str]) -> int:
    from rich.console import Console
    from rich.progress import track

    from analysis import report
    from cluster import config
    from trainables.tasks import truth_tables

    protocol = truth_tables.PROTOCOLS.get(args.protocol)
    if protocol is None:
        raise UserError(
            f"protocol={args.protocol}: no such table; {config.hint(args.protocol, list(truth_tables.PROTOCOLS))}"
        )
    if args.processes < 1:
        raise UserError(f"--processes={args.processes}: must be at least 1")
    path = args.output or Path(f"{protocol.name}.parquet")
    log, total = path.with_suffix(".jsonl"), len(protocol.trainings())
    try:
        done = len(truth_tables.read_log(log, protocol))
        rows = truth_tables.build_rows(protocol, log, args.data_dir, args.processes)
        shown = track(
            rows, f"{protocol.name}: trainings", total=total, completed=done,
            console=Console(stderr=True), disable=args.quiet or args.json,
        )  # fmt: skip
        for _ in shown:
            pass
    except ValueError as error:  # of data that are missing, too
        raise UserError(str(error)) from None
    table = truth_tables.write(protocol, truth_tables.read_log(log, protocol), path)
    about = {"path": str(path), "architectures": len(table), "trainings": total, "protocol": protocol.digest}
    if args.json:
        report.print_json(about)
    else:
        print(f"{path}: {len(table)} architectures of {table.space.id}, {protocol.seeds} seeds each")
    return 0


def _new_paper(args: argparse.Namespace, rest: list[str]) -> int:
    from analysis import report
    from cluster.new_paper import write

    files = [str(path) for path in write(args.slug, args.room, args.title, Path.cwd())]
    if args.json:
        report.print_json({"slug": args.slug, "files": files})
    else:
        print("\n".join(files))
        print(f"test it with  python -m pytest tests/trainables -k {args.slug}")
    return 0


# -- help ---------------------------------------------------------------------------------------------


# group -> the option whose settings `--help` shows
SHOWN = {
    "run": {"search": "tpe", "scheduler": "asha", "budget": "laptop", "cluster": "local"},
    "nas": {"algorithm": "evolution", "supernet": "cell", "cluster": "local"},
}
USAGE = {
    "run": (
        "fairsweep run trainable=<slug> [group=option ...] [key=value ...]",
        "space.<parameter>=<value>        fixes a parameter of the paper's space\n"
        "  space.<parameter>.high=<value>   changes its range (also low, log, step, choices)",
    ),
    "nas": (
        "fairsweep nas algorithm=<name> supernet=<kind> [group=option ...] [key=value ...]",
        "train.config.<parameter>=<value>     of the paper that trains the supernet (`fairsweep info pa_da`)\n"
        "  retrain.config.<parameter>=<value>   of the one that trains a network (`fairsweep info standalone`)",
    ),
}


def _run_help(group: str, command: str = "run") -> int:
    from cluster import config, nas_config

    groups = config.GROUPS if command == "run" else nas_config.GROUPS
    folder = Path(config.__file__).parent / "conf"
    if group and group not in groups:
        raise UserError(f"--help {group}: no such group; groups are {', '.join(groups)}")
    if group == "trainable":
        print("trainable=<slug>, one of:\n  " + "\n  ".join(config.group_options(group)))
        return 0
    if group:
        for option in config.group_options(group):
            print(f"== {group}={option}\n{(folder / group / f'{option}.yaml').read_text()}")
        return 0
    usage, more = USAGE[command]
    print(f"{usage}\n\ngroups ({command} --help GROUP says more):")
    for name in groups:
        print(f"  {name:<10} {' | '.join(config.group_options(name))}")
    print("\nsettings:")
    root = "config" if command == "run" else "nas"
    _, _, own = (folder / f"{root}.yaml").read_text().partition("\n\n")  # below the defaults list
    print("\n".join(f"  {line}" for line in own.splitlines()))
    for name, option in SHOWN[command].items():
        for line in (folder / name / f"{option}.yaml").read_text().splitlines():
            if not line.startswith("#"):
                print(f"  {name}.{line}")
    print(f"\n  {more}")
    print("\n--cfg job prints the composed configuration; --json answers in JSON; --quiet shows no progress.")
    return 0
