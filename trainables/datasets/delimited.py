"""Comma-separated text: every cell as the text it is, and for every fault the file and the line it stands in.

Types are not guessed by the library that reads: what is a number is decided here, the same way for every loader.
Blanks around names and cells do not count, quoted cells may hold line breaks.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from fairsweep.trainables.base import DataError

_BLANK_QUOTE = (
    "a blank before a quote; quotes count at the very beginning of a cell only: take the blank away"
)
# Arrow's cast also takes "nan" and "inf", Python's float "1_000" and digits of other scripts.
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"


@dataclass(frozen=True, eq=False)
class Source:
    """A file by its name in messages, and where its text is."""

    file: str
    content: Path | bytes

    def open(self) -> IO[bytes]:
        """A fresh stream of its bytes."""
        return io.BytesIO(self.content) if isinstance(self.content, bytes) else self.content.open("rb")


@dataclass(frozen=True, eq=False)
class Cells:
    """One column of n cells: the distinct `texts`, in order of appearance, and int32 `codes` (n,) into them."""

    texts: pa.StringArray
    codes: np.ndarray

    def first(self, chosen: np.ndarray) -> int:
        """The first row whose text is among `chosen`, bool (texts,)."""
        return int(np.flatnonzero(chosen[self.codes])[0])

    def matching(self, pattern: str) -> np.ndarray:
        """Which texts match the regular expression, bool (texts,)."""
        return pc.match_substring_regex(self.texts, pattern).to_numpy(zero_copy_only=False).astype(bool)

    def among(self, words: Collection[str]) -> np.ndarray:
        """Which texts are among `words`, bool (texts,)."""
        return pc.is_in(self.texts, pa.array(list(words), pa.string())).to_numpy(zero_copy_only=False)


@dataclass(frozen=True, eq=False)
class Delimited:
    """The rows of one or more files with the same header, one after the other; `rows` of each file."""

    name: str
    sources: tuple[Source, ...]
    rows: tuple[int, ...]
    columns: Mapping[str, Cells]
    encoding: str

    def where(self, row: int) -> str:
        """File and line of a row of the whole, such as "train.csv, line 17"."""
        ends = list(accumulate(self.rows))
        at = next(i for i, end in enumerate(ends) if row < end)
        within = row - (ends[at] - self.rows[at])
        source = self.sources[at]
        try:
            line = _line(source, self.encoding, within)
        except (csv.Error, UnicodeError):
            return f"{source.file}, row {within + 1} below the header"
        return f"{source.file}, line {line}"

    def numeric(self, column: str, missing: Collection[str] = ("",)) -> tuple[np.ndarray, np.ndarray]:
        """Which texts of a column are finite numbers, and which are missing: bool (texts,) both."""
        cells = self.columns[column]
        good = cells.matching(_NUMBER)
        found = cells.texts.filter(pa.array(good)).cast(pa.float64()).to_numpy(zero_copy_only=False)
        good[good] = np.isfinite(found)
        return good, cells.among(missing)

    def numbers(self, column: str, missing: Collection[str] = (), advice: str = "") -> np.ndarray:
        """A column as float64 (n,), NaN where its cell is among `missing`. DataError for the first other text."""
        cells = self.columns[column]
        good, absent = self.numeric(column, missing)
        bad = ~good & ~absent
        if bad.any():
            row = cells.first(bad)
            raise DataError(
                f"data={self.name}: {self.where(row)}: column {column!r} has"
                f" {shown(cells.texts[int(cells.codes[row])].as_py())}, must be a finite number{advice}"
            )
        values = np.full(len(cells.texts), np.nan)
        number = good & ~absent
        values[number] = (
            cells.texts.filter(pa.array(number)).cast(pa.float64()).to_numpy(zero_copy_only=False)
        )
        return values[cells.codes]


def is_number(text: str) -> bool:
    """Whether a text is a number as columns of numbers have them."""
    return re.match(_NUMBER, text) is not None


def shown(text: str) -> str:
    """A cell for a message: quoted, bounded in length; "no value" where there is nothing."""
    return repr(text if len(text) <= 40 else text[:37] + "...") if text else "no value"


def _line(source: Source, encoding: str, row: int) -> int:
    """The line, from 1, on which record `row` below the header begins."""
    with io.TextIOWrapper(source.open(), encoding=encoding, newline="") as file:
        reader = csv.reader(file)
        begin, index = 1, -2  # the header is record -1
        for record in reader:
            index += bool(record)
            if record and index == row:
                return begin
            begin = reader.line_num + 1
    raise csv.Error("counts its records in another way")


def _table(name: str, source: Source, encoding: str) -> pa.Table:
    read = pyarrow.csv.ReadOptions(encoding=encoding)
    # Without it a quoted line break is read in the first block of a file and is an error after it.
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    try:
        with (
            source.open() as file,
            pyarrow.csv.open_csv(file, read_options=read, parse_options=parse) as head,
        ):
            header = head.schema.names
        strings = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(header, pa.string()))
        with source.open() as file:
            return pyarrow.csv.read_csv(file, read_options=read, parse_options=parse, convert_options=strings)
    except (pa.ArrowException, UnicodeError, OSError) as error:
        reason = " ".join(str(error).split())
        with contextlib.suppress(OSError), source.open() as file:
            if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                reason = "is text in UTF-16; save it as UTF-8"
        raise DataError(f"data={name}: {source.file} is not a CSV file ({reason})") from None


def _cells(column: pa.ChunkedArray) -> tuple[Cells, np.ndarray]:
    """The column without blanks around its cells, and which raw rows begin with a blank and a quote."""
    encoded = column.dictionary_encode().combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):  # of no rows
        return Cells(pa.array([], pa.string()), np.zeros(0, np.int32)), np.zeros(0, bool)
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    raw = encoded.dictionary
    quoted = pc.match_substring_regex(raw, r'^\s+"').to_numpy(zero_copy_only=False).astype(bool)
    trimmed = pc.utf8_trim_whitespace(raw).dictionary_encode()
    merged = trimmed.indices.to_numpy(zero_copy_only=False).astype(np.int32)
    return Cells(trimmed.dictionary, merged[codes]), quoted[codes]


def read(name: str, sources: Iterable[Source], encoding: str = "utf8") -> Delimited:
    """The cells of all `sources`, whose headers must agree. DataError if one is no CSV file or names repeat."""
    given = tuple(sources)
    tables: list[pa.Table] = []
    for source in given:
        table = _table(name, source, encoding)
        header = [column.strip() for column in table.column_names]
        if any(
            raw != column and column.startswith('"')
            for raw, column in zip(table.column_names, header, strict=True)
        ):
            raise DataError(f"data={name}: {source.file}, line 1: {_BLANK_QUOTE}")
        if (tables and header != tables[0].column_names) or len(set(header)) != len(header):
            raise DataError(
                f"data={name}: {source.file} has the columns {', '.join(header[:10])}; needs distinct ones, the"
                f" same in every file"
            )
        tables.append(table.rename_columns(header))
    whole = pa.concat_tables(tables)
    columns, quoted = {}, np.zeros(whole.num_rows, bool)
    for column in whole.column_names:
        columns[column], odd = _cells(whole[column])
        quoted |= odd
    rows = tuple(table.num_rows for table in tables)
    found = Delimited(name, given, rows, columns, encoding)
    if quoted.any():
        raise DataError(f"data={name}: {found.where(int(np.flatnonzero(quoted)[0]))}: {_BLANK_QUOTE}")
    return found


def from_files(paths: Sequence[Path]) -> list[Source]:
    """Sources called by the names of their files."""
    return [Source(path.name, path) for path in paths]
