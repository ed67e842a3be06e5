"""Tables for people and machines, from the store's Arrow tables."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

WIDE = 160  # columns where no terminal says how many there are
LONG = 100  # rows above which a table is not laid out by Rich, which takes half a millisecond for each
NO_WRAP = (
    "trial",
    "state",
    "sweep",
    "slug",
    "parameter",
    "paper",
    "claim",
    "claimed",
    "interval",
    "direction",
    "size",
)


def number(value: Any) -> str:
    """A value as a table shows it: four significant figures, blank for nothing."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else str(value)
    return str(value)


def console(**options: Any) -> Console:
    """A console that shows text as it is: nothing in it is markup, an emoji's name or worth a colour.

    Errors, choices and paths come from outside, and Rich reads `[/data/images]` as a closing tag. Every console of
    fairsweep is made here. options: those of `rich.console.Console`.
    """
    made = Console(**{"markup": False, "emoji": False, "highlight": False, **options})
    if not made.is_terminal and "width" not in options:
        made.width = max(made.width, WIDE)
    return made


def show_rows(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    title: str | None = None,
    on: Console | None = None,
) -> None:
    """Prints `columns` of `rows` as a table; columns that are empty everywhere are left out. on: see `console`."""
    kept = [c for c in columns if any(row.get(c) is not None for row in rows)]
    on = on or console()
    if title is None and len(rows) > LONG and (text := _laid_out(rows, kept, on.width)):
        on.out(text, highlight=False)
        return
    table = Table(title=title, box=box.SIMPLE, title_justify="left", pad_edge=False)
    for column in kept:
        numeric = _numeric(rows, column)
        table.add_column(
            column.removeprefix("metric."),
            justify="right" if numeric else "left",
            no_wrap=numeric or column in NO_WRAP,
        )
    for row in rows:
        table.add_row(*(number(row.get(c)) for c in kept))
    on.print(table)


def _numeric(rows: Sequence[Mapping[str, Any]], column: str) -> bool:
    return all(isinstance(row.get(column), (int, float)) or row.get(column) is None for row in rows)


def _laid_out(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], width: int) -> str:
    """The lines that Rich makes of a table on a file; "" where one would be wrapped or holds what is no plain text."""
    parts: list[list[str]] = []
    for column in columns:
        cells = [column.removeprefix("metric."), *(number(row.get(column)) for row in rows)]
        if not all(map(str.isprintable, cells)):
            return ""
        wide = [cell_len(cell) for cell in cells]
        most, right = max(wide), _numeric(rows, column)
        width -= most + (3 if parts else 2)
        blanks = [" " * (most - n) for n in wide]
        parts.append([b + c if right else c + b for b, c in zip(blanks, cells, strict=True)])
    if width < 0 or not parts:
        return ""
    head, *lines = (f" {'   '.join(cells)} " for cells in zip(*parts, strict=True))
    blank = " " * cell_len(head)
    return "\n".join([blank, head, f" {'─' * (cell_len(head) - 2)} ", *lines, blank])


def configuration(config: Mapping[str, Any], hidden: Iterable[str] = ()) -> str:
    """`config` in one cell: name=value, without the parameters in `hidden`."""
    left_out = set(hidden)
    return " ".join(f"{name}={number(value)}" for name, value in config.items() if name not in left_out)


def jsonable(value: Any) -> Any:
    """`value` with times as ISO strings and NaN as null, so that `json.dumps` gives standard JSON."""
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return value


def print_json(value: Any) -> None:
    """Prints `value` as JSON to standard output."""
    print(json.dumps(jsonable(value), indent=2, sort_keys=False))
