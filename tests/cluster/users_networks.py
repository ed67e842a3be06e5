"""Networks as users bring them to `trainable=tests.cluster.users_networks:<function>`; digits of 8 x 8 go in.

Each is small, and in the style of what its users write: none was written for the tracer.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 10


class Rows(nn.Module):
    """A Transformer over the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Linear(8, 16), nn.Parameter(0.02 * torch.randn(1, 8, 16))
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x.squeeze(1)) + self.position
        return self.head(self.encoder(tokens).mean(1))


class Policy(nn.Module):
    """Looks at the rows that hold ink, and is not to choose what is illegal."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.score = nn.Linear(8, 24), nn.Linear(24, 1)
        self.hidden, self.value = nn.Linear(24, 32), nn.Linear(32, CLASSES)
        self.register_buffer("illegal", torch.zeros(CLASSES, dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        x = x.squeeze(1)
        blank = (x - x.amin((1, 2), keepdim=True)).sum(2) < 1e-3  # (batch, rows)
        h = torch.tanh(self.rows(x))
        weights = self.score(h).squeeze(2).masked_fill(blank, float("-inf")).softmax(1)
        h = (weights[:, None] @ h).squeeze(1)
        return self.value(F.relu(self.hidden(h))).masked_fill(self.illegal, -1e9)


class Pyramid(nn.Module):
    """The neck of a detector over three levels of a backbone: a list of maps."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        sizes = (8, 12, 16)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3, 1 if k == 0 else 2, 1, bias=False), nn.BatchNorm2d(o), nn.SiLU())
            for k, (i, o) in enumerate(zip((1, *sizes), sizes, strict=False))
        )
        self.lateral = nn.ModuleList(nn.Conv2d(s, width, 1) for s in sizes)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in sizes)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        found = [self.lateral[-1](maps[-1])]
        for level, lateral in zip(maps[-2::-1], self.lateral[-2::-1], strict=True):  # type: ignore[call-overload]
            upper = F.interpolate(found[-1], scale_factor=2.0, mode="nearest")
            found.append(lateral(level) + upper)
        return [smooth(level) for smooth, level in zip(self.smooth, found[::-1], strict=True)]


class Detector(nn.Module):
    """A pyramid, and what is on the image by all of its levels."""

    def __init__(self) -> None:
        super().__init__()
        self.neck, self.head = Pyramid(), nn.Linear(36, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([level.amax((2, 3)) for level in self.neck(x)], 1))


def frequencies(t: Tensor, size: int) -> Tensor:
    """Sines and cosines of times (batch,): (batch, size)."""
    steps = torch.exp(-math.log(1000.0) * torch.arange(size // 2, device=t.device) / (size // 2))
    angles = t[:, None].float() * steps[None]
    return torch.cat([angles.sin(), angles.cos()], 1)


class TimeUNet(nn.Module):
    """A U-Net whose levels are scaled and shifted by the time; gives its features."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(16, 24), nn.SiLU(), nn.Linear(24, 2 * width))
        self.enter = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.GroupNorm(4, width)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.middle = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.leave = nn.Conv2d(2 * width, width, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        scale, shift = self.time(frequencies(t, 16))[:, :, None, None].chunk(2, 1)
        first = F.silu(self.norm(self.enter(x)) * (1 + scale) + shift)
        deep = F.silu(self.middle(F.silu(self.down(first))))
        return F.silu(self.leave(torch.cat([self.up(deep), first], 1)))


class Noisy(nn.Module):
    """A class by the features of a U-Net at the time that the spread of the image says."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = TimeUNet(), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x, 100 * x.std((1, 2, 3))).amax((2, 3)))


class Recurrent(nn.Module):
    """A GRU that reads an image row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.gru = nn.Linear(8, 12), nn.GRU(12, 16, batch_first=True)
        self.hidden, self.head = nn.Linear(16, 24), nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        _, last = self.gru(F.relu(self.enter(x.squeeze(1))))
        return self.head(F.relu(self.hidden(last[0])))


class Window(nn.Module):
    """Attention within windows of 2 x 2 of a 4 x 4 map, shifted or not, with a bias by position; then an MLP."""

    def __init__(self, width: int, heads: int, shift: int) -> None:
        super().__init__()
        self.heads, self.shift = heads, shift
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.bias = nn.Parameter(torch.zeros(heads, 4, 4))
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        y = self.norm1(x)
        if self.shift:
            y = torch.roll(y, (-self.shift, -self.shift), (1, 2))
        y = y.view(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        q, k, v = self.qkv(y).view(len(y), 4, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]) + self.bias
        y = self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(len(y), 4, -1))
        y = y.view(b, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), (1, 2))
        x = x + y
        return x + self.mlp(self.norm2(x))


class Shifted(nn.Module):
    """Two windows' layers, the second shifted, over patches of 2 x 2."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 16, 2, 2)
        self.layers = nn.Sequential(Window(16, 2, 0), Window(16, 2, 1))
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(self.patches(x).permute(0, 2, 3, 1))
        return self.head(self.norm(x).mean((1, 2)))


class Tied(nn.Module):
    """Two layers of the same weights; the classes are compared with embeddings that the input is made with too."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = nn.Embedding(CLASSES, 24)
        nn.init.normal_(self.classes.weight, std=0.2)
        self.enter, self.block, self.leave = nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 24)
        self.out = nn.Linear(24, CLASSES, bias=False)
        self.out.weight = self.classes.weight

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.enter(x.flatten(1)))
        h = F.relu(self.block(F.relu(self.block(h))))
        guess = self.out(torch.tanh(self.leave(h))).softmax(1) @ self.classes.weight
        return self.out(torch.tanh(self.leave(h)) + guess)


class Pair(nn.Module):
    """Compares two inputs, (batch, 1, 4, 8) each."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(1, 8, 3, padding=1)
        self.head = nn.Linear(16 * 8, CLASSES)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        both = torch.cat([self.left(left).relu(), self.right(right).relu()], 1)
        return self.head(F.adaptive_avg_pool2d(both, (2, 4)).flatten(1))


class Halves(nn.Module):
    """A pair's two inputs are the halves of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()

    def forward(self, x: Tensor) -> Tensor:
        upper, lower = x.chunk(2, 2)
        return self.pair(upper, lower)


class Named(nn.Module):
    """Gives logits and features, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.head = nn.Conv2d(8, 16, 3, 2, 1), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.conv2(self.norm(self.conv1(x)).relu()).relu().mean((2, 3))
        return {"features": features, "logits": self.head(features)}


class Pixels(nn.Module):
    """Takes the pixels as they are stored."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.hidden, self.head = nn.Linear(12 * 16, 16), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.uint8:
            raise TypeError(f"pixels must be uint8, got {x.dtype}")
        x = x.float() / 16
        return self.head(self.hidden(F.max_pool2d(self.norm(self.conv(x)).relu(), 2).flatten(1)).relu())


def transformer() -> nn.Module:
    return Rows()


def policy() -> nn.Module:
    return Policy()


def detector() -> nn.Module:
    return Detector()


def neck() -> nn.Module:
    return Pyramid()


def noisy() -> nn.Module:
    return Noisy()


def denoiser() -> nn.Module:
    return TimeUNet()


def recurrent() -> nn.Module:
    return Recurrent()


def swin() -> nn.Module:
    return Shifted()


def tied() -> nn.Module:
    return Tied()


def pair() -> nn.Module:
    return Pair()


def halves() -> nn.Module:
    return Halves()


def named() -> nn.Module:
    return Named()


def pixels() -> nn.Module:
    return Pixels()
