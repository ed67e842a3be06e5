"""BiPer: the binary functions and the two stages, against the statements of the paper."""

from __future__ import annotations

import itertools
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from scipy import integrate, stats

from fairsweep.search_spaces.space import Space, SpaceError
from fairsweep.trainables.base import Setting
from fairsweep.trainables.vision import biper
from fairsweep.trainables.vision.biper import BinaryConv2d, BiPer

torch.set_num_threads(1)


def config(**changes: Any) -> dict[str, Any]:
    """The paper's configuration for digits with `changes`, completed and validated by the space."""
    declared = Space.load("biper")
    raw = yaml.safe_load(Path(declared.source).read_text()) | changes
    space = Space.from_mapping(raw, declared=declared)
    return space.validate(space.paper_config("digits"))


def trial(steps: int | None = None, seed: int = 0, data: str | None = None, **changes: Any) -> BiPer:
    paper = BiPer()
    paper.setup(config(**changes), Setting(seed=seed, steps=steps, data=data))
    return paper


def latent(n: int = 500, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    return scale * torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def away_from_jumps(w: torch.Tensor, omega: float) -> torch.Tensor:
    return w[torch.sin(omega * w).abs() > 1e-6]


# ---- weights ----


@pytest.mark.parametrize("omega", [1.0, 20.0, 60.0])
def test_stage_two_weights_are_binary_with_the_gradient_of_the_sine(omega: float) -> None:
    w = latent(scale=3.0).requires_grad_()
    b = biper.periodic_weight(w, omega, stage=2)
    assert set(b.tolist()) == {-1.0, 1.0}
    (gradient,) = torch.autograd.grad(b.sum(), w)
    torch.testing.assert_close(gradient, omega * torch.cos(omega * w.detach()))
    # The rule of other methods, no gradient beyond |w| = 1, would take this part away.
    assert gradient[w.abs() > 1].abs().max() > 0.9 * omega


def test_stage_one_weight_is_the_sine() -> None:
    w = latent().requires_grad_()
    b = biper.periodic_weight(w, 20.0, stage=1)
    torch.testing.assert_close(b.detach(), torch.sin(20 * w.detach()))
    (gradient,) = torch.autograd.grad(b.sum(), w)
    torch.testing.assert_close(gradient, 20 * torch.cos(20 * w.detach()))


def test_zero_is_positive_not_a_third_value() -> None:
    zero = torch.zeros(3)
    assert biper.periodic_weight(zero, 20.0, stage=2).tolist() == [1, 1, 1]
    assert biper.clipped_weight(zero, stage=2).tolist() == [1, 1, 1]
    assert biper.binary_activation(torch.zeros(1, 1, 1, 3), training=False).flatten().tolist() == [1, 1, 1]


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("omega", [5.0, 20.0])
def test_weights_are_periodic_and_odd_by_half_a_period(stage: int, omega: float) -> None:
    w = away_from_jumps(latent(), omega)
    b = biper.periodic_weight(w, omega, stage)
    torch.testing.assert_close(biper.periodic_weight(w + 2 * math.pi / omega, omega, stage), b)
    torch.testing.assert_close(biper.periodic_weight(w + math.pi / omega, omega, stage), -b)


def test_baseline_weights_are_signs_with_a_clipped_gradient() -> None:
    w = torch.tensor([-2.0, -1.0, -0.3, 0.2, 1.0, 1.5], requires_grad=True)
    b = biper.clipped_weight(w, stage=2)
    (gradient,) = torch.autograd.grad(b.sum(), w)
    assert b.tolist() == [-1, -1, -1, 1, 1, 1]
    assert gradient.tolist() == [0, 1, 1, 1, 1, 0]
    torch.testing.assert_close(biper.clipped_weight(w, stage=1), F.hardtanh(w))


# ---- activations and the convolution ----


def test_activation_is_the_sign_with_a_triangular_derivative() -> None:
    a = torch.tensor([-1.5, -1.0, -0.25, 0.5, 0.9, 3.0]).reshape(1, 1, 1, 6).requires_grad_()
    b = biper.binary_activation(a, training=False)
    (gradient,) = torch.autograd.grad(b.sum(), a)
    assert b.flatten().tolist() == [-1, -1, -1, 1, 1, 1]
    torch.testing.assert_close(gradient.flatten(), torch.tensor([0, 0, 1.5, 1.0, 0.2, 0]))


def test_training_divides_out_the_scale_of_each_sample() -> None:
    a = latent(2 * 3 * 16).float().reshape(2, 3, 4, 4)
    weights = latent(2 * 3 * 16, seed=1).float().reshape(2, 3, 4, 4)
    gradients = []
    for scale in (1.0, 50.0):
        scales = torch.tensor([1.0, scale]).reshape(2, 1, 1, 1)
        x = (scales * a).requires_grad_()
        (g,) = torch.autograd.grad((biper.binary_activation(x, training=True) * weights).sum(), x)
        gradients.append(g * scales)
    # Without the division nearly every activation of 50 a lies outside the triangle and has no gradient;
    # the samples differ in scale, so that dividing by that of the batch would not do.
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-4)
    assert gradients[1].count_nonzero() > 48


@pytest.mark.parametrize("mode", ["biper", "ste"])
def test_evaluation_does_not_see_the_scale_of_the_input(mode: str) -> None:
    torch.manual_seed(0)
    conv = BinaryConv2d(3, 5, 3, 1, config(weight_mode=mode)).eval()
    a = torch.randn(2, 3, 8, 8)
    for scale in (1e-3, 7.0, 1e4):
        torch.testing.assert_close(conv(scale * a), conv(a), rtol=0, atol=0)
    full = BinaryConv2d(3, 5, 3, 1, config(weight_mode=mode, activations="full")).eval()
    assert not torch.allclose(full(7.0 * a), full(a))


def test_convolution_uses_signs_times_a_scale_of_each_channel() -> None:
    torch.manual_seed(0)
    conv = BinaryConv2d(3, 5, 3, 2, config()).eval()
    assert conv.alpha is not None and conv.alpha.shape == (5, 1, 1)
    assert ((conv.alpha >= 0) & (conv.alpha < 1)).all()
    a = torch.randn(2, 3, 8, 8)
    wave = torch.where(torch.sin(20 * conv.weight) >= 0, 1.0, -1.0)
    expected = F.conv2d(torch.where(a >= 0, 1.0, -1.0), wave, stride=2, padding=1) * conv.alpha
    torch.testing.assert_close(conv(a), expected)


# ---- quantisation error ----


def test_quantisation_error_falls_from_a_half_to_its_limit() -> None:
    omegas = np.geomspace(0.01, 1e4, 60)
    errors = [biper.quantisation_error(omega, 0.05) for omega in omegas]
    assert all(1 - 8 / math.pi**2 <= e <= 0.5 for e in errors)
    assert all(b < a + 1e-12 for a, b in itertools.pairwise(errors))
    assert errors[0] == pytest.approx(0.5, abs=1e-5)
    assert errors[-1] == pytest.approx(1 - 8 / math.pi**2, abs=1e-4)


@pytest.mark.parametrize(("omega", "measured"), [(5, 0.45), (10, 0.36), (20, 0.26), (60, 0.20)])
def test_quantisation_error_of_laplace_weights(omega: float, measured: float) -> None:
    closed = biper.quantisation_error(omega, 0.05)
    assert round(closed, 2) == measured
    w = torch.from_numpy(stats.laplace(scale=0.05).rvs(400_000, random_state=7))
    assert biper.empirical_quantisation_error(w, omega) == pytest.approx(closed, abs=2e-3)

    def mean(power: int) -> float:
        def f(v: float) -> float:
            return abs(math.sin(omega * v)) ** power * math.exp(-v / 0.05) / 0.05

        # 40 scales hold all but e^-40 of the weights.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", integrate.IntegrationWarning)
            return integrate.quad(f, 0, 2.0, limit=2000)[0]

    assert closed == pytest.approx(1 - mean(1) ** 2 / mean(2), abs=1e-6)


def test_closed_error_is_the_least_over_the_scale_of_the_sine() -> None:
    w = torch.from_numpy(stats.laplace(scale=0.05).rvs(100_000, random_state=3))
    s = torch.sin(20 * w)
    by_gamma = [((biper.binary_sign(s) - g * s) ** 2).mean().item() for g in np.linspace(1, 2, 201)]
    assert min(by_gamma) == pytest.approx(biper.empirical_quantisation_error(w, 20), abs=1e-4)


def test_quantisation_error_refuses_what_has_no_meaning() -> None:
    with pytest.raises(ValueError, match=r"omega=0.*positive"):
        biper.quantisation_error(0, 0.05)


# ---- stages ----


def test_stage_two_starts_from_the_signs_of_stage_one() -> None:
    paper = trial(steps=3)
    paper.step()
    paper.step()
    assert paper.stage_one == 2
    sines = [layer.binary_weight().detach().clone() for layer in paper.binary_layers]
    weights = {k: v.clone() for k, v in paper.net.state_dict().items()}
    before = paper.optimiser
    paper._enter_stage()
    assert all(torch.equal(weights[k], v) for k, v in paper.net.state_dict().items())
    for sine, layer in zip(sines, paper.binary_layers, strict=True):
        assert sine.abs().max() < 1 + 1e-6 and sine.unique().numel() > 2
        assert torch.equal(biper.binary_sign(sine), layer.binary_weight())
    assert paper.optimiser is not before and not paper.optimiser.state


def test_schedule_and_decay_restart_at_stage_two() -> None:
    paper = trial(steps=6, wd1=1e-3, wd2=1e-4)
    seen = []
    for _ in range(6):
        paper.step()
        group = paper.optimiser.param_groups[0]
        seen.append((group["lr"], group["weight_decay"], paper.binary_layers[0].stage))
    cosine = [0.5 * (1 + math.cos(math.pi * e / 4)) for e in range(4)]
    assert [s[0] for s in seen] == pytest.approx([0.05 * c for c in cosine] + [0.01, 0.005])
    assert [s[1] for s in seen] == [1e-3] * 4 + [1e-4] * 2
    assert [s[2] for s in seen] == [1] * 4 + [2] * 2


@pytest.mark.parametrize(
    ("changes", "steps", "expected"),
    [
        ({}, None, (31, 45)),
        ({}, 9, (7, 9)),
        ({"stage1_frac": 0.9}, 4, (4, 4)),
        ({"stage1_frac": 0.0}, 4, (1, 4)),
        ({"stages": "one"}, None, (1, 45)),
        ({"weight_mode": "fp"}, None, (1, 45)),
        ({}, 1, (1, 1)),
    ],
)
def test_nothing_is_judged_before_the_weights_are_binary(
    changes: dict[str, Any], steps: int | None, expected: tuple[int, int]
) -> None:
    fidelity = BiPer.fidelity(config(**changes), steps)
    assert (fidelity.minimum, fidelity.maximum) == expected
    assert fidelity.unit == "epoch"


def test_the_best_model_is_a_binary_one() -> None:
    paper = trial(steps=6, stage1_frac=0.5)
    rows = []
    for epoch in range(6):
        rows.append(paper.step()["val_accuracy"])
        assert (paper.best is None) == (epoch < 3)
    assert paper.best is not None and paper.best["value"] == max(rows[3:])
    with torch.no_grad():
        paper.net[-1].weight.zero_()
    found = paper.test()
    paper.net.load_state_dict(paper.best["weights"])
    assert found == {"test_accuracy": paper.data.evaluate(paper.net, "test")[1]}


def test_one_stage_is_binary_from_the_start() -> None:
    paper = trial(steps=3, stages="one")
    assert paper.stage_one == 0
    assert all(set(m.binary_weight().unique().tolist()) == {-1.0, 1.0} for m in paper.binary_layers)
    paper.step()
    assert paper.optimiser.param_groups[0]["lr"] == 0.05


def test_sine_penalty_is_off_by_default_and_moves_weights_towards_its_zeros() -> None:
    plain, penalised = trial(steps=1), trial(steps=1, sine_penalty=True, tau2=0.1)
    assert plain.tau == 0 and penalised.tau == 0.1
    expected = sum(
        (0.5 - 0.5 * torch.cos(2 * 20 * m.weight.detach())).mean().item() for m in plain.binary_layers
    )
    assert plain.penalty().item() == pytest.approx(expected, rel=1e-5)
    plain.step()
    penalised.step()
    assert penalised.penalty() < plain.penalty()


def test_tau_of_each_stage() -> None:
    paper = trial(steps=3, sine_penalty=True, tau1=0.01, tau2=0.02)
    taus = []
    for _ in range(3):
        paper.step()
        taus.append(paper.tau)
    assert taus == [0.01, 0.01, 0.02]


# ---- backbones ----


@pytest.mark.parametrize(
    ("backbone", "millions"),
    [("resnet18", 11.01), ("resnet20", 0.27), ("vgg_small", 4.66)],
)
def test_backbones_have_the_published_numbers_of_parameters(backbone: str, millions: float) -> None:
    net = biper.build(3, 32, 10, config(backbone=backbone))
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, abs=0.0051)
    assert net.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("backbone", ["small", "resnet18", "resnet20", "vgg_small"])
@pytest.mark.parametrize(("channels", "side"), [(1, 8), (1, 28), (3, 32)])
def test_backbones_take_every_image_and_train_every_weight(backbone: str, channels: int, side: int) -> None:
    net = biper.build(channels, side, 7, config(backbone=backbone))
    out = net(torch.randn(4, channels, side, side, generator=torch.Generator().manual_seed(0)))
    assert out.shape == (4, 7)
    F.cross_entropy(out, torch.arange(4)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert all(m.weight.grad.count_nonzero() > 0 for m in net.modules() if isinstance(m, BinaryConv2d))


def test_only_the_first_and_the_last_layer_are_full_precision() -> None:
    net = biper.build(3, 32, 10, config(backbone="resnet20"))
    plain = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d) and not isinstance(m, BinaryConv2d)]
    assert plain == [net[0]]
    assert isinstance(net[-1], torch.nn.Linear) and isinstance(net[-2], torch.nn.BatchNorm1d)
    assert sum(isinstance(m, BinaryConv2d) for m in net.modules()) == 18


def test_shortcut_is_an_average_pool_with_zero_channels() -> None:
    block = biper.Residual(2, 6, 2, 1, config()).eval()
    with torch.no_grad():
        block.convs[0].alpha.zero_()
    x = torch.rand(1, 2, 4, 4) / 2
    out = block(x)
    assert out.shape == (1, 6, 2, 2)
    torch.testing.assert_close(out[:, 2:4], F.avg_pool2d(x, 2))
    assert out[:, :2].abs().max() == 0 and out[:, 4:].abs().max() == 0


def test_full_precision_network_has_no_binary_part() -> None:
    paper = trial(steps=1, weight_mode="fp", activations="full")
    conv = paper.binary_layers[0]
    a = torch.randn(2, 16, 8, 8)
    torch.testing.assert_close(conv(a), F.conv2d(a, conv.weight, padding=1))


def test_unknown_backbone_and_impossible_size_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="backbone=lenet: known are"):
        biper.build(1, 8, 10, config() | {"backbone": "lenet"})
    with pytest.raises(ValueError, match=r"vgg_small.*at least 8 x 8, got 6 x 6"):
        biper.build(1, 6, 10, config(backbone="vgg_small"))


# ---- space and trial ----


def test_space_holds_only_what_exists() -> None:
    assert {"stages", "omega", "lr2", "wd2", "stage1_frac", "sine_penalty"}.isdisjoint(
        config(weight_mode="fp")
    )
    assert {"lr2", "wd2", "stage1_frac"}.isdisjoint(config(stages="one"))
    assert "omega" not in config(weight_mode="ste")
    assert "tau1" not in config(sine_penalty=True, stages="one") and "tau2" in config(sine_penalty=True)
    with pytest.raises(SpaceError, match="omega"):
        Space.load("biper").validate(config() | {"omega": 0.0})


def test_paper_values_are_those_of_the_experiment() -> None:
    space = Space.load("biper")
    cifar, digits = space.paper_config("cifar10"), space.paper_config("digits")
    assert (cifar["lr1"], cifar["lr2"], cifar["batch_size"]) == (0.021, 0.0037, 256)
    assert (digits["lr1"], digits["lr2"], digits["batch_size"]) == (0.05, 0.01, 64)
    assert cifar["omega"] == digits["omega"] == 20
    assert BiPer.stage_one_epochs(cifar, 900) == 600 and BiPer.stage_one_epochs(digits, 45) == 30


def test_training_does_not_touch_the_global_generator() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    paper = trial(steps=2)
    paper.step()
    assert torch.equal(torch.rand(3), expected)


def test_state_is_a_copy_not_a_view() -> None:
    paper = trial(steps=4)
    paper.step()
    state = paper.state_dict()
    rest = [paper.step() for _ in range(3)]
    again = trial(steps=4)
    again.load_state_dict(state)
    assert [again.step() for _ in range(3)] == rest
    assert again.test() == paper.test()


def test_digits_are_learnt_in_both_stages() -> None:
    paper = trial(steps=12)
    rows = [paper.step() for _ in range(12)]
    assert rows[-1]["val_accuracy"] > 0.9
    assert paper.test()["test_accuracy"] > 0.9
