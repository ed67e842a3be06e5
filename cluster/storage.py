"""Where stores lie, and what their sweeps are called."""

from __future__ import annotations

import os
import shlex
from datetime import datetime
from pathlib import Path

from fairsweep.analysis.store import Store, StoreError, check_uri
from fairsweep.cluster import DEFAULT_STORAGE
from fairsweep.cluster.copies import RAY_COPIES
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.masking import masked_uri


def open_store(storage: str) -> Store:
    """The store at a folder or URI; UserError if it cannot be one."""
    if storage.startswith("memory:"):
        raise UserError(
            f"storage={storage}: is seen by this process alone and lost at its end; give a folder or a URI such as "
            "s3://bucket/sweeps"
        )
    try:
        return Store(locate(storage))
    except StoreError as error:
        raise UserError(str(error)) from None


def existing(storage: str, setting: str) -> Store:
    """The store at a folder or URI that `setting` names; UserError if there is no such folder, too."""
    if "://" not in storage and not Path(locate(storage)).is_dir():
        raise UserError(
            f"{setting}={storage}: no such folder; `fairsweep run` makes one, {setting} says where it is"
        )
    return open_store(storage)


def locate(storage: str) -> str:
    """`storage` as a URI or an absolute path.

    A job runs in a copy of its working directory that Ray deletes later: there a relative path is taken from the folder
    in which `fairsweep submit` was called, if this machine has it, else from the home folder.
    """
    try:
        check_uri(storage)
    except StoreError as error:
        raise UserError(str(error)) from None
    if "://" in storage:
        return storage
    here = Path.cwd()
    base = _of_job() if RAY_COPIES in here.as_posix() else here
    return str((base / Path(storage).expanduser()).resolve())


def _of_job() -> Path:
    submitted = os.environ.get("FAIRSWEEP_FOLDER", "")
    return Path(submitted) if submitted and os.path.isdir(submitted) else Path.home()


def resuming(name: str, uri: str, *changes: str) -> str:
    """The command that goes on with a sweep or comparison of the store at `uri`."""
    where = [] if uri == locate(DEFAULT_STORAGE) else ["--storage", masked_uri(uri)]
    return shlex.join(["fairsweep", "resume", name, *changes, *where])


def new_name(store: Store, wanted: str | None, slug: str) -> str:
    """The name of a new sweep: the one that is wanted, or one that begins with `slug`. UserError if it is taken."""
    if wanted is None:
        return _free_name(store, slug)
    if store.has(wanted):
        raise UserError(
            f"name={wanted}: {store.uri} has a sweep of this name; choose another or `fairsweep resume {wanted}`"
        )
    if store.derived("comparisons", wanted).num_rows:
        raise UserError(f"name={wanted}: {store.uri} has a comparison of this name; choose another")
    return wanted


def _free_name(store: Store, slug: str) -> str:
    base = f"{slug}-{datetime.now():%Y%m%d-%H%M%S}"
    name, n = base, 2
    while store.has(name):
        name, n = f"{base}-{n}", n + 1
    return name
