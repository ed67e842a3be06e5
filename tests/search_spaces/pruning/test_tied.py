"""Weights that are used twice: what is explained, trained and cut is the same."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairsweep.search_spaces.pruning import Partition, kept_groups, partition, slice_module
from fairsweep.search_spaces.pruning.dhspg import DHSPG
from fairsweep.search_spaces.pruning.report import numbers


class Turned(nn.Module):
    """Goes through `w` and back through the same weight, turned over: its rows are outputs, then inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.w, self.o = nn.Linear(6, 8), nn.Linear(8, 12), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.w(self.a(x).relu()).relu()
        return self.o(F.linear(h, self.w.weight.t()).relu())


class Residual(Turned):
    """What comes back is added to what went in."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        return self.o((h + F.linear(self.w(h), self.w.weight.t())).relu())


class Same(nn.Module):
    """Two layers with one weight, the same way round."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.o = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.c.weight = self.b.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.c(self.b(self.a(x).relu()).relu()).relu())


class Words(nn.Module):
    """The rows of an embedding are also the weights of the output."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.f, self.g = nn.Embedding(9, 8), nn.Linear(8, 12), nn.Linear(12, 8)
        self.out = nn.Linear(8, 9, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.embedding(x)
        return self.out(h + self.g(self.f(h).relu()))


def entries(groups: Partition, module: nn.Module) -> int:
    """Different entries of parameters in prunable groups, counted one by one."""
    held = {name: torch.zeros(p.shape, dtype=torch.bool) for name, p in module.named_parameters()}
    for component in groups.prunable:
        for member in component.members:
            held[member.parameter].movedim(member.dim, 0)[member.index.flatten()] = True
    return sum(int(mask.sum()) for mask in held.values())


@pytest.mark.parametrize("kind", [Turned, Residual, Same, Words])
def test_explained_trained_and_cut_alike(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    module = kind()
    x = torch.randint(9, (4, 5)) if kind is Words else torch.randn(4, 6)
    groups = partition(module, x)
    counts = numbers(groups, module)
    assert (
        sum(counts[c.name] for c in groups.prunable)
        == entries(groups, module)
        <= sum(p.numel() for p in module.parameters())
    )
    assert groups.prunable
    optimiser = DHSPG(torch.optim.SGD(module.parameters(), 0.05), module.named_parameters(), groups, 0.5, 1)
    while not optimiser.reached and optimiser.steps < 1000:
        optimiser.zero_grad()
        module(x).square().mean().backward()
        optimiser.step()
    assert optimiser.sparsity >= 0.5
    kept = kept_groups(module, groups)
    assert sum(map(len, kept.values())) <= groups.size / 2
    small = slice_module(module, groups, kept)
    assert torch.allclose(small(x), module.eval()(x), atol=1e-6)


def test_what_is_a_row_for_one_and_a_column_for_another_can_go_for_one_only() -> None:
    groups = partition(Turned(), torch.randn(2, 6))
    assert [c.name for c in groups.prunable] == ["a"]  # it holds more: 8 x 6 + 8 + 8 x 12 against 12 x 8 + 12
    left = {c.name: c.reason for c in groups.components}["w"]
    assert left == "w.weight is used twice, and its entries are in groups along its other dimension"
    assert groups.untouched["w.bias"] == left and "a.bias" not in groups.untouched
