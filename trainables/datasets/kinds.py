"""What loaders of images return, and how single files of images are opened: shared by the public sets and one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fairsweep.trainables.base import DataError

Augmentation = Literal["none", "crop", "crop_flip"]


@dataclass(frozen=True, eq=False)
class Images:
    """One data set. Pixels are uint8 in 0..`levels`, shape (images, channels, height, width); labels int64.

    validation: how many training images are set aside for selection; held_out: which, where that is given.
    augmentation: what is usual for this data set. names: of the classes, if they have any. dropped: what is in the
    folder and not in the set.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: int
    levels: int
    validation: int
    augmentation: Augmentation
    held_out: np.ndarray | None = None
    names: tuple[str, ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)

    def split(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the training images that train and of those that validate, the same for every trial."""
        if self.held_out is None:
            return stratified_split(self.train_labels, self.validation)
        return np.setdiff1d(np.arange(len(self.train_labels)), self.held_out), self.held_out


def stratified_split(labels: np.ndarray, held_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the part to keep and of the `held_out` part, both sorted; always the same split."""
    from sklearn.model_selection import train_test_split

    keep, out = train_test_split(np.arange(len(labels)), test_size=held_out, stratify=labels, random_state=0)
    return np.sort(keep), np.sort(out)


@dataclass(frozen=True, eq=False)
class Segmented:
    """One data set: images uint8 (n, channels, side, side) and masks bool (n, side, side) of each part."""

    name: str
    images: dict[str, np.ndarray]
    masks: dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Pairs:
    """One part: image i of `blurry` belongs to image i of `sharp`, both of shape (channels, height, width).

    Both are arrays (or tensors) of all images, or `Pictures`, decoded when they are asked for.
    """

    blurry: Any
    sharp: Any

    def __len__(self) -> int:
        return len(self.sharp)


def pillow(name: str) -> Any:
    """Pillow's `Image`; DataError of the data set `name` with the line that installs it."""
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(
            f"data={name}: images need Pillow to be decoded; pip install 'fairsweep[images]' or pillow"
        ) from error
    return Image


class Pictures(Sequence[np.ndarray]):
    """Image files of the data set `name`; item i is decoded to uint8 (3, height, width) when asked for."""

    def __init__(self, name: str, paths: Sequence[Path]) -> None:
        self.name, self.paths = name, list(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def _open(self, index: int, read: Callable[[Any], Any]) -> Any:
        path = self.paths[index]
        try:
            with pillow(self.name).open(path) as image:
                return read(image)
        except (OSError, SyntaxError) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"data={self.name}: {path} cannot be read ({reason}); unpack it again") from error

    def __getitem__(self, index: Any) -> Any:
        return self._open(index, lambda image: np.array(image.convert("RGB")).transpose(2, 0, 1))

    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of every picture, from the headers alone."""
        return [self._open(i, lambda image: (image.height, image.width)) for i in range(len(self))]


def paired(name: str, blurry: Sequence[Path], sharp: Sequence[Path], kind: str = "sharp") -> Pairs:
    """Pairs of files, decoded when they are asked for. DataError if two of a pair differ in size.

    kind: what a message calls the second of a pair.
    """
    pairs = Pictures(name, blurry), Pictures(name, sharp)
    for path, blurred, clean in zip(blurry, pairs[0].sizes(), pairs[1].sizes(), strict=True):
        if blurred != clean:
            raise DataError(f"data={name}: {path} has {blurred} pixels, its {kind} image {clean}")
    return Pairs(*pairs)


def foreground(image: Any) -> np.ndarray | str:
    """Which pixels of a mask (a Pillow image) are foreground, bool (h, w); or why one cannot tell.

    Masks hold 0 and 255 or 0 and 1. A palette's colours count if one of them is bright, else its numbers do: black
    and dark red as 0 and 1 are a usual palette.
    """
    if image.mode not in ("1", "L", "P", "RGB", "RGBA"):
        return f"has pixels of mode {image.mode}, must be 8-bit grey, colours or black and white"
    grey = np.asarray(image.convert("L"))
    if grey.max(initial=0) > 127:
        return grey > 127
    numbers = np.asarray(image) if image.mode in ("L", "P") else grey
    if numbers.max(initial=0) > 1:
        return f"has values up to {int(numbers.max())}, must have 0 and 255, or 0 and 1"
    return numbers > 0
