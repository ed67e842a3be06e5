"""Graphs of users and items on a device, and products with matrices whose entries a network computes for each pair.

A pair is one interaction of a user with an item. Nodes are numbered users first, then items.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from fairsweep.trainables.tasks.sparse import SparseMatrix, csr


class Bipartite:
    """m pairs (2, m) of users and items, each pair once. degree: of each node, (users + items,)."""

    def __init__(self, pairs: Tensor, users: int, items: int) -> None:
        self.pairs, self.users, self.items = pairs, users, items
        self.degree = torch.cat(
            [torch.bincount(pairs[0], minlength=users), torch.bincount(pairs[1], minlength=items)]
        )
        self._patterns: dict[tuple[int, bool], Pattern] = {}

    @property
    def nodes(self) -> int:
        """Users and items together."""
        return self.users + self.items

    @cached_property
    def ends(self) -> Tensor:
        """The pairs as numbers of nodes, (2, m)."""
        return self.pairs + torch.tensor([[0], [self.users]], device=self.pairs.device)

    @cached_property
    def propagation(self) -> SparseMatrix:
        """D^-1/2 A D^-1/2 without loops, (nodes, nodes)."""
        ends = self.ends.cpu().numpy()
        root = 1 / np.sqrt(np.maximum(self.degree.cpu().numpy(), 1))
        values = np.tile(root[ends[0]] * root[ends[1]], 2)
        places = (np.concatenate(ends), np.concatenate(ends[::-1]))
        return SparseMatrix(
            sp.csr_matrix((values, places), shape=(self.nodes, self.nodes)), self.pairs.device
        )

    def pattern(self, stalk: int, full: bool) -> Pattern:
        """Where blocks (stalk, stalk) of the pairs lie, or their diagonals; made once."""
        if (stalk, full) not in self._patterns:
            self._patterns[stalk, full] = Pattern(self, stalk, full)
        return self._patterns[stalk, full]


class Pattern:
    """The matrix (users s, items s) that has a block (s, s) at each pair, all of it (`full`) or its diagonal."""

    def __init__(self, graph: Bipartite, stalk: int, full: bool) -> None:
        device, (user, item) = graph.pairs.device, graph.pairs.cpu().numpy()
        within = np.indices((stalk, stalk)).reshape(2, -1) if full else np.stack([np.arange(stalk)] * 2)
        rows = (user[:, None] * stalk + within[0]).ravel()
        columns = (item[:, None] * stalk + within[1]).ravel()
        self.shape = graph.users * stalk, graph.items * stalk
        # What the entries hold are their numbers: they say where each value of a block goes.
        numbers = sp.csr_matrix((np.arange(len(rows)), (rows, columns)), shape=self.shape)
        self._rows, self._order = self._of(numbers, device)
        self._turned_rows, self._turned_order = self._of(numbers.T.tocsr(), device)
        back = np.empty(len(rows), np.int64)
        back[numbers.data] = np.arange(len(rows))
        self._back = torch.tensor(back, device=device)

    @staticmethod
    def _of(numbers: sp.csr_matrix, device: torch.device) -> tuple[tuple[Tensor, Tensor], Tensor]:
        numbers.sort_indices()
        ends, columns = (
            torch.tensor(x, dtype=torch.int32, device=device) for x in (numbers.indptr, numbers.indices)
        )
        return (ends, columns), torch.tensor(numbers.data, dtype=torch.int64, device=device)

    def matrices(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The matrix with `values` (m s s,) or (m s,), block by block, and its transpose."""
        n, m = self.shape
        return (
            csr(self._rows, values[self._order], (n, m)),
            csr(self._turned_rows, values[self._turned_order], (m, n)),
        )

    def dots(self, left: Tensor, right: Tensor) -> Tensor:
        """The products left right^T of rows (users s, c) and (items s, c) at the entries, as `matrices` takes them."""
        empty = csr(self._rows, left.new_zeros(len(self._order)), self.shape)
        return torch.sparse.sampled_addmm(empty, left, right.T, beta=0.0).values()[self._back]

    def exchange(self, values: Tensor, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """B items and B^T users, of states (users s, c) and (items s, c); differentiable in all three."""
        return _Exchange.apply(values, users, items, self)


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, users: Tensor, items: Tensor, pattern: Pattern
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(users, items)
        ctx.pattern, ctx.pair = pattern, pattern.matrices(values)
        one, two = ctx.pair
        return one @ items, two @ users

    @staticmethod
    def backward(ctx: Any, to_users: Tensor, to_items: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        users, items = ctx.saved_tensors
        one, two = ctx.pair
        values = ctx.pattern.dots(torch.cat([to_users, users], 1), torch.cat([items, to_items], 1))
        return values, one @ to_items, two @ to_users, None
