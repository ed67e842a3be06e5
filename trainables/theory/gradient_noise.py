"""Annealed gradient noise: Gaussian noise of decaying variance on every coordinate of every gradient.

Neelakantan, Vilnis, Le, Sutskever, Kaiser, Kurach and Martens 2015, arXiv:1511.06807. The noise enters the
gradient before the optimiser sees it, and lets very deep networks leave starting points from which gradient
descent alone does not move. The experiment is that of section 4.1: 20 hidden layers of 50 rectified units.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from itertools import chain, islice, repeat
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from fairsweep.trainables.base import Claim, Tiny
from fairsweep.trainables.catalog import register
from fairsweep.trainables.tasks.image_classification import METRICS, ImageTask
from fairsweep.trainables.tasks.training import Mean, NetworkPaper

NOISES = ("annealed", "constant", "weight", "none")
INITS = ("simple", "he", "random_walk", "xavier", "zeros")

# ---- noise (section 3, equation 1) ----


def noise_variance(t: int, eta: float, gamma: float) -> float:
    """sigma_t^2 = eta / (1 + t)^gamma, the variance of the noise in step t = 0, 1, 2, ... of the optimiser."""
    return eta / (1 + t) ** gamma


class GradientTransform:
    """Clips the gradients of `optimiser` to a global norm, then adds noise to them, before each of its steps.

    A hook of the optimiser, whichever it is: momentum and Adam's moments see the noise. The order is the
    paper's, so that clipping does not scale the noise down; `noise_before_clip` turns it round.

    eta, gamma: of `noise_variance`; with eta = 0 nothing is drawn. gamma = 0 keeps the variance constant.
    clip_norm: the largest global norm; None does not clip.
    shared: one draw for all coordinates of a tensor, where the method has one for each (ablation).
    generator: of the noise alone, on the parameters' device; the order of the data does not depend on it.
    """

    def __init__(
        self,
        optimiser: torch.optim.Optimizer,
        generator: torch.Generator,
        eta: float = 0.0,
        gamma: float = 0.55,
        clip_norm: float | None = None,
        noise_before_clip: bool = False,
        shared: bool = False,
    ) -> None:
        if not (eta >= 0 and gamma >= 0):
            raise ValueError(f"eta={eta}, gamma={gamma}: neither may be negative")
        if clip_norm is not None and not clip_norm > 0:
            raise ValueError(f"clip_norm={clip_norm}: must be positive, or None for no clipping")
        self.eta, self.gamma, self.clip_norm = eta, gamma, clip_norm
        self.noise_before_clip, self.shared = noise_before_clip, shared
        self.generator = generator
        self.t = 0
        optimiser.register_step_pre_hook(self._before_step)

    def _before_step(self, optimiser: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        parameters = [p for p in parameters if p.requires_grad and p.grad is not None]
        if self.noise_before_clip:
            self.add_noise(parameters)
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        if not self.noise_before_clip:
            self.add_noise(parameters)
        self.t += 1

    def add_noise(self, parameters: Iterable[nn.Parameter]) -> None:
        """Adds the noise of step `self.t` to the gradient of every one of `parameters`."""
        if self.eta == 0:
            return
        sigma = math.sqrt(noise_variance(self.t, self.eta, self.gamma))
        for p in parameters:
            assert p.grad is not None
            shape = torch.Size() if self.shared else p.shape
            p.grad.add_(torch.randn(shape, generator=self.generator, device=p.device), alpha=sigma)

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's step counter and the generator's state."""
        return {"t": self.t, "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues the schedule of `state`, and its noise unless that is of another kind of device, whose generators
        are others."""
        self.t, stream = state["t"], state["generator"].cpu()
        if len(stream) == len(self.generator.get_state()):
            self.generator.set_state(stream)


def perturbed_weights(net: nn.Module, deviation: float, generator: torch.Generator) -> dict[str, Tensor]:
    """The parameters of `net` with noise N(0, deviation^2) on each, for one forward pass (the baseline).

    Gradients reach the parameters themselves, which stay as they are.
    """
    return {
        name: p + deviation * torch.randn(p.shape, generator=generator, device=p.device)
        for name, p in net.named_parameters()
    }


# ---- the network and where it starts (section 4.1) ----


def deep_network(inputs: int, classes: int, depth: int, width: int, dropout: float = 0.0) -> nn.Sequential:
    """Images of `inputs` pixels in all -> `depth` hidden layers of `width` rectified units -> logits."""
    layers: list[nn.Module] = [nn.Flatten()]
    for i in range(depth):
        layers += [nn.Linear(inputs if i == 0 else width, width), nn.ReLU()]
        layers += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers, nn.Linear(width, classes))


def random_walk_gain(width: int) -> float:
    """The factor g of Sussillo and Abbott 2014 (arXiv:1412.6558) for rectified units: weights N(0, g^2 / N)."""
    return math.sqrt(2) * math.exp(1.2 / (max(width, 6) - 2.4))


def initialise(net: nn.Module, init: str) -> None:
    """Draws the weights of every linear layer from PyTorch's global generator; biases are 0.

    simple: N(0, 0.1^2), whatever the layer's size. he: N(0, 2 / inputs). random_walk: N(0, g^2 / inputs).
    xavier: N(0, 2 / (inputs + outputs)). zeros: all weights are 0.
    """
    if init not in INITS:
        raise ValueError(f"init={init}: known are {', '.join(INITS)}")
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            inputs, outputs = layer.in_features, layer.out_features
            deviation = {
                "simple": 0.1,
                "he": math.sqrt(2 / inputs),
                "random_walk": random_walk_gain(inputs) / math.sqrt(inputs),
                "xavier": math.sqrt(2 / (inputs + outputs)),
                "zeros": 0.0,
            }[init]
            nn.init.normal_(layer.weight, std=deviation)
            nn.init.zeros_(layer.bias)


# ---- training ----


@register
class GradientNoise(NetworkPaper):
    """A deep network trained with noisy gradients; `noise`, `init` and `optimiser` give baselines and ablations.

    A trial whose losses are no longer finite ends, with the weights from before that unit of training.
    """

    slug = "gradient_noise"
    title = "Adding Gradient Noise Improves Learning for Very Deep Networks"
    citation = "Neelakantan, Vilnis, Le, Sutskever, Kaiser, Kurach, Martens. 2015. arXiv:1511.06807"
    task = "image classification"
    baselines = "none, constant, weight noise; clipping; five inits"
    contenders = {"noise": NOISES}
    datasets = ("digits", "mnist5k", "mnist", "fashion_mnist")
    metrics = METRICS
    objective = "val_accuracy"
    tiny = Tiny("digits", 4, {"eta": 2.0})
    claims = (
        Claim(
            name="noise_leaves_a_poor_start",
            statement="From simple weights N(0, 0.1^2), a 20-layer network has a higher test accuracy with noise than"
            " without",
            treatment={"noise": "annealed", "eta": 1.0, "lr": 0.03, "clip": True, "clip_norm": 10.0},
            baseline={"noise": "none", "lr": 0.03, "clip": True, "clip_norm": 10.0},
            metric="test_accuracy",
            margin=0.0,
            origin="direction",
            data="digits",
            steps=50,
            tunes=("lr", "clip_norm"),
        ),
    )

    unit = "50 gradient steps"
    default_steps = 50
    gradient_steps = 50

    @classmethod
    def minimum(cls, config: Mapping[str, Any], steps: int) -> int:
        """The first 1000 gradient steps say nothing: the accuracy sits at chance, with noise and without."""
        return 1000 // cls.gradient_steps

    def prepare(self) -> None:
        config = self.config
        if config["noise"] not in NOISES:
            raise ValueError(f"noise={config['noise']}: known are {', '.join(NOISES)}")
        # The paper's experiment has no regulariser, so no augmentation either.
        self.data = ImageTask(self.data_name, self.setting.data_dir, self.device, "none")
        self.net = deep_network(
            self.data.channels * self.data.side**2,
            self.data.classes,
            config["depth"],
            config["width"],
            config["dropout"],
        )
        initialise(self.net, config["init"])
        self.net.to(self.device)
        self.optimiser = self._make_optimiser()
        seed = int(self.rng.numpy.integers(2**63))
        self.gradients = GradientTransform(
            self.optimiser,
            torch.Generator(self.device).manual_seed(seed),
            eta=config.get("eta", 0.0),
            gamma=config.get("gamma", 0.0),
            clip_norm=config.get("clip_norm"),
            noise_before_clip=config.get("noise_before_clip", False),
            shared=config.get("noise_shape") == "tensor",
        )

    def _make_optimiser(self) -> torch.optim.Optimizer:
        kind, lr = self.config["optimiser"], self.config["lr"]
        if kind == "adam":
            return torch.optim.Adam(self.net.parameters(), lr=lr)
        if kind in ("sgd", "momentum"):
            return torch.optim.SGD(self.net.parameters(), lr=lr, momentum=self.config.get("momentum", 0.0))
        raise ValueError(f"optimiser={kind}: known are sgd, momentum, adam")

    def stateful(self) -> dict[str, Any]:
        return {**super().stateful(), "gradients": self.gradients}

    def logits(self, x: Tensor) -> Tensor:
        """Training outputs (n, classes) for standardised pixels (n, c, h, w)."""
        if self.config["noise"] != "weight":
            return self.net(x)
        weights = perturbed_weights(self.net, self.config["weight_deviation"], self.gradients.generator)
        return functional_call(self.net, weights, (x,))

    def epoch(self) -> dict[str, float]:
        before = copy.deepcopy(self.net.state_dict())
        train_loss = Mean()
        # Passes over the data without end; each is shuffled anew, the last one of a unit is cut short.
        passes = chain.from_iterable(self.data.batches(size) for size in repeat(self.config["batch_size"]))
        for x, y in islice(passes, self.gradient_steps):
            loss = F.cross_entropy(self.logits(x), y)
            self.descend(loss)
            train_loss.add(loss, len(y))
        metrics = self._measure(train_loss.value)
        if not all(math.isfinite(value) for value in metrics.values()):
            self.net.load_state_dict(before)
            self.stopped = True
            metrics = self._measure(self.data.evaluate(self.net, "train")[0])
        return metrics

    def _measure(self, train_loss: float) -> dict[str, float]:
        val_loss, val_accuracy = self.data.evaluate(self.net, "validation")
        return {"val_accuracy": val_accuracy, "val_loss": val_loss, "train_loss": train_loss}

    def measure_test(self, net: nn.Module) -> dict[str, float]:
        """Test accuracy of `net`, without noise of any kind."""
        return {"test_accuracy": self.data.evaluate(net, "test")[1]}
