"""The durable, append-only store of sweeps: Arrow tables that can be read while a sweep runs and after.

    results/<sweep>/part-<first>-<last>.parquet    one row a report
    trials/<sweep>/trials.parquet                  one row a trial, as it stands
    sweeps/<sweep>/sweep.parquet                   one row a sweep
    claims/<run>/claims.parquet                    one row a claim of a run of `fairsweep claims`
    architectures/<run>/architectures.parquet      one row an architecture of a run of `fairsweep nas`
    tags/<sweep>/tags.parquet                      its tags, one a row
    log/<sweep>/<number>.log                       every append since the sweep was last closed
    log/<sweep>/events-<first>-<last>.parquet      decisions, for the driver's replay

    tmp/...                                        what is being written

An append returns when its rows are on disk in the log. Every few seconds the writer seals: it writes what
is new as Parquet, for readers that know nothing of the log. Closing leaves one Parquet file a table.

A row of `results` is identified by its sweep and `seq`. On a local file system that can exchange two folders (Linux:
ext4, XFS, Btrfs, tmpfs) other programs see each row once at any moment. Elsewhere they may see rows twice while parts
are merged; `Store` never does, and a writer that died then leaves a sweep that is not closed, with a note.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fairsweep.analysis import _log, schema
from fairsweep.analysis._files import (
    Appender,
    Folder,
    Lock,
    StoreDamaged,
    StoreError,
    SweepLocked,
    UnknownSweep,
    Unreadable,
    check_uri,
    filesystem,
    join,
    write_parquet,
)
from fairsweep.analysis._state import Paths, State, by_number, list_parts, merge_row, read_log
from fairsweep.analysis.schema import SCHEMA_VERSION, TABLES, Encoder, Schemas

__all__ = [
    "DamagedSweepWarning",
    "Recovery",
    "Store",
    "StoreDamaged",
    "StoreError",
    "SweepLocked",
    "SweepRecord",
    "SweepWriter",
    "UnknownSweep",
    "check_uri",
    "filesystem",
    "write_parquet",
]

SEAL_EVERY_S = 3.0
SEAL_EVERY_ROWS = 5_000
MAX_PARTS = 16
_EPOCH_STRIDE = 10_000_000  # log objects of one remote writer; the next writer begins at the next multiple


class DamagedSweepWarning(UserWarning):
    """A table of several sweeps lacks one, since its files are damaged; names it and what is wrong."""


@dataclass(frozen=True)
class SweepRecord:
    """All rows of a sweep: `trials` by id in the order of their number, `results` and `events` by `seq`.

    Rows of `sweep`, `trials` and `results` have every column of their table. An event is
    `{"seq": n, "kind": kind, ...}` with the fields that it was written with.
    """

    sweep: dict[str, Any]
    trials: dict[str, dict[str, Any]]
    results: list[dict[str, Any]]
    events: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Recovery:
    """What opening a sweep that had not been closed found: reports, events and bytes that were dropped."""

    rows: int
    events: int
    torn_bytes: int
    message: str


def _now() -> datetime:
    return datetime.now(timezone.utc)


class Store:
    """The sweeps under a folder or URI (`file:`, `s3:`, `gs:`, or any scheme of fsspec).

    Nothing is created before a sweep is. StoreError if the URI cannot be understood or names a file.
    """

    def __init__(self, uri: str | Path) -> None:
        text = str(uri)
        self.folder = Folder(text)
        self.uri = text if "://" in text else self.folder.root
        self.root = self.folder.root if self.folder.local else self.uri
        if self.folder.local and Path(self.folder.root).exists() and not Path(self.folder.root).is_dir():
            raise StoreError(f"storage={text}: is a file; a store is a folder")

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"

    def sweeps(self) -> list[str]:
        """Names by time of creation, the newest last."""
        names = {*self.folder.names("sweeps"), *self.folder.names("log")}
        rows = []
        for name in sorted(names):
            if not schema.is_name(name):
                continue
            try:
                state = State.read(self.folder, name)
            except StoreError:  # listed all the same: what is wrong with it is said when it is read
                rows.append((0, name))
                continue
            if state is not None:
                rows.append((state.row.get("created") or 0, name))
        return [name for _, name in sorted(rows)]

    def has(self, sweep: str) -> bool:
        """Whether there is a sweep of this name."""
        if not schema.is_name(sweep):
            return False
        paths = Paths(sweep)
        return _exists(self.folder, paths)

    def table(self, name: str, sweep: str | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """A table (`sweeps`, `trials`, `results`, `events`, `claims`, `architectures`), of all sweeps if None is given.

        Sweeps are put together by column name; a column that a sweep lacks is null there, and a damaged sweep is left
        out with a `DamagedSweepWarning`. Results and events are in the order of `seq`, trials in that of `number`.
        StoreError for an unknown table or column, UnknownSweep, StoreDamaged if rows of `sweep` are lost.
        """
        tables = (*TABLES, *schema.DERIVED)
        if name not in tables:
            raise StoreError(f"table={name}: must be one of {', '.join(tables)}")
        if name in schema.DERIVED:
            table = known = self.derived(name)
            if sweep is not None:
                column = "sweep" if name == "claims" else "run"
                table = table.filter(pc.equal(table.column(column), sweep))
        elif sweep is not None:
            table = known = self._table(name, sweep, columns)
        else:
            found = []
            for each in self.sweeps():
                try:
                    found.append(self._table(name, each, columns))
                except UnknownSweep:  # removed since it was listed
                    continue
                except StoreError as error:
                    warnings.warn(f"sweep {each} is left out: {error}", DamagedSweepWarning, stacklevel=2)
            table = known = schema.unify(found) if found else Schemas.of([], []).table(name).empty_table()
        if columns is None:
            return table
        unknown = [c for c in columns if c not in table.column_names]
        if unknown:
            if name in TABLES and sweep is not None:
                known = self._table(name, sweep, None)
            close = get_close_matches(unknown[0], known.column_names, n=3)
            hint = (
                f"did you mean {' or '.join(close)}?"
                if close
                else f"columns are {', '.join(known.column_names)}"
            )
            raise StoreError(f"table {name} has no column {unknown[0]!r}; {hint}")
        return table.select(list(columns))

    def _table(self, name: str, sweep: str, columns: Sequence[str] | None) -> pa.Table:
        state = self._state(sweep, [] if name == "sweeps" else [name], columns)
        if name == "sweeps":
            row = schema.to_arrow([state.row], schema.SWEEPS, sweep)
            return row.append_column("tags", pa.array([", ".join(self.tags(sweep))], pa.string()))
        return state.tables[name]

    def derived(self, table: str, run: str | None = None) -> pa.Table:
        """The rows of `claims` or `architectures` of a run, or of all runs but damaged ones, of which it warns."""
        runs = self.folder.names(table) if run is None else [run]
        found = []
        for name in runs:
            try:
                found.append(self.folder.read_parquet(f"{table}/{name}/{table}.parquet")[0])
            except FileNotFoundError:
                continue
            except Unreadable as error:
                problem = f"{error.path}: cannot be read ({error.reason}); delete it, and it is made again from {name}"
                if run is not None:
                    raise StoreDamaged(problem) from None
                warnings.warn(f"{table} of {name} are left out: {problem}", DamagedSweepWarning, stacklevel=2)
        return schema.unify([schema.DERIVED[table].empty_table(), *found])

    def write_derived(self, table: str, run: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes the rows of a run into `claims` or `architectures`, in the place of earlier ones of the same run.

        They follow from the tables `trials` and `results`, so they can be made again.
        """
        if not schema.is_name(run):
            raise StoreError(
                f"name={run!r}: must be letters, digits and . _ = + - only, a letter or digit first"
            )
        columns = schema.DERIVED[table]
        unknown = {name for row in rows for name in row} - set(columns.names)
        if unknown:
            raise KeyError(f"table {table} has no column {min(unknown)!r}")
        self.folder.make(f"{table}/{run}")
        made = pa.Table.from_pylist([{**row, "run": run} for row in rows], schema=columns)
        about = {"schema_version": SCHEMA_VERSION}
        self.folder.write_parquet(f"{table}/{run}/{table}.parquet", made, about)

    def read(self, sweep: str) -> SweepRecord:
        """Everything about a sweep, for a driver to replay."""
        return _record(self._state(sweep, ["results", "trials", "events"]))

    def notes(self, sweep: str) -> list[str]:
        """What a reader of the sweep should know: what its driver noted, that it was not closed, what was recovered."""
        events = self._state(sweep, ["events"]).tables["events"]
        told = [json.loads(row) for row in events.filter(pc.equal(events["kind"], "note"))["row"].to_pylist()]
        notes = [f"trial {n['trial']}: {n['text']}" if n.get("trial") else n["text"] for n in told]
        return [*notes, *_notes(self._state(sweep, ["results", "trials", "events"], ["trial"]))]

    def create(
        self,
        sweep: str,
        row: Mapping[str, Any],
        *,
        config_fields: Sequence[pa.Field],
        metric_names: Sequence[str],
    ) -> SweepWriter:
        """Begins a sweep. `row`: columns of the table `sweeps`; `config_fields`: the columns `config.<name>`.

        StoreError if the name is taken or cannot be a file name.
        """
        if not schema.is_name(sweep):
            raise StoreError(
                f"sweep={sweep!r}: must be letters, digits and . _ = + - only, a letter or digit first"
            )
        try:
            schemas = Schemas.of(config_fields, metric_names)
        except (TypeError, ValueError) as error:
            raise StoreError(f"sweep {sweep}: {error}") from None
        now = _now()
        full = {
            "state": "running",
            "created": now,
            "updated": now,
            **row,
            "schema_version": SCHEMA_VERSION,
            "fairsweep_version": _own_version(),
            "closed": False,
            **schemas.to_row(),
        }
        Encoder("sweeps", schema.SWEEPS)(full)
        return SweepWriter._create(self.folder, self.uri, sweep, full, schemas)

    def open(self, sweep: str) -> SweepWriter:
        """Takes up writing a sweep. SweepLocked while another live process writes it; recovers a torn log."""
        if not self.has(sweep):
            raise self.unknown(sweep)
        return SweepWriter._open(self.folder, self.uri, sweep)

    def tags(self, sweep: str) -> list[str]:
        """The tags of a sweep, sorted (`analysis.upkeep.tag`)."""
        try:
            return sorted(self.folder.read_parquet(Paths(sweep).tags)[0].column("tag").to_pylist())
        except FileNotFoundError:
            return []

    def checkpoint_dir(self, sweep: str) -> str:
        """Where the checkpoints of a sweep belong, as a path or URI; it need not be there yet."""
        return join(self.uri, "checkpoints", sweep)

    def _state(self, sweep: str, tables: Sequence[str], columns: Sequence[str] | None = None) -> State:
        state = State.read(self.folder, sweep, tables, columns) if schema.is_name(sweep) else None
        if state is None:
            raise self.unknown(sweep)
        return state

    def unknown(self, sweep: str) -> UnknownSweep:
        """What to raise of a name that no sweep has: it names close ones."""
        names = self.sweeps()
        close = get_close_matches(sweep, names, n=3)
        if close:
            hint = f"did you mean {' or '.join(close)}?"
        else:
            hint = f"it has {', '.join(names[-10:])}" if names else "it has none"
        return UnknownSweep(f"{sweep}: {self.uri} has no such sweep; {hint}")


def _exists(folder: Folder, paths: Paths) -> bool:
    if folder.exists(paths.row) or folder.exists(paths.trials):
        return True
    return read_log(folder, paths).first is not None


def _own_version() -> str:
    try:
        return version("fairsweep")
    except PackageNotFoundError:
        return "unknown"


def _record(state: State) -> SweepRecord:
    sweep = schema.to_rows(schema.to_arrow([state.row], schema.SWEEPS, state.paths.sweep))[0]
    trials = {r["trial"]: r for r in schema.to_rows(state.tables["trials"])}
    seqs, kinds, rows = (state.tables["events"].column(c).to_pylist() for c in ("seq", "kind", "row"))
    events = [{"seq": s, "kind": k, **json.loads(r)} for s, k, r in zip(seqs, kinds, rows, strict=True)]
    return SweepRecord(sweep, trials, schema.to_rows(state.tables["results"]), events, _notes(state))


def _notes(state: State) -> list[str]:
    name = state.paths.sweep
    notes = [f"{problem}; its rows are read from the log" for problem in state.repairs]
    if state.live:
        return notes
    if state.leftovers:
        many = len(state.leftovers)
        notes.append(
            f"{state.folder.path(state.leftovers[0])}{f' and {many - 1} more' if many > 1 else ''}: "
            f"left over by a writer that died; other programs than fairsweep see these rows of sweep {name} twice "
            "until it is opened again"
        )
    torn = state.log.torn_bytes
    ignored = f"{torn} byte{'s' if torn != 1 else ''} of an incomplete record at the end of its log ignored"
    if state.closed:
        return [*notes, f"sweep {name} is closed; {ignored}"] if torn else notes
    notes.append(
        f"sweep {name} was not closed ({_why(state)}): {_counts(state)} recovered"
        + (f", {ignored}" if torn else "")
    )
    if state.log.last < state.sealed.sealed:
        notes.append(
            f"the log of sweep {name} ends at row {state.log.last}, but it was once longer; "
            f"rows up to {state.sealed.sealed} are read from Parquet, later ones, if there were any, are lost"
        )
    return notes


def _why(state: State) -> str:
    return "its driver ended abruptly" if state.folder.local else "its driver still runs, or ended abruptly"


def _counts(state: State) -> str:
    results = state.tables["results"]
    trials = max(state.tables["trials"].num_rows, pc.count_distinct(results.column("trial")).as_py())
    reports = results.num_rows
    return f"{reports} report{'s' if reports != 1 else ''} of {trials} trial{'s' if trials != 1 else ''}"


def _ascending(column: pa.ChunkedArray) -> bool:
    values = column.to_numpy()
    return bool((values[1:] > values[:-1]).all())


class SweepWriter:
    """The one writer of a sweep. Methods may be called from several threads; each call is one durable append.

    KeyError for a column that the table lacks and TypeError for a value of another type; then nothing of
    the call is written. Leaving the `with` block without `close` keeps the log: the sweep can be resumed.
    """

    seal_every = SEAL_EVERY_S  # seconds between seals; may be set on a writer

    def __init__(self, folder: Folder, uri: str, sweep: str, schemas: Schemas, lock: Lock | None) -> None:
        self.name, self.uri = sweep, uri
        self.recovery: Recovery | None = None
        self.record = SweepRecord({}, {}, [], [])
        self._folder, self._paths, self._file_lock = folder, Paths(sweep), lock
        self._use(schemas)
        self._mutex = threading.RLock()
        self._buffer: list[_log.Row] | None = None
        self._first: list[_log.Row] = []
        self._appender: Appender | None = None
        self._fence = uuid.uuid4().hex
        self._row: dict[str, Any] = {}
        self._trials: dict[str, dict[str, Any]] = {}
        self._trials_at = 0
        self._trials_changed = True
        self._pending: dict[str, list[tuple[int, dict[str, Any]]]] = {"results": [], "events": []}
        self._ends: dict[str, int] = {"results": 0, "events": 0}
        self._counts = {"results": 0, "events": 0}
        self._seq = 0
        self._sealed = 0
        self._next_seal = 0.0
        self._closed = False

    def _use(self, schemas: Schemas) -> None:
        self._schemas = schemas
        self._encoders = {t: Encoder(t, schemas.table(t)) for t in TABLES}

    # -- beginning ------------------------------------------------------------------------------------

    @classmethod
    def _lock(cls, folder: Folder, paths: Paths) -> Lock | None:
        try:
            for where in paths.folders:
                folder.make(where)
        except OSError as error:
            raise StoreError(
                f"storage={folder.root}: cannot be written: {str(error).splitlines()[0]}"
            ) from None
        if not folder.local:
            return None
        lock = Lock(folder.path(paths.lock))
        lock.acquire(f"sweep {paths.sweep}")
        for where in paths.folders:
            folder.delete_temporaries(where)
        return lock

    @classmethod
    def _create(
        cls, folder: Folder, uri: str, sweep: str, row: dict[str, Any], schemas: Schemas
    ) -> SweepWriter:
        paths = Paths(sweep)
        if _exists(folder, paths):
            raise StoreError(f"sweep={sweep}: {uri} has a sweep of this name; open it or choose another name")
        lock = cls._lock(folder, paths)
        try:
            log = read_log(folder, paths)
            if _exists(folder, paths):
                raise StoreError(
                    f"sweep={sweep}: {uri} has a sweep of this name; open it or choose another name"
                )
            for segment in log.segments:  # a creation that died before its first row was down
                folder.delete(f"{paths.log}/{Path(segment.path).name}")
            writer = cls(folder, uri, sweep, schemas, lock)
            writer._take_over()
            writer._appender = Appender(folder, paths.log, writer._number(log))
            writer._commit([("sweeps", writer._encoders["sweeps"](row))], seal=False)
            writer.seal()
            writer.record = SweepRecord(dict(row), {}, [], [])
            return writer
        except BaseException:
            if lock is not None:
                lock.release()
            raise

    @classmethod
    def _open(cls, folder: Folder, uri: str, sweep: str) -> SweepWriter:
        paths = Paths(sweep)
        lock = cls._lock(folder, paths)
        try:
            state = State.read(folder, sweep, ["results", "trials", "events"])
            if state is None:
                raise UnknownSweep(f"{sweep}: {uri} has no such sweep")
            state.live = False  # the lock that it saw is our own
            writer = cls(folder, uri, sweep, state.schemas, lock)
            writer._take_over()
            writer._recover(state)
            return writer
        except BaseException:
            if lock is not None:
                lock.release()
            raise

    def _recover(self, state: State) -> None:
        self.record = _record(state)
        if not state.closed or state.log.torn_bytes:
            self.recovery = Recovery(
                rows=len(self.record.results),
                events=len(self.record.events),
                torn_bytes=state.log.torn_bytes,
                message="; ".join(self.record.notes),
            )
        self._row = dict(state.row)
        self._trials = {r["trial"]: r for r in schema.to_encoded(state.tables["trials"])}
        self._seq = state.last
        self._sealed = state.sealed.sealed
        self._set_torn_aside(state)
        for table, count in (("results", len(self.record.results)), ("events", len(self.record.events))):
            self._counts[table] = count
        if state.closed:
            self._first = [("sweeps", {"closed": False})]
        log = state.log
        if state.repairs:
            self._compact(state, closed=False)
        else:
            for table in self._pending:
                self._delete_parts_but(table, {p.name for p in state.parts[table]})
                self._ends[table] = max((p.last for p in state.parts[table]), default=0)
                self._pending[table] = log.rows(table, max(self._ends[table], self._sealed) + 1)
        if state.closed:  # its closing died before it could delete them
            self._delete_segments()
            log = _log.Log()
        self._appender = Appender(self._folder, self._paths.log, self._number(log))

    def _set_torn_aside(self, state: State) -> None:
        for segment in state.log.segments:
            if segment.bad_at is None:
                continue
            name = f"{self._paths.log}/{Path(segment.path).name}"
            data = self._folder.read(name)
            aside, n = f"{name.removesuffix('.log')}.torn", 2
            while self._folder.exists(aside):
                aside, n = f"{name.removesuffix('.log')}.{n}.torn", n + 1
            with self._folder.replacing(aside) as out:
                out.write(data[segment.bad_at :])
            self._folder.truncate(name, segment.bad_at)

    def _number(self, log: _log.Log) -> int:
        """The log file to append to: a local writer goes on in the last one, a remote one begins its own."""
        last = max((int(Path(s.path).stem) for s in log.segments), default=None)
        if self._folder.local:
            return last or 1
        names = [n for n in self._folder.names(self._paths.log) if n.endswith((".log", ".torn"))]
        used = max([last or 0, *(int(n.split(".")[0]) for n in names)])
        return (used // _EPOCH_STRIDE + 1) * _EPOCH_STRIDE

    def _take_over(self) -> None:
        if self._folder.local:
            return
        holder = {"id": self._fence, "pid": os.getpid(), "host": socket.gethostname()}
        with self._folder.replacing(f"{self._paths.log}/writer.json") as out:
            out.write(json.dumps(holder).encode())

    def _check_fence(self) -> None:
        if self._folder.local:
            return
        holder = json.loads(self._folder.read(f"{self._paths.log}/writer.json"))
        if holder["id"] != self._fence:
            raise SweepLocked(
                f"sweep {self.name} was taken over by process {holder['pid']} on {holder['host']}"
            )

    # -- appending ------------------------------------------------------------------------------------

    def results(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Appends reports. A column that a report lacks is null; NaN stays NaN."""
        encode = self._encoders["results"]
        self._add([("results", self._own(encode(row), "seq")) for row in rows])

    def grow(self, metric_names: Sequence[str]) -> None:
        """Adds columns for metrics that nobody has declared; those that there are stay. Not within a batch.

        StoreError, with nothing changed, for a name that no column can have.
        """
        with self._mutex:
            known = set(self._schemas.results.names)
            new = [n for n in dict.fromkeys(metric_names) if schema.METRIC + n not in known]
            if not new:
                return
            try:
                grown = self._schemas.with_metrics(new)
            except ValueError as error:
                raise StoreError(f"sweep {self.name}: {error}") from None
            self._add([("sweeps", self._encoders["sweeps"](grown.to_row()))])
            self._use(grown)

    def trial(self, id: str, /, **fields: Any) -> None:
        """Creates trial `id`, or changes the given columns of it and keeps the others."""
        row = self._own(self._encoders["trials"]({**fields, "trial": id}))
        self._add([("trials", row)])

    def sweep(self, **fields: Any) -> None:
        """Changes the given columns of the sweep's row; `updated` is now if it is not given."""
        row = self._own(
            self._encoders["sweeps"]({"updated": _now(), **fields}), "closed", "rows_results", "rows_trials"
        )
        self._add([("sweeps", row)])

    def event(self, kind: str, /, **fields: Any) -> None:
        """Appends a decision for the replay; `fields` are anything that JSON can hold."""
        if taken := {"seq", "kind"} & fields.keys():
            raise KeyError(f"event {kind}: the field {min(taken)!r} is the store's own")
        try:
            text = json.dumps(fields)
        except (TypeError, ValueError) as error:
            raise TypeError(f"event {kind}: {error}") from None
        self._add([("events", {"kind": kind, "row": text})])

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Makes the calls in the block one append: after a crash all of them are there, or none.

        Other threads wait. If the block raises, nothing of it is written. Blocks may be nested.
        """
        with self._mutex:
            if self._buffer is not None:
                yield
                return
            self._buffer = []
            try:
                yield
                rows = self._buffer
            finally:
                self._buffer = None
            if rows:
                self._commit(rows)

    def _own(self, row: dict[str, Any], *kept: str) -> dict[str, Any]:
        for name in kept:
            if name in row:
                raise KeyError(f"column {name!r} is the store's own")
        if row.pop("sweep", self.name) != self.name:
            raise StoreError(f"sweep {self.name}: cannot take a row of another sweep")
        return row

    def _add(self, rows: list[_log.Row]) -> None:
        with self._mutex:
            if self._closed:
                raise StoreError(f"sweep {self.name}: its writer is closed")
            if self._buffer is not None:
                self._buffer.extend(rows)
            elif rows:
                self._commit(rows)

    def _commit(self, rows: list[_log.Row], seal: bool = True) -> None:
        assert self._appender is not None
        rows = [*self._first, *rows]
        self._appender.append(_log.encode(self._seq + 1, rows))
        self._first = []
        for table, row in rows:
            self._seq += 1
            if table == "trials":
                merge_row(self._trials, row)
                self._trials_changed = True
            elif table == "sweeps":
                self._row.update(row)
            else:
                self._pending[table].append((self._seq, row))
                self._counts[table] += 1
        due = time.monotonic() >= self._next_seal or len(self._pending["results"]) >= SEAL_EVERY_ROWS
        if seal and due:
            try:
                self.seal()
            except OSError as error:  # the rows are safe in the log; the next seal writes them
                warnings.warn(f"sweep {self.name}: cannot seal yet: {error}", RuntimeWarning, stacklevel=3)

    # -- sealing --------------------------------------------------------------------------------------

    def seal(self) -> None:
        """Writes what is new as Parquet, so that readers that know nothing of the log see it."""
        with self._mutex:
            began = time.monotonic()
            try:
                if self._seq > self._sealed:
                    self._check_fence()
                    self._seal()
            finally:
                # Rewriting the trials costs more the more there are: never more than a twentieth of the time.
                took = time.monotonic() - began
                self._next_seal = time.monotonic() + max(self.seal_every, 20 * took)

    def _seal(self) -> None:
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
        if self._trials_changed:
            self._write_trials()
        self._write_row(closed=False)
        for table in self._pending:
            if len(list_parts(self._folder, self._paths, table)) > MAX_PARTS:
                self._merge(table)

    def _write_part(self, table: str, first: int, last: int, rows: pa.Table, name: str) -> None:
        about = {"schema_version": SCHEMA_VERSION, "first": first, "last": last}
        self._folder.write_parquet(name, rows, about)

    def _write_trials(self) -> None:
        rows = schema.to_arrow(by_number(self._trials.values()), self._schemas.trials, self.name)
        about = {"schema_version": SCHEMA_VERSION, "seq": self._seq}
        self._folder.write_parquet(self._paths.trials, rows, about)
        self._trials_at, self._trials_changed = self._seq, False

    def _write_row(self, closed: bool) -> None:
        # It is written last: what it says of the other files is true of files that are there.
        row = {**self._row, "closed": closed}
        if closed:
            row.update(rows_results=self._counts["results"], rows_trials=len(self._trials))
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
        state = State.read(self._folder, self.name, [table])
        assert state is not None
        self._write_whole(table, self._ends[table], state.tables[table])
        if not self._folder.local:
            # Every read lists and fetches each object of the log; what is sealed needs no second copy there.
            self._trim_log()

    def _write_whole(self, table: str, last: int, rows: pa.Table) -> None:
        """One part with all rows in the place of the parts that are there; what is read back is counted."""
        name = self._paths.part(table, 1, last)
        folder, _, base = name.rpartition("/")
        if table == "results" and self._folder.local:
            # Two files cannot change places with one. Two folders can, so that no reader sees a row twice, or none.
            aside = self._folder.temporary(f"{folder}/parts")
            self._folder.make(aside)
            self._write_part(table, 1, last, rows, f"{aside}/{base}")
            self._verify(f"{aside}/{base}", rows.num_rows)
            if self._folder.exchange(folder, aside):
                parts = {Path(p.name).name for p in list_parts(self._folder, self._paths, table, aside)}
                for other in set(self._folder.names(aside)) - parts:  # somebody else's files
                    self._folder.fs.move(
                        self._folder.path(f"{aside}/{other}"), self._folder.path(f"{folder}/{other}")
                    )
                self._folder.delete_temporaries(folder)
                return
            self._folder.delete_temporaries(folder)
        self._write_part(table, 1, last, rows, name)
        self._verify(name, rows.num_rows)
        self._delete_parts_but(table, {name})

    def _trim_log(self) -> None:
        log = read_log(self._folder, self._paths)
        for segment in log.segments[:-1]:
            if not segment.frames or segment.frames[-1].last <= self._sealed:
                self._folder.delete(f"{self._paths.log}/{Path(segment.path).name}")

    # -- ending ---------------------------------------------------------------------------------------

    def close(self, *, state: str) -> None:
        """Ends the sweep in `state`: one Parquet file a table, read back and counted, and no log.

        StoreDamaged, with the log kept, if what is read back is not what was appended.
        """
        with self._mutex:
            if self._closed:
                return
            self.sweep(state=state)
            self._check_fence()
            found = State.read(self._folder, self.name, ["results", "trials", "events"])
            assert found is not None
            self._compact(found, closed=True)
            self._delete_segments()
            for where in self._paths.folders:
                self._folder.delete_temporaries(where)
            self._release()

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
            self._write_whole(table, self._seq, rows)
            self._ends[table] = self._seq
            self._pending[table] = []
        self._write_trials()
        self._verify(self._paths.trials, len(self._trials))
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

    def _delete_segments(self) -> None:
        if self._appender is not None:
            self._appender.close()
        for name in self._folder.names(self._paths.log):
            if name.endswith(".log"):
                self._folder.delete(f"{self._paths.log}/{name}")

    def _release(self) -> None:
        self._closed = True
        if self._appender is not None:
            self._appender.close()
        if self._file_lock is not None:
            self._file_lock.release()

    def __enter__(self) -> SweepWriter:
        return self

    def __exit__(self, *error: object) -> None:
        with self._mutex:
            if not self._closed:
                try:
                    with contextlib.suppress(Exception):  # not to hide the error that ended the block
                        self.seal()
                finally:
                    self._release()
