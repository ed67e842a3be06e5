"""Tables of the user's own, as CSV or as Parquet: found by their name, read as cells that know where they stand."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fairsweep.trainables.base import DataError, DataNotFound
from fairsweep.trainables.datasets import delimited
from fairsweep.trainables.datasets.delimited import Cells, Delimited, Source, shown

NAME = "own"
ENDINGS = (".csv", ".parquet")


def listed(columns: Iterable[str]) -> str:
    """The names of columns, ten at most, and how many more there are."""
    names = [*columns]
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + more


def folder_of(data_dir: Path | None, layout: str) -> Path:
    """`data_dir`; DataNotFound with what it must hold if there is none."""
    if data_dir is None:
        raise DataNotFound(f"data={NAME}: data_dir is None; give the folder with {layout}")
    return Path(data_dir)


def present(folder: Path, stem: str) -> Path | None:
    """The file `stem`.csv or `stem`.parquet of `folder`, if there is one. DataError if there are both."""
    found = [path for path in (folder / f"{stem}{ending}" for ending in ENDINGS) if path.is_file()]
    if len(found) > 1:
        raise DataError(f"data={NAME}: {folder} has {stem}.csv and {stem}.parquet; take one of them away")
    return found[0] if found else None


def only(folder: Path, stem: str, layout: str) -> Path:
    """`present`, or else the only file of the folder that ends like a table. DataNotFound if there is none of them."""
    found = present(folder, stem)
    others = [path for path in sorted(folder.glob("*")) if path.suffix in ENDINGS]
    if found is None and len(others) != 1:
        raise DataNotFound(f"data={NAME}: data_dir={folder} holds {listing(folder)}; needs {layout}")
    return found or others[0]


def part_files(folder: Path, stem: str, layout: str) -> list[Path]:
    """The files of the three parts, or the one file `stem`; or else the only file that ends like a table.

    DataNotFound if there is none of them, DataError if a part is missing.
    """
    stems = (("train", "training"), ("validation", "valid", "val"), ("test",))
    parts = [next((p for s in names if (p := present(folder, s))), None) for names in stems]
    if not any(parts):
        return [only(folder, stem, layout)]
    missing = [names[0] for names, path in zip(stems, parts, strict=True) if path is None]
    if missing:
        held = ", ".join(path.name for path in parts if path)
        raise DataError(f"data={NAME}: {folder} has {held} and no {missing[0]}.csv or {missing[0]}.parquet")
    return [path for path in parts if path]


def listing(folder: Path) -> str:
    """What lies in `folder`, for a message."""
    names = (
        sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        if folder.is_dir()
        else []
    )
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "") if names else "nothing"


def read(path: Path, needed: Sequence[str] = ()) -> Delimited:
    """The table in `path`. DataError if it is none, has no rows or not the columns `needed`."""
    return read_all([path], needed)


def read_all(paths: Sequence[Path], needed: Sequence[str] = ()) -> Delimited:
    """The rows of all `paths`, one after the other; of one format and with the same columns. As `read`."""
    if len({path.suffix for path in paths}) > 1:
        raise DataError(
            f"data={NAME}: {' and '.join(path.name for path in paths)}: must be all .csv or all .parquet"
        )
    if paths[0].suffix == ".parquet":
        table: Delimited = ParquetTable(NAME, paths)
    else:
        table = delimited.read(NAME, delimited.from_files(paths))
    for source, rows in zip(table.sources, table.rows, strict=True):
        if not rows:
            raise DataError(f"data={NAME}: {source.file} has no rows below its header")
    for column in needed:
        if column not in table.columns:
            other = next((mark for mark in ";\t|" if mark in next(iter(table.columns))), None)
            hint = f" in one column: cells end with commas, not with {other!r}" if other is not None else ""
            raise DataError(
                f"data={NAME}: {paths[0].name} has no column {column!r}; it has {listed(table.columns)}{hint}"
            )
    return table


def words(table: Delimited, column: str) -> list[str]:
    """The different texts of a column, in the order of their first row."""
    return table.columns[column].texts.to_pylist()


def refuse(table: Delimited, column: str, bad: np.ndarray, reason: str) -> None:
    """DataError for the first cell of `column` whose text is among `bad`, bool (texts,): where it is, and `reason`."""
    if bad.any():
        cells = table.columns[column]
        row = cells.first(bad)
        text = shown(cells.texts[int(cells.codes[row])].as_py())
        raise DataError(f"data={NAME}: {table.where(row)}: column {column!r} has {text}, {reason}")


def refuse_row(table: Delimited, row: int, reason: str) -> DataError:
    """The DataError that says where `row` is, and `reason`."""
    return DataError(f"data={NAME}: {table.where(row)}: {reason}")


def unique(table: Delimited, column: str) -> list[str]:
    """The texts of a column (n,), one a row. DataError if one is empty or there twice."""
    cells = table.columns[column]
    refuse(table, column, cells.among([""]), "needs one in every row")
    if len(cells.texts) < len(cells.codes):
        first = np.zeros(len(cells.codes), bool)
        first[np.unique(cells.codes, return_index=True)[1]] = True
        row = int(np.flatnonzero(~first)[0])
        text = shown(cells.texts[int(cells.codes[row])].as_py())
        raise refuse_row(table, row, f"column {column!r} has {text} again; each must be there once")
    return cells.texts.take(pa.array(cells.codes)).to_pylist()


def positions(table: Delimited, column: str, known: Sequence[str], what: str) -> np.ndarray:
    """Where each cell of a column is among the texts `known`, int64 (n,). DataError for one that is not: no `what`."""
    cells = table.columns[column]
    found = pc.index_in(cells.texts, pa.array(known, pa.string()))
    missing = found.is_null().to_numpy(zero_copy_only=False)
    refuse(table, column, missing, f"which is no {what}")
    return found.to_numpy(zero_copy_only=False).astype(np.int64)[cells.codes]


def classes(table: Delimited, column: str, missing: bool = False) -> tuple[np.ndarray, tuple[str, ...]]:
    """Class of each row, int64 (n,), and their names, numbers in their order and then words in theirs.

    missing: empty cells are no class, -1; else they are refused. DataError if there are not two classes.
    """
    cells = table.columns[column]
    empty = cells.among([""])
    if not missing:
        refuse(table, column, empty, "needs a class")
    texts = words(table, column)

    def order(text: str) -> tuple[bool, float, str]:
        number = delimited.is_number(text)
        return not number, float(text) if number else 0.0, text

    names = sorted((text for text in texts if text), key=order)
    if len(names) < 2:
        raise DataError(
            f"data={NAME}: {table.sources[0].file}: column {column!r} has {len(names)} class"
            f"{'' if len(names) == 1 else 'es'}{f', {names[0]!r}' if names else ''}; needs two at least"
        )
    numbers = {name: i for i, name in enumerate(names)}
    return np.array([numbers.get(text, -1) for text in texts], np.int64)[cells.codes], tuple(names)


def matrix(table: Delimited, columns: Sequence[str], advice: str = "") -> np.ndarray:
    """The numbers of `columns`, float64 (n, columns). DataError for a cell that is no finite number."""
    if not columns:
        return np.zeros((sum(table.rows), 0))
    return np.stack([table.numbers(column, advice=advice) for column in columns], 1)


# ---- Parquet ----


class _Columns(Mapping[str, Cells]):
    """The columns of an Arrow table as cells, converted when they are asked for."""

    def __init__(self, table: pa.Table, convert: Callable[[str], Cells]) -> None:
        self._names, self._convert, self._made = table.column_names, convert, {}  # type: ignore[var-annotated]

    def __getitem__(self, name: str) -> Cells:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._made:
            self._made[name] = self._convert(name)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def arrow(path: Path) -> pa.Table:
    """A Parquet file as it is. DataError if it is none."""
    try:
        return pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"data={NAME}: {path.name} is not a Parquet file ({reason})") from None


class ParquetTable(Delimited):
    """The rows of Parquet files as `Delimited` has those of CSV files; an empty cell is a null."""

    def __init__(self, name: str, paths: Sequence[Path], given: Sequence[pa.Table] = ()) -> None:
        tables = list(given) or [arrow(path) for path in paths]
        for path, table in zip(paths, tables, strict=True):
            header = [column.strip() for column in table.column_names]
            if len(set(header)) < len(header) or set(header) != {c.strip() for c in tables[0].column_names}:
                raise DataError(
                    f"data={name}: {path.name} has the columns {', '.join(header[:10])}; needs distinct ones, the"
                    " same in every file"
                )
        named = [t.rename_columns([c.strip() for c in t.column_names]) for t in tables]
        try:
            whole = pa.concat_tables(
                [t.select(named[0].column_names) for t in named], promote_options="permissive"
            )
        except pa.ArrowException as error:
            raise DataError(
                f"data={name}: {', '.join(p.name for p in paths)}: types differ ({' '.join(str(error).split())})"
            ) from None
        object.__setattr__(self, "arrow", whole)
        sources = tuple(Source(path.name, path) for path in paths)
        super().__init__(
            name, sources, tuple(t.num_rows for t in tables), _Columns(whole, self._cells), "utf8"
        )

    @classmethod
    def of(cls, name: str, path: Path, table: pa.Table) -> ParquetTable:
        """Columns that were made of those in the file `path`."""
        return cls(name, [path], [table])

    def where(self, row: int) -> str:
        """File and row, from 1."""
        for source, rows in zip(self.sources, self.rows, strict=True):
            if row < rows:
                return f"{source.file}, row {row + 1}"
            row -= rows
        raise IndexError(row)

    @cached_property
    def _types(self) -> dict[str, pa.DataType]:
        table: Any = self.arrow  # type: ignore[attr-defined]
        return {field.name: field.type for field in table.schema}

    def _cells(self, column: str) -> Cells:
        table: Any = self.arrow  # type: ignore[attr-defined]
        values = table[column].combine_chunks()
        if isinstance(values, pa.ChunkedArray):
            values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)
        kind = values.type
        if pa.types.is_dictionary(kind):
            values, kind = values.cast(kind.value_type), kind.value_type
        if pa.types.is_floating(kind):
            values = pc.if_else(
                pc.is_nan(values), None, values
            )  # which some writers have for a cell without a value
        try:
            if pa.types.is_timestamp(kind):
                values = values.cast(pa.timestamp(kind.unit)).cast(pa.timestamp("s"))
            texts = values.cast(pa.string())
        except pa.ArrowException:
            raise DataError(
                f"data={self.name}: {self.sources[0].file}: column {column!r} is of type {kind}; must be numbers,"
                " texts, truth values or times in whole seconds"
            ) from None
        encoded = pc.utf8_trim_whitespace(pc.fill_null(texts, "")).dictionary_encode()
        return Cells(encoded.dictionary, encoded.indices.to_numpy(zero_copy_only=False).astype(np.int32))

    def decimal(self, column: str) -> bool:
        """Whether a column is of a type with a decimal point."""
        return pa.types.is_floating(self._types[column]) or pa.types.is_decimal(self._types[column])

    def numbers(self, column: str, missing: Collection[str] = (), advice: str = "") -> np.ndarray:
        kind = self._types[column]
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
            return super().numbers(column, missing, advice)
        found = self.arrow[column].cast(pa.float64(), safe=False)  # type: ignore[attr-defined]
        null = found.is_null().to_numpy()
        values = found.to_numpy().astype(np.float64)
        bad = (null & ("" not in missing)) | (~null & ~np.isfinite(values))
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            text = "no value" if null[row] else repr(str(values[row]))
            raise DataError(
                f"data={self.name}: {self.where(row)}: column {column!r} has {text}, must be a finite number{advice}"
            )
        return values
