"""Node representation learning: one graph without its held-out links, and four tasks that frozen embeddings serve.

Node classification, clustering, link prediction and the prediction of a partition. Labels are seen by the probes alone.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from fairsweep.trainables.base import DataError, Metric
from fairsweep.trainables.datasets.graphs import Graph
from fairsweep.trainables.parts import Members
from fairsweep.trainables.tasks import probes
from fairsweep.trainables.tasks.graph_views import Arcs
from fairsweep.trainables.tasks.link_prediction import Adjacency, draw_negatives, split_links
from fairsweep.trainables.tasks.node_classification import LOADERS, NodeTask, known_by, load

SERVED = ("accuracy", "nmi", "auc", "partition")  # what the tasks are measured by
SHARES = (0.1, 0.2)  # of the links, to validate and to test
PARTITIONS = 10
MOST_FEATURES = 8.0  # GB
MOST_PAIRS = 10_000  # links that the probe of links is trained on
METRICS = (
    Metric("val_mean", "max", "validation", "fraction"),
    *(Metric(f"val_{name}", "max", "validation", "fraction") for name in SERVED),
    Metric("train_loss", "min", "train"),
    Metric("test_mean", "max", "test", "fraction"),
    *(Metric(f"test_{name}", "max", "test", "fraction") for name in SERVED),
    Metric("test_ari", "max", "test"),
)
__all__ = ["LOADERS", "METRICS", "SERVED", "RepresentationTask"]


@lru_cache(maxsize=4)
def _partition(name: str, data_dir: Path | None) -> np.ndarray:
    return probes.partition(load(name, data_dir).adjacency, PARTITIONS)


@lru_cache(maxsize=2)
def standardised(name: str, data_dir: Path | None, device: str) -> Tensor:
    """(n, p) dense features, each column with mean 0 and deviation 1; constant ones are 0."""
    features = load(name, data_dir).features
    x = np.asarray(features.todense() if sp.issparse(features) else features, np.float32)
    deviation = x.std(0, dtype=np.float64)
    x = (x - x.mean(0, dtype=np.float64)) / np.where(deviation > 1e-9, deviation, np.inf)
    return torch.tensor(x, dtype=torch.float32, device=device)


def too_wide(name: str, data_dir: Path | None) -> str | None:
    """Why the features of `name`, dense once they are standardised, do not fit; None where they do."""
    nodes, columns = load(name, data_dir).features.shape
    need = 4e-9 * nodes * columns
    return (
        f"dense features of {nodes} nodes x {columns} columns take {need:.0f} GB"
        if need > MOST_FEATURES
        else None
    )


def negatives_of(graph: Graph, counts: dict[str, int], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Pairs (2, e) without a link in any part, for each part as many as `counts` says, or as there are.

    DataError if a part would have none.
    """
    free = graph.nodes * (graph.nodes - 1) // 2 - graph.edges
    total = sum(counts.values())
    if total > free:
        counts = {part: count * free // total for part, count in counts.items()}
    if min(counts.values()) < 1:
        raise DataError(
            f"data={graph.name}: {free} pairs of the {graph.nodes} nodes have no link; three parts need some each"
        )
    drawn = draw_negatives(graph.adjacency, sum(counts.values()), rng)
    ends = np.cumsum([*counts.values()])[:-1]
    return dict(zip(counts, np.split(drawn, ends, axis=1), strict=True))


class RepresentationTask(NodeTask):
    """A graph of n nodes with a split of its nodes and one of its links, both drawn by `rng` where none is given.

    x: (n, p) dense, standardised. arcs, adjacency: of the training links alone, for views and for negatives. links,
    negatives: part -> pairs (2, e) with i < j.
    """

    def __init__(self, name: str, data_dir: Path | None, device: str, rng: np.random.Generator) -> None:
        super().__init__(name, data_dir, device, rng)
        graph = load(name, self.folder)
        self.x = standardised(name, self.folder, device)
        # Given links stand in the order of their ends; of many the first are probed, so they are shuffled.
        given = {part: rng.permutation(pairs, axis=1) for part, pairs in (graph.links or {}).items()}
        self.links = given or split_links(graph, SHARES, rng)
        counts = {part: min(pairs.shape[1], MOST_PAIRS) for part, pairs in self.links.items()}
        self.negatives = negatives_of(graph, counts, rng)
        train = torch.tensor(self.links["train"], device=device)
        self.train_links, self.nodes = train, graph.nodes
        self.arcs, self.adjacency = Arcs(train, graph.nodes), Adjacency.of_links(train, graph.nodes)
        self.partition = _partition(name, self.folder)
        self._labels = graph.labels
        self._parts = {part: nodes.cpu().numpy() for part, nodes in self.parts.items()}

    def members(self) -> Members:
        """Nodes of each part; links as n + i n + j, pairs without one as -1 - (i n + j)."""
        found = {}
        for part, nodes in self._parts.items():
            linked, other = (
                pairs[part].min(0) * self.nodes + pairs[part].max(0) for pairs in (self.links, self.negatives)
            )
            found[part] = np.concatenate([nodes, self.nodes + linked, -1 - other])
        return Members(known_by(self.name, self.folder), found)

    def served(self, z: Tensor, part: str) -> dict[str, float]:
        """measure -> value of the embeddings z (n, d), rows scaled to length 1, on `part`: "validation" or "test"."""
        rows = probes.unit_rows(z.detach().cpu().numpy())
        labelled, cut = (
            probes.linear_probe(rows, labels, self._parts, probed=(part,))[part].accuracy
            for labels in (self._labels, self.partition)
        )
        links = {name: self.links[name][:, :MOST_PAIRS] for name in ("train", part)}
        auc = probes.link_auc(rows, links, self.negatives, probed=(part,))[part]
        known = np.flatnonzero(self._labels >= 0)
        group = np.full(len(rows), -1)
        group[known] = probes.clusters(rows[known], self.classes)
        nmi, ari = probes.agreement(self._labels[self._parts[part]], group[self._parts[part]])
        values = (labelled, nmi, auc, cut)
        return dict(zip(SERVED, values, strict=True)) | {"mean": float(np.mean(values)), "ari": ari}
