"""Parameters as axes: where a value lies, what it is called."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from fairsweep.analysis.plots.parts import number, numeric

CONFIG = "config."
FEW = 12  # whole numbers that can be cells
WIDE = 1000.0  # highest to lowest, from which on nobody says whether a scale is logarithmic but it looks so


@dataclass(frozen=True)
class Dimension:
    """A parameter as an axis. choices: of a category, in their order; otherwise low and high are numbers.

    whole: the numbers that occur, where they are a few whole ones.
    """

    name: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    choices: tuple[str, ...] = ()
    whole: tuple[int, ...] = ()

    @property
    def title(self) -> str:
        """The name, and that the axis is logarithmic."""
        return f"{self.name} (log)" if self.log else self.name

    @property
    def cells(self) -> Dimension:
        """The same with a few whole numbers as choices, each of which is a cell of a grid."""
        return replace(self, choices=tuple(map(str, self.whole)), log=False) if self.whole else self

    def place(self, value: Any) -> float | None:
        """Where a value lies, 0 to 1; None where the trial does not have the parameter."""
        if value is None:
            return None
        if self.choices:
            text = said(value)
            return self.choices.index(text) / max(1, len(self.choices) - 1) if text in self.choices else None
        if not numeric(value) or (self.log and value <= 0):
            return None
        low, high, v = (math.log(x) if self.log else x for x in (self.low, self.high, value))
        return (v - low) / (high - low) if high > low else 0.5


def said(value: Any) -> str:
    """A value of a parameter in words."""
    if isinstance(value, bool):
        return str(value).lower()
    return number(value) if isinstance(value, float) else str(value)


def dimensions(
    trials: pa.Table, names: Sequence[str] | None = None, log: Sequence[str] | None = None
) -> list[Dimension]:
    """The parameters of a sweep that have more than one value, as axes over the values that occur.

    names: which; None: all. log: those on a logarithmic scale; None: those whose values span three orders of magnitude.
    """
    found = []
    for column in trials.column_names:
        name = column.removeprefix(CONFIG)
        if not column.startswith(CONFIG) or (names is not None and name not in names):
            continue
        values = [v for v in trials[column].unique().to_pylist() if v is not None]
        if len(values) < 2:
            continue
        if all(numeric(v) for v in values):
            low, high = float(min(values)), float(max(values))
            wide = name in log if log is not None else low > 0 and high / low >= WIDE
            whole = (
                tuple(sorted(values))
                if len(values) <= FEW and all(isinstance(v, int) for v in values)
                else ()
            )
            found.append(Dimension(name, low, high, wide and low > 0, whole=whole))
        else:
            found.append(Dimension(name, choices=tuple(sorted({said(v) for v in values}))))
    return found


def valued(trials: pa.Table, dims: Sequence[Dimension], mode: str) -> list[dict[str, Any]]:
    """The trials with a value, the best first: trial, state, value and the parameters by place."""
    columns = ["trial", "state", "value", *(CONFIG + d.name for d in dims)]
    rows = [r for r in trials.select(columns).to_pylist() if numeric(r["value"])]
    sign = 1.0 if mode == "min" else -1.0
    return sorted(rows, key=lambda r: sign * r["value"])
