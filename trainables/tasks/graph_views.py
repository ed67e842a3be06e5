"""Random views of one graph for self-supervision: some arcs left out, some columns of the features zero."""

from __future__ import annotations

import torch
from torch import Tensor

from fairsweep.trainables.tasks.sparse import csr, product


class Propagation:
    """A constant sparse matrix (n, n) with its transpose, to be multiplied by node states."""

    def __init__(self, forward: Tensor, backward: Tensor) -> None:
        self.forward, self.backward = forward, backward

    def matmul(self, x: Tensor) -> Tensor:
        """The product with x (n, c), differentiable in x."""
        return product(self.forward, self.backward, x)


class Arcs:
    """The arcs of an undirected graph of n nodes, m in each direction, as each view takes its own share of them.

    links: (2, m) pairs of different nodes, each once.
    """

    def __init__(self, links: Tensor, nodes: int) -> None:
        device, loops = links.device, torch.arange(nodes, device=links.device)
        rows, columns = torch.cat([links, links.flip(0), loops.expand(2, -1)], 1)
        order = (rows * nodes + columns).argsort()
        self.nodes, self.rows, self.columns = nodes, rows[order], columns[order]
        self.loop = self.rows == self.columns
        # Sorted by (column, row) the arcs are their turned selves in order.
        self.turned = (self.columns * nodes + self.rows).argsort()
        self.whole = self._propagation(torch.ones(len(rows), dtype=torch.bool, device=device))

    def thinned(self, share: float) -> Propagation:
        """D_in^-1/2 (A + I) D_out^-1/2 of the graph of which each arc is left out with probability `share`.

        Both directions of a link fall on their own; loops stay. The degrees are those of what is left.
        """
        if share == 0:
            return self.whole
        return self._propagation((torch.rand(len(self.rows), device=self.rows.device) >= share) | self.loop)

    def _propagation(self, keep: Tensor) -> Propagation:
        rows, columns = self.rows[keep], self.columns[keep]
        received = torch.bincount(rows, minlength=self.nodes)
        sent = torch.bincount(columns, minlength=self.nodes)
        scale = received.float().rsqrt(), sent.float().rsqrt()
        values = scale[0][self.rows] * scale[1][self.columns]
        turned = self.turned[keep[self.turned]]
        return Propagation(
            self._csr(received, columns, values[keep]), self._csr(sent, self.rows[turned], values[turned])
        )

    def _csr(self, counts: Tensor, columns: Tensor, values: Tensor) -> Tensor:
        start = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).int()
        return csr((start, columns.int()), values, (self.nodes, self.nodes))


def mask_columns(x: Tensor, share: float) -> Tensor:
    """x (n, p) with each column zero with probability `share`, the others as they are: a new tensor."""
    return x * (torch.rand(x.shape[1], device=x.device) >= share)
