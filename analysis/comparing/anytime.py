"""How good a search is at any moment, and how firmly one ranks first over seeds.

Normalised regret is the distance to the best value known as a share of the range of values on that data set (Wistuba
et al., DSAA 2015, average distance to the minimum); its area over the budget is the mean regret at a moment drawn at
random (an anytime measure as of López-Ibáñez and Stützle, EJOR 2014, section 2). Rank stability: Hall and Miller,
Annals of Statistics 2009, section 2: ranks of bootstrap samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from fairsweep.analysis.comparing.blocks import rounded, sign_of
from fairsweep.analysis.comparing.intervals import LEVEL


@dataclass(frozen=True)
class Anytime:
    """`times` where the regret changes, the normalised regret (0 to 1) from each on, and its mean over the horizon."""

    times: tuple[float, ...]
    regret: tuple[float, ...]
    area: float
    final: float
    failed: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Stability:
    """How often each method is first when seeds are drawn anew (ties are shared), and the interval of its place."""

    methods: tuple[str, ...]
    first: tuple[float, ...]
    place: tuple[float, ...]
    place_ci95: tuple[tuple[float, float], ...]
    n: int
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


def anytime(
    times: ArrayLike, values: ArrayLike, horizon: float, best: float, worst: float, mode: str = "max"
) -> Anytime:
    """Regret of a search whose trials ended at `times` (from 0; seconds, steps or trials) with `values`.

    best, worst: the ends of the range, the same for all searches that are compared; what lies outside counts as the
    end. Before the first value the regret is 1, after a failed trial (NaN) what it was. Trials after `horizon` do not
    count. ValueError for unequal lengths, a negative time, and a range the wrong way round; where best equals worst
    nothing can be regretted: all is 0.
    """
    sign = sign_of(mode)
    t, x = np.asarray(times, float), np.asarray(values, float)
    if t.ndim != 1 or t.shape != x.shape or not np.isfinite(t).all() or (t < 0).any():
        raise ValueError(
            f"times of shape {t.shape}, values of {x.shape}: must be alike, times finite and from 0 on"
        )
    if not (horizon > 0 and np.isfinite(horizon)):
        raise ValueError(f"horizon={horizon}: must be above 0 and finite")
    width = sign * (best - worst)
    if not (width >= 0 and np.isfinite(width)):
        raise ValueError(f"best={best}, worst={worst}: must be finite and in that order under mode={mode}")
    order = np.argsort(t, kind="stable")
    t, x = t[order], x[order]
    counted = t <= horizon
    good = counted & np.isfinite(x)
    failed = int((counted & ~np.isfinite(x)).sum())
    notes = [f"{failed} trials failed; their time counts"] if failed else []
    if width == 0:
        notes.append("best equals worst: no search can be told from another")
    if not good.any():
        notes.append("no value before the horizon")
    reached = np.maximum.accumulate(sign * x[good])
    share = np.clip((sign * best - reached) / width, 0.0, 1.0) if width > 0 else np.zeros(len(reached))
    at = np.concatenate([[0.0], t[good]])
    level = np.concatenate([[1.0 if width > 0 else 0.0], share])
    area = float(level @ np.diff(at, append=horizon)) / horizon
    last = np.append(np.diff(at) > 0, True)  # of trials that ended at once
    at, level = at[last], level[last]
    change = np.concatenate([[True], np.diff(level) != 0])
    return Anytime(
        tuple(at[change].tolist()),
        tuple(level[change].tolist()),
        area,
        float(level[-1]),
        failed,
        tuple(notes),
    )


def rank_stability(
    scores: ArrayLike,
    mode: str = "max",
    methods: Sequence[str] | None = None,
    paired: bool = True,
    draws: int = 2000,
    seed: int = 0,
) -> Stability:
    """Who is first when the seeds are drawn anew? scores: (methods, data sets, seeds).

    The place of a method is by its rank among the means of a data set, averaged over data sets. paired: the i-th seed
    is the same for all methods, and they are drawn together; a seed that failed for one is left out for all.
    Otherwise each has its own. ValueError for another shape and a data set without a value.
    """
    sign = sign_of(mode)
    x = np.asarray(scores, float)
    if x.ndim != 3 or len(x) < 2 or not x.size:
        raise ValueError(
            f"scores of shape {x.shape}: must be (methods, data sets, seeds), at least 2 methods"
        )
    names = tuple(str(i) for i in range(len(x))) if methods is None else tuple(methods)
    if len(names) != len(x) or draws < 2:
        raise ValueError(f"{len(names)} names, draws={draws}: must be {len(x)} names and at least 2 draws")
    good = np.isfinite(x)
    left_out = tuple(f"{names[m]} on data set {d}, seed {s}: failed" for m, d, s in np.argwhere(~good))
    if paired:
        good = np.broadcast_to(good.all(0), good.shape)
    if not good.any(2).all():
        raise ValueError(f"scores: a data set has no seed left ({'; '.join(left_out)})")
    rng = np.random.default_rng(seed)
    total = np.zeros((draws, len(x)))
    seen = np.zeros((1, len(x)))
    fewest = int(good.sum(2).min())
    for d in range(x.shape[1]):
        kept = [x[m, d, good[m, d]] for m in range(len(x))]
        shared = rng.random((draws, x.shape[2])) if paired else None
        means = np.empty((draws, len(x)))
        for m, k in enumerate(kept):
            u = rng.random((draws, len(k))) if shared is None else shared[:, : len(k)]
            means[:, m] = k[(u * len(k)).astype(int)].mean(1)
        total += stats.rankdata(-sign * rounded(means), axis=1)
        seen += stats.rankdata(-sign * rounded(np.array([[k.mean() for k in kept]])), axis=1)
    place = stats.rankdata(total, axis=1)
    top = total == total.min(1, keepdims=True)
    first = (top / top.sum(1, keepdims=True)).mean(0)
    low, high = np.quantile(place, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    notes = []
    if fewest == 1:
        notes.append("n=1: one seed drawn anew is the same seed; how firm the order is cannot be said")
    elif fewest < 5:
        notes.append(f"n={fewest} seeds: an order looks firmer than it is")
    return Stability(
        names,
        tuple(first.tolist()),
        tuple(stats.rankdata(seen, axis=1)[0].tolist()),
        tuple((float(a), float(b)) for a, b in zip(low, high, strict=True)),
        fewest,
        left_out,
        tuple(notes),
    )
