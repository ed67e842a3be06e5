"""Columns of times: read as what they say, and where rows must follow one another at one distance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fairsweep.trainables.base import DataError
from fairsweep.trainables.datasets.delimited import Delimited, shown

_FORM = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([ T][0-9]{2}:[0-9]{2}(:[0-9]{2})?)?$"
_WANTED = "must be a time such as 2016-07-01 00:00:00"


def _refuse(file: Delimited, row: int, reason: str) -> DataError:
    return DataError(f"data={file.name}: {file.where(row)}: {reason}")


def _text(file: Delimited, column: str, row: int) -> str:
    cells = file.columns[column]
    return shown(cells.texts[int(cells.codes[row])].as_py())


def read(file: Delimited, column: str) -> np.ndarray:
    """A column of times as datetime64[s] (n,), in whatever order. DataError for the first cell that is none."""
    cells = file.columns[column]
    bad = ~cells.matching(_FORM)
    if bad.any():
        row = cells.first(bad)
        raise _refuse(file, row, f"column {column!r} has {_text(file, column, row)}, {_WANTED}")
    for at, date in enumerate(cells.texts.to_pylist()):
        try:
            np.datetime64(date)
        except ValueError:
            row = cells.first(np.arange(len(cells.texts)) == at)
            raise _refuse(
                file, row, f"column {column!r} has {_text(file, column, row)}, which is no date; {_WANTED}"
            ) from None
    return np.array(cells.texts.to_pylist(), "datetime64[s]")[cells.codes]


def even(file: Delimited, column: str, uneven: Sequence[str] = ()) -> np.ndarray:
    """`read`, where each time follows the one before at the same distance; DataError unless it does.

    uneven: times that may follow at another distance.
    """
    dates = read(file, column)
    steps = np.diff(dates)
    forward = steps[steps > np.timedelta64(0)].astype(np.int64)
    step = np.timedelta64(int(np.median(forward)) if len(forward) else 0, "s")
    known = np.isin(dates[1:], np.array(uneven, "datetime64[s]")) & (steps >= np.timedelta64(0))
    odd = ((steps != step) | (steps <= np.timedelta64(0))) & ~known
    for row in np.flatnonzero(odd)[:1] + 1:
        kinds = {-1: "lies before the one above it", 0: "is the one above it again"}
        kind = kinds.get(int(np.sign(steps[row - 1].astype(np.int64))))
        reason = kind or f"follows after {steps[row - 1].item()}, most dates after {step.item()}"
        raise _refuse(
            file,
            row,
            f"the date {_text(file, column, row)} {reason}; rows must follow one another at one distance",
        )
    return dates
