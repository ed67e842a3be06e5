"""Image classification: splits, batches, augmentation and metrics shared by the vision papers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairsweep.search_spaces.interface import Interface
from fairsweep.trainables.base import Metric
from fairsweep.trainables.datasets import images
from fairsweep.trainables.parts import Members, identity
from fairsweep.trainables.tasks.workers import workers

METRICS = (
    Metric("val_accuracy", "max", "validation", "fraction"),
    Metric("val_loss", "min", "validation", "nats"),
    Metric("train_loss", "min", "train", "nats"),
    Metric("test_accuracy", "max", "test", "fraction"),
)
EXAMPLES = 8  # that a network is handed over with, to be compared on
_TEN = tuple(map(str, range(10)))
_CLOTHES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
_THINGS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CLASS_NAMES = {  # in the order of the labels, as the data sets' own pages give them
    **dict.fromkeys(("digits", "digits300", "mnist5k", "mnist"), _TEN),
    "fashion_mnist": _CLOTHES,
    "cifar10": _THINGS,
}
AUGMENTATIONS = ("standard", "none", "crop", "crop_flip")


@lru_cache(maxsize=2)
def _tensors(name: str, data_dir: Path | None, device: str) -> dict[str, tuple[Tensor, Tensor]]:
    data = images.load(name, data_dir)
    keep, held_out = data.split()
    parts = {
        "train": (data.train_images[keep], data.train_labels[keep]),
        "validation": (data.train_images[held_out], data.train_labels[held_out]),
        "test": (data.test_images, data.test_labels),
    }
    return {
        part: (torch.tensor(x, device=device), torch.tensor(y, device=device))
        for part, (x, y) in parts.items()
    }


@lru_cache(maxsize=4)
def _members(name: str, data_dir: Path | None) -> Members:
    data = images.load(name, data_dir)
    keep, held_out = data.split()
    test = len(data.train_labels) + np.arange(len(data.test_labels))
    return Members(
        identity(data.train_images, data.train_labels, data.test_images, data.test_labels),
        {"train": keep, "validation": held_out, "test": test},
    )


@lru_cache(maxsize=8)
def _moments(name: str, data_dir: Path | None, device: str) -> tuple[Tensor, Tensor]:
    pixels = _tensors(name, data_dir, device)["train"][0]
    # In chunks: all of CIFAR-10 in double precision would be more than a gigabyte.
    chunks = [chunk.double() for chunk in pixels.split(4096)]
    n = pixels.numel() / pixels.shape[1]
    mean = torch.stack([c.sum((0, 2, 3)) for c in chunks]).sum(0) / n
    square = torch.stack([c.square().sum((0, 2, 3)) for c in chunks]).sum(0) / n
    deviation = (square - mean.square()).sqrt()
    return mean.float().view(1, -1, 1, 1), deviation.float().view(1, -1, 1, 1)


def random_crop(pixels: Tensor, padding: int, generator: torch.Generator | None) -> Tensor:
    """Each image of (n, c, h, w), zero-padded by `padding`, cut back to h x w at a place of its own."""
    n, c, h, w = pixels.shape
    corners = torch.randint(2 * padding + 1, (2, n), generator=generator).to(pixels.device)
    rows = corners[0, :, None] + torch.arange(h, device=pixels.device)
    columns = corners[1, :, None] + torch.arange(w, device=pixels.device)
    image = torch.arange(n, device=pixels.device)[:, None, None, None]
    channel = torch.arange(c, device=pixels.device)[None, :, None, None]
    return F.pad(pixels, (padding,) * 4)[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def random_flip(pixels: Tensor, generator: torch.Generator | None) -> Tensor:
    """Each image of (n, c, h, w) mirrored left to right with probability one half."""
    mirrored = (torch.rand(len(pixels), generator=generator) < 0.5).to(pixels.device)
    return torch.where(mirrored[:, None, None, None], pixels.flip(3), pixels)


class ImageTask:
    """One data set on one device; training, validation and test parts are the same for every trial.

    The validation part is a stratified part of the public training images. Pixels are standardised with
    the mean and deviation of the training part, unless they are to stay `raw`. Batches and augmentations are drawn from
    `generator` (CPU), or from PyTorch's global one.
    """

    def __init__(
        self,
        name: str,
        data_dir: Path | None,
        device: str,
        augmentation: str = "standard",
        generator: torch.Generator | None = None,
        raw: bool = False,
    ) -> None:
        if augmentation not in AUGMENTATIONS:
            raise ValueError(f"augmentation={augmentation}: known are {', '.join(AUGMENTATIONS)}")
        data = images.load(name, data_dir)
        self.name = self.base = name
        self.folder = data_dir
        self.classes, self.levels = data.classes, data.levels
        self.names = data.names or CLASS_NAMES.get(name)
        self.channels, self.side = data.train_images.shape[1], data.train_images.shape[2]
        self.augmentation = data.augmentation if augmentation == "standard" else augmentation
        self.generator, self.raw = generator, raw
        self.parts = _tensors(name, data_dir, device)
        self.mean, self.deviation = _moments(name, data_dir, device)

    @property
    def stored(self) -> str:
        """What pixels are before they are standardised, in words."""
        dtype = str(self.parts["train"][0].dtype).removeprefix("torch.")
        return f"as they are stored, {dtype} in 0..{self.levels}"

    def members(self) -> Members:
        """Images of each part, numbered through the training set and on through the test set."""
        return _members(self.base, self.folder)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        return self.channels, self.side, self.side

    def standardise(self, pixels: Tensor) -> Tensor:
        """uint8 pixels -> float32 of mean 0 and deviation 1 over the training part; as they are, if `raw`."""
        if self.raw:
            return pixels
        return (pixels.float() - self.mean) / self.deviation

    def interface(self) -> Interface:
        """What a network that was trained on this takes and gives; examples are the first of the test part."""
        example = self.parts["test"][0][:EXAMPLES].cpu()
        values = f"pixels in 0..{self.levels}"
        if example.is_floating_point():
            values += f", averaged to {self.side} x {self.side}"
        return Interface(
            example,
            values,
            self.name,
            None if self.raw else self.mean.cpu(),
            None if self.raw else self.deviation.cpu(),
            classes=self.classes,
            names=self.names,
            parts={part: len(labels) for part, (_, labels) in self.parts.items()},
        )

    def batches(self, size: int, least: int = 2) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of shuffled training batches ((b, c, h, w) float32, (b,) int64).

        A last batch of fewer than `least` images is left out: batch statistics of one image are no statistics, and
        each of several workers needs two.
        """
        labels = self.parts["train"][1]
        order = torch.randperm(len(labels), generator=self.generator).to(labels.device)
        for chosen in order.split(size):
            if len(chosen) < least and len(order) > len(chosen):
                return
            yield self.batch(chosen)

    def batch(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """The training images and labels of the indices `chosen` (b,), augmented and standardised."""
        x, y = self.parts["train"]
        pixels = x[chosen]
        if self.augmentation != "none":
            # 4 pixels for 32 x 32, as is usual on CIFAR-10, and in proportion elsewhere.
            pixels = random_crop(pixels, max(1, self.side // 8), self.generator)
        if self.augmentation == "crop_flip":
            pixels = random_flip(pixels, self.generator)
        return self.standardise(pixels), y[chosen]

    @torch.no_grad()
    def evaluate(self, model: nn.Module, part: str, size: int = 1000) -> tuple[float, float]:
        """Mean cross-entropy (nats) and accuracy (fraction) of `model` in evaluation mode on `part`.

        Several workers must all ask: each goes through its share of the images.
        """
        images, (x, y) = len(self.parts[part][1]), self.parts[part]
        group = workers(x.device)
        x, y = group.part(x), group.part(y)
        model.eval()
        loss = correct = 0.0
        for pixels, labels in zip(x.split(size), y.split(size), strict=True) if len(y) else ():
            logits = model(self.standardise(pixels))
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
            correct += (logits.argmax(1) == labels).sum().item()
        loss, correct = group.totals(loss, correct)
        return loss / images, correct / images
