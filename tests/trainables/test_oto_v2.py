"""OTOv2 on digits: the network of the experiment, its groups, and that what is tested is the sliced network."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from fairsweep.search_spaces.pruning import Component, Member, Partition, kept_groups, slice_module
from fairsweep.search_spaces.pruning.dhspg import DHSPG, HSPG, ProxSGD
from fairsweep.search_spaces.space import Space, SpaceError
from fairsweep.trainables.base import Setting
from fairsweep.trainables.tasks.compression import base_optimiser, sparse_optimiser
from fairsweep.trainables.vision import oto_v2
from fairsweep.trainables.vision._residual import resnet18, small_residual
from fairsweep.trainables.vision.oto_v2 import OTOv2
from tests.trainables.configurations import paper_config

torch.set_num_threads(1)


config = partial(paper_config, "oto_v2", "digits")


def trial(steps: int = 5, seed: int = 0, **changes: Any) -> OTOv2:
    paper = OTOv2()
    paper.setup(config(**changes), Setting(seed=seed, steps=steps, data="digits"))
    return paper


def run(paper: OTOv2) -> list[dict[str, float]]:
    rows = []
    while not paper.finished:
        rows.append(paper.step())
    return rows


# ---- the network of the experiment ----


def by_hand(net: nn.Sequential) -> Partition:
    """The four components of `small_residual`, written down from its structure."""
    values = dict(net.named_parameters())
    layers = {
        "trunk": ("0.0", "0.1", "2.second.0", "2.second.1"),  # tied by the addition
        "inner": ("2.first.0", "2.first.1"),
        "third": ("3.0", "3.1"),
        "fourth": ("5.0", "5.1"),
    }
    components = []
    for name, parts in layers.items():
        names = [n for n in values if n.rsplit(".", 1)[0] in parts]
        size = len(values[names[0]])
        index = torch.arange(size)[:, None]
        components.append(Component(name, size, tuple(Member(n, 0, index) for n in names)))
    return Partition(tuple(components))


def test_sizes_are_those_of_the_experiment() -> None:
    net = small_residual(1, 10)
    assert sum(p.numel() for p in net.parameters()) == 19_130
    groups = oto_v2.groups_of("small", 1, 8, 10)
    assert groups.size == 96 and sorted(c.size for c in groups.prunable) == [16, 16, 32, 32]
    assert sum(p.numel() for p in resnet18(3, 10).parameters()) == 11_173_962
    assert resnet18(3, 10).eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_traced_groups_are_those_written_by_hand() -> None:
    net = small_residual(1, 10)
    traced, hand = oto_v2.groups_of("small", 1, 8, 10), by_hand(net)
    values = dict(net.named_parameters())

    def sets(partition: Partition) -> set[tuple[tuple[str, int], ...]]:
        found = set()
        for c in partition.prunable:
            for g in range(c.size):
                rows = sorted((m.parameter, m.dim, int(i)) for m in c.members for i in m.index[g])
                found.add(tuple(rows))
        return found

    assert sets(traced) == sets(hand)
    assert {n for n in values if n in traced.untouched} == {"9.weight", "9.bias"}


def test_sliced_by_hand_it_has_the_same_parameters_and_outputs() -> None:
    torch.manual_seed(0)
    net = small_residual(1, 10)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.bias.data.normal_()
    groups = oto_v2.groups_of("small", 1, 8, 10)
    values = dict(net.named_parameters())
    for component in groups.prunable:
        groups.zero(component, list(range(1, component.size, 2)), values)
    sliced = slice_module(net, groups)
    even = {16: slice(0, 16, 2), 32: slice(0, 32, 2)}
    stem, first, second = net[0], net[2].first, net[2].second  # type: ignore[union-attr]  # a BasicBlock
    assert torch.equal(sliced[0][0].weight, stem[0].weight[even[16]])  # type: ignore[index]
    block = sliced[2]  # type: ignore[index]
    assert torch.equal(block.first[0].weight, first[0].weight[even[16], even[16]])
    assert torch.equal(block.second[1].running_var, second[1].running_var[even[16]])
    assert torch.equal(sliced[3][0].weight, net[3][0].weight[even[32], even[16]])  # type: ignore[index]
    assert torch.equal(sliced[9].weight, net[9].weight[:, even[32]])  # type: ignore[index]
    x = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(sliced.eval()(x), net.eval()(x), atol=1e-5, rtol=0)


def test_flops_are_multiply_accumulates_of_one_image() -> None:
    layers = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Flatten(), nn.Linear(48, 5))
    assert oto_v2.count_flops(layers, (2, 4, 4)) == 16 * 3 * 2 * 9 + 48 * 5


def test_unknown_model_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="model=lenet: known are small, resnet18"):
        oto_v2.build("lenet", 1, 10)


# ---- training ----


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, DHSPG),
        ({"optimizer": "random"}, DHSPG),
        ({"optimizer": "hspg"}, HSPG),
        ({"optimizer": "prox_sgd"}, ProxSGD),
        ({"optimizer": "one_shot"}, torch.optim.SGD),
        ({"optimizer": "dense", "variant": "adamw"}, torch.optim.AdamW),
    ],
)
def test_each_option_has_its_optimiser(changes: dict[str, Any], kind: type) -> None:
    assert type(trial(**changes).optimiser) is kind


def test_options_reach_the_optimiser() -> None:
    optim = trial(
        steps=10,
        variant="adam",
        salience="cosine",
        lambda_adjust=False,
        half_space=False,
        epsilon=0.3,
        tolerance=0.02,
        group_divisible=4,
        lmbda_mode="fixed",
        lmbda=0.5,
        target_group_sparsity=0.7,
    ).optimiser
    assert isinstance(optim, DHSPG) and isinstance(optim.base, torch.optim.Adam)
    assert (optim.salience, optim.lambda_adjust, optim.projects, optim.epsilon) == (
        "cosine",
        False,
        False,
        0.3,
    )
    assert (optim.tolerance, optim.group_divisible, optim.lmbda, optim.target) == (0.02, 4, 0.5, 0.7)
    # A fifth of ten epochs of ten batches.
    assert optim.start == 20


def test_tested_is_the_sliced_network_with_the_target_reached() -> None:
    paper = trial()
    rows = run(paper)
    assert rows[0]["group_sparsity"] == 0 and 0.5 <= rows[-1]["group_sparsity"] <= 0.55
    tests = paper.test()
    assert tests["test_group_sparsity"] == pytest.approx(rows[-1]["group_sparsity"])
    assert tests["test_parameters"] < 8000 and tests["test_flops"] < 400_000
    assert tests["test_difference"] < 1e-4
    assert paper.best is not None
    paper.net.load_state_dict(paper.best["weights"])
    sliced = slice_module(paper.net.eval(), paper.groups)
    assert tests["test_parameters"] == sum(p.numel() for p in sliced.parameters())
    assert tests["test_accuracy"] == paper.data.evaluate(sliced, "test")[1]


def test_weights_from_before_the_target_are_never_the_best() -> None:
    paper = trial(steps=6, start_pruning_frac=0.5)
    for _ in range(3):
        paper.step()
        assert paper.best is None
    run(paper)
    assert paper.best is not None and paper.best["step"] > 3
    kept = kept_groups(_loaded(paper), paper.groups)
    assert 1 - sum(map(len, kept.values())) / 96 >= 0.5


def _loaded(paper: OTOv2) -> nn.Module:
    assert paper.best is not None
    paper.net.load_state_dict(paper.best["weights"])
    return paper.net


def test_one_shot_prunes_at_the_end_and_dense_never() -> None:
    paper = trial(steps=3, optimizer="one_shot", target_group_sparsity=0.7)
    rows = run(paper)
    assert [row["group_sparsity"] for row in rows] == [0, 0, pytest.approx(68 / 96)]
    assert paper.best is not None and paper.best["step"] == 3
    assert OTOv2.fidelity(paper.config, 3).minimum == 3
    dense = trial(steps=3, optimizer="dense")
    assert all(row["group_sparsity"] == 0 for row in run(dense))
    assert dense.test()["test_parameters"] == 19_130


def test_fine_tuning_goes_on_with_the_sliced_network() -> None:
    paper = trial(steps=5, optimizer="one_shot", fine_tune=2)
    rows = [paper.step() for _ in range(3)]
    assert rows[2]["group_sparsity"] == 0.5 and paper.kept is None
    first = paper.step()
    parameters = sum(p.numel() for p in paper.net.parameters())
    assert paper.kept is not None and parameters < 8000
    state = paper.state_dict()
    last = paper.step()
    assert last["train_loss"] < first["train_loss"]
    assert last["group_sparsity"] == first["group_sparsity"] == 0.5
    tests = paper.test()
    assert tests["test_parameters"] == parameters and tests["test_difference"] < 1e-4
    again = trial(steps=5, optimizer="one_shot", fine_tune=2)
    again.load_state_dict(state)
    assert again.step() == last and again.test() == tests


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [0.1] * 4), ("step", [0.1, 0.01, 0.001, 0.0001]), ("cosine", [0.1, 0.0854, 0.05, 0.0146])],
)
def test_schedules(schedule: str, expected: list[float]) -> None:
    paper = trial(steps=4, optimizer="dense", schedule=schedule)
    seen = []
    for _ in range(4):
        paper.step()
        seen.append(paper.optimiser.param_groups[0]["lr"])
    assert seen == pytest.approx(expected, abs=1e-4)


# ---- space ----


def test_space_holds_only_what_exists() -> None:
    assert {"salience", "lmbda_mode", "epsilon", "target_group_sparsity"}.isdisjoint(
        config(optimizer="dense")
    )
    assert "lmbda" not in config() and "lmbda" in config(lmbda_mode="fixed")
    assert "lmbda_all" in config(optimizer="hspg") and "lmbda_amplify" not in config(lambda_adjust=False)
    assert "momentum" not in config(variant="adam")
    with pytest.raises(SpaceError, match="epsilon"):
        Space.load("oto_v2").validate(config() | {"epsilon": 1.0})


def test_paper_values_are_those_of_the_experiments() -> None:
    space = Space.load("oto_v2")
    cifar, digits = space.paper_config("cifar10"), space.paper_config("digits")
    assert (cifar["target_group_sparsity"], cifar["momentum"], cifar["schedule"]) == (0.7, 0.0, "step")
    assert (digits["target_group_sparsity"], digits["momentum"], digits["start_pruning_frac"]) == (
        0.5,
        0.9,
        0.2,
    )
    assert cifar["lr"] == digits["lr"] == 0.1 and cifar["weight_decay"] == digits["weight_decay"] == 1e-4


@pytest.mark.parametrize("fine_tune", [0, 1])
def test_the_network_that_is_found_is_the_sliced_one_that_was_tested(fine_tune: int) -> None:
    paper = trial(target_group_sparsity=0.5, fine_tune=fine_tune)
    run(paper)
    found, tested = paper.found(), paper.test()
    assert found.input_shape == (1, 8, 8) and not found.module.training
    assert sum(p.numel() for p in found.module.parameters()) == tested["test_parameters"]
    assert paper.data.evaluate(found.module, "test")[1] == pytest.approx(tested["test_accuracy"])
    kept = sum(int(word.split("=")[1].split("/")[0]) for word in found.text.split()[1:])
    assert 1 - kept / paper.groups.size == pytest.approx(tested["test_group_sparsity"])


@pytest.mark.slow
def test_resnet18_is_pruned_and_sliced_exactly() -> None:
    groups = oto_v2.groups_of("resnet18", 3, 32, 10)
    # Four trunks tied by additions, and the inside of each of the eight blocks.
    assert sorted(c.size for c in groups.prunable) == [64] * 3 + [128] * 3 + [256] * 3 + [512] * 3
    torch.manual_seed(0)
    net = resnet18(3, 10)
    options = config(model="resnet18", target_group_sparsity=0.7, lmbda_mode="fixed", lmbda=3.0)
    optim = sparse_optimiser(base_optimiser(net, options), net, groups, 1, options)
    for _ in range(4):
        optim.zero_grad()
        x, y = torch.randn(8, 3, 32, 32), torch.randint(10, (8,))
        nn.functional.cross_entropy(net(x), y).backward()
        optim.step()
    assert isinstance(optim, DHSPG) and 0.7 <= optim.sparsity <= 0.75
    sliced = slice_module(net.eval(), groups)
    assert sum(p.numel() for p in sliced.parameters()) < 0.3 * 11_173_962
    x = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(sliced.eval()(x), net(x), atol=1e-4, rtol=1e-4)
