"""A weak and a strong expert on one graph, the confidence of the weak one, and the mixtures of the two.

Zeng, Lyu, Hu, Xia and Luo, Mixture of Weak & Strong Experts on Graphs, ICLR 2024.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairsweep.trainables.tasks.message_passing import LAYERS, Features, Structure, product
from fairsweep.trainables.tasks.sparse import linear

# ---- experts ----


class OwnLayer(nn.Module):
    """x W + b: a layer that sees no neighbour, called like those that do."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x: Features, graph: Structure | None, drop: float = 0.0) -> Tensor:
        return linear(self.linear, x, drop)


class Expert(nn.Module):
    """Layers widths[0] -> ... -> widths[-1] of a kind ("mlp" or one of `LAYERS`); between them batch normalisation,
    ReLU (ELU in a GAT) and dropout."""

    def __init__(self, kind: str, widths: list[int], drop: float = 0.0) -> None:
        super().__init__()
        layer = OwnLayer if kind == "mlp" else LAYERS[kind]
        self.layers = nn.ModuleList(layer(a, b) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in widths[1:-1])
        self.activation = F.elu if kind == "gat" else F.relu
        self.drop = drop

    def hidden(self, x: Features, graph: Structure | None, beside: Tensor | None = None) -> Tensor:
        """What the last layer reads. beside: (n, widths[1]), added to what the first layer gives."""
        h = x
        for i, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=False)):
            out = layer(h, graph, self.drop if self.training and i else 0.0)
            out = out if beside is None or i else out + beside
            h = self.activation(norm(out))
        return h

    def forward(self, x: Features, graph: Structure | None, beside: Tensor | None = None) -> Tensor:
        return self.layers[-1](self.hidden(x, graph, beside), graph, self.drop if self.training else 0.0)


# ---- confidence ----


@torch.no_grad()
def dispersion(logits: Tensor) -> Tensor:
    """(n, 2) of scores (n, C): variance and negative entropy of the class probabilities, both 0 where these are
    uniform and 1 where they are one-hot."""
    p, classes = logits.softmax(1), logits.shape[1]
    variance = p.var(1, correction=0) * classes**2 / (classes - 1)
    entropy = -torch.special.xlogy(p, p).sum(1)
    return torch.stack([variance, 1 - entropy / math.log(classes)], 1).clamp(0, 1)


class Confidence(nn.Module):
    """Probability (n,) that the weak expert answers.

    kind: "gate_dispersion": sigmoid of an MLP of the dispersion; "gate_dispersion_plus_x": of dispersion and features;
    "hyper": of a linear network of the dispersion whose weights are functions of the features; "variance_only": the
    variance to the power `alpha`; "learnable_free": sigmoid of a network of the weak expert's hidden state, with its
    gradient; "constant": `level`.
    """

    def __init__(self, kind: str, inputs: int, hidden: int, layers: int, alpha: float, level: float) -> None:
        super().__init__()
        self.kind, self.alpha, self.level = kind, alpha, level
        if kind in ("gate_dispersion", "gate_dispersion_plus_x"):
            self.gate = Expert("mlp", [2, *[hidden] * (layers - 1), 1])
        if kind == "gate_dispersion_plus_x":
            self.of_features = nn.Parameter(nn.init.xavier_uniform_(torch.empty(inputs, hidden)))
        if kind == "hyper":
            sizes = (2 * hidden, hidden, hidden, 1)
            self.weights = nn.ModuleList(Expert("mlp", [inputs, 64, size], 0.5) for size in sizes)
        if kind == "learnable_free":
            self.gate = nn.Sequential(
                nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(), nn.Linear(hidden, 1)
            )

    def forward(self, weak: Tensor, hidden: Tensor, x: Features) -> Tensor:
        """weak: scores (n, C) of the weak expert; hidden: the state behind them; x: features."""
        if self.kind == "constant":
            return weak.new_full((len(weak),), self.level)
        if self.kind == "learnable_free":
            return self.gate(hidden).sigmoid().squeeze(1)
        spread = dispersion(weak)
        if self.kind == "variance_only":
            return spread[:, 0] ** self.alpha
        if self.kind == "hyper":
            w1, b1, w2, b2 = (net(x, None) for net in self.weights)
            h = (spread[:, :, None] * w1.view(len(spread), 2, -1)).sum(1) + b1
            return ((h * w2).sum(1) + b2.squeeze(1)).sigmoid()
        beside = product(x, self.of_features) if self.kind == "gate_dispersion_plus_x" else None
        return self.gate(spread, None, beside).sigmoid().squeeze(1)


class Mixture(nn.Module):
    """Both experts and the confidence of the weak one."""

    def __init__(self, inputs: int, classes: int, config: Mapping[str, Any]) -> None:
        super().__init__()
        hidden, layers = config["hidden"], config["layers"]
        widths = [inputs, *[hidden] * (layers - 1), classes]
        self.weak = Expert(config.get("weak", "mlp"), widths)
        self.strong = Expert(config.get("strong", "gcn"), widths)
        kind = config.get("confidence", "constant")  # an ensemble's is even
        self.confidence = Confidence(
            kind, inputs, hidden, layers, config.get("alpha", 1.0), config.get("level", 0.5)
        )

    def set_drop(self, drop: float) -> None:
        """Gives all parts this probability of dropout; the hyper-network keeps its own."""
        for part in self.modules():
            if isinstance(part, nn.Dropout):
                part.p = drop
        for expert in (self.weak, self.strong, getattr(self.confidence, "gate", None)):
            if isinstance(expert, Expert):
                expert.drop = drop

    def weak_and_confidence(self, x: Features, graph: Structure) -> tuple[Tensor, Tensor]:
        """Scores (n, C) of the weak expert and its confidence (n,)."""
        hidden = self.weak.hidden(x, graph)
        weak = self.weak.layers[-1](hidden, graph, self.weak.drop if self.weak.training else 0.0)
        return weak, self.confidence(weak, hidden, x)


# ---- losses and answers ----


def mixed_losses(weak: Tensor, strong: Tensor, c: Tensor, labels: Tensor) -> Tensor:
    """Mowst: the mean over nodes of c CE(weak) + (1 - c) CE(strong)."""
    first, second = (F.cross_entropy(scores, labels, reduction="none") for scores in (weak, strong))
    return (c * first + (1 - c) * second).mean()


def mixed_scores(weak: Tensor, strong: Tensor, c: Tensor, labels: Tensor) -> Tensor:
    """Mowst*: the cross-entropy of the scores c weak + (1 - c) strong."""
    return F.cross_entropy(c[:, None] * weak + (1 - c)[:, None] * strong, labels)


def drawn_accuracy(weak: Tensor, strong: Tensor, c: Tensor, labels: Tensor, draws: int = 0) -> float:
    """Mowst: the weak expert answers with probability c. The mean over `draws`, or, without, what it tends to."""
    first, second = ((scores.argmax(1) == labels).double() for scores in (weak, strong))
    if draws:
        c = (torch.rand(draws, len(c), device=c.device) < c).double()
    return float((c * first + (1 - c) * second).mean())


def joint_accuracy(weak: Tensor, strong: Tensor, c: Tensor, labels: Tensor) -> float:
    """Mowst*: of the probabilities c p + (1 - c) q."""
    p = c[:, None] * weak.softmax(1) + (1 - c)[:, None] * strong.softmax(1)
    return int((p.argmax(1) == labels).sum()) / len(labels)
