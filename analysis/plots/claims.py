"""Claims of papers with what was found: effects and intervals on one scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from fairsweep.analysis.claims_report import counts, interval
from fairsweep.analysis.plots.figure import Figure, table
from fairsweep.analysis.plots.parts import base, count, field, number, numeric, stacked, tips

VERDICTS = {"holds": "var(--good)", "inconclusive": "var(--open)", "fails": "var(--bad)"}
SIGN = {"type": "text", "y": -8, "fontSize": 11, "color": "var(--muted)"}
EDGE = 4.0  # the axis goes so far beyond no effect and the whole claim


def claims(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Effects of the claims as a share of what was claimed: at 0 there is none, at 1 the margin. rows: of `claims`."""
    made: list[dict[str, Any]] = []
    aside = []
    alone = len({r["paper"] for r in rows}) == 1

    def named(r: Mapping[str, Any]) -> str:
        return r["claim"] if alone else f"{r['paper']}: {r['claim']}"

    for r in rows:
        length = _length(r)
        if not numeric(r["effect"]) or length is None:
            aside.append(named(r))
            continue
        ends = [r["ci_low"], r["ci_high"]]
        low = high = None
        if all(map(numeric, ends)):  # a claim of "at most" turns them
            low, high = sorted((_log(r, v) - _log(r, r["null"])) / length for v in ends)
        made.append(
            {
                "claim": named(r),
                "share": (_log(r, r["effect"]) - _log(r, r["null"])) / length,
                "low": low,
                "high": high,
                "effect": float(r["effect"]),
                "interval": interval(r) or "",
                "margin": float(r["margin"]),
                "direction": r["direction_verdict"],
                "size": r["size_verdict"],
                "only": "direction" if _log(r, r["margin"]) == _log(r, r["null"]) else "size too",
            }
        )
    order = [r["claim"] for r in made]
    shares = [r[k] for r in made for k in ("share", "low", "high") if r[k] is not None]
    axis = [max(-EDGE, min([-0.5, *shares])), min(1 + EDGE, max([1.5, *shares]))]
    tint = {
        "color": field(
            "direction", "N", "direction", scale={"domain": list(VERDICTS), "range": list(VERDICTS.values())}
        )
    }
    x = {
        "type": "quantitative",
        "title": "effect as a share of what was claimed",
        "scale": {"domain": axis, "clamp": True, "nice": False},
    }
    line = {
        "transform": [{"filter": "isValid(datum.low)"}],
        "mark": {"type": "rule", "strokeWidth": 2.5},
        "encoding": {"x": {"field": "low", **x}, "x2": {"field": "high"}},
    }
    lines = [line] if any(r["low"] is not None for r in made) else []
    sides = ((0, "no effect", {"align": "right", "dx": -4}), (1, "as claimed", {"align": "left", "dx": 4}))
    signs = [
        {
            "data": {"values": [{"at": at, "text": text}]},
            "mark": {**SIGN, **look},
            "encoding": {"text": {"field": "text"}},
        }
        for at, text, look in sides
    ]
    spec = base(
        stacked(44, order),
        layer=[
            {
                "data": {"values": [{"at": 0}, {"at": 1}]},
                "encoding": {"x": {"field": "at", **x}},
                "layer": [{"mark": {"type": "rule", "strokeDash": [4, 3]}}, *signs],
            },
            {
                "encoding": {
                    "y": field(
                        "claim",
                        "N",
                        None,
                        sort=order,
                        axis={
                            "labelColor": "var(--ink)",
                            "labelOverlap": False,
                            "ticks": False,
                            "domain": False,
                            "labelLimit": 200,
                        },
                    ),
                    **tint,
                },
                "layer": [
                    *lines,
                    {
                        "mark": {"type": "point", "filled": True, "size": 80, "opacity": 1},
                        "encoding": {
                            "x": {"field": "share", **x},
                            "tooltip": tips(
                                claim="claim",
                                effect="#effect",
                                interval="95 % interval",
                                margin="#claimed",
                                direction="direction",
                                size="size",
                            ),
                        },
                    },
                ],
            },
        ],
    )
    left = f" Without an effect, or with no size to measure it by: {', '.join(aside)}." if aside else ""
    bare = (
        "Where only the direction is claimed, the scale is the far end of the interval. "
        if any(r["only"] == "direction" for r in made)
        else ""
    )
    told = "; ".join(
        f"{r['claim']}: effect {number(r['effect'])} ({r['interval'] or 'no interval'}) against "
        f"{number(r['margin'])}, direction {r['direction']}, size {r['size']}"
        for r in made
    )
    return Figure(
        "claims",
        "Claims and what was found",
        "Effects with their 95 % intervals over seeds, each as a share of the size that was claimed; what "
        "lies beyond the axis is "
        f"drawn at its edge. {bare}Colour: the verdict on the direction.{left}",
        f"{count(len(rows), 'claim')}: direction {counts(rows, 'direction_verdict')}; size "
        f"{counts(rows, 'size_verdict')}. {told}.",
        table(
            made,
            {
                "claim": pa.string(),
                **dict.fromkeys(("share", "low", "high", "effect"), pa.float64()),
                "interval": pa.string(),
                "margin": pa.float64(),
                "direction": pa.string(),
                "only": pa.string(),
                "size": pa.string(),
            },
        ),
        spec,
        {"share": "share of the claimed effect", "margin": "claimed"},
    )


def _log(row: Mapping[str, Any], value: float) -> float:
    """Ratios are measured by their logarithms."""
    return math.log(value) if row["kind"] == "ratio" and value > 0 else value


def _length(row: Mapping[str, Any]) -> float | None:
    """From no effect to the claimed one, with its sign; for a direction alone to the far end of the interval.

    None where nothing says how large the effect is.
    """
    if not numeric(row["null"]) or not numeric(row["margin"]):
        return None
    null = _log(row, row["null"])
    claimed = _log(row, row["margin"]) - null
    if claimed:
        return claimed
    known = [abs(_log(row, row[k]) - null) for k in ("effect", "ci_low", "ci_high") if numeric(row[k])]
    return (max(known, default=0.0) * (1 if row["direction"] == "at_least" else -1)) or None
