"""The tables of a store as clients see them now: read when a file has changed, else what was read last.

Every answer is of the files as they are when it is asked for: what is kept is kept with the stamp of its files.
"""

from __future__ import annotations

import hashlib
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fairsweep.analysis import schema
from fairsweep.analysis.schema import DERIVED, Schemas
from fairsweep.analysis.store import DamagedSweepWarning, Store, StoreError, UnknownSweep
from fairsweep.cluster.service.tickets import Ask, BadTicket, check_columns, conditions, matching

KEPT_BYTES = 256 * 2**20  # of tables that are kept
KEPT_TABLES = 4_096
Key = tuple[Any, ...]


class Kept:
    """Tables that were read, each with the stamp of the files that it is of; those of long ago are dropped."""

    def __init__(self, most: int = KEPT_BYTES) -> None:
        self.most, self.size = most, 0
        self._found: OrderedDict[Key, tuple[str, pa.Table]] = OrderedDict()
        self._lock = threading.Lock()
        self._reading = threading.RLock()  # one at a time, so that many who ask at once read once

    def get(self, key: Key, stamp: str, read: Callable[[], pa.Table]) -> pa.Table:
        """The table under `key`, read unless it is of this very `stamp`, which was taken before."""
        found = self._of(key, stamp)
        if found is None:
            with self._reading:
                found = self._of(key, stamp)
                if found is None:
                    found = read()
                    self._keep(key, stamp, found)
        return found

    def _of(self, key: Key, stamp: str) -> pa.Table | None:
        with self._lock:
            kept = self._found.get(key)
            if kept is None or kept[0] != stamp:
                return None
            self._found.move_to_end(key)
            return kept[1]

    def _keep(self, key: Key, stamp: str, table: pa.Table) -> None:
        with self._lock:
            before = self._found.pop(key, None)
            if before is not None:
                self.size -= before[1].nbytes
            if table.nbytes > self.most / 2:
                return
            self._found[key] = stamp, table
            self.size += table.nbytes
            while self.size > self.most or len(self._found) > KEPT_TABLES:
                _, (_, dropped) = self._found.popitem(last=False)
                self.size -= dropped.nbytes


class Rows:
    """A store's tables. only: a sweep, or a run whose sweeps begin with its name and a dot; None for all.

    BadTicket for what there is not, StoreError for what cannot be read.
    """

    def __init__(self, store: Store, only: str | None = None, kept: Kept | None = None) -> None:
        self.store, self.only, self.kept = store, only, kept or Kept()
        self._alone = only is not None and store.has(only)
        self._said: set[str] = set()

    def sweeps(self) -> list[str]:
        """Names of those that are served, the newest last, without those that are damaged."""
        return Look(self).sweeps()

    def schema(self, ask: Ask) -> pa.Schema:
        """The columns of the table that is asked for, all of them."""
        return Look(self).schema(ask)

    def table(self, ask: Ask) -> pa.Table:
        """The rows that are asked for, of the files as they are."""
        look = Look(self)
        layout = look.schema(ask)
        check_columns(ask, layout)
        tests = conditions(ask, layout)
        found = look.derived(ask) if ask.table in DERIVED else look.of_sweeps(ask)
        return matching(found, ask, tests)

    def look(self) -> Look:
        """For several questions about the store as it is at one moment."""
        return Look(self)

    def serves(self, name: str) -> bool:
        """Whether a sweep or run of this name would be among what is served."""
        return self.only in (None, name) or (not self._alone and name.startswith(f"{self.only}."))

    def left_out(self, name: str, error: StoreError) -> None:
        """Warns, once, of a sweep that is damaged."""
        if name not in self._said:
            self._said.add(name)
            warnings.warn(f"sweep {name} is left out: {error}", DamagedSweepWarning, stacklevel=2)


class Look:
    """One look at the store: the stamp of each sweep is taken once."""

    def __init__(self, rows: Rows) -> None:
        self.rows, self.store, self.kept = rows, rows.store, rows.kept
        self._stamps: dict[str, str] = {}
        self._names: list[str] | None = None

    def sweeps(self) -> list[str]:
        if self._names is None:
            found = []
            for name in filter(self.rows.serves, self.store.names()):
                row = self._or_none("sweeps", name)
                if row is not None:
                    found.append((row["created"].cast(pa.int64())[0].as_py() or 0, name))
            self._names = [name for _, name in sorted(found)]
        return self._names

    def schema(self, ask: Ask) -> pa.Schema:
        if ask.sweep is not None:
            self._must_know(ask.sweep)
        if ask.table in DERIVED:
            return DERIVED[ask.table]
        if ask.sweep is not None:
            return self._layout(ask.table, ask.sweep)
        layouts = [found for found in map(partial(self.layout_or_none, ask.table), self.sweeps()) if found]
        layouts = layouts or [Schemas.of([], []).table(ask.table)]
        return schema.unify([layout.empty_table() for layout in layouts]).schema

    def derived(self, ask: Ask) -> pa.Table:
        run = ask.sweep or self.rows.only
        runs = self.store.folder.names(ask.table)
        stamp = _joined([*runs, *(self.store.stamp(name, (ask.table,)) for name in runs)])
        table = self.kept.get((ask.table,), stamp, lambda: self.store.derived(ask.table))
        if run is None:
            return table
        column = "sweep" if ask.table == "claims" and run not in runs else "run"
        return table.filter(pc.equal(table[column], run))

    def of_sweeps(self, ask: Ask) -> pa.Table:
        columns, table = ask.needed, ask.table
        if ask.sweep is not None:
            return _only(self._piece(table, ask.sweep, columns), columns)
        names = self.sweeps()
        stamp = _joined([*names, *map(self._stamp, names)])
        return _only(
            self.kept.get((table, None, columns), stamp, lambda: self._together(table, names, columns)),
            columns,
        )

    def layout_or_none(self, table: str, name: str) -> pa.Schema | None:
        """The columns of a table of a sweep that was listed; None where it was deleted or renamed since."""
        try:
            return self._layout(table, name)
        except UnknownSweep:
            return None
        except StoreError as error:
            self.rows.left_out(name, error)
            return None

    def _together(self, table: str, names: list[str], columns: tuple[str, ...] | None) -> pa.Table:
        found = (self._or_none(table, name, columns) for name in names)
        pieces = [piece for piece in found if piece is not None]
        return schema.unify(pieces) if pieces else Schemas.of([], []).table(table).empty_table()

    def _or_none(self, table: str, name: str, columns: tuple[str, ...] | None = None) -> pa.Table | None:
        """The table of a sweep; None where that was deleted since it was listed, or is damaged."""
        try:
            return self._piece(table, name, columns)
        except UnknownSweep:
            return None
        except StoreError as error:
            self.rows.left_out(name, error)
            return None

    def _must_know(self, name: str) -> None:
        """BadTicket unless the sweep, or run, is served."""
        if not self.rows.serves(name):
            raise BadTicket(f"sweep={name}: this server has {self.rows.only} alone")
        if not self.store.has(name) and not any(self.store.folder.names(f"{t}/{name}") for t in DERIVED):
            raise BadTicket(str(self.store.unknown(name)))

    def _layout(self, table: str, sweep: str) -> pa.Schema:
        row = self._piece("sweeps", sweep, None)
        if table == "sweeps":
            return row.schema
        return Schemas.of_row(row.select(["config_schema", "metrics"]).to_pylist()[0]).table(table)

    def _stamp(self, sweep: str) -> str:
        if sweep not in self._stamps:
            self._stamps[sweep] = self.store.stamp(sweep)
        return self._stamps[sweep]

    def _piece(self, table: str, sweep: str, columns: tuple[str, ...] | None) -> pa.Table:
        wanted = columns if table == "results" else None  # the others are read whole
        return self.kept.get(
            (table, sweep, wanted), self._stamp(sweep), lambda: self.store.piece(table, sweep, wanted)
        )


def _joined(parts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _only(table: pa.Table, columns: tuple[str, ...] | None) -> pa.Table:
    """`table` with just these columns; one that it lacks after all, since it changed meanwhile, is a BadTicket."""
    if columns is None:
        return table
    lost = [name for name in columns if name not in table.column_names]
    if lost:
        raise BadTicket(f"column {lost[0]} is not there any more; the table has changed meanwhile")
    return table.select(list(columns))
