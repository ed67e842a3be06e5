"""OTOv3 on digits: twelve chains, which of them go, and that what is tested is the network without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from search_spaces.pruning.h2spg import H2SPG
from search_spaces.space import Space
from trainables.base import Setting
from trainables.vision.oto_v3 import OTOv3, ParallelChains, erasing_graph

torch.set_num_threads(1)


def config(**changes: Any) -> dict[str, Any]:
    """The paper's configuration for digits with `changes`, completed and validated by the space."""
    declared = Space.load("oto_v3")
    raw = yaml.safe_load(Path(declared.source).read_text()) | changes
    space = Space.from_mapping(raw, declared=declared)
    return space.validate(space.paper_config("digits"))


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
    erased = paper.erased(paper.trained())
    names = {c.name for c in paper.graph.partition.prunable}
    assert erased and set(found.text.split()) == names - erased
    assert sum(p.numel() for p in found.module.parameters()) == tested["test_parameters"]
    x = torch.randn(3, *found.input_shape)
    assert torch.allclose(found.module(x), paper.trained()(x), atol=1e-5)
