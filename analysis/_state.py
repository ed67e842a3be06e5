"""What the files of one sweep say together: sealed Parquet files, and the log for what is newer.

The log is the truth until a sweep is closed. Parquet files that the writer *seals* while it runs are
faster to read and replace the log where it is cut; where one of them is broken the log replaces it. Only
rows that are in neither are lost, and then reading raises.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fairsweep.analysis import schema
from fairsweep.analysis._files import Folder, StoreDamaged, StoreError, Unreadable
from fairsweep.analysis._layout import Part, Paths, list_parts, live, read_log
from fairsweep.analysis._log import Log
from fairsweep.analysis._trials import TrialRows
from fairsweep.analysis.schema import SCHEMA_VERSION, Schemas

_RETRY_S = (0.02, 0.08, 0.3)


@dataclass
class Sealed:
    """What `sweep.parquet` says of the other files: they are whole up to row `sealed`.

    `results`, `events`, `trials`: the row up to which the last file of each table goes; there is nothing
    of that table between it and `sealed`.
    """

    sealed: int = 0
    results: int = 0
    events: int = 0
    trials: int = 0


def check_version(folder: Folder, name: str, about: dict[str, Any]) -> None:
    """StoreError if a file was written by a newer version than this."""
    version = about.get("schema_version", 1)
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{folder.path(name)}: schema version {version}, and this fairsweep reads versions up to "
            f"{SCHEMA_VERSION}; upgrade fairsweep to read it"
        )


@dataclass
class State:
    """One reading of a sweep. `results`, `events` and `trials` are there if they were asked for."""

    folder: Folder
    paths: Paths
    row: dict[str, Any]
    schemas: Schemas
    sealed: Sealed
    log: Log
    live: bool | None  # whether somebody writes it; None if nobody can tell from here
    closed: bool
    tables: dict[str, pa.Table] = field(default_factory=dict)
    parts: dict[str, list[Part]] = field(default_factory=dict)
    repairs: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)  # parts of results whose rows are in longer ones too

    @property
    def last(self) -> int:
        """The number of the last row that is known anywhere."""
        parts = [p.last for found in self.parts.values() for p in found if p.rows is not None]
        return max([self.log.last, self.sealed.sealed, *parts])

    @classmethod
    def read(
        cls, folder: Folder, sweep: str, tables: Sequence[str] = (), columns: Sequence[str] | None = None
    ) -> State | None:
        """None if there is no such sweep; StoreDamaged if rows of `tables` are lost.

        Looks again before it says so: a writer that merges or closes meanwhile moves rows from file to file.
        """
        for pause in (*_RETRY_S, None):
            try:
                return _Reading(folder, Paths(sweep), columns).state(tables)
            except (StoreDamaged, FileNotFoundError) as error:
                if pause is None:
                    if isinstance(error, FileNotFoundError):
                        raise StoreDamaged(f"{error.filename or error}: the file is missing") from None
                    raise
                time.sleep(pause)
        return None


class _Reading:
    def __init__(self, folder: Folder, paths: Paths, columns: Sequence[str] | None) -> None:
        self.folder, self.paths, self.columns = folder, paths, columns
        self.repairs: list[str] = []
        self.leftovers: list[str] = []

    def state(self, tables: Sequence[str]) -> State | None:
        # Rows move from the log to the parts, never back: parts first, then the log, and none slips through.
        base, sealed = self._sealed_row()
        parts = {t: self._read_parts(t) for t in ("results", "events") if t in tables}
        trials = self._sealed_trials() if "trials" in tables else None
        self.log = read_log(self.folder, self.paths, sealed.sealed)
        if base is None and self.log.first is None:
            others = self.folder.exists(self.paths.trials) or list_parts(self.folder, self.paths, "results")
            if not (self._row_problem or others):
                return None
            raise StoreDamaged(
                f"{self.folder.path(self.paths.row)} {self._row_problem or 'is missing'}: it holds the row "
                f"of sweep {self.paths.sweep}, and the log holds no rows. Restore the file from a copy"
            )
        fault = self.log.fault(sealed.sealed)
        if fault:
            raise StoreDamaged(f"sweep {self.paths.sweep}: {fault}. Restore the file from a copy")
        row = self._row(base, sealed)
        closed = bool(row.get("closed")) and self.log.last <= sealed.sealed
        where = self.folder.path(self.paths.log)
        if not closed and not self.log.segments:
            raise StoreDamaged(
                f"{where}: has no log, and sweep {self.paths.sweep} was not closed; "
                f"rows after number {sealed.sealed} may be lost. Restore the log from a copy"
            )
        if self.log.first is not None and self.log.first > sealed.sealed + 1:
            raise StoreDamaged(
                f"{where}: the log begins at row {self.log.first}, and sweep {self.paths.sweep} is sealed "
                f"up to row {sealed.sealed} only; the rows between are missing. Restore the log from a copy"
            )
        schemas = Schemas.of_row(row)
        writes = live(self.folder, self.paths) if self.folder.local or not closed else False
        state = State(
            self.folder,
            self.paths,
            row,
            schemas,
            sealed,
            self.log,
            writes,
            closed,
            {},
            parts,
            self.repairs,
            self.leftovers,
        )
        for table, found in parts.items():
            layout = schemas.table(table)
            if self.columns is not None:
                layout = pa.schema([f for f in layout if f.name in {*self.columns, "seq"}])
            state.tables[table] = self._assemble(table, found, sealed, layout)
        if trials is not None:
            state.tables["trials"] = self._trials(*trials, sealed, schemas.trials)
        if closed:
            self._check_counts(state)
        return state

    # -- the sweep's row ------------------------------------------------------------------------------

    def _sealed_row(self) -> tuple[dict[str, Any] | None, Sealed]:
        self._row_problem = ""
        try:
            table, about = self.folder.read_parquet(self.paths.row)
        except FileNotFoundError:
            return None, Sealed()
        except Unreadable as error:
            self._row_problem = f"cannot be read ({error.reason})"
            return None, Sealed()
        check_version(self.folder, self.paths.row, about)
        if table.num_rows != 1:
            self._row_problem = f"has {table.num_rows} rows in place of 1"
            return None, Sealed()
        row = schema.to_encoded(schema.conform(table, schema.SWEEPS))[0]
        if row["config_schema"] is None:  # written before these columns were
            row.update(_columns_of(self.folder, self.paths))
        return row, Sealed(**{k: about.get(k, 0) for k in ("sealed", "results", "events", "trials")})

    def _row(self, base: dict[str, Any] | None, sealed: Sealed) -> dict[str, Any]:
        if base is None:
            if not self.log.holds(1, self.log.last):
                raise StoreDamaged(
                    f"{self.folder.path(self.paths.row)} {self._row_problem or 'is missing'}: it holds the "
                    f"row of sweep {self.paths.sweep}, and the log begins at row {self.log.first} only. "
                    "Restore the file from a copy"
                )
            if self._row_problem:
                self.repairs.append(f"{self.folder.path(self.paths.row)} {self._row_problem}")
            base = {}
        row = dict(base)
        for _, change in self.log.rows("sweeps", sealed.sealed + 1):
            row.update(change)
        row["sweep"] = self.paths.sweep
        check_version(self.folder, self.paths.log, {"schema_version": row.get("schema_version") or 1})
        return row

    # -- results and events ---------------------------------------------------------------------------

    def _read_parts(self, table: str) -> list[Part]:
        parts = list_parts(self.folder, self.paths, table)
        columns = None if self.columns is None else list(self.columns)
        if columns is not None and len(parts) > 1:
            columns.append("seq")  # should two overlap
        kept: list[Part] = []
        for part in parts:
            if any(p.rows is not None and p.first <= part.first and part.last <= p.last for p in kept):
                if table == "results":
                    self.leftovers.append(part.name)
                continue  # merged into a longer one; its writer died before it could delete it
            try:
                part.rows, about = self.folder.read_parquet(part.name, columns)
            except Unreadable as error:
                part.problem = error.reason
            else:
                check_version(self.folder, part.name, about)
                if (about.get("first", part.first), about.get("last", part.last)) != (part.first, part.last):
                    part.rows, part.problem = None, "the rows in it are not those that its name says"
            kept.append(part)
        return kept

    def _assemble(self, table: str, parts: list[Part], sealed: Sealed, layout: pa.Schema) -> pa.Table:
        good = [p for p in parts if p.rows is not None]
        promised = getattr(sealed, table)
        pieces: list[pa.Table] = []
        cover = 0
        while True:
            if cover >= promised:
                cover = max(cover, sealed.sealed)
            part = max(
                (p for p in good if p.first <= cover + 1 and p.last > cover),
                key=lambda p: p.last,
                default=None,
            )
            if part is not None and part.rows is not None:
                rows = schema.conform(part.rows, layout)
                if part.first <= cover and "seq" in part.rows.schema.names:
                    rows = rows.filter(pc.greater(rows.column("seq"), cover))
                pieces.append(rows)
                cover = part.last
                continue
            later = min((p.first for p in good if p.first > cover + 1), default=None)
            upto = self.log.last if later is None else later - 1
            if later is None and upto <= cover:
                break
            if not self.log.holds(cover + 1, upto):
                raise self._lost(table, parts, cover + 1, max(upto, promised))
            found = self.log.rows(table, cover + 1, upto)
            pieces.append(_log_table(table, found, layout, self.paths.sweep))
            if cover < promised and not any(p.problem for p in parts):
                where = self.folder.path(parts[0].name if parts else self.paths.results).rpartition("/")[0]
                self.repairs.append(
                    f"{where}: the file with rows {cover + 1} to {min(upto, promised)} is missing"
                )
            cover = upto
        if cover < promised:
            raise self._lost(table, parts, cover + 1, promised)
        self.repairs.extend(
            f"{self.folder.path(p.name)} cannot be read ({p.problem})" for p in parts if p.problem
        )
        return schema.unify(pieces) if pieces else layout.empty_table()

    def _lost(self, table: str, parts: list[Part], first: int, last: int) -> StoreDamaged:
        held = f"rows {self.log.first} to {self.log.last}" if self.log.first else "no rows"
        broken = [p for p in parts if p.problem and p.first <= last and p.last >= first]
        what = "; ".join(f"{self.folder.path(p.name)} cannot be read ({p.problem})" for p in broken)
        if not what:
            where = self.paths.results if table == "results" else self.paths.log
            what = f"{self.folder.path(where)}: a Parquet file is missing"
        return StoreDamaged(
            f"{what}: it held {table} of sweep {self.paths.sweep} in rows {first} to {last}, "
            f"and the log holds {held}. Restore the file from a copy"
        )

    # -- trials ---------------------------------------------------------------------------------------

    def _sealed_trials(self) -> tuple[pa.Table | None, int, str]:
        try:
            table, about = self.folder.read_parquet(self.paths.trials)
        except FileNotFoundError:
            return None, 0, "is missing"
        except Unreadable as error:
            return None, 0, f"cannot be read ({error.reason})"
        check_version(self.folder, self.paths.trials, about)
        return table, about.get("seq", 0), ""

    def _trials(
        self, table: pa.Table | None, seq: int, problem: str, sealed: Sealed, layout: pa.Schema
    ) -> pa.Table:
        if table is not None and seq >= sealed.trials:
            seq = max(seq, sealed.sealed)
        elif table is not None:
            problem = f"is older than {self.folder.path(self.paths.row)}"
        if problem:
            seq = 0
        if not self.log.holds(seq + 1, max(self.log.last, sealed.trials)):
            problem = problem or "is older than the log"
            raise StoreDamaged(
                f"{self.folder.path(self.paths.trials)} {problem}: it held the trials of sweep "
                f"{self.paths.sweep} up to row {sealed.trials}, and the log holds "
                f"{f'rows {self.log.first} to {self.log.last}' if self.log.first else 'no rows'}. "
                "Restore the file from a copy"
            )
        if problem and table is None and sealed.trials:
            self.repairs.append(f"{self.folder.path(self.paths.trials)} {problem}")
        changes = self.log.rows("trials", seq + 1)
        base = layout.empty_table() if table is None else schema.conform(table, layout)
        rows = TrialRows(self.paths.sweep, base)
        for _, change in changes:
            rows.change(change)
        return rows.packed(base.schema)

    def _check_counts(self, state: State) -> None:
        for table, column in (("results", "rows_results"), ("trials", "rows_trials")):
            expected = state.row.get(column)
            if table in state.tables and expected is not None and state.tables[table].num_rows != expected:
                where = self.paths.results if table == "results" else self.paths.trials
                raise StoreDamaged(
                    f"{self.folder.path(where)}: sweep {self.paths.sweep} was closed with {expected} rows of "
                    f"{table} and now has {state.tables[table].num_rows}. Restore the file from a copy"
                )


def _log_table(
    table: str, found: list[tuple[int, dict[str, Any]]], layout: pa.Schema, sweep: str
) -> pa.Table:
    rows = [row for _, row in found]
    return schema.to_arrow(rows, layout, sweep, [seq for seq, _ in found])


def _columns_of(folder: Folder, paths: Paths) -> dict[str, str]:
    try:
        table, _ = folder.read_parquet(paths.trials)
    except (FileNotFoundError, Unreadable):
        return {}
    config = [f for f in table.schema if f.name.startswith(schema.CONFIG)]
    metrics = [f.name.removeprefix(schema.METRIC) for f in table.schema if f.name.startswith(schema.METRIC)]
    return Schemas.of(config, metrics).to_row()
