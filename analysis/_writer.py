"""The one writer of a sweep: appends that are on disk when they return, and the end of the sweep."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from fairsweep.analysis import _log
from fairsweep.analysis._appender import Appender
from fairsweep.analysis._batch import Batch
from fairsweep.analysis._files import Folder, StoreError, UnknownSweep
from fairsweep.analysis._layout import EPOCH, Paths, claim, read_log
from fairsweep.analysis._lease import Lease
from fairsweep.analysis._lock import Lock
from fairsweep.analysis._record import Recovery, SweepRecord, record_of
from fairsweep.analysis._sealing import Sealing
from fairsweep.analysis._state import State
from fairsweep.analysis._trials import TrialRows
from fairsweep.analysis.schema import Schemas

SEAL_EVERY_S = 3.0
SEAL_EVERY_ROWS = 5_000
SEGMENT = 1 << 20  # bytes of a log file after which, once all of it is sealed, the next one begins
PATIENCE_S = 300.0  # that a sweep waits for an object store that does not answer


def now() -> datetime:
    return datetime.now(timezone.utc)


def exists(folder: Folder, paths: Paths) -> bool:
    if folder.exists(paths.row) or folder.exists(paths.trials):
        return True
    return read_log(folder, paths).first is not None


class SweepWriter(Sealing):
    """The one writer of a sweep. Methods may be called from several threads; each call is one durable append.

    KeyError for a column that the table lacks and TypeError for a value of another type; then nothing of
    the call is written. Leaving the `with` block without `close` keeps the log: the sweep can be resumed.
    """

    seal_every = SEAL_EVERY_S  # seconds between seals; may be set on a writer

    def __init__(self, folder: Folder, uri: str, sweep: str, schemas: Schemas, lock: Lock | Lease) -> None:
        super().__init__(folder, sweep, schemas)
        self.uri = uri
        self.recovery: Recovery | None = None
        self.on_append: Callable[[int, float], None] | None = None  # told of rows of results, and seconds
        self.record = SweepRecord({}, {}, schemas.results.empty_table(), [])
        self._file_lock = lock
        self._mutex = threading.RLock()
        self._buffer: list[_log.Row] | None = None
        self._batch = Batch(self)
        self._first: list[_log.Row] = []
        self._appender: Appender | None = None
        self._next_seal = 0.0
        self._closed = False
        self._ending = False

    # -- beginning ------------------------------------------------------------------------------------

    @staticmethod
    def _refused(folder: Folder, error: BaseException) -> None:
        """StoreError in one line where the disk is what does not let a sweep begin."""
        if isinstance(error, OSError) and not isinstance(error, StoreError):
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise StoreError(f"storage={folder.name}: cannot be written: {why}") from None

    @classmethod
    def _locked(cls, folder: Folder, paths: Paths) -> Lock | Lease:
        try:
            return cls._lock(folder, paths)
        except OSError as error:
            cls._refused(folder, error)
            raise

    @classmethod
    def _lock(cls, folder: Folder, paths: Paths) -> Lock | Lease:
        for where in paths.folders:
            folder.make(where)
        lock = claim(folder, paths.log)
        lock.acquire(f"sweep {paths.sweep}")
        if not folder.local:
            folder.patience.calm(PATIENCE_S)
            return lock
        for where in paths.folders:
            folder.delete_temporaries(where)
        return lock

    @classmethod
    def _create(
        cls, folder: Folder, uri: str, sweep: str, row: dict[str, Any], schemas: Schemas
    ) -> SweepWriter:
        paths = Paths(sweep)
        if exists(folder, paths):
            raise StoreError(f"sweep={sweep}: {uri} has a sweep of this name; open it or choose another name")
        lock = cls._locked(folder, paths)
        try:
            log = read_log(folder, paths)
            if exists(folder, paths):
                raise StoreError(
                    f"sweep={sweep}: {uri} has a sweep of this name; open it or choose another name"
                )
            for segment in log.segments:  # a creation that died before its first row was down
                folder.delete(f"{paths.log}/{Path(segment.path).name}")
            writer = cls(folder, uri, sweep, schemas, lock)
            writer._append_to(writer._number(log))
            writer._commit([("sweeps", writer._encoders["sweeps"](row))], seal=False)
            writer.seal()
            writer.record = SweepRecord(dict(row), {}, schemas.results.empty_table(), [])
            return writer
        except BaseException as error:
            lock.release()
            cls._refused(folder, error)
            raise

    @classmethod
    def _open(cls, folder: Folder, uri: str, sweep: str) -> SweepWriter:
        paths = Paths(sweep)
        lock = cls._locked(folder, paths)
        try:
            state = State.read(folder, sweep, ["results", "trials", "events"])
            if state is None:
                raise UnknownSweep(f"{sweep}: {uri} has no such sweep")
            state.live = False  # the lock that it saw is our own
            writer = cls(folder, uri, sweep, state.schemas, lock)
            writer._recover(state)
            return writer
        except BaseException as error:
            lock.release()
            cls._refused(folder, error)
            raise

    def _recover(self, state: State) -> None:
        self.record = record_of(state)
        if not state.closed or state.log.torn_bytes:
            self.recovery = Recovery(
                rows=self.record.reports.num_rows,
                events=len(self.record.events),
                torn_bytes=state.log.torn_bytes,
                message="; ".join(self.record.notes),
            )
        self._row = dict(state.row)
        self._trials = TrialRows(self.name, state.tables["trials"])
        self._seq = state.last
        self._sealed = state.sealed.sealed
        self._set_torn_aside(state)
        self._counts = {t: state.tables[t].num_rows for t in self._counts}
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
        self._append_to(self._number(log))

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
        return (used // EPOCH + 1) * EPOCH

    def _append_to(self, number: int) -> None:
        self._appender = Appender(self._folder, self._paths.log, number, self._check_fence)

    def _check_fence(self) -> None:
        if isinstance(self._file_lock, Lease):
            self._file_lock.ensure()

    # -- appending ------------------------------------------------------------------------------------

    def results(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Appends reports. A column that a report lacks is null; NaN stays NaN."""
        encode = self._encoders["results"]
        self._add([("results", self._own(encode(row), "seq")) for row in rows])

    def grow(self, metric_names: Sequence[str]) -> None:
        """Adds columns for metrics that nobody has declared; those that there are stay. Not within a batch.

        StoreError, with nothing changed, for a name that no column can have.
        """
        if self._metrics.issuperset(metric_names):
            return
        with self._mutex:
            new = [n for n in dict.fromkeys(metric_names) if n not in self._metrics]
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
            self._encoders["sweeps"]({"updated": now(), **fields}), "closed", "rows_results", "rows_trials"
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

    def batch(self) -> contextlib.AbstractContextManager[None]:
        """Makes the calls in the block one append: after a crash all of them are there, or none.

        Other threads wait. If the block raises, nothing of it is written. Blocks may be nested.
        """
        return self._batch

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
        frame, began = _log.encode(self._seq + 1, rows), time.perf_counter()
        self._appender.append(frame, last=self._ending)
        if self.on_append is not None:
            self.on_append(sum(table == "results" for table, _ in rows), time.perf_counter() - began)
        self._first = []
        for table, row in rows:
            self._seq += 1
            if table == "trials":
                self._trials.change(row)
                self._trials_changed = True
            elif table == "sweeps":
                self._row.update(row)
            else:
                self._pending[table].append((self._seq, row))
                self._counts[table] += 1
        due, many = time.monotonic() >= self._next_seal, max(map(len, self._pending.values()))
        if seal and (due or many >= SEAL_EVERY_ROWS):
            try:
                if due:
                    self.seal()
                else:
                    self._shed()
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
                    self._turn_over()
            finally:
                # Rewriting the trials costs more the more there are: never more than a twentieth of the time.
                took = time.monotonic() - began
                self._next_seal = time.monotonic() + max(self.seal_every, 20 * took)

    def _shed(self) -> None:
        """Writes new results and events as Parquet, which costs what they do; the trials are sealed in time."""
        self._check_fence()
        self._seal_parts()
        for table in self._pending:
            self._merge(table)

    def _turn_over(self) -> None:
        """Goes on in a new log file where the last one is long: readers read those with rows that are not sealed."""
        if self._folder.local and self._appender is not None and self._appender.size >= SEGMENT:
            full, number = self._appender, self._appender.number + 1
            self._append_to(number)
            full.close()

    # -- ending ---------------------------------------------------------------------------------------

    def running(self) -> list[str]:
        """The trials that run by what was appended."""
        with self._mutex:
            rows = self._trials.packed(self._schemas.trials)
            return rows.filter(pc.equal(rows.column("state"), "running")).column("trial").to_pylist()

    def hurry(self) -> None:
        """Somebody waits for the end: an object store that does not answer is no longer waited for."""
        self._folder.patience.hurry()

    def ending(self) -> None:
        """What is appended from now on says how the sweep ended; on a full disk there is room for that."""
        self._ending = True

    def close(self, *, state: str) -> None:
        """Ends the sweep in `state`: one Parquet file a table, read back and counted, and no log.

        StoreDamaged, with the log kept, if what is read back is not what was appended.
        """
        with self._mutex:
            if self._closed:
                return
            self.ending()
            self.sweep(state=state)
            self._check_fence()
            found = State.read(self._folder, self.name, ["results", "trials", "events"])
            assert found is not None
            self._compact(found, closed=True)
            self._delete_segments()
            for where in self._paths.folders:
                self._folder.delete_temporaries(where)
            self._release()

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
