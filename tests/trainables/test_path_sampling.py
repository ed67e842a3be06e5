"""Rules of path sampling: their distributions, their indicators against autograd, their strictness."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fairsweep.search_spaces.architectures.base import ArchitectureSpace
from fairsweep.search_spaces.architectures.cell import CellSpace
from fairsweep.search_spaces.supernets import build_supernet
from fairsweep.trainables.tasks.path_sampling import (
    FairPaths,
    ImportancePaths,
    PathRule,
    SandwichPaths,
    UniformPaths,
    smoothed,
)
from fairsweep.trainables.tasks.workers import Workers
from tests.trainables.toy_supernet import ToySupernet, batch_for

torch.set_num_threads(1)
ALONE = Workers()
CONV1, CONV3 = 2, 3  # of the toy's operations


def backward(net: ToySupernet, indices: tuple[int, ...], clip: float = 1e9) -> Any:
    path = net.space.architecture(indices)
    x, y = batch_for(net)
    net.zero_grad(set_to_none=True)
    F.cross_entropy(net(x, path), y).backward()
    nn.utils.clip_grad_norm_(net.parameters(), clip)
    return path


def norm(net: ToySupernet, choice: str, option: str) -> float:
    """Sum of the norms of weight and bias gradients, from autograd."""
    named = dict(net.named_parameters())
    parts = [named[f"edges.{choice}.{option}.{kind}"].grad for kind in ("weight", "bias")]
    return sum(float(g.norm()) for g in parts if g is not None)


# ---- probabilities ----


@pytest.mark.parametrize("seed", range(3))
def test_weights_average_to_one_although_disconnected_cells_are_drawn_anew(seed: int) -> None:
    net = build_supernet("cell", "laptop", input_shape=(1, 8, 8), classes=10)
    space, rule, rng = net.space, PathRule(net), np.random.default_rng(seed)
    rule.probabilities = {c.name: rng.dirichlet(np.ones(len(c.options))) for c in space.choices}
    paths = list(space.enumerate())
    drawn = np.array([np.prod([rule.probabilities[c.name][i] for c, i in zip(space.choices, a.indices, strict=True)])
                      for a in paths])  # fmt: skip
    naive = np.array([1 / (space.size * p) for p in drawn])
    weights = np.array([rule.weight(a) for a in paths[::50]])
    accepted = space.acceptance(rule.probabilities)
    assert accepted == pytest.approx(drawn.sum(), abs=1e-12) and accepted < 1
    # Under the distribution that is sampled, the weights' mean is 1; without the share of valid draws it is not.
    every = naive * accepted / space.acceptance()
    assert weights == pytest.approx(every[::50], rel=1e-9)
    assert (drawn / accepted * every).sum() == pytest.approx(1, abs=1e-12)
    assert abs((drawn / accepted * naive).sum() - 1) > 1e-3
    value = rng.random(len(paths))
    assert (drawn / accepted * every * value).sum() == pytest.approx(value.mean(), abs=1e-12)


def test_weights_of_paths_that_are_really_drawn_average_to_one() -> None:
    net = ToySupernet()
    rule, rng = PathRule(net), np.random.default_rng(0)
    rule.probabilities = {name: np.array([0.4, 0.3, 0.2, 0.1]) for name in rule.probabilities}
    found = [rule.weight(path) for _ in range(4000) for path in rule.sample_paths(rng)]
    error = np.std(found) / len(found) ** 0.5
    assert abs(np.mean(found) - 1) < 4 * error < 0.12


@pytest.mark.parametrize("nodes", [2, 3, 4])
def test_the_share_of_draws_that_are_connected_is_exact(nodes: int) -> None:
    operations = ("nor_conv_1x1", "none", "skip_connect")
    space, rng = CellSpace(nodes, operations), np.random.default_rng(nodes)
    p = {c.name: rng.dirichlet(np.ones(3)) for c in space.choices}
    assert space.acceptance(p) == pytest.approx(ArchitectureSpace.acceptance(space, p), abs=1e-12)
    assert space.acceptance() == pytest.approx(sum(1 for _ in space.enumerate()) / space.size, abs=1e-12)
    assert CellSpace(nodes, operations, disconnected=True).acceptance(p) == 1
    assert CellSpace(nodes, ("nor_conv_1x1", "skip_connect")).acceptance() == 1


@pytest.mark.parametrize("share", [0.0, 0.3, 0.975, 1.0])
def test_smoothed_probabilities_are_a_mixture_with_the_uniform_one(share: float) -> None:
    importance = np.array([0.0, 0.0, 3.0, 1.0, 0.0])
    p = smoothed(importance, share)
    assert p == pytest.approx(share * importance / 4 + (1 - share) / 5)
    assert p.sum() == pytest.approx(1) and (p >= (1 - share) / 5 - 1e-15).all()


def test_no_importance_is_uniform_and_not_a_division_by_zero() -> None:
    assert smoothed(np.zeros(5), 1.0).tolist() == [0.2] * 5


def test_floor_is_the_least_probability() -> None:
    p = smoothed(np.array([0.0, 0.0, 1.0, 0.0, 0.0]), 1.0, floor=0.05)
    assert p == pytest.approx([0.05, 0.05, 0.8, 0.05, 0.05])


def test_uniform_is_uniform_over_valid_paths() -> None:
    net = ToySupernet()
    rng = np.random.default_rng(0)
    drawn = [UniformPaths(net).sample_paths(rng) for _ in range(3000)]
    assert all(len(paths) == 1 and net.space.is_valid(paths[0]) for paths in drawn)
    counts = {a: 0 for a in net.space.enumerate()}
    for (path,) in drawn:
        counts[path] += 1
    expected = 3000 / len(counts)
    assert all(abs(n - expected) < 5 * expected**0.5 for n in counts.values())


def test_importance_starts_as_the_uniform_rule_bit_for_bit() -> None:
    net = ToySupernet()
    a, b = (
        [rule.sample_paths(rng) for _ in range(50)]
        for rule, rng in (
            (UniformPaths(net), np.random.default_rng(3)),
            (ImportancePaths(net), np.random.default_rng(3)),
        )
    )
    assert a == b


# ---- indicators (after clipping, halving average, only what is not zero) ----


@pytest.mark.parametrize("clip", [1e9, 0.01])
def test_indicator_is_the_gradient_norm_after_clipping_over_the_edges_that_took_the_option(
    clip: float,
) -> None:
    net = ToySupernet()
    rule = ImportancePaths(net)
    path = backward(net, (CONV3, CONV1, CONV3), clip)
    (found,) = rule.indicators(path).values()
    three = norm(net, "edge_0_1", "nor_conv_3x3") + norm(net, "edge_1_2", "nor_conv_3x3")
    assert found == pytest.approx([0, 0, norm(net, "edge_0_2", "nor_conv_1x1"), three / 2], rel=1e-6)
    total = sum(float(p.grad.norm()) ** 2 for p in net.parameters() if p.grad is not None) ** 0.5
    assert total <= clip * 1.0001


def test_edge_granularity_keeps_each_choice_apart() -> None:
    net = ToySupernet()
    rule = ImportancePaths(net, granularity="edge_op")
    found = rule.indicators(backward(net, (CONV3, CONV1, CONV3)))
    assert set(found) == {"edge_0_1", "edge_0_2", "edge_1_2"}
    assert found["edge_0_1"] == pytest.approx([0, 0, 0, norm(net, "edge_0_1", "nor_conv_3x3")], rel=1e-6)
    assert found["edge_0_2"] == pytest.approx([0, 0, norm(net, "edge_0_2", "nor_conv_1x1"), 0], rel=1e-6)


def test_running_value_halves_from_zero_and_waits_for_what_was_not_sampled() -> None:
    net = ToySupernet()
    rule = ImportancePaths(net)
    (key,) = rule.importance
    first = rule.indicators(backward(net, (CONV3, CONV1, CONV3)))[key]
    rule.after_backward(net.space.architecture((CONV3, CONV1, CONV3)))
    assert rule.importance[key] == pytest.approx(first / 2)
    second = rule.indicators(backward(net, (1, CONV1, 1)))[key]
    rule.after_backward(net.space.architecture((1, CONV1, 1)))
    assert second[CONV3] == 0
    assert rule.importance[key][CONV3] == pytest.approx(first[CONV3] / 2), (
        "not halved: it was not on the path"
    )
    assert rule.importance[key][CONV1] == pytest.approx(first[CONV1] / 4 + second[CONV1] / 2)
    assert rule.importance[key][:2].tolist() == [0, 0]


def test_whole_cell_network_sums_over_its_cells() -> None:
    net = build_supernet("cell", input_shape=(1, 8, 8), classes=10)
    rule = ImportancePaths(net)
    path = net.space.architecture((3, 2, 3, 1, 0, 3))
    x, y = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8)
    F.cross_entropy(net(x, path), y).backward()
    (found,) = rule.indicators(path).values()
    by_hand = sum(
        float(p.grad.norm())
        for n, p in net.named_parameters()
        if p.grad is not None and ".nor_conv_3x3." in n
    )
    assert found[3] == pytest.approx(by_hand / 3, rel=1e-5)
    assert found[3] > 0 and found[[0, 1, 4]].tolist() == [0, 0, 0]


def test_end_of_epoch_sets_probabilities_and_forgets() -> None:
    net = ToySupernet()
    rule = ImportancePaths(net)
    (key,) = rule.importance
    rule.importance[key] = np.array([0.0, 0.0, 1.0, 3.0])
    rule.end_epoch(0.5, ALONE)
    assert {tuple(p.round(12)) for p in rule.probabilities.values()} == {(0.125, 0.125, 0.25, 0.5)}
    assert rule.importance[key].tolist() == [0] * 4
    rule.end_epoch(0.0, ALONE)
    assert {tuple(p) for p in rule.probabilities.values()} == {(0.25,) * 4}, "share 0 is exactly uniform"


def test_draws_follow_the_probabilities() -> None:
    net = ToySupernet(
        operations=("skip_connect", "nor_conv_1x1", "nor_conv_3x3")
    )  # all combinations are valid
    rule = ImportancePaths(net)
    (key,) = rule.importance
    rule.importance[key] = np.array([0.0, 1.0, 3.0])
    rule.end_epoch(1.0, ALONE)
    rng = np.random.default_rng(0)
    drawn = np.array([rule.sample_paths(rng)[0].indices for _ in range(2000)])
    assert (drawn != 0).all(), "without a floor what has no gradient starves"
    assert (drawn == 2).mean() == pytest.approx(0.75, abs=0.02)


def test_weights_make_path_sampling_unbiased() -> None:
    net = ToySupernet(operations=("skip_connect", "nor_conv_1x1", "nor_conv_3x3"))
    rule = ImportancePaths(net, granularity="edge_op")
    for k, key in enumerate(rule.importance):
        rule.importance[key] = np.array([1.0, 2.0, 3.0 + k])
    rule.end_epoch(0.6, ALONE)
    paths = list(net.space.enumerate())
    probability = [
        np.prod([rule.probabilities[c.name][i] for c, i in zip(net.space.choices, a.indices, strict=True)])
        for a in paths
    ]
    assert sum(probability) == pytest.approx(1)
    value = {a: float(sum(a.indices)) ** 2 for a in paths}
    estimate = sum(p * rule.weight(a) * value[a] for p, a in zip(probability, paths, strict=True))
    assert estimate == pytest.approx(np.mean(list(value.values())))
    assert UniformPaths(net).weight(paths[5]) == pytest.approx(1)


def test_state_goes_on() -> None:
    net = ToySupernet()
    rule, again = ImportancePaths(net), ImportancePaths(net)
    (key,) = rule.importance
    rule.importance[key] = np.array([0.0, 0.0, 1.0, 3.0])
    rule.end_epoch(0.9, ALONE)
    again.load_state_dict(rule.state_dict())
    a, b = (r.sample_paths(np.random.default_rng(1)) for r in (rule, again))
    assert a == b and again.probabilities["edge_0_1"].tolist() == rule.probabilities["edge_0_1"].tolist()


# ---- fairness and the sandwich ----


def test_fair_paths_have_each_option_once_on_each_edge_and_fresh_every_time() -> None:
    net = build_supernet("cell", input_shape=(1, 8, 8), classes=10)
    rule = FairPaths(net)
    rng = np.random.default_rng(0)
    updates = [rule.sample_paths(rng) for _ in range(200)]
    for paths in updates:
        assert len(paths) == 5 and all(map(net.space.is_valid, paths))
        for edge in range(6):
            assert sorted(p.indices[edge] for p in paths) == [0, 1, 2, 3, 4]
    assert len({tuple(p.indices for p in paths) for paths in updates}) == 200, "permutations are drawn anew"
    first = np.array([paths[0].indices for paths in updates])
    assert len({tuple(row) for row in first}) > 190, "edges are permuted independently"


def test_fairness_needs_choices_of_one_width() -> None:
    net = ToySupernet()
    choices = net.space.choices
    uneven = (*choices[:2], type(choices[0])("edge_1_2", choices[0].options[:2]))
    net.space.__dict__["choices"] = uneven
    with pytest.raises(ValueError, match=r"strategy=fairnas.*\[2, 4\] options"):
        FairPaths(net)


def test_sandwich_is_largest_random_smallest() -> None:
    net = build_supernet("cell", input_shape=(1, 8, 8), classes=10)
    rule = SandwichPaths(net)
    paths = rule.sample_paths(np.random.default_rng(0))
    assert len(paths) == rule.paths == 4
    assert paths[0].indices == (3,) * 6
    used = [sum(p.numel() for n, p in net.named_parameters() if n in net.path_parameters(a)) for a in paths]
    assert used[-1] <= min(used[:-1]) and used[0] >= max(used[1:])
    assert net.space.is_valid(paths[-1])
    own = {n for c in net.space.choices for o in c.options for n in net.option_parameters(c.name, o)}
    assert not own & set(net.path_parameters(paths[-1])), "the smallest path has no parameters on its edges"


def test_smallest_path_is_found_where_the_least_options_make_none() -> None:
    net = ToySupernet(operations=("none", "nor_conv_1x1", "nor_conv_3x3"))
    smallest = SandwichPaths(net).smallest
    assert net.space.is_valid(smallest)
    assert sum(i != 0 for i in smallest.indices) == 1
    assert all(sum(i != 0 for i in a.indices) >= 1 for a in itertools.islice(net.space.enumerate(), 100))


def test_sandwich_of_superkernels_is_their_largest_and_smallest_blocks() -> None:
    net = build_supernet("mbconv")
    rule = SandwichPaths(net)
    largest, *_, smallest = rule.sample_paths(np.random.default_rng(0))
    assert net.space.format(largest) == "k5_e6/k5_e6-k5_e6-k5_e6"
    assert net.space.format(smallest) == "k3_e3/k3_e3-skip-skip"
    costs = [net.cost(path, "params") for path in net.space.enumerate()]
    assert (net.cost(largest, "params"), net.cost(smallest, "params")) == (max(costs), min(costs))


@pytest.mark.parametrize(
    ("rule", "kind", "message"),
    [
        (FairPaths, "mbconv", r"strategy=fairnas .*\[4, 5\] options; must be equal"),
        (FairPaths, "nasnet", r"strategy=fairnas .*\[1, 2, 3, 5\] options; must be equal"),
        (SandwichPaths, "nasnet", r"strategy=sandwich: the options of normal.b0.in1 .* all of one size"),
        (ImportancePaths, "mbconv", r"strategy=pa .*: options of mbconv.* parts of the same weights"),
    ],
)
def test_rules_refuse_spaces_in_which_they_make_no_sense(rule: Any, kind: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rule(build_supernet(kind))


def test_inputs_of_blocks_stay_uniform_under_importance() -> None:
    net = build_supernet("nasnet")
    rule = ImportancePaths(net)
    x, y = torch.randn(16, *net.input_shape), torch.arange(16) % 10
    for path in [net.space.sample(seed) for seed in range(2)]:
        net.zero_grad(set_to_none=True)
        F.cross_entropy(net(x, path), y).backward()
        rule.after_backward(path)
    rule.end_epoch(0.9, ALONE)
    for choice in net.space.choices:
        p = rule.probabilities[choice.name]
        assert p.sum() == pytest.approx(1)
        uniform = p.tolist() == pytest.approx([1 / len(p)] * len(p))
        assert uniform == (".op" not in choice.name)
    assert net.space.is_valid(rule.sample_paths(np.random.default_rng(1))[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"granularity": "cell"}, "granularity=cell: must be op or edge_op"),
        ({"floor": 0.3}, r"floor=0.3: must be 0 to 1/4"),
        ({"ema": 0.0}, r"ema=0.0: must be in \(0, 1\]"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImportancePaths(ToySupernet(), **arguments)


def test_rules_that_measure_nothing_stay_as_they_are() -> None:
    net = ToySupernet()
    rule: PathRule = UniformPaths(net)
    rule.after_backward(backward(net, (CONV3, CONV1, CONV3)))
    rule.end_epoch(1.0, ALONE)
    assert rule.probabilities["edge_0_1"].tolist() == [0.25] * 4
