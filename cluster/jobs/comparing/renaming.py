"""A comparison under another name: all of its sweeps, what their rows say of it, and its own rows.

Each sweep is renamed by itself, whole or not at all. Where the rest was cut off, a mark says so: nothing goes on under
either name until the same words have ended it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

from fairsweep.analysis import upkeep
from fairsweep.analysis.schema import is_name
from fairsweep.analysis.store import Store
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.storage import resuming

LONGEST = 60  # characters of a name: those of its sweeps begin with it
_MARK = "renamed-to"


def check_name(name: str) -> None:
    """UserError for a name that no comparison can have."""
    if not is_name(name) or len(name) > LONGEST:
        raise UserError(
            f"name={name}: must be up to {LONGEST} letters, digits and . _ = + - only, a letter or digit first"
        )


def rename(store: Store, run: str, name: str, sweeps: list[str]) -> None:
    """Gives the comparison `run`, of these sweeps, another name; goes on where it was cut off.

    UserError for a name that cannot be or is taken, and for what was not closed; SweepLocked while it runs.
    """
    check_name(name)
    for each in (run, name):
        check_whole(store, each, allowed=(run, name))
    with contextlib.ExitStack() as held:
        held.enter_context(upkeep.alone(store, "comparisons", run, "comparison"))
        if not is_cut_off(store, run):
            _check_ready(store, run, name, sweeps)
            with store.folder.replacing(f"comparisons/{run}/{_MARK}") as out:
                out.write(name.encode())
        held.enter_context(upkeep.alone(store, "comparisons", name, "comparison"))
        for sweep in sweeps:
            text = store.table("sweeps", sweep, columns=["comparison"])["comparison"][0].as_py()
            about = json.loads(text)
            about = {**about, "run": name, "spec": {**about["spec"], "run": name}}
            target = f"{name}{sweep.removeprefix(run)}"
            if store.has(target):  # it was cut off when all but the old files was done
                upkeep.delete(store, sweep)
            else:
                upkeep.rename(store, sweep, target, {"comparison": json.dumps(about)})
        rows = store.derived("comparisons", run).to_pylist()
        if rows:
            moved = [
                {**row, **{part: _under(row[part], run, name) for part in ("search", "final")}}
                for row in rows
            ]
            store.write_derived("comparisons", name, moved)
        upkeep.forget(store, run)


def check_whole(store: Store, name: str, allowed: tuple[str, ...] = ()) -> None:
    """UserError for a comparison whose renaming was cut off, but for that which is `allowed`."""
    for run, to in _begun(store):
        if name in (run, to) and (run, to) != allowed:
            raise UserError(
                f"{name}: the renaming of {run} to {to} was cut off; `fairsweep rename {run} {to}` ends it"
            )


def is_cut_off(store: Store, run: str) -> bool:
    """Whether the renaming of `run` was cut off."""
    return run in dict(_begun(store))


def _begun(store: Store) -> Iterator[tuple[str, str]]:
    """The renamings that were cut off: from, to."""
    folder = store.folder
    for run in folder.names("comparisons"):
        mark = f"comparisons/{run}/{_MARK}"
        if folder.exists(mark):
            with folder.fs.open_input_file(folder.path(mark)) as text:
                yield run, text.read().decode()


def _check_ready(store: Store, run: str, name: str, sweeps: list[str]) -> None:
    """UserError for a name that is taken, and for sweeps that were not closed."""
    if store.has(name) or store.sweeps(f"{name}.") or store.derived("comparisons", name).num_rows:
        raise UserError(f"name={name}: {store.uri} has a sweep or comparison of this name; choose another")
    for sweep in sweeps:
        if not store.table("sweeps", sweep, columns=["closed"])["closed"][0].as_py():
            raise UserError(
                f"{run}: its sweep {sweep} was not closed; `{resuming(run, store.uri)}` ends it, and then it can be"
                " renamed"
            )


def _under(sweep: str | None, run: str, name: str) -> str | None:
    return None if sweep is None else f"{name}{sweep.removeprefix(run)}"
