"""The three parts of data of the user's own: as a column or as masks say, or drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fairsweep.trainables.base import DataError
from fairsweep.trainables.datasets.delimited import Delimited
from fairsweep.trainables.datasets.own import tables
from fairsweep.trainables.datasets.own.tables import NAME

PARTS = ("train", "validation", "test")
COLUMN = "split"
WORDS = {
    **{"train": "train", "training": "train", "validation": "validation", "valid": "validation"},
    **{"val": "validation", "dev": "validation", "test": "test", "testing": "test"},
}
MASKS = {f"{word}_mask": part for word, part in WORDS.items()}
_YES, _NO = ("1", "true", "True", "TRUE", "1.0"), ("", "0", "false", "False", "FALSE", "0.0")


def columns(table: Delimited) -> list[str]:
    """The columns of `table` that say which part a row is of."""
    return [column for column in table.columns if column == COLUMN or column in MASKS]


def given(table: Delimited, optional: bool = True) -> dict[str, np.ndarray] | None:
    """Rows of each part as the column `split` or the masks say; None where there are neither.

    optional: a row may be in no part. DataError for another word, a row in two parts, or a part without rows.
    """
    masks = [column for column in table.columns if column in MASKS]
    if COLUMN in table.columns and masks:
        raise DataError(
            f"data={NAME}: {table.sources[0].file} has {COLUMN!r} and {masks[0]!r}; keep one of them"
        )
    if COLUMN in table.columns:
        part = _by_word(table, optional)
    elif masks:
        part = _by_mask(table, masks)
    else:
        return None
    found = {name: np.flatnonzero(part == i) for i, name in enumerate(PARTS)}
    check(found, f"{table.sources[0].file}: column {COLUMN if not masks else ', '.join(masks)}")
    return found


def of_files(table: Delimited) -> dict[str, np.ndarray] | None:
    """Rows of each part where these are files of their own; None for a table of one file."""
    if len(table.rows) == 1:
        return None
    ends = np.cumsum([0, *table.rows])
    return {part: np.arange(*ends[i : i + 2]) for i, part in enumerate(PARTS)}


def check(parts: Mapping[str, Sequence[int] | np.ndarray], where: str) -> None:
    """DataError if a part has nothing in it."""
    for name in PARTS:
        if not len(parts.get(name, ())):
            raise DataError(
                f"data={NAME}: {where}: the {name} part is empty; needs all of {', '.join(PARTS)}, or no split at all"
            )


def _by_word(table: Delimited, optional: bool) -> np.ndarray:
    known = [
        WORDS.get(word.lower(), "" if not word and optional else None) for word in tables.words(table, COLUMN)
    ]
    tables.refuse(
        table,
        COLUMN,
        np.array([word is None for word in known], bool),
        f"must be {', '.join(PARTS[:2])} or {PARTS[2]}" + (", or empty for none of them" if optional else ""),
    )
    numbers = np.array([PARTS.index(word) if word else -1 for word in known], np.int64)
    return numbers[table.columns[COLUMN].codes]


def _by_mask(table: Delimited, masks: Sequence[str]) -> np.ndarray:
    part = np.full(sum(table.rows), -1, np.int64)
    for column in masks:
        cells = table.columns[column]
        yes, no = cells.among(_YES), cells.among(_NO)
        tables.refuse(table, column, ~yes & ~no, "must be true or false, or 1 or 0")
        inside = yes[cells.codes]
        twice = inside & (part >= 0)
        if twice.any():
            other = PARTS[part[int(np.flatnonzero(twice)[0])]]
            raise tables.refuse_row(
                table,
                int(np.flatnonzero(twice)[0]),
                f"column {column!r} says yes, and so does that of {other}",
            )
        part[inside] = PARTS.index(MASKS[column])
    return part


def drawn(
    labels: np.ndarray, shares: tuple[float, float], rng: np.random.Generator, name: str = NAME
) -> dict[str, np.ndarray]:
    """Indices of the parts of examples with `labels` (n,), -1 in none: the `shares` of each class to validate and to
    test, rounded, and all others to train.

    A class of three examples and more has one at least in each part; of two, the other tests; a single one trains.
    DataError if that leaves a part empty; name: of the data, for it.
    """
    parts: dict[str, list[np.ndarray]] = {part: [np.zeros(0, np.int64)] for part in PARTS}
    for label in np.unique(labels[labels >= 0]):
        members = rng.permutation(np.flatnonzero(labels == label))
        n = len(members)
        if n >= 3:
            validation, test = (max(1, round(share * n)) for share in shares)
            test = min(test, n - validation - 1)
        else:
            validation, test = 0, n - 1
        for part, chosen in zip(
            ("validation", "test", "train"), np.split(members, [validation, validation + test]), strict=True
        ):
            parts[part].append(chosen)
    found = {part: np.sort(np.concatenate(chosen)).astype(np.int64) for part, chosen in parts.items()}
    for part, chosen in found.items():
        if not len(chosen):
            count = np.bincount(labels[labels >= 0], minlength=1)
            raise DataError(
                f"data={name}: label: the largest class has {count.max()} labelled examples, and the {part} part"
                " that is drawn would be empty; needs three at least of a class, one for each part, or given parts"
            )
    return found
