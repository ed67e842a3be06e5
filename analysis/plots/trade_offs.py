"""Trade-offs: candidates by two criteria and the front among them; drawings of networks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from fairsweep.analysis.drawing import draw_svg
from fairsweep.analysis.plots.figure import Figure, table
from fairsweep.analysis.plots.parts import base, beyond, count, field, number, numeric, sample, scale, tips
from fairsweep.analysis.plots.search import BETTER

DOTS = 1500


def front(
    rows: Sequence[Mapping[str, Any]],
    names: tuple[str, str],
    modes: tuple[str, str],
    *,
    what: str = "configuration",
    caption: str = "",
    whole: bool = True,
) -> Figure:
    """Candidates by two criteria.

    rows: label, x and y (values of `names`), on_front, and where known the intervals x_low, x_high, y_low, y_high.
    whole: the two are all criteria there are, so that the front is a staircase.
    """
    known = [dict(r) for r in rows if numeric(r["x"]) and numeric(r["y"])]
    known.sort(key=lambda r: not r["on_front"])
    on = sorted((r for r in known if r["on_front"]), key=lambda r: r["x"])
    shown, cut = sample(known, max(DOTS, len(on)), len(on))
    for r in shown:
        r["kind"] = "on the front" if r["on_front"] else "dominated"
    x, out_x = scale([r["x"] for r in known], modes[0])
    y, out_y = scale([r["y"] for r in known], modes[1])
    for ends, side in ((x, "x"), (y, "y")):  # nothing of the front is cut off
        every = [r.get(f"{side}{end}") for r in on for end in ("", "_low", "_high")]
        mine = [float(v) for v in every if v is not None and numeric(v)]
        if "domain" in ends and mine and (ends.get("type") != "log" or min(mine) > 0):
            low, high = ends["domain"]
            ends["domain"] = [min(low, *mine), max(high, *mine)]
    kinds = ["on the front", "dominated"]
    looks: list[dict[str, Any]] = [
        {"size": 75, "opacity": 1, "color": "var(--s2)"},
        {"size": 26, "opacity": 0.75, "color": "var(--faint)"},
    ]
    at = {
        "x": {**field("x", "Q", _titled(names[0], modes[0])), "scale": x},
        "y": {**field("y", "Q", _titled(names[1], modes[1])), "scale": y},
    }
    only = [[{"filter": f"datum.kind === '{kind}'"}] for kind in kinds]
    tint = field("kind", "N", None, scale={"domain": kinds, "range": [look["color"] for look in looks]})
    dots: list[dict[str, Any]] = [
        {
            "transform": mine,
            "mark": {**look, "type": "point", "filled": True},
            "encoding": {
                "color": tint,
                "tooltip": tips(label=what, x=f"#{names[0]}", y=f"#{names[1]}", kind="it is"),
            },
        }
        for mine, look in zip(only, looks, strict=True)
    ]
    layer: list[dict[str, Any]] = [dots[1]]
    if whole and len(on) > 1:
        # From one member to the next what is dominated is worse in the second criterion, or in the first.
        step = "step-after" if modes[0] == "min" else "step-before"
        stairs = {
            "type": "line",
            "interpolate": step,
            "color": "var(--s2)",
            "strokeWidth": 1.4,
            "strokeDash": [5, 3],
        }
        layer.append(
            {"transform": only[0], "mark": {**stairs, "clip": True}, "encoding": {"order": {"field": "x"}}}
        )
    ranged = [side for side in "xy" if any(r.get(f"{side}_low") is not None for r in on)]
    for side in ranged:
        rule = {"type": "rule", "color": "var(--s2)", "opacity": 0.45, "clip": True}
        ends = {side: {**at[side], "field": f"{side}_low"}, f"{side}2": {"field": f"{side}_high"}}
        layer.append({"transform": only[0], "mark": rule, "encoding": ends})
    layer.append(dots[0])
    interval = " Lines through them are 95 % intervals over seeds." if ranged else ""
    told = "; ".join(
        f"{r['label']}: {names[0]} {number(r['x'])}, {names[1]} {number(r['y'])}" for r in _ends(on)
    )
    columns = dict.fromkeys(("x", "y", "x_low", "x_high", "y_low", "y_high"), pa.float64())
    data = [{k: r.get(k) for k in ("label", "kind", *columns)} for r in shown]
    for r in data:
        r["label"] = str(r["label"])
        for k in columns:
            r[k] = None if r[k] is None else float(r[k])
    labels = {
        f"{side}{end}": f"{name}{end.replace('_', ' ')}"
        for side, name in zip("xy", names, strict=True)
        for end in ("", "_low", "_high")
    }
    return Figure(
        re.sub(r"\W+", "_", f"front_{names[0]}_{names[1]}", flags=re.ASCII),
        f"{names[1]} against {names[0]}",
        f"On the front is what nothing else is as good as in {'both' if whole else 'all objectives'} and "
        "better than in one."
        f"{interval}{f' {caption}' if caption else ''}{cut}{beyond(out_x + out_y)}",
        f"{count(len(known), what)}, {len(on)} on the front. {f'From end to end: {told}.' if told else ''}",
        table(data, {"label": pa.string(), "kind": pa.string(), **columns}),
        base(320, encoding=at, layer=layer),
        {"label": what, **labels},
    )


def _titled(name: str, mode: str) -> str:
    return f"{name} ({BETTER[mode]})"


def _ends(on: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The ends of a front, and its middle."""
    places = sorted({0, len(on) // 2, len(on) - 1}) if on else []
    return [on[k] for k in places]


def architecture(
    nodes: Mapping[str, str], edges: Sequence[tuple[str, str, str]], row: Mapping[str, Any], place: int
) -> Figure:
    """The drawing of a network. row: of the table `architectures`."""
    facts = {
        "inherited score": row["score"],
        "trained alone": row["alone"],
        "test": row["test"],
        "parameters": row["params"],
        "FLOPs": row["flops"],
        "latency in ms": row["latency_ms"],
    }
    told = ", ".join(f"{name} {number(v)}" for name, v in facts.items() if v is not None)
    steps = "; ".join(
        f"{nodes[a]} to {nodes[b]}{f' by {label}' if label else ''}" for a, b, label in edges[:40]
    )
    more = f"; and {len(edges) - 40} more" if len(edges) > 40 else ""
    kinds = {name: pa.float64() for name in facts}
    data = {name: None if v is None else float(v) for name, v in facts.items()}
    return Figure(
        f"network_{place}",
        f"Network {row['number']}",
        f"{row['architecture']}: {told}.",
        f"{count(len(nodes), 'node')}, {count(len(edges), 'arrow')}: {steps}{more}.",
        table([{"architecture": row["architecture"], **data}], {"architecture": pa.string(), **kinds}),
        {},
        svg=draw_svg(nodes, edges),
    )
