"""One parameter at a time: how important it is, and the objective against it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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

DOTS, CHOICES = 600, 12


def importance(rows: Sequence[Mapping[str, Any]], told: str, notes: str, objective: str) -> Figure:
    """Bars of the importance of parameters.

    rows: parameter, importance (0 to 1 or None), low and high (of resamples, or None), configurations, reason, method.
    told: the answer in words. notes: what a reader should know.
    """
    known = [r for r in rows if r["importance"] is not None]
    silent = [
        f"{r['parameter']} ({r['reason']})" if r["reason"] else r["parameter"]
        for r in rows
        if r["importance"] is None
    ]
    method = {"fanova": ("fANOVA", "share of the variance of ranks")}.get(
        rows[0]["method"] if rows else "", ("PED-ANOVA", "share of what sets the best apart")
    )
    order = [r["parameter"] for r in known]
    x = field("importance", "Q", method[1], axis={"format": "%"}, scale={"domainMin": 0})
    spread = any(r["low"] is not None for r in known)
    layer: list[dict[str, Any]] = [
        {
            "mark": {"type": "bar", "cornerRadiusEnd": 3, "height": 16},
            "encoding": {
                "tooltip": tips(
                    parameter="parameter",
                    importance="#share",
                    low="#from",
                    high="#to",
                    configurations="#configurations",
                )
            },
        }
    ]
    if spread:
        whisker = {"type": "rule", "strokeWidth": 1.5, "color": "var(--ink)"}
        layer.append({"mark": whisker, "encoding": {"x": {**x, "field": "low"}, "x2": {"field": "high"}}})
    label = {"type": "text", "align": "left", "dx": 6}
    share = {"text": {"field": "importance", "type": "quantitative", "format": ".0%"}}
    at = {"x": {**x, "field": "label"}}
    layer.append({"mark": label, "encoding": {**share, **at}})
    spec = base(
        stacked(30, order),
        encoding={
            "y": field(
                "parameter", "N", None, sort=order, axis={**NAMES, "labelLimit": 130, "labelPadding": 6}
            ),
            "x": x,
        },
        layer=layer,
    )
    quiet = f" Nothing can be said of {', '.join(silent)}." if silent else ""
    line = " Lines: 95 % of resamples." if spread else ""
    words = ", ".join(f"{r['parameter']} {r['importance']:.0%}" for r in known)
    made = [{**r, "label": max(r["importance"], r["high"] or 0.0)} for r in known]
    numbers = dict.fromkeys(("importance", "low", "high", "label"), pa.float64())
    columns = {"parameter": pa.string(), **numbers, "configurations": pa.int64()}
    return Figure(
        "importance",
        f"Importance of parameters for {objective}",
        f"By {method[0]}, among the configurations that have the "
        f"parameter.{line}{quiet}{f' {notes}' if notes else ''}",
        f"{told}. From the most to the least important: {words}." if known else f"{told}.",
        table([{k: r[k] for k in columns} for r in made], columns),
        spec,
    )


def slices(trials: pa.Table, dims: Sequence[Dimension], objective: str, mode: str) -> list[Figure]:
    """The objective against each parameter, a figure a parameter."""
    values = [r["value"] for r in valued(trials, [], mode)]
    y, _ = scale(values, mode)  # the same for all
    return [_slice(trials, d, at, objective, mode, y) for at, d in enumerate(dims)]


def _slice(trials: pa.Table, d: Dimension, at: int, objective: str, mode: str, y: dict[str, Any]) -> Figure:
    having = [r for r in valued(trials, [d], mode) if r[CONFIG + d.name] is not None]
    shown, cut = sample(having, DOTS, 60)
    low, high = y.get("domain", (-math.inf, math.inf))
    out = sum(not low <= r["value"] <= high for r in having)
    kind = pa.string() if d.choices else pa.float64()
    rows = [
        {
            "trial": r["trial"],
            "setting": said(v) if d.choices else float(v),
            "value": r["value"],
            "ended": "complete" if r["state"] == "complete" else "not complete",
        }
        for r in shown
        for v in [r[CONFIG + d.name]]
    ]
    if d.choices:
        x: dict[str, Any] = field(
            "setting",
            "N",
            d.name,
            sort=list(d.choices),
            axis={"labelAngle": 0 if len(d.choices) < 5 else -40, "labelLimit": 90},
        )
        extra: dict[str, Any] = (
            {"xOffset": {"field": "jitter", "type": "quantitative", "scale": {"domain": [-1, 1]}}}
            if len(d.choices) <= CHOICES
            else {}
        )
        change = [
            {"window": [{"op": "row_number", "as": "k"}]},
            {"calculate": "(datum.k * 0.618034) % 1 * 1.2 - 0.6", "as": "jitter"},
        ]
    else:
        ends = [d.low, d.high] if d.high > d.low else None
        x = field(
            "setting",
            "Q",
            d.title,
            scale={
                "nice": False,
                **({"domain": ends} if ends else {}),
                **({"type": "log"} if d.log else {"zero": False}),
            },
        )
        extra, change = {}, []
    states = ["complete", "not complete"]
    incomplete = any(r["ended"] == states[1] for r in rows)
    spec = base(
        210,
        transform=change,
        mark={"type": "point", "filled": True, "size": 24, "opacity": 0.6},
        encoding={
            "x": x,
            **extra,
            "y": {**field("value", "Q", objective), "scale": y},
            "color": field(
                "ended",
                "N",
                None,
                legend=None,
                scale={"domain": states, "range": ["var(--s1)", "var(--faint)"]},
            ),
            "tooltip": tips(
                trial="trial",
                setting=d.name if d.choices else f"#{d.name}",
                value=f"#{objective}",
                ended="trial is",
            ),
        },
    )
    return Figure(
        f"slice_{at}",
        d.name,
        f"{'Trials that are not complete are grey.' if incomplete else 'All trials are complete.'}{cut}{beyond(out)}",
        _slice_words(having, d, objective),
        table(rows, {"trial": pa.string(), "setting": kind, "value": pa.float64(), "ended": pa.string()}),
        spec,
        {"setting": d.name, "value": objective, "ended": "trial is"},
    )


def _slice_words(ranked: Sequence[dict[str, Any]], d: Dimension, objective: str) -> str:
    if not ranked:
        return "No trial has a value."
    best = ranked[0]
    words = (
        f"{count(len(ranked), 'trial')}. Best {objective} {number(best['value'])} at {d.name} "
        f"{said(best[CONFIG + d.name])}."
    )
    if d.choices:
        groups = {c: [r["value"] for r in ranked if said(r[CONFIG + d.name]) == c] for c in d.choices}
        medians = [f"{c}: {number(float(np.median(v)))} ({len(v):,})" for c, v in groups.items() if v]
        return f"{words} Medians: {', '.join(medians[:CHOICES])}."
    x = np.array([r[CONFIG + d.name] for r in ranked], float)
    y = np.array([r["value"] for r in ranked], float)
    if len(set(x)) < 3 or len(set(y)) < 2 or len(x) < 5:
        return words
    from scipy.stats import spearmanr

    rho = float(spearmanr(x, y).statistic)
    return f"{words} Rank correlation with {objective}: {rho:+.2f}."
