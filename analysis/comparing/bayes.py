"""Bayesian signed-rank test with a region of practical equivalence: how probable it is that one method is better.

Benavoli et al., Time for a Change (JMLR 2017, section 4.2.1), after Benavoli et al. (ICML 2014). The distribution of
the differences has a Dirichlet process prior of strength `prior` at a difference of 0. A draw of it says how much
weight lies on pairs of differences whose mean is below, in and above the region; the probabilities are how often each
is the largest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fairsweep.analysis.comparing.blocks import blocks_of, differences, sign_of

PRIOR = 0.5


@dataclass(frozen=True)
class SignedRank:
    """Probabilities, adding up to 1, that a is practically better, that both are equivalent, that b is better.

    `rope` in the values' unit; with 0, `equivalent` is 0. `draws`: each probability is known to about 1 / sqrt(draws).
    """

    a_better: float
    equivalent: float
    b_better: float
    rope: float
    n: int
    draws: int
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


def signed_rank(
    a: ArrayLike,
    b: ArrayLike,
    rope: float = 0.0,
    mode: str = "max",
    prior: float = PRIOR,
    draws: int = 50_000,
    seed: int = 0,
    blocks: Sequence[str] | None = None,
) -> SignedRank:
    """Compares `a` with `b`, one value each a block; differences up to `rope` are none that matter.

    Where two outcomes of a draw are equally large it counts for both by half: equal methods without a region are at
    1/2 each. Blocks with a failed value are left out and named. ValueError for unequal lengths, no complete block,
    and a negative or infinite `rope`, `prior` not above 0, no draws.
    """
    if not (rope >= 0 and math.isfinite(rope)):
        raise ValueError(f"rope={rope}: must be a width of at least 0, in the unit of the values")
    if not (prior > 0 and math.isfinite(prior)) or draws < 1:
        raise ValueError(f"prior={prior}, draws={draws}: must be above 0, and at least 1")
    x, y = np.asarray(a, float), np.asarray(b, float)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"{x.size} values against {y.size}; each value needs one of the same block")
    found = blocks_of(np.column_stack([x, y]), ("a", "b"), blocks)
    gap = sign_of(mode) * differences(found.values[:, 0], found.values[:, 1])
    n = len(gap)
    z = np.concatenate([[0.0], gap])
    sums = z[:, None] + z[None, :]
    noise = 1e-12 * np.abs(z).max()  # 0.01 + 0.01 is 2 x 0.01 and at the border, however it is stored
    edge = 2 * rope
    above = np.where(np.abs(sums - edge) <= noise, 0.5, sums > edge)
    below = np.where(np.abs(sums + edge) <= noise, 0.5, sums < -edge)
    rng, wins = np.random.default_rng(seed), np.zeros(3)
    strength = np.concatenate([[prior], np.ones(n)])
    for start in range(0, draws, 5000):
        weight = rng.dirichlet(strength, min(5000, draws - start))
        right, left = ((weight @ side * weight).sum(1) for side in (above, below))
        shares = np.column_stack([right, 1 - right - left if rope > 0 else np.zeros_like(right), left])
        largest = shares >= shares.max(1, keepdims=True) - 1e-12
        wins += (largest / largest.sum(1, keepdims=True)).sum(0)
    probable = wins / draws
    notes = list(found.notes)
    if n < 5:
        notes.append(
            f"n={n}: the prior weighs {prior / (prior + n):.2g} of all; with so few it decides along"
        )
    better, same, worse = (float(p) for p in probable)
    return SignedRank(better, same, worse, rope, n, draws, found.left_out, tuple(notes))
