"""Numbers over seeds: means with Student's t intervals, the best configuration, paired comparisons.

Every interval is two-sided at 95 %. Differences between methods are taken seed by seed (paired), with
Wilcoxon's signed-rank test beside the t test as Demšar (JMLR 2006, section 3.1) advises for few runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from scipy.special import stdtrit  # `scipy.stats`, which calls it too, takes .7 s to import

LEVEL = 0.95
_PREFIX = "metric."
_NEEDED = ("config_id", "state", "value")


@dataclass(frozen=True)
class Summary:
    """`n` values in their own unit: mean, standard deviation (n - 1), interval of the mean.

    `mean` is None for n = 0; `sd` and `ci95` are None for n < 2. Where a value is not finite, so is the mean.
    """

    n: int
    mean: float | None
    sd: float | None
    ci95: tuple[float, float] | None

    def within(self, low: float, high: float) -> Summary:
        """The same, with the interval cut to where the mean can lie.

        Student's interval of two accuracies reaches beyond 1. What is cut away cannot hold the mean, so the interval
        covers it as often as before.
        """
        if self.ci95 is None or not math.isfinite(self.ci95[0]) or not math.isfinite(self.ci95[1]):
            return self
        return replace(self, ci95=(max(self.ci95[0], low), min(self.ci95[1], high)))


@dataclass(frozen=True)
class ConfigSummary:
    """A configuration over its seeds.

    `value` (of the objective) and `metrics` (by name) are over its complete trials; those of a
    configuration that has none are over its trials that were stopped early or still run. `complete`: every
    trial of it is. `trials` and `completed` count trials.
    """

    config_id: int
    trials: int
    completed: int
    complete: bool
    value: Summary
    metrics: dict[str, Summary]


@dataclass(frozen=True)
class Paired:
    """a - b over `n` pairs. `p_t` and `p_wilcoxon` are two-sided; None, as `ci95`, for a single pair."""

    n: int
    difference: float
    ci95: tuple[float, float] | None
    p_t: float | None
    p_wilcoxon: float | None


def summary(values: Sequence[float] | np.ndarray) -> Summary:
    """Mean, standard deviation and Student's t interval of `values`."""
    x = np.asarray(values, dtype=float)
    groups = _summaries(np.zeros(len(x), dtype=np.int64), x, np.ones(len(x), dtype=bool), 1)
    return groups[0]


def summarise(trials: pa.Table) -> list[ConfigSummary]:
    """One summary a configuration, by `config_id`. `trials` is the store's table of one sweep.

    ValueError if a column is missing or if there are trials of several sweeps.
    """
    missing = [name for name in _NEEDED if name not in trials.column_names]
    if missing:
        raise ValueError(f"trials: column {missing[0]!r} is missing; give the store's table of trials")
    if "sweep" in trials.column_names and len(trials.column("sweep").unique()) > 1:
        raise ValueError(
            "trials: they are of several sweeps, whose config_ids mean different things; give one sweep's"
        )
    if trials.column("config_id").null_count:
        raise ValueError("trials: config_id is null in a row; every trial belongs to a configuration")
    ids, group = np.unique(trials.column("config_id").to_numpy().astype(np.int64), return_inverse=True)
    states = np.asarray(trials.column("state").to_pylist(), dtype=object)
    done = states == "complete"
    count = np.bincount(group, minlength=len(ids))
    completed = np.bincount(group[done], minlength=len(ids))
    counted = np.where(completed[group] > 0, done, states != "failed")
    values = _summaries(group, *_numbers(trials, "value", counted), len(ids))
    metrics = {
        name.removeprefix(_PREFIX): _summaries(group, *_numbers(trials, name, counted), len(ids))
        for name in trials.column_names
        if name.startswith(_PREFIX)
    }
    return [
        ConfigSummary(
            config_id=int(config_id),
            trials=int(count[i]),
            completed=int(completed[i]),
            complete=bool(completed[i] == count[i]),
            value=values[i],
            metrics={name: found[i] for name, found in metrics.items()},
        )
        for i, config_id in enumerate(ids)
    ]


def best(trials: pa.Table, mode: str) -> ConfigSummary | None:
    """The configuration with the best mean value; the lowest `config_id` among equals; None without a value.

    It is chosen among the configurations all of whose seeds are complete; if there are none, among those
    with the most complete seeds; if no trial is complete, among those that were stopped early. The answer's
    `complete` is then False. ValueError for another `mode` than min or max and for what `summarise` refuses.
    """
    if mode not in ("min", "max"):
        raise ValueError(f"mode={mode!r}: must be min or max")
    found = [c for c in summarise(trials) if c.value.mean is not None and math.isfinite(c.value.mean)]
    if not found:
        return None
    whole = [c for c in found if c.complete]
    if not whole:
        most = max(c.completed for c in found)
        whole = [c for c in found if c.completed == most]
    sign = 1.0 if mode == "min" else -1.0
    return min(whole, key=lambda c: (sign * (c.value.mean or 0.0), c.config_id))


def paired(a: Sequence[float], b: Sequence[float]) -> Paired:
    """Compares `a` with `b`, whose i-th values share a seed: mean of a - b, its interval, p-values.

    Differences are rounded to twelve significant digits of the values before they are ranked, so that ties of
    accuracies are ties, in shares as in per cent. ValueError for different lengths, for no values, and for values that
    are not finite.
    """
    from scipy import stats

    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"paired: {x.size} values against {y.size}; each value needs one of the same seed")
    if x.size == 0:
        raise ValueError("paired: no values")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("paired: a value is not finite; leave out failed seeds on both sides")
    difference = without_noise(x - y, np.maximum(np.abs(x), np.abs(y)))
    found = summary(difference)
    mean = float(difference.mean())
    if found.ci95 is None:
        return Paired(1, mean, None, None, None)
    if not difference.any():  # SciPy answers NaN here; equal values are no evidence of a difference
        return Paired(x.size, 0.0, found.ci95, 1.0, 1.0)
    p_t = 0.0 if found.sd == 0.0 else float(stats.ttest_1samp(difference, 0.0).pvalue)
    return Paired(x.size, mean, found.ci95, p_t, float(stats.wilcoxon(difference).pvalue))


def without_noise(difference: np.ndarray, size: np.ndarray) -> np.ndarray:
    """`difference` of numbers of `size` without its binary rounding error: to 12 significant digits of the numbers."""
    with np.errstate(divide="ignore", over="ignore"):
        place = 10.0 ** (np.floor(np.log10(np.where(size > 0, size, 1.0))) - 11)
    whole = np.round(difference / place)
    # Twelve digits of each again: k * 1e-12 is rounded itself, and ties are ties of what is ranked.
    rounded = np.array([float(f"{w * p:.12g}") for w, p in zip(whole, place, strict=True)])
    return np.where(np.isfinite(rounded), rounded, difference)


def _numbers(trials: pa.Table, name: str, counted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values of a column, and which of them count: those of `counted` trials that are not null."""
    column = trials.column(name).cast(pa.float64())
    there = ~np.asarray(column.is_null().to_numpy(), dtype=bool)
    return column.to_numpy(), there & counted


def _summaries(group: np.ndarray, values: np.ndarray, counted: np.ndarray, groups: int) -> list[Summary]:
    group, values = group[counted], values[counted]
    n = np.bincount(group, minlength=groups)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(group, values, minlength=groups) / n
        squares = np.bincount(group, (values - mean[group]) ** 2, minlength=groups)
        sd = np.sqrt(squares / (n - 1))
        half = stdtrit(np.maximum(n - 1, 1), 0.5 + LEVEL / 2) * sd / np.sqrt(n)
    return [
        Summary(
            n=int(n[i]),
            mean=float(mean[i]) if n[i] else None,
            sd=float(sd[i]) if n[i] > 1 else None,
            ci95=(float(mean[i] - half[i]), float(mean[i] + half[i])) if n[i] > 1 else None,
        )
        for i in range(groups)
    ]
