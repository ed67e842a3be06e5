"""Parts of vision transformers: windows, shifts and patch merging (Swin, Liu et al. 2021), patch expanding
(Swin-Unet, Cao et al. 2021), channel attention (XCiT, El-Nouby et al. 2021).

Tokens of a map of side x side are (b, side^2, c), row by row.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def window_partition(x: Tensor, window: int) -> Tensor:
    """Maps (b, h, w, c) -> windows (b h w / window^2, window^2, c); `window` divides h and w."""
    b, h, w, c = x.shape
    x = x.view(b, h // window, window, w // window, window, c).transpose(2, 3)
    return x.reshape(-1, window * window, c)


def window_reverse(windows: Tensor, window: int, side: int) -> Tensor:
    """The inverse for square maps: windows -> (b, side, side, c)."""
    n, c = side // window, windows.shape[-1]
    return windows.view(-1, n, n, window, window, c).transpose(2, 3).reshape(-1, side, side, c)


def forbidden_pairs(side: int, padded: int, window: int, shift: int) -> Tensor:
    """Which token must not attend to which: bool (windows, window^2, window^2).

    After the roll by -`shift`, tokens that came round the border are strangers to those that did not, and
    those with which a map of `side` was filled up to `padded` are strangers to its own.
    """
    place = torch.arange(padded)
    original, wrapped = (place + shift) % padded, place + shift >= padded
    filler = original >= side
    region = 4 * (filler[:, None] | filler) + 2 * wrapped[:, None] + 1 * wrapped
    region = window_partition(region[None, :, :, None], window)
    return region != region.transpose(1, 2)


class DropPath(nn.Module):
    """Stochastic depth: in training, drops the whole branch of a sample with probability `rate`."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = torch.rand(len(x), *[1] * (x.dim() - 1), device=x.device) >= self.rate
        return x * keep / (1 - self.rate)


def mlp(dim: int) -> nn.Sequential:
    """The feed-forward part of every transformer block, ratio 4."""
    return nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))


class PatchMerging(nn.Module):
    """Halves the resolution: 2 x 2 tokens side by side, LayerNorm, linear 4c -> 2c."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm, self.reduce = nn.LayerNorm(4 * dim), nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        side = math.isqrt(n)
        return self.reduce(self.norm(window_partition(x.view(b, side, side, c), 2).view(b, n // 4, 4 * c)))


class PatchExpanding(nn.Module):
    """Multiplies the resolution by `scale`: linear dim -> scale^2 outputs, rearranged, LayerNorm."""

    def __init__(self, dim: int, outputs: int, scale: int) -> None:
        super().__init__()
        self.expand, self.norm = nn.Linear(dim, scale**2 * outputs, bias=False), nn.LayerNorm(outputs)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        windows = self.expand(x).view(b * n, self.scale**2, -1)
        grid = window_reverse(windows, self.scale, math.isqrt(n) * self.scale)
        return self.norm(grid.flatten(1, 2))


class ChannelAttention(nn.Module):
    """XCiT block: attention between channels, local patch interaction, MLP, each with a LayerScale of 1e-5."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.scales = nn.ParameterList(torch.full((dim,), 1e-5) for _ in range(3))
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv, self.proj, self.mlp = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim), mlp(dim)
        self.local = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1, groups=dim),
            nn.GELU(),
            nn.BatchNorm2d(dim),
            nn.Conv2d(dim, dim, 3, padding=1, groups=dim),
        )

    def cross_covariance(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (b, n, c) -> (tokens, attention (b, heads, c / heads, c / heads))."""
        b, n, c = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 4, 1)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        attention = (q @ k.transpose(-2, -1) * self.temperature).softmax(-1)
        return self.proj((attention @ v).permute(0, 3, 1, 2).reshape(b, n, c)), attention

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        side = math.isqrt(n)
        x = x + self.scales[0] * self.cross_covariance(self.norms[0](x))[0]
        grid = self.norms[1](x).transpose(1, 2).reshape(b, c, side, side)
        x = x + self.scales[1] * self.local(grid).flatten(2).transpose(1, 2)
        return x + self.scales[2] * self.mlp(self.norms[2](x))


def initialise(module: nn.Module) -> None:
    """Linear layers start from a normal distribution of deviation 0.02, cut off, and no bias; for `Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
