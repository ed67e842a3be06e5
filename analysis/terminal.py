"""Plots made of characters: how a search went, a front, bars, intervals.

Scatter plots are drawn by uniplot (the extra `terminal`); bars and intervals need nothing. A plot is text of at most
`Screen.width` columns, in ASCII alone where the terminal's encoding is no Unicode, without colour where it is none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from fairsweep.analysis.plots.moments import COLUMNS, ENDED, best_so_far
from fairsweep.analysis.plots.parts import count, domain, is_log, sample
from fairsweep.analysis.report import number
from fairsweep.analysis.text import escaped

TO_INSTALL = "pip install 'fairsweep[terminal]' (uniplot)"
WIDEST, NARROWEST = 100, 24
LABEL = 0.3  # at most this share of the width names what a row is about
MARGIN = 12  # columns beside a plot: its frame and the numbers of the axis
FRAME = str.maketrans("┌┐└┘─│▁▔", "++++-|__")
COLOURS = {"other": "blue", "complete": "cyan", "best": "green", "front": "green"}


class NoPlots(ImportError):
    """The package that plots is not installed; says what to install."""


@dataclass(frozen=True)
class Screen:
    """What a terminal can show. width: columns; ascii: no other characters; colour: escape sequences of colours."""

    width: int = 80
    ascii: bool = False
    colour: bool = False
    height: int = 14

    @classmethod
    def of(cls, console: Any) -> Screen:
        """That of a `rich.console.Console`; as wide as it is, up to what is still read at a glance."""
        width = max(NARROWEST, min(console.width, WIDEST))
        ascii_only = console.options.ascii_only or not (console.encoding or "").lower().startswith("utf")
        return cls(width, ascii_only, console.is_terminal and not console.no_color)


@dataclass(frozen=True)
class _Points:
    label: str
    kind: str
    x: Sequence[float]
    y: Sequence[float]
    line: bool = False


def best_over(trials: pa.Table, objective: str, mode: str, screen: Screen, by: str = "trials") -> str:
    """The trials that have ended as points, and the best configuration so far as a line.

    by: "trials" that had ended, or "cost", minutes of training over all of them. A configuration counts for the line
    once it is complete under all its seeds, with their mean, as in `fairsweep best`. ValueError for another `by`;
    NoPlots without uniplot.
    """
    if by not in ("trials", "cost"):
        raise ValueError(f"by={by!r}: must be trials or cost")
    rows = [r for r in trials.select(list(COLUMNS)).to_pylist() if r["state"] in ENDED]
    rows.sort(key=lambda r: (r["ended"] is None, r["ended"] or 0, r["number"] or 0))
    moments, ended, cost = best_so_far(trials, mode)
    spent, at = 0.0, []
    for k, row in enumerate(rows, 1):
        spent += row["cost_s"] or 0.0
        at.append(float(k) if by == "trials" else spent / 60)
    known = [
        (x, r["value"], r["state"] == "complete")
        for x, r in zip(at, rows, strict=True)
        if r["value"] is not None and math.isfinite(r["value"])
    ]
    if not known:
        return f"{count(len(rows), 'trial has', 'trials have')} ended, none with a value"
    known.sort(key=lambda point: point[1] if mode == "min" else -point[1])
    most = screen.width * screen.height // 4  # more, and nothing is seen of how dense they are
    known, sampled = sample(known, most, most // 10)
    parts = [
        _Points("stopped", "other", *_columns([(x, y) for x, y, whole in known if not whole])),
        _Points("complete", "complete", *_columns([(x, y) for x, y, whole in known if whole])),
    ]
    if moments:
        steps = [(float(m.trials) if by == "trials" else m.cost_s / 60, m.mean) for m in moments]
        last = float(ended) if by == "trials" else cost / 60
        parts.append(_Points("best so far", "best", *_columns(_stairs(steps, last)), line=True))
    end = moments[-1].mean if moments else None
    way = "trials that have ended" if by == "trials" else "minutes of training, summed over trials"
    said = f"{objective} ({mode}) over {way}" + ("" if end is None else f"; best {number(end)}")
    return _plot(said, parts, mode, screen) + (f"\n{sampled.strip()}" if sampled else "")


def front(points: Sequence[Any], modes: Mapping[str, str], screen: Screen) -> str:
    """The first two objectives of a sweep's configurations, `analysis.trade_offs.Point`, and which are on its front."""
    (x, way), (y, mode) = list(modes.items())[:2]
    known = [(p.values[x].mean, p.values[y].mean, p.on_front) for p in points]
    known = [k for k in known if None not in k and all(map(math.isfinite, k[:2]))]
    if not known:
        return "no configuration is complete yet"
    parts = [
        _Points("configuration", "other", *_columns([k[:2] for k in known if not k[2]])),
        _Points("on the front", "front", *_columns([k[:2] for k in known if k[2]])),
    ]
    return _plot(f"{y} ({mode}) over {x} ({way})", parts, mode, screen)


def bars(rows: Sequence[tuple[str, float]], screen: Screen) -> str:
    """A bar a row, its length the share of the largest value, and the value as a percentage."""
    largest = max((v for _, v in rows), default=0.0) or 1.0
    names = _names([name for name, _ in rows], screen)
    room = screen.width - len(names[0]) - 7 if rows else 0
    block = "#" if screen.ascii else "█"
    lines = []
    for name, (_, value) in zip(names, rows, strict=True):
        bar = block * round(room * max(0.0, value) / largest)
        lines.append(f"{name} {_tinted(bar, 'complete', screen)} {value:.0%}")
    return "\n".join(lines)


def intervals(rows: Sequence[tuple[str, float | None, tuple[float, float] | None]], screen: Screen) -> str:
    """A line a row: its value with the ends of its interval, on one axis; rows of None are left empty."""
    ends = [v for _, value, ci in rows for v in (value, *(ci or ())) if v is not None and math.isfinite(v)]
    if not ends:
        return ""
    low, high = min(ends), max(ends)
    names = _names([name for name, _, _ in rows], screen)
    room = screen.width - len(names[0]) - 2

    def place(v: float) -> int:
        return min(room - 1, max(0, round((room - 1) * (v - low) / ((high - low) or 1.0))))

    line, left, right, dot = ("-", "|", "|", "o") if screen.ascii else ("─", "├", "┤", "●")
    lines = []
    for name, (_, value, ci) in zip(names, rows, strict=True):
        drawn = [" "] * room
        if ci is not None and all(map(math.isfinite, ci)):
            a, b = place(ci[0]), place(ci[1])
            drawn[a : b + 1] = [line] * (b - a + 1)
            drawn[a], drawn[b] = left, right
        if value is not None and math.isfinite(value):
            drawn[place(value)] = dot
        lines.append(f"{name} {_tinted(''.join(drawn).rstrip(), 'best', screen)}")
    first, last = number(low), number(high)
    axis = first + last.rjust(max(1, room - len(first))) if high > low else first
    return "\n".join([*lines, f"{' ' * len(names[0])} {axis}"])


def _names(names: Sequence[str], screen: Screen) -> list[str]:
    """`names`, one as wide as the other: what is too long loses its middle."""
    room = max(8, int(screen.width * LABEL))
    gap = ".." if screen.ascii else "…"
    shown = []
    for name in map(escaped, names):
        name = name.replace("\n", " ")
        if screen.ascii:
            name = name.encode("ascii", "backslashreplace").decode()
        if len(name) > room:
            tail = (room - len(gap)) // 2
            name = name[: room - len(gap) - tail] + gap + name[len(name) - tail :]
        shown.append(name)
    width = max(map(len, shown), default=0)
    return [name.ljust(width) for name in shown]


def _tinted(text: str, kind: str, screen: Screen) -> str:
    codes = {"blue": 34, "cyan": 36, "green": 32}
    return f"\x1b[{codes[COLOURS[kind]]}m{text}\x1b[0m" if screen.colour and text else text


def _columns(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [p[0] for p in pairs], [p[1] for p in pairs]


def _stairs(steps: Sequence[tuple[float, float]], last: float) -> list[tuple[float, float]]:
    """Corners of a line that keeps its value until the next step."""
    found = [steps[0]]
    for x, y in steps[1:]:
        found += [(x, found[-1][1]), (x, y)]
    return [*found, (max(last, found[-1][0]), found[-1][1])]


def _plot(title: str, parts: Sequence[_Points], mode: str, screen: Screen) -> str:
    try:
        from uniplot import plot_to_string
    except ImportError:
        raise NoPlots(f"plots: need a package to be drawn: {TO_INSTALL}") from None
    parts = [p for p in parts if p.x]
    y = [_near(v) for p in parts if not p.line for v in p.y]
    log = is_log(y, mode)
    low, high = domain(y, mode, log) or (0.0, 1.0)
    clipped = sum(1 for v in y if not low <= v <= high)
    power = 0 if log else _power(low, high)
    unit = 10.0**power
    drawn = plot_to_string(
        xs=[list(p.x) for p in parts],
        ys=[[min(max(_near(v), low), high) / unit for v in p.y] for p in parts],
        lines=[p.line for p in parts],
        y_as_log=log,
        y_min=low / unit,
        y_max=high / unit,
        width=max(10, screen.width - MARGIN),
        height=screen.height,
        line_length_hard_cap=screen.width,
        character_set="block" if screen.colour and not screen.ascii else "ascii",
        color=[COLOURS[p.kind] for p in parts] if screen.colour else False,
        legend_labels=[p.label for p in parts],
    )
    more = "; logarithmic" if log else f"; in units of 1e{power}" if power else ""
    more += f"; {count(clipped, 'value')} beyond the edge" if clipped else ""
    text = f"{escaped(title)}{more}\n{drawn.rstrip()}"
    return text.translate(FRAME).encode("ascii", "replace").decode() if screen.ascii else text


def _near(value: float) -> float:
    """`value` as far as its distances to others are numbers."""
    return min(max(value, -1e250), 1e250)


def _power(low: float, high: float) -> int:
    """The power of ten to divide an axis by so that its numbers are short; 0 for those that are."""
    size = max(abs(low), abs(high))
    power = math.floor(math.log10(size)) if size > 0 else 0
    return 0 if -4 <= power <= 4 else power
