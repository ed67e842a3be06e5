"""Semi-supervised node classification: one graph, few labels; splits and metrics.

A training step is one full-batch epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fairsweep.trainables.base import DataError, Metric
from fairsweep.trainables.datasets import (
    block_models,
    directed_graphs,
    graphs,
    large_graphs,
    planetoid,
)
from fairsweep.trainables.datasets.graphs import Graph
from fairsweep.trainables.datasets.own import nodes as own_nodes
from fairsweep.trainables.datasets.own import splits
from fairsweep.trainables.parts import Members, identity
from fairsweep.trainables.tasks.message_passing import Structure
from fairsweep.trainables.tasks.sparse import SparseMatrix, dropout, hops, normalised_adjacency, on_device

__all__ = [
    "LOADERS",
    "METRICS",
    "NodeTask",
    "SparseMatrix",
    "dropout",
    "hops",
    "load",
    "normalised_adjacency",
    "random_split",
]

METRICS = (
    Metric("val_accuracy", "max", "validation", "fraction"),
    Metric("val_loss", "min", "validation", "nats"),
    Metric("train_loss", "min", "train", "nats"),
    Metric("test_accuracy", "max", "test", "fraction"),
)

LOADERS: Mapping[str, Callable[[Path | None], Graph]] = {
    "digits_knn": graphs.digits_knn,
    "lastfm": graphs.lastfm,
    "csbm": block_models.csbm,
    "digits_noisy": graphs.digits_noisy,
    **{name: partial(planetoid.planetoid, name) for name in planetoid.SIZES},
    **{name: partial(graphs.gnn_benchmark, name) for name in graphs.GNN_BENCHMARK},
    "drosophila": directed_graphs.drosophila,
    **{name: partial(directed_graphs.public, name) for name in directed_graphs.PUBLIC},
    **block_models.LOADERS,
    "synthetic_large": large_graphs.synthetic_large,
    "synthetic_two_populations": block_models.synthetic_two_populations,
    "own": own_nodes.classified,
}


# ---- data ----


def load(name: str, data_dir: Path | None = None) -> Graph:
    """The graph `name`, read once per process. DataError if unknown, missing or damaged."""
    if name not in LOADERS:
        raise DataError(f"data={name}: unknown graph; known: {', '.join(LOADERS)}")
    return _load(name, None if data_dir is None else Path(data_dir))


@lru_cache(maxsize=4)
def _load(name: str, data_dir: Path | None) -> Graph:
    return LOADERS[name](data_dir)


def random_split(
    labels: np.ndarray, per_class: tuple[int, int], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Indices: `per_class` labelled nodes of each class to train and to validate, all others to test.

    Nodes with label -1 are in no part. ValueError if a class has too few nodes to leave one for testing.
    """
    train, validation = per_class
    parts: dict[str, list[np.ndarray]] = {"train": [], "validation": [], "test": []}
    for label in range(int(labels.max()) + 1):
        nodes = rng.permutation(np.flatnonzero(labels == label))
        if len(nodes) <= train + validation:
            raise ValueError(
                f"per_class={per_class}: class {label} has {len(nodes)} nodes, needs more than"
                f" {train + validation}"
            )
        for part, chosen in zip(parts, np.split(nodes, [train, train + validation]), strict=True):
            parts[part].append(chosen)
    return {part: np.sort(np.concatenate(chosen)) for part, chosen in parts.items()}


def split(graph: Graph, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
    """Indices of the parts: the given ones, or drawn by `rng` as the graph says."""
    if graph.split is not None:
        return graph.split
    if graph.shares is not None:
        return splits.drawn(graph.labels, graph.shares, rng, graph.name)
    return random_split(graph.labels, graph.per_class, rng)


@lru_cache(maxsize=4)
def known_by(name: str, data_dir: Path | None) -> str:
    """What identifies the graph `name` and the numbers of its nodes."""
    graph = load(name, data_dir)
    return identity(graph.features, graph.adjacency, graph.labels)


@lru_cache(maxsize=2)
def _on_device(name: str, data_dir: Path | None, device: str) -> tuple[Tensor | SparseMatrix, Tensor]:
    graph = load(name, data_dir)
    return on_device(graph.features, device), torch.tensor(graph.labels, device=device)


@lru_cache(maxsize=2)
def _structure(name: str, data_dir: Path | None, device: str) -> Structure:
    return Structure(load(name, data_dir).adjacency, device)


class NodeTask:
    """One graph on one device with a split: the public one, or one drawn by `rng`.

    shares: of each class, drawn to validate and to test in the place of the split that the data set has; others train.
    features: (n, p), dense or sparse. labels: (n,). structure: the graph, for layers; propagation: its normalised
    adjacency, (n, n).
    """

    def __init__(
        self,
        name: str,
        data_dir: Path | None,
        device: str,
        rng: np.random.Generator,
        shares: tuple[float, float] | None = None,
    ) -> None:
        graph = load(name, data_dir)
        folder = None if data_dir is None else Path(data_dir)
        self.name, self.folder = name, folder
        self.features, self.labels = _on_device(name, folder, device)
        self.structure = _structure(name, folder, device)
        self.classes = graph.classes
        self.inputs = int(self.features.shape[1])
        if shares is None:
            parts = split(graph, rng)
        else:
            parts = splits.drawn(graph.labels, shares, rng, graph.name)
        self.parts = {part: torch.tensor(nodes, device=device) for part, nodes in parts.items()}

    @property
    def propagation(self) -> SparseMatrix:
        """D^-1/2 (A + I) D^-1/2, (n, n)."""
        return self.structure.propagation

    def members(self) -> Members:
        """Nodes of each part."""
        nodes = {part: found.cpu().numpy() for part, found in self.parts.items()}
        return Members(known_by(self.name, self.folder), nodes)

    def loss(self, logits: Tensor, part: str) -> Tensor:
        """Mean cross-entropy (nats) of `logits` (n, classes) over the nodes of `part`."""
        nodes = self.parts[part]
        return F.cross_entropy(logits[nodes], self.labels[nodes])

    def accuracy(self, logits: Tensor, part: str) -> float:
        """Share of the nodes of `part` whose largest logit is that of their class."""
        nodes = self.parts[part]
        return int((logits[nodes].argmax(1) == self.labels[nodes]).sum()) / len(nodes)
