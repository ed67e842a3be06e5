"""What the tests of pruning share: partitions of the small networks, groups at zero, and how far two networks differ."""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from search_spaces.pruning import Partition, partition
from tests.search_spaces.pruning.networks import NETWORKS

torch.set_num_threads(1)


def disturb(net: nn.Module, seed: int = 0) -> nn.Module:
    """Parameters moved and batch statistics random, so that nothing is one or zero by chance; in eval mode."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p += 0.02 * torch.randn_like(p)
        for name, buffer in net.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.3)
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
    return net.eval()


@lru_cache(None)
def network(name: str) -> tuple[nn.Module, Partition, Tensor]:
    """A small network, what it can lose, and inputs; not to be changed."""
    torch.manual_seed(0)
    case = NETWORKS[name]
    net, x = disturb(case.small()), case.inputs()
    return net, partition(net, x), x


def zeroed(net: nn.Module, found: Partition, seed: int) -> tuple[nn.Module, dict[str, list[int]]]:
    """A copy with a random part of the groups of each component at zero, and those that are not."""
    rng, full = np.random.default_rng(seed), copy.deepcopy(net)
    values, kept = dict(full.named_parameters()), {}
    for component in found.prunable:
        order = rng.permutation(component.size)
        lost = int(rng.integers(1, component.size))
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
