"""Graphs whose values are counts of a small pattern, which says how far a network sees beyond message passing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fairsweep.trainables.datasets.packed_graphs import GraphSet


def triangles(ends: np.ndarray, nodes: int) -> int:
    """How many triangles a simple graph of the edges `ends` (2, m) has: trace(A^3) / 6."""
    a = np.zeros((nodes, nodes), np.int64)
    a[ends[0], ends[1]] = a[ends[1], ends[0]] = 1
    return int(((a @ a) * a).sum()) // 6


def _counted(name: str, graphs: list[Any], held_out: tuple[int, int]) -> GraphSet:
    """Graphs of networkx, nodes 0, 1, ... without features, with their triangles; classes are 0, 1, 2, and more."""
    nodes = np.array([len(graph) for graph in graphs])
    ends = [np.array(list(graph.edges), np.int64).reshape(-1, 2).T for graph in graphs]
    values = np.array([triangles(e, n) for e, n in zip(ends, nodes.tolist(), strict=True)])
    edges = np.array([e.shape[1] for e in ends])
    return GraphSet(
        name,
        nodes,
        edges,
        np.ones((int(nodes.sum()), 1), np.float32),
        np.sort(np.concatenate(ends, axis=1), axis=0),
        np.ones((int(edges.sum()), 1), np.float32),
        np.minimum(values, 3),
        classes=4,
        held_out=held_out,
        names=("0", "1", "2", "3 and more"),
        values=values.astype(float),
        cuts=(0.5, 1.5, 2.5),
    )


def synthetic_regular_graphs(data_dir: Path | None = None) -> GraphSet:
    """Synthetic: 800 random graphs of 12 nodes with three links each, 560 / 80 / 160; values: their triangles, 0 to 6.

    Nodes have a constant feature, so that no message passing (no network that 1-WL bounds) tells two of them apart.
    """
    import networkx as nx

    graphs = [nx.random_regular_graph(3, 12, seed=seed) for seed in range(800)]
    return _counted("synthetic_regular_graphs", graphs, (80, 160))


def graph_atlas(data_dir: Path | None = None) -> GraphSet:
    """The 986 connected graphs of five to seven nodes, each once, 690 / 98 / 198; values: their triangles, 0 to 35.

    Nodes have a constant feature. Source: Read and Wilson, An Atlas of Graphs, 1998, as networkx (BSD-3) ships it.
    """
    import networkx as nx

    graphs = [graph for graph in nx.graph_atlas_g() if len(graph) >= 5 and nx.is_connected(graph)]
    return _counted("graph_atlas", graphs, (98, 198))
