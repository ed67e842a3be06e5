"""Aggregates over data sets with few runs each, as rliable's: Agarwal et al. (NeurIPS 2021, section 4.3).

Scores are (runs, data sets), one table a method. Resampling is stratified: runs are drawn anew within each data set,
so an interval says what other seeds would change and nothing of other data sets. For the interquartile mean scores of
different data sets must be on one scale; the probability of improvement needs none.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fairsweep.analysis.comparing.blocks import rounded, sign_of
from fairsweep.analysis.comparing.intervals import LEVEL, Interval, interquartile_mean

DRAWS = 2000


def aggregate(scores: ArrayLike, draws: int = DRAWS, level: float = LEVEL, seed: int = 0) -> Interval:
    """Interquartile mean of `scores` (runs, data sets) and its stratified percentile interval.

    Failed runs (NaN) are named and left out; the data sets may then have different numbers of runs. ValueError for
    another shape and a data set without a finite value.
    """
    runs, left_out = _runs(scores)
    _check(draws, level)
    rng = np.random.default_rng(seed)
    value = float(interquartile_mean(np.concatenate(runs)))
    drawn = np.hstack([x[rng.integers(len(x), size=(draws, len(x)))] for x in runs])
    return _interval(value, np.asarray(interquartile_mean(drawn)), min(map(len, runs)), level, left_out)


def probability_of_improvement(
    a: ArrayLike, b: ArrayLike, mode: str = "max", draws: int = DRAWS, level: float = LEVEL, seed: int = 0
) -> Interval:
    """How probable it is that a run of `a` is better than one of `b` on a data set, on average over the data sets.

    a, b: (runs, data sets), of the same data sets; runs are not paired and may differ in number. A tie counts a half:
    equal methods are at 1/2. Mann and Whitney's U on each data set, as Agarwal et al. section 4.3.
    """
    x, left_a = _runs(a)
    y, left_b = _runs(b)
    if len(x) != len(y):
        raise ValueError(f"{len(x)} data sets against {len(y)}: must be the same")
    _check(draws, level)
    sign, rng = sign_of(mode), np.random.default_rng(seed)
    value, drawn = 0.0, np.zeros(draws)
    for u, v in zip(x, y, strict=True):
        both = rounded(sign * np.concatenate([u, v]))
        gap = both[: len(u), None] - both[None, len(u) :]
        better = (gap > 0) + 0.5 * (gap == 0)
        value += float(better.mean()) / len(x)
        of_a, of_b = (rng.multinomial(len(w), np.full(len(w), 1 / len(w)), draws) / len(w) for w in (u, v))
        drawn += (of_a @ better * of_b).sum(1) / len(x)
    left_out = (*(f"a, {one}" for one in left_a), *(f"b, {one}" for one in left_b))
    return _interval(value, drawn, min(len(w) for w in (*x, *y)), level, left_out)


def _check(draws: int, level: float) -> None:
    if draws < 2 or not 0 < level < 1:
        raise ValueError(f"draws={draws}, level={level}: must be at least 2, and between 0 and 1")


def _runs(scores: ArrayLike) -> tuple[list[np.ndarray], tuple[str, ...]]:
    x = np.asarray(scores, float)
    if x.ndim != 2 or not x.size:
        raise ValueError(f"scores of shape {x.shape}: must be (runs, data sets)")
    good = np.isfinite(x)
    if not good.any(0).all():
        raise ValueError(f"scores: data set {int(np.argmin(good.any(0)))} has no run that did not fail")
    left_out = tuple(f"run {i} of data set {j}: failed" for i, j in np.argwhere(~good))
    return [x[good[:, j], j] for j in range(x.shape[1])], left_out


def _interval(value: float, drawn: np.ndarray, n: int, level: float, left_out: tuple[str, ...]) -> Interval:
    if n == 1:
        why = "n=1: a data set with one run has no spread over seeds, so there is no interval"
        return Interval(value, None, None, 1, "percentile", left_out, (why,))
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    notes = (f"n={n} runs: the interval is too short",) if n < 5 else ()
    return Interval(value, float(low), float(high), n, "percentile", left_out, notes)
