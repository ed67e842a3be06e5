"""Pairs of blurry and sharp images: scikit-learn digits under a simulated motion, and the GoPro set.

Parts are the same for every trial. Blurry images are float32 in about 0..1 (sensor noise may leave the
range) or uint8; sharp ones lie in 0..1 or are uint8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from fairsweep.trainables.base import DataError, DataNotFound
from fairsweep.trainables.datasets import images
from fairsweep.trainables.datasets.kinds import Pairs, paired
from fairsweep.trainables.datasets.own import pictures

# ---- digits under a simulated motion ----

FRAMES = 7
REACH = 3.0  # pixels from the middle of the exposure to its ends
_NOISE = 0.01
_VALIDATION, _TEST = 197, 400


def _hat(positions: np.ndarray, size: int) -> np.ndarray:
    """Bilinear weights (..., positions, size) of the pixels 0 .. size - 1 at real positions."""
    return np.maximum(0.0, 1.0 - np.abs(positions[..., None] - np.arange(size)))


def enlarge(pixels: np.ndarray, side: int, padding: int) -> np.ndarray:
    """(n, s, s), bilinearly resized to (side, side), pixel centres at halves, then zero-padded all around."""
    old = pixels.shape[-1]
    centres = np.clip((np.arange(side) + 0.5) * old / side - 0.5, 0, old - 1)
    weights = _hat(centres, old)
    return np.pad(weights @ pixels @ weights.T, ((0, 0), (padding, padding), (padding, padding)))


def translate(pixels: np.ndarray, down: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Image i of (n, h, w) moved by (down[i], right[i]) pixels: bilinear, zero outside."""
    rows = _hat(np.arange(pixels.shape[1]) - down[:, None], pixels.shape[1])
    columns = _hat(np.arange(pixels.shape[2]) - right[:, None], pixels.shape[2])
    return rows @ pixels @ columns.swapaxes(1, 2)


def exposure(pixels: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """The `FRAMES` frames (frame, n, h, w) of images moving along `angles` (n,), the middle one unmoved."""
    times = np.linspace(-1, 1, FRAMES) * REACH
    return np.stack([translate(pixels, t * np.sin(angles), t * np.cos(angles)) for t in times])


def digits_simulated_motion(control: bool, data_dir: Path | None = None) -> dict[str, Pairs]:
    """Digits, 24 x 24, under a straight motion: 1200 training, 197 validation and 400 test pairs.

    The digits are real (`trainables.datasets.images.digits`), the motion is simulated: the blurry image is
    the mean of seven frames along a random direction, plus noise of deviation 0.01. The sharp image is one
    of these frames, drawn for each image, so that the blurry one does not tell which; with `control` it is
    always the middle one.
    """
    source = images.load("digits")
    grey = np.concatenate([source.train_images, source.test_images])[:, 0] / source.levels
    labels = np.concatenate([source.train_labels, source.test_labels])
    rng = np.random.default_rng(0)
    angles = rng.uniform(0, np.pi, len(grey))
    chosen = rng.integers(FRAMES, size=len(grey))
    frames = exposure(enlarge(grey, 16, 4), angles)
    blurry = frames.mean(0) + rng.normal(0, _NOISE, frames.shape[1:])
    if control:
        chosen[:] = FRAMES // 2
    sharp = frames[chosen, np.arange(len(grey))]
    rest, test = images.stratified_split(labels, _TEST)
    keep, held_out = images.stratified_split(labels[rest], _VALIDATION)
    parts = {"train": rest[keep], "validation": rest[held_out], "test": test}
    return {
        part: Pairs(blurry[i, None].astype(np.float32), sharp[i, None].astype(np.float32))
        for part, i in parts.items()
    }


def digits_simulated_motion_small(data_dir: Path | None = None) -> dict[str, Pairs]:
    """The first 240, 100 and 100 pairs of the parts of `digits_simulated_motion`, for trying things out."""
    parts = digits_simulated_motion(False)
    sizes = {"train": 240, "validation": 100, "test": 100}
    return {part: Pairs(parts[part].blurry[:n], parts[part].sharp[:n]) for part, n in sizes.items()}


# ---- GoPro ----


def _sequences(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []


def _pairs(name: str, sequences: Sequence[Path]) -> Pairs:
    files: dict[str, list[Path]] = {"blur": [], "sharp": []}
    for sequence in sequences:
        found = {kind: sorted((sequence / kind).glob("*.png")) for kind in files}
        blurry, sharp = ({p.name for p in paths} for paths in found.values())
        if blurry != sharp or not blurry:
            odd = min(blurry ^ sharp, default="any .png")
            raise DataError(f"data={name}: {sequence} has not {odd} in both blur and sharp; unpack it again")
        for kind, paths in found.items():
            files[kind] += paths
    return paired(name, files["blur"], files["sharp"])


def gopro(data_dir: Path | None = None) -> dict[str, Pairs]:
    """GoPro, 720 x 1280: 2103 training and validation pairs and 1111 test pairs.

    Source: Nah, Kim and Lee, CVPR 2017, GOPRO_Large (its page has the terms; no checksums are published):
    `{train,test}/<sequence>/{blur,sharp}/<number>.png` in `data_dir` or its folder `GOPRO_Large`. Validation
    is the last tenth of the training sequences, at least one: frames of one sequence resemble each other too
    much to be in both parts.
    """
    if data_dir is None:
        raise DataNotFound("data=gopro: data_dir is None; give the folder that has GoPro's train and test")
    root = data_dir / "GOPRO_Large" if (data_dir / "GOPRO_Large").is_dir() else data_dir
    train, test = _sequences(root / "train"), _sequences(root / "test")
    if len(train) < 2 or not test:
        raise (DataError if train or test else DataNotFound)(
            f"data=gopro: {len(train)} sequences in {root}/train and {len(test)} in {root}/test; at least 2"
            " and 1 are needed, each a folder with blur and sharp"
        )
    held_out = max(1, len(train) // 10)
    parts = {"train": train[:-held_out], "validation": train[-held_out:], "test": test}
    return {part: _pairs("gopro", sequences) for part, sequences in parts.items()}


LOADERS: Mapping[str, Callable[[Path | None], dict[str, Pairs]]] = {
    "digits_simulated_motion": partial(digits_simulated_motion, False),
    "digits_simulated_motion_control": partial(digits_simulated_motion, True),
    "digits_simulated_motion_small": digits_simulated_motion_small,
    "gopro": gopro,
    "own": pictures.restored,
}


@lru_cache(maxsize=4)
def _load(name: str, data_dir: Path | None) -> dict[str, Pairs]:
    return LOADERS[name](data_dir)


def load(name: str, data_dir: Path | None = None) -> dict[str, Pairs]:
    """The parts "train", "validation" and "test" of `name`, read once per process.

    `DataError` if unknown, missing or damaged.
    """
    if name not in LOADERS:
        raise DataError(f"data={name}: unknown deblurring data set; known: {', '.join(LOADERS)}")
    return _load(name, None if data_dir is None else Path(data_dir))
