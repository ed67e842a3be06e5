"""Denoising of images under Gaussian noise: data on the scale [0, 1], noise levels, metrics, linear and wavelet
baselines. Noise levels sigma are standard deviations on that scale; a denoiser is a module that is called with
noisy images (n, 1, h, w) and their noise levels (n, 1, 1, 1) and estimates the *noise*.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairsweep.trainables.base import OWN, DataError
from fairsweep.trainables.datasets import contours, faces, images
from fairsweep.trainables.datasets.own import pictures
from fairsweep.trainables.parts import PARTS, Members, consecutive, identity, row_numbers

SYNTHETIC_SIDE = 32
SYNTHETIC_HELD_OUT = 100  # validation images, and as many test images
# Images without classes.
ALONE: Mapping[str, Callable[[Path | None], faces.Faces]] = {"celeba": faces.celeba, OWN: pictures.alone}
DATASETS = ("digits", "mnist5k", "fashion_mnist", "celeba", "synthetic_c_alpha", "synthetic_discs", OWN)


# ---- data ----


def _scaled(pixels: np.ndarray, levels: int) -> Tensor:
    """uint8 (n, 1, h, w) -> float32 in [0, 1] with sides that three halvings divide: 8 -> 16, 28 -> 32."""
    x = torch.tensor(pixels).float() / levels
    if x.shape[-1] == 8:
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    missing = -x.shape[-1] % 8
    return F.pad(x, (missing // 2, missing - missing // 2) * 2)


@lru_cache(maxsize=2)
def _image_parts(name: str, data_dir: Path | None) -> tuple[Tensor, Tensor, Tensor, Members]:
    """Images of the pool to train on, to validate and to test; and their numbers, the pool's under "train"."""
    if name in ALONE:
        found = ALONE[name](data_dir)
        parts, levels = [found.train_images, found.validation_images, found.test_images], 255
        numbers = list(consecutive({part: len(of) for part, of in zip(PARTS, parts, strict=True)}).values())
    else:
        data = images.load(name, data_dir)
        levels = data.levels
        if name == "digits":
            # No public split, and two training sets of 800 leave 197 of the 1797 images, not 600 for a test.
            pixels = np.concatenate([data.train_images, data.test_images])
            labels = np.concatenate([data.train_labels, data.test_labels])
            keep, out = images.stratified_split(labels, 197)
            numbers = [keep, out[::2], out[1::2]]
        else:
            keep, out = data.split()
            pixels = np.concatenate([data.train_images, data.test_images])
            numbers = [keep, out, np.arange(len(data.train_images), len(pixels))]
        parts = [pixels[chosen] for chosen in numbers]
    pool, validation, test = (_scaled(part, levels) for part in parts)
    return pool, validation, test, Members(identity(*parts), dict(zip(PARTS, numbers, strict=True)))


@lru_cache(maxsize=4)
def _synthetic(name: str, n: int, alpha: float, seed: int) -> Tensor:
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(7,)))
    if name == "synthetic_discs":
        return torch.tensor(contours.discs(n, SYNTHETIC_SIDE, rng))
    return torch.tensor(contours.c_alpha(n, SYNTHETIC_SIDE, alpha, rng))


class DenoisingTask:
    """Two disjoint training sets of `n_train` images each, validation and test images: (n, 1, side, side).

    The training sets are drawn from the training images by `rng`; validation and test images are the same for
    every trial. Of one's own images half are drawn each, if there are fewer. `shuffled`: one permutation of the pixels,
    the same for all images and trials, takes their geometry away and leaves every one-pixel and two-pixel statistic.
    `alpha`: regularity of `synthetic_c_alpha`. `subsets` are the indices of the two sets among the training images.
    """

    def __init__(
        self,
        name: str,
        data_dir: Path | None,
        device: str,
        n_train: int,
        rng: np.random.Generator,
        shuffled: bool = False,
        alpha: float = 2.0,
    ) -> None:
        if name not in DATASETS:
            raise DataError(f"data={name}: unknown for denoising; known: {', '.join(DATASETS)}")
        if name.startswith("synthetic_"):
            # Seeds 0 and 1 are the held-out parts; a trial's own training images have others.
            pool = _synthetic(name, 2 * n_train, alpha, int(rng.integers(2, 2**31)))
            validation, test = (_synthetic(name, SYNTHETIC_HELD_OUT, alpha, seed) for seed in (0, 1))
            made = zip(PARTS, (pool, validation, test), strict=True)
            known = Members(name, {part: row_numbers(images.numpy()) for part, images in made})
        else:
            pool, validation, test, known = _image_parts(name, data_dir)
        if name == OWN:
            n_train = min(n_train, len(pool) // 2)
        if not 1 <= n_train <= len(pool) // 2:
            raise ValueError(
                f"n_train={n_train}: data={name} has {len(pool)} training images, so that each of the two"
                f" disjoint sets can have 1 to {len(pool) // 2}"
            )
        order = rng.permutation(len(pool))
        self.subsets = order[:n_train], order[n_train : 2 * n_train]
        self._known = known
        self.side = pool.shape[-1]
        pixels = np.arange(self.side**2)
        if shuffled:
            pixels = np.random.default_rng(0).permutation(pixels)

        def placed(x: Tensor) -> Tensor:
            return x.flatten(1)[:, pixels].view_as(x).to(device)

        self.train = tuple(placed(pool[subset]) for subset in self.subsets)
        self.validation, self.test = placed(validation), placed(test)

    def members(self) -> Members:
        """Images of each part, both training sets together; however their pixels lie."""
        train = self._known.examples["train"][np.concatenate(self.subsets)]
        return Members(self._known.data, {**self._known.examples, "train": train})

    def batch(self, which: int, size: int) -> Tensor:
        """`size` images drawn with replacement from training set `which` (0 or 1), by PyTorch's generator."""
        images = self.train[which]
        return images[torch.randint(len(images), (size,), device=images.device)]


# ---- noise and metrics ----


def noise_levels(n: int, maximum: float, law: str, device: str | torch.device) -> Tensor:
    """`n` noise levels (n, 1, 1, 1) on [0, maximum]: `uniform`, or `quadratic` with uniform square roots."""
    if law not in ("uniform", "quadratic"):
        raise ValueError(f"noise_law={law}: known are uniform, quadratic")
    u = torch.rand(n, 1, 1, 1, device=device)
    return maximum * (u if law == "uniform" else u.square())


def fixed_noise(x: Tensor, seed: int = 0) -> Tensor:
    """Standard normal noise of the shape of x that depends on nothing but the shape and `seed`."""
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).to(x.device)


@torch.no_grad()
def denoise(denoiser: nn.Module, y: Tensor, sigma: float, size: int = 256) -> Tensor:
    """y - f(y): the denoised images of y (n, 1, h, w), which have noise of level `sigma`."""
    level = torch.full((1, 1, 1, 1), sigma, device=y.device)
    return torch.cat([part - denoiser(part, level.expand(len(part), 1, 1, 1)) for part in y.split(size)])


def psnr(clean: Tensor, denoised: Tensor) -> float:
    """Mean over the images of -10 log10(mean squared error), dB: peak 1, the images' scale."""
    error = (clean - denoised).square().flatten(1).mean(1)
    return (-10 * torch.log10(error.clamp_min(1e-12))).mean().item()


def denoised_psnr(denoiser: nn.Module, x: Tensor, sigma: float, at_least: int = 100) -> float:
    """PSNR (dB) of the images x after noise of level `sigma` and `denoiser`; few images are used repeatedly."""
    x = x.repeat(math.ceil(at_least / len(x)), 1, 1, 1)
    return psnr(x, denoise(denoiser, x + sigma * fixed_noise(x), sigma))


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosines (n,) of the angles between the images of a and of b (n, or 1 for all), each less its own mean.

    0 where one of the two has no contrast.
    """
    a, b = (x.flatten(1) - x.flatten(1).mean(1, keepdim=True) for x in (a, b))
    return F.cosine_similarity(a, b, dim=1)


def agreement(a: nn.Module, b: nn.Module, x: Tensor, sigma: float) -> float:
    """Mean cosine between what the denoisers a and b make of the images x under noise of level `sigma`."""
    y = x + sigma * fixed_noise(x)
    return cosine(denoise(a, y, sigma), denoise(b, y, sigma)).mean().item()


# ---- classical denoisers, told the noise level ----


class Wiener(nn.Module):
    """The best linear denoiser of images with the mean and covariance C of the `images` it is fitted to.

    x = mean + C (C + s sigma^2)^-1 (y - mean); the strength s, 1 in theory, is the one trained parameter.
    """

    mean: Tensor
    variances: Tensor
    basis: Tensor

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        flat = images.flatten(1)
        centred = (flat - flat.mean(0)).double()
        variances, basis = torch.linalg.eigh(centred.T @ centred / len(flat))
        self.register_buffer("mean", flat.mean(0))
        self.register_buffer("variances", variances.clamp_min(0).float())
        self.register_buffer("basis", basis.float())
        self.log_strength = nn.Parameter(torch.zeros(()))

    def forward(self, y: Tensor, sigma: Tensor) -> Tensor:
        noise = self.log_strength.exp() * sigma.flatten(1).square() + 1e-12
        noise_share = noise / (self.variances + noise)
        return (((y.flatten(1) - self.mean) @ self.basis * noise_share) @ self.basis.T).view_as(y)


def haar(x: Tensor) -> tuple[Tensor, Tensor]:
    """One level of the orthonormal Haar transform: (n, 1, h, w) -> (n, 1, h/2, w/2), (n, 3, h/2, w/2)."""
    a, b, c, d = F.pixel_unshuffle(x, 2).split(1, 1)
    return (a + b + c + d) / 2, torch.cat([a - b + c - d, a + b - c - d, a - b - c + d], 1) / 2


def inverse_haar(low: Tensor, details: Tensor) -> Tensor:
    """The image (n, 1, h, w) of the low-pass and the details that `haar` gives."""
    h, v, d = details.split(1, 1)
    parts = torch.cat([low + h + v + d, low - h + v - d, low + h - v - d, low - h - v + d], 1) / 2
    return F.pixel_shuffle(parts, 2)


class WaveletThreshold(nn.Module):
    """Soft thresholding of Haar details on `levels` scales at strength * sigma (Donoho and Johnstone 1994).

    The strength starts at the universal sqrt(2 log n) of images of n pixels; it is the one trained parameter.
    """

    def __init__(self, side: int, levels: int = 3) -> None:
        super().__init__()
        self.levels = levels
        self.log_strength = nn.Parameter(torch.tensor(0.5 * math.log(2 * math.log(side**2))))

    def forward(self, y: Tensor, sigma: Tensor) -> Tensor:
        threshold, low, all_details = self.log_strength.exp() * sigma, y, []
        for _ in range(self.levels):
            low, details = haar(low)
            all_details.append(details.sign() * (details.abs() - threshold).clamp_min(0))
        for details in reversed(all_details):
            low = inverse_haar(low, details)
        return y - low
