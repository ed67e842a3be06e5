"""Our supernets as networks of one input: every operation at once, as they are trained by DARTS, or one path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fairsweep.search_spaces.architectures.cell import OPERATIONS, CellSpace
from fairsweep.search_spaces.architectures.mbconv import MBConvSpace
from fairsweep.search_spaces.architectures.nasnet import NASNetSpace
from fairsweep.search_spaces.supernets.cell import CellSupernet, ResidualBlock
from fairsweep.search_spaces.supernets.mbconv_branches import BranchSupernet
from fairsweep.search_spaces.supernets.nasnet import NASNetSupernet

SHAPE = (3, 16, 16)


class MixedCells(nn.Module):
    """The cell supernet with mixed operators (Liu et al., ICLR 2019, equation 2): each edge is the sum of all its
    operations, weighted by the softmax of logits that all cells share."""

    def __init__(
        self,
        channels: int = 8,
        cells: int = 1,
        stages: int = 2,
        affine: bool = True,
        operations: tuple[str, ...] = OPERATIONS,
    ) -> None:
        super().__init__()
        space = CellSpace(operations=operations)
        self.supernet = CellSupernet(space, SHAPE, 10, channels, cells, stages, affine)
        options = len(self.supernet.space.operations)
        self.alphas = nn.ParameterDict(
            {choice.name: nn.Parameter(0.3 * torch.randn(options)) for choice in self.supernet.space.choices}
        )

    def _edge(self, cell: Any, name: str, x: Tensor) -> Tensor:
        weights = self.alphas[name].softmax(0)
        operations = [cell[name][o] if o != "none" else None for o in self.supernet.space.operations]
        values = [w * f(x) for w, f in zip(weights, operations, strict=True) if f is not None]
        return sum(values[1:], values[0])

    def forward(self, x: Tensor) -> Tensor:
        x = self.supernet.stem(x)
        for part in self.supernet.body:
            if isinstance(part, ResidualBlock):
                x = part(x)
                continue
            nodes = [x]
            for i in range(1, self.supernet.space.nodes):
                first, *others = (self._edge(part, f"edge_{j}_{i}", nodes[j]) for j in range(i))
                nodes.append(sum(others, first))
            x = nodes[-1]
        return self.supernet.head(x)


class Branches(nn.Module):
    """The multi-branch supernet of mobile blocks, all its branches weighted by their gates."""

    def __init__(self) -> None:
        super().__init__()
        sizes: dict[str, Any] = {"channels": 8, "widths": [8, 12], "strides": [1, 2], "head": 16}
        self.supernet = BranchSupernet(MBConvSpace((1, 2)), SHAPE, 10, **sizes)

    def forward(self, x: Tensor) -> Tensor:
        return self.supernet.gated(x, self.supernet.gates())


def cell_path() -> nn.Module:
    """A path of the cell supernet with weights of its own, and running statistics."""
    space = CellSpace()
    text = "|nor_conv_3x3~0|+|nor_conv_1x1~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_1x1~1|avg_pool_3x3~2|"
    return CellSupernet(space, SHAPE, 10, 8, 2, 2, True).build(space.parse(text))


def nasnet() -> nn.Module:
    """A small NASNet of two blocks a cell."""
    space = NASNetSpace(blocks=2)
    net = NASNetSupernet(space, SHAPE, 10, 1, 4)
    return net.build(space.sample(np.random.default_rng(3)))


SUPERNETS: dict[str, Callable[[], nn.Module]] = {
    "mixed_cells": MixedCells,
    "mixed_cells_without_scale": lambda: MixedCells(affine=False),
    "mixed_convolutions": lambda: MixedCells(operations=("nor_conv_1x1", "nor_conv_3x3")),
    "mbconv_branches": Branches,
    "cell_path": cell_path,
    "nasnet": nasnet,
}
