"""Annealed gradient noise: the schedule, where the noise enters, and what moves, against the paper."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn

from fairsweep.search_spaces.space import Space, SpaceError
from fairsweep.trainables.base import DataError, Setting
from fairsweep.trainables.tasks.image_classification import ImageTask
from fairsweep.trainables.tasks.rng import TrialRNG
from fairsweep.trainables.theory import gradient_noise
from fairsweep.trainables.theory.gradient_noise import GradientNoise, GradientTransform, noise_variance

torch.set_num_threads(1)


def config(**changes: Any) -> dict[str, Any]:
    """The configuration for digits with `changes`, completed and validated by the space."""
    declared = Space.load("gradient_noise")
    raw = yaml.safe_load(Path(declared.source).read_text()) | changes
    space = Space.from_mapping(raw, declared=declared)
    return space.validate(space.paper_config("digits"))


def trial(steps: int | None = None, seed: int = 0, data: str | None = None, **changes: Any) -> GradientNoise:
    paper = GradientNoise()
    paper.setup(config(**changes), Setting(seed=seed, steps=steps, data=data))
    return paper


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weights(*shapes: tuple[int, ...], gradient: float = 0.0) -> list[nn.Parameter]:
    """Parameters of zeros whose gradients are `gradient` in every coordinate."""
    found = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    for p in found:
        p.grad = torch.full_like(p, gradient)
    return found


def sgd(parameters: list[nn.Parameter], lr: float = 1.0, **options: Any) -> torch.optim.SGD:
    """Plain SGD with the transform on its gradients: with lr = 1 one step is minus the gradient it saw."""
    optimiser = torch.optim.SGD(parameters, lr=lr)
    GradientTransform(optimiser, generator(), **options)
    return optimiser


def few_steps(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    monkeypatch.setattr(GradientNoise, "gradient_steps", steps)


# ---- the schedule ----


def test_variance_is_eta_over_a_power_of_the_step() -> None:
    assert noise_variance(0, 1.0, 0.55) == 1
    assert noise_variance(99, 1.0, 0.55) == pytest.approx(0.07943, abs=5e-6)
    assert math.sqrt(noise_variance(99, 1.0, 0.55)) == pytest.approx(0.2818, abs=5e-5)
    assert noise_variance(99, 0.3, 0.55) == pytest.approx(0.3 * 0.07943, rel=1e-4)
    assert noise_variance(10**6, 0.3, 0.0) == 0.3


@pytest.mark.parametrize(("eta", "gamma", "t"), [(0.25, 0.55, 0), (0.25, 0.55, 99), (0.04, 0.0, 99)])
def test_noise_has_this_variance_not_this_deviation(eta: float, gamma: float, t: int) -> None:
    (w,) = weights((400, 250))
    optimiser = torch.optim.SGD([w], lr=1.0)
    noise = GradientTransform(optimiser, generator(), eta=eta, gamma=gamma)
    noise.t = t
    optimiser.step()
    assert w.detach().mean().item() == pytest.approx(0, abs=4 * math.sqrt(eta / w.numel()))
    assert w.detach().var().item() == pytest.approx(eta / (1 + t) ** gamma, rel=0.03)


def test_without_a_gradient_sgd_walks_as_far_as_the_variances_add_up_to() -> None:
    (w,) = weights((100_000,))
    optimiser = sgd([w], lr=0.2, eta=0.5, gamma=0.55)
    for _ in range(60):
        optimiser.step()
        w.grad = torch.zeros_like(w)
    expected = 0.2**2 * sum(0.5 / (1 + t) ** 0.55 for t in range(60))
    assert w.detach().var().item() == pytest.approx(expected, rel=0.03)


# ---- where the noise enters ----


def test_every_coordinate_has_a_draw_of_its_own() -> None:
    w, bias = weights((200, 300), (300,))
    sgd([w, bias], eta=1.0).step()
    assert len(w.detach().unique()) > 0.99 * w.numel()
    # Noise broadcast along one axis would make all means along the other as large as a single draw.
    assert w.detach().mean(0).std().item() == pytest.approx(1 / math.sqrt(200), rel=0.2)
    assert w.detach().mean(1).std().item() == pytest.approx(1 / math.sqrt(300), rel=0.2)
    assert not torch.equal(bias, w[0])


def test_shared_noise_is_one_draw_for_a_tensor() -> None:
    a, b = weights((4, 3), (5,))
    sgd([a, b], eta=1.0, shared=True).step()
    assert len(a.detach().unique()) == 1 and len(b.detach().unique()) == 1
    assert a[0, 0] != b[0] and a[0, 0] != 0


def test_gradient_is_clipped_first_so_that_the_noise_keeps_its_size() -> None:
    (w,) = weights((200, 200), gradient=5.0)
    sgd([w], eta=1.0, clip_norm=2.0).step()
    seen = -w.detach()
    assert seen.mean().item() == pytest.approx(2.0 / 200, abs=4 / 200)
    assert seen.var().item() == pytest.approx(1, rel=0.03)
    (quiet,) = weights((200, 200), gradient=5.0)
    sgd([quiet], clip_norm=2.0).step()
    torch.testing.assert_close(quiet.detach(), torch.full_like(quiet, -2.0 / 200))
    (small,) = weights((2, 2), gradient=0.5)
    sgd([small], clip_norm=2.0).step()
    torch.testing.assert_close(small.detach(), torch.full_like(small, -0.5))


def test_noise_before_clipping_is_scaled_down_with_the_gradient() -> None:
    (w,) = weights((200, 200), gradient=5.0)
    sgd([w], eta=1.0, clip_norm=2.0, noise_before_clip=True).step()
    assert w.detach().norm().item() == pytest.approx(2.0, rel=1e-4)
    assert w.detach().std() < 0.01


def test_norm_is_that_of_all_tensors_together() -> None:
    a, b = weights((3, 3), (4, 4), gradient=2.0)
    sgd([a, b], clip_norm=1.0).step()
    torch.testing.assert_close(
        torch.cat([a.detach().flatten(), b.detach().flatten()]).norm(), torch.tensor(1.0)
    )


def test_adam_and_momentum_see_the_noise() -> None:
    (w,) = weights((1000,))
    optimiser: torch.optim.Optimizer = torch.optim.Adam([w], lr=0.01)
    GradientTransform(optimiser, generator(), eta=1e-4)
    optimiser.step()
    # Adam divides by the noise's own size: every coordinate moves by the learning rate, in either direction.
    torch.testing.assert_close(w.detach().abs(), torch.full_like(w, 0.01), rtol=1e-2, atol=1e-4)
    assert 400 < (w > 0).sum() < 600
    (w,) = weights((1000,))
    optimiser = torch.optim.SGD([w], lr=1.0, momentum=0.9)
    GradientTransform(optimiser, generator(), eta=4.0)
    optimiser.step()
    torch.testing.assert_close(optimiser.state[w]["momentum_buffer"], -w.detach())
    assert w.detach().std().item() == pytest.approx(2, rel=0.1)


def test_frozen_parameters_and_those_without_gradient_get_no_noise() -> None:
    trained, frozen, unused = weights((5,), (5,), (5,))
    frozen.requires_grad_(False)
    unused.grad = None
    sgd([trained, frozen, unused], eta=1.0).step()
    assert trained.count_nonzero() == 5
    assert frozen.grad is not None and frozen.grad.count_nonzero() == 0
    assert unused.grad is None and unused.count_nonzero() == 0


def test_impossible_noise_and_clipping_are_refused_by_name() -> None:
    optimiser = torch.optim.SGD(weights((1,)), lr=1.0)
    for options in ({"eta": -1.0}, {"gamma": -0.1}, {"eta": math.nan}):
        with pytest.raises(ValueError, match=r"eta=.*gamma=.*neither may be negative"):
            GradientTransform(optimiser, generator(), **options)
    with pytest.raises(ValueError, match=r"clip_norm=0.0: must be positive, or None"):
        GradientTransform(optimiser, generator(), clip_norm=0.0)


# ---- no noise ----


def test_eta_zero_is_the_plain_optimiser_bit_by_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    few_steps(monkeypatch, 13)
    paper = trial(steps=1, noise="none", clip=False, init="he")
    drawn = paper.gradients.generator.get_state()
    paper.step()
    assert torch.equal(paper.gradients.generator.get_state(), drawn), "nothing is drawn"
    with TrialRNG(0).scope():
        data = ImageTask("digits", None, "cpu", "none")
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs in [64] + [50] * 19:
            layers += [nn.Linear(inputs, 50), nn.ReLU()]
        net = nn.Sequential(*layers, nn.Linear(50, 10))
        for module in net:
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=math.sqrt(2 / module.in_features))
                nn.init.zeros_(module.bias)
        optimiser = torch.optim.SGD(net.parameters(), lr=0.03)
        batches = [*data.batches(64), *data.batches(64)][:13]
        for x, y in batches:
            optimiser.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimiser.step()
    expected = net.state_dict()
    assert all(torch.equal(w, expected[name]) for name, w in paper.net.state_dict().items())


def test_noise_changes_neither_the_start_nor_the_order_of_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    few_steps(monkeypatch, 12)
    real, seen = ImageTask.batches, []

    def batches(self: ImageTask, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for x, y in real(self, size):
            seen[-1].append(x)
            yield x, y

    monkeypatch.setattr(ImageTask, "batches", batches)
    starts = []
    for noise in ("annealed", "constant", "weight", "none"):
        seen.append([])
        paper = trial(steps=2, noise=noise)
        starts.append([p.detach().clone() for p in paper.net.parameters()])
        paper.step()
        paper.step()
    for other, start in zip(seen[1:], starts[1:], strict=True):
        assert len(other) == 24
        assert all(torch.equal(a, b) for a, b in zip(seen[0], other, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(starts[0], start, strict=True))


def test_evaluation_has_no_noise() -> None:
    for noise in ("annealed", "weight"):
        paper = trial(steps=2, noise=noise, init="he")
        paper.step()
        before = {k: v.clone() for k, v in paper.net.state_dict().items()}
        first, t = paper.data.evaluate(paper.net, "validation"), paper.gradients.t
        assert paper.data.evaluate(paper.net, "validation") == first
        assert paper.test() == paper.test() and paper.gradients.t == t
        assert all(torch.equal(w, before[k]) for k, w in paper.net.state_dict().items())


# ---- what moves ----


def test_from_zeros_only_the_output_bias_learns_without_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    few_steps(monkeypatch, 25)
    paper = trial(steps=2, noise="none", init="zeros")
    paper.step()
    paper.step()
    *hidden, bias = paper.net.parameters()
    assert all(p.count_nonzero() == 0 for p in hidden)
    assert bias.count_nonzero() == 10


def test_from_zeros_noise_moves_every_tensor_in_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    few_steps(monkeypatch, 1)
    paper = trial(steps=1, init="zeros")
    paper.step()
    assert all(p.count_nonzero() == p.numel() for p in paper.net.parameters())
    deviation = paper.net[3].weight.detach().std().item()
    assert deviation == pytest.approx(0.03 * 1.0, rel=0.1), "lr times sigma_0"


def test_noise_takes_a_deep_network_off_its_poor_start() -> None:
    noisy, plain = trial(steps=12), trial(steps=12, noise="none")
    accuracies = [[paper.step()["val_accuracy"] for _ in range(12)] for paper in (noisy, plain)]
    assert max(accuracies[0]) > 0.3
    assert max(accuracies[1]) < 0.15


# ---- the schedule over a trial ----


def test_schedule_counts_gradient_steps_through_units_and_checkpoints(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few_steps(monkeypatch, 7)
    paper = trial(steps=4)
    paper.step()
    paper.step()
    assert paper.gradients.t == 14
    again = trial(steps=4)
    again.load_state_dict(paper.state_dict())
    assert again.gradients.t == 14
    assert again.step() == paper.step() and again.gradients.t == 21
    assert all(torch.equal(a, b) for a, b in zip(again.net.parameters(), paper.net.parameters(), strict=True))


def test_a_checkpoint_of_another_kind_of_device_continues_the_schedule() -> None:
    """The state of a generator of CUDA's is a seed and an offset, 16 bytes, which a CPU's does not take."""
    made = GradientTransform(torch.optim.SGD(weights((3,)), lr=1.0), generator(), eta=1.0)
    before = made.generator.get_state()
    made.load_state_dict({"t": 9, "generator": torch.zeros(16, dtype=torch.uint8)})
    assert made.t == 9 and torch.equal(made.generator.get_state(), before)


def test_constant_noise_does_not_decay(monkeypatch: pytest.MonkeyPatch) -> None:
    few_steps(monkeypatch, 1)
    for noise, share in (("constant", 1.0), ("annealed", 1000**-0.55)):
        paper = trial(steps=1, init="zeros", noise=noise)
        paper.gradients.t = 999
        paper.step()
        found = paper.net[3].weight.detach().var().item()
        assert found == pytest.approx(0.03**2 * share, rel=0.1)


def test_nothing_is_judged_in_the_first_thousand_gradient_steps() -> None:
    fidelity = GradientNoise.fidelity(config())
    assert (fidelity.minimum, fidelity.maximum, fidelity.unit) == (20, 50, "50 gradient steps")
    assert GradientNoise.gradient_steps == 50
    assert GradientNoise.fidelity(config(), 8).minimum == 8


def test_a_unit_goes_through_the_data_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    few_steps(monkeypatch, 23)
    sizes = []
    paper = trial(steps=1, depth=5)
    logits = paper.logits
    monkeypatch.setattr(paper, "logits", lambda x: (sizes.append(len(x)), logits(x))[1])
    paper.step()
    assert sizes == [*[64] * 9, 24, *[64] * 9, 24, 64, 64, 64]


def test_a_diverged_trial_ends_with_finite_numbers_and_the_weights_before() -> None:
    paper = trial(steps=5, lr=1e4, clip=False, init="he")
    start = [p.detach().clone() for p in paper.net.parameters()]
    metrics = paper.step()
    assert paper.finished and paper.done == 1
    assert all(math.isfinite(value) for value in metrics.values())
    assert all(torch.equal(a, b) for a, b in zip(start, paper.net.parameters(), strict=True))
    assert metrics["train_loss"] == paper.data.evaluate(paper.net, "train")[0]
    assert 0 <= paper.test()["test_accuracy"] <= 1


# ---- network and starts ----


def test_network_has_the_paper_s_layers() -> None:
    net = gradient_noise.deep_network(784, 10, 20, 50)
    linear = [m for m in net if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(784, 50), *[(50, 50)] * 19, (50, 10)]
    assert sum(isinstance(m, nn.ReLU) for m in net) == 20 and isinstance(net[-1], nn.Linear)
    assert all(isinstance(a, nn.ReLU) for b, a in pairwise(net) if isinstance(b, nn.Linear))
    assert net(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    dropped = gradient_noise.deep_network(784, 10, 4, 50, dropout=0.3)
    assert [m.p for m in dropped if isinstance(m, nn.Dropout)] == [0.3] * 4


@pytest.mark.parametrize(
    ("init", "first", "hidden"),
    [
        ("simple", 0.1, 0.1),
        ("he", math.sqrt(2 / 784), math.sqrt(2 / 100)),
        ("random_walk", math.sqrt(2 / 784) * 1.00154, math.sqrt(2 / 100) * 1.01237),
        ("xavier", math.sqrt(2 / 884), math.sqrt(2 / 200)),
        ("zeros", 0.0, 0.0),
    ],
)
def test_starts(init: str, first: float, hidden: float) -> None:
    torch.manual_seed(0)
    net = gradient_noise.deep_network(784, 10, 20, 100)
    gradient_noise.initialise(net, init)
    linear = [m for m in net if isinstance(m, nn.Linear)]
    assert linear[0].weight.std().item() == pytest.approx(first, rel=0.01)
    middle = torch.cat([m.weight.flatten() for m in linear[1:-1]])
    assert middle.std().item() == pytest.approx(hidden, rel=0.006)
    assert middle.mean().item() == pytest.approx(0, abs=0.01 * hidden)
    assert all(m.bias.count_nonzero() == 0 for m in linear)


def test_random_walk_gain_is_that_of_rectified_units() -> None:
    assert gradient_noise.random_walk_gain(100) == pytest.approx(math.sqrt(2) * math.exp(1.2 / 97.6))
    assert gradient_noise.random_walk_gain(2) == gradient_noise.random_walk_gain(6)


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match=r"init=orthogonal: known are simple, he, random_walk, xavier, zeros"
    ):
        gradient_noise.initialise(nn.Linear(2, 2), "orthogonal")
    for field, value in (("noise", "gradient"), ("optimiser", "rmsprop")):
        with pytest.raises(ValueError, match=f"{field}={value}: known are"):
            GradientNoise().setup({**config(), field: value}, Setting())


# ---- baselines ----


def test_weight_noise_moves_the_forward_pass_but_not_the_weights() -> None:
    net = nn.Linear(300, 200)
    before = net.weight.detach().clone()
    noisy = gradient_noise.perturbed_weights(net, 0.05, generator())
    assert set(noisy) == {"weight", "bias"}
    assert (noisy["weight"] - net.weight).std().item() == pytest.approx(0.05, rel=0.03)
    noisy["weight"].square().sum().backward()
    assert net.weight.grad is not None
    torch.testing.assert_close(net.weight.grad, 2 * noisy["weight"].detach())
    assert torch.equal(net.weight, before)


def test_weight_noise_is_drawn_anew_and_leaves_the_gradients_alone() -> None:
    paper = trial(steps=1, noise="weight", weight_deviation=0.05, init="he")
    x = paper.data.standardise(paper.data.parts["train"][0][:8])
    assert paper.gradients.eta == 0
    first, again = paper.logits(x), paper.logits(x)
    assert not torch.allclose(first, again) and not torch.allclose(first, paper.net(x))
    plain = trial(steps=1, noise="none", init="he")
    assert torch.equal(plain.logits(x), plain.net(x))


@pytest.mark.parametrize(
    "changes",
    [
        {"noise": "annealed", "clip": False},
        {"noise": "annealed", "clip": True, "noise_before_clip": True},
        {"noise": "annealed", "noise_shape": "tensor"},
        {"noise": "constant", "eta": 0.01},
        {"noise": "weight"},
        {"noise": "none"},
        {"noise": "annealed", "eta": 0.01, "optimiser": "momentum", "momentum": 0.9, "lr": 0.01},
        {"noise": "annealed", "eta": 0.01, "optimiser": "adam", "lr": 1e-3},
        {"noise": "annealed", "eta": 0.01, "init": "xavier"},
        {"noise": "none", "dropout": 0.1},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_shallow_networks_learn_with_every_option(changes: dict[str, Any]) -> None:
    paper = trial(steps=4, **({"depth": 5, "init": "he", "eta": 0.1} | changes))
    rows = [paper.step() for _ in range(4)]
    assert rows[-1]["val_accuracy"] > 0.6 and not paper.stopped


def test_options_reach_the_transform() -> None:
    paper = trial(noise="annealed", clip=True, clip_norm=3.0, noise_before_clip=True, noise_shape="tensor")
    found = paper.gradients
    assert (found.eta, found.gamma, found.clip_norm) == (1.0, 0.55, 3.0)
    assert found.noise_before_clip and found.shared
    plain = trial().gradients
    assert not plain.noise_before_clip and not plain.shared and plain.clip_norm == 10
    assert trial(clip=False).gradients.clip_norm is None


# ---- space and data ----


def test_space_holds_only_what_exists() -> None:
    noiseless = {"eta", "gamma", "noise_shape", "noise_before_clip", "weight_deviation"}
    assert noiseless.isdisjoint(config(noise="none"))
    assert "gamma" not in config(noise="constant") and "eta" in config(noise="constant")
    assert "weight_deviation" in config(noise="weight") and "eta" not in config(noise="weight")
    assert {"clip_norm", "noise_before_clip"}.isdisjoint(config(clip=False))
    assert "momentum" not in config() and config(optimiser="momentum")["momentum"] == 0.9
    with pytest.raises(SpaceError, match="eta"):
        Space.load("gradient_noise").validate(config() | {"eta": 0.0})


def test_a_default_sweep_tunes_the_method() -> None:
    assert set(Space.load("gradient_noise").distributions()) == {
        "eta",
        "gamma",
        "weight_deviation",
        "clip",
        "clip_norm",
        "lr",
        "batch_size",
    }


def test_paper_values_are_those_of_the_experiment() -> None:
    space = Space.load("gradient_noise")
    mnist, digits = space.paper_config("mnist"), space.paper_config("digits")
    assert (mnist["eta"], mnist["gamma"], mnist["lr"]) == (0.01, 0.55, 0.1)
    assert (digits["eta"], digits["gamma"], digits["lr"]) == (1.0, 0.55, 0.03)
    assert mnist["clip_norm"] == 10 and (mnist["depth"], mnist["width"]) == (20, 50)
    assert (mnist["optimiser"], mnist["init"], mnist["dropout"]) == ("sgd", "simple", 0)


def test_mnist_without_a_folder_says_what_to_give() -> None:
    with pytest.raises(DataError, match=r"data=mnist: no train-images.*data_dir=None; give the folder"):
        trial(data="mnist")
