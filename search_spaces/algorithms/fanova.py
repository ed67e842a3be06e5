"""Functional analysis of variance of a random forest: how much of its variance over a space is of which parameter.

Hutter, Hoos and Leyton-Brown, An Efficient Approach for Assessing Hyperparameter Importance, ICML 2014: a tree is
constant in boxes, so means over any parameters are sums over its leaves and exact. The forest is scikit-learn's, as
Optuna's is; the measure differs, for reasons that README.md's table says: uniform on each parameter's own scale (log,
whole numbers and steps alike), and uniform over the choices of a category.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairsweep.search_spaces._parameter import Parameter, same

Floats = NDArray[np.float64]
LISTED = 64  # levels of whole numbers and steps that are told apart one by one; more are a continuous range
DEPTH = 64  # of trees, as in the authors' code and Optuna's


@dataclass(frozen=True)
class Axis:
    """One parameter as columns of a forest.

    columns: values (m, c) of its m levels in its c columns, or None for a continuous range, one column in [0, 1].
    weights: (m,) the share of each level in a uniform draw.
    """

    parameter: Parameter
    columns: Floats | None
    weights: Floats

    @classmethod
    def of(cls, p: Parameter) -> Axis:
        """A category has a column a choice, a number one: where it lies on its scale."""
        if p.kind in ("categorical", "boolean"):
            many = len(p.points(1))
            return cls(p, np.eye(many), np.full(many, 1 / many))
        levels = p.levels if p.step is not None else (p.high or 0) - (p.low or 0) + 1
        if (p.step is None and p.kind == "float") or levels > LISTED:
            return cls(p, None, np.ones(1))
        values = [p.level(k) for k in range(p.levels)] if p.step is not None else p.points(LISTED)
        if p.log:  # as drawn: a whole number has half a unit of the logarithmic axis on either side
            weights = np.diff(
                np.log(np.array([p.low, *values], dtype=float) + np.r_[-0.5, [0.5] * len(values)])
            )
        else:
            weights = np.ones(len(values))
        # In the precision of a tree, so that a level on which it cuts goes where the tree sends it.
        at = np.array([[p.unit(v)] for v in values], dtype=np.float32).astype(float)
        return cls(p, at, weights / weights.sum())

    def encode(self, values: Sequence[Any]) -> Floats:
        """(n, columns)."""
        p = self.parameter
        if p.kind in ("categorical", "boolean"):
            assert self.columns is not None
            choices = p.points(1)
            return self.columns[[next(i for i, c in enumerate(choices) if same(c, v)) for v in values]]
        return np.array([[p.unit(v)] for v in values])


def encode(axes: Sequence[Axis], configs: Sequence[Mapping[str, Any]]) -> Floats:
    """The configurations as rows of a forest's input, (n, columns of all axes)."""
    return np.hstack([axis.encode([c[axis.parameter.name] for c in configs]) for axis in axes])


@dataclass(frozen=True)
class Shares:
    """Of the variance of each tree that varies, over `k` parameters. A tree is fitted to a resample of the points, so
    the trees are a bootstrap.

    single: (trees, k) of each parameter alone. pairs: (trees, k, k), symmetric, of two together beyond each alone.
    fit: R2 for the points that a tree has not seen.
    """

    single: Floats
    pairs: Floats
    fit: float


def shares(axes: Sequence[Axis], x: Floats, y: Floats, trees: int, seed: int = 0) -> Shares:
    """Fits a forest to x (n, columns as of `encode`) and y (n,), and takes it apart."""
    from sklearn.ensemble import RandomForestRegressor

    forest = RandomForestRegressor(trees, max_depth=DEPTH, random_state=seed, oob_score=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few trees all may have seen a point
        forest.fit(x, y)
    found = [s for e in forest.estimators_ if (s := of_tree(axes, e.tree_)) is not None]
    k = len(axes)
    single, pairs = (np.array([s[i] for s in found]).reshape(-1, *([k] * (i + 1))) for i in (0, 1))
    return Shares(single, pairs, float(forest.oob_score_))


def of_tree(axes: Sequence[Axis], tree: Any) -> tuple[Floats, Floats] | None:
    """Shares of one tree's variance: (k,) of each parameter alone, (k, k) of pairs; None if the tree is constant.

    tree: scikit-learn's `tree_`.
    """
    cells, columns = _cells(axes, tree)
    sizes = [len(w) for w in cells]
    starts = np.r_[0, np.cumsum(sizes)[:-1]]
    of_cell = np.repeat(np.arange(len(axes)), sizes)  # cell -> parameter
    weight = np.concatenate(cells)
    inside = _leaves(axes, tree, columns, of_cell)
    values = tree.value[tree.children_left < 0, 0, 0]
    share = np.add.reduceat(inside * weight, starts, axis=1)  # (leaves, k): of each parameter's range
    mass = share.prod(axis=1)
    mean = mass @ values
    total = mass @ (values - mean) ** 2
    if not total > 1e-12 * max(1.0, abs(mean)) ** 2:
        return None
    given = (mass * (values - mean))[:, None] / share  # what a leaf adds where the parameter lies in it
    marginal = (given[:, of_cell] * inside).sum(axis=0)
    single = np.add.reduceat(weight * marginal**2, starts)
    both = np.zeros((len(axes), len(axes)))
    parts = [slice(a, a + n) for a, n in zip(starts, sizes, strict=True)]
    for i in range(len(axes)):
        for j in range(i + 1, len(axes)):
            table = inside[:, parts[i]].T @ (inside[:, parts[j]] * (given[:, i] / share[:, j])[:, None])
            joint = cells[i] @ table**2 @ cells[j]
            both[i, j] = both[j, i] = max(joint - single[i] - single[j], 0.0)
    return single / total, both / total


def _cells(axes: Sequence[Axis], tree: Any) -> tuple[list[Floats], list[Floats]]:
    """Of each parameter the parts between which the tree can tell: weights (m,) and values (m, columns)."""
    weights, columns, at = [], [], 0
    for axis in axes:
        if axis.columns is None:
            cuts = np.unique(tree.threshold[tree.feature == at])
            edges = np.r_[0.0, cuts, 1.0]
            weights.append(np.diff(edges))
            columns.append((edges[:-1] + edges[1:])[:, None] / 2)
        else:
            weights.append(axis.weights)
            columns.append(axis.columns)
        at += columns[-1].shape[1]
    return weights, columns


def _leaves(axes: Sequence[Axis], tree: Any, columns: Sequence[Floats], of_cell: NDArray[Any]) -> Floats:
    """(leaves, cells): 1 where a leaf's box holds the cell. In the order of the leaves' numbers."""
    of_column = np.repeat(np.arange(len(axes)), [c.shape[1] for c in columns])
    at = np.full((len(of_column), len(of_cell)), np.nan)  # column x cell -> value; NaN: of another parameter
    first = 0
    for i, c in enumerate(columns):
        at[first : first + c.shape[1], of_cell == i] = c.T
        first += c.shape[1]
    inside = np.ones((tree.node_count, len(of_cell)), dtype=bool)
    nodes = np.array([0])
    while (nodes := nodes[tree.children_left[nodes] >= 0]).size:  # depth by depth
        value, cut = at[tree.feature[nodes]], tree.threshold[nodes][:, None]
        inside[tree.children_left[nodes]] = inside[nodes] & ~(value > cut)
        inside[tree.children_right[nodes]] = inside[nodes] & ~(value <= cut)
        nodes = np.r_[tree.children_left[nodes], tree.children_right[nodes]]
    return inside[tree.children_left < 0].astype(float)
