"""Series at places that know of each other: a table of times and places, and perhaps who is near whom."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from fairsweep.trainables.base import DataError
from fairsweep.trainables.datasets import series
from fairsweep.trainables.datasets.own import tables
from fairsweep.trainables.datasets.own.nodes import EDGES
from fairsweep.trainables.datasets.series import Series

LAYOUT = "series.csv or series.parquet: a column 'time', and one column of numbers for each place"


@dataclass(frozen=True, eq=False)
class Spatial:
    """series: values (time, places). adjacency: (places, places) CSR, the weight from a place (row) to a place
    (column); None where nothing says it."""

    series: Series
    adjacency: sp.csr_matrix | None


def own(data_dir: Path | None = None) -> Spatial:
    """The series of `data_dir` as for forecasting, its columns being places, and `adjacency.csv` or `.parquet`: source,
    target (names of columns) and perhaps weight (a number from 0; without one: 1). Links have a direction."""
    found = series.own(data_dir)
    if len(found.columns) < 2:
        raise DataError(f"data=own: one place, {found.columns[0]!r}; needs two columns of numbers at least")
    assert data_dir is not None
    path = tables.present(Path(data_dir), "adjacency")
    if path is None:
        return Spatial(found, None)
    table = tables.read(path, EDGES)
    rows, columns = (tables.positions(table, end, found.columns, "column of the series") for end in EDGES)
    weights = table.numbers("weight") if "weight" in table.columns else np.ones(len(rows))
    negative = np.flatnonzero(weights < 0)
    if len(negative):
        row = int(negative[0])
        raise tables.refuse_row(table, row, f"column 'weight' has {weights[row]:g}, must not be below 0")
    places = len(found.columns)
    keys = rows * places + columns
    first = np.zeros(len(keys), bool)
    first[np.unique(keys, return_index=True)[1]] = True
    if not first.all():
        row = int(np.flatnonzero(~first)[0])
        raise tables.refuse_row(
            table,
            row,
            f"the link {found.columns[rows[row]]!r} to {found.columns[columns[row]]!r} is there again",
        )
    return Spatial(found, sp.csr_matrix((weights, (rows, columns)), shape=(places, places)))
