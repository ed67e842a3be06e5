"""Tables of numbers with a label of two classes.

breast_cancer: UCI Breast Cancer Wisconsin (Diagnostic), 569 tumours (Wolberg et al. 1995), CC BY 4.0, as shipped
    by scikit-learn; the ten columns that are means over the cells of an image. Label 1: benign.
table: `table.csv` in `data_dir`: a header, numeric columns, the label (two values) last, comma-separated.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer

from trainables.base import DataError

_BREAST_CANCER_SHA256 = "becefb1ef7e3158e4d8e98b65687002528b77ea193e7517f9bd11e799acf5580"
MIN_ROWS, MAX_COLUMNS, MIN_SHARE = 160, 100, 0.1


@dataclass(frozen=True, eq=False)
class Table:
    """Features (rows, columns) float64 and labels (rows,) int64, 0 or 1."""

    name: str
    features: np.ndarray
    labels: np.ndarray


def breast_cancer(data_dir: Path | None = None) -> Table:
    """The ten mean columns of scikit-learn's copy. DataError if it is not the copy this was written for."""
    features, labels = load_breast_cancer(return_X_y=True)
    features = np.ascontiguousarray(features[:, :10], dtype="<f8")
    labels = labels.astype("<i8")
    if hashlib.sha256(features.tobytes() + labels.tobytes()).hexdigest() != _BREAST_CANCER_SHA256:
        raise DataError(
            "data=breast_cancer: scikit-learn's copy is not the one of version 1.4 to 1.9; reinstall scikit-learn"
        )
    return Table("breast_cancer", features, labels)


def csv_table(data_dir: Path | None = None) -> Table:
    """`table.csv` in `data_dir`; the label that sorts last, as a number if both are, is class 1."""
    if data_dir is None:
        raise DataError("data=table: data_dir is None; give the folder that holds table.csv")
    path = Path(data_dir) / "table.csv"
    if not path.is_file():
        raise DataError(f"data=table: no table.csv in data_dir={data_dir}")
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if row]
    header, rows = rows[:1], rows[1:]
    if len(rows) < MIN_ROWS:
        raise DataError(
            f"data=table: {path.name} has {len(rows)} rows, needs at least {MIN_ROWS} below a header"
        )
    columns = len(header[0]) - 1
    if not 1 <= columns <= MAX_COLUMNS:
        raise DataError(
            f"data=table: {path.name} has {columns} columns beside the label, must be 1 to {MAX_COLUMNS}"
        )
    features = np.empty((len(rows), columns))
    for i, row in enumerate(rows):
        if len(row) != columns + 1:
            raise DataError(
                f"data=table: row {i + 1} of {path.name} has {len(row)} cells, the header {columns + 1}"
            )
        for j, cell in enumerate(row[:-1]):
            try:
                features[i, j] = float(cell)
            except ValueError:
                features[i, j] = np.nan
            if not np.isfinite(features[i, j]):
                raise DataError(
                    f"data=table: {header[0][j]}={cell} in row {i + 1} of {path.name}: must be a finite number"
                )
    return Table("table", features, _two_classes([row[-1].strip() for row in rows], path.name))


def _two_classes(words: list[str], file: str) -> np.ndarray:
    found = sorted(set(words))
    if len(found) != 2:
        raise DataError(
            f"data=table: the last column of {file} has {len(found)} values, must be a label of two"
        )
    with suppress(ValueError):
        found.sort(key=float)
    labels = np.array([int(word == found[1]) for word in words])
    share = min(labels.mean(), 1 - labels.mean())
    if share < MIN_SHARE:
        raise DataError(
            f"data=table: the rarer label of {file} has {share:.1%} of the rows, needs at least {MIN_SHARE:.0%}"
        )
    return labels


LOADERS: dict[str, Callable[[Path | None], Table]] = {"breast_cancer": breast_cancer, "table": csv_table}


def load(name: str, data_dir: Path | None = None) -> Table:
    """The table `name`. DataError if unknown, missing or damaged."""
    if name not in LOADERS:
        raise DataError(f"data={name}: unknown table; known: {', '.join(LOADERS)}")
    return LOADERS[name](data_dir)
