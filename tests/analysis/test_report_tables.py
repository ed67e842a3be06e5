"""Tables for people: a long one reads as a short one does."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import pytest
from rich.table import Table

from fairsweep.analysis import report


def shown(rows: list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    on = report.console(file=io.StringIO())
    report.show_rows(rows, columns, on=on)
    return on.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def table(**more: Mapping[int, Any]) -> list[dict[str, Any]]:
    rows = [
        {"trial": f"{k:05d}-0", "state": "complete", "value": k / 7 - 3, "metric.test": None if k % 3 else k * 1e9,
         "on": k % 2 == 0, "configuration": "x=1 kind=日本" if k % 5 else "", "never": None}
        for k in range(30)
    ]  # fmt: skip
    for name, cells in more.items():
        for k, cell in cells.items():
            rows[k][name] = cell
    return rows


@pytest.mark.parametrize(
    "rows",
    [
        table(),
        table(reason={3: "it is too long for a line: " + "no " * 60}),
        table(reason={3: "two\nlines", 4: "a\tb"}),
        table(reason={7: "[bold]no markup[/bold] :smile:"}),
        [{"trial": "one"}] * 30,
    ],
)
def test_a_long_table_reads_as_rich_lays_it_out(
    monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]]
) -> None:
    by_rich = shown(rows)
    monkeypatch.setattr(report, "LONG", 20)
    assert shown(rows) == by_rich and len(by_rich.splitlines()) >= 34


def test_a_long_table_is_not_laid_out_by_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "LONG", 20)
    monkeypatch.setattr(Table, "add_row", lambda *cells: pytest.fail("a millisecond a row"))
    assert len(shown(table()).splitlines()) == 34
