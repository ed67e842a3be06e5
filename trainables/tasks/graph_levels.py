"""One protocol for classes and for numbers of graphs: training sets that are clean, noisy, unbalanced or small.

Only training graphs are made worse; those that validate and test stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairsweep.trainables.base import DataError, Metric
from fairsweep.trainables.datasets import graph_sets
from fairsweep.trainables.datasets.packed_graphs import GraphSet, degree_features
from fairsweep.trainables.tasks.graph_classification import GraphBatch, GraphTask, tensors
from fairsweep.trainables.tasks.rooted_subgraphs import Batches, Kind, Rooted, Subgraphs, find

METRICS = (
    Metric("val_accuracy", "max", "validation", "fraction"),
    Metric("val_r2", "max", "validation"),
    Metric("val_loss", "min", "validation"),
    Metric("train_loss", "min", "train"),
    Metric("test_accuracy", "max", "test", "fraction"),
    Metric("test_macro_f1", "max", "test", "fraction"),
    Metric("test_r2", "max", "test"),
    Metric("test_mae", "min", "test"),
)
SCENARIOS = ("clean", "noise", "imbalance", "fewshot")

# ---- worse training sets ----


def unbalanced(labels: np.ndarray, train: np.ndarray, ratio: float, rng: np.random.Generator) -> np.ndarray:
    """Those of the graphs `train` that stay, ascending: of the classes by size, largest first, as many as decay
    exponentially from the largest to that over `ratio`, at most what there are and one at least."""
    count = np.bincount(labels[train])
    order = np.argsort(-count, kind="stable")[: np.count_nonzero(count)]
    decay = ratio ** (-np.arange(len(order)) / max(len(order) - 1, 1))
    limit = dict(
        zip(order.tolist(), np.maximum(1, np.round(count.max() * decay)).astype(int).tolist(), strict=True)
    )
    return _some(labels, train, limit, rng)


def few(labels: np.ndarray, train: np.ndarray, shots: int, rng: np.random.Generator) -> np.ndarray:
    """`shots` of the graphs `train` of each class, ascending; all of a class that has fewer."""
    return _some(labels, train, dict.fromkeys(np.unique(labels[train]).tolist(), shots), rng)


def _some(
    labels: np.ndarray, train: np.ndarray, limit: Mapping[int, int], rng: np.random.Generator
) -> np.ndarray:
    chosen = [rng.permutation(train[labels[train] == label])[:most] for label, most in limit.items()]
    return np.sort(np.concatenate(chosen))


def noisy(data: GraphSet, graphs: np.ndarray, share: float, kind: str, rng: np.random.Generator) -> GraphSet:
    """`data` with round(share * m) of the m edges of each of `graphs` taken away (`kind` "remove"), or with as many new
    ones between its nodes ("add"; fewer where a graph is nearly complete), their features those of edges it has. Where
    the features of nodes are their degrees, these are counted anew."""
    owner = np.repeat(np.arange(len(data)), data.edges)
    change = np.zeros(len(data), np.int64)
    change[graphs] = np.round(share * data.edges[graphs])
    start = np.cumsum(data.edges) - data.edges
    shuffled = np.lexsort((rng.random(len(owner)), owner))
    rank = np.empty(len(owner), np.int64)
    rank[shuffled] = np.arange(len(owner)) - start[owner[shuffled]]
    if kind == "remove":
        rows, ends = np.flatnonzero(rank >= change[owner]), data.ends
    else:
        of, pairs = _new_pairs(data, change, rng)
        like = start[of] + (rng.random(len(of)) * data.edges[of]).astype(np.int64)
        rows = np.concatenate([np.arange(len(owner)), like])
        ends, all_owners = np.concatenate([data.ends, pairs], axis=1), np.concatenate([owner, of])
        order = np.argsort(all_owners, kind="stable")
        rows, ends, owner = rows[order], ends[:, order], all_owners[order]
        return _with_edges(data, rows, ends, owner)
    return _with_edges(data, rows, ends[:, rows], owner[rows])


def _with_edges(data: GraphSet, rows: np.ndarray, ends: np.ndarray, owner: np.ndarray) -> GraphSet:
    def taken(column: np.ndarray | None) -> np.ndarray | None:
        return None if column is None else column[rows]

    edges = np.bincount(owner, minlength=len(data))
    made = replace(
        data, edges=edges, ends=ends, e=data.e[rows], types=taken(data.types), marked=taken(data.marked)
    )
    # Else the truth would stand beside the noise.
    return replace(made, x=degree_features(made.degree(), data.degree())) if data.degrees else made


def _new_pairs(data: GraphSet, wanted: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The graph, ascending, and the ends (2, c) of random pairs of nodes that no edge joins, `wanted` of each graph."""
    tries = np.where(wanted > 0, 8 * wanted + 16, 0)
    of = np.repeat(np.arange(len(data)), tries)
    u, v = np.sort((rng.random((2, len(of))) * data.nodes[of]).astype(np.int64), axis=0)
    width = int(data.nodes.max())

    def key(graph: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        return (graph * width + low) * width + high

    owner = np.repeat(np.arange(len(data)), data.edges)
    low, high = np.sort(data.ends, axis=0)
    found = key(of, u, v)
    _, first = np.unique(found, return_index=True)
    fresh = np.sort(first[(u[first] != v[first]) & ~np.isin(found[first], key(owner, low, high))])
    count = np.bincount(of[fresh], minlength=len(data))
    place = np.arange(len(fresh)) - (np.cumsum(count) - count)[of[fresh]]
    chosen = fresh[place < wanted[of[fresh]]]
    return of[chosen], np.stack([u[chosen], v[chosen]])


# ---- the task ----


@dataclass(frozen=True)
class LevelBatch(GraphBatch):
    """A batch with its rooted subgraphs, if the network has use for them, and the standardised values of its graphs, if
    it is to predict those."""

    rooted: Rooted | None = None
    value: Tensor | None = None


class Scores(NamedTuple):
    """Of one part. loss: cross-entropy in nats, or the squared error of standardised values. accuracy, macro_f1: of
    classes, which `GraphSet.cuts` give to values. r2: 1 - SS_res / SS_tot, and mae: the mean absolute error, of the
    values, or of probabilities for the classes as ones and zeros (then r2 is the Brier skill score)."""

    loss: float
    accuracy: float
    macro_f1: float
    r2: float
    mae: float


@lru_cache(maxsize=2)
def _subgraphs(name: str, folder: Path | None, kind: Kind, k: int, most: int) -> Subgraphs:
    return find(graph_sets.load(name, folder), kind, k, most)


class GraphLevelTask(GraphTask):
    """Graphs whose class or, where a set has values, whose value is to be told, in a scenario of `SCENARIOS`.

    config: scenario with noise, noise_kind, imbalance or shots; encoder with k and max_paths where it reads rooted
    subgraphs, which are found once a set and process (once a trial where its edges are noisy).
    """

    def __init__(
        self,
        name: str,
        data_dir: Path | None,
        device: str,
        rng: np.random.Generator,
        config: Mapping[str, Any],
    ) -> None:
        super().__init__(name, data_dir, device, rng)
        train, scenario = self.parts["train"].cpu().numpy(), config["scenario"]
        if scenario not in SCENARIOS:
            raise ValueError(f"scenario={scenario}: known are {', '.join(SCENARIOS)}")
        if scenario == "noise":
            changed = noisy(self.data, train, config["noise"], config["noise_kind"], rng)
            self._take(changed, tensors(changed, device))
        if scenario == "imbalance":
            train = unbalanced(self.data.labels, train, config["imbalance"], rng)
        if scenario == "fewshot":
            train = few(self.data.labels, train, config["shots"], rng)
        self.parts["train"] = torch.tensor(train, device=device)
        self.regression = self.data.values is not None
        self.outputs = 1 if self.regression else self.classes
        if self.data.nodes[train].sum() < 2:
            raise DataError(
                f"data={name}: the training graphs have one node in all; needs two at least, to normalise over:"
                " more graphs to train on, or larger ones"
            )
        values = np.zeros(len(self.data)) if self.data.values is None else self.data.values
        self.mean, self.deviation = float(values[train].mean()), float(values[train].std()) or 1.0
        self.rooted: Batches | None = None
        if config["encoder"] in ("kpath", "ego_subgraph"):
            kind, k, most = config["encoder"], config["k"], config.get("max_paths", 0)
            found = (
                find(self.data, kind, k, most)
                if scenario == "noise"
                else _subgraphs(name, self.folder, kind, k, most)
            )
            self.rooted = Batches(found, self.data, device)

    def batch(self, graphs: Tensor, part: str = "train") -> LevelBatch:
        plain = super().batch(graphs, part)
        value = None
        if self.regression:
            value = ((self.tensors["values"][graphs] - self.mean) / self.deviation).float()
        rooted = None if self.rooted is None else self.rooted.of(graphs)
        return LevelBatch(**vars(plain), rooted=rooted, value=value)

    def loss(self, logits: Tensor, batch: GraphBatch) -> Tensor:
        """Mean cross-entropy (nats), or mean squared error of the standardised values."""
        value = batch.value if isinstance(batch, LevelBatch) else None
        return super().loss(logits, batch) if value is None else F.mse_loss(logits.squeeze(1), value)

    @torch.no_grad()
    def score(self, net: nn.Module, part: str, size: int = 128) -> Scores:
        """What `net`, put into evaluation mode, is worth on all of `part`."""
        from sklearn.metrics import f1_score

        net.eval()
        if (part, size) not in self._held:
            self._held[part, size] = [self.batch(graphs, part) for graphs in self.parts[part].split(size)]
        batches = self._held[part, size]
        logits = torch.cat([net(batch).logits for batch in batches]).double().cpu()
        labels = torch.cat([batch.target for batch in batches]).cpu().numpy()
        if self.regression:
            told = self.tensors["values"][self.parts[part]].cpu().numpy()[:, None]
            found = logits.numpy() * self.deviation + self.mean
            loss = float(np.mean((found - told) ** 2)) / self.deviation**2
            guess = np.searchsorted(np.array(self.data.cuts), found[:, 0])
        else:
            told, found = np.eye(self.classes)[labels], torch.softmax(logits, 1).numpy()
            loss = float(F.cross_entropy(logits, torch.tensor(labels)))
            guess = found.argmax(1)
        total = ((told - told.mean(0)) ** 2).sum()
        return Scores(
            loss,
            float((guess == labels).mean()),
            float(f1_score(labels, guess, average="macro", zero_division=0)),
            float(1 - ((told - found) ** 2).sum() / total) if total else 0.0,
            float(abs(told - found).mean()),
        )

    def measure_test(self, net: nn.Module) -> dict[str, float]:
        """The test metrics of `METRICS`, of `net`."""
        held = self.score(net, "test")
        return {
            "test_accuracy": held.accuracy,
            "test_macro_f1": held.macro_f1,
            "test_r2": held.r2,
            "test_mae": held.mae,
        }
