"""PED-ANOVA: how much the configurations that are best differ from the others, parameter by parameter.

Watanabe, Bansal and Hutter, PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary Subspaces,
IJCAI 2023, equation 16: the Pearson divergence of a parameter's density among the best from that in the region.
Densities are Parzen estimates on a grid with Scott's bandwidth, as in Optuna's evaluator, with which a test compares
them; here they take weights, so that a bootstrap need not make a study a draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from fairsweep.search_spaces._parameter import Parameter, same

Floats = NDArray[np.float64]
STEPS = 50  # of the grid of a continuous range
NARROWEST = 0.5 / 1.64  # bandwidth in steps of the grid: 90 % of a kernel within its own step


@dataclass(frozen=True)
class Grid:
    """One parameter's values on a grid. cells: (n,) of each configuration. size: of the grid. ordered: numbers."""

    cells: NDArray[np.int64]
    size: int
    ordered: bool

    @classmethod
    def of(cls, p: Parameter, values: Sequence[Any]) -> Grid:
        """At most `STEPS` of a number's values, evenly on its scale; each choice of a category."""
        if p.kind in ("categorical", "boolean"):
            choices = p.points(1)
            found = [next(i for i, c in enumerate(choices) if same(c, v)) for v in values]
            return cls(np.array(found, dtype=np.int64), len(choices), False)
        assert p.low is not None and p.high is not None
        low, high, x = float(p.low), float(p.high), np.array(values, dtype=float)
        size = STEPS
        if p.step is not None or (p.kind == "int" and not p.log):
            size = min(p.levels if p.step is not None else int(high - low) + 1, STEPS)
        elif p.kind == "int":
            size = min(math.ceil(math.log2(high - low + 1)) + 1, STEPS)
        if p.log:
            low, high, x = math.log(low), math.log(high), np.log(x)
        cells = np.ceil((x - low) / ((high - low) / (size - 1)) - 0.5).astype(np.int64)
        return cls(np.clip(cells, 0, size - 1), size, True)

    def density(self, weights: Floats) -> Floats:
        """(size,) the Parzen estimate of configurations that count `weights` (n,) times, and one uniform kernel."""
        counts = np.bincount(self.cells, weights, self.size).astype(np.float64)
        seen = np.flatnonzero(counts)
        counts = counts[seen]
        if self.ordered:
            kernels = _normal(
                np.r_[seen, (self.size - 1) / 2], _bandwidths(seen, counts, self.size), self.size
            )
        else:
            kernels = np.full((len(seen) + 1, self.size), 1 / (len(seen) + 1))
            kernels[np.arange(len(seen)), seen] += 1
            kernels /= kernels.sum(axis=1, keepdims=True)
        mixture: Floats = np.r_[counts, 1.0] @ kernels / (counts.sum() + 1)
        return mixture + 1e-12


def best(values: Floats, weights: Floats, quantile: float) -> NDArray[np.bool_]:
    """(n,) the least `quantile` of values (n,), each counted `weights` (n,) times, and all that tie with the last."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order]) >= math.ceil(quantile * weights.sum() - 1e-9)
    last: float = values[order[np.argmax(reached)]]
    return values <= last


def divergences(
    grids: Sequence[Grid], values: Floats, weights: Floats, quantile: float = 0.1, region: float = 1.0
) -> Floats:
    """(k,) how much each parameter's density among the best `quantile` differs from that among the best `region`.

    values: (n,) less is better. weights: (n,) how often each configuration counts. All zero where both are the same
    configurations.
    """
    top, wide = (weights * best(values, weights, q) for q in (quantile, region))
    found = np.zeros(len(grids))
    for i, grid in enumerate(grids):
        p, q = grid.density(top), grid.density(wide)
        found[i] = q @ (p / q - 1) ** 2
    return found * (top.sum() / wide.sum()) ** 2


def _bandwidths(seen: NDArray[Any], counts: Floats, size: int) -> Floats:
    """Scott's rule (Multivariate Density Estimation, 1992) for all kernels, and the whole grid for the uniform one."""
    many, so_far = counts.sum(), np.cumsum(counts)
    deviation = math.sqrt(counts @ (seen - counts @ seen / many) ** 2 / max(1, many - 1))
    quarter = np.searchsorted(so_far, many // 4, "left")
    last = min(len(seen) - 1, int(np.searchsorted(so_far, many * 3 // 4, "right")))
    width = 1.059 * min((seen[last] - seen[quarter]) / 1.34, deviation) * many**-0.2
    return np.r_[np.full(len(seen), max(width, NARROWEST)), size]


def _normal(centres: Floats, widths: Floats, size: int) -> Floats:
    """(kernels, size) normal densities, integrated over each step of the grid and cut off at its ends."""
    edges = (np.arange(size + 1) - 0.5 - centres[:, None]) / widths[:, None]
    mirrored = (
        edges[:, :-1] > 0
    )  # right of its centre by the other tail, so that differences keep their digits
    left, right = edges[:, :-1], edges[:, 1:]
    inner = np.where(mirrored, ndtr(-left) - ndtr(-right), ndtr(right) - ndtr(left))
    return inner / inner.sum(axis=1, keepdims=True)
