"""Layers that networks for sets of graphs share: sums over an index, convolutions, top items of a graph, readout.

Graphs come as one with several components; items (nodes or edges) of a graph are contiguous, `graph` says which
graph an item belongs to and ascends.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def scatter(values: Tensor, index: Tensor, size: int) -> Tensor:
    """(size, ...): the sums of the rows of `values` with equal `index`."""
    return values.new_zeros(size, *values.shape[1:]).index_add(0, index, values)


def places(graph: Tensor, graphs: int) -> tuple[Tensor, Tensor]:
    """How many items each graph has, (graphs,), and the place of each item in its graph, from 0."""
    count = torch.bincount(graph, minlength=graphs)
    return count, torch.arange(len(graph), device=graph.device) - (count.cumsum(0) - count)[graph]


def propagate(h: Tensor, ends: Tensor, weight: Tensor | None = None) -> Tensor:
    """D^-1/2 (A + I) D^-1/2 h of node states h (n, c), A with the entries `weight` (m,), default 1, at `ends` (2, m).

    Kipf and Welling 2017; each undirected edge is given once and counts in both directions.
    """
    u, v = ends
    weight = torch.ones_like(u, dtype=h.dtype) if weight is None else weight
    degree = 1 + scatter(weight, u, len(h)) + scatter(weight, v, len(h))
    root = degree.rsqrt()
    entry = (weight * root[u] * root[v])[:, None]
    out = (h / degree[:, None]).index_add(0, u, entry * h.index_select(0, v))
    return out.index_add(0, v, entry * h.index_select(0, u))


def edges_to_nodes(h: Tensor, incidence: Tensor, nodes: int) -> Tensor:
    """(nodes, c): the mean of the edge states h (m, c) at each node, 0 where there is no edge.

    incidence: (2, 2 m) pairs (edge, node), the first ends of all edges and then the second.
    """
    edge, node = incidence
    size = torch.bincount(node, minlength=nodes).clamp(min=1)
    return scatter(h.index_select(0, edge), node, nodes) / size[:, None]


def line_graph_propagation(h: Tensor, incidence: Tensor, nodes: int) -> Tensor:
    """D^-1/2 (A + I) D^-1/2 h of edge states h (m, c), A the line graph's: edges that share a node are joined.

    For a simple graph with incidence matrix M, A = M^T M - 2 I: the line graph's cliques are never made.
    """
    edge, node = incidence
    size = torch.bincount(node, minlength=nodes).to(h.dtype)
    root = (scatter(size[node], edge, len(h)) - 1).rsqrt()[:, None]
    scaled = h * root
    total = scatter(scaled.index_select(0, edge), node, nodes)
    return (scatter(total.index_select(0, node), edge, len(h)) - scaled) * root


def endpoint_propagation(h: Tensor, incidence: Tensor, nodes: int) -> Tensor:
    """Edge states (m, c) as the means of their ends, whose states are a GCN's on the means of their edges."""
    ends = incidence[1].view(2, -1)
    return propagate(edges_to_nodes(h, incidence, nodes), ends)[ends].mean(0)


class Convolution(nn.Module):
    """P h W + b for a linear `propagation` P, such as `propagate`, that is given h W and further arguments."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(inputs, outputs)))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, h: Tensor, propagation: Any, *arguments: Any) -> Tensor:
        return propagation(h @ self.weight, *arguments) + self.bias


def convolutions(inputs: int, hidden: int, count: int) -> nn.ModuleList:
    """`count` convolutions of width `hidden`, the first from `inputs`."""
    return nn.ModuleList(Convolution(hidden if i else inputs, hidden) for i in range(count))


def top(score: Tensor, graph: Tensor, graphs: int, ratio: float) -> Tensor:
    """Indices, ascending, of the ceil(ratio * count) items with the highest `score` (items,) in each graph."""
    count, place = places(graph, graphs)
    limit = torch.ceil(ratio * count.double() - 1e-9)  # 0.55 * 100 is a little more than 55
    best_first = torch.argsort(score, descending=True, stable=True)
    order = best_first[torch.argsort(graph[best_first], stable=True)]
    return order[place < limit[graph]].sort().values


class TopKPool(nn.Module):
    """Keeps the nodes that score best in their graph, and the edges among them (Gao and Ji 2019, Cangea et al. 2018).

    The score of a node is tanh(x p / ||p||); it scales the states that stay.
    """

    def __init__(self, hidden: int, ratio: float) -> None:
        super().__init__()
        self.direction, self.ratio = nn.Parameter(nn.init.xavier_uniform_(torch.empty(hidden, 1))), ratio

    def forward(self, x: Tensor, ends: Tensor, graph: Tensor, graphs: int) -> tuple[Tensor, ...]:
        """States, ends in new numbers, graphs of the nodes that stay, and indices of the edges that stay."""
        score = torch.tanh(x @ self.direction / self.direction.norm()).squeeze(1)
        nodes = top(score, graph, graphs, self.ratio)
        number = torch.full_like(graph, -1)
        number[nodes] = torch.arange(len(nodes), device=x.device)
        ends = number[ends]
        edges = (ends >= 0).all(0).nonzero().squeeze(1)
        return x[nodes] * score[nodes, None], ends[:, edges], graph[nodes], edges


def readout(x: Tensor, graph: Tensor, graphs: int) -> Tensor:
    """(graphs, 3 c): maximum, mean and sum of the node states x (n, c) of each graph."""
    total = scatter(x, graph, graphs)
    count = torch.bincount(graph, minlength=graphs)[:, None]
    index = graph[:, None].expand_as(x)
    largest = torch.zeros_like(total).scatter_reduce(0, index, x, "amax", include_self=False)
    return torch.cat([largest, total / count, total], dim=1)
