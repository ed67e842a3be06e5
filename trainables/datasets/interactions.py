"""Who has met what: interactions of users and items, for recommendation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fairsweep.trainables.base import DataError
from fairsweep.trainables.datasets import delimited, times
from fairsweep.trainables.datasets.own import splits, tables

LAYOUT = (
    "interactions.csv or interactions.parquet with the columns user and item, perhaps rating, time and split"
)
LEAST = 3  # interactions of a user of whom one validates and one tests


@dataclass(frozen=True, eq=False)
class Interactions:
    """n interactions. users, items: int64 (n,), numbers of `user_names` and `item_names`. ratings: float64 (n,); times:
    float64 (n,), seconds; None where nothing says them.

    split: indices of each part. drawn: how it was made, in words; empty where it was given. dropped: what the file
    holds and this does not.
    """

    name: str
    users: np.ndarray
    items: np.ndarray
    user_names: tuple[str, ...]
    item_names: tuple[str, ...]
    ratings: np.ndarray | None
    times: np.ndarray | None
    split: Mapping[str, np.ndarray]
    drawn: str = ""
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.users)


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
