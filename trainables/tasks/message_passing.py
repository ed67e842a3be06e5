"""Message passing on one graph: what layers need of it, made once, and the layers that many papers build on or beat.

Every layer is called with node states (n, p), dense, sparse or parts of both kinds side by side, and the graph; it
transforms before it propagates where that gives the same numbers, so that wide sparse features are never made dense.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, reduce
from itertools import pairwise

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from fairsweep.trainables.tasks.edge_attention import edge_attention
from fairsweep.trainables.tasks.sparse import SparseMatrix, dropout, normalised_adjacency

SLOPE = 0.2  # of LeakyReLU in attention
Block = Tensor | SparseMatrix
Features = Block | tuple[Block, ...]  # parts stand side by side: (n, p_1 + p_2 + ...)


class Structure:
    """A graph of n nodes on a device; each matrix is made when it is first asked for, and kept.

    adjacency: (n, n) CSR without loops, entry (i, j): what i receives from j. For an undirected graph it is symmetric.
    """

    def __init__(self, adjacency: sp.csr_matrix, device: str | torch.device = "cpu") -> None:
        self.adjacency, self.device = adjacency, device

    @classmethod
    def of_edges(cls, ends: np.ndarray, nodes: int, device: str | torch.device = "cpu") -> Structure:
        """Of the undirected edges `ends` (2, m), each once and none a loop."""
        both = np.concatenate([ends, ends[::-1]], axis=1)
        ones = np.ones(both.shape[1], np.float32)
        return cls(sp.csr_matrix((ones, (both[0], both[1])), shape=(nodes, nodes)), device)

    @property
    def nodes(self) -> int:
        """n."""
        return int(self.adjacency.shape[0])

    @cached_property
    def propagation(self) -> SparseMatrix:
        """D^-1/2 (A + I) D^-1/2, D the degrees of A + I."""
        return SparseMatrix(normalised_adjacency(self.adjacency), self.device)

    @property
    def looped(self) -> SparseMatrix:
        """A matrix that has an entry where A + I has one, for what goes along the arcs whatever their entries are."""
        return self.propagation

    @cached_property
    def total(self) -> SparseMatrix:
        """A."""
        return SparseMatrix(self.adjacency, self.device)

    @cached_property
    def mean(self) -> SparseMatrix:
        """D^-1 A, D the degrees of A; rows of nodes without a neighbour are empty."""
        degree = np.asarray(self.adjacency.sum(1)).ravel()
        inverse = np.divide(1.0, degree, out=np.zeros_like(degree, dtype=float), where=degree > 0)
        return SparseMatrix(sp.diags(inverse) @ self.adjacency, self.device)


def product(x: Features, weight: Tensor, drop: float = 0.0) -> Tensor:
    """x W (n, c) of states x (n, p) and `weight` (p, c), with dropout on x."""
    if isinstance(x, tuple):
        parts = zip(x, weight.split([int(part.shape[1]) for part in x]), strict=True)
        return reduce(torch.add, [product(part, rows, drop) for part, rows in parts])
    return x.matmul(weight, drop) if isinstance(x, SparseMatrix) else dropout(x, drop) @ weight


def carried(matrix: SparseMatrix, x: Features, weight: Tensor, drop: float = 0.0) -> Tensor:
    """A x W (n, c) for `matrix` A, in the order of the products that costs less, with dropout on x.

    Narrow states go along the links before they are transformed: x that needs no gradient then has no way back.
    """
    if isinstance(x, Tensor) and x.shape[1] * (1 + x.requires_grad) < 2 * weight.shape[1]:
        return matrix.matmul(dropout(x, drop)) @ weight
    return matrix.matmul(product(x, weight, drop))


def _glorot(inputs: int, outputs: int) -> nn.Parameter:
    return nn.Parameter(nn.init.xavier_uniform_(torch.empty(inputs, outputs)))


class GCNLayer(nn.Module):
    """D^-1/2 (A + I) D^-1/2 x W + b (Kipf and Welling 2017)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = _glorot(inputs, outputs), nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Features, graph: Structure, drop: float = 0.0) -> Tensor:
        return carried(graph.propagation, x, self.weight, drop) + self.bias


class SAGELayer(nn.Module):
    """x W + mean of the neighbours' x V + b (Hamilton et al. 2017, mean aggregator)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.own, self.others = _glorot(inputs, outputs), _glorot(inputs, outputs)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Features, graph: Structure, drop: float = 0.0) -> Tensor:
        # One dropped x for both terms: dropout of each apart would be another layer.
        if isinstance(x, Tensor):
            x = dropout(x, drop)
            return x @ self.own + carried(graph.mean, x, self.others) + self.bias
        both = product(x, torch.cat([self.own, self.others], 1), drop)
        own, others = both.chunk(2, 1)
        return own + graph.mean.matmul(others.contiguous()) + self.bias


class GINLayer(nn.Module):
    """MLP((1 + eps) x + sum of the neighbours' x), eps learned from 0, the MLP of two layers (Xu et al. 2019)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = _glorot(inputs, outputs), nn.Parameter(torch.zeros(outputs))
        self.eps, self.second = nn.Parameter(torch.zeros(())), nn.Linear(outputs, outputs)

    def forward(self, x: Features, graph: Structure, drop: float = 0.0) -> Tensor:
        if isinstance(x, Tensor) and x.shape[1] < self.weight.shape[1]:
            x = dropout(x, drop)
            h = ((1 + self.eps) * x + graph.total.matmul(x)) @ self.weight
        else:
            h = product(x, self.weight, drop)
            h = (1 + self.eps) * h + graph.total.matmul(h)
        return self.second(torch.relu(h + self.bias))


class GATLayer(nn.Module):
    """Attention over the neighbours and the node itself (Velickovic et al. 2018), `heads` of them.

    outputs: width of the result, the heads side by side (`joined`; a multiple of `heads`) or their mean.
    attention_drop: dropout on the coefficients, in training.
    """

    def __init__(
        self, inputs: int, outputs: int, heads: int = 1, joined: bool = True, attention_drop: float = 0.0
    ) -> None:
        super().__init__()
        if joined and outputs % heads:
            raise ValueError(f"outputs={outputs}: must be a multiple of heads={heads}")
        self.heads, self.joined, self.attention_drop = heads, joined, attention_drop
        self.width = outputs // heads if joined else outputs
        self.weight, self.bias = _glorot(inputs, heads * self.width), nn.Parameter(torch.zeros(outputs))
        self.receiver, self.sender = _glorot(heads, self.width), _glorot(heads, self.width)

    def forward(self, x: Features, graph: Structure, drop: float = 0.0) -> Tensor:
        h = product(x, self.weight, drop).view(-1, self.heads, self.width)
        drop = self.attention_drop if self.training else 0.0
        out = attend((h * self.receiver).sum(-1), (h * self.sender).sum(-1), h, graph, drop)
        return (out.flatten(1) if self.joined else out.mean(1)) + self.bias


def attend(receiver: Tensor, sender: Tensor, values: Tensor, graph: Structure, drop: float = 0.0) -> Tensor:
    """(n, h, c): the mean of `values` (n, h, c) over the neighbours and itself, weighted for each of h heads by the
    softmax of LeakyReLU(receiver_i + sender_j), slope 0.2; both (n, h)."""
    return edge_attention(receiver, sender, values, graph.looped, drop, SLOPE)


LAYERS: dict[str, Callable[..., nn.Module]] = {
    "gcn": GCNLayer,
    "sage": SAGELayer,
    "gat": GATLayer,
    "gin": GINLayer,
}


class Layers(nn.Module):
    """Layers of one kind, widths[0] -> ... -> widths[-1], ReLU between them, dropout on the input of each.

    norm: batch normalisation before the ReLU. ValueError for a kind that is not among `LAYERS`.
    """

    def __init__(self, kind: str, widths: Sequence[int], drop: float = 0.0, norm: bool = False) -> None:
        super().__init__()
        if kind not in LAYERS:
            raise ValueError(f"layer={kind}: known are {', '.join(LAYERS)}")
        self.layers = nn.ModuleList(LAYERS[kind](a, b) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) if norm else nn.Identity() for width in widths[1:-1])
        self.drop = drop

    def states(self, x: Features, graph: Structure) -> list[Tensor]:
        """What each layer gives, (n, widths[l + 1]); all but the last behind their ReLU."""
        drop = self.drop if self.training else 0.0
        found: list[Tensor] = []
        for layer, norm in zip(self.layers, self.norms, strict=False):
            found.append(torch.relu(norm(layer(found[-1] if found else x, graph, drop))))
        return [*found, self.layers[-1](found[-1] if found else x, graph, drop)]

    def forward(self, x: Features, graph: Structure) -> Tensor:
        return self.states(x, graph)[-1]
