"""The information plane: what holds for information, the bound and the noise, the patterns, and training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.io import savemat
from torch import Tensor

from fairsweep.search_spaces.space import Space, SpaceError
from fairsweep.trainables.base import DataError, Setting
from fairsweep.trainables.datasets import patterns
from fairsweep.trainables.datasets.fetch import sha256
from fairsweep.trainables.tasks.pattern_classification import PatternTask, random_split
from fairsweep.trainables.theory import information_plane as ip
from fairsweep.trainables.theory.information_plane import InformationPlane

torch.set_num_threads(1)
DATA = "synthetic_icosahedron"
BITS = patterns.all_bits(12)


def config(**changes: Any) -> dict[str, Any]:
    """The paper's configuration with `changes`, also of parameters that are fixed by default."""
    space = Space.load("information_plane")
    every = {
        name: p.value if p.fixed else p.paper.get(DATA, p.paper["default"])
        for name, p in space.parameters.items()
    }
    return space.complete({**every, **changes})


def trial(steps: int | None = 2, seed: int = 0, data: str = DATA, **changes: Any) -> InformationPlane:
    paper = InformationPlane()
    paper.setup(config(**changes), Setting(seed=seed, steps=steps, data=data))
    return paper


def finish(paper: InformationPlane) -> InformationPlane:
    while not paper.finished:
        paper.step()
    return paper


def conditional(gamma: float = 8.0) -> Tensor:
    return torch.tensor(patterns.load(DATA).conditional(gamma))


def information_xy(p: Tensor) -> float:
    return (ip.entropy(p.mean(0)) - ip.entropy(p).mean()).item()


def activations(units: int = 3, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Outputs of a random tanh layer for all patterns, (4096, units)."""
    weights = torch.randn(12, units, generator=torch.Generator().manual_seed(seed))
    return torch.tanh(scale * (2 * torch.tensor(BITS).float() - 1) @ weights)


def binned(t: Tensor, bins: int = 30) -> tuple[float, float]:
    return ip.binned_information(ip.bin_numbers(t, bins, -1, 1), conditional())


# ---- mutual information ----


@pytest.mark.parametrize("gamma", [1.0, 8.0, 50.0])
@pytest.mark.parametrize("estimator", ["binning", "kde"])
def test_information_is_within_its_bounds(gamma: float, estimator: str) -> None:
    p = conditional(gamma)[::4]
    for scale in (0.05, 1.0, 20.0):
        t = activations(scale=scale)[::4]
        if estimator == "binning":
            ixt, ity = ip.binned_information(ip.bin_numbers(t, 30, -1, 1), p)
        else:
            ixt, ity = ip.kde_information(t, p, 0.1)
        assert 0 <= ixt <= 10 + 1e-9
        assert 0 <= ity <= information_xy(p) + 1e-9 <= ip.entropy(p.mean(0)).item() <= 1
        assert ixt >= ity - 1e-9, "a binary label cannot be told from less than I(T;Y) bits"


def test_an_injective_layer_keeps_everything_and_a_constant_one_nothing() -> None:
    p = conditional()
    injective = torch.linspace(-1, 1, 4096)[:, None]
    ixt, ity = ip.binned_information(ip.bin_numbers(injective, 4096, -1, 1), p)
    assert (ixt, ity) == pytest.approx((12.0, information_xy(p)), abs=1e-12)
    bits = 2 * torch.tensor(BITS).float() - 1
    assert binned(bits) == pytest.approx((12.0, information_xy(p)), abs=1e-12)
    assert binned(torch.full((4096, 3), 0.3)) == pytest.approx((0.0, 0.0), abs=1e-12)


def test_information_of_a_known_layer() -> None:
    """T says whether the first two bits are both set, in two units of which one is redundant."""
    both = torch.tensor(BITS[:, 0] & BITS[:, 1]).float()
    t = torch.stack([2 * both - 1, 0.5 - both], 1)
    p = torch.stack([0.9 - 0.6 * both, 0.1 + 0.6 * both], 1).double()

    def h(q: float) -> float:
        return -q * math.log2(q) - (1 - q) * math.log2(1 - q)

    ixt, ity = ip.binned_information(ip.bin_numbers(t, 30, -1, 1), p)
    assert ixt == pytest.approx(h(0.25))
    assert ity == pytest.approx(h(0.75 * 0.9 + 0.25 * 0.3) - 0.75 * h(0.9) - 0.25 * h(0.3))


def test_labels_are_taken_by_their_probability_not_as_drawn() -> None:
    p = conditional()
    drawn = F.one_hot(
        (torch.rand(4096, generator=torch.Generator().manual_seed(0)) < p[:, 1]).long()
    ).double()
    numbers = torch.arange(4096)
    assert ip.binned_information(numbers, drawn)[1] > 0.99
    assert ip.binned_information(numbers, p)[1] == pytest.approx(0.8526, abs=1e-4)


@pytest.mark.parametrize("factor", [2, 3, 7])
@pytest.mark.parametrize("bins", [5, 30])
def test_finer_bins_never_show_less(bins: int, factor: int) -> None:
    t = activations(4, scale=0.3)
    coarse, fine = binned(t, bins), binned(t, bins * factor)
    assert fine[0] > coarse[0] and fine[1] >= coarse[1]


def test_information_does_not_know_the_order_of_units_or_rows() -> None:
    t, p = activations(5), conditional()
    order = torch.tensor([3, 0, 4, 1, 2])
    assert binned(t[:, order]) == pytest.approx(binned(t), abs=1e-12)
    t, p = t[::4], p[::4]
    kde = ip.kde_information(t, p, 0.1)
    assert ip.kde_information(t[:, order], p, 0.1) == pytest.approx(kde, abs=1e-9)
    rows = torch.randperm(1024, generator=torch.Generator().manual_seed(1))
    assert ip.kde_information(t[rows], p[rows], 0.1) == pytest.approx(kde, abs=1e-9)


def test_both_ends_of_the_range_lie_in_the_last_bins() -> None:
    ends = torch.tensor([[-1.0], [-0.999], [0.999], [1.0], [1.5], [-2.0]])
    assert ip.bin_numbers(ends, 30, -1, 1).tolist() == [0, 0, 1, 1, 1, 0]
    edges = torch.tensor([[-1 + 2 / 4 - 1e-6], [-0.5], [0.0], [0.5]])
    assert ip.bin_numbers(edges, 4, -1, 1).tolist() == [0, 1, 2, 3]
    # Together with a second unit: rows agree only where both do.
    pair = torch.tensor([[0.1, 0.9], [0.1, -0.9], [0.11, 0.9], [-0.9, 0.9]])
    assert len(set(ip.bin_numbers(pair, 10, -1, 1).tolist())) == 3
    assert ip.bin_numbers(torch.zeros(4, 2), 30, 0, 0).tolist() == [0] * 4


def test_many_bins_of_many_units_do_not_overflow() -> None:
    t = activations(12, scale=0.2)
    ixt, _ = binned(t, 200)
    assert ixt == pytest.approx(12.0, abs=1e-9)
    expected = np.unique(np.floor((t.double().numpy() + 1) * 100), axis=0)
    assert int(ip.bin_numbers(t, 200, -1, 1).max()) + 1 == len(expected)


def test_kde_is_the_pairwise_formula() -> None:
    t, p = activations()[::64], conditional()[::64]
    kernel = np.exp(-((t[:, None] - t[None]).double().numpy() ** 2).sum(-1) / (2 * 0.1))
    label = p.numpy()
    joint = label / label.sum(0)
    ixt = -np.log2(kernel.mean(1)).mean()
    given = [-(joint[:, c] * np.log2(kernel @ joint[:, c])).sum() for c in range(2)]
    expected = ixt - (label.mean(0) * given).sum()
    assert ip.kde_information(t, p, 0.1) == pytest.approx((ixt, expected), abs=1e-9)


def test_kde_of_far_and_of_equal_outputs() -> None:
    p = conditional()[::4]
    far = 100.0 * torch.arange(1024)[:, None]
    assert ip.kde_information(far, p, 0.1) == pytest.approx((10.0, information_xy(p)), abs=1e-9)
    assert ip.kde_information(torch.zeros(1024, 2), p, 0.1) == pytest.approx((0.0, 0.0), abs=1e-9)


# ---- the bound ----


@pytest.fixture(scope="module")
def curve() -> np.ndarray:
    return ip.ib_curve(conditional())


def test_bound_goes_from_nothing_to_all_that_matters(curve: np.ndarray) -> None:
    p = conditional()
    _, counts = np.unique(p.numpy().round(12), axis=0, return_counts=True)
    shares = counts / counts.sum()
    kinds = -(shares * np.log2(shares)).sum()
    assert curve[-1] == pytest.approx([0, 0], abs=1e-6), "beta below 1"
    assert curve[0, 1] == pytest.approx(information_xy(p), abs=3e-3)
    assert curve[0, 0] < kinds
    assert (curve[:, 1] <= curve[:, 0] + 1e-9).all() and (curve[:, 1] <= information_xy(p) + 1e-9).all()
    assert (np.diff(curve, axis=0) <= 1e-6).all(), "both fall with beta"


def test_bound_satisfies_the_equations_and_no_layer_is_above_it(curve: np.ndarray) -> None:
    # The slope of the bound is 1 / beta.
    betas = np.geomspace(8, 2, 9)
    points = ip.ib_curve(conditional(), betas, sweeps=1000)
    slopes = np.diff(points[:, 1]) / np.diff(points[:, 0])
    assert ((1 / betas[:-1] - 5e-3 <= slopes) & (slopes <= 1 / betas[1:] + 5e-3)).all()
    for seed in range(5):
        for bins in (2, 5):
            assert ip.ib_gap(*binned(activations(2, seed), bins), curve) > 0
    for ixt, ity in curve[::7]:
        assert ip.ib_gap(ixt, ity, curve) == pytest.approx(0, abs=1e-9)
    assert ip.ib_gap(12.0, 0.5, curve) == pytest.approx(information_xy(conditional()) - 0.5, abs=3e-3)


def test_bound_of_two_coins() -> None:
    """p(y|x) of a binary symmetric channel: I(X;T) of 1 bit gives 1 - h(0.1), and halfway Mrs Gerber's lemma."""
    p = torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.float64)
    points = ip.ib_curve(p, np.geomspace(50, 1.2, 40), sweeps=3000)

    def h(q: Any) -> Any:
        return -(q * np.log2(q) + (1 - q) * np.log2(1 - q))

    noise = np.linspace(1e-6, 0.5 - 1e-6, 5000)
    ixt, ity = 1 - h(noise), 1 - h(0.1 * (1 - noise) + 0.9 * noise)
    np.testing.assert_allclose(points[:, 1], np.interp(points[:, 0], ixt[::-1], ity[::-1]), atol=1e-4)
    assert np.ptp(points[:, 0]) > 0.9


@pytest.mark.parametrize("beta", [2.0, 4.0, 10.0])
def test_no_encoder_of_two_values_beats_the_bound(beta: float) -> None:
    """Three inputs of one kind and one of another: I(X;T) - beta I(T;Y) against a grid of all encoders."""
    p = torch.tensor([[0.95, 0.05]] * 3 + [[0.2, 0.8]], dtype=torch.float64)
    small = np.geomspace(1e-6, 0.5, 200)
    a, b = (grid.ravel() for grid in np.meshgrid(*[np.concatenate([[0], small, 1 - small, [1]])] * 2))
    encoder = np.stack([np.stack([a, 1 - a], -1), np.stack([b, 1 - b], -1)], 1)
    joint_xt = np.array([0.75, 0.25])[:, None] * encoder
    joint_ty = np.einsum("nxt,xy->nty", joint_xt, p[[0, 3]].numpy())

    def information(joint: np.ndarray) -> np.ndarray:
        product = joint.sum(2, keepdims=True) * joint.sum(1, keepdims=True)
        return (joint * np.log2(np.where(joint > 0, joint, 1) / np.where(joint > 0, product, 1))).sum((1, 2))

    best = (information(joint_xt) - beta * information(joint_ty)).min()
    ixt, ity = ip.ib_curve(p, [beta], sweeps=5000)[0]
    assert best < -1e-2
    assert ixt - beta * ity == pytest.approx(best, abs=1e-4)


def test_layer_beta_is_that_of_the_encoder_nearest_to_it() -> None:
    p = torch.tensor([[0.99, 0.01], [0.9, 0.1], [0.1, 0.9], [0.01, 0.99]], dtype=torch.float64)
    betas = np.array([0.5, 2.0, 8.0, 100.0])
    # All in one bin: every beta gives this encoder, the first of equals is returned.
    assert ip.layer_beta(torch.zeros(4, dtype=torch.long), p, betas) == 0.5
    # Bins by the likelier label are what a large beta gives; bins that cut across it need none.
    assert ip.layer_beta(torch.tensor([0, 0, 1, 1]), p, betas) == 100.0
    assert ip.layer_beta(torch.tensor([0, 1, 0, 1]), p, betas) < 8.0


# ---- drift and noise ----


def batches(n: int, seed: int = 0, same: bool = False) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(seed)
    made = [(torch.randn(8, 4), torch.randint(2, (8,))) for _ in range(n)]
    return [made[0]] * n if same else made


@pytest.fixture
def net() -> ip.Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ip.Network([4, 3, 2], "tanh")


def test_drift_and_noise_are_mean_and_deviation_over_batches(net: ip.Network) -> None:
    found = batches(5)
    drift, noise = ip.drift_and_noise(net, found)
    stacked: list[Sequence[Tensor]] = []
    for x, y in found:
        net.zero_grad()
        F.cross_entropy(net(x), y).backward()
        stacked.append([layer.weight.grad.clone() for layer in net.layers])
    for layer in range(2):
        gradients = np.stack([g[layer].numpy().ravel() for g in stacked])
        assert drift[layer] == pytest.approx(np.linalg.norm(gradients.mean(0)), rel=1e-4)
        assert noise[layer] == pytest.approx(np.sqrt(np.trace(np.cov(gradients.T, bias=True))), rel=1e-4)


def test_equal_batches_have_no_noise_and_snr_counts_all_weights(net: ip.Network) -> None:
    drift, noise = ip.drift_and_noise(net, batches(3, same=True))
    assert min(drift) > 0 and max(noise) < 1e-6
    assert InformationPlane.snr({"drift": [3.0, 4.0], "noise": [6.0, 8.0]}) == 0.5
    assert math.isfinite(InformationPlane.snr({"drift": [0.0], "noise": [0.0]}))


# ---- patterns ----


def test_rule_does_not_change_when_the_icosahedron_is_turned() -> None:
    vertices = patterns.icosahedron()
    np.testing.assert_allclose(np.linalg.norm(vertices, axis=1), 1)
    angles = np.unique((vertices @ vertices.T).round(9))
    np.testing.assert_allclose(angles, [-1, -(5**-0.5), 5**-0.5, 1], atol=1e-8)
    rule = patterns.load(DATA).rule
    number = {row.tobytes(): i for i, row in enumerate(BITS)}
    third = np.roll(np.eye(3), 1, axis=0)
    axis = vertices[0]
    c, s = math.cos(2 * math.pi / 5), math.sin(2 * math.pi / 5)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    fifth = c * np.eye(3) + s * cross + (1 - c) * np.outer(axis, axis)
    for turn in (third, fifth, third @ fifth, -np.eye(3)):
        distance = np.linalg.norm((vertices @ turn.T)[:, None] - vertices[None], axis=-1)
        assert np.allclose(distance.min(1), 0, atol=1e-9), "the rotation maps vertices to vertices"
        moved = BITS[:, distance.argmin(1)]
        assert [rule[number[row.tobytes()]] for row in moved] == rule.tolist()
    swapped = BITS[:, [1, 0, *range(2, 12)]]
    assert [rule[number[row.tobytes()]] for row in swapped] != rule.tolist(), "no other permutation"


def test_patterns_are_all_there_once_and_half_of_them_are_of_class_one() -> None:
    data = patterns.load(DATA)
    assert data.inputs.shape == (4096, 12) and set(np.unique(data.inputs)) == {-1.0, 1.0}
    assert len(np.unique(data.inputs, axis=0)) == 4096
    p = data.conditional(8.0)
    np.testing.assert_allclose(p.sum(1), 1)
    np.testing.assert_allclose(p[:, 1], 1 / (1 + np.exp(-8 * data.rule)), atol=1e-12)
    assert p[:, 1].mean() == pytest.approx(0.5, abs=0.01)
    bits = [information_xy(conditional(gamma)) for gamma in (1.0, 8.0, 50.0)]
    assert bits == pytest.approx([0.198, 0.853, 0.941], abs=5e-3)
    assert sha256(data.rule.tobytes()) == RULE, "the same on every machine"


RULE = "e3671b206ea861448d18c86f69bdbaf3f12280fa7a37b2e057aa17c30f78a63e"


def test_images_are_patterns_with_certain_labels() -> None:
    data = patterns.load("digits")
    assert data.inputs.shape == (1797, 64) and data.classes == 10
    assert (data.inputs.min(), data.inputs.max()) == (-1, 1)
    p = data.conditional(8.0)
    assert set(np.unique(p)) == {0, 1} and (p.argmax(1) == data.rule).all()


def test_var_u_is_read_and_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"data=var_u: data_dir is None; give the folder"):
        patterns.load("var_u")
    with pytest.raises(DataError, match=r"data=var_u: no var_u.mat in data_dir=.*or its data folder"):
        patterns.load("var_u", tmp_path)
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "var_u.mat"
    y = (BITS.sum(1) % 2).astype(np.uint8)
    savemat(file, {"F": BITS, "y": y[None]})
    with pytest.raises(DataError, match=r"var_u.mat has SHA-256 .*, expected 0ba9551.*; get it again"):
        patterns.load("var_u", tmp_path)
    monkeypatch.setattr(patterns, "_VAR_U", sha256(file.read_bytes()))
    data = patterns.var_u(tmp_path)
    assert (data.inputs == 2.0 * BITS - 1).all() and (data.rule == y).all()
    assert information_xy(torch.tensor(data.conditional(1.0))) == pytest.approx(1.0)
    with pytest.raises(
        DataError, match="data=spheres: unknown set of patterns; known: synthetic_icosahedron"
    ):
        patterns.load("spheres")


# ---- task ----


@pytest.mark.parametrize("fraction", [0.03, 0.85, 0.95])
def test_parts_are_disjoint_and_complete(fraction: float) -> None:
    parts = random_split(4096, fraction, np.random.default_rng(0))
    assert len(parts["train"]) == round(fraction * 4096)
    assert abs(len(parts["validation"]) - len(parts["test"])) <= 1
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(4096))


@pytest.mark.parametrize(("n", "fraction", "train"), [(4096, 0.0001, 0), (20, 0.97, 19)])
def test_a_split_without_one_of_its_parts_is_refused(n: int, fraction: float, train: int) -> None:
    with pytest.raises(
        ValueError, match=f"train_fraction={fraction}: gives {train} of {n} inputs to training"
    ):
        random_split(n, fraction, np.random.default_rng(0))


def test_labels_are_drawn_once_by_the_rule() -> None:
    def task(gamma: float, seed: int, name: str = DATA) -> PatternTask:
        return PatternTask(name, None, "cpu", 0.85, gamma, np.random.default_rng(seed))

    one, other = task(8.0, 0), task(8.0, 1)
    assert torch.equal(one.labels, other.labels) and not torch.equal(one.parts["test"], other.parts["test"])
    p = one.conditional[:, 1]
    for low, high in ((0.0, 0.05), (0.3, 0.7), (0.95, 1.0)):
        chosen = (p >= low) & (p <= high)
        assert one.labels[chosen].double().mean() == pytest.approx(p[chosen].mean().item(), abs=0.06)
    doubtful = task(1.0, 0).labels != one.labels
    assert 0.05 < doubtful.double().mean() < 0.5
    images = task(8.0, 0, "digits")
    assert torch.equal(images.labels, images.conditional.argmax(1))


def test_batches_are_the_training_part_shuffled() -> None:
    data = trial().data
    torch.manual_seed(0)
    found = list(data.batches(512))
    assert [len(y) for _, y in found] == [512] * 6 + [410]
    weights = 2.0 ** torch.arange(12)
    seen = (torch.cat([x for x, _ in found]) + 1) / 2 @ weights
    expected = (data.inputs[data.parts["train"]] + 1) / 2 @ weights
    assert not torch.equal(seen, expected) and torch.equal(seen.sort()[0], expected.sort()[0])


# ---- training ----


def test_network_is_that_of_the_paper() -> None:
    net = trial().net
    shapes = [tuple(layer.weight.shape) for layer in net.layers]
    assert shapes == [(10, 12), (7, 10), (5, 7), (4, 5), (3, 4), (2, 3)]
    torch.manual_seed(0)
    wide = ip.Network([400, 500, 2], "tanh")
    first = wide.layers[0].weight.detach() * 20
    assert first.abs().max() <= 2 and first.std().item() == pytest.approx(0.88, abs=0.01)
    assert all((layer.bias == 0).all() for layer in wide.layers)
    x = torch.randn(3, 400)
    hidden, output = wide.representations(x)
    torch.testing.assert_close(hidden, torch.tanh(x @ wide.layers[0].weight.T))
    torch.testing.assert_close(output, wide(x).softmax(1))


def test_measured_epochs_are_evenly_spaced_on_a_logarithmic_scale() -> None:
    epochs = sorted(InformationPlane.measured_epochs(1500))
    assert epochs[0] == 1 and epochs[-1] == 1500 and len(epochs) == 15
    assert all(1.4 < b / a < 2.1 for a, b in pairwise(epochs))
    assert sorted(InformationPlane.measured_epochs(10))[-1] == 10
    assert InformationPlane.fidelity(config()).maximum == 150
    assert InformationPlane.fidelity(config()).minimum == 15
    assert InformationPlane.fidelity(config(), 4).minimum == 1


@pytest.fixture(scope="module")
def trained() -> InformationPlane:
    return finish(trial(8, lr=0.01))


def test_curve_is_measured_over_all_inputs_with_the_known_rule(trained: InformationPlane) -> None:
    assert [p["epoch"] for p in trained.curve] == sorted(InformationPlane.measured_epochs(80))
    point = trained.curve[-1]
    layers = trained.net.representations(trained.data.inputs)
    assert [len(t) for t in layers] == [4096] * 6
    expected = [binned(t.detach()) for t in layers]
    np.testing.assert_allclose([point["ixt"], point["ity"]], np.transpose(expected))
    assert point["ixt"][-2] > 3 and point["ity"][-2] > 0.4
    first = trained.curve[0]
    assert point["ity"][-2] > first["ity"][-2] + 0.2, "fitting"


def test_step_reports_the_last_point_of_the_curve() -> None:
    paper = trial(40)
    paper.step()
    rows = [paper.step() for _ in range(3)]
    point = paper.curve[-1]
    assert point["epoch"] <= 40 and point["epoch"] in InformationPlane.measured_epochs(400)
    assert rows[-1]["first_ixt"] == point["ixt"][0] and rows[-1]["last_ixt"] == point["ixt"][4]
    assert rows[-1]["first_ity"] == point["ity"][0] and rows[-1]["last_ity"] == point["ity"][4]
    assert rows[-1]["gradient_snr"] == math.hypot(*point["drift"]) / math.hypot(*point["noise"])


def test_tests_are_of_the_course_of_the_last_hidden_layer(curve: np.ndarray) -> None:
    paper = finish(trial(2))
    flat = {"drift": [1.0], "noise": [2.0], "reach": [1.0] * 6, "beta": 1.0}
    made_up = [
        (1, 5.0, 0.1, 1.0),
        (4, 11.0, 0.3, 3.0),
        (9, 8.0, 0.6, 1.5),
        (11, 9.0, 0.6, 3.0),
        (15, 7.0, 0.6, 1.0),
    ]
    paper.curve = [
        {
            **flat,
            "epoch": e,
            "ixt": [12, 12, 12, 12, ixt, 1],
            "ity": [0.9, 0.9, 0.9, 0.9, ity, 0.5],
            "drift": [snr * 2],
        }
        for e, ixt, ity, snr in made_up
    ]
    paper.curve[-1]["drift"] = [1.0]
    now = paper.plane()
    found = paper.test()
    assert found["compression"] == pytest.approx(11.0 - now["ixt"][4])
    assert found["relevance_gain"] == pytest.approx(now["ity"][4] - 0.3)
    assert (found["compression_epoch"], found["diffusion_epoch"]) == (4.0, 15.0)
    assert found["ib_gap"] == ip.ib_gap(now["ixt"][4], now["ity"][4], curve)
    assert found["ib_beta"] == now["beta"]
    assert paper.test() == found
    # Still drifting at the end: the end is the earliest that diffusion can begin.
    paper.curve[-1]["drift"] = [9.0]
    assert paper.test()["diffusion_epoch"] == 20.0


def test_a_trial_that_is_cut_short_counts_the_network_as_it_is() -> None:
    paper = trial(100)
    assert paper.test()["compression"] == 0 and paper.test()["compression_epoch"] == 0
    for _ in range(3):
        paper.step()
    assert paper.curve[-1]["epoch"] < 30
    course = [*paper.curve, paper.plane()]
    begun = ip.fitting_begins([p["ity"][4] for p in course])
    ixt = [p["ixt"][4] for p in course]
    assert paper.test()["compression"] == pytest.approx(max(ixt[begun:]) - ixt[-1])


def test_compression_is_not_measured_from_the_untrained_network() -> None:
    assert ip.fitting_begins([0.1, 0.12, 0.18, 0.5, 1.0, 0.8]) == 3, "a tenth of the way is 0.19"
    assert ip.fitting_begins([0.1, 0.12, 0.2, 0.5, 1.0, 0.8]) == 2
    assert ip.fitting_begins([0.9, 0.5, 0.2]) == 2, "it never fits: there is nothing to lose"
    paper = trial(2)
    for _ in range(2):
        paper.step()
    flat = {k: v for k, v in paper.curve[0].items() if k in ("noise", "reach", "drift")}
    made_up = [(1, 11.5, 0.2), (2, 8.0, 0.21), (5, 9.0, 0.4), (9, 8.5, 0.6)]
    paper.curve = [
        {**flat, "epoch": e, "ixt": [12, 12, 12, 12, ixt, 1], "ity": [0.9, 0.9, 0.9, 0.9, ity, 0.5]}
        for e, ixt, ity in made_up
    ]
    now = dict(paper.plane(), epoch=20)
    now["ixt"], now["ity"] = [*now["ixt"][:4], 7.0, 1.0], [*now["ity"][:4], 0.8, 0.5]
    paper.plane = lambda: now  # type: ignore[method-assign]
    found = paper.test()
    assert (found["compression"], found["compression_epoch"]) == (2.0, 5.0), "not the 4.5 bits from epoch 1"
    assert found["relevance_gain"] == pytest.approx(0.4)


def test_accuracy_is_of_the_best_network_and_the_plane_of_the_last() -> None:
    paper = finish(trial(6, lr=0.01))
    assert paper.best is not None
    before = paper.test()
    paper.best["weights"] = {k: torch.zeros_like(v) for k, v in paper.best["weights"].items()}
    after = paper.test()
    assert before["test_accuracy"] > 0.7 > after["test_accuracy"]
    assert {k: v for k, v in before.items() if k != "test_accuracy"} == {
        k: v for k, v in after.items() if k != "test_accuracy"
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"optimiser": "sgd"},
        {"optimiser": "gd", "sgd_lr": 1.0},
        {"activation": "relu"},
        {"activation": "softsign"},
        {"activation": "linear", "lr": 0.1},
        {"hidden": "10"},
        {"hidden": "10-7-5-4-4-3"},
        {"train_fraction": 0.03, "weight_decay": 0.01},
        {"bins": 5, "data": "digits"},
        {"estimator": "kde", "noise_variance": 0.1, "data": "digits"},
    ],
    ids=str,
)
def test_baselines_and_ablations_train(changes: dict[str, Any]) -> None:
    paper = trial(1, **changes)
    before = [p.detach().clone() for p in paper.net.parameters()]
    row = paper.step()
    assert all(math.isfinite(v) for v in row.values())
    assert all(math.isfinite(v) for v in paper.test().values())
    assert all(not torch.equal(a, b) for a, b in zip(before, paper.net.parameters(), strict=True))
    rows = len(paper.data.inputs)
    for ixt, ity in zip(paper.curve[-1]["ixt"], paper.curve[-1]["ity"], strict=True):
        assert 0 <= ixt <= math.log2(rows) + 1e-9
        assert -1e-9 <= ity <= information_xy(paper.data.conditional) + 1e-9


def test_options_are_what_they_say() -> None:
    kinds = {o: trial(optimiser=o).optimiser for o in ("adam", "sgd", "gd")}
    assert isinstance(kinds["adam"], torch.optim.Adam) and isinstance(kinds["sgd"], torch.optim.SGD)
    assert kinds["adam"].param_groups[0]["lr"] == 0.002 and kinds["gd"].param_groups[0]["lr"] == 0.1
    assert trial(optimiser="gd").batch_size == 3482 and trial(optimiser="sgd").batch_size == 512
    assert trial(weight_decay=0.01).optimiser.param_groups[0]["weight_decay"] == 0.01
    assert trial(train_fraction=0.03).batch_size == 123
    x = torch.tensor([-2.0, 0.0, 3.0])
    for name, expected in (("relu", [0, 0, 3]), ("softsign", [-2 / 3, 0, 0.75]), ("linear", [-2, 0, 3])):
        assert trial(activation=name).net.activation(x).tolist() == pytest.approx(expected)


def test_bins_reach_as_far_as_unbounded_outputs_have_reached() -> None:
    relu, linear, tanh = (trial(activation=a) for a in ("relu", "linear", "tanh"))
    t = torch.tensor([[0.0], [0.5], [1.5], [4.0]])
    assert relu.bins_of(t, 4.0, True).tolist() == [0, 1, 2, 3], "30 bins from 0 to 4"
    assert relu.bins_of(t, 400.0, True).tolist() == [0, 0, 0, 0]
    assert relu.bins_of(t, 4.0, False).tolist() == [0, 1, 2, 2], (
        "class probabilities have a range of their own"
    )
    assert linear.bins_of(-t, 4.0, True).tolist() == [3, 2, 1, 0]
    assert tanh.bins_of(t, 4.0, True).tolist() == [0, 1, 2, 2]
    paper = trial(4, activation="relu", lr=0.1)
    finish(paper)
    reach = np.array([p["reach"] for p in paper.curve])
    assert (np.diff(reach, axis=0) >= 0).all() and (reach[-1] > reach[0]).any()


def test_noise_is_measured_in_batches_of_the_optimiser_but_at_least_two(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []

    def count(net: ip.Network, found: Sequence[Any]) -> tuple[list[float], list[float]]:
        seen.append(len(found))
        return [1.0], [1.0]

    monkeypatch.setattr(ip, "drift_and_noise", count)
    for changes in ({}, {"optimiser": "gd"}, {"batch_size": 64}):
        trial(**changes).measure(1)
    assert seen == [7, 2, 54]


def test_space_fixes_the_experiment_and_leaves_the_optimisation() -> None:
    space = Space.load("information_plane")
    assert {n for n, p in space.parameters.items() if not p.fixed} == {"lr", "sgd_lr", "batch_size"}
    paper = space.paper_config("var_u")
    assert (paper["lr"], paper["batch_size"], paper["bins"], paper["hidden"]) == (4e-4, 512, 30, "10-7-5-4-3")
    assert {"sgd_lr", "noise_variance"}.isdisjoint(paper)
    assert {"activation", "lr"}.isdisjoint(config(optimiser="sgd")) and "batch_size" not in config(
        optimiser="gd"
    )
    with pytest.raises(SpaceError, match="lr"):
        space.validate(paper | {"lr": 5.0})
