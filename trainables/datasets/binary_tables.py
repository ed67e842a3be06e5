"""Tables of numbers with a label of two classes.

breast_cancer: UCI Breast Cancer Wisconsin (Diagnostic), 569 tumours (Wolberg et al. 1995), CC BY 4.0, as shipped
    by scikit-learn; the ten columns that are means over the cells of an image. Label 1: benign.
own: the same, or as Parquet; a column `label` need not be the last.
table: `table.csv` in `data_dir`: a header, numeric columns, the label (two values) last, comma-separated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer

from fairsweep.trainables.base import DataError, DataNotFound
from fairsweep.trainables.datasets import delimited
from fairsweep.trainables.datasets.delimited import Delimited
from fairsweep.trainables.datasets.own import tables

_BREAST_CANCER_SHA256 = "becefb1ef7e3158e4d8e98b65687002528b77ea193e7517f9bd11e799acf5580"
OWN_LAYOUT = "table.csv or table.parquet: columns of numbers, and a label of two values"
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
        raise DataNotFound("data=table: data_dir is None; give the folder that holds table.csv")
    path = Path(data_dir) / "table.csv"
    if not path.is_file():
        raise DataNotFound(f"data=table: no table.csv in data_dir={data_dir}")
    file = delimited.read("table", delimited.from_files([path]))
    return _of(file, [*file.columns][-1])


def own(data_dir: Path | None = None) -> Table:
    """As `csv_table`, or `table.parquet`; the label is the column `label`, else the last one."""
    folder = tables.folder_of(data_dir, OWN_LAYOUT)
    file = tables.read(tables.only(folder, "table", OWN_LAYOUT))
    return _of(file, "label" if "label" in file.columns else [*file.columns][-1])


def _of(file: Delimited, label: str) -> Table:
    """The numbers and the label of a table that is large enough. DataError if it is not, or holds something else."""
    where, rows = f"data={file.name}: {file.sources[0].file}", file.rows[0]
    columns = [column for column in file.columns if column != label]
    if rows < MIN_ROWS:
        raise DataError(f"{where} has {rows} rows, needs at least {MIN_ROWS} below a header")
    if not 1 <= len(columns) <= MAX_COLUMNS:
        raise DataError(f"{where} has {len(columns)} columns beside the label, must be 1 to {MAX_COLUMNS}")
    if all(delimited.is_number(column) for column in columns):
        raise DataError(
            f"{where}, line 1: {', '.join(columns[:3])} are numbers; needs a header above the rows"
        )
    features = np.stack([file.numbers(column) for column in columns], 1)
    return Table(file.name, features, _two_classes(file, label))


def _two_classes(file: Delimited, column: str) -> np.ndarray:
    """Labels 0 and 1 (n,) of the two words, or the two numbers, in the column."""
    cells, where = file.columns[column], file.sources[0].file
    said = f"data={file.name}: "
    last = "the last column" if column == [*file.columns][-1] else "the column"
    empty = cells.among([""])
    if empty.any():
        raise DataError(f"{said}{file.where(cells.first(empty))}: no label in {last}, {column!r}")
    words = cells.texts.to_pylist()
    # 1 and 1.0 are one class.
    keys: list[Any] = [float(w) for w in words] if all(map(delimited.is_number, words)) else words
    found = sorted(set(keys))
    if len(found) != 2:
        raise DataError(f"{said}{last} of {where} has {len(found)} values, must be a label of two")
    labels = np.array([int(key == found[1]) for key in keys])[cells.codes]
    share = min(labels.mean(), 1 - labels.mean())
    if share < MIN_SHARE:
        raise DataError(
            f"{said}the rarer label of {where} has {share:.1%} of the rows, needs at least {MIN_SHARE:.0%}"
        )
    return labels


LOADERS: dict[str, Callable[[Path | None], Table]] = {
    "breast_cancer": breast_cancer,
    "table": csv_table,
    "own": own,
}


def load(name: str, data_dir: Path | None = None) -> Table:
    """The table `name`. DataError if unknown, missing or damaged."""
    if name not in LOADERS:
        raise DataError(f"data={name}: unknown table; known: {', '.join(LOADERS)}")
    return LOADERS[name](data_dir)
