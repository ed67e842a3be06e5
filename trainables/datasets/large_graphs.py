"""A graph of a size at which a method's memory shows: generated, in a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fairsweep.trainables.datasets.graphs import Graph, undirected


def large_blocks(
    nodes: int = 100_000,
    edges: int = 1_000_000,
    classes: int = 10,
    homophily: float = 0.7,
    features: int = 128,
    signal: float = 0.3,
    seed: int = 0,
) -> Graph:
    """A block model with exactly `edges` links, of which about the share `homophily` within a class.

    As `block_models.contextual_sbm`, whose time grows with the square of the nodes; this one's grows with its links.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=nodes)
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(classes + 1))
    found = np.empty(0, np.int64)
    while len(found) < edges:
        count = edges - len(found) + edges // 20
        one = rng.integers(nodes, size=count)
        low, high = starts[labels[one]], starts[labels[one] + 1]
        alike = order[low + (rng.random(count) * (high - low)).astype(np.int64)]
        other = np.where(rng.random(count) < homophily, alike, rng.integers(nodes, size=count))
        keys = np.minimum(one, other) * nodes + np.maximum(one, other)
        found = np.unique(np.concatenate([found, keys[one != other]]))
    found = rng.permutation(found)[:edges]
    means = rng.standard_normal((classes, features), dtype=np.float32)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    x = signal * means[labels] + rng.standard_normal((nodes, features), dtype=np.float32) / np.sqrt(features)
    adjacency = undirected(nodes, found // nodes, found % nodes)
    return Graph("synthetic_large", x.astype(np.float32), adjacency, labels, classes, per_class=(500, 500))


def synthetic_large(data_dir: Path | None = None) -> Graph:
    """Synthetic: one draw of `large_blocks`, 100,000 nodes and 1,000,000 links, the same for every trial."""
    return large_blocks()
