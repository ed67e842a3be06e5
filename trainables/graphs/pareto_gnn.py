"""ParetoGNN: one graph encoder pre-trained on five pretext tasks, reconciled by multiple-gradient descent.

Ju, Zhao, Wen, Yu, Shah, Ye and Zhang, Multi-task Self-supervised Graph Neural Networks Enable Stronger Task
Generalization, ICLR 2023, arXiv:2210.02016. At each update the tasks' gradients of the shared encoder, normalised, are
mixed to the vector of least norm in their convex hull; the same weights then mix the raw losses. Heads belong to tasks.

As the authors' code (github.com/jumxglhf/ParetoGNN), but for: the whole graph in place of sampled subgraphs, with at
most `anchors` nodes contrasted and `pairs` links reconstructed; masks of a view of its own (theirs share one tensor, so
that both views lose the columns of either); statistics of batch normalisation are always those of the graph at hand
(theirs are a running mean with momentum 0.99, the last pass in effect, be it of masked features); the parts of the
graph that are predicted come from spectral clustering in place of METIS; one encoder, which never sees a held-out link,
serves all four tasks (theirs pre-trains a second one on all links for the three tasks on nodes).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairsweep.trainables.base import Claim, Metric, Tiny
from fairsweep.trainables.catalog import register
from fairsweep.trainables.datasets import graphs
from fairsweep.trainables.tasks.graph_layers import Convolution
from fairsweep.trainables.tasks.graph_views import mask_columns
from fairsweep.trainables.tasks.link_prediction import sample_negatives
from fairsweep.trainables.tasks.min_norm import task_weights
from fairsweep.trainables.tasks.probes import average_ranks
from fairsweep.trainables.tasks.representation import LOADERS, METRICS, SERVED, RepresentationTask, too_wide
from fairsweep.trainables.tasks.sparse import dropout
from fairsweep.trainables.tasks.training import Mean, NetworkPaper

PRETEXTS = ("recon", "link", "ming", "minsg", "decor")
SUPERVISED = "supervised"  # the reference that does see training labels
CHOICES = ("all", *(f"without_{name}" for name in PRETEXTS), *PRETEXTS, SUPERVISED)
UPDATES = 10  # of the weights in a step of the trial


class Multiplies(Protocol):
    """What node states are propagated by."""

    def matmul(self, x: Tensor, /) -> Tensor: ...


def chosen(tasks: str) -> tuple[str, ...]:
    """The pretext tasks that `tasks` names. ValueError if it is none of `CHOICES`."""
    if tasks not in CHOICES:
        raise ValueError(f"tasks={tasks}: known are {', '.join(CHOICES)}")
    if tasks in (*PRETEXTS, SUPERVISED):
        return (tasks,)
    return tuple(name for name in PRETEXTS if tasks != f"without_{name}")


# ---- the encoder that all share ----


def xavier(layer: nn.Linear) -> nn.Linear:
    """`layer` with Xavier-uniform weights and a bias of zero."""
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def two_layers(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Linear, ReLU, linear."""
    return nn.Sequential(xavier(nn.Linear(inputs, hidden)), nn.ReLU(), xavier(nn.Linear(hidden, outputs)))


class Encoder(nn.Module):
    """Convolution, batch normalisation, PReLU, for each of `widths`; dropout between layers."""

    def __init__(self, inputs: int, widths: Sequence[int], drop: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Convolution(a, b) for a, b in pairwise((inputs, *widths)))
        self.norms = nn.ModuleList(nn.BatchNorm1d(b, track_running_stats=False) for b in widths)
        self.activations = nn.ModuleList(nn.PReLU() for _ in widths)
        self.drop = drop

    def forward(self, x: Tensor, graph: Multiplies) -> Tensor:
        for number, layer in enumerate(self.layers):
            x = dropout(x, self.drop if number else 0.0, self.training)
            x = self.activations[number](self.norms[number](layer(x, graph.matmul)))
        return x


# ---- the five losses, each of embeddings or their heads ----


def cosine_error(found: Tensor, wanted: Tensor) -> Tensor:
    """mean (1 - cos)^3 over the rows of two (m, p) matrices."""
    return (1 - F.cosine_similarity(found, wanted, dim=1)).pow(3).mean()


def bernoulli(positive: Tensor, negative: Tensor) -> Tensor:
    """Cross-entropy (nats) of logits that should be 1 and of those that should be 0, a mean of each, summed."""
    return -F.logsigmoid(positive).mean() - F.logsigmoid(-negative).mean()


def contrast(h1: Tensor, h2: Tensor, tau: float) -> Tensor:
    """(m,) InfoNCE of the rows of h1 with those of h2, negatives from both views, a row with itself left out."""
    h1, h2 = F.normalize(h1, dim=1), F.normalize(h2, dim=1)
    inside, across = h1 @ h1.T / tau, h1 @ h2.T / tau
    itself = torch.eye(len(h1), dtype=torch.bool, device=h1.device)
    all_pairs = torch.cat([inside.masked_fill(itself, -torch.inf), across], 1)
    return all_pairs.logsumexp(1) - across.diagonal()


def decorrelation(h1: Tensor, h2: Tensor, weight: float) -> Tensor:
    """||(Z1 - Z2) / n|| + weight (||I - Z1'Z1 / n|| + ||I - Z2'Z2 / n||), columns standardised, norms Frobenius."""
    n, unit = len(h1), torch.eye(h1.shape[1], device=h1.device)
    z1, z2 = ((h - h.mean(0)) / (h.std(0) + 1e-8) for h in (h1, h2))
    apart = sum((torch.linalg.norm(unit - z.T @ z / n) for z in (z1, z2)), h1.new_zeros(()))
    return torch.linalg.norm((z1 - z2) / n) + weight * apart


class Reconstruction(nn.Module):
    """The token in place of masked features, the layer between encoder and decoder, and the decoder."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, inputs))
        self.between, self.decoder = xavier(nn.Linear(width, width, bias=False)), Convolution(width, inputs)


class ParetoGNN(nn.Module):
    """The encoder, and for each task what is its own. `loss` is that of one task on new random views."""

    def __init__(self, inputs: int, classes: int, config: Mapping[str, Any]) -> None:
        super().__init__()
        width, predictor = config["out"], config["hidden"]
        self.config = config
        self.encoder = Encoder(inputs, (config["hidden"], width), config["dropout"])
        self.heads = nn.ModuleDict(
            {
                "recon": Reconstruction(inputs, width),
                "link": two_layers(width, predictor, 1),
                "ming": nn.Linear(width, width, bias=False),
                "minsg": two_layers(width, predictor, width),
                SUPERVISED: xavier(nn.Linear(width, classes)),
            }
        )
        nn.init.uniform_(self.heads["ming"].weight, -(width**-0.5), width**-0.5)

    def own(self, task: str) -> list[nn.Parameter]:
        """The parameters that only `task` trains: none of `decor`, whose loss is of the embeddings."""
        return list(self.heads[task].parameters()) if task in self.heads else []

    def loss(self, task: str, data: RepresentationTask) -> Tensor:
        losses: dict[str, Callable[[RepresentationTask], Tensor]] = {
            name: getattr(self, name) for name in PRETEXTS
        }
        return (losses | {SUPERVISED: self.supervised})[task](data)

    def recon(self, data: RepresentationTask) -> Tensor:
        """Masked features are reconstructed from hidden states of which those of masked nodes are zero."""
        head, graph = self.heads["recon"], data.arcs.thinned(self.config["recon_edges"])
        count = max(1, int(self.config["mask_rate"] * data.nodes))
        masked = torch.randperm(data.nodes, device=data.x.device)[:count]
        kept = data.x.new_ones(data.nodes, 1).index_fill(0, masked, 0.0)
        h = head.between(self.encoder(data.x * kept + (1 - kept) * head.token, graph)) * kept
        return cosine_error(head.decoder(h, graph.matmul)[masked], data.x[masked])

    def link(self, data: RepresentationTask) -> Tensor:
        """Training links against pairs without one; the links stay in the graph, as in the authors' code."""
        first, _, last = self.heads["link"]
        count = min(self.config["pairs"], data.train_links.shape[1])
        some = torch.randperm(data.train_links.shape[1], device=data.x.device)[:count]
        ends = torch.cat([data.train_links[:, some], sample_negatives(data.adjacency, count)], 1)
        h = self.encoder(dropout(data.x, self.config["link_dropout"]), data.arcs.whole)
        h = torch.relu(first(F.normalize(h, dim=1)))
        logits = last(h[ends[0]] * h[ends[1]]).squeeze(1)
        return bernoulli(logits[:count], logits[count:]) / 2

    def ming(self, data: RepresentationTask) -> Tensor:
        """Nodes of the graph against those of the graph with shuffled features, by a bilinear form with its summary."""
        shuffled = data.x[torch.randperm(data.nodes, device=data.x.device)]
        real, other = (self.encoder(x, data.arcs.whole) for x in (data.x, shuffled))
        summary = self.heads["ming"](torch.sigmoid(real.mean(0)))
        return bernoulli(real @ summary, other @ summary)

    def views(self, data: RepresentationTask, edges: float, columns: float) -> list[Tensor]:
        """Embeddings of two views, each with its own arcs and columns left out."""
        return [self.encoder(mask_columns(data.x, columns), data.arcs.thinned(edges)) for _ in range(2)]

    def minsg(self, data: RepresentationTask) -> Tensor:
        h1, h2 = self.views(data, self.config["minsg_edges"], self.config["minsg_columns"])
        if data.nodes > self.config["anchors"]:
            some = torch.randperm(data.nodes, device=h1.device)[: self.config["anchors"]]
            h1, h2 = h1[some], h2[some]
        h1, h2 = self.heads["minsg"](h1), self.heads["minsg"](h2)
        tau = self.config["tau"]
        return (contrast(h1, h2, tau) + contrast(h2, h1, tau)).mean() / 2

    def decor(self, data: RepresentationTask) -> Tensor:
        views = self.views(data, self.config["decor_edges"], self.config["decor_columns"])
        return decorrelation(*views, self.config["decor_lambda"])

    def supervised(self, data: RepresentationTask) -> Tensor:
        return data.loss(self.heads[SUPERVISED](self.encoder(data.x, data.arcs.whole)), "train")


_claim: dict[str, Any] = {"margin": 0.0, "origin": "direction", "data": "digits_noisy"}


@register
class ParetoGNNPaper(NetworkPaper):
    """AdamW on the weighted losses; embeddings are probed every ten updates. With `field` an encoder for each pretext
    task alone is trained beside it, and the test says its average rank among them."""

    slug = "pareto_gnn"
    title = "Multi-task Self-supervised Graph Neural Networks Enable Stronger Task Generalization"
    citation = "Ju, Zhao, Wen, Yu, Shah, Ye, Zhang. ICLR 2023. arXiv:2210.02016"
    task = "node representation learning"
    baselines = "each task alone, sum, mean, random weights, supervised GCN"
    datasets = ("digits_noisy", *(name for name in LOADERS if name != "digits_noisy"))
    metrics = (
        *METRICS,
        # Of the updates; whether the step taken makes some task's loss larger, to first order.
        Metric("train_conflict", "min", "train", "fraction"),
        Metric("test_rank", "min", "test"),  # average over the four tasks, 1 the best; 1 without a field
        Metric("test_rank_lead", "max", "test"),  # best average rank of another less this; 0 without
    )
    objective = "val_mean"
    tiny = Tiny("csbm", 3, {"hidden": 32, "out": 16, "lr": 5e-3, "pairs": 256})
    claims = (
        Claim(
            name="best_average_rank",
            statement="Over four tasks, at one step size, the average rank of MGDA is better than any pretext task's",
            treatment={"field": True},
            baseline=None,
            kind="value",
            metric="test_rank_lead",
            **_claim,
        ),
        Claim(
            name="mgda_beats_sum",
            statement="The mean of the four downstream measures is higher with MGDA than with the plain sum of losses",
            treatment={"weighting": "mgda"},
            baseline={"weighting": "sum"},
            metric="test_mean",
            tunes=("lr",),
            seeds=10,
            **_claim,
        ),
    )
    contenders: ClassVar[Mapping[str, tuple[str, ...]]] = {"tasks": ("all", *PRETEXTS)}
    paper_steps = dict.fromkeys(("pubmed", *graphs.GNN_BENCHMARK), 10_000 // UPDATES)
    default_steps = 12
    unit = "ten updates"

    @classmethod
    def unsuited(cls, config: Mapping[str, Any], data: str, data_dir: Path | None) -> str | None:
        if config.get("field") and config["tasks"] != "all":
            return f"field=true ranks tasks=all among each task alone; tasks={config['tasks']}: must be all"
        return too_wide(data, data_dir)

    def prepare(self) -> None:
        config = self.config
        self.active = chosen(config["tasks"])
        self.data = RepresentationTask(self.data_name, self.setting.data_dir, self.device, self.split_rng)
        self.net = ParetoGNN(self.data.x.shape[1], self.data.classes, config).to(self.device)
        self.optimiser = torch.optim.AdamW(
            self.net.parameters(), lr=config["lr"], weight_decay=config["weight_decay"]
        )
        self.rivals: dict[str, ParetoGNNPaper] = {}
        self.attrs = {}
        for name in PRETEXTS if config["field"] else ():
            self.rivals[name] = ParetoGNNPaper()
            alone = self.space().complete({**config, "tasks": name, "field": False})
            self.rivals[name].setup(alone, self.setting)

    def stateful(self) -> dict[str, Any]:
        return {**super().stateful(), **self.rivals}

    def gradients(self) -> tuple[np.ndarray, list[list[Tensor]], Tensor]:
        """Losses (T,), for each task the gradients of the encoder and then of its own head, and the former as rows."""
        shared = list(self.net.encoder.parameters())
        losses, found = [], []
        for task in self.active:
            loss = self.net.loss(task, self.data)
            losses.append(loss.item())
            found.append(list(torch.autograd.grad(loss, [*shared, *self.net.own(task)])))
        rows = torch.stack([torch.cat([g.flatten() for g in grads[: len(shared)]]) for grads in found])
        return np.array(losses), found, rows

    def update(self) -> tuple[float, bool]:
        """One update of all weights: the weighted loss before it, and whether its step opposes some task's gradient."""
        losses, found, rows = self.gradients()
        gram = (rows.double() @ rows.double().T).cpu().numpy()
        weights = task_weights(gram, losses, self.config)
        shared = list(self.net.encoder.parameters())
        self.optimiser.zero_grad()
        for number, parameter in enumerate(shared):
            mixed = [w * grads[number] for w, grads in zip(weights.tolist(), found, strict=True)]
            parameter.grad = torch.stack(mixed).sum(0) if len(mixed) > 1 else mixed[0]
        for w, task, grads in zip(weights.tolist(), self.active, found, strict=True):
            for parameter, grad in zip(self.net.own(task), grads[len(shared) :], strict=True):
                parameter.grad = w * grad
        self.optimiser.step()
        against = gram @ weights
        return float(weights @ losses), bool((against < -1e-9 * np.diag(gram).max()).any())

    def embed(self, net: nn.Module) -> Tensor:
        """(n, d) of the clean graph of training links, in evaluation mode."""
        with torch.no_grad():
            return net.eval().encoder(self.data.x, self.data.arcs.whole)

    def epoch(self) -> dict[str, float]:
        loss, conflict = Mean(), Mean()
        for _ in range(UPDATES):
            before, against = self.update()
            loss.add(before)
            conflict.add(float(against))
        for rival in self.rivals.values():
            rival.step()
        found = self.data.served(self.embed(self.net), "validation")
        kept = {f"val_{name}": found[name] for name in ("mean", *SERVED)}
        return {**kept, "train_loss": loss.value, "train_conflict": conflict.value}

    def measure_test(self, net: nn.Module) -> dict[str, float]:
        found = self.data.served(self.embed(net), "test")
        tests = {f"test_{name}": value for name, value in found.items()}
        others = [rival.test() for rival in self.rivals.values()]
        ranks = average_ranks(
            np.array([[arm[f"test_{name}"] for name in SERVED] for arm in (tests, *others)])
        )
        lead = float(ranks[1:].min() - ranks[0]) if others else 0.0
        if others:
            arms = ("all", *self.rivals)
            self.attrs = {"average ranks": dict(zip(arms, ranks.tolist(), strict=True))}
        return {**tests, "test_rank": float(ranks[0]), "test_rank_lead": lead}
