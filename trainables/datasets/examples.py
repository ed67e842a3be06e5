"""Tables of the user's own with a target or several: tabular learning, and learning of several tasks at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from fairsweep.trainables.base import DataError
from fairsweep.trainables.datasets.delimited import Delimited
from fairsweep.trainables.datasets.own import splits, tables
from fairsweep.trainables.datasets.own.tables import ParquetTable
from fairsweep.trainables.datasets.typed_tables import TYPES, Fields, declared_in, fields, opened

SHARES = (0.15, 0.15)  # of the rows, to validate and to test
MOST_CLASSES = 20  # of whole numbers; more of them are a number to be predicted
TABULAR = (
    "table.csv, or train.csv, validation.csv and test.csv, or the same as .parquet, with a column 'label'"
)
MULTI_TASK = (
    "data.csv, or train.csv, validation.csv and test.csv, or .parquet, with two columns 'label...' or more"
)


@dataclass(frozen=True, eq=False)
class Target:
    """One column to be predicted: classes, int64 (n,) numbers of `names`, -1 for none; or numbers, float64 (n,), NaN
    for none, without names."""

    column: str
    kind: Literal["class", "number"]
    values: np.ndarray
    names: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Examples:
    """n rows of typed fields (`typed_tables.Fields`) with targets; split: rows of each part, drawn for a seed by
    `parts` where it is None."""

    name: str
    fields: Fields
    targets: tuple[Target, ...]
    split: Mapping[str, np.ndarray] | None

    def __len__(self) -> int:
        return len(self.fields.ids)

    def parts(self, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """Rows of each part; drawn class by class of the first target, if that has classes."""
        if self.split is not None:
            return self.split
        first = self.targets[0]
        labels = first.values if first.kind == "class" else np.zeros(len(self), np.int64)
        return splits.drawn(np.maximum(labels, 0), SHARES, rng)


def tabular(data_dir: Path | None = None) -> Examples:
    """A table with a column `label`: words, or up to 20 different whole numbers, are classes, other numbers a number to
    be predicted. Types of the other columns as for clicks (`typed_tables.read_csv`)."""
    folder = tables.folder_of(data_dir, TABULAR)
    paths = tables.part_files(folder, "table", TABULAR)
    file = opened(tables.NAME, paths)
    label = "label" if "label" in file.columns else None
    if label is None:
        raise DataError(
            f"data=own: {paths[0].name} has no column 'label'; it has {tables.listed(file.columns)}"
        )
    return _examples(file, folder, (label,))


def multi_task(data_dir: Path | None = None) -> Examples:
    """A table with several targets: the columns that `columns.json` calls "labels", else all whose name begins with
    label. An empty cell has no target in that task."""
    folder = tables.folder_of(data_dir, MULTI_TASK)
    paths = tables.part_files(folder, "data", MULTI_TASK)
    file = opened(tables.NAME, paths)
    labels = declared_in(tables.NAME, folder).labels or tuple(
        c for c in file.columns if c.startswith("label")
    )
    unknown = [label for label in labels if label not in file.columns]
    if unknown:
        raise DataError(
            f"data=own: {TYPES} names the label {unknown[0]!r}; the files have {', '.join(file.columns)}"
        )
    if len(labels) < 2:
        raise DataError(
            f"data=own: {paths[0].name} has {len(labels)} columns that begin with 'label'; needs two, or"
            f' {{"labels": ["buy", "rating"]}} in {TYPES}'
        )
    return _examples(file, folder, labels, missing=True)


def _examples(file: Delimited, folder: Path, labels: tuple[str, ...], missing: bool = False) -> Examples:
    skip = (*labels, splits.COLUMN)
    if len(set(file.columns) - set(skip)) < 1:
        raise DataError(f"data=own: {file.sources[0].file} has no column beside {', '.join(labels)}")
    split = splits.of_files(file) or splits.given(file, optional=False)
    found = fields(tables.NAME, file, skip, declared_in(tables.NAME, folder))
    targets = tuple(_target(file, label, missing) for label in labels)
    for target in targets:
        _enough(file, target, split)
    return Examples(tables.NAME, found, targets, split)


def _target(file: Delimited, column: str, missing: bool) -> Target:
    cells = file.columns[column]
    good, empty = file.numeric(column)
    if not missing:
        tables.refuse(file, column, empty, "needs a label in every row")
    decimal = isinstance(file, ParquetTable) and file.decimal(column)
    whole = not decimal and not cells.matching(r"[.eE]").any()
    if (good | empty).all() and not (whole and good.sum() <= MOST_CLASSES):
        return Target(column, "number", file.numbers(column, ("",)))
    values, names = tables.classes(file, column, missing=True)
    return Target(column, "class", values, names)


def _enough(file: Delimited, target: Target, split: Mapping[str, np.ndarray] | None) -> None:
    """DataError if a target is the same everywhere, or a drawn part would lack a class."""
    where = f"data=own: {file.sources[0].file}: column {target.column!r}"
    if target.kind == "number":
        known = target.values[~np.isnan(target.values)]
        if len(known) < 2 or known.min() == known.max():
            raise DataError(f"{where} has one value; needs two at least")
        return
    count = np.bincount(target.values[target.values >= 0], minlength=len(target.names))
    if split is None and count.min() < 3:
        rare = int(count.argmin())
        raise DataError(
            f"{where} has the class {target.names[rare]!r} in {count[rare]} rows; needs three at least, one for"
            " each part"
        )
