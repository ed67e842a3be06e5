"""Which values did well together: parallel coordinates, the contour of two parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from fairsweep.analysis.plots.dimensions import CONFIG, Dimension, said, valued
from fairsweep.analysis.plots.figure import Figure, table
from fairsweep.analysis.plots.parts import (
    NAMES,
    base,
    beyond,
    count,
    field,
    number,
    sample,
    scale,
    stacked,
    tips,
)
from fairsweep.analysis.plots.search import BETTER

LINES, BRIGHT, CELLS = 200, 20, 12
SIDES = {
    "left": "datum.place < 0.05",
    "center": "datum.place >= 0.05 && datum.place <= 0.95",
    "right": "datum.place > 0.95",
}


def parallel(trials: pa.Table, dims: Sequence[Dimension], objective: str, mode: str) -> Figure:
    """Parallel coordinates, turned: a row a parameter, a line a trial, the colour its value."""
    ranked = valued(trials, dims, mode)
    shown, cut = sample(ranked, LINES, LINES // 5)
    first = max(1, min(BRIGHT, len(ranked) // 5))
    half = {r["trial"] for r in ranked[: len(ranked) // 2]}
    kinds = [f"best {first}", "better half", "worse half"]
    rows: list[dict[str, Any]] = []
    for place, row in enumerate(shown):
        kind = kinds[0] if place < first else kinds[1] if row["trial"] in half else kinds[2]
        for at, d in enumerate(dims):
            value = row[CONFIG + d.name]
            setting = None if value is None else said(value)
            rows.append(
                {"kind": kind, "trial": row["trial"], "value": row["value"], "at": at, "parameter": d.name,
                 "place": d.place(value), "setting": setting}
            )  # fmt: skip
    for at, d in enumerate(dims if shown else []):
        rows += [
            {"kind": "end", "at": at, "parameter": d.name, "place": x, "setting": t} for x, t in _marks(d)
        ]
    looks = [("var(--s2)", 0.9, 1.7), ("var(--s1)", 0.4, 1.0), ("var(--faint)", 0.4, 1.0)]
    axis = {**NAMES, "grid": True, "labelLimit": 110, "labelPadding": 14}
    tint = field("kind", "N", None, scale={"domain": kinds, "range": [look[0] for look in looks]})
    lines = [
        {
            "transform": [{"filter": f"datum.kind === '{kind}' && isValid(datum.place)"}],
            "layer": [
                {
                    "mark": {"type": "line", "strokeWidth": width, "opacity": opacity},
                    "encoding": {"detail": field("trial", "N"), "order": {"field": "at"}, "color": tint},
                },
                {
                    "mark": {"type": "point", "filled": True, "size": 18, "opacity": opacity},
                    "encoding": {
                        "color": tint,
                        "tooltip": tips(
                            trial="trial", value=f"#{objective}", parameter="parameter", setting="value"
                        ),
                    },
                },
            ],
        }
        for kind, (_, opacity, width) in reversed(list(zip(kinds, looks, strict=True)))  # the best on top
    ]
    ends = [
        {
            "transform": [{"filter": f"datum.kind === 'end' && {where}"}],
            "layer": [
                {"mark": {"type": "text", "dy": 17, "align": side, "fontSize": 11, "limit": 110, **look}}
                for look in ({"stroke": "var(--surface)", "strokeWidth": 4}, {"color": "var(--muted)"})
            ],
            "encoding": {"text": {"field": "setting"}},
        }
        for side, where in SIDES.items()
    ]
    spec = base(
        stacked(54, dims),
        encoding={
            "y": field(
                "parameter", "O", None, sort=[d.name for d in dims], axis=axis, scale={"paddingOuter": 0.5}
            ),
            "x": field("place", "Q", None, scale={"domain": [0, 1]}, axis=None),
        },
        layer=[*lines, *ends],
    )
    top = ", ".join(f"{d.name} {said(shown[0][CONFIG + d.name])}" for d in dims) if shown else ""
    return Figure(
        "parallel",
        "Parallel coordinates",
        f"A line is a trial, a row a parameter from its lowest to its highest value; the best by {objective} "
        "are on top. "
        f"A line passes over a parameter that its trial does not have.{cut}",
        f"{count(len(shown), 'trial')} over {count(len(dims), 'parameter')}. "
        + (
            f"The best, {number(shown[0]['value'])}, has {top}. {_agreement(ranked, dims)}"
            if shown
            else "None has a value."
        ),
        table(
            rows,
            {
                "kind": pa.string(),
                "trial": pa.string(),
                "value": pa.float64(),
                "at": pa.int64(),
                "parameter": pa.string(),
                "place": pa.float64(),
                "setting": pa.string(),
            },
        ),
        spec,
        {"value": objective},
    )


def _marks(d: Dimension) -> list[tuple[float, str]]:
    if not d.choices:
        return [(0.0, said(d.low)), (1.0, said(d.high) + (" (log)" if d.log else ""))]
    names = d.choices if len(d.choices) <= 4 else (d.choices[0], d.choices[-1])
    return [(d.place(name) or 0.0, name) for name in names]


def _agreement(ranked: Sequence[dict[str, Any]], dims: Sequence[Dimension]) -> str:
    """Where the best tenth of the trials lie."""
    top = ranked[: max(3, len(ranked) // 10)]
    if len(ranked) < 10:
        return ""
    words = []
    for d in dims:
        values = [v for r in top if (v := r[CONFIG + d.name]) is not None]
        if not values:
            continue
        if d.choices:
            texts = [said(v) for v in values]
            most = max(set(texts), key=lambda t: (texts.count(t), t))
            words.append(f"{d.name} {most} in {texts.count(most)} of {len(texts)}")
        else:
            words.append(f"{d.name} {said(min(values))} to {said(max(values))}")
    return f"The best {len(top)}: {'; '.join(words)}."


def contour(trials: pa.Table, a: Dimension, b: Dimension, objective: str, mode: str) -> Figure:
    """The median value in the cells of a grid over two parameters."""
    a, b = a.cells, b.cells
    ranked = [
        r
        for r in valued(trials, [a, b], mode)
        if None not in (a.place(r[CONFIG + a.name]), b.place(r[CONFIG + b.name]))
    ]
    fine = min(CELLS, max(3, int(math.sqrt(len(ranked) / 2))))
    cells: dict[tuple[int, int], list[float]] = {}
    for r in ranked:
        cells.setdefault((_cell(a, r, fine), _cell(b, r, fine)), []).append(r["value"])
    rows: list[dict[str, Any]] = [
        {
            "x": _edge(a, i, fine),
            "x2": _edge(a, i + 1, fine),
            "y": _edge(b, j, fine),
            "y2": _edge(b, j + 1, fine),
            "a": _inside(a, i, fine),
            "b": _inside(b, j, fine),
            "median": float(np.median(v)),
            "trials": len(v),
        }
        for (i, j), v in sorted(cells.items())
    ]
    tint, out = scale([r["median"] for r in rows], mode)
    tint.pop("zero", None)
    tint.pop("nice", None)
    spec = base(
        320,
        mark={"type": "rect", "stroke": "var(--surface)", "strokeWidth": 1},
        encoding={
            **_axis("x", a),
            **_axis("y", b),
            "color": {
                **field("median", "Q", f"median {objective}"),
                "scale": {**tint, "scheme": "viridis", "reverse": mode == "min"},
                "legend": {"format": ".3~g"},
            },
            "tooltip": tips(a=a.name, b=b.name, median=f"#median {objective}", trials="#trials"),
        },
    )
    sign = 1.0 if mode == "min" else -1.0
    best = min(rows, key=lambda r: sign * r["median"], default=None)
    told = (
        f"The best cell, median {number(best['median'])} of {count(best['trials'], 'trial')}, is {a.name} "
        f"{best['a']} and {b.name} {best['b']}."
        if best
        else "No trial has both and a value."
    )
    return Figure(
        "contour",
        f"{a.name} and {b.name} together",
        f"Median {objective} ({BETTER[mode]}) of the trials in each cell; the better the brighter; empty "
        f"where there is no trial. All {count(len(ranked), 'trial')} "
        f"with a value count, stopped ones with their best until then.{beyond(out)}",
        f"{count(len(rows), 'cell')} with trials. {told}",
        table(
            [{k: r[k] for k in ("a", "b", "median", "trials", "x", "x2", "y", "y2")} for r in rows],
            {
                "a": pa.string(),
                "b": pa.string(),
                "median": pa.float64(),
                "trials": pa.int64(),
                **dict.fromkeys(("x", "x2", "y", "y2"), pa.float64()),
            },
        ),
        spec,
        {"a": a.name, "b": b.name, "median": f"median {objective}"},
    )


def _cell(d: Dimension, row: dict[str, Any], fine: int) -> int:
    value = row[CONFIG + d.name]
    if d.choices:
        return d.choices.index(said(value))
    return min(fine - 1, max(0, int((d.place(value) or 0.0) * fine)))


def _edge(d: Dimension, k: int, fine: int) -> float:
    """Where cell `k` begins, in the parameter's unit; of a category its number."""
    if d.choices:
        return float(k)
    low, high = (math.log(x) if d.log else x for x in (d.low, d.high))
    at = low + (high - low) * k / fine
    return math.exp(at) if d.log else at


def _inside(d: Dimension, k: int, fine: int) -> str:
    return d.choices[k] if d.choices else f"{said(_edge(d, k, fine))} to {said(_edge(d, k + 1, fine))}"


def _axis(side: str, d: Dimension) -> dict[str, Any]:
    if d.choices:
        name = "a" if side == "x" else "b"
        return {
            side: field(name, "N", d.name, sort=list(d.choices), axis={"labelAngle": 0, "labelLimit": 90})
        }
    made = {"nice": False, "domain": [d.low, d.high], **({"type": "log"} if d.log else {"zero": False})}
    return {side: field(side, "Q", d.title, scale=made), f"{side}2": {"field": f"{side}2"}}
