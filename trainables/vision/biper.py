"""BiPer: binary neural networks using a periodic function.

Vargas, Correa, Hinojosa and Arguello, CVPR 2024, arXiv:2404.01278. The binary weight is a square wave of
a latent weight, and the sine of the same period stands in for it in the backward pass; its frequency sets
the quantisation error. Training has two stages: binary activations with sine weights, then both binary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairsweep.trainables.base import Claim, Tiny
from fairsweep.trainables.catalog import register
from fairsweep.trainables.tasks.image_classification import METRICS, ImageTask
from fairsweep.trainables.tasks.training import Mean, NetworkPaper, cosine_factor

# ---- the binary functions (section 3) ----


def binary_sign(x: Tensor) -> Tensor:
    """+1 where x >= 0, else -1: never 0, which would make the weights ternary."""
    return torch.where(x >= 0, 1.0, -1.0)


class _Sign(torch.autograd.Function):
    """sign(x) forward; backward the derivative of the surrogate called `surrogate`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, surrogate: str) -> Tensor:
        ctx.surrogate = surrogate
        ctx.save_for_backward(x)
        return binary_sign(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        if ctx.surrogate == "hardtanh":
            grad = grad * (x.abs() <= 1)
        elif ctx.surrogate == "triangle":
            grad = grad * (2 - 2 * x.abs()).clamp(min=0)
        return grad, None


def periodic_weight(w: Tensor, omega: float, stage: int) -> Tensor:
    """sin(omega w) in stage 1; the square wave of the same period in stage 2, with the sine's gradient.

    The derivative is omega cos(omega w) in both stages and for every w: the latent range is unbounded.
    """
    s = torch.sin(omega * w)
    return s if stage == 1 else _Sign.apply(s, "identity")


def clipped_weight(w: Tensor, stage: int) -> Tensor:
    """The baseline: sign(w), straight-through gradient clipped at |w| = 1; stage 1 has hardtanh(w)."""
    return F.hardtanh(w) if stage == 1 else _Sign.apply(w, "hardtanh")


def binary_activation(a: Tensor, training: bool) -> Tensor:
    """sign(a) of (n, c, h, w) with the triangular surrogate derivative max(0, 2 - 2|a|).

    In training the scale of each sample is divided out first, so that the surrogate's support fits.
    """
    if training:
        a = a / torch.sqrt(a.var((1, 2, 3), keepdim=True) + 1e-5)
    return _Sign.apply(a, "triangle")


def quantisation_error(omega: float, scale: float) -> float:
    """E[(sign(s) - gamma s)^2], s = sin(omega w), w ~ Laplace(0, scale), at the best gamma.

    Closed form (section 3): with k = omega scale, E|s| = k/(1+k^2) coth(pi/2k) and E[s^2] = 2k^2/(1+4k^2);
    the error 1 - E|s|^2/E[s^2] falls from 1/2 (k -> 0) to 1 - 8/pi^2 (k -> infinity).
    """
    if not (omega > 0 and scale > 0):
        raise ValueError(f"omega={omega}, scale={scale}: both must be positive")
    k = omega * scale
    absolute = k / (1 + k * k) / math.tanh(math.pi / (2 * k))
    return 1 - absolute**2 * (1 + 4 * k * k) / (2 * k * k)


def empirical_quantisation_error(w: Tensor, omega: float) -> float:
    """The same for given weights `w` of any shape: 1 - mean|s|^2 / mean(s^2)."""
    s = torch.sin(omega * w.detach().double())
    return 1 - (s.abs().mean() ** 2 / s.square().mean()).item()


# ---- layers and backbones (section 4; blocks as in ReCU, Xu et al. 2021) ----


class BinaryConv2d(nn.Conv2d):
    """Convolution of binary activations with binary weights, times a learned scale of each output channel."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, config: Mapping[str, Any]
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        self.weight_mode, self.omega = config["weight_mode"], float(config.get("omega", math.nan))
        self.binary_input = config["activations"] == "binary"
        self.stage = 2
        self.alpha = nn.Parameter(torch.rand(outputs, 1, 1)) if self.weight_mode != "fp" else None

    def binary_weight(self) -> Tensor:
        """The weight that is convolved with, (out, in, kh, kw), before the scale alpha."""
        if self.weight_mode == "biper":
            return periodic_weight(self.weight, self.omega, self.stage)
        if self.weight_mode == "ste":
            return clipped_weight(self.weight, self.stage)
        return self.weight

    def forward(self, a: Tensor) -> Tensor:
        if self.binary_input:
            a = binary_activation(a, self.training)
        out = self._conv_forward(a, self.binary_weight(), None)
        return out if self.alpha is None else out * self.alpha


def _activation(config: Mapping[str, Any]) -> nn.Module:
    # Full-precision activations follow the usual ReLU; hardtanh is there for the sign that comes next.
    return nn.Hardtanh() if config["activations"] == "binary" else nn.ReLU()


class Residual(nn.Module):
    """`depth` binary 3x3 convolutions with batch normalisation, around them one shortcut without weights.

    Where the shape changes the shortcut is a 2x2 average pool and zero channels on both sides.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, depth: int, config: Mapping[str, Any]) -> None:
        super().__init__()
        widths = [inputs] + [outputs] * depth
        self.convs = nn.ModuleList(
            BinaryConv2d(widths[i], outputs, 3, stride if i == 0 else 1, config) for i in range(depth)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(outputs) for _ in range(depth))
        self.activation = _activation(config)
        self.stride, self.padding = stride, (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        shortcut = F.avg_pool2d(x, 2, ceil_mode=True) if self.stride == 2 else x
        shortcut = F.pad(shortcut, (0, 0, 0, 0, self.padding, self.padding))
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = norm(conv(x))
            x = self.activation(x + shortcut if i == len(self.convs) - 1 else x)
        return x


def _stem(channels: int, width: int, config: Mapping[str, Any]) -> list[nn.Module]:
    return [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), _activation(config)]


def small_net(channels: int, side: int, classes: int, config: Mapping[str, Any]) -> nn.Sequential:
    """Full-precision stem, `depth` binary convolutions each with a shortcut, 2x2 pooling, linear.

    Images of more than 16 x 16 are first halved, so that an epoch stays a matter of a second on one core.
    """
    layers = _stem(channels, config["width"], config)
    while side > 16:
        layers, side = [*layers, nn.AvgPool2d(2)], side // 2
    layers += [Residual(config["width"], config["width"], 1, 1, config) for _ in range(config["depth"])]
    features = config["width"] * (side // 2) ** 2
    return nn.Sequential(
        *layers, nn.AvgPool2d(2), nn.Flatten(), nn.BatchNorm1d(features), nn.Linear(features, classes)
    )


def resnet(
    channels: int, classes: int, widths: list[int], blocks: int, depth: int, config: Mapping[str, Any]
) -> nn.Sequential:
    """Groups of `blocks` x 2 binary convolutions; a shortcut spans `depth` of them (1: each has its own)."""
    layers, last = _stem(channels, widths[0], config), widths[0]
    for i, width in enumerate(widths):
        for j in range(2 * blocks // depth):
            layers.append(Residual(last, width, 2 if i > 0 and j == 0 else 1, depth, config))
            last = width
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(last), nn.Linear(last, classes)
    )


def vgg_small(channels: int, side: int, classes: int, config: Mapping[str, Any]) -> nn.Sequential:
    """VGG-small: one full-precision and five binary convolutions, 128-128-256-256-512-512, three poolings."""
    layers, last = _stem(channels, 128, config), 128
    for width, pool in ((128, True), (256, False), (256, True), (512, False), (512, True)):
        layers.append(BinaryConv2d(last, width, 3, 1, config))
        layers += [nn.MaxPool2d(2)] if pool else []
        layers += [nn.BatchNorm2d(width), _activation(config)]
        last = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512 * (side // 8) ** 2, classes))


def _he_normal(net: nn.Sequential, mode: Literal["fan_in", "fan_out"]) -> nn.Sequential:
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode=mode)
    return net


def build(channels: int, side: int, classes: int, config: Mapping[str, Any]) -> nn.Sequential:
    """The backbone `config["backbone"]` for square images of `side` pixels; logits (n, classes)."""
    backbone = config["backbone"]
    if backbone == "small":
        return small_net(channels, side, classes, config)
    if backbone == "resnet18":
        return resnet(channels, classes, [64, 128, 256, 512], 2, 2, config)
    if backbone == "resnet20":
        return _he_normal(resnet(channels, classes, [16, 32, 64], 3, 1, config), "fan_in")
    if backbone == "vgg_small":
        if side < 8:
            raise ValueError(f"backbone=vgg_small: needs images of at least 8 x 8, got {side} x {side}")
        return _he_normal(vgg_small(channels, side, classes, config), "fan_out")
    raise ValueError(f"backbone={backbone}: known are small, resnet18, resnet20, vgg_small")


# ---- training ----


@register
class BiPer(NetworkPaper):
    """Two-stage training of a binary network; `weight_mode` and `stages` give the baselines and ablations."""

    slug = "biper"
    title = "BiPer: Binary Neural Networks using a Periodic Function"
    citation = "Vargas, Correa, Hinojosa, Arguello. CVPR 2024, pp. 5684-5693. arXiv:2404.01278"
    task = "image classification"
    baselines = "straight-through estimator, full precision, one stage"
    contenders = {"weight_mode": ("biper", "ste", "fp")}
    datasets = ("digits", "mnist5k", "fashion_mnist", "cifar10")
    metrics = METRICS
    objective = "val_accuracy"
    tiny = Tiny("digits", 4)
    together = True
    claims = (
        Claim(
            name="two_stages_beat_ste",
            statement="Two-stage BiPer has a higher test accuracy than sign weights with the clipped straight-through"
            " estimator",
            treatment={"weight_mode": "biper", "stages": "two"},
            # The decay of ReCU (Xu et al., ICCV 2021), on which BiPer is built: BiPer's own is thrice as strong.
            baseline={"weight_mode": "ste", "stages": "one", "wd1": 5e-4},
            metric="test_accuracy",
            margin=0.0,
            origin="direction",
            data="digits",
            seeds=30,
            tunes=("lr1", "lr2", "wd1", "wd2"),
        ),
    )

    @staticmethod
    def stage_one_epochs(config: Mapping[str, Any], epochs: int) -> int:
        """Epochs of stage 1 out of `epochs`; at least one epoch is left for stage 2."""
        if config.get("stages") != "two":
            return 0
        return min(round(config["stage1_frac"] * epochs), epochs - 1)

    paper_steps = {"cifar10": 900}
    default_steps = 45
    prunable: ClassVar = {"weight_mode": "fp", "activations": "full"}  # weights of zero are +-1 when binary

    @classmethod
    def minimum(cls, config: Mapping[str, Any], steps: int) -> int:
        """Stage 1 has real-valued weights, which say little of the binary network: not judged."""
        return cls.stage_one_epochs(config, steps) + 1

    def prepare(self) -> None:
        self.stage_one = self.stage_one_epochs(self.config, self.epochs)
        self.data = ImageTask(self.data_name, self.setting.data_dir, self.device, self.config["augmentation"])
        self.net = build(self.data.channels, self.data.side, self.data.classes, self.config).to(self.device)
        self.binary_layers = [m for m in self.net.modules() if isinstance(m, BinaryConv2d)]
        self._enter_stage()

    @property
    def stage(self) -> int:
        """1 while the next epoch trains real-valued weights, then 2."""
        return 1 if self.done < self.stage_one else 2

    def _enter_stage(self) -> None:
        """Sets the weights' mode and starts the optimiser anew for the stage of the next epoch."""
        second = self.stage == 2 and self.config.get("stages") == "two"
        self.learning_rate = self.config["lr2" if second else "lr1"]
        self.tau = float(self.config.get("tau1" if self.stage == 1 else "tau2", 0.0))
        for layer in self.binary_layers:
            layer.stage = self.stage
        self.optimiser = torch.optim.SGD(
            self.net.parameters(),
            lr=self.learning_rate,
            momentum=self.config["momentum"],
            weight_decay=self.config["wd2" if second else "wd1"],
        )

    def penalty(self) -> Tensor:
        """Sum over the binary layers of the mean of sin(omega w)^2."""
        return torch.stack([torch.sin(m.omega * m.weight).square().mean() for m in self.binary_layers]).sum()

    def epoch(self) -> dict[str, float]:
        if self.done == self.stage_one and self.done > 0:
            self._enter_stage()
        start, end = (0, self.stage_one) if self.stage == 1 else (self.stage_one, self.epochs)
        warmup = min(self.config["warmup"], end - start)
        factor = cosine_factor(self.done - start, end - start, warmup)
        self.set_learning_rate(self.learning_rate * factor)
        train_loss = Mean(self.workers)
        for x, y in self.workers.shared(self.data.batches(self.config["batch_size"])):
            loss = F.cross_entropy(self.net(x), y)
            self.descend(loss + self.tau * self.penalty() if self.tau else loss)
            train_loss.add(loss, len(y))
        return {**self.validate(self.net), "train_loss": train_loss.value}

    def validate(self, net: nn.Module) -> dict[str, float]:
        val_loss, val_accuracy = self.data.evaluate(net, "validation")
        return {"val_accuracy": val_accuracy, "val_loss": val_loss}

    def measure_test(self, net: nn.Module) -> dict[str, float]:
        """Test accuracy of the best binary network; before stage 2 the current one is binarised for it."""
        for module in net.modules():
            if isinstance(module, BinaryConv2d):
                module.stage = 2
        return {"test_accuracy": self.data.evaluate(net, "test")[1]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.done = state["done"]
        self._enter_stage()
        super().load_state_dict(state)
