"""Image restoration: batches of degraded and clean images, and PSNR of networks with one or more outputs.

A network maps (b, c, h, w) to (b, outputs, c, h, w). Which output is the best one for an image is known only
with the clean image at hand: "best overall" picks it so, "best single" keeps to one output for the whole
part, and "selected" keeps to the one that was best on the validation part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fairsweep.search_spaces.interface import Interface
from fairsweep.trainables.base import Metric
from fairsweep.trainables.datasets import deblurring
from fairsweep.trainables.datasets.kinds import Pairs, Pictures
from fairsweep.trainables.parts import Members, consecutive, identity
from fairsweep.trainables.tasks.workers import workers

METRICS = (
    Metric("val_psnr_best_overall", "max", "validation", "dB"),
    Metric("val_psnr_best_single", "max", "validation", "dB"),
    Metric("val_psnr_worst", "max", "validation", "dB"),
    Metric("val_effective_outputs", "max", "validation", "outputs"),
    Metric("train_loss", "min", "train", "criterion"),
    Metric("test_psnr_best_overall", "max", "test", "dB"),
    Metric("test_psnr_best_single", "max", "test", "dB"),
    Metric("test_psnr_selected", "max", "test", "dB"),
    Metric("test_psnr_mean", "max", "test", "dB"),
    Metric("test_psnr_worst", "max", "test", "dB"),
    Metric("test_effective_outputs", "max", "test", "outputs"),
)

EXAMPLES = 4  # that a network is handed over with, to be compared on


def psnr(mse: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB for pixels in 0..1, elementwise; at most 100 dB."""
    return -10 * torch.log10(mse.clamp(min=1e-10))


def win_shares(values: Tensor) -> Tensor:
    """Share of the images (n, outputs) for which each output has the highest value; (outputs,)."""
    return torch.bincount(values.argmax(1), minlength=values.shape[1]) / len(values)


def summary(values: Tensor) -> dict[str, float]:
    """What PSNR (n, outputs) comes to over the n images.

    psnr_best_overall: mean over images of the best output's; psnr_best_single: the best output's mean over
    images; psnr_mean: over both; psnr_worst: mean over images of the worst output's. effective_outputs:
    exp(entropy) of `win_shares`, 1 if one output wins every image.
    """
    shares = win_shares(values)
    return {
        "psnr_best_overall": values.amax(1).mean().item(),
        "psnr_best_single": values.mean(0).max().item(),
        "psnr_mean": values.mean().item(),
        "psnr_worst": values.amin(1).mean().item(),
        "effective_outputs": torch.special.entr(shares).sum().exp().item(),
    }


def random_square(blurry: Tensor, sharp: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The same square of `side` pixels, at a random place, out of two images (..., h, w)."""
    h, w = sharp.shape[-2:]
    top, left = (int(torch.randint(n - side + 1, ())) for n in (h, w))
    return (
        blurry[..., top : top + side, left : left + side],
        sharp[..., top : top + side, left : left + side],
    )


def random_symmetry(blurry: Tensor, sharp: Tensor) -> tuple[Tensor, Tensor]:
    """Each pair of squares (n, c, s, s) under one of the eight flips and rotations, the same for both."""
    pair = torch.stack([blurry, sharp])
    chosen = (torch.rand(3, len(sharp)) < 0.5).to(sharp.device)[..., None, None, None]
    pair = torch.where(chosen[0], pair.flip(-1), pair)
    pair = torch.where(chosen[1], pair.flip(-2), pair)
    pair = torch.where(chosen[2], pair.transpose(-1, -2), pair)
    return pair[0], pair[1]


def _pixels(stored: np.ndarray | Tensor, device: str) -> Tensor:
    tensor = torch.as_tensor(stored, device=device)
    return tensor / 255 if tensor.dtype == torch.uint8 else tensor


@lru_cache(maxsize=4)
def _parts(name: str, data_dir: Path | None, device: str) -> dict[str, Pairs]:
    # What is in memory is put on the device once; pictures stay in their files.
    return {
        part: pairs
        if isinstance(pairs.sharp, Pictures)
        else Pairs(_pixels(pairs.blurry, device), _pixels(pairs.sharp, device))
        for part, pairs in deblurring.load(name, data_dir).items()
    }


@lru_cache(maxsize=4)
def _members(name: str, data_dir: Path | None) -> Members:
    def known(stored: Any) -> Any:
        # Gigabytes are not read for it: what files are called and how large they are.
        named = [(path.parent.name, path.name, path.stat().st_size) for path in getattr(stored, "paths", ())]
        return named or stored

    parts = deblurring.load(name, data_dir)
    whole = identity(*(known(stored) for pairs in parts.values() for stored in (pairs.blurry, pairs.sharp)))
    return Members(whole, consecutive({part: len(pairs) for part, pairs in parts.items()}))


class RestorationTask:
    """One data set on one device: random training squares, and whole images of validation and test.

    crop: side of the training squares; if an image of the training part is smaller, that image's side.
    augment: random flips and rotations of the squares. Draws are from PyTorch's global generator.
    """

    def __init__(self, name: str, data_dir: Path | None, device: str, crop: int, augment: bool) -> None:
        if crop < 1:
            raise ValueError(f"crop={crop}: must be at least 1 pixel")
        self.folder = None if data_dir is None else Path(data_dir)
        self.parts = _parts(name, self.folder, device)
        self.name, self.device, self.augment = name, device, augment
        sharp = self.parts["train"].sharp
        self.channels = sharp[0].shape[0]
        sizes = sharp.sizes() if isinstance(sharp, Pictures) else [sharp.shape[2:]]
        self.side = min(crop, *(min(size) for size in sizes))

    def members(self) -> Members:
        """Pairs of each part, each a set of its own."""
        return _members(self.name, self.folder)

    def interface(self) -> Interface:
        """What a network that was trained on this takes and gives."""
        pairs = self.parts["test"]
        squares = [
            self._pair(pairs, i)[0][..., : self.side, : self.side] for i in range(min(EXAMPLES, len(pairs)))
        ]
        return Interface(
            torch.stack(squares).cpu(),
            "pixels in 0..1: of 8 bits divided by 255",
            self.name,
            gives="pixels in 0..1 (batch, outputs, channels, height, width), to be clipped",
            parts={part: len(found) for part, found in self.parts.items()},
        )

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of training squares in random order, each (b, c, side, side): degraded and clean."""
        pairs = self.parts["train"]
        for chosen in torch.randperm(len(pairs)).split(size):
            squares = [random_square(*self._pair(pairs, i), self.side) for i in chosen.tolist()]
            blurry, sharp = (torch.stack(found) for found in zip(*squares, strict=True))
            yield random_symmetry(blurry, sharp) if self.augment else (blurry, sharp)

    def _pair(self, pairs: Pairs, index: int) -> tuple[Tensor, Tensor]:
        return _pixels(pairs.blurry[index], self.device), _pixels(pairs.sharp[index], self.device)

    @torch.no_grad()
    def evaluate(self, model: nn.Module, part: str, size: int = 32) -> Tensor:
        """PSNR (images, outputs) on the CPU of `model` in evaluation mode, its outputs clipped to 0..1.

        Several workers must all ask: each goes through its share of the images.
        """
        model.eval()
        pairs, group, errors = self.parts[part], workers(self.device), []
        # Whole pictures go one by one: they are large, and may differ in size.
        size = 1 if isinstance(pairs.sharp, Pictures) else size
        mine = group.part(torch.arange(len(pairs)))
        for chosen in mine.split(size) if len(mine) else ():
            found = zip(*(self._pair(pairs, i) for i in chosen.tolist()), strict=True)
            x, y = (torch.stack(tensors) for tensors in found)
            errors.append((model(x).clamp(0, 1) - y[:, None]).square().mean((2, 3, 4)).cpu())
        return psnr(group.gather(torch.cat(errors) if errors else torch.empty(0)))


def named(prefix: str, found: Mapping[str, float]) -> dict[str, float]:
    """Those of `found` that `METRICS` declares under `prefix`_<name>, by that name."""
    declared = {m.name for m in METRICS}
    return {f"{prefix}_{k}": v for k, v in found.items() if f"{prefix}_{k}" in declared}
