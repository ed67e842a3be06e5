"""Synthetic images of known regularity: C^alpha contours between C^alpha backgrounds, and discs.

The generators of Kadkhodaie et al. (ICLR 2024, arXiv:2310.02557, section 3 and appendix) as described there.
All images are float32 in [0, 1], of shape (n, 1, side, side).
"""

from __future__ import annotations

import numpy as np


def _power_law(radius: np.ndarray, exponent: float) -> np.ndarray:
    """radius^-exponent, where frequency 0 has the gain of the lowest other one (cycles per image: 1)."""
    return np.maximum(radius, 1.0) ** -exponent


def contours(n: int, side: int, alpha: float, rng: np.random.Generator) -> np.ndarray:
    """`n` random periodic curves of regularity alpha, (n, side), as heights relative to the side.

    Uniform noise on [-1, 1] whose frequency f (cycles per image) is scaled by f^-alpha.
    """
    gain = _power_law(np.abs(np.fft.fftfreq(side) * side), alpha)
    return np.fft.ifft(np.fft.fft(rng.uniform(-1, 1, (n, side))) * gain).real


def backgrounds(n: int, side: int, beta: float, rng: np.random.Generator) -> np.ndarray:
    """`n` textures of power spectrum |f|^(-2 beta), (n, side, side): uniform noise filtered as the contours."""
    frequency = np.fft.fftfreq(side) * side
    gain = _power_law(np.hypot(frequency[:, None], frequency[None]), beta)
    return np.fft.ifft2(np.fft.fft2(rng.uniform(-1, 1, (n, side, side))) * gain).real


def _rescale(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Each image of (n, side, side) mapped linearly onto its own [low, high]."""
    bottom, top = x.min((1, 2), keepdims=True), x.max((1, 2), keepdims=True)
    return low + (high - low) * (x - bottom) / (top - bottom)


def c_alpha(n: int, side: int, alpha: float, rng: np.random.Generator) -> np.ndarray:
    """A contour of regularity alpha and on either side of it a texture of the same regularity.

    One texture fills [u, 1] and the other [0, v], u and v uniform on [0, 1]; which is above is a coin toss.
    The mask between them is blurred by a 2 x 2 average.
    """
    if not alpha > 0:
        raise ValueError(f"alpha={alpha}: the regularity must be positive")
    above, below = (backgrounds(n, side, alpha, rng) for _ in range(2))
    bright = rng.random((n, 1, 1)) < 0.5
    u, v = rng.random((2, n, 1, 1))
    zero, one = np.zeros_like(u), np.ones_like(u)
    above = _rescale(above, np.where(bright, u, zero), np.where(bright, one, v))
    below = _rescale(below, np.where(bright, zero, u), np.where(bright, v, one))
    height = np.round(contours(n, side, alpha, rng) * side) + side // 2
    mask = (np.arange(side)[:, None] < height[:, None, :]).astype(np.float64)
    mask = np.pad(mask, ((0, 0), (1, 0), (1, 0)), mode="reflect")
    mask = (mask[:, 1:, 1:] + mask[:, :-1, 1:] + mask[:, 1:, :-1] + mask[:, :-1, :-1]) / 4
    return (mask * above + (1 - mask) * below)[:, None].astype(np.float32)


def discs(n: int, side: int, rng: np.random.Generator, oversampling: int = 4) -> np.ndarray:
    """One disc an image: centre (2), radius and two grey values, so a manifold of five dimensions.

    The disc lies wholly in the image; its radius is between an eighth and three eighths of the side. Pixels
    are averages of `oversampling`^2 points.
    """
    radius = rng.uniform(side / 8, 3 * side / 8, n)
    row, column = radius + (side - 2 * radius) * rng.random((2, n))
    inner, outer = rng.random((2, n, 1, 1))
    at = (np.arange(side * oversampling) + 0.5) / oversampling
    images = np.empty((n, 1, side, side), np.float32)
    for i in range(n):
        inside = (at[:, None] - row[i]) ** 2 + (at[None] - column[i]) ** 2 <= radius[i] ** 2
        share = inside.reshape(side, oversampling, side, oversampling).mean((1, 3))
        images[i, 0] = outer[i] + (inner[i] - outer[i]) * share
    return images
