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


def hypervolume(values: Sequence[Sequence[float]], modes: Sequence[str], reference: Sequence[float]) -> float:
    """Volume between the front of `values` and `reference`, an area where there are two criteria; exact.

    values, modes: as in `pareto`. reference: the worst value of each criterion that still counts; candidates that are
    not better in all of them add nothing.
    """
    signs = _signs(modes)
    if len(reference) != len(signs):
        raise ValueError(f"reference={list(reference)}: must have {len(signs)} values, one a criterion")
    limits = np.asarray(reference, float) * signs
    losses = np.asarray(values, float).reshape(-1, len(signs)) * signs
    return _volume(losses[(losses < limits).all(1)], limits)


def _volume(losses: np.ndarray, limits: np.ndarray) -> float:
    """The volume below `limits` (k,) that the rows of `losses` (n, k), all below them, dominate: slice by slice."""
    if not len(losses):
        return 0.0
    if len(limits) == 1:
        return float(limits[0] - losses.min())
    if len(limits) == 2:
        area, height = 0.0, limits[1]
        for x, y in sorted(map(tuple, losses)):
            if y < height:
                area += (limits[0] - x) * (height - y)  # a step of the staircase
                height = y
        return float(area)
    losses = losses[np.argsort(losses[:, -1], kind="stable")]
    depths = np.append(losses[1:, -1], limits[-1]) - losses[:, -1]
    return sum(
        depth * _volume(losses[: k + 1, :-1], limits[:-1]) for k, depth in enumerate(depths) if depth > 0
    )


def _signs(modes: Sequence[str]) -> np.ndarray:
    """1 for each criterion to minimise, -1 for each to maximise."""
    if any(mode not in ("min", "max") for mode in modes):
        raise ValueError(f"modes={list(modes)}: each must be min or max")
    return np.array([1.0 if mode == "min" else -1.0 for mode in modes])
