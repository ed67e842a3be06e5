"""The durable, append-only store of sweeps: Arrow tables that can be read while a sweep runs and after.

    results/<sweep>/part-<first>-<last>.parquet    one row a report
    trials/<sweep>/trials.parquet                  one row a trial, as it stands
    sweeps/<sweep>/sweep.parquet                   one row a sweep
    claims/<run>/claims.parquet                    one row a claim of a run of `fairsweep claims`
    architectures/<run>/architectures.parquet      one row an architecture of a run of `fairsweep nas`
    tags/<sweep>/tags.parquet                      its tags, one a row
    log/<sweep>/<number>.log                       every append since the sweep was last closed
    log/<sweep>/events-<first>-<last>.parquet      decisions, for the driver's replay

    log/<sweep>/writer.json                        on an object store: who writes the sweep (`analysis._lease`)

    tmp/...                                        what is being written

An append returns when its rows are on disk in the log. Every few seconds the writer seals: it writes what
is new as Parquet, for readers that know nothing of the log. Closing leaves one Parquet file a table.

A row of `results` is identified by its sweep and `seq`. On a local file system that can exchange two folders (Linux:
ext4, XFS, Btrfs, tmpfs) other programs see each row once at any moment. Elsewhere they may see rows twice while parts
are merged; `Store` never does, and a writer that died then leaves a sweep that is not closed, with a note.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs as pafs

from fairsweep.analysis import schema
from fairsweep.analysis._derived import DERIVED
from fairsweep.analysis._files import (
    Folder,
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
from fairsweep.analysis._layout import Paths, claim, live
from fairsweep.analysis._record import Recovery, SweepRecord, notes_of, record_of
from fairsweep.analysis._state import State
from fairsweep.analysis._writer import SweepWriter, exists, now
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


OF_A_SWEEP = ("log", "trials", "sweeps", "results", "tags")  # where the files of a sweep lie


class DamagedSweepWarning(UserWarning):
    """A table of several sweeps lacks one, since its files are damaged; names it and what is wrong."""


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

    def sweeps(self, prefix: str = "") -> list[str]:
        """Names by time of creation, the newest last; those that begin with `prefix`."""
        rows = []
        for name in self.names():
            if not name.startswith(prefix):
                continue
            try:
                state = State.read(self.folder, name)
            except StoreError:  # listed all the same: what is wrong with it is said when it is read
                rows.append((0, name))
                continue
            if state is not None:
                rows.append((state.row.get("created") or 0, name))
        return [name for _, name in sorted(rows)]

    def names(self) -> list[str]:
        """Names of sweeps by alphabet, without reading one."""
        found = {*self.folder.names("sweeps"), *self.folder.names("log")}
        return [name for name in sorted(found) if schema.is_name(name)]

    def stamp(self, name: str, tables: Sequence[str] = OF_A_SWEEP) -> str:
        """Another text whenever a file of a sweep has changed, or of a run in derived `tables`."""
        found = hashlib.sha256()
        for table in tables:
            selector = pafs.FileSelector(self.folder.path(f"{table}/{name}"), allow_not_found=True)
            try:
                for info in sorted(self.folder.fs.get_file_info(selector), key=lambda i: i.path):
                    if info.base_name not in ("lock", "writer.json"):
                        found.update(f"{info.path}\0{info.size}\0{info.mtime_ns}\n".encode(errors="replace"))
            except OSError:  # a folder that is being exchanged
                found.update(os.urandom(16))
        return found.hexdigest()

    def has(self, sweep: str) -> bool:
        """Whether there is a sweep of this name."""
        if not schema.is_name(sweep):
            return False
        paths = Paths(sweep)
        return exists(self.folder, paths)

    def table(self, name: str, sweep: str | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """A table (`sweeps`, `trials`, `results`, `events`, `claims`, `architectures`), of all sweeps if None is given.

        Sweeps are put together by column name; a column that a sweep lacks is null there, and a damaged sweep is left
        out with a `DamagedSweepWarning`. Results and events are in the order of `seq`, trials in that of `number`.
        StoreError for an unknown table or column, UnknownSweep, StoreDamaged if rows of `sweep` are lost.
        """
        tables = (*TABLES, *DERIVED)
        if name not in tables:
            raise StoreError(f"table={name}: must be one of {', '.join(tables)}")
        if name in DERIVED:
            table = known = self.derived(name)
            if sweep is not None:
                column = "sweep" if name == "claims" else "run"
                table = table.filter(pc.equal(table.column(column), sweep))
        elif sweep is not None:
            table = known = self.piece(name, sweep, columns)
        else:
            found = []
            for each in self.sweeps():
                try:
                    found.append(self.piece(name, each, columns))
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
                known = self.piece(name, sweep, None)
            close = get_close_matches(unknown[0], known.column_names, n=3)
            hint = (
                f"did you mean {' or '.join(close)}?"
                if close
                else f"columns are {', '.join(known.column_names)}"
            )
            raise StoreError(f"table {name} has no column {unknown[0]!r}; {hint}")
        return table.select(list(columns))

    def piece(self, name: str, sweep: str, columns: Sequence[str] | None = None) -> pa.Table:
        """As `table` of one sweep, with those of `columns` that it has, and perhaps others."""
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
        return schema.unify([DERIVED[table].empty_table(), *found])

    def write_derived(self, table: str, run: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes the rows of a run into `claims` or `architectures`, in the place of earlier ones of the same run.

        They follow from the tables `trials` and `results`, so they can be made again.
        """
        if not schema.is_name(run):
            raise StoreError(
                f"name={run!r}: must be up to 200 letters, digits and . _ = + - only, a letter or digit first"
            )
        columns = DERIVED[table]
        unknown = {name for row in rows for name in row} - set(columns.names)
        if unknown:
            raise KeyError(f"table {table} has no column {min(unknown)!r}")
        self.folder.make(f"{table}/{run}")
        made = pa.Table.from_pylist([{**row, "run": run} for row in rows], schema=columns)
        about = {"schema_version": SCHEMA_VERSION}
        self.folder.write_parquet(f"{table}/{run}/{table}.parquet", made, about)

    def read(self, sweep: str) -> SweepRecord:
        """Everything about a sweep, for a driver to replay."""
        return record_of(self._state(sweep, ["results", "trials", "events"]))

    def notes(self, sweep: str) -> list[str]:
        """What a reader of the sweep should know: what its driver noted, that it was not closed, what was recovered."""
        events = self._state(sweep, ["events"]).tables["events"]
        told = [json.loads(row) for row in events.filter(pc.equal(events["kind"], "note"))["row"].to_pylist()]
        notes = [f"trial {n['trial']}: {n['text']}" if n.get("trial") else n["text"] for n in told]
        return [*notes, *notes_of(self._state(sweep, ["results", "trials", "events"], ["trial"]))]

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
                f"sweep={sweep!r}: must be up to 200 letters, digits and . _ = + - only, a letter or digit first"
            )
        try:
            schemas = Schemas.of(config_fields, metric_names)
        except (TypeError, ValueError) as error:
            raise StoreError(f"sweep {sweep}: {error}") from None
        began = now()
        full = {
            "state": "running",
            "created": began,
            "updated": began,
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

    def check_free(self, sweep: str) -> None:
        """SweepLocked as `open`, where it is seen at once that a live process writes the sweep; takes nothing."""
        claim(self.folder, Paths(sweep).log).check(f"sweep {sweep}")

    def written(self, sweep: str) -> bool | None:
        """Whether a live process writes the sweep; None where that cannot be seen from here, on an object store."""
        return live(self.folder, Paths(sweep))

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

    def _comparisons(self) -> list[str]:
        """The names of comparisons; none where their table cannot be read."""
        try:
            return sorted(set(self.derived("comparisons").column("run").to_pylist()))
        except StoreError:
            return []

    def unknown(self, sweep: str) -> UnknownSweep:
        """What to raise of a name that no sweep has: it names close ones."""
        names, runs = self.sweeps(), self._comparisons()
        inner = [name for name in names if name.startswith(f"{sweep}.")]
        if sweep in runs and inner:
            return UnknownSweep(
                f"{sweep}: is a comparison, which `fairsweep show` and `fairsweep report` have; its sweeps are"
                f" {inner[0]} and {len(inner) - 1} more (`fairsweep ls --all`)"
            )
        names = [n for n in names if not any(n.startswith(f"{run}.") for run in runs)] + runs
        close = get_close_matches(sweep, names, n=3)
        if close:
            hint = f"did you mean {' or '.join(close)}?"
        else:
            hint = f"it has {', '.join(names[-10:])}" if names else "it has none"
        return UnknownSweep(f"{sweep}: {self.uri} has no such sweep; {hint}")


def _own_version() -> str:
    try:
        return version("fairsweep")
    except PackageNotFoundError:
        return "unknown"
