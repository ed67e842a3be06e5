"""Image sets made small: fewer images and fewer pixels, so that hundreds of networks can be trained on one core."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fairsweep.trainables.datasets import images
from fairsweep.trainables.parts import Members
from fairsweep.trainables.tasks.image_classification import ImageTask

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Reduction:
    """How a set is made small. side: pixels of a side after averaging; train, validation, test: images kept.

    0 keeps what there is. What is kept is a stratified part, always the same.
    """

    side: int = 0
    train: int = 0
    validation: int = 0
    test: int = 0

    def __post_init__(self) -> None:
        for name in ("side", *PARTS):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be positive, or 0 for all there is")

    def over(self, usual: Reduction) -> Reduction:
        """This reduction, and where it is 0 the `usual` one."""
        return replace(usual, **{k: v for k, v in vars(self).items() if v})


# Names of sets that are usually reduced: the set, how, and whether its augmentation still makes sense.
REDUCED: dict[str, tuple[str, Reduction, str]] = {
    "fashion_mnist_7x7": ("fashion_mnist", Reduction(7, 2000, 1500, 3000), "none"),
    "cifar10_16x16": ("cifar10", Reduction(16, 10_000, 2000, 5000), "standard"),
}


def usual_reduction(name: str) -> Reduction:
    """How the set of this name is made small where nothing else is asked for."""
    return REDUCED[name][1] if name in REDUCED else Reduction()


def whole_set(name: str) -> str:
    """The set that one of this name is made of: itself, where it is not reduced."""
    return REDUCED[name][0] if name in REDUCED else name


class SmallImageTask(ImageTask):
    """An `ImageTask` after a reduction: that of its name (`REDUCED`), or none, with `reduction` over it."""

    def __init__(
        self,
        name: str,
        data_dir: Path | None,
        device: str,
        augmentation: str = "standard",
        reduction: Reduction | None = None,
    ) -> None:
        base, usual, augment = REDUCED.get(name, (name, Reduction(), "standard"))
        super().__init__(base, data_dir, device, augment if augmentation == "standard" else augmentation)
        self.name, self.base = name, base
        self.reduction = (reduction or Reduction()).over(usual)
        self.kept: Mapping[
            str, np.ndarray
        ] = {}  # of each part that has fewer images: those of the set's part
        if self.reduction.side > self.side:
            raise ValueError(
                f"side={self.reduction.side}: the images of {base} have {self.side} pixels a side"
            )
        if self.reduction != Reduction():
            self.parts, self.mean, self.deviation, self.kept = _reduced(
                base, data_dir, device, self.reduction
            )
            self.side = self.parts["train"][0].shape[-1]

    def members(self) -> Members:
        """Those of the set that are kept, however small."""
        whole = super().members()
        kept = {part: ids[self.kept.get(part, slice(None))] for part, ids in whole.examples.items()}
        return Members(whole.data, kept)

    @classmethod
    def of(
        cls,
        config: Mapping[str, Any],
        name: str,
        data_dir: Path | None,
        device: str,
        augmentation: str | None = None,
    ) -> SmallImageTask:
        """The task of a configuration with `augmentation`, `side`, `train_images` and `validation_images`.

        augmentation: in place of the configuration's.
        """
        reduction = Reduction(config["side"], config["train_images"], config["validation_images"])
        return cls(name, data_dir, device, augmentation or config["augmentation"], reduction)

    @property
    def images(self) -> int:
        """Number of training images."""
        return len(self.parts["train"][1])

    def whole(self, part: str) -> tuple[Tensor, Tensor]:
        """All images of `part`, standardised, without augmentation, and their labels."""
        pixels, labels = self.parts[part]
        return self.standardise(pixels), labels

    def calibration(self, count: int) -> Tensor:
        """The first `count` training images of a fixed random order, standardised, without augmentation.

        ValueError if there are not that many.
        """
        if count > self.images:
            raise ValueError(f"{count} training images: {self.name} has {self.images} here")
        chosen = np.random.default_rng(0).permutation(self.images)[:count]
        return self.standardise(self.parts["train"][0][torch.from_numpy(chosen)])


@lru_cache(maxsize=4)
def _reduced(
    name: str, data_dir: Path | None, device: str, reduction: Reduction
) -> tuple[dict[str, tuple[Tensor, Tensor]], Tensor, Tensor, dict[str, np.ndarray]]:
    parts, kept = {}, {}
    for part, (pixels, labels) in ImageTask(name, data_dir, device).parts.items():
        wanted = getattr(reduction, part)
        if wanted > len(labels):
            raise ValueError(f"{part}={wanted}: {name} has {len(labels)} images in that part")
        if 0 < wanted < len(labels):
            kept[part] = images.stratified_split(labels.cpu().numpy(), wanted)[1]
            chosen = torch.from_numpy(kept[part]).to(device)
            pixels, labels = pixels[chosen], labels[chosen]
        if reduction.side and reduction.side != pixels.shape[-1]:
            # In chunks: all of CIFAR-10 in single precision would be most of a gigabyte.
            pixels = torch.cat(
                [F.adaptive_avg_pool2d(chunk.float(), reduction.side) for chunk in pixels.split(4096)]
            )
        parts[part] = (pixels, labels)
    train = parts["train"][0].double()
    mean, deviation = train.mean((0, 2, 3), keepdim=True), train.std((0, 2, 3), unbiased=False, keepdim=True)
    return parts, mean.float(), deviation.float(), kept
