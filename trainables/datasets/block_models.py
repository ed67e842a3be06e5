"""Block models whose classes are told by one thing alone: the direction of arcs, the links, the words of a node.

Each `synthetic_...` is one draw, the same for every trial.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fairsweep.trainables.datasets.graphs import Graph, directed, undirected


def tournament(
    nodes: int = 500,
    classes: int = 5,
    degree: float = 40.0,
    features: int = 16,
    signal: float = 0.45,
    seed: int = 0,
) -> Graph:
    """A block model in which only the direction of an arc says something of the classes.

    With d = (class of the target - class of the source) mod `classes` an arc is there with probability q/2 for d = 0,
    .9 q for the first half of the other d, .1 q for the second, q = degree / nodes: any two classes are linked equally
    often, and each beats the ones after it. Features are `signal` times a random unit vector of the class plus noise of
    variance 1/`features`. `seed` draws all of it. `classes` is odd.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=nodes)
    ahead = (labels[None, :] - labels[:, None]) % classes
    chance = np.where(ahead == 0, 0.5, np.where(ahead <= classes // 2, 0.9, 0.1)) * degree / nodes
    rows, columns = np.nonzero((rng.random((nodes, nodes)) < chance) & ~np.eye(nodes, dtype=bool))
    return _blocks("synthetic_tournament", labels, classes, rows, columns, features, signal, rng)


def one_way(
    nodes: int = 500,
    classes: int = 5,
    degree: float = 10.0,
    homophily: float = 0.75,
    features: int = 16,
    signal: float = 0.45,
    seed: int = 0,
) -> Graph:
    """A block model whose links say something of the classes and whose directions nothing: each is a toss of a coin.

    Expected `degree`, of which the share `homophily` within the class; features as in `tournament`.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=nodes)
    within = degree * homophily / (nodes / classes)
    across = degree * (1 - homophily) / (nodes * (1 - 1 / classes))
    rows, columns = np.triu_indices(nodes, 1)
    chosen = rng.random(len(rows)) < np.where(labels[rows] == labels[columns], within, across)
    ends = np.stack([rows[chosen], columns[chosen]])
    turned = rng.random(ends.shape[1]) < 0.5
    ends[:, turned] = ends[::-1, turned]
    return _blocks("synthetic_one_way", labels, classes, ends[0], ends[1], features, signal, rng)


def _blocks(
    name: str,
    labels: np.ndarray,
    classes: int,
    rows: np.ndarray,
    columns: np.ndarray,
    features: int,
    signal: float,
    rng: np.random.Generator,
) -> Graph:
    nodes = len(labels)
    means = rng.standard_normal((classes, features))
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    x = signal * means[labels] + rng.standard_normal((nodes, features)) / np.sqrt(features)
    return Graph(
        name,
        x.astype(np.float32),
        undirected(nodes, rows, columns),
        labels.astype(np.int64),
        classes,
        per_class=(40, 20),
        arcs=directed(nodes, rows, columns),
    )


def synthetic_tournament(data_dir: Path | None = None) -> Graph:
    """Synthetic: one draw of `tournament`, 500 nodes, 5 classes, the same for every trial."""
    return tournament()


def synthetic_one_way(data_dir: Path | None = None) -> Graph:
    """Synthetic: one draw of `one_way`, 500 nodes, 5 classes, the same for every trial."""
    return one_way()


def words(
    nodes: int = 400,
    classes: int = 4,
    degree: float = 5.0,
    homophily: float = 0.85,
    vocabulary: int = 200,
    block: int = 25,
    rare: float = 0.03,
    often: float = 0.16,
    seed: int = 0,
) -> Graph:
    """A homophilous block model whose nodes have words: 0/1, each with probability `rare`, and `often` in the block of
    `block` words that belongs to the class. `seed` draws all of it; 10 labels a class to train, 20 to validate.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(nodes) % classes
    within = degree * homophily / (nodes / classes)
    across = degree * (1 - homophily) / (nodes * (1 - 1 / classes))
    rows, columns = np.triu_indices(nodes, 1)
    chosen = rng.random(len(rows)) < np.where(labels[rows] == labels[columns], within, across)
    own = np.arange(vocabulary)[None, :] // block == labels[:, None]
    x = rng.random((nodes, vocabulary)) < np.where(own, often, rare)
    adjacency = undirected(nodes, rows[chosen], columns[chosen])
    return Graph(
        "synthetic_words",
        x.astype(np.float32),
        adjacency,
        labels.astype(np.int64),
        classes,
        per_class=(10, 20),
    )


def synthetic_words(data_dir: Path | None = None) -> Graph:
    """Synthetic: one draw of `words`, 400 nodes, 4 classes, the same for every trial."""
    return words()


LOADERS = {
    "synthetic_tournament": synthetic_tournament,
    "synthetic_one_way": synthetic_one_way,
    "synthetic_words": synthetic_words,
}
