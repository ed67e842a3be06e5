"""Tables of columns that are numbers or categories, and what `columns.json` beside the files says of them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fairsweep.trainables.base import DataError, DataNotFound
from fairsweep.trainables.datasets import delimited
from fairsweep.trainables.datasets.delimited import Delimited, shown
from fairsweep.trainables.datasets.own.tables import ParquetTable, read_all

TYPES = "columns.json"


@dataclass(frozen=True, eq=False)
class Table:
    """n examples of F fields, the first m of which are numbers and the others categories.

    ids: int32 (n, F), the category in 0..sizes[field]-1; 0 in fields of numbers. numbers: float64 (n, m), NaN where
    one is missing: a time stamp in seconds loses minutes in float32, and 1e39 becomes infinite. labels: float32 (n,),
    0 or 1. contexts: the fields that say who ("user") and what ("item"), by position. split: rows of the given "train",
    "validation" and "test" part; None where there are none.
    """

    name: str
    fields: tuple[str, ...]
    ids: np.ndarray
    sizes: tuple[int, ...]
    numbers: np.ndarray
    labels: np.ndarray
    contexts: Mapping[str, tuple[int, ...]]
    split: Mapping[str, Sequence[int] | np.ndarray] | None = None


@dataclass(frozen=True, eq=False)
class Fields:
    """The F fields of a table without its label: names, ids, sizes and numbers as in `Table`."""

    names: tuple[str, ...]
    ids: np.ndarray
    sizes: tuple[int, ...]
    numbers: np.ndarray


@dataclass(frozen=True)
class Declared:
    """What `columns.json` beside the files says: the columns of "numbers", "categories" and (where tasks are several)
    "labels", and which words say that a cell is "missing"."""

    numbers: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


def declared_in(name: str, folder: Path) -> Declared:
    """What `columns.json` in `folder` says; nothing where there is none. DataError if it is not of that form."""
    path = folder / TYPES
    if not path.is_file():
        return Declared()
    wanted = '{"numbers": [..], "categories": [..], "missing": [..], "labels": [..]} with lists of texts'
    try:
        found = json.loads(path.read_text(encoding="utf8"))
    except (OSError, ValueError) as error:
        raise DataError(f"data={name}: {TYPES} is not JSON ({error}); must be {wanted}") from None
    known = {field.name for field in dataclass_fields(Declared)}
    lists = isinstance(found, dict) and all(isinstance(value, list) for value in found.values())
    if not lists or set(found) - known or not all(isinstance(w, str) for v in found.values() for w in v):
        raise DataError(f"data={name}: {TYPES} must be {wanted}")
    return Declared(**{key: tuple(value) for key, value in found.items()})


def _number_columns(name: str, file: Delimited, skip: Collection[str], declared: Declared) -> list[str]:
    """The columns that are numbers: declared so, or with a decimal point and mostly numbers, by rows or by values.

    DataError where a column is mostly such numbers and has other cells that nobody declared.
    """
    for column in (*declared.numbers, *declared.categories):
        if column not in file.columns or column in skip:
            raise DataError(
                f"data={name}: {TYPES} names the column {column!r}; the files have"
                f" {', '.join(c for c in file.columns if c not in skip)}"
            )
    both = sorted(set(declared.numbers) & set(declared.categories))
    if both:
        raise DataError(f"data={name}: {TYPES} has {both[0]!r} among the numbers and the categories")
    missing = ("", *declared.missing)
    found = []
    for column in file.columns:
        if column in skip or column in declared.categories:
            continue
        if column in declared.numbers or (isinstance(file, ParquetTable) and file.decimal(column)):
            found.append(column)
            continue
        cells = file.columns[column]
        good, absent = file.numeric(column, missing)
        rows = np.bincount(cells.codes, minlength=len(cells.texts))
        numbers, others = good & ~absent, ~good & ~absent
        decimal = (cells.matching(r"[.eE]") & numbers).any()
        # Most cells of a column of prices may be NULL, which is one word among many numbers.
        mostly = rows[numbers].sum() > rows[others].sum() or numbers.sum() > others.sum()
        if decimal and mostly:
            found.append(column)
    return found


def fields(
    name: str,
    file: Delimited,
    skip: Collection[str],
    declared: Declared,
    numbers: Sequence[str] | None = None,
) -> Fields:
    """The columns of `file` but `skip`. numbers, declared: as `read_csv` has them."""
    missing = ("", *declared.missing)
    if numbers is None:
        chosen = _number_columns(name, file, skip, declared)
    else:
        chosen = list(numbers)
        absent = [column for column in numbers if column not in file.columns]
        if absent:
            raise DataNotFound(f"data={name}: needs a column {absent[0]!r} of numbers")
    advice = (
        f'; or say in {TYPES} beside it which cells are missing, {{"missing": ["NULL"]}}, or that these are'
        ' categories, {"categories": ["name"]}'
    )
    found = {c: file.numbers(c, missing, advice if numbers is None else "") for c in chosen}
    if numbers is not None:
        found = {column: np.nan_to_num(values, nan=0.0) for column, values in found.items()}
    categories = [c for c in file.columns if c not in skip and c not in found]
    ids = np.zeros((sum(file.rows), len(found) + len(categories)), np.int32)
    sizes = [1] * len(found)
    for i, column in enumerate(categories, len(found)):
        cells = file.columns[column]
        texts = pc.if_else(pa.array(cells.among(missing)), "", cells.texts).dictionary_encode()
        ids[:, i] = texts.indices.to_numpy(zero_copy_only=False)[cells.codes]
        sizes.append(len(texts.dictionary))
    values = np.stack(list(found.values()), 1) if found else np.zeros((len(ids), 0))
    return Fields((*found, *categories), ids, tuple(sizes), values)


def contexts(found: Fields) -> dict[str, tuple[int, ...]]:
    """Who and what: the first field called user..., and item... or ad...; else the first and second category."""
    said, first = {}, found.numbers.shape[1]
    for fallback, (who, prefixes) in enumerate({"user": ("user",), "item": ("item", "ad")}.items()):
        named = tuple(i for i, field in enumerate(found.names) if field.lower().startswith(prefixes))
        said[who] = named[:1] or (min(first + fallback, len(found.names) - 1),)
    return said


def opened(name: str, paths: Sequence[Path]) -> Delimited:
    """The rows of CSV or Parquet files. DataError if one is none, or empty."""
    if paths[0].suffix == ".parquet":
        return read_all(paths)
    file = delimited.read(name, delimited.from_files(paths))
    empty = [source.file for source, count in zip(file.sources, file.rows, strict=True) if not count]
    if empty:
        raise DataError(f"data={name}: {empty[0]} has no rows below its header")
    return file


def read_csv(
    name: str, paths: Sequence[Path], numbers: Sequence[str] | None = None, skip: Collection[str] = ()
) -> tuple[Table, Delimited]:
    """One table of the CSV (or Parquet) files `paths`, which have the same header, and their cells.

    A column `label` (or `click`) of 0 and 1 is needed. `numbers` are the columns read as numbers, empty cells
    as 0. None: those that `columns.json` in the folder of the files calls numbers, and those with a decimal point
    in which numbers are the majority, of the cells or of the different ones (of a Parquet file: those of such a type).
    Every other cell of theirs must be empty or one of the "missing" words of `columns.json`, and is NaN in the table.
    All other columns but `skip` are categories, missing being one of them.
    """
    file = opened(name, paths)
    label = next((c for c in ("label", "click") if c in file.columns), None)
    if label is None or len(file.columns) < 3:
        raise DataError(
            f"data={name}: {paths[0].name} needs a column 'label' and two others, found"
            f" {', '.join([*file.columns][:10])}"
        )
    clicks = zero_or_one(name, file, label)
    declared = declared_in(name, paths[0].parent) if numbers is None else Declared()
    found = fields(name, file, (label, *skip), declared, numbers)
    table = Table(name, found.names, found.ids, found.sizes, found.numbers, clicks, contexts(found))
    return table, file


def zero_or_one(name: str, file: Delimited, label: str) -> np.ndarray:
    """The column `label` as float32 (n,). DataError unless every cell is 0 or 1, or in Parquet true or false."""
    cells = file.columns[label]
    good, _ = file.numeric(label)
    found = np.full(len(good), np.nan)
    found[good] = cells.texts.filter(pa.array(good)).cast(pa.float64()).to_numpy(zero_copy_only=False)
    if isinstance(file, ParquetTable):
        found[cells.among(["true"])], found[cells.among(["false"])] = 1, 0
    bad = ~np.isin(found, (0, 1))
    if bad.any():
        row = cells.first(bad)
        text = shown(cells.texts[int(cells.codes[row])].as_py())
        raise DataError(f"data={name}: {file.where(row)}: column {label!r} has {text}, must be 0 or 1")
    if len(np.unique(found)) < 2:
        raise DataError(
            f"data={name}: {file.sources[0].file}: column {label!r} has {int(found[0])} in every row; needs 0 and 1"
        )
    return found.astype(np.float32)[cells.codes]
