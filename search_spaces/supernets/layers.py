"""Layers that several supernets are made of, and the two ways in which they normalise."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

Normalisation = Callable[[int], nn.Module]  # channels -> layer

running: Normalisation = nn.BatchNorm2d  # of a network of its own: affine, running statistics


def by_batch(affine: bool) -> Normalisation:
    """Of a supernet: statistics of the batch, in training and in evaluation, because each path has its own."""
    return partial(nn.BatchNorm2d, affine=affine, track_running_stats=False)


def named(**layers: nn.Module) -> nn.Sequential:
    """A sequence of layers under these names."""
    return nn.Sequential(OrderedDict(layers))


def positive(name: str, value: Any) -> int:
    """`value`, if it is a whole number of at least 1. ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r}: must be a whole number of at least 1")
    return value


def image_shape(value: Any) -> tuple[int, int, int]:
    """`value` as (channels, height, width). ValueError if it is none."""
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        raise ValueError(f"input_shape={value!r}: must be [channels, height, width]")
    channels, height, width = (positive("input_shape", v) for v in value)
    return channels, height, width


def halved(shape: tuple[int, int, int], stride: int, channels: int) -> tuple[int, int, int]:
    """Shape after a padded layer of odd kernel: sides divided by `stride` and rounded up, `channels` deep."""
    return channels, -(-shape[1] // stride), -(-shape[2] // stride)


class InvertedBottleneck(nn.Module):
    """MobileNetV2's block: 1x1 to `expansion` times the width, depthwise kernel x kernel, 1x1 without activation.

    The shortcut is there where neither resolution nor width changes.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int, expansion: int, kernel: int, norm: Normalisation
    ) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.shortcut = stride == 1 and inputs == outputs
        self.conv = named(
            expand=nn.Conv2d(inputs, hidden, 1, bias=False),
            expand_norm=norm(hidden),
            expand_relu=nn.ReLU(),
            depthwise=nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False),
            depthwise_norm=norm(hidden),
            depthwise_relu=nn.ReLU(),
            project=nn.Conv2d(hidden, outputs, 1, bias=False),
            project_norm=norm(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return x + y if self.shortcut else y
