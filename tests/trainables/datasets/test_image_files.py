"""CIFAR-10 as a table of JPEGs, and packed image files: a cell that is none of its kind is named, none is guessed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fairsweep.trainables.base import DataError
from fairsweep.trainables.datasets import images

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")


def jpeg(grey: int, size: tuple[int, int] = (32, 32)) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((*size[::-1], 3), grey, np.uint8)).save(out, "JPEG")
    return out.getvalue()


COLUMNS: dict[str, list[Any]] = {
    "split": ["train"] * 20 + ["test"] * 10,
    "label": [i % 10 for i in range(30)],
    "jpeg": [jpeg(8 * i) for i in range(30)],
}


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRSWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(images, "CIFAR_VALIDATION", 10)


def stored(folder: Path, columns: dict[str, list[Any]]) -> Path:
    pq.write_table(pa.table(columns), folder / "cifar10_jpeg.parquet")
    return folder


def test_a_table_of_jpegs(tmp_path: Path) -> None:
    data = images.cifar10(stored(tmp_path, COLUMNS))
    assert data.train_images.shape == (20, 3, 32, 32) and data.test_images.shape == (10, 3, 32, 32)
    assert data.train_labels.tolist() == COLUMNS["label"][:20]
    greys = np.concatenate([data.train_images, data.test_images])[:, 0, 0, 0].astype(int)
    assert np.abs(greys - 8 * np.arange(30)).max() <= 2
    words = pa.table(COLUMNS)
    split = words["split"].dictionary_encode()
    pq.write_table(words.set_column(0, "split", split), tmp_path / "cifar10_jpeg.parquet")
    assert (images.cifar10(tmp_path).test_images == data.test_images).all(), "words by number are words"


def changed(column: str, row: int, value: Any) -> dict[str, list[Any]]:
    cells = list(COLUMNS[column])
    cells[row] = value
    return {**COLUMNS, column: cells}


@pytest.mark.parametrize(
    "columns, message",
    [
        (
            changed("split", 25, "valid"),
            "column 'split' has 'valid' in row 26, must be 'train' or 'test'",
        ),
        (changed("split", 3, None), "column 'split' has None in row 4, must be 'train' or 'test'"),
        (changed("split", 3, "Train"), "column 'split' has 'Train' in row 4"),
        ({**COLUMNS, "split": [0] * 30}, "column 'split' is of type int64, must be text"),
        (changed("label", 7, 99), "column 'label' has 99 in row 8, must be a class from 0 to 9"),
        (changed("label", 7, -1), "column 'label' has -1 in row 8"),
        (changed("label", 7, None), "column 'label' has None in row 8"),
        (changed("label", 7, 3.5), "column 'label' is of type double, must be whole numbers"),
        ({**COLUMNS, "label": ["3"] * 30}, "column 'label' is of type string, must be whole numbers"),
        (
            changed("jpeg", 11, jpeg(3, (48, 64))),
            "column 'jpeg' in row 12 is 48 x 64 pixels, must be 32 x 32",
        ),
        (changed("jpeg", 11, b"\xff\xd8\xff"), "column 'jpeg' in row 12 cannot be decoded"),
        (changed("jpeg", 11, None), "column 'jpeg' has None in row 12, must be the bytes of a JPEG file"),
        (
            {**COLUMNS, "split": ["train"] * 30},
            "column 'split' has 30 rows of 'train' and 0 of 'test'; needs",
        ),
        ({**COLUMNS, "split": ["test"] * 30}, "column 'split' has 0 rows of 'train' and 30 of 'test'; needs"),
    ],
)
def test_cells_that_are_none_are_named(tmp_path: Path, columns: dict[str, list[Any]], message: str) -> None:
    with pytest.raises(DataError) as caught:
        images.cifar10(stored(tmp_path, columns))
    assert str(caught.value).startswith(f"data=cifar10: cifar10_jpeg.parquet: {message}")
    assert "\n" not in str(caught.value)


def test_a_table_without_a_column_says_which(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cifar10_jpeg\.parquet has no column 'jpeg'; it needs split, label"):
        images.cifar10(stored(tmp_path, {k: COLUMNS[k] for k in ("split", "label")}))


def test_a_packed_file_cut_short_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gzip

    packed = gzip.compress(b"x" * 5000)
    for content in (packed[:-20], b"no gzip at all", packed[:30] + b"\0" * 30):
        (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(content)
        with pytest.raises(
            DataError, match=r"^data=mnist: .*ubyte\.gz cannot be unpacked \(.*fetch it again"
        ):
            images.mnist(tmp_path)
    with pytest.raises(DataError, match=r"^data=idx: the IDX header ends before its 3 sizes"):
        images.read_idx(b"\0\0\x08\x03\0\0")
