"""How a search went: the best so far, every trial, learning curves, what became of the trials."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from fairsweep.analysis.plots.figure import Figure, table
from fairsweep.analysis.plots.moments import best_so_far
from fairsweep.analysis.plots.parts import (
    base,
    beyond,
    count,
    field,
    is_log,
    number,
    progress,
    sample,
    scale,
    tips,
)

COMPLETE, STOPPED = "complete configurations", "stopped ones too"
DOTS, CURVES, POINTS = 1500, 60, 120  # of trials, of learning curves, of points of one curve
STATES = {
    "complete": "var(--s1)",
    "pruned": "var(--faint)",
    "failed": "var(--bad)",
    "interrupted": "var(--s5)",
    "running": "var(--s3)",
    "paused": "var(--s6)",
    "pending": "var(--s8)",
}
BETTER = {"min": "lower is better", "max": "higher is better"}


def anytime(sweeps: Mapping[str, pa.Table], objective: str, mode: str, by: str = "trials") -> Figure:
    """The best configuration so far, its mean over seeds and the range of its seeds.

    sweeps: name -> the store's trials. by: "trials" that had ended or "cost", minutes of training. ValueError: another.
    """
    if by not in ("trials", "cost"):
        raise ValueError(f"by={by!r}: must be trials or cost")
    unit = "trials that have ended" if by == "trials" else "minutes of training, summed over trials"
    rows: list[dict[str, Any]] = []
    said: list[str] = []
    for name, trials in sweeps.items():
        rows += _steps(name, trials, mode, by, False)
        said.append(_told(name, trials, mode, by))
    early = len(sweeps) == 1 and any("pruned" in t["state"].to_pylist() for t in sweeps.values())
    if early:
        rows = [{**row, "series": COMPLETE} for row in rows]
        rows += [row for name, trials in sweeps.items() for row in _steps(name, trials, mode, by, True)]
    longest = max((r["at"] for r in rows), default=0.0)
    over = progress([r["at"] for r in rows if not r["last"]], longest)
    y, out = scale([r[k] for r in rows for k in ("best", "low", "high")], mode)
    value = {**field("best", "Q", f"{objective}, best so far"), "scale": y}
    names, colours = [COMPLETE, STOPPED], ["var(--s1)", "var(--muted)"]
    tint = field("series", "N", None, **({"scale": {"domain": names, "range": colours}} if early else {}))
    tip = tips(
        sweep="sweep", at=f"#{unit}", best=f"#{objective}", low="#lowest seed", high="#highest seed",
        configuration="configuration",
    )  # fmt: skip
    line = {"interpolate": "step-after", "clip": True}
    whole = [{"filter": f"datum.series !== '{STOPPED}'"}]
    layer: list[dict[str, Any]] = [
        {
            "transform": whole,
            "mark": {"type": "area", "opacity": 0.2, **line},
            "encoding": {"y": {**value, "field": "low"}, "y2": {"field": "high"}},
        },
        {"transform": whole, "mark": {"type": "line", "strokeWidth": 2.2, **line}, "encoding": {"y": value}},
        {
            "transform": whole,
            "mark": {"type": "point", "filled": True, "size": 34},
            "encoding": {"y": value, "tooltip": tip},
        },
    ]
    if early:
        dashed = {"type": "line", "strokeWidth": 1.4, "strokeDash": [5, 3], **line}
        layer.insert(
            0,
            {
                "transform": [{"filter": f"datum.series === '{STOPPED}'"}],
                "mark": dashed,
                "encoding": {"y": value, "tooltip": tip},
            },
        )
    at = field("at", "Q", f"{unit} (log)" if over.get("type") else unit, scale=over)
    seeds = max((r["seeds"] for r in rows), default=1)
    band = (
        f"The band is the range of its seeds (up to {seeds})."
        if seeds > 1
        else "One seed a configuration: no band."
    )
    dash = " Dashed: trials that were stopped early count too, with their best until then." if early else ""
    numbers = dict.fromkeys(("at", "best", "low", "high"), pa.float64())
    columns = {"sweep": pa.string(), "series": pa.string(), **numbers, "configuration": pa.int64()}
    return Figure(
        f"anytime_{by}",
        f"Best so far against {by}",
        f"Mean {objective} ({BETTER[mode]}) of the configuration that was best among those complete under all "
        "their seeds. "
        f"{band}{dash}{beyond(out)}",
        f"Steps that never get worse. {'; '.join(said)}.",
        table([{k: r[k] for k in columns} for r in rows], columns),
        base(280, encoding={"x": at, "color": tint} if early or len(sweeps) > 1 else {"x": at}, layer=layer),
        {
            "at": unit,
            "best": objective,
            "low": f"{objective}, lowest seed",
            "high": f"{objective}, highest seed",
        },
    )


def _steps(name: str, trials: pa.Table, mode: str, by: str, stopped: bool) -> list[dict[str, Any]]:
    """The rows of one line: where the best changed, and its end."""
    moments, ended, cost = best_so_far(trials, mode, stopped)
    series = STOPPED if stopped else name
    rows = [
        {
            "sweep": name, "series": series, "at": float(m.trials) if by == "trials" else m.cost_s / 60, "best": m.mean,
            "low": m.low, "high": m.high, "configuration": m.config_id, "seeds": m.seeds, "last": False,
        }
        for m in moments
    ]  # fmt: skip
    if rows:
        rows.append({**rows[-1], "at": float(ended) if by == "trials" else cost / 60, "last": True})
    return rows


def _told(name: str, trials: pa.Table, mode: str, by: str) -> str:
    moments, ended, _ = best_so_far(trials, mode)
    if not moments:
        return f"{name}: no complete configuration among {count(ended, 'trial')}"
    end, half = moments[-1], _half(moments, mode)
    unit = "trials" if by == "trials" else "minutes of training"
    when, last = (number(m.trials if by == "trials" else m.cost_s / 60) for m in (half, end))
    return (
        f"{name}: {number(moments[0].mean)} first, {number(end.mean)} in the end, which was found after {last} {unit}; "
        f"nine tenths of that way were made after {when}"
    )


def _half(moments: Sequence[Any], mode: str) -> Any:
    """The moment from which at most a tenth of what was gained in all was still to come."""
    first, last = moments[0].mean, moments[-1].mean
    near = abs(last - first) / 10
    return next(m for m in moments if abs(last - m.mean) <= near)


def history(trials: pa.Table, objective: str, mode: str) -> Figure:
    """Every trial with its value, in the order in which they were asked for."""
    rows = trials.select(["trial", "number", "seed", "state", "value", "steps"]).to_pylist()
    sign = 1.0 if mode == "min" else -1.0
    drawn = [r for r in rows if r["value"] is not None and math.isfinite(r["value"])]
    drawn.sort(key=lambda r: sign * r["value"])
    best = drawn[0] if drawn else None
    y, out = scale([r["value"] for r in drawn], mode)
    shown, said = sample(drawn, DOTS, 100)
    states = Counter(r["state"] for r in rows)
    present = [s for s in STATES if any(r["state"] == s for r in shown)]
    spec = base(
        280,
        mark={"type": "point", "filled": True, "opacity": 0.65, "size": 26 if len(shown) > 300 else 46},
        encoding={
            "x": field("number", "Q", "number of the trial", scale={"nice": False, "zero": False}),
            "y": {**field("value", "Q", objective), "scale": y},
            "color": field(
                "state", "N", None, scale={"domain": present, "range": [STATES[s] for s in present]}
            ),
            "shape": field(
                "state",
                "N",
                None,
                scale={
                    "domain": present,
                    "range": [
                        "circle",
                        "diamond",
                        "cross",
                        "square",
                        "triangle-up",
                        "triangle-down",
                        "stroke",
                    ][: len(present)],
                },
            ),
            "tooltip": tips(trial="trial", state="state", value=f"#{objective}", steps="#steps", seed="seed"),
        },
    )
    none = len(rows) - len(drawn)
    lost = (
        f" {count(none, 'trial has', 'trials have')} no value and {'is' if none == 1 else 'are'} not drawn."
        if none
        else ""
    )
    top = (
        f"The best is {number(best['value'])}, trial {best['trial']} ({best['state']})."
        if best
        else "None has a value."
    )
    return Figure(
        "history",
        "Every trial",
        f"{objective} ({BETTER[mode]}) of each trial; of one that was stopped early its best until "
        f"then.{lost}{said}{beyond(out)}",
        f"{count(len(rows), 'trial')}: {', '.join(f'{n:,} {s}' for s, n in states.most_common())}. {top} "
        f"{_middle([r['value'] for r in drawn])}",
        table(
            sorted(shown, key=lambda r: r["number"] or 0),
            {
                "trial": pa.string(),
                "number": pa.int64(),
                "seed": pa.int64(),
                "state": pa.string(),
                "value": pa.float64(),
                "steps": pa.int64(),
            },
        ),
        spec,
        {"value": objective},
    )


def _middle(values: Sequence[float]) -> str:
    if len(values) < 4:
        return ""
    x = sorted(values)
    return f"Half of all values lie between {number(x[len(x) // 4])} and {number(x[3 * len(x) // 4])}."


def learning_curves(
    results: pa.Table, trials: pa.Table, metric: str, mode: str, best: Sequence[str] = ()
) -> Figure:
    """The metric against the step. best: trials of the best configuration, which stand out."""
    column = f"metric.{metric}"
    sign = 1.0 if mode == "min" else -1.0
    final = {r["trial"]: r for r in trials.select(["trial", "value", "state"]).to_pylist()}
    curves: dict[str, list[tuple[int, float]]] = {}
    for trial, step, value in zip(*(results[c].to_pylist() for c in ("trial", "step", column)), strict=True):
        if value is not None and math.isfinite(value):
            curves.setdefault(trial, []).append((step, value))
    names = [t for t in best if t in curves]
    others = sorted(
        (t for t in curves if t not in names),
        key=lambda t: sign * (v if (v := final.get(t, {}).get("value")) is not None else sign * math.inf),
    )
    shown, said = sample(others, max(0, CURVES - len(names)), min(20, len(others)))
    rows: list[dict[str, Any]] = []
    for trial in [*shown, *names]:
        points = sorted(dict(curves[trial]).items())
        every = max(1, math.ceil(len(points) / POINTS))
        kept = points[::every] + ([points[-1]] if (len(points) - 1) % every else [])
        kind = "best configuration" if trial in names else "others"
        rows += [{"trial": trial, "kind": kind, "step": s, "value": v} for s, v in kept]
    y, out = scale([r["value"] for r in rows], mode)
    longest = max((r["step"] for r in rows), default=0)
    wide = is_log([max(1, len(c)) for c in curves.values()]) and longest > 100
    kinds = ["others", "best configuration"] if names else ["others"]
    looks = [{"opacity": 0.6, "strokeWidth": 1.1}, {"opacity": 1.0, "strokeWidth": 2.4}]
    steps = {"nice": False, **({"type": "symlog"} if wide else {"zero": False})}
    tint = {"domain": kinds, "range": ["var(--faint)", "var(--s2)"][: len(kinds)]}
    spec = base(
        300,
        encoding={
            "x": field("step", "Q", "step", scale=steps),
            "y": {**field("value", "Q", metric), "scale": y},
            "detail": field("trial", "N"),
            "color": field("kind", "N", None, scale=tint),
            "tooltip": tips(trial="trial", step="#step", value=f"#{metric}"),
        },
        layer=[
            {
                "transform": [{"filter": f"datum.kind === '{kind}'"}],
                "mark": {"type": "line", "clip": True, "point": longest <= 1, **look},
            }
            for kind, look in zip(kinds, looks, strict=False)
        ],
    )
    ends = [curves[t][-1][1] for t in names]
    told = (
        f" The best configuration ends at {', '.join(map(number, ends))} ({count(len(ends), 'seed')})."
        if ends
        else ""
    )
    return Figure(
        "learning_curves",
        "Learning curves",
        f"{metric} ({BETTER[mode]}) at each report; a line ends where its trial was stopped."
        f"{said}{beyond(out)}{' Steps are on a scale that is logarithmic but for its beginning.' if wide else ''}",
        f"{count(len(curves), 'curve')} of up to {number(longest)} steps.{told}",
        table(rows, {"trial": pa.string(), "kind": pa.string(), "step": pa.int64(), "value": pa.float64()}),
        spec,
        {"value": metric},
    )
