"""The network of Single-Path NAS around its searched blocks (Stamoulis et al., 2019, table 1): stem, stages, head."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from torch import nn

from fairsweep.search_spaces.architectures.base import Architecture
from fairsweep.search_spaces.architectures.mbconv import MBConvSpace
from fairsweep.search_spaces.costs import Operator
from fairsweep.search_spaces.supernets.layered import LayeredSupernet
from fairsweep.search_spaces.supernets.layers import (
    InvertedBottleneck,
    Normalisation,
    by_batch,
    halved,
    image_shape,
    named,
    positive,
    running,
)


def kernel_and_expansion(option: str) -> tuple[int, int]:
    """(kernel, expansion) of an option such as k3_e6."""
    kernel, expansion = option.split("_")
    return int(kernel[1:]), int(expansion[1:])


def with_eps(norm: Callable[..., nn.Module], eps: float) -> Normalisation:
    """`norm` with this `eps` added to its variances."""
    return partial(norm, eps=eps)


def initialise(module: nn.Module) -> nn.Module:
    """`module`, its convolutions normal of variance 2 / fan-out, its linear layers uniform: as in the paper's code."""
    for m in module.modules():
        if isinstance(m, nn.Conv2d):
            fan_out = m.kernel_size[0] * m.kernel_size[1] * m.out_channels // m.groups
            nn.init.normal_(m.weight, std=math.sqrt(2 / fan_out))
        elif isinstance(m, nn.Linear):
            bound = 1 / math.sqrt(m.out_features)
            nn.init.uniform_(m.weight, -bound, bound)
            nn.init.zeros_(m.bias)
    return module


def _or_none(name: str, value: Any) -> int:
    return value if value == 0 and isinstance(value, int) else positive(name, value)


def _stride(name: str, value: Any) -> int:
    if value not in (1, 2):
        raise ValueError(f"{name}={value!r}: must be 1 or 2")
    return int(value)


class MBConvNetwork(LayeredSupernet):
    """What the supernets over `MBConvSpace` share: stem and head, a step a block, and networks of their own.

    channels, stem_stride: of the first convolution, 3x3. widths, strides: of each stage its output channels and the
    stride of its first block. first, last: output channels of a fixed block before (expansion 1, kernel 3) and after
    (6, 3) the stages, 0 for none. head: channels of the 1x1 convolution before the pool, 0 for none.
    dropout: of the pooled features. eps: of the normalisations.
    """

    space: MBConvSpace

    def __init__(
        self,
        space: MBConvSpace,
        input_shape: Sequence[int],
        classes: int,
        channels: int,
        widths: Sequence[int],
        strides: Sequence[int],
        stem_stride: int = 1,
        first: int = 0,
        last: int = 0,
        head: int = 0,
        dropout: float = 0.0,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.space, self.input_shape = space, image_shape(input_shape)
        self.classes, self.channels = positive("classes", classes), positive("channels", channels)
        self.stem_stride = _stride("stem_stride", stem_stride)
        self.widths = tuple(positive("widths", n) for n in widths)
        self.strides = tuple(_stride("strides", n) for n in strides)
        for name, found in (("widths", self.widths), ("strides", self.strides)):
            if len(found) != len(space.stages):
                raise ValueError(
                    f"{name}={list(found)}: must be one for each of the {len(space.stages)} stages"
                )
        self.first, self.last = _or_none("first", first), _or_none("last", last)
        self.head_width = _or_none("head", head)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout}: must be in [0, 1)")
        if not eps > 0:
            raise ValueError(f"eps={eps}: must be positive")
        self.dropout, self.eps = dropout, eps
        self.norm = with_eps(by_batch(affine=True), eps)
        self.layers = list(self._layer_sizes())
        self.stem, self.head = self._stem(self.norm), self._head(self.norm)

    # -- what a supernet over these blocks gives -------------------------------------------------------

    @abstractmethod
    def extract_block(self, number: int, option: str) -> nn.Module:
        """An ordinary module with copies of the weights that computes what `run_block` computes."""

    # -- parts ----------------------------------------------------------------------------------------

    def _layer_sizes(self) -> Iterator[tuple[int, int, int]]:
        """(inputs, outputs, stride) of each block."""
        inputs = self.first or self.channels
        for blocks, width, stride in zip(self.space.stages, self.widths, self.strides, strict=True):
            for k in range(blocks):
                yield inputs, width, stride if k == 0 else 1
                inputs = width

    def _stem(self, norm: Normalisation) -> nn.Module:
        stride, width = self.stem_stride, self.channels
        conv = nn.Conv2d(self.input_shape[0], width, 3, stride, padding=1, bias=False)
        layers: dict[str, nn.Module] = {"conv": conv, "norm": norm(width), "relu": nn.ReLU()}
        if self.first:
            layers["first"] = named(
                depthwise=nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
                depthwise_norm=norm(width),
                depthwise_relu=nn.ReLU(),
                project=nn.Conv2d(width, self.first, 1, bias=False),
                project_norm=norm(self.first),
            )
        return initialise(named(**layers))

    def _head(self, norm: Normalisation) -> nn.Module:
        layers: dict[str, nn.Module] = {}
        features = self.widths[-1]
        if self.last:
            layers["last"] = InvertedBottleneck(features, self.last, 1, 6, 3, norm)
            features = self.last
        if self.head_width:
            layers["conv"] = nn.Conv2d(features, self.head_width, 1, bias=False)
            layers |= {"norm": norm(self.head_width), "relu": nn.ReLU()}
            features = self.head_width
        layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
        if self.dropout:
            layers["dropout"] = nn.Dropout(self.dropout)
        return initialise(named(**layers, classifier=nn.Linear(features, self.classes)))

    def block(self, number: int, option: str, norm: Normalisation) -> nn.Module:
        """A fresh block `option` in the place `number`; skipped, it is the identity."""
        if option == "skip":
            return nn.Identity()
        kernel, expansion = kernel_and_expansion(option)
        return initialise(InvertedBottleneck(*self.layers[number], expansion, kernel, norm))

    # -- Supernet -------------------------------------------------------------------------------------

    def build(self, path: Architecture) -> nn.Module:
        norm = with_eps(running, self.eps)
        options = self.space.options(self.space.check(path))
        blocks = {name: self.block(k, option, norm) for k, (name, option) in enumerate(options.items())}
        return named(stem=self._stem(norm), **blocks, head=self._head(norm))

    def extract(self, path: Architecture) -> nn.Module:
        options = self.space.options(self.space.check(path))
        blocks = {name: self.extract_block(k, option) for k, (name, option) in enumerate(options.items())}
        found = named(stem=copy.deepcopy(self.stem), **blocks, head=copy.deepcopy(self.head))
        return found.train(self.training)

    def operators(self) -> Iterator[Operator]:
        norm = with_eps(running, self.eps)
        yield Operator(self._stem(norm), self.input_shape, context="stem")
        shape = halved(self.input_shape, self.stem_stride, self.first or self.channels)
        for k, choice in enumerate(self.space.choices):
            _, outputs, stride = self.layers[k]
            context = f"{'x'.join(map(str, shape))}, stride {stride}"
            for option in choice.options:
                if option != "skip":
                    yield Operator(self.block(k, option, norm), shape, {choice.name: option}, context)
            shape = halved(shape, stride, outputs)
        yield Operator(self._head(norm), shape, context="head")

    def config(self) -> dict[str, Any]:
        return {
            **{name: list(value) for name, value in asdict(self.space).items()},
            "input_shape": list(self.input_shape),
            "classes": self.classes,
            "channels": self.channels,
            "widths": list(self.widths),
            "strides": list(self.strides),
            "stem_stride": self.stem_stride,
            "first": self.first,
            "last": self.last,
            "head": self.head_width,
            "dropout": self.dropout,
            "eps": self.eps,
        }
