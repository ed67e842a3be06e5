"""Link prediction: one graph whose links are split; neighbourhoods on a device, negatives, Hits@K.

A training step is one epoch over the training links, each with one random pair that is not linked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor

from fairsweep.trainables.base import DataError, Metric
from fairsweep.trainables.datasets import graphs, planetoid
from fairsweep.trainables.datasets.graphs import Graph
from fairsweep.trainables.datasets.own import nodes as own_nodes
from fairsweep.trainables.parts import Members, identity
from fairsweep.trainables.tasks.sparse import SparseMatrix, csr, on_device, product

METRICS = (
    Metric("val_hits", "max", "validation", "fraction"),
    Metric("val_loss", "min", "validation", "nats"),
    Metric("train_loss", "min", "train", "nats"),
    Metric("test_hits20", "max", "test", "fraction"),
    Metric("test_hits50", "max", "test", "fraction"),
    Metric("test_hits100", "max", "test", "fraction"),
)


@dataclass(frozen=True)
class LinkSet:
    """A graph and how its links are split.

    shares: of the links, for validation and for test. negatives: pairs without a link in the validation and in
    the test set, for each link of the latter: Hits@K falls with their number, so that both sets must have the
    same; least: as many at least, as far as there are so many. hits: the K of `val_hits`.
    """

    loader: Callable[[Path | None], Graph]
    shares: tuple[float, float] = (0.1, 0.2)
    negatives: float = 1.0
    hits: int = 100
    least: int = 0

    def negative_pairs(self, graph: Graph, links: int) -> int:
        """Pairs without a link in the validation and in the test set, whose links are `links`. DataError if the graph
        has too few for the K of the metrics."""
        free = graph.nodes * (graph.nodes - 1) // 2 - graph.edges
        count = max(round(self.negatives * links), min(self.least, free // 2))
        if self.least and count < MOST_HITS:
            raise DataError(
                f"data={graph.name}: the graph has {graph.nodes} nodes and {free} pairs of them without a link;"
                f" Hits@{MOST_HITS} needs {2 * MOST_HITS} such pairs at least"
            )
        return count


SETS: Mapping[str, LinkSet] = {
    "digits_500": LinkSet(graphs.digits_500, (0.1, 0.3), 2.5, hits=20),
    "lastfm": LinkSet(graphs.lastfm),
    "synthetic_geometric": LinkSet(graphs.synthetic_geometric, (0.1, 0.3), 2.5, hits=20),
    **{name: LinkSet(partial(planetoid.planetoid, name)) for name in planetoid.SIZES},
    "own": LinkSet(own_nodes.linked, least=500),
}

MOST_HITS = 100  # the largest K of the metrics
EVALUATION_BATCH = 4096  # pairs scored at once; bounds the memory


# ---- neighbourhoods ----


class Entries(NamedTuple):
    """Nodes that belong to pairs: the node `node[e]` to the pair number `pair[e]`, with a weight."""

    pair: Tensor
    node: Tensor
    weight: Tensor | float


class Adjacency:
    """A graph of n nodes on a device, as the sorted keys i * n + j of its entries (i, j).

    `weight` is the value of every entry.
    """

    def __init__(self, keys: Tensor, nodes: int, weight: float = 1.0) -> None:
        self.keys, self.nodes, self.weight = keys, nodes, weight
        self.columns = keys % nodes
        self.degree = torch.bincount(keys // nodes, minlength=nodes)
        self.start = torch.cat([self.degree.new_zeros(1), self.degree.cumsum(0)])

    @classmethod
    def of_links(cls, links: Tensor, nodes: int) -> Adjacency:
        """The undirected graph of `links` (2, e); without loops, each link once."""
        i, j = links[:, links[0] != links[1]]
        return cls(torch.unique(torch.cat([i * nodes + j, j * nodes + i])), nodes)

    def find(self, i: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
        """Positions of the entries (i, j), and whether they are there."""
        wanted = i * self.nodes + j
        if not len(self.keys):
            return torch.zeros_like(wanted), torch.zeros_like(wanted, dtype=torch.bool)
        position = torch.searchsorted(self.keys, wanted).clamp_max(len(self.keys) - 1)
        return position, self.keys[position] == wanted

    def neighbours(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """All neighbours of all `nodes`: the index into `nodes`, and the neighbour."""
        counts = self.degree[nodes]
        owner = torch.repeat_interleave(torch.arange(len(nodes), device=nodes.device), counts)
        first = self.start[nodes] - (counts.cumsum(0) - counts)
        return owner, self.columns[first[owner] + torch.arange(len(owner), device=nodes.device)]

    def overlap(self, other: Adjacency, i: Tensor, j: Tensor) -> tuple[Entries, Entries]:
        """For each pair (i, j): nodes in N(i) of this graph that are in N(j) of `other`, and those that are not.

        Common ones weigh the product of both entries, the others their entry.
        """
        pair, node = self.neighbours(i)
        common = other.find(j[pair], node)[1]
        rest = ~common
        return (
            Entries(pair[common], node[common], self.weight * other.weight),
            Entries(pair[rest], node[rest], self.weight),
        )

    def without(self, links: Tensor) -> Adjacency:
        """The graph without `links` (2, e) in both directions; links that it does not have are passed over."""
        i, j = links
        position, present = self.find(torch.cat([i, j]), torch.cat([j, i]))
        keep = torch.ones_like(self.keys, dtype=torch.bool)
        keep[position[present]] = False
        return Adjacency(self.keys[keep], self.nodes, self.weight)

    def dropped(self, p: float) -> Adjacency:
        """Each entry dropped with probability `p`, the others divided by 1 - p; directions fall on their own."""
        if p == 0:
            return self
        keep = torch.rand(len(self.keys), device=self.keys.device) >= p
        return Adjacency(self.keys[keep], self.nodes, self.weight / (1 - p))

    def two_hops(self) -> Adjacency:
        """Pairs joined by a walk of two links, a node with itself among them; each once."""
        owner, end = self.neighbours(self.columns)
        start = self.keys[owner] // self.nodes
        return Adjacency(torch.unique(start * self.nodes + end), self.nodes, self.weight**2)

    @cached_property
    def _csr(self) -> Tensor:
        values = torch.full((len(self.keys),), self.weight, device=self.keys.device)
        return csr((self.start.int(), self.columns.int()), values, (self.nodes, self.nodes))

    def propagate(self, x: Tensor) -> Tensor:
        """D^-1/2 (A + I) D^-1/2 x of x (n, d) with D the degrees of A + I; A must be symmetric."""
        scale = (1 + self.degree * self.weight).rsqrt().unsqueeze(1)
        x = scale * x
        return scale * (product(self._csr, self._csr, x) + x)


def sampled(entries: Entries, pairs: int, most: int) -> Entries:
    """At most `most` random entries of each of `pairs` pairs; those kept of c weigh c / `most` times as much."""
    device = entries.pair.device
    order = torch.rand(len(entries.pair), device=device).argsort()
    order = order[entries.pair[order].argsort(stable=True)]
    pair, node = entries.pair[order], entries.node[order]
    counts = torch.bincount(pair, minlength=pairs)
    rank = torch.arange(len(pair), device=device) - (counts.cumsum(0) - counts)[pair]
    keep = rank < most
    weight = entries.weight[order][keep] if isinstance(entries.weight, Tensor) else entries.weight
    weight = weight * (counts[pair[keep]] / most).clamp_min(1.0)
    return Entries(pair[keep], node[keep], weight)


def pool(z: Tensor, entries: Entries, pairs: int) -> Tensor:
    """(pairs, d): the weighted sum of z (n, d) over the nodes of each pair."""
    values = z[entries.node]
    if isinstance(entries.weight, Tensor):
        values = values * entries.weight.unsqueeze(1)
    elif entries.weight != 1:
        values = values * entries.weight
    return z.new_zeros(pairs, z.shape[1]).index_add(0, entries.pair, values)


# ---- splits and negatives ----


def split_links(graph: Graph, shares: tuple[float, float], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Links (2, e) with i < j: the given shares to validate and to test, rounded, all others to train.

    ValueError if a part would have no link.
    """
    upper = sp.triu(graph.adjacency, 1).tocoo()
    links = np.stack([upper.row, upper.col]).astype(np.int64)
    links = links[:, rng.permutation(links.shape[1])]
    validation, test = (round(share * links.shape[1]) for share in shares)
    if min(validation, test, links.shape[1] - validation - test) < 1:
        raise ValueError(f"shares={shares}: {graph.name} has {links.shape[1]} links, a part would have none")
    parts = np.split(links, [validation, validation + test], axis=1)
    return dict(zip(("validation", "test", "train"), parts, strict=True))


def draw_negatives(adjacency: sp.csr_matrix, count: int, rng: np.random.Generator) -> np.ndarray:
    """(2, count) different pairs i < j without a link, uniform. ValueError if there are not as many."""
    n = adjacency.shape[0]
    upper = sp.triu(adjacency, 1).tocoo()
    linked = upper.row.astype(np.int64) * n + upper.col
    free = n * (n - 1) // 2 - len(linked)
    if count > free:
        raise ValueError(f"count={count}: only {free} pairs of nodes have no link")
    found = np.empty(0, np.int64)
    while len(found) < count:
        ends = np.sort(rng.integers(n, size=(2, 2 * count)), axis=0)
        drawn = (ends[0] * n + ends[1])[ends[0] < ends[1]]
        found = np.union1d(found, np.setdiff1d(drawn, linked))
    found = rng.permutation(found)[:count]
    return np.stack([found // n, found % n])


def sample_negatives(adjacency: Adjacency, count: int) -> Tensor:
    """(2, count) uniform pairs i != j that `adjacency` does not link, some perhaps twice. ValueError if none."""
    n, device = adjacency.nodes, adjacency.keys.device
    if len(adjacency.keys) >= n * (n - 1):
        raise ValueError(f"count={count}: every pair of the {n} nodes has a link")
    found = torch.empty(2, 0, dtype=torch.int64, device=device)
    while found.shape[1] < count:
        i, j = torch.randint(n, (2, count + count // 4 + 1), device=device)
        free = (i != j) & ~adjacency.find(i, j)[1]
        found = torch.cat([found, torch.stack([i[free], j[free]])], 1)
    return found[:, :count]


def hits(positive: Tensor, negative: Tensor, K: int) -> float:
    """Hits@K: the share of scores `positive` above the K-th best of `negative`. ValueError if K > their number."""
    if not 1 <= K <= len(negative):
        raise ValueError(f"K={K}: must be between 1 and the number of negatives, {len(negative)}")
    return int((positive > negative.topk(K).values[-1]).sum()) / len(positive)


def link_loss(positive: Tensor, negative: Tensor) -> Tensor:
    """Mean cross-entropy (nats) of the logits of links plus that of pairs without a link."""
    return -F.logsigmoid(positive).mean() - F.logsigmoid(-negative).mean()


# ---- data ----


@lru_cache(maxsize=4)
def _load(name: str, data_dir: Path | None) -> Graph:
    return SETS[name].loader(data_dir)


def load(name: str, data_dir: Path | None = None) -> Graph:
    """The graph `name`, read once per process. DataError if unknown, missing or damaged."""
    if name not in SETS:
        raise DataError(f"data={name}: unknown graph; known: {', '.join(SETS)}")
    return _load(name, None if data_dir is None else Path(data_dir))


@lru_cache(maxsize=4)
def _known_by(name: str, data_dir: Path | None) -> str:
    graph = load(name, data_dir)
    return identity(graph.features, graph.adjacency)


def mean_one(features: sp.csr_matrix) -> sp.csr_matrix:
    """Rows scaled to a mean of 1 over their entries that are not zero: a normalised row of words present or
    not becomes ones again."""
    sums = np.asarray(features.sum(1)).ravel()
    scale = np.divide(features.getnnz(1), sums, out=np.zeros_like(sums), where=sums > 0)
    return sp.csr_matrix(sp.diags(scale) @ features, dtype=np.float32)


@lru_cache(maxsize=2)
def _features(name: str, data_dir: Path | None, device: str) -> Tensor | SparseMatrix:
    features = load(name, data_dir).features
    return on_device(mean_one(features) if sp.issparse(features) else features, device)


class LinkTask:
    """One graph on one device with a split of its links drawn by `rng`.

    features: (n, p), dense or sparse. adjacency: the training links. links, negatives: pairs (2, e) by part;
    no pair of `negatives` has a link in any part, and validation and test share none, but have equally many.
    """

    def __init__(self, name: str, data_dir: Path | None, device: str, rng: np.random.Generator) -> None:
        graph = load(name, data_dir)
        self.kind = SETS[name]
        self.name, self.folder = name, None if data_dir is None else Path(data_dir)
        self.features = _features(name, self.folder, device)
        self.inputs, self.nodes = int(self.features.shape[1]), graph.nodes
        links = graph.links or split_links(graph, self.kind.shares, rng)
        count = self.kind.negative_pairs(graph, links["test"].shape[1])
        drawn = np.split(draw_negatives(graph.adjacency, 2 * count, rng), 2, axis=1)
        negatives = dict(zip(("validation", "test"), drawn, strict=True))
        self.links = {part: torch.tensor(pairs, device=device) for part, pairs in links.items()}
        self.negatives = {part: torch.tensor(pairs, device=device) for part, pairs in negatives.items()}
        self.adjacency = Adjacency.of_links(self.links["train"], self.nodes)

    def members(self) -> Members:
        """Pairs of each part as i n + j with i < j, and those without a link as -1 - (i n + j)."""

        def numbers(pairs: Tensor) -> np.ndarray:
            ends = np.sort(pairs.cpu().numpy(), axis=0)
            return ends[0] * self.nodes + ends[1]

        found = {part: numbers(pairs) for part, pairs in self.links.items()}
        for part, pairs in self.negatives.items():
            found[part] = np.concatenate([found[part], -1 - numbers(pairs)])
        return Members(_known_by(self.name, self.folder), found)

    def with_validation_links(self) -> Adjacency:
        """The graph of training and validation links, which some benchmarks give a model at test."""
        known = torch.cat([self.links["train"], self.links["validation"]], 1)
        return Adjacency.of_links(known, self.nodes)

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Random batches of equal size, at most `size` and half of the training links, and as many negatives."""
        links = self.links["train"]
        count = links.shape[1]
        negatives = sample_negatives(self.adjacency, count)
        order = torch.randperm(count, device=links.device)
        # Two at least: a graph without its batch must have links left.
        for chosen in order.tensor_split(max(2, math.ceil(count / size))):
            yield links[:, chosen], negatives[:, chosen]

    def scores(self, score: Callable[[Tensor], Tensor], part: str) -> tuple[Tensor, Tensor]:
        """`score` of the links and of the negatives of `part`; it takes pairs (2, e) and returns logits (e,)."""
        pairs = torch.cat([self.links[part], self.negatives[part]], 1)
        found = torch.cat([score(chunk) for chunk in pairs.split(EVALUATION_BATCH, 1)])
        return found[: self.links[part].shape[1]], found[self.links[part].shape[1] :]
