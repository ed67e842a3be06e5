"""Faces: CelebA as 80 x 80 grey images, the data of the diffusion denoisers of Kadkhodaie et al. (ICLR 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fairsweep.trainables.base import DataError, DataNotFound
from fairsweep.trainables.datasets.cache import cached_arrays, content_digest

# Last number of the training and of the validation files, as in the published list_eval_partition.txt.
_TRAIN_END, _VALIDATION_END = 162770, 182637
_SIZE = (178, 218)  # width, height of an aligned image


@dataclass(frozen=True, eq=False)
class Faces:
    """uint8 pixels, (images, 1, 80, 80), of the published parts."""

    train_images: np.ndarray
    validation_images: np.ndarray
    test_images: np.ndarray


def _grey(path: Path) -> np.ndarray:
    """The central 160 x 160 of an aligned image, mean of its colours, halved by 2 x 2 averages."""
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError("data=celeba: Pillow is needed to decode JPEG; pip install pillow") from error
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except OSError as error:
        raise DataError(f"data=celeba: {path.name} cannot be read ({error}); unpack it again") from None
    if pixels.shape[:2] != _SIZE[::-1]:
        raise DataError(
            f"data=celeba: {path.name} is {pixels.shape[1]} x {pixels.shape[0]}; the aligned images"
            f" are {_SIZE[0]} x {_SIZE[1]}"
        )
    grey = pixels[29:-29, 9:-9].mean(2)
    return np.round(grey.reshape(80, 2, 80, 2).mean((1, 3))).astype(np.uint8)


def celeba(data_dir: Path | None = None) -> Faces:
    """CelebA, aligned and cropped: training files 1 .. 162770, validation .. 182637, test .. 202599.

    Source: Liu, Luo, Wang and Tang 2015, for non-commercial research. `data_dir` holds the folder
    `img_align_celeba` of `<number>.jpg` (or is it). There is no published checksum of single files: their size
    in pixels is checked. A folder with some of the files will do, if each part has at least one.
    """
    if data_dir is None:
        raise DataNotFound("data=celeba: data_dir is None; give the folder that holds img_align_celeba/*.jpg")
    folders = [data_dir / "img_align_celeba", Path(data_dir)]
    files = next((found for f in folders if (found := sorted(f.glob("[0-9]*.jpg")))), [])
    wrong = [file.name for file in files if not file.stem.isdigit()]
    if wrong:
        raise DataError(f"data=celeba: {wrong[0]} in data_dir={data_dir}: files are called <number>.jpg")
    numbers = np.array([int(file.stem) for file in files], dtype=np.int64)
    twice = np.flatnonzero(np.diff(numbers[np.argsort(numbers)]) == 0)
    if len(twice):
        number = int(np.sort(numbers)[twice[0]])
        raise DataError(
            f"data=celeba: data_dir={data_dir} holds number {number} more than once; keep one file"
        )
    part = np.searchsorted([_TRAIN_END, _VALIDATION_END], numbers)
    counts = [int((part == i).sum()) for i in range(3)]
    if min(counts) == 0:
        raise (DataError if files else DataNotFound)(
            f"data=celeba: data_dir={data_dir} holds {counts} training, validation and test files"
            " (numbers up to 162770, 182637, 202599); each part needs at least one"
        )
    digest = content_digest(files[0].parent, files)
    pixels = cached_arrays(f"celeba80-v2-{digest}", lambda: {"x": np.stack([_grey(f) for f in files])})["x"]
    return Faces(*(pixels[part == i][:, None] for i in range(3)))
