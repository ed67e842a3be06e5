"""A supernet small enough to follow by hand: linear options without statistics of the batch, on cells of 3 nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fairsweep.search_spaces.architectures.base import Architecture
from fairsweep.search_spaces.architectures.cell import CellSpace
from fairsweep.search_spaces.costs import Operator
from fairsweep.search_spaces.supernets.base import State, Step, Supernet

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3")
WIDTH = 4


class ToySupernet(Supernet):
    """Pixels -> linear -> edges -> linear. nor_conv_1x1 is a linear map, nor_conv_3x3 one with a larger start."""

    kind = "toy"

    def __init__(
        self, side: int = 8, classes: int = 10, seed: int = 0, operations: tuple[str, ...] = OPERATIONS
    ) -> None:
        super().__init__()
        self.space = CellSpace(nodes=3, operations=operations)
        self.input_shape, self.classes = (1, side, side), classes
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.stem = nn.Linear(side * side, WIDTH)
            self.edges = nn.ModuleDict(
                {
                    choice.name: nn.ModuleDict(
                        {o: nn.Linear(WIDTH, WIDTH) for o in operations if o.startswith("nor")}
                    )
                    for choice in self.space.choices
                }
            )
            self.head = nn.Linear(WIDTH, classes)

    @property
    def steps(self) -> tuple[Step, ...]:
        return (Step("all", tuple(c.name for c in self.space.choices)),)

    def run_step(self, number: int, state: State, path: Architecture) -> State:
        nodes = [torch.tanh(self.stem(state[0].flatten(1)))]
        options = self.space.options(path)
        for i in range(1, self.space.nodes):
            total = torch.zeros_like(nodes[0])
            for j in range(i):
                option = options[f"edge_{j}_{i}"]
                if option == "skip_connect":
                    total = total + nodes[j]
                elif option != "none":
                    scale = 3.0 if option == "nor_conv_3x3" else 1.0
                    total = total + scale * torch.tanh(self._edge(f"edge_{j}_{i}", option)(nodes[j]))
            nodes.append(total)
        return (self.head(nodes[-1]),)

    def _edge(self, choice: str, option: str) -> nn.Module:
        options: Any = self.edges[choice]
        return options[option]

    def build(self, path: Architecture) -> nn.Module:
        raise NotImplementedError

    def extract(self, path: Architecture) -> nn.Module:
        raise NotImplementedError

    def operators(self) -> Iterator[Operator]:
        raise NotImplementedError

    def config(self) -> Mapping[str, Any]:
        return {}

    def option_parameters(self, choice: str, option: str) -> tuple[str, ...]:
        prefix = f"edges.{choice}.{option}."
        return tuple(name for name, _ in self.named_parameters() if name.startswith(prefix))


def batch_for(net: ToySupernet, examples: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs and labels that fit `net`."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(examples, *net.input_shape, generator=generator)
    return x, torch.randint(net.classes, (examples,), generator=generator)
