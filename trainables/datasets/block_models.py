"""Block models: what tells the classes are links and features, or one thing alone: directions of arcs, words of nodes.

Each `synthetic_...` is one draw, the same for every trial.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fairsweep.trainables.datasets.graphs import Graph, directed, undirected


def joined(
    labels: np.ndarray, classes: int, degree: float, homophily: float | np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Ends of links between nodes of equally likely classes: expected `degree`, the share `homophily` within a class.

    homophily: one for all, or one for each node; two nodes are joined as the smaller of theirs says.
    """
    nodes = len(labels)
    rows, columns = np.triu_indices(nodes, 1)
    share = np.broadcast_to(homophily, nodes)
    share = np.minimum(share[rows], share[columns])
    within = degree * share / (nodes / classes)
    across = degree * (1 - share) / (nodes * (1 - 1 / classes))
    chosen = rng.random(len(rows)) < np.where(labels[rows] == labels[columns], within, across)
    return rows[chosen], columns[chosen]


def telling(
    labels: np.ndarray, classes: int, features: int, signal: float | np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """float32 (n, features): `signal`, one or one for each node, times a random unit vector of the class, plus noise of
    variance 1/`features` in each."""
    means = rng.standard_normal((classes, features))
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    noise = rng.standard_normal((len(labels), features)) / np.sqrt(features)
    return (np.broadcast_to(signal, len(labels))[:, None] * means[labels] + noise).astype(np.float32)


def contextual_sbm(
    nodes: int = 500,
    classes: int = 5,
    degree: float = 5.0,
    homophily: float = 0.75,
    features: int = 64,
    signal: float = 0.3,
    seed: int = 0,
) -> Graph:
    """A contextual stochastic block model (Deshpande et al. 2018) with equally likely classes.

    Links as in `joined`, features as in `telling`. `seed` draws all of it.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=nodes)
    rows, columns = joined(labels, classes, degree, homophily, rng)
    x = telling(labels, classes, features, signal, rng)
    return Graph(
        "csbm", x, undirected(nodes, rows, columns), labels.astype(np.int64), classes, per_class=(10, 20)
    )


def csbm(data_dir: Path | None = None) -> Graph:
    """Synthetic: one draw of `contextual_sbm`, 500 nodes, 5 classes, the same for every trial."""
    return contextual_sbm()


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

    The even nodes have features that tell their class (`signals[0]`) and links that say nothing of it; the odd ones
    have weak features, and among themselves homophilous links. An odd node's links are half to even ones, so .58 of all
    of them are within its class. Half of the nodes train, a quarter validate, a quarter test. `seed` draws all of it.
    """
    rng = np.random.default_rng(seed)
    labels, kind = rng.integers(classes, size=nodes), np.arange(nodes) % 2
    rows, columns = joined(labels, classes, degree, np.array(homophilies)[kind], rng)
    x = telling(labels, classes, features, np.array(signals)[kind], rng)
    name = "synthetic_two_populations"
    adjacency = undirected(nodes, rows, columns)
    return Graph(name, x, adjacency, labels.astype(np.int64), classes, shares=(0.25, 0.25))


def synthetic_two_populations(data_dir: Path | None = None) -> Graph:
    """Synthetic: one draw of `two_populations`, 800 nodes, 4 classes, the same for every trial."""
    return two_populations()


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
    often, and each beats the ones after it. Features as in `telling`. `seed` draws all of it. `classes` is odd.
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
    ends = np.stack(joined(labels, classes, degree, homophily, rng))
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
    return Graph(
        name,
        telling(labels, classes, features, signal, rng),
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
    rows, columns = joined(labels, classes, degree, homophily, rng)
    own = np.arange(vocabulary)[None, :] // block == labels[:, None]
    x = rng.random((nodes, vocabulary)) < np.where(own, often, rare)
    adjacency = undirected(nodes, rows, columns)
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
