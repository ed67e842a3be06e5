"""Plots made of characters: what they say, how wide they are, what they are made of."""

from __future__ import annotations

import io
import math
import re
import sys
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from fairsweep.analysis import terminal
from fairsweep.analysis.plots.parts import domain
from fairsweep.analysis.statistics import summary
from fairsweep.analysis.terminal import Screen
from fairsweep.analysis.trade_offs import Point

PLAIN, ASCII = Screen(60), Screen(60, ascii=True)
COLOUR = re.compile("\x1b\\[[0-9;]*m")


def table(values: list[Any], states: Any = "complete", configs: Any = None) -> pa.Table:
    n = len(values)
    ends = [datetime(2026, 1, 1) + timedelta(seconds=k) for k in range(n)]
    return pa.table(
        {
            "number": pa.array(range(n), pa.int64()),
            "config_id": pa.array(configs or range(n), pa.int64()),
            "state": pa.array([states] * n if isinstance(states, str) else states, pa.string()),
            "value": pa.array(values, pa.float64()),
            "ended": pa.array(ends, pa.timestamp("us")),
            "cost_s": pa.array([30.0] * n, pa.float64()),
        }
    )


def body(plot: str) -> list[str]:
    """The cells within the frame, a row each."""
    rows = [COLOUR.sub("", line) for line in plot.splitlines()]
    width = next(len(line.rstrip()) for line in rows if line.startswith(("+-", "┌")))
    return [line[1 : width - 1] for line in rows if line[:1] in ("|", "│")]


def test_points_are_trials_and_the_line_never_gets_worse() -> None:
    values = [5.0, 4.0, 6.0, 2.0, 3.0, 1.0]
    states = ["complete", "complete", "pruned", "complete", "pruned", "complete"]
    plot = terminal.best_over(table(values, states), "loss", "min", ASCII)
    assert plot.splitlines()[0] == "loss (min) over trials that have ended; best 1"
    assert "++ stopped" in plot and "xx complete" in plot and "oo best so far" in plot
    rows = body(plot)
    assert sum(row.count("+") for row in rows) == 2
    at = [max(k for k, row in enumerate(rows) if row[c] == "o") for c in range(len(rows[0]))]
    assert at == sorted(at) and at[0] < at[-1] == len(rows) - 1
    rising = terminal.best_over(table(values, states), "accuracy", "max", ASCII)
    assert "best 5" in rising and "(max)" in rising  # the 6 was stopped early


def test_a_configuration_counts_once_all_of_its_seeds_are_complete() -> None:
    plot = terminal.best_over(table([1.0, 9.0, 4.0, 4.0], "complete", [0, 0, 1, 1]), "loss", "min", ASCII)
    assert "best 4" in plot
    half = terminal.best_over(
        table([1.0, None, 4.0, 4.0], ["complete", "failed"] * 2, [0, 0, 1, 1]), "l", "min", ASCII
    )
    assert "best 1" in half  # of none all are: then one is enough


@pytest.mark.parametrize("by", ["trials", "cost"])
@pytest.mark.parametrize(
    "values",
    [
        [0.5], [0.5, 0.5], [0.911, 0.923, 0.919], [1e5, 3e5, 1.0], [1e-9, 2e-9], [-3.0, -2.0], [1e300, -1e300, 0.0],
        [1e-300, 1e300, 5.0], [1.0, 2.0, 1e30], [None, math.nan, math.inf, 2.0], [123456.001, 123456.002],
        list(range(1, 3000)),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "screen", [Screen(24), Screen(60, True), Screen(100, False, True), Screen(60, True, True)]
)
def test_whatever_the_values_a_plot_is_as_wide_as_its_terminal(values: Any, by: str, screen: Screen) -> None:
    plot = terminal.best_over(table(values), "loss", "min", screen, by)
    lines = COLOUR.sub("", plot).splitlines()
    drawn = lines[1:-1] if "Drawn are" in lines[-1] else lines[1:]
    assert len(body(plot)) == screen.height and all(len(line) <= screen.width for line in drawn)
    assert (plot != COLOUR.sub("", plot)) == screen.colour
    assert plot.isascii() or not screen.ascii


def test_what_lies_far_off_is_drawn_at_the_edge_and_said() -> None:
    plot = terminal.best_over(table([1.0, 1.1, 0.9, 1.2, 0.95, 30.0]), "loss", "min", PLAIN)
    assert "1 value beyond the edge" in plot and not re.search(r"\b30\b", plot)
    many = terminal.best_over(table([float(k % 97) for k in range(5000)]), "loss", "min", PLAIN)
    assert "Drawn are 210 of 5,000" in many
    assert "logarithmic" in terminal.best_over(table([1.0, 10.0, 1000.0]), "loss", "min", PLAIN)


def test_an_axis_of_losses_that_diverged_has_ends() -> None:
    """Room beside 1e300 on a logarithmic axis went beyond all numbers: no report, no plot."""
    low, high = domain([1e-300, 1.0, 1e300], "min", True) or (0.0, 0.0)
    assert 0 < low < 1e-300 and 1e300 < high < math.inf


def test_without_a_value_it_says_so() -> None:
    none = terminal.best_over(table([None, math.nan], "failed"), "loss", "min", PLAIN)
    assert none == "2 trials have ended, none with a value"
    assert terminal.front([], {"a": "min", "b": "min"}, PLAIN) == "no configuration is complete yet"
    with pytest.raises(ValueError, match="by='steps': must be trials or cost"):
        terminal.best_over(table([1.0]), "loss", "min", PLAIN, "steps")


def test_a_front_has_its_points() -> None:
    def point(a: float, b: float, on: bool) -> Point:
        return Point(0, 1, {"a": summary([a]), "b": summary([b])}, 0.0, on, {})

    plot = terminal.front(
        [point(1, 3, True), point(3, 1, True), point(3, 3, False)], {"a": "min", "b": "max"}, ASCII
    )
    assert plot.splitlines()[0] == "b (max) over a (min)"
    rows = body(plot)
    assert (sum(r.count("x") for r in rows), sum(r.count("+") for r in rows)) == (2, 1)
    assert rows[0].index("x") == 0 and rows[0].rindex("+") > 40 and rows[-1].rindex("x") > 40


def test_bars_and_intervals_need_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uniplot", None)
    bars = terminal.bars(
        [("lr", 0.5), ("a_parameter_of_a_long_name.and_more", 0.25), ("ß", 0.0)], ASCII
    ).splitlines()
    lengths = [line.count("#") for line in bars]
    assert lengths[0] == pytest.approx(2 * lengths[1], abs=1) and lengths[2] == 0
    assert [line.rsplit(" ", 1)[1] for line in bars] == ["50%", "25%", "0%"]
    assert all(len(line) <= 60 and line.isascii() for line in bars) and bars[2].startswith("\\xdf ")
    rows = [("a", 0.8, (0.7, 0.9)), ("b", 0.5, None), ("c", None, None)]
    drawn = terminal.intervals(rows, ASCII).splitlines()
    a = drawn[0]
    assert a.index("|") < a.index("o") < a.rindex("|") == max(map(len, drawn)) - 1
    assert drawn[1] == "b o" and drawn[2].strip() == "c"
    assert drawn[3].split() == ["0.5", "0.9"]
    with pytest.raises(terminal.NoPlots, match=r"pip install 'fairsweep\[terminal\]' \(uniplot\)"):
        terminal.best_over(table([1.0]), "loss", "min", PLAIN)


def test_a_screen_is_what_the_terminal_says(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = Screen.of(Console(width=300, force_terminal=True, color_system="standard"))
    assert (wide.width, wide.colour) == (terminal.WIDEST, True)
    narrow = Screen.of(Console(width=7, file=io.TextIOWrapper(io.BytesIO(), "ascii")))
    assert (narrow.width, narrow.ascii, narrow.colour) == (terminal.NARROWEST, True, False)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not Screen.of(Console(force_terminal=True)).colour
