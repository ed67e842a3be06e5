"""Erasing on networks of many families: whatever is connected computes the same without what is zero."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fairsweep.search_spaces.pruning import RecipeError, apply_recipe, erasing_recipe
from fairsweep.search_spaces.pruning.erasing import ErasingError, ErasingGraph
from fairsweep.trainables.vision.oto_v3 import ParallelChains
from tests.search_spaces.pruning.helpers import difference, disturb
from tests.search_spaces.pruning.networks import NETWORKS
from tests.search_spaces.pruning.supernets import SUPERNETS

SUBSETS = 20
FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "parallel_chains": lambda: ParallelChains(3, 10, 8),
    **{
        name: NETWORKS[name].small
        for name in (
            "resnet18",
            "resnet50",
            "mobilenet_v2",
            "efficientnet",
            "convnext",
            "carn",
            "vit",
            "encoder",
        )
    },
    **SUPERNETS,
}
ERASABLE = {  # how many operators there are that can go
    "parallel_chains": 12, "resnet18": 5, "resnet50": 6, "mobilenet_v2": 2, "efficientnet": 2, "convnext": 3, "carn": 4,
    "vit": 4, "encoder": 2, "mixed_cells": 26, "mixed_cells_without_scale": 26, "mixed_convolutions": 26,
    "mbconv_branches": 8, "cell_path": 14, "nasnet": 10,
}  # fmt: skip
QUICK = (
    "parallel_chains",
    "resnet18",
    "vit",
    "mixed_convolutions",
)  # the others are tested with the slow ones
# Whose every addition has a way around: no subset leaves them without a path from input to output.
UNBREAKABLE = {"mobilenet_v2", "efficientnet", "convnext", "carn", "vit", "encoder", "mbconv_branches"}


def draws(graph: ErasingGraph) -> list[frozenset[str]]:
    """Random subsets of what can be erased, of every size."""
    rng, names = np.random.default_rng(0), list(graph.erasable)
    sizes = rng.integers(1, len(names) + 1, 6 * SUBSETS)
    return [frozenset(rng.choice(names, n, replace=False).tolist()) for n in sizes]


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in FAMILIES]
)
def test_what_is_connected_computes_the_same_without_its_zero_operators(name: str) -> None:
    torch.manual_seed(0)
    case = NETWORKS.get(name)
    x = case.inputs() if case is not None else torch.randn(4, 3, 16, 16)
    net = disturb(FAMILIES[name](), x)
    graph = ErasingGraph(net, x)
    assert len(graph.erasable) == ERASABLE[name]
    exact, refused = 0, 0
    for erased in draws(graph):
        if not graph.is_valid(erased):
            with pytest.raises(ErasingError, match="the network is not connected"):
                graph.extract(net, erased)
            refused += 1
            continue
        if exact < SUBSETS:
            full = copy.deepcopy(net)
            values = dict(full.named_parameters())
            for component in graph.partition.prunable:
                if component.name in erased | graph.orphans(erased):
                    graph.partition.zero(component, [0], values)
            small = graph.extract(full, erased, None if exact == 0 else False)  # the first is proven as well
            assert difference(full, small, x) <= 1e-5
            left = {n for n, _ in small.named_parameters()}
            assert not left & {
                m.parameter for c in graph.partition.prunable if c.name in erased for m in c.members
            }
            exact += 1
    assert exact == SUBSETS
    assert (refused == 0) == (name in UNBREAKABLE)


def test_a_recipe_of_erasing_makes_the_small_network_of_a_fresh_one() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3, 16, 16)
    net = disturb(FAMILIES["parallel_chains"](), x)
    graph = ErasingGraph(net, x)
    erased = {"chains.0_1_3", "chains.1_2_1", "chains.0_3_1"}
    made = json.loads(json.dumps(erasing_recipe(net, graph, erased)))
    assert made["recipe"] == "erasing" and made["erased"] == sorted(erased) and made["then"] is None
    small = graph.extract(net, erased)
    again = apply_recipe(FAMILIES["parallel_chains"](), made)
    again.load_state_dict(small.state_dict())
    assert torch.equal(again(x), small(x))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"recipe": "roast"}, "recipe=roast: must be one of pruning, erasing"),
        ({"then": ...}, "not a recipe of erasing: then is missing"),
        ({"version": 7}, "version=7: this reads versions 1 to 2"),
        ({"fingerprint": "0"}, "its tensors are others"),
        ({"erased": ["stem"]}, "erased: stem: no removal structure; there are chains"),
        ({"inputs": [{"shape": [2, 3, 16, 16], "dtype": "float33"}]}, "dtype=float33"),
    ],
)
def test_recipes_of_erasing_that_are_damaged_are_refused(changes: dict[str, Any], said: str) -> None:
    net = FAMILIES["parallel_chains"]()
    made = erasing_recipe(net, ErasingGraph(net, torch.zeros(2, 3, 16, 16)), ["chains.0_1_3"]) | changes
    with pytest.raises(RecipeError, match=said):
        apply_recipe(net, {k: v for k, v in made.items() if v is not ...})
