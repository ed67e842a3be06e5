"""The information plane: what each layer of a network keeps of the input and of the label while it trains.

Shwartz-Ziv and Tishby, Opening the Black Box of Deep Neural Networks via Information, 2017, arXiv:1703.00810.
A layer T is a point (I(X;T), I(T;Y)). In the paper both rise first, while the mean of the gradient outweighs its
noise; then I(X;T) falls, and the layers end near the bound of the information bottleneck.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairsweep.trainables.base import Claim, Metric, Tiny
from fairsweep.trainables.catalog import register
from fairsweep.trainables.datasets.patterns import LOADERS
from fairsweep.trainables.tasks.mutual_information import (
    bin_numbers,
    binned,
    binned_information,
    entropy,
    kde_information,
)
from fairsweep.trainables.tasks.pattern_classification import PatternTask
from fairsweep.trainables.tasks.training import Mean, NetworkPaper

# ---- the bound of the information bottleneck ----

BETAS = np.geomspace(200.0, 0.5, 60)


def _divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """D[p_i || q_j] in nats, (n, m), of distributions p (n, classes) and q (m, classes)."""
    log_p, log_q = (np.log(np.clip(d, 1e-300, None)) for d in (p, q))
    return np.maximum((p * log_p).sum(1)[:, None] - p @ log_q.T, 0.0)


def ib_curve(
    conditional: Tensor, betas: Sequence[float] | np.ndarray = BETAS, sweeps: int = 300
) -> np.ndarray:
    """(I(X;T), I(T;Y)) in bits of the optimal encoders, (betas, 2), for p(y|x) (n, classes) and uniform p(x).

    Iterates p(t|x) ~ p(t) exp(-beta D[p(y|x) || p(y|t)]) with its p(t) and p(y|t) (Tishby et al. 1999), from
    the largest beta down, each from the last one's encoder. Inputs with one p(y|x) count as one: the bound
    knows no difference between them. Every point is that of an encoder, so none is above the true bound.
    """
    p_y_x, counts = np.unique(conditional.cpu().numpy().round(12), axis=0, return_counts=True)
    p_x = counts / counts.sum()
    encoder = np.eye(len(p_x))
    points = []
    for beta in sorted(betas, reverse=True):
        for _ in range(sweeps):
            p_t = p_x @ encoder
            used = p_t > 1e-12
            p_t, encoder = p_t[used], encoder[:, used]
            p_y_t = (encoder * p_x[:, None]).T @ p_y_x / p_t[:, None]
            updated = p_t * np.exp(-beta * _divergence(p_y_x, p_y_t))
            updated /= updated.sum(1, keepdims=True)
            change = np.abs(updated - encoder).max()
            encoder = updated
            if change < 1e-7:
                break
        p_t = np.maximum(p_x @ encoder, 1e-300)
        joint = torch.tensor((encoder * p_x[:, None]).T @ p_y_x)
        ixt = (p_x[:, None] * encoder * np.log2(np.maximum(encoder, 1e-300) / p_t)).sum()
        ity = entropy(joint.sum(0)) + entropy(joint.sum(1)) - entropy(joint.flatten())
        points.append((max(ixt, 0.0), max(ity.item(), 0.0)))
    return np.array(points)


def ib_gap(ixt: float, ity: float, curve: np.ndarray) -> float:
    """How far a layer at (ixt, ity) bits is below the bound `curve` (points, 2) at its I(X;T)."""
    xs, ys = np.array(sorted([(0.0, 0.0), *map(tuple, curve)])).T
    return float(np.interp(ixt, xs, np.maximum.accumulate(ys))) - ity


def layer_beta(numbers: Tensor, conditional: Tensor, betas: np.ndarray = BETAS) -> float:
    """The beta whose optimal encoder, given the layer's own p(t) and p(y|t), is nearest to the layer.

    Nearest in the mean over x of D[p(t|x) || p_beta(t|x)]; the layer's p(t|x) is 1 at its own bin.
    """
    p_t, p_y_t = (d.cpu().numpy() for d in binned(numbers, conditional))
    p_y_x, kinds = np.unique(conditional.cpu().numpy().round(12), axis=0, return_inverse=True)
    kinds, own = kinds.ravel(), numbers.cpu().numpy()
    distance = _divergence(p_y_x, p_y_t)
    costs = [
        np.mean(np.log(np.exp(-beta * distance) @ p_t)[kinds] + beta * distance[kinds, own]) for beta in betas
    ]
    return float(betas[int(np.argmin(costs))])


# ---- network ----

ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu, "softsign": F.softsign, "linear": lambda x: x}


class Network(nn.Module):
    """Fully connected layers of `widths`, inputs and classes among them; logits (n, classes).

    Weights start from a normal distribution of deviation 1 / sqrt(fan-in), cut at two deviations.
    """

    def __init__(self, widths: Sequence[int], activation: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.activation = ACTIVATIONS[activation]
        for layer in self.layers:
            deviation = layer.in_features**-0.5
            nn.init.trunc_normal_(layer.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
            nn.init.zeros_(layer.bias)

    def representations(self, x: Tensor) -> list[Tensor]:
        """What every layer gives, hidden ones first, class probabilities (n, classes) last."""
        found = []
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
            found.append(x)
        return [*found, self.layers[-1](x).softmax(1)]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


def drift_and_noise(
    net: Network, batches: Sequence[tuple[Tensor, Tensor]]
) -> tuple[list[float], list[float]]:
    """Of each layer's weights, the norm of the gradient's mean over `batches`, and that of its deviation.

    Their ratio is the signal-to-noise ratio of the gradient: above 1 weights drift, below they diffuse.
    """
    weights = [layer.weight for layer in net.layers]
    gradients = [torch.autograd.grad(F.cross_entropy(net(x), y), weights) for x, y in batches]
    stacks = [torch.stack(of_layer) for of_layer in zip(*gradients, strict=True)]
    drift = [stack.mean(0).norm().item() for stack in stacks]
    return drift, [stack.var(0, correction=0).sum().sqrt().item() for stack in stacks]


def fitting_begins(ity: Sequence[float], share: float = 0.1) -> int:
    """The first place at which I(T;Y) has made `share` of its way up from the first to its highest; the last if none.

    Before it a layer shows the weights it was drawn with: an untrained layer can keep more of X than a trained one ever
    does, and losing that is not what the paper calls compression, which follows on fitting.
    """
    rise = max(ity) - ity[0]
    return next((i for i, bits in enumerate(ity) if rise > 0 and bits >= ity[0] + share * rise), len(ity) - 1)


# ---- training ----


@register
class InformationPlane(NetworkPaper):
    """Trains the network and measures its layers at epochs that are evenly spaced on a logarithmic scale.

    `curve` has an entry for each of these epochs: what `plane` returns, every layer in it and the output last,
    and `drift` and `noise` of each layer's gradient. A step's metrics are those of the last entry.
    """

    slug = "information_plane"
    title = "Opening the Black Box of Deep Neural Networks via Information"
    citation = "Shwartz-Ziv, Tishby. 2017. arXiv:1703.00810"
    task = "information plane"
    baselines = "ReLU, softsign, linear; SGD, Adam; two estimators"
    datasets = tuple(LOADERS)
    metrics = (
        Metric("val_accuracy", "max", "validation", "fraction"),
        Metric("val_loss", "min", "validation", "nats"),
        Metric("train_loss", "min", "train", "nats"),
        Metric("first_ixt", "min", "train", "bits"),
        Metric("first_ity", "max", "train", "bits"),
        Metric("last_ixt", "min", "train", "bits"),
        Metric("last_ity", "max", "train", "bits"),
        Metric("gradient_snr", "max", "train", "ratio"),
        Metric("test_accuracy", "max", "test", "fraction"),
        # Of the last hidden layer, over training once fitting has begun (`fitting_begins`). Its highest I(X;T) less
        # the final one; the final I(T;Y) less that at the highest I(X;T); and when the highest I(X;T) was.
        Metric("compression", "max", "test", "bits"),
        Metric("relevance_gain", "max", "test", "bits"),
        Metric("compression_epoch", "min", "test", "epochs"),
        # The first measured epoch from which on the gradient's noise outweighs its mean.
        Metric("diffusion_epoch", "min", "test", "epochs"),
        Metric("ib_gap", "min", "test", "bits"),
        Metric("ib_beta", "max", "test", "ratio"),
    )
    claims = (
        Claim(
            name="last_layer_compresses",
            statement="With tanh units the last hidden layer loses I(X;T) after it has begun to fit",
            treatment={"activation": "tanh"},
            baseline=None,
            kind="value",
            metric="compression",
            margin=0.0,
            origin="direction",
            seeds=10,
        ),
        Claim(
            name="relevance_grows_while_it_compresses",
            statement="With tanh units the last hidden layer has a higher I(T;Y) at the end than where its I(X;T) was"
            " highest",
            treatment={"activation": "tanh"},
            baseline=None,
            kind="value",
            metric="relevance_gain",
            margin=0.0,
            origin="direction",
            seeds=10,
        ),
    )
    objective = "val_accuracy"
    tiny = Tiny("synthetic_icosahedron", 4, {"batch_size": 512, "lr": 0.01})

    unit = "10 epochs"
    epochs_a_step = 10
    measurements = 15
    paper_steps = {"var_u": 800}
    default_steps = 150
    carried = ("curve",)

    @classmethod
    def minimum(cls, config: Mapping[str, Any], steps: int) -> int:
        """Deep tanh networks stay at the majority class for some tens of epochs, which says nothing of the end."""
        return max(1, steps // 10)

    @classmethod
    def measured_epochs(cls, epochs: int) -> set[int]:
        """About `measurements` epochs out of 1 .. `epochs`, both ends among them, in equal ratios."""
        return set(np.geomspace(1, epochs, cls.measurements).round().astype(int).tolist())

    def prepare(self) -> None:
        config = self.config
        self.data = PatternTask(
            self.data_name,
            self.setting.data_dir,
            self.device,
            config["train_fraction"],
            config["gamma_label"],
            self.split_rng,
        )
        hidden = [int(width) for width in config["hidden"].split("-")]
        widths = [self.data.inputs.shape[1], *hidden, self.data.classes]
        self.activation = config.get("activation", "tanh")
        self.net: Network = Network(widths, self.activation).to(self.device)
        train = len(self.data.parts["train"])
        self.batch_size = train if config["optimiser"] == "gd" else min(config["batch_size"], train)
        decay = config["weight_decay"]
        if config["optimiser"] == "adam":
            self.optimiser = torch.optim.Adam(self.net.parameters(), config["lr"], weight_decay=decay)
        else:
            self.optimiser = torch.optim.SGD(self.net.parameters(), config["sgd_lr"], weight_decay=decay)
        self.schedule = self.measured_epochs(self.epochs * self.epochs_a_step)
        self.curve: list[dict[str, Any]] = []

    # -- measurements --

    def bins_of(self, t: Tensor, reach: float, hidden: bool) -> Tensor:
        """`bin_numbers` of a layer over its activation's range, or as far as its outputs have reached."""
        bounded = self.activation in ("tanh", "softsign") or not hidden
        low, high = (-1.0, 1.0) if bounded else (0.0 if self.activation == "relu" else -reach, reach)
        return bin_numbers(t, self.config["bins"], low, high)

    @torch.no_grad()
    def plane(self) -> dict[str, Any]:
        """The layers of the network as it is now, over all inputs: I(X;T) and I(T;Y) in bits of each, as lists;
        `reach`, each one's largest absolute output so far; `beta` of the last hidden one, see `layer_beta`."""
        layers, conditional = self.net.representations(self.data.inputs), self.data.conditional
        reach = [t.abs().max().item() for t in layers]
        if self.curve:
            reach = [max(pair) for pair in zip(reach, self.curve[-1]["reach"], strict=True)]
        bins = [self.bins_of(t, r, t is not layers[-1]) for t, r in zip(layers, reach, strict=True)]
        if self.config["estimator"] == "kde":
            points = [kde_information(t, conditional, self.config["noise_variance"]) for t in layers]
        else:
            points = [binned_information(numbers, conditional) for numbers in bins]
        ixt, ity = ([p[i] for p in points] for i in (0, 1))
        return {"ixt": ixt, "ity": ity, "reach": reach, "beta": layer_beta(bins[-2], conditional)}

    def measure(self, epoch: int) -> None:
        """Adds the network as it is after `epoch` epochs to the curve."""
        train = self.data.parts["train"]
        # Batches as the optimiser has them, but two at least: one alone would show no noise.
        parts = train.chunk(max(2, round(len(train) / self.batch_size)))
        drift, noise = drift_and_noise(self.net, [(self.data.inputs[p], self.data.labels[p]) for p in parts])
        self.curve.append({"epoch": epoch, "drift": drift, "noise": noise, **self.plane()})

    @staticmethod
    def snr(point: Mapping[str, Any]) -> float:
        """Signal-to-noise ratio of the gradient of all weights at a point of the curve."""
        return math.hypot(*point["drift"]) / max(math.hypot(*point["noise"]), 1e-12)

    # -- the loop --

    def epoch(self) -> dict[str, float]:
        train_loss = Mean()
        first = self.done * self.epochs_a_step + 1
        for epoch in range(first, first + self.epochs_a_step):
            for x, y in self.data.batches(self.batch_size):
                loss = F.cross_entropy(self.net(x), y)
                self.descend(loss)
                train_loss.add(loss, len(y))
            if epoch in self.schedule:
                self.measure(epoch)
        val_loss, val_accuracy = self.data.evaluate(self.net, "validation")
        point = self.curve[-1]
        return {
            "val_accuracy": val_accuracy,
            "val_loss": val_loss,
            "train_loss": train_loss.value,
            "first_ixt": point["ixt"][0],
            "first_ity": point["ity"][0],
            "last_ixt": point["ixt"][-2],
            "last_ity": point["ity"][-2],
            "gradient_snr": self.snr(point),
        }

    def measure_test(self, net: nn.Module) -> dict[str, float]:
        """Accuracy of the best network; all else is of the course of training up to the network as it is now."""
        now: dict[str, Any] = {"epoch": self.done * self.epochs_a_step, **self.plane()}
        course = [p for p in self.curve if p["epoch"] < now["epoch"]] + [now]
        ixt, ity = ([p[name][-2] for p in course] for name in ("ixt", "ity"))
        begun = fitting_begins(ity)
        peak = begun + int(np.argmax(ixt[begun:]))
        drifting = [p["epoch"] for p in self.curve if self.snr(p) >= 1]
        diffusing = [p["epoch"] for p in self.curve if p["epoch"] > max(drifting, default=0)]
        return {
            "test_accuracy": self.data.evaluate(net, "test")[1],
            "compression": ixt[peak] - ixt[-1],
            "relevance_gain": ity[-1] - ity[peak],
            "compression_epoch": float(course[peak]["epoch"]),
            "diffusion_epoch": float(min(diffusing, default=now["epoch"])),
            "ib_gap": ib_gap(ixt[-1], ity[-1], ib_curve(self.data.conditional)),
            "ib_beta": now["beta"],
        }
