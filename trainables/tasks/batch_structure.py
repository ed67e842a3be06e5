"""The layers of `message_passing` on a batch of graphs that lives for one step: its structure is made on its device."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from fairsweep.trainables.tasks.graph_layers import scatter
from fairsweep.trainables.tasks.message_passing import Structure
from fairsweep.trainables.tasks.sparse import SparseMatrix, csr, product


class _Total:
    """A, the entries of an undirected edge weighed by `weight` (m,) if there is one; its gradient reaches that."""

    def __init__(self, ends: Tensor, nodes: int, weight: Tensor | None) -> None:
        self.ends, self.nodes, self.weight = ends, nodes, weight

    @cached_property
    def _matrix(self) -> Tensor:
        u, v = self.ends
        row, column = torch.cat([u, v]), torch.cat([v, u])
        order = torch.argsort(row, stable=True)
        starts = torch.bincount(row, minlength=self.nodes).cumsum(0)
        pointer = torch.cat([starts.new_zeros(1), starts]).int()
        ones = torch.ones(len(row), device=row.device)
        return csr((pointer, column[order].int()), ones, (self.nodes, self.nodes))

    def matmul(self, h: Tensor) -> Tensor:
        """(n, c): the sums of the states h (n, c) of each node's neighbours."""
        if self.weight is None:
            return product(self._matrix, self._matrix, h)  # it is its own transpose
        u, v = self.ends
        out = torch.zeros_like(h).index_add(0, u, self.weight[:, None] * h.index_select(0, v))
        return out.index_add(0, v, self.weight[:, None] * h.index_select(0, u))

    @cached_property
    def degree(self) -> Tensor:
        """(n, 1): what `matmul` gives for ones."""
        weight = (
            torch.ones(self.ends.shape[1], device=self.ends.device) if self.weight is None else self.weight
        )
        return (scatter(weight, self.ends[0], self.nodes) + scatter(weight, self.ends[1], self.nodes))[
            :, None
        ]


class _Propagation:
    """D^-1/2 (A + I) D^-1/2 as `Structure.propagation`."""

    def __init__(self, total: _Total) -> None:
        self.total, self.root = total, (1 + total.degree).rsqrt()

    def matmul(self, h: Tensor) -> Tensor:
        scaled = self.root * h
        return self.root * (self.total.matmul(scaled) + scaled)


class _Mean:
    """D^-1 A as `Structure.mean`."""

    def __init__(self, total: _Total) -> None:
        self.total = total

    def matmul(self, h: Tensor) -> Tensor:
        degree = self.total.degree
        return self.total.matmul(h) / torch.where(degree > 0, degree, 1)


class BatchStructure(Structure):
    """The undirected edges `ends` (2, m), each once and none a loop, among so many nodes.

    weight: (m,), of the edges in sums and means; attention goes without. The cost is linear in nodes and edges.
    """

    def __init__(self, ends: Tensor, nodes: int, weight: Tensor | None = None) -> None:
        self.ends, self._nodes, self.weight, self.device = ends, nodes, weight, ends.device

    @property
    def nodes(self) -> int:
        return self._nodes

    @cached_property
    def total(self) -> _Total:  # type: ignore[override]
        return _Total(self.ends, self._nodes, self.weight)

    @cached_property
    def propagation(self) -> _Propagation:  # type: ignore[override]
        return _Propagation(self.total)

    @cached_property
    def looped(self) -> SparseMatrix:  # type: ignore[override]
        return Structure.of_edges(self.ends.cpu().numpy(), self._nodes, self.device).propagation

    @cached_property
    def mean(self) -> _Mean:  # type: ignore[override]
        return _Mean(self.total)
