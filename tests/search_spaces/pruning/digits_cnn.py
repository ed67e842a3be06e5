"""A small CNN whose groups are written down by hand: what the optimisers are tested on, and traced groups against."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fairsweep.search_spaces.pruning.groups import Component, Member, Partition


class Net(nn.Module):
    """Stem, residual block, two convolutions, linear. Widths: of the first stage, the block's inside, the others."""

    def __init__(self, widths: tuple[int, int, int, int] = (6, 5, 8, 7), classes: int = 3) -> None:
        super().__init__()
        a, b, c, d = widths
        self.stem, self.stem_norm = nn.Conv2d(1, a, 3, padding=1, bias=False), nn.BatchNorm2d(a)
        self.conv1, self.norm1 = nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b)
        self.conv2, self.norm2 = nn.Conv2d(b, a, 3, padding=1, bias=False), nn.BatchNorm2d(a)
        self.conv3, self.norm3 = nn.Conv2d(a, c, 3, 2, padding=1, bias=False), nn.BatchNorm2d(c)
        self.conv4, self.norm4 = nn.Conv2d(c, d, 3, padding=1, bias=True), nn.BatchNorm2d(d)
        self.head = nn.Linear(d, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_norm(self.stem(x)).relu()
        x = (x + self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))).relu()
        x = self.norm3(self.conv3(x)).relu()
        x = self.norm4(self.conv4(x)).relu()
        return self.head(x.mean((2, 3)))


def component(net: nn.Module, name: str, *layers: str) -> Component:
    """One group a channel: row g of every parameter of `layers`."""
    values = dict(net.named_parameters())
    names = [n for n in values if n.rsplit(".", 1)[0] in layers]
    size = len(values[names[0]])
    rows = torch.arange(size)[:, None]
    return Component(name, size, tuple(Member(n, 0, rows) for n in names))


def partition(net: nn.Module) -> Partition:
    """The four components of `Net`: stem and block output are tied by the addition."""
    return Partition(
        (
            component(net, "trunk", "stem", "stem_norm", "conv2", "norm2"),
            component(net, "inner", "conv1", "norm1"),
            Component("output", 3, (), prunable=False, reason="emits the output"),
            component(net, "third", "conv3", "norm3"),
            component(net, "fourth", "conv4", "norm4"),
        )
    )


def batch(step: int, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Noise with a class-dependent offset, a function of `step`."""
    generator = torch.Generator().manual_seed(1000 + step)
    y = torch.randint(classes, (16,), generator=generator)
    x = torch.randn(16, 1, 6, 6, generator=generator)
    x[:, :, :2] += y.view(-1, 1, 1, 1).float()
    return x, y


def made(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def train(net: nn.Module, optimiser: torch.optim.Optimizer, steps: range) -> None:
    """Steps of cross-entropy on `batch`."""
    net.train()
    for step in steps:
        x, y = batch(step)
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimiser.step()
