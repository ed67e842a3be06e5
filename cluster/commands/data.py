"""Data before anything is trained on them: data check, data template."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from fairsweep.cluster.errors import UserError


def register(add: Any) -> None:
    """Adds the verbs of this file. add: see `cluster.cli`."""
    p = add("data", _data, "sizes, columns, classes, parts and leaks of data, before anything is trained")
    p.add_argument(
        "action",
        choices=["check", "template"],
        help="check: read them and say what they are; template: write a small example of the layout of data=own",
    )
    p.add_argument("what", metavar="TASK|PAPER", help="who would read them")
    p.add_argument(
        "folder", nargs="?", metavar="FOLDER", type=Path, help="where they lie (data_dir), or will"
    )
    p.add_argument("--data", metavar="NAME", help="this data set alone")


def _data(args: argparse.Namespace, rest: list[str]) -> int:
    from fairsweep.analysis import report
    from fairsweep.trainables.base import DataError
    from fairsweep.trainables.data_check import check

    folder = args.folder and args.folder.expanduser()
    try:
        if args.action == "template":
            return _template(args, folder)
        found = check(args.what, folder, args.data)
    except DataError as error:
        raise UserError(str(error)) from None
    if args.json:
        report.print_json([checked.to_dict() for checked in found])
        return 0
    print("\n\n".join("\n".join(_lines(checked.to_dict())) for checked in found))
    return 0


def _template(args: argparse.Namespace, folder: Path | None) -> int:
    from fairsweep.analysis import report
    from fairsweep.trainables.data_check import template

    if args.data is not None:
        raise UserError(f"--data={args.data}: a template is of data=own; leave it out")
    task, folder, files = template(args.what, folder)
    if args.json:
        report.print_json({"task": task, "folder": str(folder), "files": files})
        return 0
    print(f"{folder}: {len(files)} files, README.md says what they are; replace the others by yours, then")
    print(f"  fairsweep data check {shlex.quote(task)} {shlex.quote(str(folder))}")
    return 0


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_words(n)}" for key, n in value.items())
    return f"{value:,}".replace(",", " ") if isinstance(value, int) and value >= 10_000 else str(value)


def _lines(about: dict[str, Any]) -> list[str]:
    """One data set as lines of text: a name, and what there is of it."""
    parts = [text for text in (_words(about["parts"]), about["drawn"]) if text]
    rows = [(name, _words(value)) for name, value in about["sizes"].items()]
    rows += [(f"column {name!r}", f"{kind}, {what}") for name, kind, what in about["columns"]]
    rows += [("parts", "; ".join(parts))] if parts else []
    rows += [(f"classes ({part})", _words(counts)) for part, counts in about["classes"].items()]
    rows += [("dropped", _words(about["dropped"]))] if about["dropped"] else []
    if about["leaks"] is not None:
        rows += [("leaks", text) for text in about["leaks"]] or [("leaks", "none found")]
    width = max(len(name) for name, _ in rows)
    where = f", {about['folder']}" if about["folder"] else ""
    head = f"data={about['data']}: {about['task']}{where}"
    return [head, *(f"  {name.ljust(width)}  {' '.join(text.split())}" for name, text in rows)]
