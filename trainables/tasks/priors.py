"""Priors over data sets: Gaussian processes with their exact answers, and random neural networks.

Shapes: B sets of T points with p features; x (B, T, p), y (B, T). Draws come from PyTorch's global generators.
Linear algebra is in double precision: at the noise of these priors a Cholesky factor in single precision fails.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

# ---- Gaussian processes ----


class Kernel(NamedTuple):
    """RBF kernel and noise of B processes: k(a, b) = scale exp(-|a - b|^2 / (2 length^2)); each (B,)."""

    length: Tensor
    scale: Tensor
    noise: Tensor

    def covariance(self, a: Tensor, b: Tensor) -> Tensor:
        """k(a, b) without noise, (B, m, n), of a (B, m, p) and b (B, n, p)."""
        # Differences, not products: the distance of a point to itself must be 0.
        squared = (a[:, :, None] - b[:, None]).square().sum(-1)
        return self.scale[:, None, None] * torch.exp(-squared / (2 * self.length[:, None, None].square()))

    def factor(self, x: Tensor) -> Tensor:
        """Cholesky factor (B, n, n) of the covariance of noisy values at x (B, n, p)."""
        noise = (self.noise[:, None] + 1e-10).expand(x.shape[:2])
        return torch.linalg.cholesky(self.covariance(x, x) + torch.diag_embed(noise))


class Sets(NamedTuple):
    """B data sets: x (B, T, p), y (B, T), float32; `kernel` generated them, where a Gaussian process did."""

    x: Tensor
    y: Tensor
    kernel: Kernel | None = None


def posterior(kernel: Kernel, x: Tensor, y: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance, (B, q) float64, of noisy values at `queries` (B, q, p) given x (B, n, p), y (B, n)."""
    x, y, queries = x.double(), y.double(), queries.double()
    variance = (kernel.scale + kernel.noise)[:, None].expand(queries.shape[:2])
    if not y.shape[1]:
        return torch.zeros_like(variance), variance
    factor = kernel.factor(x)
    cross = torch.linalg.solve_triangular(factor, kernel.covariance(x, queries), upper=False)
    white = torch.linalg.solve_triangular(factor, y[..., None], upper=False)
    return (cross * white).sum(1), (variance - cross.square().sum(1)).clamp_min(1e-10)


def log_marginal_likelihood(kernel: Kernel, x: Tensor, y: Tensor) -> Tensor:
    """log p(y | x) of each set, (B,) float64, differentiable in the kernel."""
    factor = kernel.factor(x.double())
    white = torch.linalg.solve_triangular(factor, y.double()[..., None], upper=False)[..., 0]
    log_determinant = factor.diagonal(dim1=1, dim2=2).log().sum(1)
    return -0.5 * white.square().sum(1) - log_determinant - 0.5 * y.shape[1] * math.log(2 * math.pi)


# Shape and rate of the gamma distributions of length, scale and noise.
HYPERPRIOR = ((3.0, 6.0), (2.0, 2.0), (1.1, 11.0))


def _gamma(shape: float, rate: float, device: str | torch.device) -> torch.distributions.Gamma:
    shape_rate = torch.tensor([shape, rate], dtype=torch.float64, device=device)
    return torch.distributions.Gamma(*shape_rate)


@dataclass(frozen=True)
class GaussianProcessPrior:
    """Noisy RBF processes on [0, 1]: length 0.3, scale 1, noise 0.01, or each set's own if `mixed`.

    The mixture's length-scale is Gamma(3, 6), as in the authors' code (priors/fast_gp_mix.py); scale ~ Gamma(2, 2)
    and noise ~ Gamma(1.1, 11) have its shapes at means of 1 and 0.1, so that a set is more signal than noise.
    """

    mixed: bool = False
    features: int = 1
    centre: float = 0.5
    spread: float = 1 / math.sqrt(12)  # mean and deviation of a feature

    def kernels(self, batch: int, device: str = "cpu") -> Kernel:
        """Hyperparameters of `batch` processes."""
        if self.mixed:
            return Kernel(*(_gamma(*law, device).sample((batch,)).clamp_min(1e-3) for law in HYPERPRIOR))
        ones = torch.ones(batch, dtype=torch.float64, device=device)
        return Kernel(0.3 * ones, ones, 0.01 * ones)

    def log_prior(self, kernel: Kernel) -> Tensor | float:
        """log density of the mixture's hyperparameters, (B,); 0 where they are not drawn."""
        if not self.mixed:
            return 0.0
        laws = zip(HYPERPRIOR, kernel, strict=True)
        return torch.stack([_gamma(*law, values.device).log_prob(values) for law, values in laws]).sum(0)

    def draw(self, batch: int, size: int, device: str = "cpu") -> Sets:
        """`batch` sets of `size` points, each from one function of its own."""
        kernel = self.kernels(batch, device)
        x = torch.rand(batch, size, self.features, device=device)
        white = torch.randn(batch, size, 1, dtype=torch.float64, device=device)
        y = (kernel.factor(x.double()) @ white)[..., 0]
        return Sets(x, y.float(), kernel)


# ---- Bayesian neural networks (section 5.2 and priors/mlp.py of the authors' code) ----


def standardised(values: Tensor) -> Tensor:
    """`values` (B, T, ...) with mean 0 and deviation 1 over T."""
    return (values - values.mean(1, keepdim=True)) / (values.std(1, keepdim=True) + 1e-6)


def _between(low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, ()))


@dataclass(frozen=True)
class NeuralPrior:
    """Random MLPs of random architecture; the label is whether the noisy output exceeds its median.

    Every set has weights of its own; `group` sets share the architecture: 1 to 3 hidden layers of 8 to 64 units,
    tanh or ReLU, the number of features in use. In half of the groups the features are the network's inputs, in the
    others they are hidden units (features then depend on each other). Features not in use are 0, and
    the others are scaled up by their share, so that the input's size does not depend on it.
    """

    features: int
    group: int = 16
    centre: float = 0.0
    spread: float = 1.0

    def draw(self, batch: int, size: int, device: str = "cpu") -> Sets:
        """`batch` sets of `size` points; half of the labels of each are 1, up to one."""
        parts = [
            self._group(min(self.group, batch - start), size, device) for start in range(0, batch, self.group)
        ]
        return Sets(torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts]))

    def _group(self, batch: int, size: int, device: str) -> tuple[Tensor, Tensor]:
        used = _between(1, self.features)
        width = max(_between(8, 64), used)
        activation = (torch.tanh, torch.relu)[_between(0, 1)]

        def log_uniform(low: float, high: float) -> Tensor:
            u = torch.rand(batch, 1, 1, device=device)
            return torch.exp(math.log(low) + u * math.log(high / low))

        deviation, noise = log_uniform(0.5, 4.0), log_uniform(0.01, 0.5)
        kept = 1 - 0.5 * torch.rand(batch, 1, 1, device=device)
        h = inputs = torch.randn(batch, size, used, device=device)
        hidden = []
        for _ in range(_between(1, 3)):
            weight = torch.randn(batch, h.shape[2], width, device=device) * deviation / math.sqrt(h.shape[2])
            weight = weight * (torch.rand_like(weight) < kept) / kept.sqrt()
            h = activation(h @ weight + 0.5 * deviation * torch.randn(batch, 1, width, device=device))
            hidden.append(h)
        output = standardised(h @ torch.randn(batch, width, 1, device=device))[..., 0]
        output = output + noise[..., 0] * torch.randn_like(output)
        if _between(0, 1):
            units = torch.cat(hidden, 2)
            x = units[..., torch.randperm(units.shape[2])[:used].to(device)]
        else:
            x = inputs
        x = standardised(x) * (self.features / used)
        padding = torch.zeros(batch, size, self.features - used, device=device)
        return torch.cat([x, padding], 2), (output > output.median(1, keepdim=True)[0]).float()
