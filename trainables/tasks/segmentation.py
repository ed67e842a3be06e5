"""Binary segmentation of images: parts, batches, the usual loss and the pixel metrics."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairsweep.search_spaces.interface import Interface
from fairsweep.trainables.base import Metric
from fairsweep.trainables.datasets import segmentation as data_sets
from fairsweep.trainables.parts import Members, consecutive, identity
from fairsweep.trainables.tasks.training import Mean
from fairsweep.trainables.tasks.workers import batch_sum, workers

METRICS = (
    Metric("val_dice", "max", "validation", "fraction"),
    Metric("val_loss", "min", "validation", "nats"),
    Metric("train_loss", "min", "train"),
    Metric("test_dice", "max", "test", "fraction"),
    Metric("test_sensitivity", "max", "test", "fraction"),
    Metric("test_specificity", "max", "test", "fraction"),
    Metric("test_accuracy", "max", "test", "fraction"),
)

EXAMPLES = 4  # that a network is handed over with, to be compared on


def dice_loss(logits: Tensor, masks: Tensor, smooth: float = 1e-5) -> Tensor:
    """1 - 2 sum(p t) / (sum(p^2) + sum(t^2)) over all pixels of a batch, p = sigmoid(logits), t = masks."""
    p, t = torch.sigmoid(logits), masks.float()
    both, found, true = batch_sum(torch.stack([(p * t).sum(), p.square().sum(), t.sum()]))
    return 1 - (2 * both + smooth) / (found + true + smooth)


def segmentation_loss(logits: Tensor, masks: Tensor, dice_weight: float) -> Tensor:
    """(1 - w) cross-entropy + w Dice loss of logits (b, h, w) against masks (b, h, w)."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, masks.float())
    return (1 - dice_weight) * cross_entropy + dice_weight * dice_loss(logits, masks)


def scores(hits: float, false_alarms: float, misses: float, rejections: float) -> dict[str, float]:
    """Dice, sensitivity, specificity and accuracy out of the four counts of pixels.

    A rate over no pixels at all counts as 1: nothing was to be found and nothing was missed.
    """

    def rate(part: float, whole: float) -> float:
        return part / whole if whole else 1.0

    return {
        "dice": rate(2 * hits, 2 * hits + false_alarms + misses),
        "sensitivity": rate(hits, hits + misses),
        "specificity": rate(rejections, rejections + false_alarms),
        "accuracy": rate(hits + rejections, hits + false_alarms + misses + rejections),
    }


@lru_cache(maxsize=2)
def _tensors(name: str, data_dir: Path | None, device: str) -> dict[str, tuple[Tensor, Tensor]]:
    data = data_sets.load(name, data_dir)
    return {
        part: (
            torch.tensor(data.images[part], device=device),
            torch.tensor(data.masks[part], device=device),
        )
        for part in data.images
    }


@lru_cache(maxsize=2)
def _members(name: str, data_dir: Path | None) -> Members:
    data = data_sets.load(name, data_dir)
    whole = identity(*(of[part] for of in (data.images, data.masks) for part in sorted(data.images)))
    return Members(whole, consecutive({part: len(images) for part, images in data.images.items()}))


@lru_cache(maxsize=8)
def _moments(name: str, data_dir: Path | None, device: str) -> tuple[Tensor, Tensor]:
    # Images one by one in double precision: all of ISIC at once would be gigabytes.
    pixels = [image.double().flatten(1) for image in _tensors(name, data_dir, device)["train"][0]]
    mean = torch.stack([p.mean(1) for p in pixels]).mean(0)
    square = torch.stack([p.square().mean(1) for p in pixels]).mean(0)
    deviation = (square - mean.square()).sqrt()
    return mean.float().view(-1, 1, 1), deviation.float().view(-1, 1, 1)


class SegmentationTask:
    """One data set on one device. Pixels are standardised with the moments of the training part.

    Metrics count the pixels of a whole part together (the F-measure that the authors of the skin lesion papers
    report as Dice score), so that an image without foreground needs no rule of its own.
    """

    def __init__(self, name: str, data_dir: Path | None, device: str) -> None:
        self.name, self.folder = name, data_dir
        self.parts = _tensors(name, data_dir, device)
        self.mean, self.deviation = _moments(name, data_dir, device)
        self.channels, self.side = self.parts["train"][0].shape[1:3]

    def members(self) -> Members:
        """Images of each part, each a set of its own."""
        return _members(self.name, self.folder)

    def standardise(self, pixels: Tensor) -> Tensor:
        """uint8 pixels -> float32 of mean 0 and deviation 1 over the training part."""
        return (pixels.float() - self.mean) / self.deviation

    def interface(self) -> Interface:
        """What a network that was trained on this takes and gives."""
        return Interface(
            self.parts["test"][0][:EXAMPLES].cpu(),
            "pixels in 0..255",
            self.name,
            self.mean.cpu()[None],
            self.deviation.cpu()[None],
            gives="logits of the foreground (batch, height, width)",
            parts={part: len(masks) for part, (_, masks) in self.parts.items()},
        )

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of shuffled training batches: images (b, c, h, w) float32, masks (b, h, w) bool.

        A last batch of a single image is left out: batch statistics of one image are no statistics.
        """
        images, masks = self.parts["train"]
        for chosen in torch.randperm(len(masks)).to(masks.device).split(size):
            if len(chosen) == 1 and len(masks) > 1:
                return
            yield self.standardise(images[chosen]), masks[chosen]

    @torch.no_grad()
    def evaluate(self, net: nn.Module, part: str, size: int = 100) -> dict[str, float]:
        """`scores` of `net` in evaluation mode on `part`, pixels of logit > 0 being foreground, and `loss`,
        its mean cross-entropy (nats). Several workers must all ask: each goes through its share of the images."""
        group = workers(self.parts[part][1].device)
        images, masks = (group.part(tensor) for tensor in self.parts[part])
        net.eval()
        loss, counts = Mean(group), torch.zeros(4, dtype=torch.float64, device=masks.device)
        for pixels, truth in zip(images.split(size), masks.split(size), strict=True) if len(masks) else ():
            logits = net(self.standardise(pixels))
            found = logits > 0
            loss.add(F.binary_cross_entropy_with_logits(logits, truth.float()), len(truth))
            cells = (found & truth, found & ~truth, ~found & truth, ~found & ~truth)
            counts += torch.stack([cell.sum() for cell in cells])
        return {**scores(*group.totals(*counts.tolist())), "loss": loss.value}

    def declared(self, net: nn.Module, part: str, prefix: str) -> dict[str, float]:
        """Those of `evaluate` on `part` that `METRICS` declares under <prefix>_<name>, by that name."""
        names = {m.name for m in METRICS}
        found = {f"{prefix}_{name}": value for name, value in self.evaluate(net, part).items()}
        return {name: value for name, value in found.items() if name in names}


class UNet(nn.Module):
    """The baseline of segmentation papers (Ronneberger et al. 2015): images (b, c, h, w) -> logits (b, h, w).

    `levels` resolutions of two 3x3 convolutions each, of width, 2 width, ... channels; padded, with batch
    normalisation, so that the output has the size of the input.
    """

    def __init__(self, channels: int, width: int, levels: int) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(levels)]
        inputs = [channels, *widths[:-1]]
        self.down = nn.ModuleList(map(self._twice, inputs, widths))
        self.expand = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, 2) for w in widths[:-1])
        self.up = nn.ModuleList(self._twice(2 * w, w) for w in widths[:-1])
        self.output = nn.Conv2d(width, 1, 1)

    @staticmethod
    def _twice(inputs: int, outputs: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for i in (inputs, outputs):
            layers += [nn.Conv2d(i, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        return nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        x, skips = self.down[0](images), []
        for block in self.down[1:]:
            skips.append(x)
            x = block(F.max_pool2d(x, 2))
        for i in reversed(range(len(self.up))):
            x = self.up[i](torch.cat([skips[i], self.expand[i](x)], 1))
        return self.output(x).squeeze(1)
