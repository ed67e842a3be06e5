"""Pareto fronts: what no other candidate is at least as good as in everything and better in something."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def pareto(values: Sequence[Sequence[float]], modes: Sequence[str]) -> list[bool]:
    """Which of the candidates are on the front.

    values: one row a candidate, one number a criterion; NaN anywhere keeps a candidate off the front.
    modes: min or max for each criterion. Equal candidates are on the front together.
    """
    bad = [mode for mode in modes if mode not in ("min", "max")]
    if bad:
        raise ValueError(f"modes={list(modes)}: each must be min or max")
    if not len(values):
        return []
    losses = np.asarray(values, float) * np.array([1.0 if mode == "min" else -1.0 for mode in modes])
    if losses.ndim != 2:
        raise ValueError(f"values have {losses.ndim} dimensions: must be one row a candidate")
    known = ~np.isnan(losses).any(1)
    on = known.copy()
    for i in np.flatnonzero(known):
        others = losses[known]
        on[i] = not np.any((others <= losses[i]).all(1) & (others < losses[i]).any(1))
    return [bool(x) for x in on]
