"""Blocks: what methods are compared on. One row a block (a data set, or one under a seed), one column a method.

A value that is missing (NaN) or not finite is a failed trial. Its block cannot be compared; it is left out whole, and
each result names it in `left_out`, with the method that failed. A method that fails where it is hard gains by that,
which `notes` say.

Numbers are compared at twelve significant digits, so that ties of accuracies are ties (as in `statistics.paired`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fairsweep.analysis.statistics import without_noise

ALPHA = 0.05
MODES = ("min", "max")


@dataclass(frozen=True)
class Blocks:
    """Finite `values` (blocks, methods), the names of both, and which blocks were left out and why."""

    values: np.ndarray
    methods: tuple[str, ...]
    blocks: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What has to be said of the blocks that were left out."""
        if not self.left_out:
            return ()
        many = len(self.left_out)
        return (
            f"{many} of {many + len(self.blocks)} blocks left out because a trial failed; "
            "a method that fails where it is hard gains by that",
        )


def blocks_of(
    scores: ArrayLike, methods: Sequence[str] | None = None, blocks: Sequence[str] | None = None
) -> Blocks:
    """The complete blocks of `scores` (blocks, methods); names are `0`, `1`, ... where none are given.

    ValueError for another shape, fewer than two methods, names that do not fit or come twice, and where no block is
    complete.
    """
    x = np.asarray(scores, float)
    if x.ndim != 2 or x.shape[1] < 2:
        raise ValueError(f"scores of shape {x.shape}: must be (blocks, methods) with at least 2 methods")
    names = _names("methods", methods, x.shape[1])
    rows = _names("blocks", blocks, x.shape[0])
    finite = np.isfinite(x)
    whole = finite.all(1)
    left_out = tuple(
        f"block {rows[i]}: no value of {', '.join(names[j] for j in np.flatnonzero(~finite[i]))}"
        for i in np.flatnonzero(~whole)
    )
    if not whole.any():
        raise ValueError(
            f"scores: no block has a value of every method ({'; '.join(left_out) or 'no blocks'})"
        )
    return Blocks(x[whole], names, tuple(rows[i] for i in np.flatnonzero(whole)), left_out)


def sign_of(mode: str) -> float:
    """1 where larger is better, -1 where smaller is. ValueError for another `mode` than min or max."""
    if mode not in MODES:
        raise ValueError(f"mode={mode!r}: must be min or max")
    return 1.0 if mode == "max" else -1.0


def differences(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a - b without binary rounding error."""
    return without_noise(a - b, np.maximum(np.abs(a), np.abs(b)))


def rounded(values: np.ndarray) -> np.ndarray:
    """Rows of `values` at twelve significant digits of the largest number of the row: equal is what differs by less."""
    size = np.broadcast_to(np.abs(values).max(-1, keepdims=True), values.shape)
    return without_noise(values.ravel(), size.ravel()).reshape(values.shape)


def smallest_p(n: int) -> float:
    """The smallest p that `n` pairs can give in a two-sided test that turns signs (Wilcoxon, permutation): 2 / 2^n."""
    return 2.0 ** (1 - n) if n else 1.0


def fewest(comparisons: int, alpha: float = ALPHA) -> int:
    """How many blocks the smallest p takes to be at most `alpha` after Holm's correction over so many tests."""
    return next(m for m in range(1, 64) if smallest_p(m) * comparisons <= alpha)


def limits_in_words(n: int, comparisons: int = 1, methods: int = 2, alpha: float = ALPHA) -> tuple[str, ...]:
    """Why `n` blocks cannot give a significant difference whatever the values are; nothing where they can.

    comparisons: how many tests Holm's correction is over.
    """
    least = smallest_p(n)
    if least * comparisons <= alpha:
        return ()
    need = fewest(comparisons, alpha)
    if least > alpha:
        return (
            f"n={n}: no two-sided Wilcoxon can be below {_short(least)}; to be significant takes n={need}",
        )
    return (
        f"cannot be significant with {n} blocks and {methods} methods after Holm: the smallest p is "
        f"{comparisons} x {_short(least)} = {_short(min(1.0, comparisons * least))}; that needs {need} blocks",
    )


def _short(p: float) -> str:
    return f"{p:.4g}".removeprefix("0") if p < 1 else "1"


def _names(field: str, names: Sequence[str] | None, many: int) -> tuple[str, ...]:
    found = tuple(str(i) for i in range(many)) if names is None else tuple(str(name) for name in names)
    if len(found) != many or len(set(found)) != many:
        raise ValueError(f"{field}={list(found)}: must be {many} different names, one of each")
    return found
