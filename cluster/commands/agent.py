"""The two doors to W&B's sweeps: `agent` (W&B decides, Ray runs), `wandb` (our search decides, agents run)."""

from __future__ import annotations

import argparse
from typing import Any

from fairsweep.cluster import DEFAULT_STORAGE
from fairsweep.cluster.commands import examples, of_a_run
from fairsweep.cluster.commands.runs import display_of, finished
from fairsweep.cluster.errors import UserError


def register(add: Any) -> None:
    """Adds the verbs of this file. add: see `cluster.cli`."""
    p = add(
        "agent",
        _agent,
        "run a sweep of W&B's on Ray: fairsweep agent [ENTITY/PROJECT/]SWEEP_ID [key=value ...]",
    )
    p.add_argument("path", metavar="SWEEP_ID", help="of W&B's sweep, with its project and entity if need be")
    p.add_argument(
        "--parallel", type=int, metavar="N", help="runs at a time; default as many as the resources hold"
    )
    p.add_argument("--count", type=int, metavar="N", help="runs to take up; default as many as W&B has")
    of_a_run(p)
    examples(
        p,
        "fairsweep space dagnn --to wandb > sweep.yaml && wandb sweep --project P sweep.yaml",
        "fairsweep agent P/SWEEP_ID --parallel 8 --count 100 storage=my-store",
        "fairsweep agent ENTITY/P/SWEEP_ID trainable=train.py:train",
    )
    p = add(
        "wandb",
        _wandb,
        "search for a sweep of W&B's, which agents run: fairsweep wandb trainable=... [key=value ...]",
    )
    p.add_argument("path", metavar="SWEEP_ID", nargs="?", help="to go on with, instead of settings")
    p.add_argument("--parallel", type=int, metavar="N", help="runs that wait or run at a time; default 10")
    p.add_argument(
        "--poll", type=float, metavar="S", default=10.0, help="seconds between looks at them; at least 5"
    )
    of_a_run(p)
    examples(
        p,
        "fairsweep wandb trainable=dagnn search=tpe scheduler=median budget.trials=100 tracking.project=P",
        "fairsweep wandb P/SWEEP_ID",
    )


def _wandb(args: argparse.Namespace, rest: list[str]) -> int:
    _check(("--parallel", args.parallel))
    if not 5.0 <= args.poll < float("inf"):
        raise UserError(f"--poll={args.poll:g}: must be a number of at least 5, W&B's own limit")
    path: str | None = args.path
    words = list(rest)
    if path is not None and "=" in path:
        words.insert(0, path)
        path = None
    _check_words("wandb", words)
    if path is None and not words:
        raise UserError(
            "wandb: say what to search (trainable=<slug> ...), or the SWEEP_ID of a search to go on with"
        )
    storage = dict(word.partition("=")[::2] for word in words).get("storage", DEFAULT_STORAGE)
    if path is not None and [word for word in words if not word.startswith("storage=")]:
        raise UserError(
            f"wandb {path}: goes on with what it was made with; it takes storage= and no other setting"
        )
    from fairsweep.cluster.engine.local import prepare_environment

    prepare_environment()
    from fairsweep.cluster.service import searching

    display = display_of(args)
    if path is not None:
        return finished(searching.resume(path, storage, args.parallel, args.poll, display), args.json)
    return finished(searching.run(words, args.parallel, args.poll, display), args.json)


def _check(*flags: tuple[str, int | None]) -> None:
    for flag, value in flags:
        if value is not None and value < 1:
            raise UserError(f"{flag}={value}: must be a whole number of at least 1")


def _check_words(verb: str, words: list[str]) -> None:
    wrong = [word for word in words if word.startswith("-") or "=" not in word]
    if wrong:
        raise UserError(
            f"{verb}: does not know {' '.join(wrong)}; settings are written key=value, see {verb} --help"
        )


def _agent(args: argparse.Namespace, rest: list[str]) -> int:
    _check(("--parallel", args.parallel), ("--count", args.count))
    _check_words("agent", rest)
    from fairsweep.cluster.engine.local import prepare_environment

    prepare_environment()
    from fairsweep.cluster.service import agent

    display = display_of(args)
    answer = agent.run(args.path, rest, args.parallel, args.count, display)
    return finished(answer.result, args.json, answer.problem)
