"""How figures look: colours by what they are for, as names that a page may turn, and as the colours of a printed page.

The eight of the series are distinguishable with the common colour blindnesses in both themes (Okabe and Ito 2008, with
more contrast where a theme needs it).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# name -> (light, dark)
COLOURS: dict[str, tuple[str, str]] = {
    "ink": ("#1c2430", "#e6e9ee"),
    "muted": ("#566273", "#a3adba"),
    "grid": ("#e3e7ec", "#333b47"),
    "faint": ("#aab4c1", "#6f7b8c"),
    "surface": ("#ffffff", "#171c24"),
    "s1": ("#0069a8", "#4fb3ef"),
    "s2": ("#c2500a", "#f0935a"),
    "s3": ("#00805f", "#2fc39b"),
    "s4": ("#a8447f", "#e08fbf"),
    "s5": ("#8a6d00", "#e0c04a"),
    "s6": ("#5b4fb0", "#a99cf5"),
    "s7": ("#3d7f9c", "#8fd0ea"),
    "s8": ("#6b6b6b", "#b8b8b8"),
    "good": ("#00805f", "#2fc39b"),
    "bad": ("#b3261e", "#f2857d"),
    "open": ("#7a6200", "#dcc05a"),
}
SERIES = [f"var(--s{k})" for k in range(1, 9)]
SEQUENCE = "viridis"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

# The configuration of every figure, on a page and in a file.
CONFIG: dict[str, Any] = {
    "background": None,
    "font": FONT,
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--muted)",
        "titleColor": "var(--ink)",
        "titleFontWeight": 500,
        "labelFontSize": 11.5,
        "titleFontSize": 12.5,
        "titlePadding": 8,
        "gridColor": "var(--grid)",
        "domainColor": "var(--faint)",
        "tickColor": "var(--faint)",
        "labelOverlap": "greedy",
        "labelSeparation": 6,
        "labelLimit": 150,
        "tickCount": {"expr": "max(3, min(8, floor(width / 70)))"},
    },
    "axisX": {"titleLimit": {"expr": "width"}},
    "axisY": {"tickCount": 5, "titleLimit": {"expr": "height + 30"}},
    "legend": {
        "labelColor": "var(--ink)",
        "titleColor": "var(--ink)",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": 500,
        "orient": "top",
        "labelLimit": 220,
        "symbolOpacity": 1,
        "gradientLength": 180,
        "columns": {"expr": "max(1, floor(width / 190))"},
    },
    "text": {"color": "var(--ink)", "fontSize": 12},
    "rule": {"color": "var(--faint)"},
    "bar": {"color": "var(--s1)"},
    "point": {"color": "var(--s1)"},
    "line": {"color": "var(--s1)"},
    "range": {"category": SERIES, "ramp": {"scheme": SEQUENCE}},
}


def css(theme: int) -> str:
    """The colours as CSS declarations. theme: 0 light, 1 dark."""
    return "".join(f"--{name}:{pair[theme]};" for name, pair in COLOURS.items())


def static(spec: Mapping[str, Any], width: int) -> dict[str, Any]:
    """`spec` for a file: light colours in place of their names, on white, `width` pixels wide."""
    config = {**CONFIG, "background": COLOURS["surface"][0], "font": "sans-serif"}
    config["axis"] = {**config["axis"], "tickCount": max(3, min(8, width // 70))}
    config["legend"] = {**config["legend"], "columns": max(1, width // 190)}
    made = _light({**spec, "config": {**config, **spec.get("config", {})}})
    if made.get("width") == "container":
        made["width"] = width
    return made


def _light(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: v if k == "datasets" else _light(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_light(v) for v in value]
    if isinstance(value, str) and value.startswith("var(--"):
        return COLOURS.get(value.removeprefix("var(--").removesuffix(")"), (value,))[0]
    return value
