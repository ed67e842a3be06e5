"""How well scores rank architectures: Kendall's tau, Spearman's rho, precision among the best, and how far noise lets
any score go.

Scores and truth are aligned, one entry an architecture, larger is better. Intervals are percentile bootstraps over
architectures at 95 %: they say how much would change with other architectures of the same space, and nothing of
other seeds of the score, whose spread is a matter of `analysis.statistics`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

LEVEL = 0.95
TOP_SHARE = 0.2  # the best fifth, where a search decides
Statistic = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Estimate:
    """A statistic of the ranking and its bootstrap interval over architectures."""

    value: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class Ranking:
    """How scores rank `n` architectures. `precision` is by k; `top` is tau-b of the truly best fifth."""

    n: int
    kendall: Estimate
    spearman: Estimate
    precision: dict[int, Estimate]
    top: Estimate


@dataclass(frozen=True)
class Ceiling:
    """Kendall's tau of a perfect score against a truth of noisy means: mean and central 95 % over draws."""

    tau: float
    ci95: tuple[float, float]
    between: float
    within: float
    seeds: int


def _pair(scores: ArrayLike, truth: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(scores, float), np.asarray(truth, float)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(
            f"ranking: scores of shape {x.shape} against truth of shape {y.shape}; must be equal, (n,)"
        )
    if len(x) < 2:
        raise ValueError(f"ranking: {len(x)} architectures; a ranking needs at least 2")
    for name, values in (("scores", x), ("truth", y)):
        if not np.isfinite(values).all():
            raise ValueError(f"ranking: {name}[{int(np.argmin(np.isfinite(values)))}] is not finite")
    return x, y


def kendall_tau(scores: ArrayLike, truth: ArrayLike) -> float:
    """Kendall's tau-b, which allows for ties. 0 where one side is constant: it ranks nothing."""
    x, y = _pair(scores, truth)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    # Exact p-values, which nobody reads here, are slow; the asymptotic ones divide by n - 2.
    return float(stats.kendalltau(x, y, method="asymptotic" if len(x) > 2 else "auto").statistic)


def spearman(scores: ArrayLike, truth: ArrayLike) -> float:
    """Spearman's rho, ties at their mean rank. 0 where one side is constant."""
    x, y = _pair(scores, truth)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1])


def precision_at(scores: ArrayLike, truth: ArrayLike, k: int) -> float:
    """Share of the `k` best by score that are among the `k` truly best.

    Ties at the border of the k best are broken by chance; the value is the expectation over that.
    """
    x, y = _pair(scores, truth)
    if not 1 <= k <= len(x):
        raise ValueError(f"k={k}: must be 1 to {len(x)}, the number of architectures")
    return float(_membership(x, k) @ _membership(y, k) / k)


def top_tau(scores: ArrayLike, truth: ArrayLike, share: float = TOP_SHARE) -> float:
    """Kendall's tau-b over the truly best `share` of the architectures, at least two of them."""
    x, y = _pair(scores, truth)
    if not 0 < share <= 1:
        raise ValueError(f"share={share}: must be in (0, 1]")
    best = np.argsort(-y, kind="stable")[: max(2, math.ceil(share * len(y)))]
    return kendall_tau(x[best], y[best])


def bootstrap(
    statistics: Sequence[Statistic], scores: ArrayLike, truth: ArrayLike, draws: int = 1000, seed: int = 0
) -> list[Estimate]:
    """Each of `statistics` with its percentile interval over `draws` resamples of the architectures.

    All statistics see the same resamples. ValueError for fewer than 2 draws.
    """
    x, y = _pair(scores, truth)
    if draws < 2:
        raise ValueError(f"draws={draws}: an interval needs at least 2")
    rng = np.random.default_rng(seed)
    found = np.empty((draws, len(statistics)))
    for row in found:
        chosen = rng.integers(len(x), size=len(x))
        row[:] = [statistic(x[chosen], y[chosen]) for statistic in statistics]
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return [
        Estimate(statistic(x, y), (float(a), float(b)))
        for statistic, a, b in zip(statistics, low, high, strict=True)
    ]


def rank(
    scores: ArrayLike, truth: ArrayLike, ks: Sequence[int] = (5, 10), draws: int = 1000, seed: int = 0
) -> Ranking:
    """All that is reported of a ranking. ks: for `precision_at`; those above n are left out."""
    x, y = _pair(scores, truth)
    ks = [k for k in ks if k <= len(x)]
    precisions: list[Statistic] = [lambda a, b, k=k: precision_at(a, b, k) for k in ks]  # type: ignore[misc]  # k=k
    kendall, rho, top, *precision = bootstrap(
        [kendall_tau, spearman, top_tau, *precisions], x, y, draws, seed
    )
    return Ranking(len(x), kendall, rho, dict(zip(ks, precision, strict=True)), top)


def variance_components(values: ArrayLike) -> tuple[float, float]:
    """Variances (between architectures, within an architecture over seeds) of `values` (architectures, seeds).

    Of the one-way random-effects model; the variance between is 0 where noise alone explains the spread.
    """
    x = np.asarray(values, float)
    if x.ndim != 2 or x.shape[0] < 2 or x.shape[1] < 2 or not np.isfinite(x).all():
        raise ValueError(f"values: shape {x.shape}; must be finite, at least 2 architectures by 2 seeds")
    within = float(x.var(axis=1, ddof=1).mean())
    return max(float(x.mean(axis=1).var(ddof=1)) - within / x.shape[1], 0.0), within


def noise_ceiling(
    between: float, within: float, seeds: int, architectures: int, draws: int = 1000, seed: int = 0
) -> Ceiling:
    """What Kendall's tau a perfect score would reach, on average, against the mean of `seeds` noisy values.

    True values are drawn from N(0, between), the noise of one value from N(0, within) (variances, as from
    `variance_components`). For many draws the mean is 2/pi arcsin sqrt(between / (between + within / seeds)).
    """
    if between < 0 or within < 0 or not math.isfinite(between + within):
        raise ValueError(f"between={between}, within={within}: variances must be finite and not negative")
    if seeds < 1 or architectures < 2 or draws < 2:
        raise ValueError(
            f"seeds={seeds}, architectures={architectures}, draws={draws}: must be at least 1, 2 and 2"
        )
    rng = np.random.default_rng(seed)
    true = math.sqrt(between) * rng.standard_normal((draws, architectures))
    noise = math.sqrt(within / seeds) * rng.standard_normal((draws, architectures))
    taus = [kendall_tau(t, t + e) for t, e in zip(true, noise, strict=True)]
    low, high = np.quantile(taus, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Ceiling(float(np.mean(taus)), (float(low), float(high)), between, within, seeds)


def ceiling_of(values: ArrayLike, draws: int = 1000, seed: int = 0) -> Ceiling:
    """The noise ceiling of the truth that is the mean of `values` (architectures, seeds) over seeds."""
    x = np.asarray(values, float)
    between, within = variance_components(x)
    return noise_ceiling(between, within, x.shape[1], x.shape[0], draws, seed)


def _membership(values: np.ndarray, k: int) -> np.ndarray:
    """How likely each entry is among the `k` largest when ties are broken by chance."""
    border = np.partition(values, len(values) - k)[len(values) - k]
    above, tied = values > border, values == border
    return above + tied * (k - above.sum()) / tied.sum()
