"""Blocks, necks and heads of networks for images, as classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.search_spaces.pruning.zoo.cases import case, images, pooled


@case(images())
class CrossStage(nn.Module):
    """A cross-stage block: halves by chunk, each result appended, all joined."""

    def __init__(self, width: int = 6, depth: int = 2) -> None:
        super().__init__()
        self.stem, self.enter = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2 * width, 1)
        self.blocks = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))
        self.leave = nn.Conv2d((2 + depth) * width, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.enter(F.silu(self.stem(x))).chunk(2, 1))
        for block in self.blocks:
            parts.append(F.silu(block(parts[-1])) + parts[-1])
        return pooled(self.leave(torch.cat(parts, 1)))


@case(images())
class SpatialPyramid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 1), nn.Conv2d(24, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = [F.silu(self.a(x))]
        for _ in range(3):
            parts.append(F.max_pool2d(parts[-1], 5, 1, 2))
        return pooled(self.b(torch.cat(parts, 1)))


@case(images(side=16))
class DistributedBoxes(nn.Module):
    """Boxes as expectations over bins, read by a convolution of fixed weights; anchors made in the forward pass."""

    def __init__(self, bins: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.bins, self.classes = bins, classes
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.down = nn.Conv2d(8, 8, 3, 2, 1)
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 6, 3, padding=1), nn.SiLU(), nn.Conv2d(6, 4 * bins + classes, 1))
            for _ in (0, 1)
        )
        self.expect = nn.Conv2d(bins, 1, 1, bias=False).requires_grad_(False)
        self.expect.weight.data[:] = torch.arange(bins).view(1, bins, 1, 1).float()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a = F.silu(self.stem(x))
        maps = [head(y) for head, y in zip(self.heads, (a, F.silu(self.down(a))), strict=True)]
        found = torch.cat([m.view(m.shape[0], 4 * self.bins + self.classes, -1) for m in maps], 2)
        boxes, scores = found.split((4 * self.bins, self.classes), 1)
        b, _, n = boxes.shape
        distances = self.expect(boxes.view(b, 4, self.bins, n).transpose(2, 1).softmax(1)).view(b, 4, n)
        points = torch.cat(
            [
                torch.stack(
                    torch.meshgrid(torch.arange(m.shape[2]), torch.arange(m.shape[3]), indexing="ij")
                ).flatten(1)
                for m in maps
            ],
            1,
        )
        low, high = distances.chunk(2, 1)
        return torch.cat([points - low, points + high], 1), scores.sigmoid()


@case(images(side=16))
class MultiBox(nn.Module):
    """Boxes and scores of several maps, channels last and flattened, as in single-shot detectors."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 10, 3, 2, 1)
        self.boxes = nn.ModuleList(nn.Conv2d(n, 3 * 4, 3, padding=1) for n in (8, 10))
        self.scores = nn.ModuleList(nn.Conv2d(n, 3 * 5, 3, padding=1) for n in (8, 10))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        a = F.relu(self.a(x))
        maps = (a, F.relu(self.b(a)))
        boxes = [
            f(m).permute(0, 2, 3, 1).contiguous().view(len(x), -1, 4)
            for f, m in zip(self.boxes, maps, strict=True)
        ]
        scores = [
            f(m).permute(0, 2, 3, 1).reshape(len(x), -1, 5) for f, m in zip(self.scores, maps, strict=True)
        ]
        return {"boxes": torch.cat(boxes, 1), "scores": torch.cat(scores, 1).softmax(-1)}


@case(images(side=16))
class PyramidNeck(nn.Module):
    """A feature pyramid with lateral sums and learned, normalised weights of what is fused."""

    def __init__(self) -> None:
        super().__init__()
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in ((3, 6), (6, 8), (8, 10)))
        self.lateral = nn.ModuleList(nn.Conv2d(n, 7, 1) for n in (6, 8, 10))
        self.out = nn.ModuleList(nn.Conv2d(7, 5, 3, padding=1) for _ in range(3))
        self.weight = nn.Parameter(torch.ones(2, 2))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for down in self.downs:
            x = F.relu(down(x))
            maps.append(x)
        tops = [f(m) for f, m in zip(self.lateral, maps, strict=True)]
        weight = F.relu(self.weight)
        weight = weight / (weight.sum(0) + 1e-4)
        for k in (1, 0):
            up = F.interpolate(tops[k + 1], size=tops[k].shape[-2:])
            tops[k] = weight[0, k] * tops[k] + weight[1, k] * up
        return [f(t) for f, t in zip(self.out, tops, strict=True)]


@case(lambda n: (torch.randn(n, 3, 16, 16), torch.randint(50, (n,))))
class TimeUNet(nn.Module):
    """A U-Net with joined skips, group norms and a shift and scale by an embedding of time."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.width = width
        self.time = nn.Sequential(nn.Linear(width, 16), nn.SiLU(), nn.Linear(16, 4 * width))
        self.enter = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.norm, self.middle = nn.GroupNorm(4, 2 * width), nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.up, self.leave = (
            nn.ConvTranspose2d(2 * width, width, 2, 2),
            nn.Conv2d(2 * width, 3, 3, padding=1),
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        rates = torch.exp(-torch.arange(self.width // 2) * 0.5)
        angles = t[:, None].float() * rates
        scale, shift = self.time(torch.cat([angles.sin(), angles.cos()], 1))[:, :, None, None].chunk(2, 1)
        a = self.enter(x)
        b = self.down(F.silu(a))
        b = b + self.middle(F.silu(self.norm(b) * (1 + scale) + shift))
        return self.leave(torch.cat([self.up(F.silu(b)), a], 1))


@case(lambda n: (torch.randn(n * 4, 3, 8, 8),))
class TemporalShift(nn.Module):
    """A part of the channels of each frame from the frame before, another from the one after."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Linear(8, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.a(x))
        z = y.view(-1, 4, *y.shape[1:])
        fold = z.shape[2] // 4
        out = torch.zeros_like(z)
        out[:, :-1, :fold] = z[:, 1:, :fold]
        out[:, 1:, fold : 2 * fold] = z[:, :-1, fold : 2 * fold]
        out[:, :, 2 * fold :] = z[:, :, 2 * fold :]
        y = y + self.b(out.view(y.shape))
        return self.head(pooled(y)).view(-1, 4, 3).mean(1)


@case(images())
class DeformableSampling(nn.Module):
    """Maps read where a convolution says, by bilinear sampling."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.offset, self.b = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(3, 2, 3, padding=1),
            nn.Conv2d(8, 3, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.a(x))
        line = torch.linspace(-1, 1, x.shape[-1])
        grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)[None]
        places = grid + 0.1 * self.offset(x).permute(0, 2, 3, 1)
        return self.b(F.grid_sample(y, places, align_corners=True)).mean((2, 3))


@case(lambda n: (torch.randint(256, (n, 3, 8, 8), dtype=torch.uint8),))
class BytesIn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 3, 3)
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return pooled(self.b(F.relu(self.a(x.float() / 255 - self.mean))))


@case(images())
class Reparameterised(nn.Module):
    """Branches of kernels 3 and 1 and of none, each with a norm, summed; two such blocks share a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.three = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.one = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.none, self.head = nn.BatchNorm2d(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.stem(x))
        y = F.relu(self.three(x) + self.one(x) + self.none(x))
        return self.head(pooled(x)), self.head(pooled(y))


@case(images())
class DynamicKernel(nn.Module):
    """Kernels that are a mixture by the input, applied with the batch as groups."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.gate = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 3)
        self.kernels, self.b = nn.Parameter(torch.randn(3, 6, 4, 3, 3) * 0.2), nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.a(x))
        kernel = torch.einsum("bk,koihw->boihw", self.gate(pooled(y)).softmax(-1), self.kernels)
        z = F.conv2d(y.reshape(1, -1, *y.shape[2:]), kernel.flatten(0, 1), padding=1, groups=len(x))
        return pooled(self.b(F.relu(z.view(len(x), -1, *z.shape[2:]))))


@case(images())
class Standardised(nn.Module):
    """Weights standardised before they are used, and a parallel wrapper around all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        w = self.a.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return pooled(self.b(F.relu(F.conv2d(x, w, self.a.bias))))


@case(images())
class Ghost(nn.Module):
    """Cheap maps made of others and joined, cut back to how many were asked for."""

    def __init__(self, width: int = 7) -> None:
        super().__init__()
        self.width, half = width, (width + 1) // 2
        self.a, self.cheap = nn.Conv2d(3, half, 1), nn.Conv2d(half, half, 3, padding=1, groups=half)
        self.norm, self.b = nn.BatchNorm2d(width), nn.Conv2d(width, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.a(x))
        y = torch.cat([y, self.cheap(y)], 1)[:, : self.width]
        return pooled(self.b(F.relu(self.norm(y))))
