"""The supernet of NAS-Bench-Macro's space (Su et al., CVPR 2021): a chain of layers, three blocks in each."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor, nn

from fairsweep.search_spaces.architectures.base import Architecture
from fairsweep.search_spaces.architectures.chain import BLOCKS, ChainSpace
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


def block(option: str, inputs: int, outputs: int, stride: int, norm: Normalisation) -> nn.Module:
    """A layer of the chain. Where resolution or width changes the identity is a 1x1 convolution with norm."""
    if option == "identity":
        if stride == 1 and inputs == outputs:
            return nn.Identity()
        return named(conv=nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm=norm(outputs))
    expansion, kernel = {"mb3_k3": (3, 3), "mb6_k5": (6, 5)}[option]
    return InvertedBottleneck(inputs, outputs, stride, expansion, kernel, norm)


class ChainSupernet(LayeredSupernet):
    """Stem, layers in stages, head. The first layer of a stage has stride 2 and doubles the width.

    channels: width of the stem. head: width of the 1x1 convolution before the pool.
    affine: scale and shift after normalising. They are on here, unlike in the cell: each norm of a layer belongs to
        one block and is shared with no other, the scale of a block's last norm weighs it against its shortcut,
        and what is extracted has then exactly the parameters of the network that is trained stand-alone.
    """

    kind: ClassVar[str] = "chain"
    space: ChainSpace

    def __init__(
        self,
        space: ChainSpace,
        input_shape: Sequence[int],
        classes: int,
        channels: int,
        head: int,
        affine: bool = True,
    ) -> None:
        super().__init__()
        self.space, self.input_shape = space, image_shape(input_shape)
        self.classes, self.channels = positive("classes", classes), positive("channels", channels)
        self.head_width, self.affine = positive("head", head), affine
        if not space.stages:
            raise ValueError(f"stages=[]: {space.id} must say how many layers each stage has")
        norm = by_batch(affine)
        self.stem = self._stem(norm)
        self.layers = nn.ModuleList(
            nn.ModuleDict({option: block(option, *sizes, norm) for option in BLOCKS})
            for sizes in self._layer_sizes()
        )
        self.head = self._head(norm)

    def _layer_sizes(self) -> Iterator[tuple[int, int, int]]:
        """(inputs, outputs, stride) of each layer."""
        width = self.channels
        for n in self.space.stages:
            yield width, 2 * width, 2
            width *= 2
            for _ in range(n - 1):
                yield width, width, 1

    def _stem(self, norm: Normalisation) -> nn.Module:
        conv = nn.Conv2d(self.input_shape[0], self.channels, 3, padding=1, bias=False)
        return named(conv=conv, norm=norm(self.channels), relu=nn.ReLU())

    def _head(self, norm: Normalisation) -> nn.Module:
        return named(
            conv=nn.Conv2d(self.channels * 2 ** len(self.space.stages), self.head_width, 1, bias=False),
            norm=norm(self.head_width),
            relu=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classifier=nn.Linear(self.head_width, self.classes),
        )

    def config(self) -> dict[str, Any]:
        return {
            "layers": self.space.layers,
            "stages": list(self.space.stages),
            "input_shape": list(self.input_shape),
            "classes": self.classes,
            "channels": self.channels,
            "head": self.head_width,
            "affine": self.affine,
        }

    # -- a path ---------------------------------------------------------------------------------------

    def _option(self, layer: int, option: str) -> nn.Module:
        options: Any = self.layers[layer]
        return options[option]

    def run_block(self, number: int, x: Tensor, option: str) -> Tensor:
        return self._option(number, option)(x)

    def extract(self, path: Architecture) -> nn.Module:
        self.space.check(path)
        layers = {f"layer_{k}": self._option(k, BLOCKS[i]) for k, i in enumerate(path.indices)}
        return copy.deepcopy(named(stem=self.stem, **layers, head=self.head))

    def build(self, path: Architecture) -> nn.Module:
        self.space.check(path)
        layers = OrderedDict(
            (f"layer_{k}", block(BLOCKS[path.indices[k]], *sizes, running))
            for k, sizes in enumerate(self._layer_sizes())
        )
        return named(stem=self._stem(running), **layers, head=self._head(running))

    def operators(self) -> Iterator[Operator]:
        yield Operator(self._stem(running), self.input_shape, context="stem")
        shape = (self.channels, *self.input_shape[1:])
        for choice, (inputs, outputs, stride) in zip(self.space.choices, self._layer_sizes(), strict=True):
            context = f"{'x'.join(map(str, shape))}, stride {stride}"
            for option in BLOCKS:
                module = block(option, inputs, outputs, stride, running)
                yield Operator(module, shape, {choice.name: option}, context)
            shape = halved(shape, stride, outputs)
        yield Operator(self._head(running), shape, context="head")

    def option_parameters(self, choice: str, option: str) -> tuple[str, ...]:
        return self._option_names[choice, option]

    @cached_property
    def _option_names(self) -> dict[tuple[str, str], tuple[str, ...]]:
        def owner(parts: Sequence[str]) -> tuple[str, str] | None:  # layers.<layer>.<option>...
            return (self.space.choices[int(parts[1])].name, parts[2]) if parts[0] == "layers" else None

        return self._names_by_option(owner)
