"""OTOv3 on digits: twelve chains, which of them go, and that what is tested is the network without them."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
import torch

from fairsweep.search_spaces.pruning import apply_recipe
from fairsweep.search_spaces.pruning.dhspg import DHSPG
from fairsweep.search_spaces.pruning.h2spg import H2SPG
from fairsweep.trainables.base import Setting
from fairsweep.trainables.tasks.compression import Different, difference
from fairsweep.trainables.vision.oto_v3 import OTOv3, ParallelChains, erasing_graph
from tests.trainables.configurations import paper_config

torch.set_num_threads(1)


config = partial(paper_config, "oto_v3", "digits")


def trial(steps: int = 4, seed: int = 0, **changes: Any) -> OTOv3:
    paper = OTOv3()
    paper.setup(config(**changes), Setting(seed=seed, steps=steps, data="digits"))
    return paper


def finished(paper: OTOv3) -> OTOv3:
    while not paper.finished:
        paper.step()
    return paper


def test_every_chain_is_a_removal_structure_and_nothing_else_is() -> None:
    graph = erasing_graph(1, 8, 10, 16, 4)
    assert set(graph.erasable) == {
        f"chains.{i}_{j}_{k}" for j in range(1, 4) for i in range(j) for k in (3, 1)
    }
    net = ParallelChains(1, 10)
    held = {m.parameter for c in graph.partition.prunable for m in c.members}
    assert held == {name for name, _ in net.named_parameters() if name.startswith("chains.")}
    assert len(erasing_graph(1, 8, 10, 8, 3).erasable) == 6


@pytest.mark.parametrize("chains", [9, 10])
def test_with_the_hierarchy_the_network_is_connected_and_exact(chains: int) -> None:
    paper = finished(trial(target_group_sparsity=chains / 12))
    assert isinstance(paper.optimiser, H2SPG)
    chosen = paper.optimiser.chosen()
    assert len(chosen) >= chains and paper.graph.is_valid(chosen)
    tests = paper.test()
    assert tests["test_valid"] == 1 and tests["test_difference"] <= 1e-5
    assert tests["test_group_sparsity"] == pytest.approx(len(chosen) / 12)
    assert tests["test_parameters"] < 16_090 / 2 and tests["test_flops"] < 992_416 / 2
    assert paper.best is not None
    paper.net.load_state_dict(paper.best["weights"])
    small = paper.graph.extract(paper.net, chosen)
    assert tests["test_accuracy"] == paper.data.evaluate(small, "test")[1]
    assert tests["test_parameters"] == sum(p.numel() for p in small.parameters())


def test_without_the_hierarchy_what_is_left_is_measured_as_it_is() -> None:
    paper = finished(trial(target_group_sparsity=11 / 12, hierarchy=False, lmbda_mode="fixed", lmbda=10.0))
    tests = paper.test()
    assert tests["test_group_sparsity"] == pytest.approx(11 / 12)
    # One chain of twelve connects only if it leads from the first node to the last.
    left = set(paper.graph.erasable) - paper.optimiser.erased()  # type: ignore[attr-defined]  # an H2SPG
    connected = left <= {"chains.0_3_3", "chains.0_3_1"}
    assert tests["test_valid"] == connected
    if not connected:
        assert tests["test_accuracy"] < 0.25 and tests["test_parameters"] == 16_090


def test_the_whole_supernet_is_the_dense_baseline() -> None:
    paper = finished(trial(steps=2, method="dense"))
    tests = paper.test()
    assert type(paper.optimiser) is torch.optim.SGD
    assert (tests["test_parameters"], tests["test_flops"]) == (16_090, 992_416)
    assert tests["test_valid"] == 1 and tests["test_group_sparsity"] == 0 and tests["test_difference"] == 0


def test_options_reach_the_optimiser() -> None:
    optim = trial(
        orphan_closure=False, score="cosine+rms", lmbda_mode="fixed", lmbda=3.0, epsilon=0.5, warmup_frac=0.5
    ).optimiser
    assert isinstance(optim, H2SPG)
    assert optim.orphans is None and optim.is_valid is not None and optim.salience == "cosine+rms"
    assert (optim.lmbda, optim.epsilon, optim.start) == (3.0, 0.5, 20)
    assert trial(hierarchy=False).optimiser.is_valid is None  # type: ignore[attr-defined]  # an H2SPG


def test_only_networks_with_their_chains_erased_are_judged() -> None:
    paper = trial(steps=4, warmup_frac=0.5)
    assert OTOv3.fidelity(paper.config, 4).minimum == 3
    for step in range(4):
        paper.step()
        all_zero = step >= 2 and paper.optimiser.reached  # type: ignore[attr-defined]  # an H2SPG
        assert (paper.best is None) == (step < 3 and not all_zero)


def test_space_holds_only_what_exists() -> None:
    assert "orphan_closure" not in config(hierarchy=False)
    assert {"hierarchy", "score", "epsilon", "target_group_sparsity"}.isdisjoint(config(method="dense"))
    assert config(lmbda_mode="fixed")["lmbda"] == 3.0


def test_the_network_that_is_found_lacks_the_chains_that_are_zero() -> None:
    paper = finished(trial())
    found, tested = paper.found(), paper.test()
    assert paper.compression is not None
    erased = paper.compression.erased(paper.trained())
    names = {c.name for c in paper.graph.partition.prunable}
    assert erased and set(found.text.split()) == names - erased
    assert sum(p.numel() for p in found.module.parameters()) == tested["test_parameters"]
    x = torch.randn(3, *found.input_shape)
    assert torch.allclose(found.module(x), paper.trained()(x), atol=1e-5)


# ---- channels, and chains before channels ----


def test_channels_of_the_supernet_can_be_pruned_instead() -> None:
    paper = finished(trial(mode="prune", target_group_sparsity=0.5))
    tests = paper.test()
    assert type(paper.optimiser) is DHSPG and paper.optimiser.start == 10
    assert 0.5 <= tests["test_channel_sparsity"] == tests["test_group_sparsity"] <= 0.55
    assert tests["test_parameters"] < 16_090 / 2 and tests["test_difference"] <= 1e-4
    # Every chain is still there, with fewer channels.
    assert {n for n, _ in paper.found().module.named_parameters()} == {
        n for n, _ in paper.net.named_parameters()
    }


BOTH = {
    "mode": "erase+prune",
    "target_group_sparsity": 0.5,
    "prune_frac": 0.5,
    "target_channel_sparsity": 0.5,
}


def test_chains_are_erased_and_then_the_channels_of_the_rest_pruned() -> None:
    paper = trial(steps=6, **BOTH)
    assert paper.compression is not None
    for _ in range(3):
        paper.step()
    assert isinstance(paper.optimiser, H2SPG) and paper.gone is None and paper.best is None
    finished(paper)
    gone = set(paper.gone or [])
    assert len(gone) >= 6 and not isinstance(paper.optimiser, H2SPG)
    for name, p in paper.net.named_parameters():
        if any(name.startswith(f"{chain}.") for chain in gone):
            assert not p.any() and not p.requires_grad and p.grad is None
    found, tests = paper.found(), paper.test()
    assert tests["test_valid"] == 1 and tests["test_group_sparsity"] == pytest.approx(len(gone) / 12)
    assert 0.5 <= tests["test_channel_sparsity"] <= 0.55 and tests["test_difference"] <= 1e-4
    names = {name for name, _ in found.module.named_parameters()}
    assert not any(name.startswith(f"{chain}.") for name in names for chain in gone)
    erased_alone = paper.graph.extract(paper.trained(), gone)
    assert tests["test_parameters"] < 0.6 * sum(p.numel() for p in erased_alone.parameters())
    x = torch.randn(5, *found.input_shape)
    torch.testing.assert_close(found.module(x), paper.trained()(x), atol=1e-4, rtol=0)
    # The recipe makes the small network of a fresh one, for the weights that were saved.
    assert found.recipe is not None
    again = apply_recipe(ParallelChains(1, 10), json.loads(json.dumps(found.recipe)))
    again.load_state_dict(found.module.state_dict())
    assert torch.equal(again.eval()(x), found.module(x))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda y: y + 0.01, "test_difference=0.01"),
        (lambda y: y * float("nan"), "not finite elsewhere"),
        (lambda y: y[:1], "other shapes"),
    ],
)
def test_a_network_that_computes_something_else_is_told(change: Any, said: str) -> None:
    net, x = torch.nn.Linear(4, 3), torch.randn(6, 4)
    with pytest.raises(Different, match=said):
        difference(net, torch.nn.Sequential(net, Changed(change)), [x])
    assert difference(net, torch.nn.Sequential(net, Changed(lambda y: y * (1 + 1e-6))), [x]) < 1e-5
    masked = Changed(lambda y: y.masked_fill(y < 0, -torch.inf))
    assert difference(torch.nn.Sequential(net, masked), torch.nn.Sequential(net, masked), [x]) == 0


class Changed(torch.nn.Module):
    def __init__(self, change: Any) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.change(x)


@pytest.mark.parametrize("cut", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_chains_before_channels_resumed_equals_uninterrupted(cut: int) -> None:
    whole = trial(steps=6, **BOTH)
    rows = [whole.step() for _ in range(6)]
    assert whole.gone is not None
    first = trial(steps=6, **BOTH)
    for _ in range(cut):
        first.step()
    assert (first.gone is None) == (cut == 2)
    second = trial(steps=6, **BOTH)
    second.load_state_dict(first.state_dict())
    assert [second.step() for _ in range(6 - cut)] == rows[cut:] and second.test() == whole.test()


def test_channels_wait_until_the_chains_are_zero() -> None:
    never = BOTH | {"lmbda_mode": "fixed", "lmbda": 1e-3, "prune_frac": 0.1}
    paper = finished(trial(steps=4, **never))
    assert isinstance(paper.optimiser, H2SPG) and not paper.optimiser.reached and paper.gone is None
    assert paper.test()["test_channel_sparsity"] == 0
