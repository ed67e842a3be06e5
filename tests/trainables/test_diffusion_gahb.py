"""Diffusion denoisers: networks without additive constants, adaptive bases, sampling, and the pair of models."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from fairsweep.search_spaces.space import Space, SpaceError
from fairsweep.trainables.base import DataError, Setting
from fairsweep.trainables.datasets import contours, faces, images
from fairsweep.trainables.generative import diffusion_gahb as gahb
from fairsweep.trainables.generative.diffusion_gahb import BiasFreeNorm, DiffusionGAHB
from fairsweep.trainables.tasks import denoising

torch.set_num_threads(1)


def config(data: str = "digits", **changes: Any) -> dict[str, Any]:
    """The paper's configuration for `data` with `changes`, completed and validated by the space."""
    declared = Space.load("diffusion_gahb")
    raw = yaml.safe_load(Path(declared.source).read_text()) | changes
    space = Space.from_mapping(raw, declared=declared)
    return space.for_data(data).validate(space.paper_config(data))


def trial(steps: int = 2, seed: int = 0, data: str = "digits", **changes: Any) -> DiffusionGAHB:
    paper = DiffusionGAHB()
    paper.setup(config(data, **changes), Setting(seed=seed, steps=steps, data=data))
    return paper


def noisy(n: int = 2, side: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(n, 1, side, side, generator=torch.Generator().manual_seed(seed))


def level(sigma: float, n: int = 1) -> Tensor:
    return torch.full((n, 1, 1, 1), sigma)


def trained(**changes: Any) -> nn.Module:
    """A network in evaluation mode whose running deviations and scales are not those of its first day."""
    torch.manual_seed(0)
    net = gahb.build(noisy(), config(**changes))
    for module in net.modules():
        if isinstance(module, BiasFreeNorm):
            nn.init.uniform_(module.gamma, 0.5, 1.5)
    with torch.no_grad():
        net.train()(noisy(16), level(0.5, 16))
    return net.eval()


class Scaled(nn.Module):
    """f(y) = c y, whatever sigma is."""

    def __init__(self, c: float) -> None:
        super().__init__()
        self.c = c

    def forward(self, y: Tensor, sigma: Tensor) -> Tensor:
        return self.c * y


# ---- denoisers without additive constants ----

NETWORKS = [{}, {"blocks": 1}, {"model": "bfcnn", "layers": 5}, {"init": "authors"}, {"conditional": True}]


@pytest.mark.parametrize("changes", NETWORKS, ids=str)
@pytest.mark.parametrize("a", [0.01, 7.0])
def test_denoisers_are_homogeneous_of_degree_one(changes: dict[str, Any], a: float) -> None:
    net, y = trained(**changes), noisy()
    with torch.no_grad():
        f, scaled = net(y, level(0.4, 2)), net(a * y, level(a * 0.4, 2))
        assert net(torch.zeros_like(y), level(0.0, 2)).abs().max() == 0
    assert f.abs().max() > 1e-6
    torch.testing.assert_close(scaled, a * f, rtol=1e-5, atol=1e-5 * a * f.abs().max().item())


@pytest.mark.parametrize("changes", [{}, {"model": "bfcnn", "layers": 4}], ids=str)
def test_denoised_is_the_jacobian_times_the_noisy_image(changes: dict[str, Any]) -> None:
    net, y = trained(**changes), noisy(1)
    J = gahb.jacobian(net, y, 0.3)
    with torch.no_grad():
        denoised = (y - net(y, level(0.3))).flatten()
    torch.testing.assert_close(J @ y.flatten(), denoised, rtol=1e-4, atol=1e-4)


def test_jacobian_has_outputs_in_rows() -> None:
    torch.manual_seed(0)
    W = torch.randn(16, 16)

    class Linear(nn.Module):
        def forward(self, y: Tensor, sigma: Tensor) -> Tensor:
            return (y.flatten(1) @ W.T).view_as(y)

    torch.testing.assert_close(gahb.jacobian(Linear(), noisy(1, 4), 0.1), torch.eye(16) - W)


def test_networks_have_no_bias_and_no_mean() -> None:
    for changes in NETWORKS:
        net = trained(**changes)
        assert not [name for name, _ in net.named_parameters() if "bias" in name]
        assert not [name for name, _ in net.named_buffers() if "mean" in name]


def test_normalisation_divides_by_the_deviation_and_keeps_the_mean() -> None:
    norm = BiasFreeNorm(2, small=False)
    x = 3 + torch.tensor([0.5, 2.0]).view(1, 2, 1, 1) * torch.randn(8, 2, 4, 4)
    deviation = (x.transpose(0, 1).flatten(1).var(1, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(norm(x), x / deviation.view(1, 2, 1, 1))
    torch.testing.assert_close(norm.running_deviation.flatten(), 0.9 + 0.1 * deviation.detach())
    before = norm.running_deviation.clone()
    torch.testing.assert_close(norm.eval()(x), x / before)
    assert torch.equal(norm.running_deviation, before)
    # The deviation is differentiated too.
    y = x.clone().requires_grad_()
    reference = y / (y.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()
    expected = torch.autograd.grad(reference.pow(3).sum(), y)
    torch.testing.assert_close(torch.autograd.grad(norm.train()(y).pow(3).sum(), y), expected)


def test_small_scales_are_those_of_the_authors() -> None:
    torch.manual_seed(0)
    gamma = BiasFreeNorm(4000, small=True).gamma
    assert gamma.std().item() == pytest.approx(2 / 9 / 64, rel=0.1) and gamma.abs().max() <= 0.025
    small = [m for m in gahb.build(noisy(), config(init="authors")).modules() if isinstance(m, BiasFreeNorm)]
    assert max(m.gamma.abs().max().item() for m in small) <= 0.025
    usual = [m for m in gahb.build(noisy(), config()).modules() if isinstance(m, BiasFreeNorm)]
    assert usual and all((m.gamma == 1).all() for m in usual)


def test_authors_weights_are_kaiming_normal() -> None:
    torch.manual_seed(0)
    net = gahb.build(noisy(), config(init="authors", channels=32))
    widest = max((m for m in net.modules() if isinstance(m, nn.Conv2d)), key=lambda m: m.weight.numel())
    expected = math.sqrt(2 / (9 * widest.in_channels))
    assert widest.weight.std().item() == pytest.approx(expected, rel=0.03)


def test_additive_constants_are_an_ablation_that_breaks_homogeneity() -> None:
    net, y = trained(bias=True), noisy()
    assert any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    assert not any(isinstance(m, BiasFreeNorm) for m in net.modules())
    with torch.no_grad():
        f = net(y, level(0.4, 2))
        assert (net(5 * y, level(2.0, 2)) - 5 * f).abs().max() > 1e-2 * f.abs().max()
        assert net(torch.zeros_like(y), level(0.0, 2)).abs().max() > 1e-3


def test_unet_has_the_layers_of_the_paper() -> None:
    net = gahb.build(noisy(side=16), config(blocks=3)).net
    convs = [(m.in_channels, m.out_channels) for m in net.modules() if isinstance(m, nn.Conv2d)]
    down = [(1, 8), (8, 8), (8, 16), (16, 16), (16, 32), (32, 32), (32, 64), (64, 64)]
    up = [(64, 32), (32, 32), (32, 16), (16, 16), (16, 8), (8, 1)]
    assert convs == down + up
    assert sum(isinstance(m, BiasFreeNorm) for m in net.modules()) == len(convs) - 2
    assert [type(m) for m in net.down[0][0]] == [nn.Conv2d, nn.ReLU]
    assert isinstance(list(net.modules())[-2], nn.Conv2d), "nothing follows the last convolution but the pool"


def test_unet_skips_carry_the_fine_scale() -> None:
    net = trained().net
    for up in net.up:
        nn.init.zeros_(up.weight)
    # Without what comes from below, only the skip is left: a 3 x 3 layer after two of the encoder and one more.
    y = torch.zeros(1, 1, 32, 32)
    y[0, 0, 16, 16] = 1
    reach = net(y).abs()[0, 0] > 0
    assert reach[16, 16 - 4 : 16 + 5].any() and reach.sum() <= 81 and reach.any()


def test_plain_network_has_layers_of_one_width() -> None:
    net = gahb.build(noisy(), config(model="bfcnn")).net
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == 21 and {m.out_channels for m in convs[:-1]} == {8}
    assert sum(isinstance(m, BiasFreeNorm) for m in net.modules()) == 19


def test_only_conditional_networks_see_the_noise_level() -> None:
    y = noisy()
    for conditional in (False, True):
        net = trained(conditional=conditional)
        with torch.no_grad():
            same = torch.equal(net(y, level(0.1, 2)), net(y, level(0.9, 2)))
        assert same is not conditional


def test_unknown_model_and_impossible_depth_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="model=dncnn: known are unet, bfcnn, wiener, wavelet"):
        gahb.build(noisy(), config() | {"model": "dncnn"})
    with pytest.raises(ValueError, match=r"blocks=3: must halve images of 12 x 12"):
        gahb.build(noisy(side=12), config(blocks=3))


# ---- the adaptive basis ----


def test_adaptive_basis_diagonalises_the_symmetric_part() -> None:
    torch.manual_seed(0)
    J = torch.randn(12, 12, dtype=torch.float64)
    factors, basis = gahb.adaptive_basis(J)
    assert (factors.diff() <= 0).all()
    torch.testing.assert_close(basis @ torch.diag(factors) @ basis.T, (J + J.T) / 2)
    torch.testing.assert_close(basis.T @ basis, torch.eye(12, dtype=torch.float64))


def test_asymmetry_is_relative() -> None:
    J = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    assert gahb.asymmetry(J) == pytest.approx(math.sqrt(8 / 6))
    assert gahb.asymmetry(10 * J) == pytest.approx(math.sqrt(8 / 6))
    assert gahb.asymmetry(J + J.T) == 0


# ---- sampling ----


class Gaussian(nn.Module):
    """The optimal denoiser of x ~ N(0, s^2 I)."""

    def __init__(self, s: float) -> None:
        super().__init__()
        self.s = s

    def forward(self, y: Tensor, sigma: Tensor) -> Tensor:
        return y * sigma**2 / (self.s**2 + sigma**2)


def test_noise_falls_monotonically_under_the_optimal_denoiser_without_added_noise() -> None:
    x, levels = gahb.sample(Gaussian(0.2), noisy(4, 16), h0=0.05, beta=1.0, iterations=400)
    sigma = torch.stack(levels)
    assert (sigma.diff(dim=0)[: int((sigma > 0.01).all(1).sum()) - 1] < 0).all()
    assert sigma[-1].max() < 0.01 < sigma[0].min()
    assert x.std() < 1


def test_sampler_takes_the_steps_of_the_paper() -> None:
    y, c, h0, beta = noisy(3, 4), 0.7, 0.1, 0.3
    out, levels = gahb.sample(Scaled(c), y, h0, beta, 2, torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    for t, h in ((1, h0), (2, 2 * h0 / (1 + h0))):
        d = c * y
        sigma = d.flatten(1).norm(dim=1) / 4
        torch.testing.assert_close(levels[t - 1], sigma)
        gamma = sigma * math.sqrt((1 - beta * h) ** 2 - (1 - h) ** 2)
        y = y - h * d + gamma.view(3, 1, 1, 1) * torch.randn(y.shape, generator=generator)
    torch.testing.assert_close(out, y - c * y)


def test_sampler_stops_when_noise_is_gone_or_grows() -> None:
    y = torch.cat([noisy(1), 1e-3 * noisy(1)])
    out, levels = gahb.sample(Scaled(0.5), y, 0.2, 1.0, iterations=50)
    torch.testing.assert_close(out[1], y[1] / 2)  # it rested; the other one went on
    assert len(levels) < 50 and levels[-1].max() < 0.01
    assert len(gahb.sample(Scaled(-3.0), y, 0.2, 1.0, iterations=50)[1]) == 1
    assert len(gahb.sample(Scaled(0.5), y, 0.01, 1.0, iterations=3)[1]) == 3


def test_both_models_are_sampled_from_the_same_noise() -> None:
    paper = trial(sampler_iterations=5)
    twin = nn.ModuleList([paper.net[0], copy.deepcopy(paper.net[0])]).eval()
    a, b = paper.samples(twin)
    assert a.shape == (gahb.SAMPLES, 1, 16, 16) and torch.equal(a, b)
    a, b = paper.samples(paper.net.eval())
    assert not torch.allclose(a, b)


def test_samples_of_a_denoiser_that_knows_one_image_are_that_image() -> None:
    paper = trial(steps=1, model="wiener", n_train=1)
    drawings = paper.samples(paper.net)
    for drawn, own in zip(drawings, paper.data.train, strict=True):
        torch.testing.assert_close(drawn, own.expand_as(drawn), rtol=0, atol=1e-4)
    tests = paper.test()
    assert tests["sample_nearest_training"] == pytest.approx(1, abs=1e-3)
    assert tests["test_gap"] > 40 and tests["test_dimension"] == pytest.approx(0, abs=1e-3)
    assert tests["sample_agreement"] < 0.99


# ---- the pair and its training ----


def test_the_two_training_sets_are_disjoint_and_of_the_trial() -> None:
    tasks = [trial(seed=seed, n_train=800).data for seed in (0, 0, 1)]
    a, b = tasks[0].subsets
    assert len(set(a)) == len(set(b)) == 800 and not set(a) & set(b)
    assert np.array_equal(a, tasks[1].subsets[0]) and not np.array_equal(a, tasks[2].subsets[0])
    rows = [
        {x.numpy().tobytes() for x in part} for part in (*tasks[0].train, tasks[0].validation, tasks[0].test)
    ]
    assert len(set.union(*rows)) == sum(map(len, rows)) == 1797
    assert torch.equal(tasks[0].test, tasks[2].test) and torch.equal(tasks[0].validation, tasks[2].validation)


def test_each_model_learns_from_its_own_images() -> None:
    paper = trial(n_train=4, batch_size=64)
    for which in (0, 1):
        own = {x.numpy().tobytes() for x in paper.data.train[which]}
        assert {x.numpy().tobytes() for x in paper.data.batch(which, 64)} == own
    before = [copy.deepcopy(net.state_dict()) for net in paper.net]
    paper.optimiser.zero_grad()
    paper.loss(1, *paper.noisy(1)).backward()
    assert all(p.grad is None for p in paper.net[0].parameters())
    assert all(p.grad is not None for p in paper.net[1].parameters())
    weights = [dict(net.named_parameters()) for net in paper.net]
    assert not torch.equal(*(w["net.down.0.0.0.weight"] for w in weights)), "both models start alike"
    paper.step()
    for old, net in zip(before, paper.net, strict=True):
        assert not torch.equal(old["net.down.0.0.0.weight"], net.net.down[0][0][0].weight)


def test_loss_is_the_squared_error_of_the_noise_summed_over_pixels() -> None:
    paper = trial(batch_size=512, noise_law="uniform", sigma_max=0.6, n_train=1)
    with torch.no_grad():
        paper.net = nn.ModuleList([Scaled(0.0), Scaled(1.0)])
        nothing = np.mean([paper.loss(0, *paper.noisy(0)).item() for _ in range(8)])
        assert nothing == pytest.approx(256 * 0.6**2 / 3, rel=0.05)
        # f(y) = y leaves the image itself as the error, whatever the noise; each model has one of its own.
        power = [x.square().sum().item() for x in paper.data.train]
        assert paper.loss(1, *paper.noisy(1)).item() == pytest.approx(power[1], rel=1e-3)
        assert abs(power[0] - power[1]) > 0.01 * power[1]


def test_learning_rate_schedules() -> None:
    paper = trial(steps=10, schedule="halving", lr=0.004)
    assert [paper.factor(i) for i in (0, 9, 10, 99)] == [1, 1, 0.5, 0.5**9]
    cosine = trial(steps=10, schedule="cosine")
    assert cosine.factor(0) == 1 and cosine.factor(50) == pytest.approx(0.5)
    paper.step()
    paper.step()
    assert paper.optimiser.param_groups[0]["lr"] == pytest.approx(0.002)


def test_the_last_weights_are_tested() -> None:
    paper = trial(steps=3, sampler_iterations=2)
    for _ in range(3):
        assert paper.best is None
        paper.step()
    assert paper.best is not None and paper.best["step"] == 3


def test_gap_is_training_minus_test() -> None:
    paper = trial(sampler_iterations=1)
    paper.net = nn.ModuleList([Scaled(0.0), Scaled(0.0)])
    tests = paper.measure_test(paper.net)
    # A denoiser that does nothing: the PSNR is that of the noise, on any image.
    assert tests["test_psnr"] == pytest.approx(-20 * math.log10(0.3), abs=0.05)
    assert tests["test_gap"] == pytest.approx(0, abs=0.05)
    assert tests["test_slope"] == pytest.approx(1, abs=1e-3)
    assert tests["test_dimension"] == pytest.approx(256) and tests["test_asymmetry"] == 0
    assert tests["test_agreement"] == pytest.approx(1)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "bfcnn", "layers": 3},
        {"model": "wiener"},
        {"model": "wavelet"},
        {"bias": True},
        {"conditional": True, "init": "authors"},
        {"pixels": "shuffled", "noise_law": "quadratic", "schedule": "halving"},
        {"n_train": 1, "blocks": 3},
    ],
    ids=str,
)
def test_every_baseline_trains(changes: dict[str, Any]) -> None:
    paper = trial(steps=1, sampler_iterations=3, lr=0.01, **changes)
    before = paper.psnr(paper.net.eval(), paper.data.validation)
    row = paper.step()
    assert all(math.isfinite(v) for v in row.values())
    assert row["val_psnr"] != before
    assert all(math.isfinite(v) for v in paper.test().values())


@pytest.mark.parametrize("data", ["synthetic_c_alpha", "synthetic_discs"])
def test_synthetic_classes_train(data: str) -> None:
    paper = trial(steps=1, data=data, n_train=10, blocks=1, sampler_iterations=1)
    assert paper.data.train[0].shape == (10, 1, 32, 32)
    assert not torch.equal(*paper.data.train)
    assert math.isfinite(paper.step()["val_psnr"])


def test_space_holds_only_what_exists() -> None:
    for model in ("wiener", "wavelet"):
        assert {"bias", "conditional", "init", "channels", "blocks", "layers"}.isdisjoint(config(model=model))
    assert "layers" not in config() and "blocks" not in config(model="bfcnn")
    faces_config, digits = config("celeba"), config()
    assert (faces_config["lr"], faces_config["blocks"], faces_config["noise_law"]) == (1e-3, 3, "quadratic")
    assert (digits["lr"], digits["blocks"], digits["noise_law"], digits["n_train"]) == (
        2e-3,
        2,
        "uniform",
        800,
    )
    with pytest.raises(SpaceError, match="lr"):
        Space.load("diffusion_gahb").validate(digits | {"lr": 1.0})


# ---- the task ----


def task(n_train: int = 5, seed: int = 0, **changes: Any) -> denoising.DenoisingTask:
    return denoising.DenoisingTask("digits", None, "cpu", n_train, np.random.default_rng(seed), **changes)


def test_digits_are_doubled_and_stay_in_the_unit_interval() -> None:
    data = task()
    assert data.side == 16 and data.validation.shape == (99, 1, 16, 16) and data.test.shape == (98, 1, 16, 16)
    assert data.test.min() == 0 and 0.9 < data.test.max() <= 1


def test_larger_images_are_padded_to_halvable_sides() -> None:
    x = denoising._scaled(np.full((2, 1, 28, 28), 255, np.uint8), 255)
    assert x.shape == (2, 1, 32, 32) and x.sum() == 2 * 28**2 and (x[:, :, 2:-2, 2:-2] == 1).all()


def test_public_test_images_are_never_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    grey = np.arange(120, dtype=np.uint8).reshape(-1, 1, 1, 1) * np.ones((1, 1, 28, 28), np.uint8)
    labels = np.arange(120) % 10
    made = images.Images("mnist5k", grey[:100], labels[:100], grey[100:], labels[100:], 10, 255, 20, "none")
    monkeypatch.setattr(images, "load", lambda name, data_dir=None: made)
    denoising._image_parts.cache_clear()
    try:
        data = denoising.DenoisingTask("mnist5k", None, "cpu", 40, np.random.default_rng(0))
    finally:
        denoising._image_parts.cache_clear()
    parts = [
        (x.amax((1, 2, 3)) * 255).round().int().tolist() for x in (*data.train, data.validation, data.test)
    ]
    assert [len(p) for p in parts] == [40, 40, 20, 20] and sorted(np.concatenate(parts)) == list(range(120))
    assert parts[3] == list(range(100, 120))


def test_data_errors_say_what_is_right() -> None:
    with pytest.raises(ValueError, match=r"n_train=801: data=digits has 1600 training images.* 1 to 800"):
        task(801)
    with pytest.raises(ValueError, match="n_train=0"):
        task(0)
    with pytest.raises(DataError, match=r"data=cifar10: unknown for denoising; known: digits, mnist5k"):
        denoising.DenoisingTask("cifar10", None, "cpu", 5, np.random.default_rng(0))


def test_shuffling_is_one_permutation_of_the_pixels() -> None:
    plain, shuffled = task(), task(shuffled=True)
    a, b = plain.test.flatten(1), shuffled.test.flatten(1)
    assert not torch.equal(a, b)
    torch.testing.assert_close(a.sort(1).values, b.sort(1).values)
    torch.testing.assert_close(a @ a.T, b @ b.T)
    c, d = plain.train[0].flatten(1), shuffled.train[0].flatten(1)
    torch.testing.assert_close(a @ c.T, b @ d.T)


def test_noise_levels_follow_their_law() -> None:
    torch.manual_seed(0)
    uniform = denoising.noise_levels(20000, 0.8, "uniform", "cpu").flatten()
    quadratic = denoising.noise_levels(20000, 0.8, "quadratic", "cpu").flatten()
    assert uniform.mean().item() == pytest.approx(0.4, rel=0.02) and uniform.max() <= 0.8
    assert quadratic.mean().item() == pytest.approx(0.8 / 3, rel=0.03)
    assert quadratic.median().item() == pytest.approx(0.2, rel=0.05)
    with pytest.raises(ValueError, match="noise_law=cubic: known are uniform, quadratic"):
        denoising.noise_levels(2, 1.0, "cubic", "cpu")


def test_psnr_has_peak_one_and_is_averaged_over_images() -> None:
    clean = torch.zeros(2, 1, 4, 4)
    assert denoising.psnr(clean, clean + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1)) == pytest.approx(30)


def test_fixed_noise_is_fixed_and_standard_normal() -> None:
    x = torch.zeros(100, 1, 16, 16)
    a = denoising.fixed_noise(x)
    torch.manual_seed(3)
    assert torch.equal(a, denoising.fixed_noise(x)) and not torch.equal(a, denoising.fixed_noise(x, 1))
    assert abs(a.mean().item()) < 0.02 and a.std().item() == pytest.approx(1, rel=0.02)


def test_cosine_ignores_brightness_and_contrast() -> None:
    x, other = noisy(3), noisy(3, seed=1)
    torch.testing.assert_close(denoising.cosine(x, 2 * x + 5), torch.ones(3))
    torch.testing.assert_close(denoising.cosine(x, 1 - x), -torch.ones(3))
    assert denoising.cosine(x, other).abs().max() < 0.5 and denoising.cosine(x[:1], other).shape == (3,)
    assert denoising.cosine(torch.ones(1, 1, 8, 8), x[:1]).item() == 0


def test_agreement_compares_denoised_images() -> None:
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert denoising.agreement(Scaled(0.2), Scaled(0.7), x, 0.5) == pytest.approx(1)
    assert denoising.agreement(Scaled(0.2), Scaled(1.7), x, 0.5) == pytest.approx(-1)


def test_wiener_is_the_closed_form_of_its_images() -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 1, 3, 3) * torch.linspace(0.1, 2, 9).view(1, 1, 3, 3) + 0.5
    wiener, y = denoising.Wiener(x), x + 0.4 * torch.randn_like(x)
    flat, mean = y.flatten(1), x.flatten(1).mean(0)
    C = torch.cov(x.flatten(1).T, correction=0)
    expected = mean + (flat - mean) @ torch.linalg.inv(C + 0.16 * torch.eye(9)) @ C
    torch.testing.assert_close((y - wiener(y, level(0.4, 50))).flatten(1), expected, rtol=1e-3, atol=1e-4)


def test_haar_is_orthonormal_and_inverted() -> None:
    x = noisy(3)
    low, details = denoising.haar(x)
    assert low.shape == (3, 1, 4, 4) and details.shape == (3, 3, 4, 4)
    torch.testing.assert_close(low.square().sum() + details.square().sum(), x.square().sum())
    torch.testing.assert_close(denoising.inverse_haar(low, details), x)
    assert denoising.haar(torch.ones(1, 1, 4, 4))[1].abs().max() == 0


def test_wavelet_threshold_is_soft() -> None:
    net, y = denoising.WaveletThreshold(8, levels=1), noisy()
    assert net.log_strength.exp().item() == pytest.approx(math.sqrt(2 * math.log(64)))
    with torch.no_grad():
        torch.testing.assert_close(net(y, level(0.0, 2)), torch.zeros_like(y), atol=1e-6, rtol=0)
        coarse = nn.functional.avg_pool2d(y, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
        torch.testing.assert_close(y - net(y, level(9.0, 2)), coarse)
        low, details = denoising.haar(y)
        kept, shrunk = denoising.haar(y - net(y, level(0.2, 2)))
    torch.testing.assert_close(kept, low)
    t = 0.2 * math.sqrt(2 * math.log(64))
    torch.testing.assert_close(shrunk, nn.functional.softshrink(details, t), atol=1e-5, rtol=1e-5)


# ---- synthetic classes and faces ----


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_backgrounds_and_contours_have_their_power_spectra(beta: float) -> None:
    x = contours.backgrounds(300, 32, beta, np.random.default_rng(0))
    power = (np.abs(np.fft.fft2(x)) ** 2).mean(0)
    f = np.fft.fftfreq(32) * 32
    radius = np.hypot(f[:, None], f[None])
    inside = (radius >= 1) & (radius <= 15)
    slope = np.polyfit(np.log(radius[inside]), np.log(power[inside]), 1)[0]
    assert slope == pytest.approx(-2 * beta, abs=0.1)
    curve = contours.contours(2000, 64, beta, np.random.default_rng(1))
    power = (np.abs(np.fft.fft(curve)) ** 2).mean(0)[1:32]
    assert np.polyfit(np.log(np.arange(1, 32)), np.log(power), 1)[0] == pytest.approx(-2 * beta, abs=0.1)


def test_c_alpha_images_have_two_textures() -> None:
    x = contours.c_alpha(200, 32, 4.0, np.random.default_rng(0))
    assert x.shape == (200, 1, 32, 32) and x.dtype == np.float32 and x.min() >= 0 and x.max() <= 1
    top, bottom = x[:, 0, 0].mean(1), x[:, 0, -1].mean(1)
    assert (top > bottom + 0.2).sum() > 20 and (bottom > top + 0.2).sum() > 20
    same = contours.c_alpha(200, 32, 4.0, np.random.default_rng(0))
    assert np.array_equal(x, same)
    with pytest.raises(ValueError, match="alpha=0"):
        contours.c_alpha(1, 32, 0, np.random.default_rng(0))


def test_discs_have_two_grey_values_and_lie_inside() -> None:
    x = contours.discs(20, 32, np.random.default_rng(0))
    assert x.shape == (20, 1, 32, 32) and x.min() >= 0 and x.max() <= 1
    for image in x[:, 0]:
        border = np.concatenate([image[0, :3], image[-1, -3:], image[:3, -1], image[-3:, 0]])
        assert np.allclose(border, border[0])
        _, counts = np.unique(np.round(image, 5), return_counts=True)
        assert np.sort(counts)[-2:].sum() > 0.8 * 32 * 32
        area = (np.abs(image - border[0]) / np.abs(image - border[0]).max()).sum()
        assert math.pi * 4**2 * 0.9 < area < math.pi * 12**2 * 1.1


def _write_faces(folder: Path, numbers: list[int], size: tuple[int, int] = (178, 218)) -> None:
    image = pytest.importorskip("PIL.Image")
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        image.new("RGB", size, (number % 200, 30, 10)).save(folder / f"{number:06d}.jpg", quality=100)


def test_celeba_is_read_in_its_public_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRSWEEP_CACHE", str(tmp_path / "cache"))
    _write_faces(tmp_path / "img_align_celeba", [1, 2, 3, 4, 162770, 162771, 182637, 182638])
    data = faces.celeba(tmp_path)
    parts = (data.train_images, data.validation_images, data.test_images)
    assert [p.shape for p in parts] == [(5, 1, 80, 80), (2, 1, 80, 80), (1, 1, 80, 80)]
    assert data.train_images[0].mean() == pytest.approx((1 + 30 + 10) / 3, abs=2)
    assert data.test_images[0].mean() == pytest.approx((182638 % 200 + 40) / 3, abs=2)
    made = denoising.DenoisingTask("celeba", tmp_path, "cpu", 2, np.random.default_rng(0))
    assert made.side == 80 and made.test.max() < 1 and len(made.train[1]) == 2


def test_celeba_errors_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRSWEEP_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DataError, match=r"data=celeba: data_dir is None; give the folder"):
        faces.celeba()
    with pytest.raises(DataError, match=r"holds \[0, 0, 0\] training"):
        faces.celeba(tmp_path)
    _write_faces(tmp_path, [1, 162771, 182638], (64, 64))
    with pytest.raises(DataError, match=r"000001.jpg is 64 x 64; the aligned images are 178 x 218"):
        faces.celeba(tmp_path)
    (tmp_path / "000001.jpg").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"000001.jpg cannot be read"):
        faces.celeba(tmp_path)
    (tmp_path / "0b.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"0b.jpg .*files are called <number>.jpg"):
        faces.celeba(tmp_path)
