"""What keeps a store in order: sweeps are deleted, renamed and tagged.

A sweep that a live process writes is refused (`SweepLocked`). On an object store it shows in half a minute whether one
of another machine still writes; `force` says that none does.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from fairsweep.analysis import schema
from fairsweep.analysis._files import Folder, StoreError
from fairsweep.analysis._layout import Paths, claim, list_parts
from fairsweep.analysis._lease import Lease
from fairsweep.analysis._lock import Lock
from fairsweep.analysis._state import State
from fairsweep.analysis.schema import SCHEMA_VERSION
from fairsweep.analysis.store import Store

TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/=-]{0,99}")
# The sweep's row first: from then on the sweep is gone for all that list sweeps, whatever else is still there.
_TABLES = ("log", "trials", "results", "tags", "sweeps")  # copied by a renaming, the sweep's row last
_FILES = ("checkpoints", "architectures", "wandb", "mlflow", "tensorboard")  # moved by it
_ROOMS = ("sweeps", "log", "trials", "results", "tags", "architectures", "checkpoints", *_FILES[2:])


@dataclass(frozen=True)
class Deleted:
    """What a deletion dropped, or would: the folders of the sweep in the store, and their files and bytes."""

    folders: tuple[str, ...]
    files: int
    bytes: int


def holdings(store: Store, sweep: str) -> Deleted:
    """What the store has under the name `sweep`, damaged or not. UnknownSweep if it has nothing."""
    if not schema.is_name(sweep):
        raise store.unknown(sweep)
    folder = store.folder
    found, files, size = [], 0, 0
    for room in _ROOMS:
        where = f"{room}/{sweep}"
        infos = folder.fs.get_file_info(
            pafs.FileSelector(folder.path(where), recursive=True, allow_not_found=True)
        )
        if infos or folder.fs.get_file_info(folder.path(where)).type == pafs.FileType.Directory:
            found.append(where)
        files += sum(info.is_file for info in infos)
        size += sum(info.size or 0 for info in infos if info.is_file)
    if not found:
        raise store.unknown(sweep)
    return Deleted(tuple(found), files, size)


def delete(store: Store, sweep: str, force: bool = False) -> Deleted:
    """Drops a sweep with its trials, reports, checkpoints, networks, tags and offline W&B runs.

    Verdicts of claims that rest on it stay. UnknownSweep; SweepLocked while it is written.
    """
    found = holdings(store, sweep)
    _settle(store, sweep)
    with _alone(store, sweep, force):
        for where in dict.fromkeys([*found.folders, f"log/{sweep}"]):
            _drop(store.folder, where)
    return found


def forget(store: Store, run: str) -> None:
    """Drops the rows of a comparison; its sweeps are deleted by themselves."""
    if schema.is_name(run):
        _drop(store.folder, f"comparisons/{run}")


def rename(store: Store, sweep: str, name: str, changed: Mapping[str, str] | None = None) -> None:
    """Gives a closed sweep another name, in every table. StoreError if the name is taken or cannot be one.

    changed: columns of its row that say something else under the new name.
    The copy is whole before the old files go, so whatever ends this leaves the sweep under its old name or under both.
    What was cut off is undone by the next renaming to that name, or by its deletion.
    """
    folder, old, new = store.folder, Paths(sweep), Paths(name)
    if not schema.is_name(name):
        raise StoreError(
            f"name={name!r}: must be up to 200 letters, digits and . _ = + - only, a letter or digit first"
        )
    _settle(store, name)
    _settle(store, sweep)
    if not store.has(sweep):
        raise store.unknown(sweep)
    if any(folder.names(f"{room}/{name}") for room in _ROOMS):
        raise StoreError(f"name={name}: {store.uri} has a sweep of this name; choose another")
    with _alone(store, sweep, force=False):
        state = State.read(folder, sweep, ["results", "trials", "events"])
        if state is None:
            raise store.unknown(sweep)
        if not state.row.get("closed") or state.log.segments:
            raise StoreError(
                f"sweep {sweep}: was not closed; `fairsweep resume {sweep}` ends it, and then it can be renamed"
            )
        folder.make(f"sweeps/{name}")
        with folder.replacing(_mark(name)) as out:
            out.write(sweep.encode())
        for where in new.folders:
            folder.make(where)
        for table in ("results", "events"):
            for part in list_parts(folder, old, table):
                _copy(folder, part.name, new.part(table, part.first, part.last), name)
        _copy(folder, old.trials, new.trials, name)
        if folder.exists(old.tags):
            folder.make(f"tags/{name}")
            _copy(folder, old.tags, new.tags, name)
        for room in _FILES:
            _move(folder, f"{room}/{sweep}", f"{room}/{name}")
        _copy(folder, old.row, new.row, name, changed)  # last: with it the sweep is there
        _rename_derived(store, sweep, name)
        folder.delete(_mark(name))
        for room in reversed(_TABLES):
            _drop(folder, f"{room}/{sweep}")


def _mark(name: str) -> str:
    """The file that says which sweep is being given this name."""
    return f"sweeps/{name}/renamed-from"


def _settle(store: Store, name: str) -> None:
    """Undoes a renaming to `name` that was cut off: the sweep has its old name, and all its files."""
    folder = store.folder
    if not schema.is_name(name) or not folder.exists(_mark(name)):
        return
    with folder.fs.open_input_file(folder.path(_mark(name))) as text:
        old = text.read().decode()
    if folder.exists(Paths(name).row):  # it was done but for the old name, which has the same rows
        _rename_derived(store, old, name)
        folder.delete(_mark(name))
        return
    for room in _FILES:
        if not folder.names(f"{room}/{old}"):
            _drop(folder, f"{room}/{old}")
            _move(folder, f"{room}/{name}", f"{room}/{old}")
    for room in _TABLES:
        _drop(folder, f"{room}/{name}")


def _drop(folder: Folder, where: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        folder.fs.delete_dir(folder.path(where))


def tag(store: Store, sweep: str, add: Iterable[str] = (), drop: Iterable[str] = ()) -> list[str]:
    """Adds and drops tags, also of a sweep that runs, and returns those it then has. StoreError for what is no tag."""
    if not store.has(sweep):
        raise store.unknown(sweep)
    known = store.tags(sweep)
    for text in (*add, *drop):
        if not TAG.fullmatch(text):
            raise StoreError(
                f"tag={text!r}: must be up to 100 letters, digits and . _ : / = -, a letter or digit first"
            )
    for text in drop:
        if text not in known:
            raise StoreError(f"tag={text}: sweep {sweep} has {', '.join(known) or 'no tags'}")
    wanted = sorted({*known, *add} - set(drop))
    made = pa.table(
        {"sweep": pa.array([sweep] * len(wanted), pa.string()), "tag": pa.array(wanted, pa.string())}
    )
    store.folder.make(f"tags/{sweep}")
    store.folder.write_parquet(Paths(sweep).tags, made, {"schema_version": SCHEMA_VERSION})
    return wanted


@contextlib.contextmanager
def _alone(store: Store, sweep: str, force: bool) -> Iterator[None]:
    """Holds the sweep. force: on an object store, without a look at who else does."""
    folder, paths = store.folder, Paths(sweep)
    if not folder.local and force:
        yield
        return
    folder.make(paths.log)
    with _held(claim(folder, paths.log), f"sweep {sweep}"):
        yield


@contextlib.contextmanager
def _held(lock: Lock | Lease, what: str) -> Iterator[None]:
    lock.acquire(what)
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def alone(store: Store, table: str, run: str, what: str) -> Iterator[None]:
    """Holds a run of a derived table. SweepLocked while another one has it.

    what: such a run is called.
    """
    store.folder.make(f"{table}/{run}")
    with _held(claim(store.folder, f"{table}/{run}"), f"{what} {run}"):
        yield


def check_alone(store: Store, table: str, run: str, what: str) -> None:
    """SweepLocked as `alone`, where it is seen at once that another one has it; takes nothing."""
    claim(store.folder, f"{table}/{run}").check(f"{what} {run}")


def held(store: Store, table: str, run: str) -> bool:
    """Whether a live process has the lock of a run of a derived table."""
    return claim(store.folder, f"{table}/{run}").held()


def _copy(
    folder: Folder, source: str, target: str, name: str, changed: Mapping[str, str] | None = None
) -> None:
    """A table's file under another name of the sweep, in its rows too. changed: other columns that are."""
    table, about = folder.read_parquet(source)
    for key, text in {"sweep": name, **(changed or {})}.items():
        if key in table.column_names:
            column = table.column_names.index(key)
            table = table.set_column(column, table.schema.field(column), _all(table, text))
    folder.write_parquet(target, table, about)


def _all(table: pa.Table, text: str) -> pa.Array:
    return pa.array([text] * table.num_rows, pa.string())


def _move(folder: Folder, source: str, target: str) -> None:
    if folder.fs.get_file_info(folder.path(source)).type == pafs.FileType.Directory:
        folder.fs.move(folder.path(source), folder.path(target))


def _rename_derived(store: Store, sweep: str, name: str) -> None:
    """Verdicts and architectures that name the sweep."""
    folder = store.folder
    for run in folder.names("claims"):
        table = store.derived("claims", run)
        if pc.any(pc.equal(table.column("sweep"), sweep)).as_py():
            rows = table.to_pylist()
            store.write_derived(
                "claims", run, [{**r, "sweep": name if r["sweep"] == sweep else r["sweep"]} for r in rows]
            )
    if folder.exists(f"architectures/{name}/architectures.parquet"):
        old, new = folder.path(f"architectures/{sweep}"), folder.path(f"architectures/{name}")
        rows = store.derived("architectures", name).to_pylist()
        for row in rows:
            if row["folder"] and row["folder"].startswith(f"{old}/"):
                row["folder"] = new + row["folder"][len(old) :]
        store.write_derived("architectures", name, rows)
