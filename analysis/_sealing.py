"""How the rows of a sweep become Parquet: parts while it is written, one file a table at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from fairsweep.analysis import schema
from fairsweep.analysis._files import Folder, StoreDamaged, Unreadable
from fairsweep.analysis._layout import Part, Paths, list_parts, read_log
from fairsweep.analysis._state import State
from fairsweep.analysis._trials import TrialRows
from fairsweep.analysis.schema import SCHEMA_VERSION, TABLES, Encoder, Schemas

MAX_PARTS = 16


def _ascending(column: pa.ChunkedArray) -> bool:
    values = column.to_numpy()
    return bool((values[1:] > values[:-1]).all())


class Sealing:
    """What a writer has appended: `_pending` is not in a Parquet file yet, `_sealed` the last row that is."""

    def __init__(self, folder: Folder, sweep: str, schemas: Schemas) -> None:
        self.name = sweep
        self._folder, self._paths = folder, Paths(sweep)
        self._use(schemas)
        self._row: dict[str, Any] = {}
        self._trials = TrialRows(sweep, schemas.trials.empty_table())
        self._trials_at = 0
        self._trials_there = 0
        self._trials_changed = True
        self._pending: dict[str, list[tuple[int, dict[str, Any]]]] = {"results": [], "events": []}
        self._ends: dict[str, int] = {"results": 0, "events": 0}
        self._counts = {"results": 0, "events": 0}
        self._seq = 0
        self._sealed = 0

    def _use(self, schemas: Schemas) -> None:
        self._schemas = schemas
        columns = [name for name in schemas.results.names if name.startswith(schema.METRIC)]
        self._metrics = {name.removeprefix(schema.METRIC) for name in columns}
        self._encoders = {t: Encoder(t, schemas.table(t)) for t in TABLES}

    def _seal(self) -> None:
        self._seal_parts()
        if self._trials_changed:
            self._write_trials()
        self._write_row(closed=False)
        for table in self._pending:
            self._merge(table)

    def _seal_parts(self) -> None:
        for table, pending in self._pending.items():
            if pending:
                rows = [row for _, row in pending]
                found = schema.to_arrow(
                    rows, self._schemas.table(table), self.name, [seq for seq, _ in pending]
                )
                first = self._ends[table] + 1
                self._write_part(table, first, self._seq, found, self._paths.part(table, first, self._seq))
                self._ends[table] = self._seq
                self._pending[table] = []

    def _write_part(self, table: str, first: int, last: int, rows: pa.Table, name: str) -> None:
        about = {"schema_version": SCHEMA_VERSION, "first": first, "last": last}
        self._folder.write_parquet(name, rows, about)

    def _write_trials(self) -> None:
        rows = self._trials.packed(self._schemas.trials).select(self._schemas.trials.names)
        about = {"schema_version": SCHEMA_VERSION, "seq": self._seq}
        self._folder.write_parquet(self._paths.trials, rows, about)
        self._trials_at, self._trials_changed, self._trials_there = self._seq, False, rows.num_rows

    def _write_row(self, closed: bool) -> None:
        # It is written last: what it says of the other files is true of files that are there.
        row = {**self._row, "closed": closed}
        if closed:
            row.update(rows_results=self._counts["results"], rows_trials=self._trials_there)
        about = {
            "schema_version": SCHEMA_VERSION,
            "sealed": self._seq,
            "results": self._ends["results"],
            "events": self._ends["events"],
            "trials": self._trials_at,
        }
        self._folder.write_parquet(self._paths.row, schema.to_arrow([row], schema.SWEEPS, self.name), about)
        self._sealed = self._seq
        self._row = row

    def _merge(self, table: str) -> None:
        """Puts the newest parts together where there are many; a row is written again as often as all rows double."""
        parts = sorted(list_parts(self._folder, self._paths, table), key=lambda p: p.first)
        if len(parts) <= MAX_PARTS:
            return
        at = len(parts) - MAX_PARTS // 2
        while at > 0 and parts[at - 1].length <= sum(p.length for p in parts[at:]):
            at -= 1
        try:
            read = [self._folder.read_parquet(part.name)[0] for part in parts[at:]]
            rows = schema.unify([schema.conform(r, self._schemas.table(table)) for r in read])
        except Unreadable:  # the log has the rows
            state = State.read(self._folder, self.name, [table])
            assert state is not None
            rows, at = state.tables[table], 0
        self._write_one(table, parts[at].first if at else 1, self._ends[table], rows, parts[:at])
        if not self._folder.local:
            # Every read lists and fetches each object of the log; what is sealed needs no second copy there.
            self._trim_log()

    def _write_one(self, table: str, first: int, last: int, rows: pa.Table, kept: list[Part]) -> None:
        """A part with `rows` in the place of all parts but those `kept`; what is read back is counted."""
        name = self._paths.part(table, first, last)
        folder, _, base = name.rpartition("/")
        others = {part.name for part in kept}
        if table == "results" and self._folder.local:
            # Files cannot change places with one. Two folders can, so that no reader sees a row twice, or none.
            aside = self._folder.temporary(f"{folder}/parts")
            self._folder.make(aside)
            linked = all(self._folder.link(other, f"{aside}/{Path(other).name}") for other in others)
            if linked:
                self._write_part(table, first, last, rows, f"{aside}/{base}")
                self._verify(f"{aside}/{base}", rows.num_rows)
            if linked and self._folder.exchange(folder, aside):
                parts = {Path(p.name).name for p in list_parts(self._folder, self._paths, table, aside)}
                for other in set(self._folder.names(aside)) - parts:  # somebody else's files
                    self._folder.fs.move(
                        self._folder.path(f"{aside}/{other}"), self._folder.path(f"{folder}/{other}")
                    )
                self._folder.delete_temporaries(folder)
                return
            self._folder.delete_temporaries(folder)
        self._write_part(table, first, last, rows, name)
        self._verify(name, rows.num_rows)
        self._delete_parts_but(table, {name, *others})

    def _trim_log(self) -> None:
        log = read_log(self._folder, self._paths)
        for segment in log.segments[:-1]:
            if not segment.frames or segment.frames[-1].last <= self._sealed:
                self._folder.delete(f"{self._paths.log}/{Path(segment.path).name}")

    def _compact(self, state: State, closed: bool) -> None:
        """Writes every table as one file up to the last row, checks them, and drops the parts.

        The parts go before the row says that the sweep is closed: what is closed has no row twice for anybody.
        """
        for table in ("results", "events"):
            rows = state.tables[table]
            if rows.num_rows != self._counts[table] or not _ascending(rows.column("seq")):
                raise StoreDamaged(
                    f"sweep {self.name}: {self._counts[table]} {table} were appended, {rows.num_rows} are "
                    f"read back from {self._folder.path(self._paths.log)}; the log is kept"
                )
            self._write_one(table, 1, self._seq, rows, [])
            self._ends[table] = self._seq
            self._pending[table] = []
        self._write_trials()
        self._verify(self._paths.trials, self._trials_there)
        self._write_row(closed)
        self._verify(self._paths.row, 1)

    def _verify(self, name: str, rows: int) -> None:
        found, _ = self._folder.read_parquet(name)
        if found.num_rows != rows:
            raise StoreDamaged(
                f"{self._folder.path(name)}: {rows} rows were written, {found.num_rows} are read back"
            )

    def _delete_parts_but(self, table: str, kept: set[str]) -> None:
        for part in list_parts(self._folder, self._paths, table):
            if part.name not in kept:
                self._folder.delete(part.name)
