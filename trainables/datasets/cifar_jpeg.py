"""CIFAR-10 as a Parquet table of JPEG copies: the columns split ("train", "test"), label (0 to 9) and jpeg (bytes)."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fairsweep.trainables.base import DataError
from fairsweep.trainables.datasets.cache import cached_arrays
from fairsweep.trainables.datasets.fetch import sha256


def _refuse(file: str, column: str, rows: np.ndarray, values: pa.ChunkedArray, wanted: str) -> None:
    """DataError for the first row of bool `rows` (n,), counted from 1, that is set."""
    if rows.any():
        at = int(np.flatnonzero(rows)[0])
        raise DataError(
            f"data=cifar10: {file}: column {column!r} has {values[at].as_py()!r} in row {at + 1}, must be {wanted}"
        )


def _columns(file: str, content: bytes, held_out: int) -> tuple[np.ndarray, np.ndarray, list[bytes]]:
    """Whether each row is training, bool (n,), its label, int64 (n,), and its JPEG. DataError if a cell is no such."""
    columns = ("split", "label", "jpeg")
    try:
        table = pq.ParquetFile(io.BytesIO(content)).read()
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"data=cifar10: {file} cannot be read ({reason})") from None
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        raise DataError(f"data=cifar10: {file} has no column {missing[0]!r}; it needs {', '.join(columns)}")
    split, label, jpeg = (table[column] for column in columns)
    if pa.types.is_dictionary(split.type):
        split = split.cast(split.type.value_type)
    kinds = {
        "split": (pa.types.is_string(split.type) or pa.types.is_large_string(split.type), "text"),
        "label": (pa.types.is_integer(label.type), "whole numbers"),
        "jpeg": (pa.types.is_binary(jpeg.type) or pa.types.is_large_binary(jpeg.type), "binary"),
    }
    for column, (good, wanted) in kinds.items():
        if not good:
            raise DataError(
                f"data=cifar10: {file}: column {column!r} is of type {table[column].type}, must be {wanted}"
            )

    def not_among(values: pa.ChunkedArray, known: pa.Array) -> np.ndarray:
        return ~pc.is_in(values, value_set=known).to_numpy().astype(bool)

    parts = pa.array(["train", "test"], split.type)
    _refuse(file, "split", not_among(split, parts), split, "'train' or 'test'")
    classes = pa.array(range(10), label.type)
    _refuse(file, "label", not_among(label, classes), label, "a class from 0 to 9")
    _refuse(file, "jpeg", pc.is_null(jpeg).to_numpy().astype(bool), jpeg, "the bytes of a JPEG file")
    train = pc.equal(split, "train").to_numpy().astype(bool)
    # Some training images of each class are set aside for validation.
    if train.sum() <= held_out or train.all():
        raise DataError(
            f"data=cifar10: {file}: column 'split' has {train.sum()} rows of 'train' and {(~train).sum()} of 'test';"
            f" needs more than {held_out} and at least 1"
        )
    return train, label.to_numpy().astype(np.int64), jpeg.to_pylist()


def _decode(pillow: Any, file: str, row: int, jpeg: bytes) -> np.ndarray:
    """The pixels of a JPEG, uint8 (3, 32, 32)."""
    where = f"data=cifar10: {file}: column 'jpeg' in row {row}"
    try:
        image = pillow.open(io.BytesIO(jpeg)).convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{where} cannot be decoded ({' '.join(str(error).split())})") from None
    if image.size != (32, 32):
        raise DataError(f"{where} is {image.size[0]} x {image.size[1]} pixels, must be 32 x 32")
    return np.asarray(image).transpose(2, 0, 1)


def read_jpegs(path: Path, held_out: int) -> dict[str, np.ndarray]:
    """Pixels (n, 3, 32, 32) and labels (n,) of both parts: train_x, train_y, test_x, test_y; converted once.

    DataError, with column and row, unless every row is of one of the parts and of one of the ten classes, every
    picture is 32 x 32, and training has more than the `held_out` pictures that validate.
    """
    content = path.read_bytes()

    def convert() -> dict[str, np.ndarray]:
        try:
            from PIL import Image
        except ImportError as error:
            raise DataError(
                f"data=cifar10: {path.name} needs Pillow to decode JPEG; pip install pillow, or give"
                " cifar-10-batches-py in data_dir"
            ) from error
        train, labels, jpegs = _columns(path.name, content, held_out)
        pixels = np.stack([_decode(Image, path.name, i, jpeg) for i, jpeg in enumerate(jpegs, 1)])
        return {
            "train_x": pixels[train],
            "train_y": labels[train],
            "test_x": pixels[~train],
            "test_y": labels[~train],
        }

    return cached_arrays(f"cifar10_jpeg-v2-{sha256(content)[:16]}", convert)
