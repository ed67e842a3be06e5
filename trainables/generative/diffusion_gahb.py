"""Generalisation of diffusion denoisers, and the geometry-adaptive harmonic bases they shrink in.

Kadkhodaie, Guth, Simoncelli and Mallat, Generalization in diffusion models arises from geometry-adaptive harmonic
representations, ICLR 2024, arXiv:2310.02557. Two denoisers trained on disjoint sets of N images memorise them when
N is small and become the same function when N is large; the Jacobian of a denoiser without additive constants is
a shrinkage in a basis that adapts to the image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from statistics import fmean, linear_regression
from typing import Any

import torch
from torch import Tensor, nn

from fairsweep.trainables.base import Claim, Metric, Tiny
from fairsweep.trainables.catalog import register
from fairsweep.trainables.tasks import denoising
from fairsweep.trainables.tasks.training import Mean, NetworkPaper, cosine_factor
from fairsweep.trainables.tasks.workers import batch_moments

# ---- denoisers without additive constants (section 2 and appendix A) ----


class BiasFreeNorm(nn.Module):
    """Division of (n, c, h, w) by each channel's deviation, times gamma: nothing is subtracted, nothing added.

    Batch deviations (about the batch mean, over images and pixels) in training, running ones in evaluation, where
    the layer is linear. `small`: the authors' initial gamma, of the order 1e-3; else 1.
    """

    def __init__(self, channels: int, small: bool, momentum: float = 0.1) -> None:
        super().__init__()
        gamma = torch.ones(1, channels, 1, 1)
        if small:
            gamma = (torch.randn(1, channels, 1, 1) * (2 / 9 / 64)).clamp(-0.025, 0.025)
        self.gamma, self.momentum = nn.Parameter(gamma), momentum
        self.register_buffer("running_deviation", torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        deviation = self.running_deviation
        if self.training:
            deviation = (batch_moments(x, (0, 2, 3))[1] + 1e-5).sqrt()
            with torch.no_grad():
                self.running_deviation.lerp_(deviation, self.momentum)
        return x / deviation * self.gamma


def convolution(inputs: int, outputs: int, config: Mapping[str, Any], norm: bool = True) -> nn.Sequential:
    """3 x 3 convolution, normalisation if `norm`, ReLU; with `bias`, ordinary biases and batch normalisation."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, padding=1, bias=config["bias"])]
    if norm:
        small = config["init"] == "authors"
        layers.append(nn.BatchNorm2d(outputs) if config["bias"] else BiasFreeNorm(outputs, small))
    return nn.Sequential(*layers, nn.ReLU())


class UNet(nn.Module):
    """`blocks` encoder levels, a middle, and as many decoder levels, two convolutions each.

    Channels double from level to level; 2 x 2 average pooling down, transposed convolution up, skips are
    concatenated. No normalisation after the first convolution, neither that nor ReLU after the last.
    """

    def __init__(self, inputs: int, config: Mapping[str, Any]) -> None:
        super().__init__()
        blocks, bias = config["blocks"], config["bias"]
        widths = [config["channels"] * 2**level for level in range(blocks + 1)]
        self.down, self.up, self.decoder = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        last = inputs
        for level, width in enumerate(widths):
            first = convolution(last, width, config, norm=level > 0)
            self.down.append(nn.Sequential(first, convolution(width, width, config)))
            last = width
        for level in reversed(range(blocks)):
            width = widths[level]
            self.up.append(nn.ConvTranspose2d(2 * width, width, 2, stride=2, bias=bias))
            after = convolution(width, width, config)
            if level == 0:
                after = nn.Sequential(nn.Conv2d(width, 1, 3, padding=1, bias=bias))
            self.decoder.append(nn.Sequential(convolution(2 * width, width, config), after))
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for encode in self.down[:-1]:
            x = encode(x)
            skips.append(x)
            x = self.pool(x)
        x = self.down[-1](x)
        for up, decode in zip(self.up, self.decoder, strict=True):
            x = decode(torch.cat([up(x), skips.pop()], 1))
        return x


def bfcnn(inputs: int, config: Mapping[str, Any]) -> nn.Sequential:
    """`layers` 3 x 3 convolutions of one width without pooling or skips (Mohan et al., ICLR 2020)."""
    width = config["channels"]
    inner = [convolution(width, width, config) for _ in range(config["layers"] - 2)]
    last = nn.Conv2d(width, 1, 3, padding=1, bias=config["bias"])
    return nn.Sequential(convolution(inputs, width, config, norm=False), *inner, last)


class Denoiser(nn.Module):
    """The noise in y (n, 1, h, w), estimated by `net`; sigma is shown to it only if `conditional`.

    Then it is a second channel, so that without biases f(a y, a sigma) = a f(y, sigma) still holds.
    """

    def __init__(self, net: nn.Module, conditional: bool) -> None:
        super().__init__()
        self.net, self.conditional = net, conditional

    def forward(self, y: Tensor, sigma: Tensor) -> Tensor:
        return self.net(torch.cat([y, sigma.expand_as(y)], 1) if self.conditional else y)


MODELS = ("unet", "bfcnn", "wiener", "wavelet")


def build(images: Tensor, config: Mapping[str, Any]) -> nn.Module:
    """The denoiser `config["model"]` of images like `images` (n, 1, h, w), to which only `wiener` is fitted."""
    model = config["model"]
    if model not in MODELS:
        raise ValueError(f"model={model}: known are {', '.join(MODELS)}")
    if model == "wiener":
        return denoising.Wiener(images)
    side = images.shape[-1]
    if model == "wavelet":
        return denoising.WaveletThreshold(side)
    inputs = 2 if config["conditional"] else 1
    if model == "unet" and side % 2 ** config["blocks"]:
        raise ValueError(f"blocks={config['blocks']}: must halve images of {side} x {side} that often")
    net = UNet(inputs, config) if model == "unet" else bfcnn(inputs, config)
    for module in net.modules() if config["init"] == "authors" else ():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight)
    return Denoiser(net, config["conditional"])


# ---- the adaptive basis (section 3) ----


def jacobian(denoiser: nn.Module, y: Tensor, sigma: float) -> Tensor:
    """The Jacobian (n, n) of the denoised image y - f(y) of one noisy image y (1, 1, h, w), n = h w pixels.

    Without biases, in evaluation mode and blind, denoised = jacobian @ y.
    """
    level = torch.full((1, 1, 1, 1), sigma, device=y.device)
    f = torch.func.jacrev(lambda flat: flat - denoiser(flat.view_as(y), level).flatten(), chunk_size=256)
    return f(y.flatten()).detach()


def adaptive_basis(jacobian: Tensor) -> tuple[Tensor, Tensor]:
    """Shrinkage factors (n,), decreasing, and the orthonormal basis (columns of (n, n)) they belong to.

    Of the symmetric part of the Jacobian: denoised = sum_k factor_k <y, e_k> e_k up to its asymmetry.
    """
    factors, basis = torch.linalg.eigh((jacobian + jacobian.T) / 2)
    return factors.flip(0), basis.flip(1)


def asymmetry(jacobian: Tensor) -> float:
    """||J - J^T|| / ||J||, Frobenius: 0 for the gradient of a potential, such as an exact score."""
    return ((jacobian - jacobian.T).norm() / jacobian.norm().clamp_min(1e-12)).item()


# ---- sampling (appendix; Kadkhodaie and Simoncelli, NeurIPS 2021) ----


@torch.no_grad()
def sample(
    denoiser: nn.Module,
    y: Tensor,
    h0: float,
    beta: float,
    iterations: int = 400,
    generator: torch.Generator | None = None,
    stop: float = 0.01,
) -> tuple[Tensor, list[Tensor]]:
    """Stochastic ascent of the log density from y (n, 1, h, w), noise of level 1: images, and sigma_t (n,).

    d = f(y), sigma_t = ||d|| / sqrt(pixels), h_t = h0 t / (1 + h0 (t - 1)), y <- y - h_t d + gamma_t z with
    gamma_t^2 = sigma_t^2 ((1 - beta h_t)^2 - (1 - h_t)^2): the noise level is to fall by the factor 1 - beta h_t.
    An image rests once sigma_t < `stop`; all stop after `iterations`, or when one grows beyond level 2.
    """
    sigma, levels = torch.ones(len(y), 1, 1, 1, device=y.device), []
    for t in range(1, iterations + 1):
        d = denoiser(y, sigma)
        sigma = d.square().mean((1, 2, 3), keepdim=True).sqrt()
        levels.append(sigma.flatten())
        if sigma.max() > 2 or sigma.max() < stop:
            break
        h = h0 * t / (1 + h0 * (t - 1))
        gamma = math.sqrt(max((1 - beta * h) ** 2 - (1 - h) ** 2, 0.0))
        z = torch.randn(y.shape, generator=generator, device=y.device)
        y = torch.where(sigma < stop, y, y - h * d + gamma * sigma * z)
    return y - denoiser(y, sigma), levels


# ---- training ----

SIGMA_PSNR, SIGMA_AGREEMENT = 0.3, 0.5  # noise levels at which PSNR and agreement are read
SIGMAS_SLOPE = (0.1, 0.15, 0.2, 0.3, 0.4)
SAMPLES = 8


@register
class DiffusionGAHB(NetworkPaper):
    """A pair of denoisers on disjoint training sets of N images, with the same number of gradient steps at any N.

    The last weights are tested, not the best: early stopping would hide the memorisation that is studied.
    """

    slug = "diffusion_gahb"
    title = "Generalization in diffusion models arises from geometry-adaptive harmonic representations"
    citation = "Kadkhodaie, Guth, Simoncelli, Mallat. ICLR 2024. arXiv:2310.02557"
    task = "image denoising"
    baselines = "two networks on disjoint sets of N images; Wiener filter, Haar thresholds"
    datasets = denoising.DATASETS
    metrics = (
        Metric("val_psnr", "max", "validation", "dB"),
        Metric("val_agreement", "max", "validation", "cosine"),
        Metric("train_loss", "min", "train", "squared error an image"),
        Metric("test_psnr", "max", "test", "dB"),
        Metric("test_gap", "min", "test", "dB"),  # PSNR on the training images minus PSNR on test images
        Metric("test_agreement", "max", "test", "cosine"),
        Metric("test_slope", "max", "test", "dB/dB"),  # of the PSNR after denoising over that before it
        Metric("test_dimension", "min", "test", "dimensions"),  # trace of the Jacobian: what noise survives
        Metric("test_asymmetry", "min", "test", "fraction"),
        Metric("sample_agreement", "max", "test", "cosine"),
        Metric("sample_nearest_training", "min", "test", "cosine"),
    )
    objective = "val_psnr"
    tiny = Tiny("digits", 3)
    together = True
    claims = (
        Claim(
            name="few_images_are_memorised",
            statement="The gap between training and test PSNR at sigma 0.3 is larger with 4 images than with 800",
            treatment={"n_train": 4},
            baseline={"n_train": 800},
            metric="test_gap",
            margin=0.0,
            origin="direction",
            data="digits",
        ),
        Claim(
            name="many_images_give_one_function",
            statement="Two denoisers of disjoint images agree more with 800 images than with 4 (cosine of outputs)",
            treatment={"n_train": 800},
            baseline={"n_train": 4},
            metric="test_agreement",
            margin=0.0,
            origin="direction",
            data="digits",
        ),
    )

    paper_steps = {"celeba": 19_532}  # 1000 epochs of 100 000 images in batches of 512
    default_steps = 60  # 600 gradient steps; the paper's own is 1000 epochs of 250 000 images
    unit = "10 gradient steps"
    gradient_steps = 10

    def prepare(self) -> None:
        config, folder, shuffled = self.config, self.setting.data_dir, self.config["pixels"] == "shuffled"
        self.data = denoising.DenoisingTask(
            self.data_name, folder, self.device, config["n_train"], self.split_rng, shuffled, config["alpha"]
        )
        self.net = nn.ModuleList(build(images, config) for images in self.data.train).to(self.device)
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=config["lr"])

    def eligible(self) -> bool:
        return self.done == self.epochs

    def noisy(self, which: int) -> tuple[Tensor, Tensor, Tensor]:
        """A batch of training set `which`: images (n, 1, h, w), their noise levels (n, 1, 1, 1) and noise."""
        x = self.data.batch(which, self.config["batch_size"])
        sigma = denoising.noise_levels(
            len(x), self.config["sigma_max"], self.config["noise_law"], self.device
        )
        return x, sigma, sigma * torch.randn_like(x)

    def loss(self, which: int, x: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
        """Squared error of the noise, summed over pixels, of denoiser `which` on a batch; mean over images."""
        return (self.net[which](x + noise, sigma) - noise).square().sum() / len(x)

    def factor(self, gradient_step: int) -> float:
        """On the learning rate: half a cosine, or (the paper) ten equal stages, each half as large."""
        total = self.epochs * self.gradient_steps
        if self.config["schedule"] == "cosine":
            return cosine_factor(gradient_step, total)
        return 0.5 ** (10 * gradient_step // total)

    def psnr(self, net: nn.Module, x: Tensor, sigma: float = SIGMA_PSNR) -> float:
        """PSNR (dB) of the images x after denoising, mean of the two models."""
        return fmean(denoising.denoised_psnr(denoiser, x, sigma) for denoiser in net)

    def epoch(self) -> dict[str, float]:
        train_loss, start = Mean(self.workers), self.done * self.gradient_steps
        batches = ((*self.noisy(0), *self.noisy(1)) for _ in range(self.gradient_steps))
        for i, batch in enumerate(self.workers.shared(batches), start):
            self.set_learning_rate(self.config["lr"] * self.factor(i))
            # The models share no parameter, and Adam works by parameter: one optimiser is as good as two.
            loss = self.loss(0, *batch[:3]) + self.loss(1, *batch[3:])
            self.descend(loss)
            train_loss.add(loss / 2, len(batch[0]))
        net, x = self.net.eval(), self.data.validation
        return {
            "val_psnr": self.psnr(net, x),
            "val_agreement": denoising.agreement(*net, x, SIGMA_AGREEMENT),
            "train_loss": train_loss.value,
        }

    def samples(self, net: nn.Module) -> list[Tensor]:
        """`SAMPLES` images of each model, both from the same initial image and with the same noise."""
        side, config, seed = self.data.side, self.config, int(torch.randint(2**31, ()))
        start = 0.5 + torch.randn(SAMPLES, 1, side, side, device=self.device)
        draw = partial(
            sample, y=start, h0=config["h0"], beta=config["beta"], iterations=config["sampler_iterations"]
        )
        return [draw(f, generator=torch.Generator(self.device).manual_seed(seed))[0] for f in net]

    def measure_test(self, net: nn.Module) -> dict[str, float]:
        x = self.data.test
        slope = linear_regression(
            [-20 * math.log10(sigma) for sigma in SIGMAS_SLOPE],
            [self.psnr(net, x, sigma) for sigma in SIGMAS_SLOPE],
        ).slope
        test_psnr = self.psnr(net, x)
        seen = [
            denoising.denoised_psnr(f, own[:200], SIGMA_PSNR)
            for f, own in zip(net, self.data.train, strict=True)
        ]
        y = x[:1] + SIGMA_PSNR * denoising.fixed_noise(x[:1])
        jacobians = [jacobian(denoiser, y, SIGMA_PSNR) for denoiser in net]
        samples = self.samples(net)
        nearest = [
            torch.stack([denoising.cosine(image[None], own).max() for image in images]).mean().item()
            for images, own in zip(samples, self.data.train, strict=True)
        ]
        return {
            "test_psnr": test_psnr,
            "test_gap": fmean(seen) - test_psnr,
            "test_agreement": denoising.agreement(*net, x, SIGMA_AGREEMENT),
            "test_slope": slope,
            "test_dimension": fmean(adaptive_basis(j)[0].sum().item() for j in jacobians),
            "test_asymmetry": fmean(map(asymmetry, jacobians)),
            "sample_agreement": denoising.cosine(*samples).mean().item(),
            "sample_nearest_training": fmean(nearest),
        }
