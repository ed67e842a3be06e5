"""What runs on Ray and can be taken up again: run, nas, resume."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from fairsweep.cluster.commands import compare, of_a_run, quiet
from fairsweep.cluster.commands.help import show_help
from fairsweep.cluster.commands.tables import existing, print_best, print_trials
from fairsweep.cluster.errors import DriverEnded, UserError
from fairsweep.cluster.masking import masked_uri

LONG = 50  # trials above which the end of a run does not print them all


def register(add: Any) -> None:
    """Adds the verbs of this file. add: see `cluster.cli`."""
    for name, handle, text in (
        ("run", _run, "run a sweep: fairsweep run trainable=<slug or file.py:name> [key=value ...]"),
        ("nas", _nas, "search for a network: fairsweep nas algorithm=<name> supernet=<kind> [key=value ...]"),
    ):
        p = add(name, handle, text, hydra=True)
        p.add_argument(
            "--help", "-h", nargs="?", const="", metavar="GROUP", help="settings, or the options of a group"
        )
        if name == "run":
            p.add_argument(
                "--fix", metavar="JSON", help='fix parameters at the values of an object, such as {"lr": 0.1}'
            )
        p.add_argument("--cfg", choices=["job"], help="print the composed configuration and stop")
        of_a_run(p)
    add("clean", _clean, "drop checkpoints of a finished sweep that only its growth would need", sweep=True)
    p = add("resume", _resume, "go on with a sweep that ended in any way, or let it grow", sweep=True)
    of_a_run(p)


def _run(args: argparse.Namespace, rest: list[str]) -> int:
    from fairsweep.cluster import config

    if args.help is not None:
        return show_help(args.help, "run")
    fixed = [] if args.fix is None else _fixed(args.fix)
    return _composed(args, [*rest, *fixed], config.load, lambda: _module("page", "service"), finished)


def _fixed(text: str) -> list[str]:
    """The overrides that fix parameters at the values of a JSON object, which come through as they are."""
    from fairsweep.cluster.service.sweep_words import TRIAL
    from fairsweep.search_spaces._parameter import hydra_word

    try:
        values = json.loads(text)
        assert isinstance(values, dict)
    except (ValueError, AssertionError):
        raise UserError(
            f'--fix={text}: must be a JSON object of parameters and values, such as {{"lr": 0.1}}'
        ) from None
    values.pop(TRIAL, None)  # W&B's agent gives it, too, in a sweep that our search decides
    for name, value in values.items():
        if isinstance(value, (dict, list)):
            raise UserError(f"--fix: {name}={json.dumps(value)}: must be a number, text, true, false or null")
    return [f"space.{name.removeprefix('space.')}={hydra_word(value)}" for name, value in values.items()]


def _nas(args: argparse.Namespace, rest: list[str]) -> int:
    from fairsweep.cluster.jobs.nas import config as nas_config

    if args.help is not None:
        return show_help(args.help, "nas")
    return _composed(args, rest, nas_config.load, lambda: _module("nas.search"), _searched)


def _module(name: str, room: str = "jobs") -> Any:
    """A module that imports Ray, which reads its environment when it is imported."""
    import importlib

    from fairsweep.cluster.engine.local import prepare_environment

    prepare_environment()
    return importlib.import_module(f"fairsweep.cluster.{room}.{name}")


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
    return answer(module.run(load(rest), display_of(args)), args.json)


def display_of(args: argparse.Namespace) -> Any:
    """The display that a run's flags ask for."""
    if args.log_json:
        from fairsweep.cluster import jsonlog

        return jsonlog.display(args.quiet)
    from fairsweep.cluster.display import make_display

    return make_display(quiet(args))


def _resume(args: argparse.Namespace, rest: list[str]) -> int:
    from fairsweep.cluster.engine.local import prepare_environment

    prepare_environment()
    from fairsweep.cluster.jobs.comparing import job
    from fairsweep.cluster.jobs.comparing.display import ComparisonDisplay, Lines
    from fairsweep.cluster.jobs.nas import search as nas
    from fairsweep.cluster.service import agent, page, searching
    from fairsweep.cluster.storage import open_store

    store = open_store(args.storage)
    if not store.has(args.sweep) and job.stored(store, args.sweep) is not None:
        shown = ComparisonDisplay() if quiet(args) else Lines()
        answer, state = job.resume(args.storage, args.sweep, rest, shown)
        return compare.ended(answer, state, args.sweep, args.storage, args.json)
    display = display_of(args)
    if nas.is_search(store, args.sweep):
        return _searched(nas.resume(args.storage, args.sweep, rest, display), args.json)
    if (path := searching.scheduled(store, args.sweep)) is not None:
        return finished(searching.resume(path, args.storage, display=display), args.json)
    if agent.is_agents(store, args.sweep):
        ended = agent.resume(args.storage, args.sweep, rest, display)
        return finished(ended.result, args.json, ended.problem)
    return finished(page.resume(args.storage, args.sweep, rest, display), args.json)


def _clean(args: argparse.Namespace, rest: list[str]) -> int:
    from fairsweep.analysis import report
    from fairsweep.cluster.engine.checkpoints import StorageFault
    from fairsweep.cluster.jobs.cleaning import clean

    try:
        found = clean(existing(args.storage), args.sweep)
    except StorageFault as fault:
        raise DriverEnded(str(fault)) from None
    if args.json:
        report.print_json({"dropped": found.dropped, "bytes": found.bytes, "kept": found.kept})
    else:
        mib = found.bytes / 2**20
        print(
            f"dropped the checkpoints of {len(found.dropped)} trials ({mib:.1f} MiB), kept {len(found.kept)}"
        )
    return 0


def _searched(result: Any, as_json: bool) -> int:
    """What a search found: the front, the networks that were trained alone, and where they lie."""
    from fairsweep.analysis import report
    from fairsweep.analysis.store import Store
    from fairsweep.cluster.jobs.nas import budget as nas_budget
    from fairsweep.cluster.jobs.nas import report as nas_report

    store, shown = Store(result.storage), masked_uri(result.storage)
    rows = store.table("architectures", result.sweep).to_pylist()
    cost = nas_report.cost_of_front(store, result.sweep)
    front, alone = nas_report.front(rows, cost), nas_report.retrained(rows)
    note = nas_report.note(store, result.sweep)
    if note is not None:
        print(f"note: {note}", file=sys.stderr)
    target = nas_budget.answer(nas_report.settings_of(store, result.sweep), rows)
    if as_json:
        answer = {"sweep": result.sweep, "storage": shown, "state": result.state, "note": note}
        report.print_json({**answer, "target": target, "front": front, "retrained": alone})
    else:
        report.show_rows(front, nas_report.SHOWN, title=f"front of {len(rows)} scored: score against {cost}")
        report.show_rows(alone, nas_report.SHOWN, title="trained alone (95 % CI over seeds)")
        if target is not None:
            print(f"target   {nas_budget.in_words(target)}")
        met = [row for row in rows if target is not None and row["number"] == target["number"]]
        for line in nas_report.where(met or front, alone):
            print(line)
        for key in nas_report.supernets(rows):
            print(f"supernet {key}  (fairsweep rank {key} --table ... --storage {shown})")
        print(f"store    {shown}  (tables architectures, trials and results; run {result.sweep})")
    return _ended(result, as_json)


def finished(result: Any, as_json: bool, problem: str = "") -> int:
    """Shows what a sweep came to; its exit code. problem: why it did not come further, though it has ended well."""
    from fairsweep.analysis import report
    from fairsweep.analysis.store import Store
    from fairsweep.cluster.jobs.best import best_of

    store, shown = Store(result.storage), masked_uri(result.storage)
    if as_json:
        answer = {"sweep": result.sweep, "storage": shown, "state": result.state}
        report.print_json({**answer, "best": best_of(store, result.sweep)})
    else:
        print_trials(store, result.sweep, LONG)
        best = best_of(store, result.sweep)
        if best is not None:
            print_best(best)
        trials = store.table("trials", result.sweep, columns=["number", "trial", "state", "reason"]).sort_by(
            "number"
        )
        failed = [t for t in trials.to_pylist() if t["state"] == "failed"]
        if failed:
            again = f"fairsweep resume {result.sweep} --storage {shown} retry=failed"
            print(f"failed   {len(failed)} of the trials; once more: {again}")
            if trials.num_rows > LONG:  # the table has left them out
                print(f"         the first is {failed[0]['trial']}: {failed[0]['reason']}")
        print(f"store    {shown}  (tables results, trials and sweeps; sweep {result.sweep})")
    if problem:
        print(f"fairsweep: error: {problem}", file=sys.stderr)
    return _ended(result, as_json) or int(bool(problem))


def _ended(result: Any, as_json: bool) -> int:
    """The exit code of a run, and how to go on with one that was interrupted."""
    if result.state == "interrupted":
        if not as_json:
            print(f"resume   fairsweep resume {result.sweep} --storage {masked_uri(result.storage)}")
        return 130
    return 1 if result.state == "failed" else 0
