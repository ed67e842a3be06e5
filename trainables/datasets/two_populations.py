"""A synthetic graph of two populations: what tells a node's class are its features, or its links."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fairsweep.trainables.datasets.graphs import Graph, undirected


def two_populations(
    nodes: int = 800,
    classes: int = 4,
    features: int = 32,
    degree: float = 6.0,
    signals: tuple[float, float] = (1.2, 0.3),
    homophilies: tuple[float, float] = (0.25, 0.9),
    seed: int = 0,
) -> Graph:
    """A contextual block model of two populations, half of the nodes each, drawn independently of the classes.

    The even nodes have features that tell their class (`signals[0]` times a random unit vector of the class, plus
    noise of variance 1/`features` in each) and links that say nothing of it; the odd ones have weak features, and
    among themselves homophilous links. Two nodes are joined as the smaller of their `homophilies` says; expected
    degree `degree`. An odd node's links are half to even ones, so .58 of all of them are within its class. Half of the
    nodes train, a quarter validate, a quarter test. `seed` draws all of it.
    """
    rng = np.random.default_rng(seed)
    labels, kind = rng.integers(classes, size=nodes), np.arange(nodes) % 2
    rows, columns = np.triu_indices(nodes, 1)
    share = np.array(homophilies)[kind]
    share = np.minimum(share[rows], share[columns])
    within = degree * share / (nodes / classes)
    across = degree * (1 - share) / (nodes * (1 - 1 / classes))
    chosen = rng.random(len(rows)) < np.where(labels[rows] == labels[columns], within, across)
    means = rng.standard_normal((classes, features))
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    noise = rng.standard_normal((nodes, features)) / np.sqrt(features)
    x = np.array(signals)[kind][:, None] * means[labels] + noise
    adjacency = undirected(nodes, rows[chosen], columns[chosen])
    name = "synthetic_two_populations"
    return Graph(name, x.astype(np.float32), adjacency, labels.astype(np.int64), classes, shares=(0.25, 0.25))


def synthetic_two_populations(data_dir: Path | None = None) -> Graph:
    """Synthetic: one draw of `two_populations`, 800 nodes, 4 classes, the same for every trial."""
    return two_populations()
