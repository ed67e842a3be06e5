"""Bootstrap intervals: percentile, and bias-corrected and accelerated (BCa).

Efron and Tibshirani, An Introduction to the Bootstrap (1993), sections 13.3 and 14.3; the interquartile mean as in
Agarwal et al. (NeurIPS 2021, section 4.3). SciPy does the resampling. What it answers with NaN is defined here: a
sample without spread has the interval [value, value], one value has none.

A bootstrap interval of few values is too short: of 95 % it covers about 82 to 86 % for the mean of n = 5 normal values
(`statistics.summary` gives Student's, which is exact there); `notes` say so below 10.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from fairsweep.analysis.comparing.blocks import differences, rounded

LEVEL = 0.95
METHODS = ("percentile", "bca")
FEW = 10
Statistic = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Interval:
    """A statistic of `n` values and its two-sided interval; `low` and `high` are None where `notes` say why."""

    value: float
    low: float | None
    high: float | None
    n: int
    method: str
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


def mean(x: np.ndarray, axis: int = -1) -> np.ndarray:
    """The mean along `axis`."""
    return np.mean(x, axis=axis)


def interquartile_mean(x: np.ndarray, axis: int | None = -1) -> np.ndarray:
    """Mean of the middle half: a quarter of the values, rounded down, is cut at each end (none of fewer than four)."""
    return stats.trim_mean(x, 0.25, axis=axis)


def interval(
    values: ArrayLike,
    statistic: Statistic = mean,
    method: str = "bca",
    level: float = LEVEL,
    draws: int = 9999,
    seed: int = 0,
) -> Interval:
    """`statistic` of `values` (n,) with its interval. statistic: takes an array and `axis`.

    Failed values (NaN) are left out and named by their place. ValueError for no finite value, another `method`, a
    `level` outside (0, 1) and fewer than 2 draws.
    """
    _check(method, level, draws)
    x = np.asarray(values, float)
    if x.ndim != 1:
        raise ValueError(f"values of shape {x.shape}: must be a row")
    good = np.isfinite(x)
    return _interval((x[good],), _left_out(good), statistic, False, method, level, draws, seed)


def difference(
    a: ArrayLike,
    b: ArrayLike,
    paired: bool = True,
    statistic: Statistic = mean,
    method: str = "bca",
    level: float = LEVEL,
    draws: int = 9999,
    seed: int = 0,
) -> Interval:
    """Interval of `a` - `b`: of the statistic of the differences (paired), else of the difference of the statistics.

    paired: the i-th values share a seed; a pair with a failed value is left out. The errors are those of `interval`,
    and ValueError for unequal lengths of pairs. `n` is that of the smaller side.
    """
    _check(method, level, draws)
    x, y = np.asarray(a, float), np.asarray(b, float)
    if x.ndim != 1 or y.ndim != 1 or (paired and len(x) != len(y)):
        raise ValueError(
            f"difference: shapes {x.shape} and {y.shape}; must be rows, of equal length if paired"
        )
    if paired:
        good = np.isfinite(x) & np.isfinite(y)
        gap = differences(x[good], y[good])
        return _interval((gap,), _left_out(good), statistic, False, method, level, draws, seed)
    left_out = _left_out(np.isfinite(x), "a ") + _left_out(np.isfinite(y), "b ")
    samples = (x[np.isfinite(x)], y[np.isfinite(y)])

    def of_both(u: np.ndarray, v: np.ndarray, axis: int = -1) -> np.ndarray:
        return statistic(u, axis=axis) - statistic(v, axis=axis)

    return _interval(samples, left_out, of_both, False, method, level, draws, seed)


def of_pairs(
    x: ArrayLike,
    y: ArrayLike,
    statistic: Statistic,
    method: str = "bca",
    level: float = LEVEL,
    draws: int = 9999,
    seed: int = 0,
) -> Interval:
    """Interval of a statistic of pairs, as a correlation: takes two arrays and `axis`; pairs are resampled together."""
    _check(method, level, draws)
    u, v = np.asarray(x, float), np.asarray(y, float)
    if u.ndim != 1 or u.shape != v.shape:
        raise ValueError(f"of_pairs: shapes {u.shape} and {v.shape}; must be rows of equal length")
    good = np.isfinite(u) & np.isfinite(v)
    return _interval((u[good], v[good]), _left_out(good), statistic, True, method, level, draws, seed)


def _check(method: str, level: float, draws: int) -> None:
    if method not in METHODS:
        raise ValueError(f"method={method!r}: must be {' or '.join(METHODS)}")
    if not 0 < level < 1:
        raise ValueError(f"level={level}: must be between 0 and 1")
    if draws < 2:
        raise ValueError(f"draws={draws}: an interval needs at least 2")


def _left_out(good: np.ndarray, side: str = "") -> tuple[str, ...]:
    return tuple(f"{side}value {i}: failed" for i in np.flatnonzero(~good))


def _interval(
    samples: tuple[np.ndarray, ...],
    left_out: tuple[str, ...],
    statistic: Statistic,
    paired: bool,
    method: str,
    level: float,
    draws: int,
    seed: int,
) -> Interval:
    n = min(len(x) for x in samples)
    if n == 0:
        raise ValueError(f"no finite values ({'; '.join(left_out) or 'none were given'})")
    with np.errstate(all="ignore"):
        value = float(statistic(*samples, axis=-1))
    if not np.isfinite(value):
        return Interval(
            value, None, None, n, method, left_out, ("the statistic is not defined for these values",)
        )
    if n == 1:
        return Interval(value, None, None, n, method, left_out, ("n=1: an interval needs two values",))
    notes = (f"n={n}: a bootstrap interval of so few values is too short",) if n < FEW else ()
    # Equal up to rounding is equal: a spread of 1e-17 would be resampled as if it were one.
    if all(np.ptp(rounded(x)) == 0 for x in samples):
        return Interval(value, value, value, n, method, left_out, (*notes, "the values do not differ"))
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is degenerate, which `notes` say
        found = stats.bootstrap(
            samples,
            statistic,
            paired=paired,
            vectorized=True,
            n_resamples=draws,
            confidence_level=level,
            method="BCa" if method == "bca" else "percentile",
            random_state=np.random.default_rng(seed),
        )
        low, high = (float(end) for end in found.confidence_interval)
        if np.isnan(low) or np.isnan(high):
            # All resamples, or all that leave one value out, agree: there is nothing to correct the percentiles by.
            drawn = found.bootstrap_distribution
            low, high = (float(end) for end in np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]))
            notes = (*notes, "BCa is not defined for these values; percentiles are given")
            method = "percentile"
    return Interval(value, low, high, n, method, left_out, notes)
