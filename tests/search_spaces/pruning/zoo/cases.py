"""The list of networks, and how one gets into it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Inputs = Callable[[int], tuple[Any, ...]]  # batch size -> arguments


@dataclass(frozen=True)
class Case:
    """build: makes the network. inputs: arguments for a number of examples."""

    build: Callable[[], nn.Module]
    inputs: Inputs


ZOO: dict[str, Case] = {}


def images(channels: int = 3, side: int = 8) -> Inputs:
    return lambda n: (torch.randn(n, channels, side, side),)


def tokens(length: int = 6, width: int = 8) -> Inputs:
    return lambda n: (torch.randn(n, length, width),)


def words(length: int = 6, number: int = 11) -> Inputs:
    return lambda n: (torch.randint(number, (n, length)),)


def case(inputs: Inputs) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Puts a class of networks into the list, under its name."""

    def add(cls: type[nn.Module]) -> type[nn.Module]:
        ZOO[cls.__name__] = Case(cls, inputs)
        return cls

    return add


class Simple(nn.Module):
    """Layers as arguments, a forward pass as a function of them and the inputs."""

    def __init__(self, run: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.run = run

    def forward(self, *given: Any) -> Any:
        return self.run(self, *given)


def simple(name: str, inputs: Inputs, run: Callable[..., Any], **layers: Callable[[], nn.Module]) -> None:
    """A network whose forward pass is one expression."""
    ZOO[name] = Case(lambda: Simple(run, **{k: make() for k, make in layers.items()}), inputs)


def conv(a: int, b: int, k: int = 3, **more: Any) -> Callable[[], nn.Module]:
    return lambda: nn.Conv2d(a, b, k, padding=k // 2, **more)


def linear(a: int, b: int, bias: bool = True) -> Callable[[], nn.Module]:
    return lambda: nn.Linear(a, b, bias)


def pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3))
