"""Tests on pairs that turn signs: permutation test of the mean, Wilcoxon's signed-rank test, Holm's correction.

Permutation: Fisher, The Design of Experiments (1935), section 21; where not all turns can be tried, p counts the
observed one too (Phipson and Smyth, Statistical Applications in Genetics and Molecular Biology 2010, section 4), so
it is never 0. Wilcoxon: Biometrics Bulletin 1945; for comparisons of methods Demšar (JMLR 2006, section 3.1.3). Here
its distribution is exact with ties and zeros as well, up to `EXACT_RANKS` pairs. Holm: Scandinavian Journal of
Statistics 1979.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from fairsweep.analysis.comparing.blocks import blocks_of, differences, limits_in_words

EXACT_SIGNS = 16  # 2^15 turns
EXACT_RANKS = 200
ZEROS = ("drop", "split")


@dataclass(frozen=True)
class PairedTest:
    """A two-sided test of pairs a - b. `statistic`: the mean difference, or the sum of the ranks where a is larger.

    `n`: pairs that count; `zeros`: pairs that are equal. `exact`: all turns of signs were counted.
    """

    statistic: float
    p: float
    n: int
    zeros: int
    exact: bool
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


def permutation(
    a: ArrayLike, b: ArrayLike, draws: int = 19_999, seed: int = 0, blocks: Sequence[str] | None = None
) -> PairedTest:
    """Whether the mean of a - b is 0: exact up to 16 pairs that differ, else from `draws` turns of the signs.

    Pairs with a failed value (NaN) are left out and named. ValueError for unequal lengths and no complete pair.
    """
    gap, left_out, notes = _gaps(a, b, blocks)
    moved = gap[gap != 0]
    p, exact = turned(moved[None, :], draws, seed)
    return PairedTest(float(gap.mean()), float(p[0]), len(gap), len(gap) - len(moved), exact, left_out, notes)


def turned(gaps: np.ndarray, draws: int = 19_999, seed: int = 0) -> tuple[np.ndarray, bool]:
    """Two-sided p of the sum of each row of `gaps` (tests, pairs) under turns of the signs, and whether it is exact."""
    if draws < 1:
        raise ValueError(f"draws={draws}: must be at least 1")
    n = gaps.shape[1]
    if n == 0:
        return np.ones(len(gaps)), True
    # Sums in another order differ in the last bits.
    least = np.abs(gaps.sum(1)) - 1e-12 * np.abs(gaps).sum(1)
    if n <= EXACT_SIGNS:  # the first sign stands: turning all of them gives the same absolute sum
        bits = np.arange(2 ** (n - 1))[:, None] >> np.arange(n - 1)
        signs = np.hstack([np.ones((len(bits), 1)), 1.0 - 2.0 * (bits & 1)])
        return (np.abs(signs @ gaps.T) >= least).mean(0), True
    rng, beyond = np.random.default_rng(seed), np.ones(len(gaps))
    for start in range(0, draws, 1000):  # of many blocks at once they would fill the memory
        signs = 1.0 - 2.0 * rng.integers(0, 2, (min(1000, draws - start), n))
        beyond += (np.abs(signs @ gaps.T) >= least).sum(0)
    return beyond / (draws + 1), False


def wilcoxon(
    a: ArrayLike, b: ArrayLike, zeros: str = "drop", blocks: Sequence[str] | None = None
) -> PairedTest:
    """Wilcoxon's signed-rank test of a - b.

    zeros: equal pairs are dropped (Wilcoxon 1945), or their ranks are split between the sides (Demšar 2006), which
    changes nothing where there are none. Ties share their mean rank. Failed pairs are left out and named. ValueError
    for unequal lengths, no complete pair, and another `zeros`.
    """
    if zeros not in ZEROS:
        raise ValueError(f"zeros={zeros!r}: must be {' or '.join(ZEROS)}")
    gap, left_out, notes = _gaps(a, b, blocks)
    equal = int((gap == 0).sum())
    kept = gap[gap != 0] if zeros == "drop" else gap
    ranks = stats.rankdata(np.abs(kept))
    at_zero = float(ranks[kept == 0].sum()) / 2
    plus = float(ranks[kept > 0].sum())
    free = ranks[kept != 0]
    exact = len(free) <= EXACT_RANKS
    p = _exact_p(free, plus) if exact else _normal_p(free, plus)
    return PairedTest(plus + at_zero, p, len(gap), equal, exact, left_out, notes)


def holm(p: ArrayLike) -> np.ndarray:
    """Holm's adjusted p-values, in the order given. ValueError for what is not in [0, 1]."""
    x = np.asarray(p, float)
    if x.ndim != 1 or not ((x >= 0) & (x <= 1)).all():
        raise ValueError(f"p={x.tolist()}: must be a row of numbers in [0, 1]")
    order = np.argsort(x, kind="stable")
    stepped = np.maximum.accumulate(x[order] * np.arange(len(x), 0, -1)) if len(x) else x
    adjusted = np.empty_like(x)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def _gaps(
    a: ArrayLike, b: ArrayLike, blocks: Sequence[str] | None
) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...]]:
    x, y = np.asarray(a, float), np.asarray(b, float)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"{x.size} values against {y.size}; each value needs one of the same block")
    found = blocks_of(np.column_stack([x, y]), ("a", "b"), blocks)
    gap = differences(found.values[:, 0], found.values[:, 1])
    counted = int((gap != 0).sum())
    notes = list(found.notes)
    if counted < len(gap):
        notes.append(f"{len(gap) - counted} of {len(gap)} pairs are equal and show no difference")
    return gap, found.left_out, (*notes, *limits_in_words(counted))


def _exact_p(ranks: np.ndarray, plus: float) -> float:
    """Of the sum of `ranks` with a plus, each of which has it with 1/2: counted over all sums, in half ranks."""
    half = np.rint(2 * ranks).astype(int)
    share = np.ones(1)
    for rank in half:
        longer = np.zeros(len(share) + rank)
        longer[: len(share)] += share / 2
        longer[rank:] += share / 2
        share = longer
    off = abs(2 * round(2 * plus) - int(half.sum()))  # twice the distance from the middle
    return float(min(1.0, share[np.abs(2 * np.arange(len(share)) - int(half.sum())) >= off].sum()))


def _normal_p(ranks: np.ndarray, plus: float) -> float:
    z = (plus - ranks.sum() / 2) / np.sqrt((ranks**2).sum() / 4)
    return float(min(1.0, 2 * stats.norm.sf(abs(z))))
