"""What the tests of pruning share: small networks with their partitions, groups at zero, differences of networks."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fairsweep.search_spaces.pruning import Partition, partition, slice_module
from tests.search_spaces.pruning.networks import NETWORKS

torch.set_num_threads(1)


def disturb(net: nn.Module, x: Tensor, seed: int = 0) -> nn.Module:
    """Parameters moved, batch statistics those of `x` and then moved as well, so that nothing is one or zero by chance
    and the last layers still see the input; in eval mode."""
    torch.manual_seed(seed)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        for p in net.parameters():
            p += 0.02 * torch.randn_like(p)
        for norm in norms:
            norm.momentum = None
        net.train()(x)
        for norm in norms:
            norm.momentum = 0.1
            if norm.running_mean is not None and norm.running_var is not None:
                norm.running_mean += 0.3 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
                norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.5, 2.0)
    return net.eval()


@lru_cache(None)
def network(name: str) -> tuple[nn.Module, Partition, Tensor]:
    """A small network, what it can lose, and inputs; not to be changed."""
    torch.manual_seed(0)
    case = NETWORKS[name]
    net, x = case.small(), case.inputs()
    disturb(net, x)
    return net, partition(net, x), x


def zeroed(net: nn.Module, found: Partition, seed: int) -> tuple[nn.Module, dict[str, list[int]]]:
    """A copy with a random part of the groups of each component, up to 70 %, at zero, and those that are not."""
    rng, full = np.random.default_rng(seed), copy.deepcopy(net)
    values, kept = dict(full.named_parameters()), {}
    for component in found.prunable:
        order = rng.permutation(component.size)
        lost = int(rng.integers(1, max(2, round(0.7 * component.size) + 1)))
        found.zero(component, order[:lost].tolist(), values)
        kept[component.name] = sorted(order[lost:].tolist())
    return full, kept


def difference(a: nn.Module, b: nn.Module, *inputs: Any) -> float:
    """Largest difference of the outputs, of the largest output if that is above 1."""
    with torch.no_grad():
        x, y = a(*inputs), b(*inputs)
    assert x.shape == y.shape and x.isfinite().all()
    return float((x - y).abs().max()) / max(1.0, float(x.abs().max()))


def shape(net: nn.Module, *inputs: Tensor) -> dict[str, tuple[int, bool]]:
    """Component -> (groups, whether it can be pruned)."""
    return {c.name: (c.size, c.prunable) for c in partition(net.eval(), inputs).components}


@dataclass(frozen=True)
class Exactness:
    """How far sub-networks are from the full one. absolute: largest difference of outputs; relative: of the largest
    output; seconds: of processor time, to trace once and to slice and compare all."""

    groups: int
    subsets: int
    absolute: float
    relative: float
    seconds: float


@torch.no_grad()
def exactness(net: nn.Module, x: Tensor, subsets: int) -> Exactness:
    """Zeroes and slices random subsets of the groups of `net`, which is disturbed first."""
    disturb(net, x)
    began = time.process_time()
    found = partition(net, x)
    absolute = relative = 0.0
    for seed in range(subsets):
        full, _ = zeroed(net, found, seed)
        out, small = full(x), slice_module(full, found)(x)
        assert out.shape == small.shape and out.isfinite().all()
        largest = float((out - small).abs().max())
        absolute, relative = max(absolute, largest), max(relative, largest / float(out.abs().max()))
    return Exactness(found.size, subsets, absolute, relative, time.process_time() - began)
