"""Pareto fronts: what no other candidate is at least as good as in everything and better in something.

How much a set of candidates achieves together is the area that it dominates, its hypervolume (Zitzler and Thiele,
IEEE Transactions on Evolutionary Computation 1999).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def pareto(values: Sequence[Sequence[float]], modes: Sequence[str]) -> list[bool]:
    """Which of the candidates are on the front.

    values: one row a candidate, one number a criterion; NaN anywhere keeps a candidate off the front.
    modes: min or max for each criterion. Equal candidates are on the front together.
    """
    signs = _signs(modes)
    if not len(values):
        return []
    losses = np.asarray(values, float) * signs
    if losses.ndim != 2:
        raise ValueError(f"values have {losses.ndim} dimensions: must be one row a candidate")
    known = ~np.isnan(losses).any(1)
    on = known.copy()
    for i in np.flatnonzero(known):
        others = losses[known]
        on[i] = not np.any((others <= losses[i]).all(1) & (others < losses[i]).any(1))
    return [bool(x) for x in on]


def keeps(row: Mapping[str, Any], limits: Mapping[str, float]) -> bool:
    """Whether the costs in `row` are within the upper `limits`; one that is not known (None) is not."""
    return all(row[cost] is not None and row[cost] <= limit for cost, limit in limits.items())


def front_within(rows: Sequence[Mapping[str, Any]], cost: str, limits: Mapping[str, float]) -> list[bool]:
    """Which rows are on the front of `score` (more is better) against `cost`, among those that keep the limits.

    What breaks a limit is out before anything is compared: it may not hide what keeps it.
    """
    values = [(row["score"], row[cost]) if keeps(row, limits) else (None, None) for row in rows]
    known = [tuple(np.nan if value is None else float(value) for value in pair) for pair in values]
    return pareto(known, ("max", "min"))


def hypervolume(
    values: Sequence[Sequence[float]], modes: Sequence[str], reference: tuple[float, float]
) -> float:
    """Area between the front of `values` and `reference`, in two criteria; exact.

    values, modes: as in `pareto`. reference: the worst value of each criterion that still counts; candidates that are
    not better in both add nothing.
    """
    signs = _signs(modes)
    if len(signs) != 2:
        raise ValueError(f"modes={list(modes)}: must be two, an area has two sides")
    losses = np.asarray(values, float).reshape(-1, 2) * signs
    width, height = np.asarray(reference, float) * signs
    area = 0.0
    for x, y in sorted(map(tuple, losses)):
        if x < width and y < height:
            area += (width - x) * (height - y)  # the part below what came before: a step of the staircase
            height = y
    return float(area)


def _signs(modes: Sequence[str]) -> np.ndarray:
    """1 for each criterion to minimise, -1 for each to maximise."""
    if any(mode not in ("min", "max") for mode in modes):
        raise ValueError(f"modes={list(modes)}: each must be min or max")
    return np.array([1.0 if mode == "min" else -1.0 for mode in modes])
