"""A small network of parallel chains, its validity written by hand: what H2SPG is tested on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fairsweep.search_spaces.pruning.groups import Component, Member, Partition

EDGES = [(i, j) for j in range(1, 4) for i in range(j)]


class Dag(nn.Module):
    """Nodes 0 to 3, two chains ReLU - convolution - normalisation on each of six edges, nodes add."""

    def __init__(self, width: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        self.chains = nn.ModuleDict(
            {
                f"{i}{j}k{k}": nn.Sequential(
                    nn.ReLU(), nn.Conv2d(width, width, k, padding=k // 2, bias=False), nn.BatchNorm2d(width)
                )
                for i, j in EDGES
                for k in (3, 1)
            }
        )
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        nodes = [self.stem(x)]
        for j in range(1, 4):
            incoming = [chain(nodes[int(n[0])]) for n, chain in self.chains.items() if int(n[1]) == j]
            nodes.append(torch.stack(incoming).sum(0))
        return self.head(nodes[-1].relu().mean((2, 3)))


def partition(net: Dag) -> Partition:
    """One component with one group for each chain."""
    values = dict(net.named_parameters())

    def whole(name: str) -> Member:
        return Member(name, 0, torch.arange(len(values[name]))[None])

    return Partition(
        tuple(
            Component(chain, 1, tuple(whole(n) for n in values if n.startswith(f"chains.{chain}.")))
            for chain in net.chains
        )
    )


def reached(erased: frozenset[str]) -> set[int]:
    """The nodes that the input still reaches."""
    found = {0}
    for i, j in EDGES:  # ordered by target
        if i in found and any(f"{i}{j}k{k}" not in erased for k in (1, 3)):
            found.add(j)
    return found


def is_valid(erased: frozenset[str]) -> bool:
    return 3 in reached(erased)


def orphans(erased: frozenset[str]) -> frozenset[str]:
    lost = {0, 1, 2, 3} - reached(erased)
    return frozenset(f"{i}{j}k{k}" for i, j in EDGES if i in lost for k in (1, 3))
