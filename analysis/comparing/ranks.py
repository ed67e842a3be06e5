"""Several methods on several blocks by their ranks: Friedman, Nemenyi, Wilcoxon-Holm, critical-difference diagrams.

Demšar (JMLR 2006, section 3.2.2): Friedman's test, Iman and Davenport's form of it, Nemenyi's critical difference.
Benavoli, Corani and Mangili (JMLR 2016): whether two methods differ must not depend on which others were compared, as
it does after Nemenyi; so the diagram is of Wilcoxon tests with Holm's correction, and Nemenyi's stands beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from fairsweep.analysis.comparing.blocks import (
    ALPHA,
    Blocks,
    blocks_of,
    limits_in_words,
    rounded,
    sign_of,
)
from fairsweep.analysis.comparing.paired_tests import holm, wilcoxon


@dataclass(frozen=True)
class Friedman:
    """Whether `n` blocks rank the methods alike. `ranks`: mean rank of each method, 1 is best.

    `chi2` is corrected for ties, `chi2_plain` is not (Demšar's formula); `p` is of `chi2`, `p_iman_davenport` of the F
    statistic `iman_davenport` made from it (infinite where every block ranks alike).
    """

    methods: tuple[str, ...]
    ranks: tuple[float, ...]
    n: int
    chi2: float
    chi2_plain: float
    p: float
    iman_davenport: float
    p_iman_davenport: float
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """Two methods: `p` of their test alone and `p_holm` among all pairs."""

    a: str
    b: str
    p: float
    p_holm: float


@dataclass(frozen=True)
class Diagram:
    """What a critical-difference diagram shows. `methods` and `ranks` from the best on.

    `cliques`: largest groups none of whose pairs differ, each in the order of `methods`; a method alone in its group
    is left out. `critical_difference`: of Nemenyi's diagram, None for Wilcoxon's.
    """

    methods: tuple[str, ...]
    ranks: tuple[float, ...]
    n: int
    pairs: tuple[Pair, ...]
    cliques: tuple[tuple[str, ...], ...]
    critical_difference: float | None
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


def friedman(
    scores: ArrayLike,
    mode: str = "max",
    methods: Sequence[str] | None = None,
    blocks: Sequence[str] | None = None,
) -> Friedman:
    """Friedman's test of `scores` (blocks, methods), for two methods as for more.

    Ties share their mean rank; where all methods tie in all blocks p is 1. ValueError as of `blocks_of`.
    """
    found = blocks_of(scores, methods, blocks)
    ranks = _ranks(found.values, mode)
    n, k = ranks.shape
    off = n * float(((ranks.mean(0) - (k + 1) / 2) ** 2).sum())
    plain = 12 * off / (k * (k + 1))
    spread = float(((ranks - (k + 1) / 2) ** 2).sum()) / (n * (k - 1))
    chi2 = off / spread if spread > 0 else 0.0
    rest = n * (k - 1) - chi2
    f = 0.0 if chi2 == 0 else math.inf if n == 1 or rest < 1e-9 * chi2 else (n - 1) * chi2 / rest
    # One block leaves nothing to compare its ranks with.
    p_f = 1.0 if n == 1 else float(stats.f.sf(f, k - 1, (k - 1) * (n - 1)))
    notes = list(found.notes)
    if n < 10 or k < 5:
        notes.append(
            f"n={n}, {k} methods: the distributions of both statistics are approximate below 10 and 5"
        )
    if n == 1:
        notes.append("n=1: one block cannot tell methods apart")
    if spread == 0:
        notes.append("all methods are equal in all blocks")
    return Friedman(
        found.methods,
        tuple(float(r) for r in ranks.mean(0)),
        n,
        chi2,
        plain,
        1.0 if n == 1 else float(stats.chi2.sf(chi2, k - 1)),
        f,
        p_f,
        found.left_out,
        tuple(notes),
    )


def critical_difference(n: int, k: int, alpha: float = ALPHA) -> float:
    """Nemenyi's: mean ranks of `k` methods over `n` blocks that differ by more are significantly different."""
    if n < 1 or k < 2 or not 0 < alpha < 1:
        raise ValueError(f"n={n}, k={k}, alpha={alpha}: must be at least 1 block, 2 methods, and in (0, 1)")
    return float(stats.studentized_range.ppf(1 - alpha, k, np.inf)) * math.sqrt(k * (k + 1) / (12 * n))


def nemenyi(
    scores: ArrayLike,
    mode: str = "max",
    methods: Sequence[str] | None = None,
    blocks: Sequence[str] | None = None,
    alpha: float = ALPHA,
) -> Diagram:
    """Nemenyi's diagram of `scores` (blocks, methods). Its p-values are adjusted as they are: `p_holm` repeats `p`.

    A method's neighbours decide over it (Benavoli et al. 2016), which `wilcoxon_holm` avoids.
    """
    found = blocks_of(scores, methods, blocks)
    ranks = _ranks(found.values, mode)
    n, k = ranks.shape
    mean = ranks.mean(0)
    wide = critical_difference(n, k, alpha)
    notes = list(found.notes)
    if wide >= k - 1:
        notes.append(
            f"cannot be significant with {n} blocks and {k} methods: the critical difference {wide:.3g} is not below "
            f"{k - 1}, the largest there is between mean ranks"
        )
    p = {
        (i, j): float(
            stats.studentized_range.sf(abs(mean[i] - mean[j]) * math.sqrt(12 * n / (k * (k + 1))), k, np.inf)
        )
        for i in range(k)
        for j in range(i + 1, k)
    }
    differ = {pair: abs(mean[pair[0]] - mean[pair[1]]) > wide for pair in p}
    return _diagram(found, mean, p, p, differ, wide, notes)


def wilcoxon_holm(
    scores: ArrayLike,
    mode: str = "max",
    methods: Sequence[str] | None = None,
    blocks: Sequence[str] | None = None,
    alpha: float = ALPHA,
    zeros: str = "drop",
) -> Diagram:
    """The diagram of pairwise Wilcoxon tests with Holm's correction over all pairs, of `scores` (blocks, methods).

    Blocks with a failed trial are left out for all pairs, so that all are compared on the same. ValueError as of
    `blocks_of`.
    """
    found = blocks_of(scores, methods, blocks)
    n, k = found.values.shape
    index = [(i, j) for i in range(k) for j in range(i + 1, k)]
    tests = [wilcoxon(found.values[:, i], found.values[:, j], zeros) for i, j in index]
    adjusted = holm([test.p for test in tests])
    p = {pair: test.p for pair, test in zip(index, tests, strict=True)}
    p_holm = {pair: float(x) for pair, x in zip(index, adjusted, strict=True)}
    differ = {pair: x <= alpha for pair, x in p_holm.items()}
    notes = [*found.notes, *limits_in_words(n, len(index), k, alpha)]
    notes += [
        f"{found.methods[i]} and {found.methods[j]} are equal in {test.zeros} of {n} blocks"
        for (i, j), test in zip(index, tests, strict=True)
        if test.zeros
    ]
    return _diagram(found, _ranks(found.values, mode).mean(0), p, p_holm, differ, None, notes)


def cliques(alike: np.ndarray) -> list[tuple[int, ...]]:
    """Largest groups of two and more of whom each pair is `alike` (k, k), symmetric (Bron and Kerbosch, CACM 1973)."""
    near = [{int(j) for j in np.flatnonzero(row) if j != i} for i, row in enumerate(alike)]
    found: list[tuple[int, ...]] = []

    def grow(group: list[int], could: set[int], seen: set[int]) -> None:
        if not could and not seen:
            if len(group) > 1:
                found.append(tuple(sorted(group)))
            return
        pivot = max(could | seen, key=lambda v: (len(could & near[v]), -v))
        for v in sorted(could - near[pivot]):
            grow([*group, v], could & near[v], seen & near[v])
            could = could - {v}
            seen = seen | {v}

    grow([], set(range(len(near))), set())
    return sorted(found)


def _ranks(values: np.ndarray, mode: str) -> np.ndarray:
    return stats.rankdata(-sign_of(mode) * rounded(values), axis=1)


def _diagram(
    found: Blocks,
    mean: np.ndarray,
    p: dict[tuple[int, int], float],
    p_holm: dict[tuple[int, int], float],
    differ: dict[tuple[int, int], bool],
    wide: float | None,
    notes: list[str],
) -> Diagram:
    order = [int(i) for i in np.argsort(mean, kind="stable")]
    place = {method: at for at, method in enumerate(order)}
    alike = np.ones((len(order), len(order)), dtype=bool)
    for (i, j), apart in differ.items():
        alike[place[i], place[j]] = alike[place[j], place[i]] = not apart
    groups = cliques(alike)
    if any(group[-1] - group[0] >= len(group) for group in groups):
        notes = [*notes, "a group leaves out a method that ranks between its members; draw it with a gap"]
    names = found.methods
    return Diagram(
        tuple(names[i] for i in order),
        tuple(float(mean[i]) for i in order),
        len(found.values),
        tuple(Pair(names[i], names[j], p[i, j], p_holm[i, j]) for i, j in p),
        tuple(tuple(names[order[at]] for at in group) for group in groups),
        wide,
        found.left_out,
        tuple(notes),
    )
