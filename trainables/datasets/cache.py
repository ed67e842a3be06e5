"""Where converted data sets are kept, so that a second run needs no network and no conversion.

Many workers of one machine share the folder: an entry is made under a lock of its own and appears by one
rename, so that nobody reads half a file and nobody fetches what a neighbour is just fetching.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from trainables.base import DataError

LOCK_TIMEOUT_S = 1200.0


def cache_dir() -> Path:
    """`$FAIRSWEEP_CACHE`, or `~/.cache/fairsweep`; made if it is not there. DataError if it cannot be."""
    root = Path(os.environ.get("FAIRSWEEP_CACHE") or Path.home() / ".cache" / "fairsweep").expanduser()
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"FAIRSWEEP_CACHE={root}: cannot be made ({error.strerror}); name a writable folder"
        ) from None
    return root


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Has `write` fill a temporary file beside `path` and renames it to `path` once it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def made_once(path: Path, write: Callable[[Path], None], valid: Callable[[Path], bool]) -> Path:
    """`path`, made by `write` under a lock unless a `valid` file is there; a damaged one is made again."""
    if path.is_file() and valid(path):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path.with_name(f"{path.name}.lock"), timeout=LOCK_TIMEOUT_S):
            if not (path.is_file() and valid(path)):
                write_atomically(path, write)
    except Timeout:
        raise DataError(
            f"FAIRSWEEP_CACHE: {path} has been locked for {LOCK_TIMEOUT_S:.0f} s;"
            " end the process that holds it, or name another folder"
        ) from None
    except OSError as error:
        raise DataError(
            f"FAIRSWEEP_CACHE: cannot write {path} ({error.strerror}); name a writable folder"
        ) from None
    return path


def _is_npz(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, OSError):
        return False


def cached_arrays(name: str, convert: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays that `convert` returns, from `<cache>/<name>.npz` after the first time.

    `name` must change when the conversion does: put a version or a checksum into it.
    """

    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.savez_compressed(file, **dict(convert()))  # type: ignore[arg-type]

    path = made_once(cache_dir() / f"{name}.npz", write, _is_npz)
    with np.load(path, allow_pickle=False) as stored:
        return {key: stored[key] for key in stored.files}
