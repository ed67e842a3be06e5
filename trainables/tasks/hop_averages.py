"""Averages of the hops of a graph's features, made before training: parameter-free, node by node (DGMLP, SGC).

Zhang, Sheng et al., Evaluating Deep Graph Neural Networks, arXiv:2108.00955: a node's average weighs the hops that are
still close to its own features and far from where all hops end.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from fairsweep.trainables.datasets.graphs import Graph
from fairsweep.trainables.tasks.message_passing import Features, Structure
from fairsweep.trainables.tasks.node_classification import load
from fairsweep.trainables.tasks.sparse import on_device

BLOCK = 256  # columns that are propagated at a time, so that no hop is ever held whole
KEPT = 2  # averages that a graph keeps for the next trials, (n, p) each


def memory(rows: int, width: int, K: int, kind: str) -> float:
    """Bytes of the averages of the hops 0 .. K of features (rows, width) and of what their weights are made in.

    kind: as in `Smoothing.weights`; "nsl" sums up three values of each node and hop in double precision.
    """
    return 4.0 * KEPT * rows * width + (28.0 if kind == "nsl" else 4.0) * rows * (K + 1)


def thinned(graph: Graph, edges: float, features: float) -> tuple[Any, sp.csr_matrix]:
    """Features and adjacency of `graph` with these shares of its edges, and of its nodes that have features, left.

    What is left out is the same for every trial; features of a node that has none are 0.
    """
    rng = np.random.default_rng(0)
    x, adjacency = graph.features, graph.adjacency
    if edges < 1:
        upper = sp.triu(adjacency, 1).tocoo()
        kept = rng.permutation(upper.nnz)[: round(edges * upper.nnz)]
        half = sp.csr_matrix((upper.data[kept], (upper.row[kept], upper.col[kept])), shape=adjacency.shape)
        adjacency = sp.csr_matrix(half + half.T)
    if features < 1:
        has = np.zeros(graph.nodes, np.float32)
        has[rng.permutation(graph.nodes)[: round(features * graph.nodes)]] = 1
        x = sp.csr_matrix(sp.diags(has) @ x) if sp.issparse(x) else x * has[:, None]
    return x, adjacency


class Smoothing:
    """The hops X^(k) = A^k X of features x (n, p), A = D^-1/2 (A + I) D^-1/2, their smoothing levels and averages.

    Neither labels nor seeds enter, so what it has computed serves all trials on the graph. A pass over K hops costs
    K products of A with X; two are made, of the levels and of the average. Bytes: see `memory`.
    """

    def __init__(self, x: np.ndarray | sp.csr_matrix, adjacency: sp.csr_matrix, device: str = "cpu") -> None:
        self.structure, self.device = Structure(adjacency, device), device
        self.matrix = sp.csr_matrix(x, dtype=np.float32) if sp.issparse(x) else np.asarray(x, np.float32)
        self._columns = self.matrix.tocsc() if sp.issparse(x) else self.matrix
        self._levels: dict[bool, Tensor] = {}  # by `exact`: (n, K + 1) of the most hops asked for so far
        self._averages: dict[tuple[Any, ...], Tensor] = {}

    @cached_property
    def features(self) -> Features:
        """X on the device, for networks that propagate by themselves."""
        return on_device(self.matrix, self.device)

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """The columns of X, dense, BLOCK of them at a time."""
        for start in range(0, self.matrix.shape[1], BLOCK):
            columns = slice(start, start + BLOCK)
            part = self._columns[:, columns]
            dense = part.toarray() if sp.issparse(part) else np.ascontiguousarray(part)
            yield columns, torch.tensor(dense, device=self.device)

    def hops(self, x: Tensor, K: int) -> Iterator[Tensor]:
        """x, A x, ..., A^K x."""
        yield x
        for _ in range(K):
            x = self.structure.propagation.matmul(x)
            yield x

    @cached_property
    def _component(self) -> tuple[Tensor, Tensor]:
        """Of each node: its component (n,) and its degree in A + I (n, 1)."""
        _, component = connected_components(self.structure.adjacency, directed=False)
        degree = 1 + np.asarray(self.structure.adjacency.sum(1)).ravel()
        return (
            torch.tensor(component, dtype=torch.int64, device=self.device),
            torch.tensor(degree, dtype=torch.float32, device=self.device)[:, None],
        )

    def limit(self, x: Tensor, exact: bool = True) -> Tensor:
        """A^k x for k -> infinity, of each component by itself: sqrt(d_v) sum_u sqrt(d_u) x_u / (2 M + N).

        exact: false: the sum of d_u x_u, as the authors' code has it.
        """
        component, degree = self._component
        root = degree.sqrt() if exact else degree
        size = int(component.max()) + 1
        total = degree.new_zeros(size, 1).index_add_(0, component, degree)  # 2 M + N
        mean = x.new_zeros(size, x.shape[1]).index_add_(0, component, root * x) / total
        return mean[component] * (root if exact else 1)

    def levels(self, K: int, exact: bool = True) -> Tensor:
        """NSL (n, K + 1) of each node and hop: cos(X^(k), X^(0)) (1 - cos(X^(k), X^(inf))).

        Large where the hop is close to the node's own features and far from where all hops end. The level of a hop
        does not depend on K, so those of fewer hops are the first columns.
        """
        if exact not in self._levels or self._levels[exact].shape[1] <= K:
            n = self.structure.nodes
            own, far, size = torch.zeros(3, K + 1, n, dtype=torch.float64, device=self.device)
            end = own.new_zeros(n)
            for _, x in self.blocks():
                limit = self.limit(x, exact)
                end += limit.square().sum(1)
                for k, h in enumerate(self.hops(x, K)):
                    own[k] += (h * x).sum(1)
                    far[k] += (h * limit).sum(1)
                    size[k] += h.square().sum(1)
            norm, end = size.sqrt_().add_(1e-10), end.sqrt_().add_(1e-10)  # in place: the three are large
            own.div_(norm).div_(norm[0]).mul_(far.div_(norm).div_(end).neg_().add_(1))
            self._levels[exact] = own.T.float()
        return self._levels[exact][:, : K + 1]

    def weights(self, K: int, kind: str, T: float = 1.0, exact: bool = True) -> Tensor:
        """(n, K + 1), each row of sum 1: the softmax over the hops of NSL / T ("nsl"), all alike, or the last one."""
        if kind == "nsl":
            return (self.levels(K, exact) / T).softmax(1)
        weights = torch.zeros(self.structure.nodes, K + 1, device=self.device)
        if kind == "last":
            weights[:, K] = 1
        else:
            weights[:] = 1 / (K + 1)
        return weights

    def average(self, K: int, kind: str, T: float = 1.0, exact: bool = True) -> Tensor:
        """The average (n, p) of the hops 0 .. K by `weights` of the same arguments."""
        key = (K, kind, T, exact)
        if key not in self._averages:
            weights = self.weights(*key)
            out = torch.empty(self.matrix.shape, device=self.device)
            for columns, x in self.blocks():
                total = torch.zeros_like(x)
                for k, h in enumerate(self.hops(x, K)):
                    total.addcmul_(weights[:, k : k + 1], h)
                out[:, columns] = total
            while len(self._averages) >= KEPT:
                self._averages.pop(next(iter(self._averages)))
            self._averages[key] = out
        return self._averages[key]


@lru_cache(maxsize=2)
def smoothing(
    name: str, folder: Path | None, device: str, scale: str, edges: float, features: float
) -> Smoothing:
    """That of a graph by name, one object for all trials of a process. scale: see the space."""
    graph = load(name, folder)
    x, adjacency = thinned(graph, edges, features)
    if scale == "raw" and graph.row_sums is not None:
        x = sp.csr_matrix(sp.diags(graph.row_sums) @ x) if sp.issparse(x) else x * graph.row_sums[:, None]
    return Smoothing(x, adjacency, device)
