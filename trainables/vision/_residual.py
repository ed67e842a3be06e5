"""Residual networks for images that are small: of a laptop's size, and ResNet-18 as it is trained on CIFAR."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def conv_norm(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution without bias and batch normalisation, the side divided by `stride`."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around which the input is added, through a 1x1 convolution where shapes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first, self.second = conv_norm(inputs, outputs, 3, stride), conv_norm(outputs, outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else conv_norm(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


def small_residual(channels: int, classes: int) -> nn.Sequential:
    """Stem of 16, a residual block, two convolutions of 32, the first with stride 2: 19,130 parameters on digits."""
    return nn.Sequential(
        conv_norm(channels, 16),
        nn.ReLU(),
        BasicBlock(16, 16),
        conv_norm(16, 32, stride=2),
        nn.ReLU(),
        conv_norm(32, 32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, classes),
    )


def resnet18(channels: int, classes: int) -> nn.Sequential:
    """ResNet-18 (He et al., CVPR 2016) with a 3x3 stem and no pooling before the blocks: 11.2 million parameters."""
    blocks: list[nn.Module] = []
    last = 64
    for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        blocks += [BasicBlock(last, width, stride), BasicBlock(width, width)]
        last = width
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, classes)]
    return nn.Sequential(conv_norm(channels, 64), nn.ReLU(), *blocks, *head)
