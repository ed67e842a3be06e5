"""Networks: rank, prune, bench."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from fairsweep.cluster import DEFAULT_STORAGE
from fairsweep.cluster.commands import path
from fairsweep.cluster.errors import UserError


def register(add: Any) -> None:
    """Adds the verbs of this file. add: see `cluster.cli`."""
    p = add("rank", _rank, "how well a trained supernet ranks the architectures of a table")
    p.add_argument("supernet", help="its key in the store (the first digits will do)")
    p.add_argument("--table", type=path, required=True, help="a table by name, or a .parquet file")
    p.add_argument("--storage", default=DEFAULT_STORAGE, help="folder or URI of the store")
    p.add_argument("--data-dir", type=path, help="folder with data sets in their public layouts")
    p.add_argument("--limit", type=int, help="so many of the table's architectures, drawn once")
    p.add_argument(
        "--recalibrate",
        type=int,
        metavar="IMAGES",
        help="training images from which each path takes its statistics (the scored batch)",
    )
    p.add_argument(
        "--other-data", action="store_true", help="compare although the table is of another data set"
    )
    p = add("prune", _prune, "what of a network can be cut away", json=False)
    p.add_argument(
        "--explain",
        metavar="MODEL",
        required=True,
        help="a paper's slug, timm:NAME, torchvision:NAME or MODULE:FUNCTION",
    )
    p.add_argument("--input-shape", help="of one input, such as 3,224,224; a paper knows its own")
    p.add_argument("--data-dir", type=path, help="folder with data sets in their public layouts")
    p = add("bench", _bench, "tables of architectures that are each trained alone")
    p.add_argument("action", choices=["build-table"], help="build-table: train and write one")
    p.add_argument("protocol", help="which architectures, and how each is trained")
    p.add_argument(
        "--output", "-o", type=path, help="Parquet file (<protocol>.parquet); trainings go on beside it"
    )
    p.add_argument("--data-dir", type=path, help="folder with the data set in its public layout")
    p.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="trainings at a time (all cores)"
    )
    p.add_argument("--quiet", action="store_true", help="no progress")


def _rank(args: argparse.Namespace, rest: list[str]) -> int:
    from fairsweep.analysis import report
    from fairsweep.analysis.report import number
    from fairsweep.cluster.jobs import rank

    if args.limit is not None and args.limit < 10:
        raise UserError(f"--limit={args.limit}: must be at least 10")
    if args.recalibrate is not None and args.recalibrate < 2:
        raise UserError(f"--recalibrate={args.recalibrate}: must be at least 2")
    found = rank.rank(
        args.storage, args.supernet, args.table, args.data_dir, args.limit,
        recalibrate=args.recalibrate, other_data=args.other_data,
    )  # fmt: skip
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
    data = found["data"]
    print(
        f"data     supernet {found['supernet']} of {data['supernet']}, table of {data['table'] or 'it does not say'}"
    )
    if found["ceiling"] is not None:
        ceiling = found["ceiling"]
        low, high = ceiling["ci95"]
        print(
            f"ceiling  Kendall's tau of a perfect score against the mean of {ceiling['seeds']} seeds: "
            f"{number(ceiling['tau'])} ({number(low)} .. {number(high)})"
        )
    return 0


def _prune(args: argparse.Namespace, rest: list[str]) -> int:
    from fairsweep.analysis import report
    from fairsweep.cluster.jobs.models import load_model
    from fairsweep.search_spaces.pruning import TraceError, partition
    from fairsweep.search_spaces.pruning.report import explain

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
    report.console().print(table)
    return 0


def _bench(args: argparse.Namespace, rest: list[str]) -> int:
    from rich.progress import track

    from fairsweep.analysis import report
    from fairsweep.cluster import config
    from fairsweep.trainables.tasks import truth_tables

    protocol = truth_tables.PROTOCOLS.get(args.protocol)
    if protocol is None:
        raise UserError(
            f"protocol={args.protocol}: no such table; {config.hint(args.protocol, list(truth_tables.PROTOCOLS))}"
        )
    if args.processes < 1:
        raise UserError(f"--processes={args.processes}: must be at least 1")
    output = Path(args.output or f"{protocol.name}.parquet")
    if output.is_dir():
        raise UserError(f"--output={output}: is a folder; name the file too")
    log, total = output.with_suffix(".jsonl"), len(protocol.trainings())
    folder = Path(args.data_dir) if args.data_dir else None
    try:
        done = len(truth_tables.read_log(log, protocol))
        rows = truth_tables.build_rows(protocol, log, folder, args.processes)
        shown = track(
            rows, f"{protocol.name}: trainings", total=total, completed=done,
            console=report.console(stderr=True), disable=args.quiet or args.json,
        )  # fmt: skip
        for _ in shown:
            pass
    except ValueError as error:  # of data that are missing, too
        raise UserError(str(error)) from None
    table = truth_tables.write(protocol, truth_tables.read_log(log, protocol), output)
    about = {
        "path": str(output),
        "architectures": len(table),
        "trainings": total,
        "protocol": protocol.digest,
    }
    if args.json:
        report.print_json(about)
    else:
        print(f"{output}: {len(table)} architectures of {table.space.id}, {protocol.seeds} seeds each")
    return 0
