"""Our supernets and all twelve architectures: groups at zero change nothing when they go, 20 random subsets each."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from torch import Tensor, nn

from fairsweep.search_spaces.pruning import Partition, partition, slice_module
from tests.search_spaces.pruning.helpers import difference, disturb, exactness, zeroed
from tests.search_spaces.pruning.networks import NETWORKS
from tests.search_spaces.pruning.supernets import SHAPE, SUPERNETS
from tests.search_spaces.pruning.twelve import TWELVE

EXPECTED = {  # prunable components, groups
    "mixed_cells": (3, 40),
    "mixed_cells_without_scale": (3, 40),
    "mixed_convolutions": (9, 112),
    "mbconv_branches": (15, 540),
    "cell_path": (7, 88),
    "nasnet": (22, 180),
}


@lru_cache(None)
def supernet(name: str) -> tuple[nn.Module, Partition, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(4, *SHAPE)
    net = disturb(SUPERNETS[name](), x)
    return net, partition(net, x), x


@pytest.mark.parametrize("name", SUPERNETS)
def test_only_the_output_and_the_mixing_weights_of_a_supernet_stay(name: str) -> None:
    net, found, _ = supernet(name)
    assert (len(found.prunable), found.size) == EXPECTED[name]
    assert [c.reason for c in found.components if not c.prunable] == ["it is the network's output"]
    reasons = {n: r for n, r in found.untouched.items() if r != "it is the network's output"}
    assert all("alphas" in n and r == "softmax in the network is taken over it" for n, r in reasons.items())
    assert len(reasons) == sum("alphas" in n for n, _ in net.named_parameters())


@pytest.mark.parametrize(
    "name",
    [n if n == "mixed_cells_without_scale" else pytest.param(n, marks=pytest.mark.slow) for n in SUPERNETS],
)
def test_a_supernet_without_its_zero_groups_computes_the_same(name: str) -> None:
    net, found, x = supernet(name)
    for seed in range(20):
        full, _ = zeroed(net, found, seed)
        small = slice_module(full, found)
        assert difference(full, small, x) <= 1e-5
        assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in full.parameters())


def test_the_twelve_are_those_that_are_promised() -> None:
    assert set(TWELVE) - set(NETWORKS) == {"cell_supernet", "att_swin_unet"} and len(TWELVE) == 13


def test_exactness_sees_a_wrong_sub_network(monkeypatch: pytest.MonkeyPatch) -> None:
    case = NETWORKS["vgg_bn"]
    right = exactness(case.small(), case.inputs(), 3)
    assert right.groups == 56 and right.relative <= 1e-5

    def wrong(net: nn.Module, found: Partition) -> nn.Module:
        small = slice_module(net, found)
        torch.nn.init.zeros_(next(iter(small.parameters())))
        return small

    monkeypatch.setattr("tests.search_spaces.pruning.helpers.slice_module", wrong)
    assert exactness(case.small(), case.inputs(), 1).relative > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", TWELVE)
def test_twelve_architectures(name: str) -> None:
    make, x = TWELVE[name]
    torch.manual_seed(0)
    found = exactness(make(), x(), 20)
    assert found.relative <= (1e-4 if name != "cell_supernet" else 1e-5) and found.subsets == 20
