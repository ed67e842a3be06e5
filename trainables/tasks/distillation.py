"""Knowledge distillation: teachers, the networks of teacher and student, and the usual losses on logits.

A teacher is no part of a trial: it is trained once in a process for a data set and a recipe, from a seed of its
own, and every trial gets the same one, as if its weights had been read from a file.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairsweep.trainables.tasks.image_classification import ImageTask
from fairsweep.trainables.tasks.rng import TrialRNG
from fairsweep.trainables.tasks.training import cosine_factor

TEACHER_SEED = 0
TEACHER_BATCH = 32
TEACHER_LR = 1e-3

BACKBONES = ("mlp", "cnn", "resnet8", "resnet20", "resnet56")


# ---- networks ----


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with a shortcut, a 1 x 1 convolution where the shape changes (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class SpatialMean(nn.Module):
    """(n, c, h, w) -> (n, c)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def _resnet(channels: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(channels, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
    ]
    last = 16
    for group, width in enumerate((16, 32, 64)):
        for block in range((depth - 2) // 6):
            layers.append(BasicBlock(last, width, 2 if group > 0 and block == 0 else 1))
            last = width
    return nn.Sequential(*layers, SpatialMean())


def backbone(name: str, channels: int, side: int, width: int) -> tuple[nn.Module, int]:
    """A network without its classifier, for square images of `side` pixels: module and number of features.

    mlp: two hidden layers of `width`. cnn: two 3 x 3 convolutions of `width` and 2 `width` channels, each with
    batch normalisation and 2 x 2 max pooling, and a hidden layer of 64. resnet8, resnet20, resnet56: the CIFAR
    networks of He et al. 2016, whose width is 16, 32, 64 whatever `width` says. ValueError for another name.
    """
    if name == "mlp":
        hidden = [nn.Linear(channels * side * side, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
        return nn.Sequential(nn.Flatten(), *hidden), width
    if name == "cnn":
        layers: list[nn.Module] = []
        for inputs, outputs in ((channels, width), (width, 2 * width)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)]
            layers += [nn.ReLU(), nn.MaxPool2d(2)]
        hidden = [nn.Linear(2 * width * (side // 4) ** 2, 64), nn.ReLU()]
        return nn.Sequential(*layers, nn.Flatten(), *hidden), 64
    if name in BACKBONES:
        return _resnet(channels, int(name.removeprefix("resnet"))), 64
    raise ValueError(f"backbone={name}: known are {', '.join(BACKBONES)}")


# ---- teachers ----


@lru_cache(maxsize=4)
def teacher(
    data: str, data_dir: Path | None, device: str, augmentation: str, name: str, width: int, epochs: int
) -> nn.Module:
    """A trained teacher on `device`: images (n, c, h, w) -> logits (n, classes). Do not change it.

    Backbone and linear classifier, trained on the training part for `epochs` with Adam, 1e-3 and half a cosine
    down, batches of 32. Its last weights are returned, frozen and in evaluation mode. The same arguments give
    the same teacher in every process; PyTorch's global generators are left as they were.
    """
    rng = TrialRNG(TEACHER_SEED, device)
    # cuDNN's fastest kernels add in any order; a trial that is resumed elsewhere must find the same teacher.
    with rng.scope(), torch.enable_grad(), torch.backends.cudnn.flags(deterministic=True, benchmark=False):
        task = ImageTask(data, data_dir, device, augmentation)
        body, features = backbone(name, task.channels, task.side, width)
        net = nn.Sequential(body, nn.Linear(features, task.classes)).to(device)
        optimiser = torch.optim.Adam(net.parameters(), lr=TEACHER_LR)
        for epoch in range(epochs):
            for group in optimiser.param_groups:
                group["lr"] = TEACHER_LR * cosine_factor(epoch, epochs)
            for x, y in task.batches(TEACHER_BATCH):
                optimiser.zero_grad()
                F.cross_entropy(net(x), y).backward()
                optimiser.step()
    return net.eval().requires_grad_(False)


# ---- losses ----


def kd_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(t/T) || softmax(s/T)) of logits (n, C), mean over n (Hinton et al. 2015)."""
    s, t = F.log_softmax(student / temperature, 1), F.log_softmax(teacher / temperature, 1)
    return temperature**2 * F.kl_div(s, t, reduction="batchmean", log_target=True)


def dkd_loss(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, alpha: float, beta: float
) -> Tensor:
    """Decoupled distillation of logits (n, C) with labels (n,) (Zhao et al., CVPR 2022, eq. 7), mean over n.

    T^2 (alpha TCKD + beta NCKD): the divergence of target against all others, and that among the others.
    """
    target = F.one_hot(labels, student.shape[1]).bool()

    def split(logits: Tensor) -> tuple[Tensor, Tensor]:
        scaled = logits / temperature
        others = scaled[~target].view(len(labels), -1)
        pair = torch.stack([scaled[target], others.logsumexp(1)], 1)
        return F.log_softmax(pair, 1), F.log_softmax(others, 1)

    parts = zip(split(student), split(teacher), strict=True)
    tckd, nckd = (F.kl_div(s, t, reduction="batchmean", log_target=True) for s, t in parts)
    return temperature**2 * (alpha * tckd + beta * nckd)
