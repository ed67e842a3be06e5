"""The supernet of NAS-Bench-201's cells as PA&DA trains it (Lu et al., CVPR 2023), and the networks in it.

Stem, stages of equal cells, a residual block of stride 2 and twice the width between stages, head (Dong and Yang,
ICLR 2020, section 2.1). All cells take the same architecture, each with weights of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fairsweep.search_spaces.architectures.base import Architecture
from fairsweep.search_spaces.architectures.cell import CellSpace
from fairsweep.search_spaces.costs import Operator
from fairsweep.search_spaces.supernets.base import State, Step, Supernet
from fairsweep.search_spaces.supernets.layers import (
    Normalisation,
    by_batch,
    halved,
    image_shape,
    named,
    positive,
    running,
)


def relu_conv_norm(
    inputs: int, outputs: int, kernel: int, stride: int, norm: Normalisation, bias: bool
) -> nn.Module:
    return named(
        relu=nn.ReLU(),
        conv=nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=bias),
        norm=norm(outputs),
    )


def operation(option: str, channels: int, norm: Normalisation, bias: bool) -> nn.Module:
    """What an edge does; "none" has no module."""
    if option == "skip_connect":
        return nn.Identity()
    if option == "avg_pool_3x3":
        return nn.AvgPool2d(3, 1, 1, count_include_pad=False)
    return relu_conv_norm(channels, channels, {"nor_conv_1x1": 1, "nor_conv_3x3": 3}[option], 1, norm, bias)


class ResidualBlock(nn.Module):
    """Two convolutions, the first of stride 2; the shortcut pools and widens. An odd side is rounded up by both."""

    def __init__(self, inputs: int, outputs: int, norm: Normalisation, bias: bool) -> None:
        super().__init__()
        self.conv_a = relu_conv_norm(inputs, outputs, 3, 2, norm, bias)
        self.conv_b = relu_conv_norm(outputs, outputs, 3, 1, norm, bias)
        self.shortcut = named(
            pool=nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False),
            conv=nn.Conv2d(inputs, outputs, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.conv_b(self.conv_a(x))


class Addition(nn.Module):
    """Stands for the sum at a node where its time is measured."""

    def forward(self, x: Tensor) -> Tensor:
        return x + x


class Cell(nn.Module):
    """A cell of one architecture. edges: what is on edge_<from>_<to>; an edge that is missing carries nothing."""

    def __init__(self, nodes: int, edges: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.nodes, self.edges = nodes, nn.ModuleDict(edges)

    def forward(self, x: Tensor) -> Tensor:
        nodes = [x]
        for i in range(1, self.nodes):
            node: Tensor | None = None
            for j in range(i):
                name = f"edge_{j}_{i}"
                if name in self.edges:
                    value = self.edges[name](nodes[j])
                    node = value if node is None else node + value
            nodes.append(torch.zeros_like(x) if node is None else node)
        return nodes[-1]


class CellSupernet(Supernet):
    """Every operation on every edge of every cell.

    channels: width of the first stage. cells: cells a stage. stages: stages; the width doubles from one to the next.
    affine: scale and shift after normalising; without, as in the paper, the convolutions on edges and in residual
        blocks have a bias.
    """

    kind: ClassVar[str] = "cell"
    space: CellSpace

    def __init__(
        self,
        space: CellSpace,
        input_shape: Sequence[int],
        classes: int,
        channels: int,
        cells: int,
        stages: int,
        affine: bool = False,
    ) -> None:
        super().__init__()
        self.space, self.input_shape = space, image_shape(input_shape)
        self.classes, self.channels = positive("classes", classes), positive("channels", channels)
        self.cells, self.stages = positive("cells", cells), positive("stages", stages)
        self.affine = affine
        norm, bias = by_batch(affine), not affine
        self.stem = self._stem(norm)
        self.body = nn.ModuleList(
            ResidualBlock(width // 2, width, norm, bias)
            if residual
            else nn.ModuleDict(
                {
                    choice.name: nn.ModuleDict(
                        {o: operation(o, width, norm, bias) for o in choice.options if o != "none"}
                    )
                    for choice in space.choices
                }
            )
            for residual, width in self._body()
        )
        self.head = self._head(norm)
        names = tuple(choice.name for choice in space.choices)
        self._steps = (Step("stem"), *(Step(f"cell_0.{n}", (n,)) for n in names), Step("rest", names))

    def _body(self) -> Iterator[tuple[bool, int]]:
        """(whether it is a residual block and no cell, width that it has) of each part between stem and head."""
        for stage in range(self.stages):
            width = self.channels * 2**stage
            if stage:
                yield True, width
            for _ in range(self.cells):
                yield False, width

    def _stem(self, norm: Normalisation) -> nn.Module:
        conv = nn.Conv2d(self.input_shape[0], self.channels, 3, padding=1, bias=False)
        return named(conv=conv, norm=norm(self.channels))

    def _head(self, norm: Normalisation) -> nn.Module:
        width = self.channels * 2 ** (self.stages - 1)
        return named(
            norm=norm(width),
            relu=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classifier=nn.Linear(width, self.classes),
        )

    def config(self) -> dict[str, Any]:
        return {
            **asdict(self.space),
            "operations": list(self.space.operations),
            "input_shape": list(self.input_shape),
            "classes": self.classes,
            "channels": self.channels,
            "cells": self.cells,
            "stages": self.stages,
            "affine": self.affine,
        }

    # -- a path ---------------------------------------------------------------------------------------

    @property
    def steps(self) -> tuple[Step, ...]:
        """An edge of the first cell at a time; behind it every path is on its own."""
        return self._steps

    def run_step(self, number: int, state: State, path: Architecture) -> State:
        """Within the first cell the state is its nodes so far, the last of them perhaps in the making."""
        if number == 0:
            return (self.stem(state[0]),)
        if number == len(self._steps) - 1:
            return (self._rest(state[0], path),)
        return self._edge(self.body[0], number - 1, state, path)

    def _edge(self, cell: Any, number: int, state: State, path: Architecture) -> State:
        choice = self.space.choices[number]
        option = choice.options[path.indices[number]]
        j, i = self.space.edges[number]
        nodes, started = state[:i], state[i:]
        if option != "none":
            value = cell[choice.name][option](nodes[j])
            started = (started[0] + value,) if started else (value,)
        if j < i - 1:
            return (*nodes, *started)
        done = started or (torch.zeros_like(nodes[0]),)
        return done if i == self.space.nodes - 1 else (*nodes, *done)

    def _rest(self, x: Tensor, path: Architecture) -> Tensor:
        for part in list(self.body)[1:]:
            if isinstance(part, ResidualBlock):
                x = part(x)
            else:
                state: State = (x,)
                for number in range(len(self.space.choices)):
                    state = self._edge(part, number, state, path)
                (x,) = state
        return self.head(x)

    def extract(self, path: Architecture) -> nn.Module:
        taken = self._taken(path)
        parts = []
        for part in self.body:
            edges: Any = part
            residual = isinstance(part, ResidualBlock)
            parts.append(
                part if residual else Cell(self.space.nodes, {c: edges[c][o] for c, o in taken.items()})
            )
        return copy.deepcopy(named(stem=self.stem, body=nn.Sequential(*parts), head=self.head))

    def build(self, path: Architecture) -> nn.Module:
        taken = self._taken(path)
        parts = [
            ResidualBlock(width // 2, width, running, bias=False)
            if residual
            else Cell(
                self.space.nodes, {c: operation(o, width, running, bias=False) for c, o in taken.items()}
            )
            for residual, width in self._body()
        ]
        return named(stem=self._stem(running), body=nn.Sequential(*parts), head=self._head(running))

    def _taken(self, path: Architecture) -> dict[str, str]:
        options = self.space.options(self.space.check(path))
        return {choice: option for choice, option in options.items() if option != "none"}

    def operators(self) -> Iterator[Operator]:
        """An edge from the input node is taken to begin the sum at its node, any other to be added to it."""
        yield Operator(self._stem(running), self.input_shape, context="stem")
        shape = (self.channels, *self.input_shape[1:])
        modules: dict[str, nn.Module] = {}  # one serves all cells of a stage
        for k, (residual, width) in enumerate(self._body()):
            if residual:
                block = ResidualBlock(width // 2, width, running, bias=False)
                yield Operator(block, shape, context=f"residual block {k}")
                shape, modules = halved(shape, 2, width), {}
                continue
            for choice, (j, _) in zip(self.space.choices, self.space.edges, strict=True):
                for option in choice.options:
                    if option != "none":
                        module = modules.setdefault(option, operation(option, width, running, bias=False))
                        yield Operator(module, shape, {choice.name: option}, f"cell {k}")
                        if j > 0:
                            addition = modules.setdefault("addition", Addition())
                            yield Operator(addition, shape, {choice.name: option}, f"cell {k}, addition")
        yield Operator(self._head(running), shape, context="head")

    def option_parameters(self, choice: str, option: str) -> tuple[str, ...]:
        return self._option_names[choice, option]

    @cached_property
    def _option_names(self) -> dict[tuple[str, str], tuple[str, ...]]:
        def owner(parts: Sequence[str]) -> tuple[str, str] | None:  # body.<part>.<choice>.<option>...
            return (parts[2], parts[3]) if parts[0] == "body" and parts[2] in self.space.positions else None

        return self._names_by_option(owner)
