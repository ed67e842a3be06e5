"""A comparison of methods: scores, gaps, ranks with what cannot be told apart, the searches over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from fairsweep.analysis.comparing.deciding import Decision
from fairsweep.analysis.comparing.ranks import Diagram
from fairsweep.analysis.plots.figure import Figure, table
from fairsweep.analysis.plots.moments import best_so_far
from fairsweep.analysis.plots.parts import (
    NAMES,
    base,
    beyond,
    count,
    field,
    number,
    numeric,
    progress,
    scale,
    sentence,
    stacked,
    tips,
)
from fairsweep.analysis.plots.search import BETTER

ROWS = {**NAMES, "grid": True, "labelLimit": 150, "labelPadding": 14}


def scores(rows: Sequence[Mapping[str, Any]], data: str) -> Figure:
    """The score of each repeat of each method on one data set, and the means. rows: of the table `comparisons`."""
    mine = [r for r in rows if r["data"] == data]
    metric, mode = mine[0]["metric"], mine[0]["mode"]
    known = [r for r in mine if numeric(r["score"])]
    failed = len(mine) - len(known)
    order = list(dict.fromkeys(r["method"] for r in mine))
    means = {m: [r["score"] for r in known if r["method"] == m] for m in order}
    sign = 1.0 if mode == "min" else -1.0
    order.sort(key=lambda m: sign * float(np.mean(means[m])) if means[m] else np.inf)
    made = [
        {"kind": "repeat", "method": r["method"], "score": r["score"], "repeat": r["repeat"]} for r in known
    ]
    made += [
        {"kind": "mean", "method": m, "score": float(np.mean(v)), "repeat": None}
        for m, v in means.items()
        if v
    ]
    x, out = scale([r["score"] for r in made], mode, cut=False)
    spec = base(
        stacked(38, order),
        encoding={
            "y": field(
                "method",
                "N",
                None,
                sort=order,
                axis=ROWS,
            ),
            "x": {**field("score", "Q", f"{metric} ({BETTER[mode]})"), "scale": x},
        },
        layer=[
            {
                "transform": [{"filter": "datum.kind === 'repeat'"}],
                "mark": {"type": "point", "filled": True, "size": 55, "opacity": 0.55},
                "encoding": {"tooltip": tips(method="method", score=f"#{metric}", repeat="repeat")},
            },
            {
                "transform": [{"filter": "datum.kind === 'mean'"}],
                "mark": {"type": "tick", "thickness": 3, "size": 24, "color": "var(--s2)"},
                "encoding": {"tooltip": tips(method="method", score="#mean")},
            },
        ],
    )
    lost = (
        f" {count(failed, 'repeat')} failed and {'is' if failed == 1 else 'are'} not drawn." if failed else ""
    )
    told = "; ".join(
        f"{m}: mean {number(float(np.mean(v)))}, {number(min(v))} to {number(max(v))} over {count(len(v), 'repeat')}"
        if (v := means[m])
        else f"{m}: none is complete"
        for m in order
    )
    return Figure(
        f"scores_{list(dict.fromkeys(r['data'] for r in rows)).index(data)}",
        f"Scores on {data}",
        "A dot is one repeat: a whole search and the retraining of what it chose, tested once. The tick is "
        f"the mean.{lost}{beyond(out)}",
        f"{told}.",
        table(
            made, {"kind": pa.string(), "method": pa.string(), "score": pa.float64(), "repeat": pa.int64()}
        ),
        spec,
        {"score": metric},
    )


def gaps(decision: Decision, metric: str, mode: str) -> Figure:
    """The differences of all pairs with their intervals, turned so that the better one is named first."""
    made: list[dict[str, Any]] = []
    for g in decision.gaps:
        turn = g.effect < 0
        a, b = (g.b, g.a) if turn else (g.a, g.b)
        ends = g.ci95 if g.ci95 is None or not turn else (-g.ci95[1], -g.ci95[0])
        made.append(
            {
                "pair": f"{a} - {b}",
                "difference": -g.difference if turn else g.difference,
                "low": ends and ends[0],
                "high": ends and ends[1],
                "p": g.p,
                "p_holm": g.p_holm,
                "told": "told apart" if g.p_holm <= 0.05 else "not told apart",
            }
        )
    made.sort(key=lambda r: r["p_holm"])
    order = [r["pair"] for r in made]
    kinds = ["told apart", "not told apart"]
    title = f"difference in {metric}, mean over data sets"
    tint = {
        "color": field("told", "N", None, scale={"domain": kinds, "range": ["var(--s1)", "var(--faint)"]})
    }
    # An axis over intervals of which there is none has no end, of which Vega warns.
    line = {
        "transform": [{"filter": "isValid(datum.low)"}],
        "mark": {"type": "rule", "strokeWidth": 2.5},
        "encoding": {"x": field("low", "Q", title), "x2": {"field": "high"}},
    }
    lines = [line] if any(r["low"] is not None for r in made) else []
    zero = {
        "data": {"values": [{}]},
        "mark": {"type": "rule", "strokeDash": [4, 3]},
        "encoding": {"x": {"datum": 0, "type": "quantitative", "title": title}},
    }
    spec = base(
        stacked(40, order),
        layer=[
            zero,
            {
                "encoding": {
                    "y": field("pair", "N", None, sort=order, axis={**NAMES, "labelLimit": 170}),
                    **tint,
                },
                "layer": [
                    *lines,
                    {
                        "mark": {"type": "point", "filled": True, "size": 75, "opacity": 1},
                        "encoding": {
                            "x": field("difference", "Q", title),
                            "tooltip": tips(
                                pair="pair",
                                difference="#difference",
                                low="#95 % from",
                                high="#to",
                                p="#p",
                                p_holm="#p after Holm",
                            ),
                        },
                    },
                ],
            },
        ],
    )
    told = "; ".join(f"{r['pair']}: {r['difference']:+.4g}{_between(r)}, p {r['p_holm']:.2g}" for r in made)
    sure = " Lines are 95 % intervals over repeats." if any(r["low"] is not None for r in made) else ""
    return Figure(
        "gaps",
        "Who is better by how much",
        f"Differences of all pairs; {'below' if mode == 'min' else 'above'} 0 the first named is "
        f"better.{sure} Told apart: p at most .05 "
        "in a permutation test after Holm's correction over all pairs.",
        f"{told}.",
        table(
            made,
            {
                "pair": pa.string(),
                **dict.fromkeys(("difference", "low", "high", "p", "p_holm"), pa.float64()),
                "told": pa.string(),
            },
        ),
        spec,
        {"p_holm": "p after Holm"},
    )


def _between(row: Mapping[str, Any]) -> str:
    return "" if row["low"] is None else f" ({number(row['low'])} to {number(row['high'])})"


def critical_difference(diagram: Diagram, unit: str = "block") -> Figure:
    """Mean ranks, and bars under what cannot be told apart. unit: what the methods are ranked on."""
    made: list[dict[str, Any]] = [
        {"kind": "method", "row": m, "rank": r, "end": None, "method": m}
        for m, r in zip(diagram.methods, diagram.ranks, strict=True)
    ]
    place = dict(zip(diagram.methods, diagram.ranks, strict=True))
    order = list(diagram.methods)
    for k, group in enumerate(diagram.cliques, 1):
        row = "not told apart" if len(diagram.cliques) == 1 else f"not told apart ({k})"
        order.append(row)
        ranks = [place[m] for m in group]
        made.append(
            {"kind": "group", "row": row, "rank": min(ranks), "end": max(ranks), "method": ", ".join(group)}
        )
        made += [{"kind": "member", "row": row, "rank": place[m], "end": None, "method": m} for m in group]
    if diagram.critical_difference is not None:
        order.insert(0, "critical difference")
        made.append(
            {
                "kind": "group",
                "row": order[0],
                "rank": 1.0,
                "end": 1 + diagram.critical_difference,
                "method": "differences above this are significant",
            }
        )
    last = max(len(diagram.methods), 2, *(r["end"] or 0 for r in made))
    only = {k: [{"filter": f"datum.kind === '{k}'"}] for k in ("method", "group", "member")}
    spec = base(
        stacked(34, order),
        encoding={
            "y": field(
                "row",
                "N",
                None,
                sort=order,
                axis=ROWS,
            ),
            "x": field(
                "rank",
                "Q",
                "mean rank (1 is best)",
                scale={"domain": [1, last], "nice": False},
                axis={"tickMinStep": 1},
            ),
        },
        layer=[
            {
                "transform": only["group"],
                "mark": {"type": "rule", "strokeWidth": 5, "color": "var(--s8)", "strokeCap": "round"},
                "encoding": {
                    "x2": {"field": "end"},
                    "tooltip": tips(method="methods", rank="#from rank", end="#to rank"),
                },
            },
            {
                "transform": only["member"],
                "mark": {"type": "point", "filled": True, "size": 60, "color": "var(--s8)", "opacity": 1},
                "encoding": {"tooltip": tips(method="method", rank="#mean rank")},
            },
            {
                "transform": only["method"],
                "mark": {"type": "point", "filled": True, "size": 120, "opacity": 1},
                "encoding": {"tooltip": tips(method="method", rank="#mean rank")},
            },
            {
                "transform": only["method"],
                "mark": {"type": "text", "dy": -12, "fontSize": 11},
                "encoding": {"text": {"field": "rank", "type": "quantitative", "format": ".2f"}},
            },
        ],
    )
    test = (
        "Wilcoxon's tests with Holm's correction" if diagram.critical_difference is None else "Nemenyi's test"
    )
    groups = "; ".join(", ".join(g) for g in diagram.cliques)
    notes = "".join(f" {sentence(n)}" for n in diagram.notes)
    said = ", ".join(f"{m} {r:.2f}" for m, r in zip(diagram.methods, diagram.ranks, strict=True))
    return Figure(
        "critical_difference" if diagram.critical_difference is None else "critical_difference_nemenyi",
        f"Ranks and what {test} cannot tell apart",
        f"Mean ranks over {count(diagram.n, unit)}. A bar joins methods that {test} cannot tell apart at 5 %.{notes}",
        f"Mean ranks: {said}. {f'Not told apart: {groups}.' if groups else 'All pairs are told apart.'}",
        table(
            made,
            {
                "kind": pa.string(),
                "row": pa.string(),
                "rank": pa.float64(),
                "end": pa.float64(),
                "method": pa.string(),
            },
        ),
        spec,
    )


def searches(
    found: Mapping[str, Sequence[pa.Table]],
    objective: str,
    mode: str,
    data: str,
    place: int = 0,
    by: str = "trials",
) -> Figure:
    """Best validation value so far of each method on one data set: mean over repeats, band from worst to best.

    found: method -> the trials of its searches, one table a repeat. by: "trials", or "cost" in minutes.
    """
    if by not in ("trials", "cost"):
        raise ValueError(f"by={by!r}: must be trials or cost")
    made: list[dict[str, Any]] = []
    said, changed = [], []
    for method, repeats in found.items():
        curves = []
        for trials in repeats:
            moments, ended, cost = best_so_far(trials, mode)
            if moments:
                points = [(float(m.trials) if by == "trials" else m.cost_s / 60, m.mean) for m in moments]
                curves.append([*points, (float(ended) if by == "trials" else cost / 60, moments[-1].mean)])
        if not curves:
            said.append(f"{method}: no complete configuration")
            continue
        begin, end = max(c[0][0] for c in curves), max(c[-1][0] for c in curves)
        times = sorted({t for c in curves for t, _ in c if begin <= t <= end} | {begin, end})
        changed += times[:-1]
        for t in times:
            values = [[v for at, v in c if at <= t][-1] for c in curves]
            made.append(
                {
                    "method": method,
                    "at": t,
                    "mean": float(np.mean(values)),
                    "low": min(values),
                    "high": max(values),
                    "repeats": len(values),
                }
            )
        said.append(
            f"{method}: {number(made[-1]['mean'])} at the end, {number(made[-1]['low'])} to "
            f"{number(made[-1]['high'])} over {count(len(curves), 'repeat')}"
        )
    y, out = scale([r[k] for r in made for k in ("mean", "low", "high")], mode)
    unit = "trials that have ended" if by == "trials" else "minutes of training, summed over trials"
    line = {"interpolate": "step-after", "clip": True}
    title = f"{objective}, best so far"
    over = progress(changed, max((r["at"] for r in made), default=0.0))
    spec = base(
        290,
        encoding={
            "x": field("at", "Q", f"{unit} (log)" if over.get("type") else unit, scale=over),
            "color": field("method", "N", None, sort=list(found)),
        },
        layer=[
            {
                "mark": {"type": "area", "opacity": 0.15, **line},
                "encoding": {"y": {**field("low", "Q", title), "scale": y}, "y2": {"field": "high"}},
            },
            {
                "mark": {"type": "line", "strokeWidth": 2.2, **line},
                "encoding": {
                    "y": {**field("mean", "Q", title), "scale": y},
                    "tooltip": tips(
                        method="method",
                        at=f"#{unit}",
                        mean="#mean",
                        low="#least",
                        high="#most",
                        repeats="repeats",
                    ),
                },
            },
        ],
    )
    return Figure(
        f"searches_{by}_{place}",
        f"The searches on {data} against {'trials' if by == 'trials' else 'cost'}",
        f"Best {objective} so far ({BETTER[mode]}), on validation data; the line is the mean over repeats, "
        "the band goes from the least to the most. It begins when every repeat has a complete configuration; "
        f"a search that has ended keeps its value.{beyond(out)}",
        f"{'; '.join(said)}.",
        table(
            made,
            {
                "method": pa.string(),
                **dict.fromkeys(("at", "mean", "low", "high"), pa.float64()),
                "repeats": pa.int64(),
            },
        ),
        spec,
        {"at": unit, "mean": objective},
    )
