"""Learning from sets of graphs: block-diagonal batches, splits and metrics.

Three levels share it: one label a graph, one label a node (a single graph with a part of its nodes to train on), and
one type an edge, which is reconstructed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairsweep.trainables.base import DataError, Metric
from fairsweep.trainables.datasets import graph_sets
from fairsweep.trainables.datasets.graph_sets import GraphSet
from fairsweep.trainables.datasets.own import splits
from fairsweep.trainables.parts import Members, identity
from fairsweep.trainables.tasks import node_classification
from fairsweep.trainables.tasks.graph_layers import scatter
from fairsweep.trainables.tasks.workers import workers

METRICS = (
    Metric("val_accuracy", "max", "validation", "fraction"),
    Metric("val_loss", "min", "validation", "nats"),
    Metric("train_loss", "min", "train", "nats"),
    Metric("test_accuracy", "max", "test", "fraction"),
    Metric("test_exact_match", "max", "test", "fraction"),
    Metric("test_informative_edges", "max", "test", "fraction"),
)
Level = Literal["graph", "node", "edge"]
NODE_LEVEL = ("digits_knn", "lastfm", "csbm", "cora", "citeseer")
ONE_GRAPH = (*NODE_LEVEL, "synthetic_coloured_edges")


@dataclass(frozen=True)
class GraphBatch:
    """Graphs as one with several components: n nodes and m edges, those of a graph contiguous.

    x: (n, p). ends: (2, m), nodes of the batch. e: (m, q). node_graph: (n,), edge_graph: (m,), the graph of each,
    ascending. target: (t,) classes; rows: (t,) which outputs they belong to, None for all in order; owner: (t,) the
    graph of each. marked: (m,) bool, the edges that a generator made informative, or None.
    """

    x: Tensor
    ends: Tensor
    e: Tensor
    node_graph: Tensor
    edge_graph: Tensor
    graphs: int
    target: Tensor
    owner: Tensor
    rows: Tensor | None = None
    marked: Tensor | None = None


class Output(NamedTuple):
    """What a network returns for a batch: logits of its graphs, nodes or edges, and the edges (ascending indices)
    that it still used at the end, None for all."""

    logits: Tensor
    kept: Tensor | None = None


class Measured(NamedTuple):
    """Means over one part: loss in nats and accuracy over its targets, the share of its graphs without an error, and
    the share of informative edges among those kept (1 where a data set marks none)."""

    loss: float
    accuracy: float
    exact: float
    informative: float


def segments(starts: Tensor, lengths: Tensor) -> Tensor:
    """The numbers start, start + 1, ... of each of the segments, behind each other."""
    offset = lengths.cumsum(0) - lengths
    return torch.repeat_interleave(starts - offset, lengths) + torch.arange(
        int(lengths.sum()), device=lengths.device
    )


def as_set(name: str, data_dir: Path | None) -> GraphSet:
    """A graph of `node_classification` as a set of one; `labels` are those of its nodes."""
    graph = node_classification.load(name, data_dir)
    features = graph.features.toarray() if sp.issparse(graph.features) else graph.features
    ends = np.stack(sp.triu(graph.adjacency, 1).nonzero()).astype(np.int64)
    return GraphSet(
        name,
        np.array([graph.nodes]),
        np.array([graph.edges]),
        features,
        ends,
        np.ones((graph.edges, 1), np.float32),
        graph.labels,
        graph.classes,
        held_out=(0, 0),
    )


@lru_cache(maxsize=2)
def _tensors(name: str, data_dir: Path | None, device: str) -> tuple[GraphSet, dict[str, Tensor]]:
    data = as_set(name, data_dir) if name in NODE_LEVEL else graph_sets.load(name, data_dir)
    return data, tensors(data, device)


def tensors(data: GraphSet, device: str) -> dict[str, Tensor]:
    """The arrays of `data` on `device`, by name; those that it has."""
    fields = ("nodes", "edges", "x", "ends", "e", "labels", "types", "marked", "values")
    arrays = {field: getattr(data, field) for field in fields}
    return {k: torch.tensor(a, device=device) for k, a in arrays.items() if a is not None}


@lru_cache(maxsize=4)
def _known_by(name: str, data_dir: Path | None) -> str:
    data = graph_sets.load(name, data_dir)
    return identity(data.nodes, data.edges, data.x, data.ends, data.e, data.labels, data.types)


def split(data: GraphSet, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Indices of the training, validation and test graphs, each stratified by class and drawn by `rng`; the public
    test part where there is one. A set of a single graph is all three parts at once."""
    everything = np.arange(len(data))
    if len(data) == 1:
        return {"train": everything, "validation": everything, "test": everything}
    if data.test is None and data.shares is not None:
        return splits.drawn(data.labels, data.shares, rng, data.name)
    validation, held_out = data.held_out
    if data.test is not None and data.validation is not None:
        train = np.setdiff1d(everything, np.concatenate([data.test, data.validation]))
        return {"train": train, "validation": data.validation, "test": data.test}
    if data.test is not None:
        rest, test = np.setdiff1d(everything, data.test), data.test
    else:
        rest, test = _stratified(everything, data.labels, held_out, rng)
    train, chosen = _stratified(rest, data.labels, validation, rng)
    return {"train": np.sort(train), "validation": np.sort(chosen), "test": np.sort(test)}


def _stratified(
    graphs: np.ndarray, labels: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    seed = int(rng.integers(2**31))
    from sklearn.model_selection import train_test_split

    keep, out = train_test_split(graphs, test_size=count, stratify=labels[graphs], random_state=seed)
    return keep, out


class GraphTask:
    """One set of graphs on one device, split by `rng`, for a task of `level`.

    inputs, edge_inputs: widths p and q. classes: of graphs, nodes or edges. mean_edges: of a training graph.
    DataError if the data set is unknown or has no targets of that level, with those that have.
    """

    def __init__(
        self, name: str, data_dir: Path | None, device: str, rng: np.random.Generator, edges: bool = False
    ) -> None:
        if name not in NODE_LEVEL and name not in graph_sets.LOADERS:
            raise DataError(f"data={name}: unknown; known: {', '.join([*graph_sets.LOADERS, *NODE_LEVEL])}")
        self.level: Level = "edge" if edges else "node" if name in NODE_LEVEL else "graph"
        folder = None if data_dir is None else Path(data_dir)
        self.name, self.folder = name, folder
        self._take(*_tensors(name, folder, device))
        if edges and self.data.types is None:
            raise DataError(
                f"data={name}: its edges have no types to reconstruct; choose digits_pixels, solubility,"
                " synthetic_coloured_edges, or a TUDataset with edge labels"
            )
        if self.level == "graph" and self.data.classes < 2:
            raise DataError(
                f"data={name}: its graphs have no classes; choose a model that reconstructs edges"
            )
        self.classes = self.data.edge_classes if edges else self.data.classes
        self.inputs, self.edge_inputs = self.data.x.shape[1], self.data.e.shape[1]
        parts = self._node_split(name, folder, rng) if self.level == "node" else split(self.data, rng)
        self.parts = {part: torch.tensor(indices, device=device) for part, indices in parts.items()}
        trained = parts["train"] if self.level != "node" else np.arange(1)
        self.mean_edges = float(self.data.edges[trained].mean())
        self._held: dict[tuple[str, int], list[GraphBatch]] = {}

    def _take(self, data: GraphSet, arrays: dict[str, Tensor]) -> None:
        """Makes batches of `data` from now on."""
        self.data, self.tensors = data, arrays
        self._starts = {k: arrays[k].cumsum(0) - arrays[k] for k in ("nodes", "edges")}

    def _node_split(self, name: str, folder: Path | None, rng: np.random.Generator) -> dict[str, np.ndarray]:
        graph = node_classification.load(name, folder)
        found = node_classification.split(graph, rng)
        return {part: np.asarray(nodes) for part, nodes in found.items()}

    def members(self) -> Members:
        """Graphs of each part, or nodes of the one graph."""
        whole = node_classification.known_by if self.name in NODE_LEVEL else _known_by
        found = {part: chosen.cpu().numpy() for part, chosen in self.parts.items()}
        return Members(whole(self.name, self.folder), found)

    def batch(self, graphs: Tensor, part: str = "train") -> GraphBatch:
        """The graphs of the given indices in that order; on node level the one graph with the targets of `part`."""
        t = self.tensors
        nodes, edges = t["nodes"][graphs], t["edges"][graphs]
        node = segments(self._starts["nodes"][graphs], nodes)
        edge = segments(self._starts["edges"][graphs], edges)
        numbers = torch.arange(len(graphs), device=graphs.device)
        node_graph = torch.repeat_interleave(numbers, nodes)
        edge_graph = torch.repeat_interleave(numbers, edges)
        rows = self.parts[part] if self.level == "node" else None
        target, owner = {
            "graph": lambda: (t["labels"][graphs], numbers),
            "node": lambda: (t["labels"][rows], torch.zeros_like(rows)),
            "edge": lambda: (t["types"][edge], edge_graph),
        }[self.level]()
        return GraphBatch(
            t["x"][node],
            t["ends"][:, edge] + (nodes.cumsum(0) - nodes)[edge_graph],
            t["e"][edge],
            node_graph,
            edge_graph,
            len(graphs),
            target,
            owner,
            rows,
            t["marked"][edge] if "marked" in t else None,
        )

    def batches(self, size: int) -> Iterator[Tensor]:
        """Indices of the training graphs in random order, `size` at a time, as often as an epoch goes over them.

        A graph of one node that would be a batch by itself, which nothing normalises, joins the batch beside it."""
        for _ in range(self.data.passes):
            graphs = self.parts["train"] if self.level != "node" else torch.zeros(1, dtype=torch.int64)
            order = torch.randperm(len(graphs)).to(self.tensors["nodes"].device)
            chunks = list(graphs.to(order.device)[order].split(size))
            for chosen in self._none_lone(chunks) if self.level == "graph" else chunks:
                if self.targets(chosen):
                    yield chosen

    def _none_lone(self, chunks: list[Tensor]) -> list[Tensor]:
        found: list[Tensor] = []
        lone = False
        for chunk in chunks:
            before, lone = lone, len(chunk) == 1 and int(self.tensors["nodes"][chunk]) == 1
            if found and (before or lone):
                found[-1], lone = torch.cat([found[-1], chunk]), False
            else:
                found.append(chunk)
        return found

    def targets(self, graphs: Tensor) -> int:
        """How many targets the training graphs of the given indices have."""
        if self.level == "node":
            return len(self.parts["train"])
        return len(graphs) if self.level == "graph" else int(self.tensors["edges"][graphs].sum())

    def loss(self, logits: Tensor, batch: GraphBatch) -> Tensor:
        """Mean cross-entropy (nats) over the targets of `batch`."""
        return F.cross_entropy(logits if batch.rows is None else logits[batch.rows], batch.target)

    @torch.no_grad()
    def evaluate(self, net: nn.Module, part: str, size: int = 128) -> Measured:
        """`net`, put into evaluation mode, over all of `part`. Several workers must all ask: each takes its graphs."""
        net.eval()
        group = workers(self.parts[part].device)
        if (part, size) not in self._held:
            graphs = self.parts[part] if self.level != "node" else torch.zeros_like(self.parts[part][:1])
            graphs = group.part(graphs)
            chunks = graphs.split(size) if len(graphs) else ()
            self._held[part, size] = [self.batch(chosen, part) for chosen in chunks]
        loss = torch.zeros((), dtype=torch.float64)
        right = targets = exact = graphs_seen = informative = kept = 0.0
        for batch in self._held[part, size]:
            output: Output = net(batch)
            logits = output.logits if batch.rows is None else output.logits[batch.rows]
            loss += F.cross_entropy(logits, batch.target, reduction="sum").double().cpu()
            wrong = logits.argmax(1) != batch.target
            right, targets = right + int((~wrong).sum()), targets + len(wrong)
            exact += int((scatter(wrong.long(), batch.owner, batch.graphs) == 0).sum())
            graphs_seen += batch.graphs
            if batch.marked is not None:
                left = batch.marked if output.kept is None else batch.marked[output.kept]
                informative, kept = informative + int(left.sum()), kept + len(left)
        counts = (float(loss), right, targets, exact, graphs_seen, informative, kept)
        total, right, targets, exact, graphs_seen, informative, kept = group.totals(*counts)
        share = informative / kept if kept else 1.0
        return Measured(total / targets, right / targets, exact / graphs_seen, share)

    def measure_test(self, net: nn.Module) -> dict[str, float]:
        """The test metrics of `METRICS`, of `net`."""
        held = self.evaluate(net, "test")
        return {
            "test_accuracy": held.accuracy,
            "test_exact_match": held.exact,
            "test_informative_edges": held.informative,
        }
