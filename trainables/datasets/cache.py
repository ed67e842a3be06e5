"""Where converted data sets are kept, so that a second run needs no network and no conversion.

Many workers of one machine share the folder: an entry is made under a lock of its own and appears by one
rename, so that nobody reads half a file and nobody fetches what a neighbour is just fetching.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from fairsweep.trainables.base import DataError

LOCK_TIMEOUT_S = 1200.0
SETTLED_S = 2.0  # a file may change twice within one tick of the file system's clock


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


def content_digest(root: Path, paths: Sequence[Path]) -> str:
    """SHA-256, in hexadecimal, of what the files `paths` under `root` hold and of their names below it.

    Names and sizes alone are the same for other pictures of the same format. Reading some gigabytes takes minutes, so
    the digest of files that have not changed since (path, inode, size, times of modification and of change) is kept in
    the cache folder; nothing is kept of files that changed within the last seconds.
    """

    def digest() -> str:
        whole = hashlib.sha256()
        for path in paths:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            whole.update(
                f"{path.relative_to(root).as_posix()}\0{content}\n".encode("utf8", "surrogateescape")
            )
        return whole.hexdigest()

    listing, newest = hashlib.sha256(), 0.0
    for path in paths:
        stat = path.stat()
        seen = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        listing.update(f"{path.absolute()}\0{seen}\n".encode("utf8", "surrogateescape"))
        newest = max(newest, stat.st_mtime, stat.st_ctime)
    if abs(time.time() - newest) < SETTLED_S:
        return digest()
    kept = made_once(
        cache_dir() / "digests" / listing.hexdigest(),
        lambda path: _write_text(path, digest()),
        lambda path: len(path.read_bytes()) == 64,
    )
    return kept.read_text()


def _write_text(path: Path, text: str) -> None:
    path.write_text(text)
