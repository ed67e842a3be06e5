"""The command line. Answers go to standard output, progress to standard error; `--json` on all that answer.

Exit codes: 0 done, 1 the sweep or the store has a problem, 2 the request is wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from fairsweep.cluster import DEFAULT_STORAGE
from fairsweep.cluster.commands import (
    agent,
    claims,
    compare,
    completion,
    dashboard,
    data,
    doctor,
    jobs,
    listing,
    local,
    manifests,
    networks,
    papers,
    reports,
    runs,
    serving,
    show,
    tables,
    upkeep,
)
from fairsweep.cluster.errors import DriverEnded, UserError
from fairsweep.cluster.jobs import submitted
from fairsweep.cluster.masking import masked_words, silenced

EPILOG = """examples:
  fairsweep run trainable=dagnn budget.trials=20 scheduler=asha
  fairsweep run trainable=biper space.omega.high=60 seeds=3 name=biper-omega
  fairsweep resume dagnn-20261124-101500 budget.trials=+20
  fairsweep best dagnn-20261124-101500 --json"""


def run_cli(argv: Sequence[str]) -> int:
    """Parses and runs one command; returns the exit code."""
    code = _run(argv)
    submitted.ended(code)
    return code


def _run(argv: Sequence[str]) -> int:
    parser = _parser()
    if "_ARGCOMPLETE" in os.environ:
        completion.complete(parser)
    args, rest = parser.parse_known_args(_store_as_its_verb_says(argv))
    args.verbs = tuple(completion.verbs(parser))
    if args.version:
        from fairsweep.cluster.jobs.provenance import revision

        print(f"fairsweep {revision()}")
        return 0
    if not args.command:
        parser.print_help()
        return 0
    if rest and args.command not in ("run", "nas", "resume", "claims", "compare", "agent", "wandb"):
        print(
            f"fairsweep: error: {args.command}: does not know {' '.join(masked_words(rest))}; see --help",
            file=sys.stderr,
        )
        return 2
    if "log_format" not in args or not (args.log_format or os.environ.get("FAIRSWEEP_LOG_FORMAT")):
        return _handled(args, rest, argv)
    from fairsweep.cluster import jsonlog  # brings Hydra

    try:
        args.log_json = jsonlog.wanted(args.log_format)
    except UserError as error:
        print(f"fairsweep: error: {error}", file=sys.stderr)
        return 2
    with jsonlog.as_lines() if args.log_json else contextlib.nullcontext():
        return _handled(args, rest, argv)


def _handled(args: argparse.Namespace, rest: list[str], argv: Sequence[str]) -> int:
    """Runs the verb of `argv`; the exit code. An error that is not a fault of ours is one line."""
    try:
        return args.handle(args, rest)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        code = _code(error)
        if code is None:
            raise
        print(f"fairsweep: error: {silenced(_one_line(error), argv)}", file=sys.stderr)
        return code


def _store_as_its_verb_says(argv: Sequence[str]) -> list[str]:
    """`argv` with the store as its verb takes it, `storage=` among settings, `--storage` elsewhere."""
    if argv[:1] in (["submit"], ["manifest"]):  # whose words are another verb's, which reads them itself
        return list(argv)
    words, composed = list(argv), bool({"run", "nas", "agent", "wandb"} & set(argv[:1]))
    found: list[str] = []
    while words:
        word = words.pop(0)
        if word == "--":
            return [*found, word, *words]
        if composed and (word.startswith("--storage=") or (word == "--storage" and words)):
            from fairsweep.search_spaces._parameter import hydra_word

            value = words.pop(0) if word == "--storage" else word.partition("=")[2]
            word = f"storage={hydra_word(value)}"
        elif not composed and word.startswith("storage="):
            word = f"--{word}"
        found.append(word)
    return found


def _code(error: Exception) -> int | None:
    """Exit code of an error that is answered in one line; None: it is a fault of ours."""
    # Imported here: to tell of a paper takes no store.
    from fairsweep.analysis.store import StoreError, SweepLocked, UnknownSweep
    from fairsweep.search_spaces.space import SpaceError
    from fairsweep.trainables.catalog import UnknownPaper

    if isinstance(error, (UserError, UnknownSweep, UnknownPaper, SpaceError, SweepLocked)):
        return 2
    return 1 if isinstance(error, (StoreError, DriverEnded)) else None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error.args[0] if error.args else error).split())


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with the words in one line, as all else does; argparse puts its usage in front."""

    def error(self, message: str) -> NoReturn:
        verb = self.prog.removeprefix("fairsweep").strip()
        if found := re.fullmatch(r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)", message):
            known = [word.strip("' ") for word in found[3].split(",")]
            said = f"{found[1]}={found[2]}" if found[1].startswith("-") else f"{verb} {found[2]}".strip()
            from fairsweep.cluster.checks import hint

            message = f"{said}: {hint(found[2], known)}"
        elif found := re.fullmatch("the following arguments are required: (.*)", message):
            message = f"{verb}: {found[1]} is missing; see `{self.prog} --help`"
        elif found := re.fullmatch(r"argument ([^\s/]+)\S*: invalid (int|float) value: '(.*)'", message):
            kind = "whole number" if found[2] == "int" else "number"
            message = f"{found[1]}={found[3]}: must be a {kind}"
        else:
            message = f"{verb}: {message.removeprefix('argument ')}; see `{self.prog} --help`".removeprefix(
                ": "
            )
        self.exit(2, f"fairsweep: error: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="fairsweep",
        description="Fair hyperparameter sweeps over published methods, on a laptop or a Ray cluster.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and stop")
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

    for family in (
        papers, data, runs, agent, listing, tables, show, reports, dashboard, serving, doctor, upkeep, claims, compare,
        networks, jobs, local, manifests, completion,
    ):  # fmt: skip
        family.register(add)
    return parser
