"""The rows of the table `trials` while they change: packed as Arrow, and beside that what has changed since."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fairsweep.analysis import schema


class TrialRows:
    """Upserts encoded rows. A row as a dict takes kilobytes, and most trials of a long sweep do not change any more."""

    def __init__(self, sweep: str, packed: pa.Table) -> None:
        self.sweep = sweep
        self._packed = packed
        self._changed: dict[str, dict[str, Any]] = {}

    def change(self, row: dict[str, Any]) -> None:
        """Creates a trial, or changes the columns of it that `row` has."""
        self._changed.setdefault(row["trial"], {}).update(row)

    def packed(self, layout: pa.Schema) -> pa.Table:
        """All rows with the columns of `layout` (`schema.conform`), in the order in which the trials were made."""
        base = self._packed = schema.conform(self._packed, layout)
        if not self._changed:
            return base
        changed, self._changed = list(self._changed.values()), {}
        names = pa.array([row["trial"] for row in changed], pa.string())
        places = pc.index_in(names, value_set=base.column("trial").combine_chunks()).to_pylist()
        known = [(place, row) for place, row in zip(places, changed, strict=True) if place is not None]
        before = schema.to_encoded(base.take(pa.array([place for place, _ in known], pa.int64())))
        rows = [{**old, **row} for old, (_, row) in zip(before, known, strict=True)]
        rows += [row for place, row in zip(places, changed, strict=True) if place is None]
        order = np.arange(base.num_rows + len(changed) - len(known))
        order[base.num_rows :] += len(known)
        order[[place for place, _ in known]] = base.num_rows + np.arange(len(known))
        both = pa.concat_tables([base, schema.to_arrow(rows, base.schema, self.sweep)])
        self._packed = _by_number(both.take(pa.array(order))).combine_chunks()
        return self._packed


def _by_number(rows: pa.Table) -> pa.Table:
    numbers = rows.column("number").fill_null(np.iinfo(np.int64).max).to_numpy()
    if (numbers[1:] >= numbers[:-1]).all():
        return rows
    return rows.take(pa.array(np.argsort(numbers, kind="stable")))
