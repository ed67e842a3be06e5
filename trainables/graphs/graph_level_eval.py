"""A protocol for graph-level networks, and a network of k-path rooted subgraphs with adaptive contrastive learning.

Li, Xu, Zhang, Zhou, Chen and Li, Revisiting Graph Neural Networks on Graph-level Tasks, arXiv:2501.00773v1, 2025. Every
node is the root of a subgraph of simple paths of at most k edges, which a network encodes by itself, so that it counts
paths and cycles that no message passing on the graph tells apart. A contrastive term pulls two views of a graph
together; a view lacks edges that the network itself holds unimportant.

No code of the authors is public and only the abstract and the headings of v1 could be checked: what the sampling, the
scores of edges and the loss are in detail is this file's definition. Multi-label targets are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairsweep.trainables.base import OWN, Claim, Tiny
from fairsweep.trainables.catalog import register
from fairsweep.trainables.datasets import graph_sets
from fairsweep.trainables.datasets.tudataset import TU
from fairsweep.trainables.tasks import graph_layers
from fairsweep.trainables.tasks.batch_structure import BatchStructure
from fairsweep.trainables.tasks.graph_classification import Output
from fairsweep.trainables.tasks.graph_layers import TopKPool, convolutions, propagate, scatter, top
from fairsweep.trainables.tasks.graph_levels import METRICS, GraphLevelTask, LevelBatch
from fairsweep.trainables.tasks.message_passing import LAYERS, Layers
from fairsweep.trainables.tasks.rooted_subgraphs import Kind, expected_bytes
from fairsweep.trainables.tasks.training import Mean, NetworkPaper

ROOTED = ("kpath", "ego_subgraph")
ENCODERS = (*ROOTED, "gin", "gcn", "sage", "gat", "topk_pool")
CONTRASTS = ("adaptive", "random_drop", "none")
MOST_BYTES = 16e9  # of rooted subgraphs

# ---- encoders: states of the nodes (n, hidden), and a vector of each graph ----


def pooled(states: Tensor, batch: LevelBatch, kind: str) -> Tensor:
    """(graphs, c): the sum of the states of each graph's nodes, or their mean, which cannot count."""
    total = scatter(states, batch.node_graph, batch.graphs)
    if kind == "sum":
        return total
    return total / torch.bincount(batch.node_graph, minlength=batch.graphs)[:, None]


class NodeEncoder(nn.Module):
    """Layers of one kind on the graph itself."""

    def __init__(self, inputs: int, config: Mapping[str, Any]) -> None:
        super().__init__()
        widths = [inputs, *[config["hidden"]] * config["layers"]]
        self.layers = Layers(config["encoder"], widths, config["dropout"], norm=True)
        self.readout = config["readout"]

    def forward(self, batch: LevelBatch, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
        states = torch.relu(self.layers(batch.x, BatchStructure(batch.ends, len(batch.x), weight)))
        return states, pooled(states, batch, self.readout)


class TopKEncoder(nn.Module):
    """Convolutions of which all but the last are followed by a pooling that keeps half the nodes (Gao and Ji 2019); the
    maxima, means and sums after each are added up. The states of all nodes are those after the first."""

    width = 3

    def __init__(self, inputs: int, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.convs = convolutions(inputs, config["hidden"], config["layers"])
        self.pools = nn.ModuleList(TopKPool(config["hidden"], 0.5) for _ in self.convs[1:])

    def forward(self, batch: LevelBatch, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, ends, graph, read = batch.x, batch.ends, batch.node_graph, []
        first = None
        for layer, conv in enumerate(self.convs):
            x = torch.relu(conv(x, propagate, ends, weight))
            first = x if first is None else first
            if layer < len(self.pools):
                x, ends, graph, kept = self.pools[layer](x, ends, graph, batch.graphs)
                weight = None if weight is None else weight[kept]
            read.append(graph_layers.readout(x, graph, batch.graphs))
        assert first is not None
        return first, torch.stack(read).sum(0)


class RootedEncoder(nn.Module):
    """A GIN on the subgraph of every root, whose nodes are told their place by `node_label`; the sum of its states and
    an MLP make the root's vector z, on which further GIN layers may run on the graph itself (`outer_layers`).

    Its cost is linear in the copies: a node has one in every subgraph that it lies in.
    """

    def __init__(self, inputs: int, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.label, hidden = config.get("node_label", "root_mark"), config["hidden"]
        told = {"root_mark": 1, "distance": config["k"] + 1, "path_counts": config["k"] + 1}[self.label]
        drop, outer = config["dropout"], config["outer_layers"]
        self.inner = Layers("gin", [inputs + told, *[hidden] * config["layers"]], drop, norm=True)
        self.root = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden))
        self.outer = Layers("gin", [hidden] * (outer + 1), drop, norm=True) if outer else None
        self.readout = config["readout"]

    def forward(self, batch: LevelBatch, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
        rooted = batch.rooted
        if rooted is None:
            raise ValueError("the batch has no rooted subgraphs")
        x = torch.cat([batch.x[rooted.node], rooted.label(self.label)], dim=1)
        inside = BatchStructure(rooted.ends, len(x), None if weight is None else weight[rooted.edge])
        copies = torch.relu(self.inner(x, inside))
        states = torch.relu(self.root(scatter(copies, rooted.root, rooted.n)))
        if self.outer is not None:
            states = torch.relu(self.outer(states, BatchStructure(batch.ends, rooted.n, weight)))
        return states, pooled(states, batch, self.readout)


def encoder(inputs: int, config: Mapping[str, Any]) -> nn.Module:
    """The encoder `config["encoder"]` of nodes with `inputs` features; ValueError if there is none of that name."""
    name = config["encoder"]
    if name not in ENCODERS:
        raise ValueError(f"encoder={name}: known are {', '.join(ENCODERS)}")
    kind = RootedEncoder if name in ROOTED else NodeEncoder if name in LAYERS else TopKEncoder
    return kind(inputs, config)


# ---- adaptive contrastive learning ----


class EdgeScore(nn.Module):
    """(m,): how important an edge is, from the vectors of its ends: their cosine, or an MLP of them in either order.

    The MLP is trained through the weights sigmoid(score) that it gives the edges of a view.
    """

    def __init__(self, hidden: int, kind: str) -> None:
        super().__init__()
        self.mlp = None
        if kind == "mlp":
            self.mlp = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, states: Tensor, ends: Tensor) -> Tensor:
        u, v = states.detach()[ends]
        if self.mlp is None:
            return F.cosine_similarity(u, v, dim=1)
        both = torch.stack([torch.cat([u, v], 1), torch.cat([v, u], 1)])
        return self.mlp(both).mean(0).squeeze(1)


def left(score: Tensor, edge_graph: Tensor, graphs: int, drop: float, tau: float) -> Tensor:
    """Indices, ascending, of the ceil((1 - drop) m) edges of each graph that stay: those that go are drawn without
    replacement with probabilities proportional to exp(-score / tau)."""
    # The largest of logits plus Gumbel noise are such a draw.
    gumbel = -torch.empty_like(score).exponential_().log()
    return top(score.detach() / tau - gumbel, edge_graph, graphs, 1 - drop)


def view(batch: LevelBatch, kept: Tensor) -> LevelBatch:
    """The graphs of a batch with the edges `kept`, their subgraphs included."""
    rooted = None if batch.rooted is None else batch.rooted.without(kept)
    fields = {"ends": batch.ends[:, kept], "e": batch.e[kept], "edge_graph": batch.edge_graph[kept]}
    return replace(batch, **fields, marked=None, rooted=rooted)


def nt_xent(a: Tensor, b: Tensor, tau: float) -> Tensor:
    """The mean over i of -log(exp(cos(a_i, b_i) / tau) / sum over j != i of exp(cos(a_i, b_j) / tau)), as GraphCL has
    it: the pair itself is not in the denominator, so that it may be negative. a, b: (graphs, d) of two and more."""
    similar = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / tau
    others = similar.masked_fill(torch.eye(len(a), dtype=torch.bool, device=a.device), -torch.inf)
    return (others.logsumexp(1) - similar.diagonal()).mean()


class GraphNet(nn.Module):
    """An encoder and the MLP that tells class or value; in training a projection and the scores of edges, too."""

    def __init__(self, inputs: int, outputs: int, config: Mapping[str, Any]) -> None:
        super().__init__()
        hidden = config["hidden"]
        self.encoder = encoder(inputs, config)
        width = hidden * getattr(self.encoder, "width", 1)
        dropout = nn.Dropout(config["dropout"])
        self.head = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), dropout, nn.Linear(hidden, outputs))
        self.contrast, self.weight = config["contrastive"], config.get("con_weight", 0.0)
        if self.contrast not in CONTRASTS:
            raise ValueError(f"contrastive={self.contrast}: known are {', '.join(CONTRASTS)}")
        self.contrasts = self.contrast != "none" and self.weight > 0
        if self.contrasts:
            self.drop, self.tau, self.tau_a = config["drop"], config["tau"], config.get("tau_a", 1.0)
            self.project = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden))
            self.score = EdgeScore(hidden, config.get("score", "cosine"))

    def forward(self, batch: LevelBatch) -> Output:
        return Output(self.head(self.encoder(batch)[1]))

    def views(self, batch: LevelBatch, states: Tensor) -> list[Tensor]:
        """Projections (graphs, hidden) of two views, given the node states of the whole graphs."""
        score = self.score(states, batch.ends)
        if self.contrast == "random_drop":
            score = torch.zeros_like(score)
        weight = None if self.score.mlp is None else torch.sigmoid(score)
        found = []
        for _ in range(2):
            kept = left(score, batch.edge_graph, batch.graphs, self.drop, self.tau_a)
            vector = self.encoder(view(batch, kept), None if weight is None else weight[kept])[1]
            found.append(self.project(vector))
        return found

    def loss(self, batch: LevelBatch, task: GraphLevelTask) -> tuple[Tensor, Tensor]:
        """L_task + con_weight L_con of a training batch, and L_task alone."""
        states, vector = self.encoder(batch)
        loss = task.loss(self.head(vector), batch)
        if not self.contrasts or batch.graphs < 2:
            return loss, loss
        return loss + self.weight * nt_xent(*self.views(batch, states), self.tau), loss


# ---- training ----


@lru_cache(maxsize=64)
def _rooted_bytes(name: str, folder: Path | None, kind: Kind, k: int, most: int) -> float:
    return expected_bytes(graph_sets.load(name, folder), kind, k, most)


_COUNT: dict[str, Any] = {
    "contrastive": "none",
    "node_label": "root_mark",
    "outer_layers": 0,
    "readout": "sum",
}
_WORSE: dict[str, Any] = {"encoder": "kpath", "scenario": "noise", "noise": 0.3, "noise_kind": "remove"}
_TUNED = ("lr", "layers")


@register
class GraphLevelEval(NetworkPaper):
    """Adam; `encoder` and `contrastive` give method and baselines, `scenario` what is done to the training graphs.

    Sets of graphs with values (`GraphSet.values`) are regressions; their classes are cut from the values that are told.
    """

    slug = "graph_level_eval"
    title = (
        "Revisiting Graph Neural Networks on Graph-level Tasks: Comprehensive Experiments, Analysis, and"
        " Improvements"
    )
    citation = "Li, Xu, Zhang, Zhou, Chen, Li. 2025. arXiv:2501.00773v1"
    task = "graph classification"
    baselines = "GIN, GCN, GraphSAGE, GAT, TopKPool, ego subgraphs; random or no contrast"
    datasets = (
        *("solubility", "solubility_logs", "digits_pixels", "graph_atlas", "synthetic_regular_graphs"),
        *("synthetic_noisy_edges", *TU, OWN),
    )
    contenders: ClassVar[Mapping[str, tuple[str, ...]]] = {"encoder": ENCODERS}
    metrics = METRICS
    objective = "val_accuracy"
    tiny = Tiny("graph_atlas", 4, {"encoder": "kpath", "k": 2, "hidden": 16, "lr": 5e-3})
    claims = (
        Claim(
            name="paths_count_triangles",
            statement="The test R^2 of k-path subgraphs on triangles of 3-regular graphs is higher than GIN's, which is"
            " at most 0 whatever its settings",
            treatment={**_COUNT, "encoder": "kpath", "k": 3},
            baseline={"encoder": "gin", "contrastive": "none", "readout": "sum"},
            metric="test_r2",
            margin=0.0,
            origin="direction",
            data="synthetic_regular_graphs",
            steps=40,
        ),
        Claim(
            name="paths_beat_gin",
            statement="On molecules, k-path subgraphs with adaptive contrast have a higher test accuracy than GIN",
            treatment={"encoder": "kpath", "contrastive": "adaptive"},
            baseline={"encoder": "gin", "contrastive": "none"},
            metric="test_accuracy",
            margin=0.0,
            origin="direction",
            data="solubility",
            seeds=10,
            tunes=_TUNED,
        ),
        *(
            Claim(
                name=f"adaptive_beats_{other}_under_noise",
                statement="After training on molecules that lost .3 of their bonds, adaptive contrast has a higher test"
                f" accuracy than {what}",
                treatment={**_WORSE, "contrastive": "adaptive"},
                baseline={**_WORSE, "contrastive": other},
                metric="test_accuracy",
                margin=0.0,
                origin="direction",
                data="solubility",
                seeds=10,
                tunes=_TUNED,
            )
            for other, what in (("none", "none"), ("random_drop", "views that lack random bonds"))
        ),
    )

    default_steps = 25  # the paper's own number of epochs could not be checked
    selection = "val_loss"

    @classmethod
    def unsuited(cls, config: Mapping[str, Any], data: str, data_dir: Path | None) -> str | None:
        """The subgraphs around every node of dense or of large graphs do not fit."""
        kind = config["encoder"]
        if kind not in ROOTED:
            return None
        folder = None if data_dir is None else Path(data_dir)
        size = _rooted_bytes(data, folder, kind, config["k"], config.get("max_paths", 0))
        if size <= MOST_BYTES:
            return None
        lower = "a smaller max_paths or k" if kind == "kpath" else "a smaller k, or encoder=kpath"
        return (
            f"subgraphs of encoder={kind} with k={config['k']} around every node take {size / 1e9:.0f} GB; must be at"
            f" most {MOST_BYTES / 1e9:.0f} GB: {lower}"
        )

    def prepare(self) -> None:
        where = (self.setting.data_dir, self.device, self.split_rng)
        self.data = GraphLevelTask(self.data_name, *where, self.config)
        self.net: GraphNet = GraphNet(self.data.inputs, self.data.outputs, self.config).to(self.device)
        decay = self.config["weight_decay"]
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=self.config["lr"], weight_decay=decay)

    def epoch(self) -> dict[str, float]:
        train_loss = Mean()
        for graphs in self.data.batches(self.config["batch_size"]):
            batch = self.data.batch(graphs)
            loss, of_task = self.net.loss(batch, self.data)
            self.descend(loss)
            train_loss.add(of_task, batch.graphs)
        held = self.data.score(self.net, "validation")
        return {
            "val_accuracy": held.accuracy,
            "val_r2": held.r2,
            "val_loss": held.loss,
            "train_loss": train_loss.value,
        }

    def measure_test(self, net: nn.Module) -> dict[str, float]:
        return self.data.measure_test(net)
