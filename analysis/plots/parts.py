"""What figures share: words for numbers, scales that fit their values, samples that say so."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
T = TypeVar("T")
_SIGNS = re.compile(r"[^\w .,%()<>-]")
# Words that notes begin with and that are no names.
BEGINNINGS = {"all", "and", "at", "cannot", "left", "no", "nothing", "one", "the", "those", "with"}
# Of an axis of names: none is left out.
NAMES = {
    "labelColor": "var(--ink)",
    "labelFontSize": 12.5,
    "labelOverlap": False,
    "ticks": False,
    "domain": False,
}


def number(value: float | int | None) -> str:
    """A number in words: four significant figures, thousands apart."""
    if value is None or not math.isfinite(value):
        return "none" if value is None else str(value)
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def count(n: int, one: str, many: str | None = None) -> str:
    """`n` of something: 1 trial, 10,000 trials."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def sentence(text: str) -> str:
    """`text` as a sentence. What begins with a symbol or a name stays as it is: `n=5`, `lr has`."""
    if not text:
        return ""
    word = text.split(" ", 1)[0]
    first = (
        text[:1].upper() if word in BEGINNINGS or text.startswith(("a data set ", "a group ")) else text[:1]
    )
    return f"{first}{text[1:]}{'' if text.endswith('.') else '.'}"


def base(height: int, **rest: Any) -> dict[str, Any]:
    """The beginning of a specification over the data set `rows`."""
    size = {"type": "fit-x", "contains": "padding"}
    return {
        "$schema": SCHEMA, "width": "container", "height": height, "autosize": size, "data": {"name": "rows"}, **rest,
    }  # fmt: skip


def stacked(step: int, names: Sequence[Any]) -> int:
    """The height of an axis of names, `step` pixels each (Vega-Lite warns of its own steps beside a width "
    "that fits)."""
    return step * max(1, len(names))


def is_log(values: Sequence[float], mode: str = "min") -> bool:
    """Whether an axis of these values is better logarithmic: losses that span more than a factor of 50."""
    finite = [v for v in values if math.isfinite(v)]
    return mode == "min" and len(finite) > 1 and min(finite) > 0 and max(finite) / min(finite) > 50


def domain(values: Sequence[float], mode: str, log: bool, cut: bool = True) -> tuple[float, float] | None:
    """Where to draw `values`: all of the better side, of the worse what is no far outlier (2.5 interquartile ranges).

    None without a finite value. On a logarithmic axis distances are those of logarithms.
    """
    x = np.array([v for v in values if math.isfinite(v) and (v > 0 or not log)], float)
    if not len(x):
        return None
    x = np.log10(x) if log else x
    low, high = float(x.min()), float(x.max())
    first, third = (float(q) for q in np.quantile(x, [0.25, 0.75]))
    reach = 2.5 * (third - first)
    if not cut:
        reach = 0.0
    if reach > 0 and mode == "min":
        high = min(high, third + reach)
    elif reach > 0:
        low = max(low, first - reach)
    room = 0.04 * (high - low) or (0.5 if log else 0.05 * abs(high) or 0.5)
    low, high = low - room, high + room
    return (10 ** max(low, -307.0), 10 ** min(high, 308.0)) if log else (low, high)


def scale(values: Sequence[float], mode: str = "min", cut: bool = True) -> tuple[dict[str, Any], int]:
    """The scale of an axis of metric values, and how many of them lie beyond it and are drawn at its edge.

    cut: far outliers on the worse side are beyond it.
    """
    log = is_log(values, mode)
    ends = domain(values, mode, log, cut)
    made: dict[str, Any] = {"nice": False, "clamp": True, **({"type": "log"} if log else {"zero": False})}
    if ends is None:
        return made, 0
    made["domain"] = list(ends)
    return made, sum(1 for v in values if math.isfinite(v) and not ends[0] <= v <= ends[1])


def progress(when: Sequence[float], last: float) -> dict[str, Any]:
    """The scale of what has passed, from 0 to `last`: logarithmic where all that changed did so in its first fifth."""
    first = min((w for w in when if w > 0), default=0.0)
    if 0 < first < last / 40 and max(when) < last / 5:
        return {"type": "log", "domain": [first, last], "nice": False}
    return {"nice": False, "domain": [0, last]} if last > 0 else {"nice": False}


def beyond(n: int) -> str:
    """What a caption says of values that are drawn at the edge."""
    if not n:
        return ""
    return f" {count(n, 'value lies', 'values lie')} beyond the axis and {'is' if n == 1 else 'are'} drawn at its edge."


def sample(rows: Sequence[T], most: int, kept: int = 0, seed: int = 0) -> tuple[list[T], str]:
    """At most `most` of `rows`, in their order: the first `kept`, others at random; and what a caption says of it."""
    if len(rows) <= most:
        return list(rows), ""
    rng = random.Random(seed)
    at = sorted([*range(kept), *rng.sample(range(kept, len(rows)), most - kept)])
    best = f"the best {kept:,} and " if kept else ""
    said = f" Drawn are {most:,} of {len(rows):,}: {best}others at random."
    return [rows[i] for i in at], said


def numeric(value: Any) -> bool:
    """Whether a value is a number that can be drawn."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def field(name: str, kind: str, title: str | None = None, **rest: Any) -> dict[str, Any]:
    """An encoding. kind: Q, N, O or T of Vega-Lite's types."""
    types = {"Q": "quantitative", "N": "nominal", "O": "ordinal", "T": "temporal"}
    return {"field": name, "type": types[kind], "title": title, **rest}


def tips(**titles: str) -> list[dict[str, Any]]:
    """A tooltip: column=title; a title that begins with '#' is of a number.

    Vega-Lite writes these titles into code, as keys whose backslashes it leaves as they are: what is no letter, digit
    or plain sign becomes `_`.
    """
    found = []
    for column, title in titles.items():
        name = _SIGNS.sub("_", title.removeprefix("#"))
        kind = {"type": "quantitative", "format": ".4~g"} if title.startswith("#") else {"type": "nominal"}
        found.append({"field": column, "title": name, **kind})
    return found
