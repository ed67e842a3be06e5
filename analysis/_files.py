"""Files of a store on any file system: found by URI, written whole or not at all, checked when read."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from fairsweep.analysis.text import escaped, storable

try:
    import fcntl
except ImportError:  # Windows: a store can be read there, not written
    fcntl = None  # type: ignore[assignment]

# What is being written lies apart from the tables: some readers of a folder pass over no name in it (Polars 2.1 on a
# folder and DuckDB 2.0 on `folder/*` open every file, also one that begins with a dot).
TEMPORARIES = "tmp"
_OLD_TEMPORARY = ".tmp"  # beside the files, where earlier versions wrote
_EXCHANGE, _HERE = 2, -100  # renameat2(2): RENAME_EXCHANGE, AT_FDCWD
_sync = getattr(os, "fdatasync", os.fsync)


class StoreError(Exception):
    """A store cannot do what is asked of it; the message says why and what would be right."""


class StoreDamaged(StoreError):
    """Files of a store are broken, and the rows in them are nowhere else; names the file and the rows."""


class SweepLocked(StoreError):
    """Another live process writes the sweep; names it."""


class UnknownSweep(StoreError):
    """The store has no such sweep; names those with close names."""


class Unreadable(Exception):
    """A Parquet file that is there but cannot be read."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason


def filesystem(uri: str | Path) -> tuple[pafs.FileSystem, str]:
    """The file system of a path or URI, and the path in it.

    `file:`, `s3:`, `gs:`, `hdfs:` are Arrow's own; every other scheme is fsspec's. StoreError if there
    is no such scheme or the URI does not read.
    """
    text = str(uri)
    if not text:
        raise StoreError(
            "storage='': must be a path or a URI such as file:///data/sweeps or s3://bucket/sweeps"
        )
    check_uri(text)
    if "://" not in text:
        path = str(Path(text).expanduser().absolute())
        if not storable(path):  # Arrow takes names in UTF-8 alone
            raise StoreError(
                f"storage={escaped(path)}: is not valid Unicode (UTF-8); take a folder whose name is"
            )
        return pafs.LocalFileSystem(), path
    try:
        system, path = pafs.FileSystem.from_uri(text)
        return system, path.rstrip("/") or "/"
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as arrow_error:
        if urlsplit(text).scheme in ("file", "s3", "gs", "gcs", "hdfs", "viewfs", ""):
            raise StoreError(f"storage={text}: {_line(arrow_error)}") from None
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise StoreError(f"storage={text}: this scheme needs fsspec (pip install fsspec)") from None
    try:
        found, path = url_to_fs(text)
    except Exception as error:
        raise StoreError(f"storage={text}: {_line(error)}") from None
    return pafs.PyFileSystem(pafs.FSSpecHandler(found)), path.rstrip("/")


# `s3:/bucket`, as a URI reads that a shell, a person or `pathlib.Path` took a slash from.
_ONE_SLASH = re.compile(r"(?:/.*/)?([A-Za-z][A-Za-z0-9+.-]+):/?(?!/)(.*)", re.DOTALL)
_SCHEMES = {
    "s3",
    "s3a",
    "gs",
    "gcs",
    "hdfs",
    "viewfs",
    "file",
    "abfs",
    "abfss",
    "az",
    "adl",
    "http",
    "https",
    "memory",
}


def check_uri(text: str) -> None:
    """StoreError for what reads as a URI with slashes missing; it would be a folder of that name on this machine."""
    found = _ONE_SLASH.fullmatch(text)
    if "://" in text or found is None or found[1].lower() not in _SCHEMES:
        return
    slashes = ":///" if found[1] == "file" else "://"
    raise StoreError(
        f"storage={text}: a URI has two slashes after its scheme; did you mean {found[1]}{slashes}{found[2]}?"
        " (a Path loses one of them: give a URI as a string)"
    )


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def join(uri: str, *parts: str) -> str:
    """`uri` with path components appended; a query string stays at the end."""
    if "://" not in uri:
        return "/".join([uri.rstrip("/"), *parts])
    split = urlsplit(uri)
    return urlunsplit(split._replace(path="/".join([split.path.rstrip("/"), *parts])))


def write_parquet(table: pa.Table, where: Any) -> None:
    """Writes `table` into a path or a binary file as the store does: zstd, page checksums, safe statistics.

    Parquet's minimum and maximum leave NaN out (pyarrow 26 writes them so), and DuckDB 2.0 skips row groups by them
    even where a query looks for NaN or orders by the column; so floating-point columns get none.
    """
    pq.write_table(
        table,
        where,
        compression="zstd",
        compression_level=1,
        write_page_checksum=True,
        write_statistics=[f.name for f in table.schema if not pa.types.is_floating(f.type)],
    )


class Folder:
    """A directory tree on one file system, with paths relative to its root."""

    def __init__(self, uri: str | Path) -> None:
        self.fs, self.root = filesystem(uri)
        self.local = isinstance(self.fs, pafs.LocalFileSystem)

    def path(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{name}"

    def names(self, folder: str) -> list[str]:
        """Names in `folder`, sorted; empty if there is no such folder."""
        try:
            found = self.fs.get_file_info(pafs.FileSelector(self.path(folder), allow_not_found=True))
        except NotADirectoryError:
            return []
        return sorted(f.base_name for f in found)

    def exists(self, name: str) -> bool:
        return self.fs.get_file_info(self.path(name)).type == pafs.FileType.File

    def make(self, folder: str) -> None:
        """Creates a folder and those above it, durably."""
        if self.local and Path(self.path(folder)).is_dir():
            return
        self.fs.create_dir(self.path(folder), recursive=True)
        while self.local and folder:
            folder = os.path.dirname(folder)
            self.sync_folder(folder)

    def truncate(self, name: str, size: int) -> None:
        """Cuts a file to its first `size` bytes, durably."""
        if self.local:
            with open(self.path(name), "r+b") as file:
                file.truncate(size)
                os.fsync(file.fileno())
            return
        data = self.read(name)[:size]
        with self.replacing(name) as out:
            out.write(data)

    def read(self, name: str) -> bytes:
        """The bytes of a file. FileNotFoundError if there is none."""
        with self.fs.open_input_stream(self.path(name)) as source:
            return source.read()

    def delete(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.fs.delete_file(self.path(name))

    def delete_temporaries(self, folder: str) -> None:
        """Drops what writers that died left half-written; only for who holds the folder's lock."""
        for name in self.names(folder):
            if name.startswith(".") and name.endswith(_OLD_TEMPORARY):
                self.delete(f"{folder}/{name}")
        if self.local:
            where = self.path(f"{TEMPORARIES}/{folder}")
            shutil.rmtree(where, ignore_errors=True)
            for parent in list(Path(where).parents)[: folder.count("/") + 1]:
                with contextlib.suppress(OSError):  # another sweep's writer is at work in it
                    parent.rmdir()

    def temporary(self, name: str) -> str:
        """A fresh name apart from the tables for what will take the place of `name`; its folder is there."""
        where, _, base = name.rpartition("/")
        folder = where if where.startswith(f"{TEMPORARIES}/") else f"{TEMPORARIES}/{where}".rstrip("/")
        if self.local:
            for _ in range(3):  # who clears up after another sweep may remove the folder above meanwhile
                with contextlib.suppress(FileNotFoundError):
                    os.makedirs(self.path(folder), exist_ok=True)
                    break
        return f"{folder}/{uuid.uuid4().hex[:8]}-{base}"

    def link(self, name: str, other: str) -> bool:
        """Gives a file a second name; durable once a file is written beside that. False where it cannot have one."""
        try:
            os.link(self.path(name), self.path(other))
        except OSError as error:
            if error.errno in (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EMLINK, errno.EXDEV):
                return False
            raise
        return True

    def exchange(self, folder: str, other: str) -> bool:
        """Makes two folders change places at once, durably; False where the file system cannot."""
        rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if self.local else None
        if rename is None:
            return False
        if rename(_HERE, os.fsencode(self.path(folder)), _HERE, os.fsencode(self.path(other)), _EXCHANGE):
            code = ctypes.get_errno()
            if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM):
                return False
            raise OSError(code, os.strerror(code), self.path(folder))
        self.sync_folder(os.path.dirname(folder))
        return True

    @contextlib.contextmanager
    def replacing(self, name: str) -> Iterator[Any]:
        """A binary file that takes the place of `name` when the block ends without an error, durably."""
        temporary = self.temporary(name)
        try:
            if self.local:
                with open(self.path(temporary), "wb") as out:
                    yield out
                    out.flush()
                    os.fsync(out.fileno())
                os.replace(self.path(temporary), self.path(name))
                self.sync_folder(os.path.dirname(name))
            else:
                with self.fs.open_output_stream(self.path(temporary)) as out:
                    yield out
                self.fs.move(self.path(temporary), self.path(name))
        except BaseException:
            with contextlib.suppress(Exception):
                self.delete(temporary)
            raise

    def sync_folder(self, folder: str) -> None:
        if not self.local:
            return
        handle = os.open(self.path(folder), os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def write_parquet(self, name: str, table: pa.Table, about: dict[str, Any]) -> None:
        """Writes `table` with `about` in the file's metadata (keys prefixed `fairsweep.`)."""
        metadata = {f"fairsweep.{k}": json.dumps(v) for k, v in about.items()}
        with self.replacing(name) as out:
            write_parquet(table.replace_schema_metadata(metadata), out)

    def read_parquet(
        self, name: str, columns: Sequence[str] | None = None
    ) -> tuple[pa.Table, dict[str, Any]]:
        """The table (those of `columns` that the file has) and its `about`.

        FileNotFoundError if there is no file, `Unreadable` if it is not a whole Parquet file or a page's
        checksum does not match.
        """
        try:
            with self.fs.open_input_file(self.path(name)) as source:
                file = pq.ParquetFile(source, page_checksum_verification=True)
                metadata = file.schema_arrow.metadata or {}
                about = {
                    k.decode().removeprefix("fairsweep."): json.loads(v)
                    for k, v in metadata.items()
                    if k.startswith(b"fairsweep.")
                }
                here = file.schema_arrow.names
                chosen = None if columns is None else [c for c in here if c in set(columns)]
                # Never none at all: pyarrow (17 to 26) forgets the number of rows of a table without columns
                # when its metadata are replaced. Who asked drops what was not asked for.
                table = file.read(columns=here[:1] if chosen == [] else chosen)
                return table.replace_schema_metadata(None), about
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            raise Unreadable(self.path(name), _line(error)) from None


class Lock:
    """The one writer of a sweep, as an advisory lock on a local file that says who holds it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._handle: int | None = None

    def acquire(self, what: str) -> None:
        """Takes the lock; SweepLocked with the holder's process if another one has it."""
        if fcntl is None:
            raise StoreError("a store can be written on POSIX systems only")
        until = time.monotonic() + 0.5  # a reader that looks whether someone writes holds it for microseconds
        while True:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                holder = os.pread(handle, 4096, 0).decode(errors="replace")
                os.close(handle)
                if time.monotonic() < until:
                    time.sleep(0.02)
                    continue
                raise SweepLocked(
                    f"{what} is being written by {_holder(holder)}; wait for it or end it"
                ) from None
            if self._is_current(handle):
                break
            os.close(handle)  # the holder before us removed the file that we had opened
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
        self._handle = handle

    def _is_current(self, handle: int) -> bool:
        try:
            return os.stat(self.path).st_ino == os.fstat(handle).st_ino
        except FileNotFoundError:
            return False

    def release(self) -> None:
        if self._handle is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)
            os.close(self._handle)
            self._handle = None

    def held(self) -> bool:
        """Whether a live process has the lock."""
        if fcntl is None:
            return False
        try:
            handle = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(handle)
        return False


def _holder(text: str) -> str:
    try:
        found = json.loads(text)
        return f"process {found['pid']} on {found['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"


class Appender:
    """Appends to one log, durably: to a file, or on a remote file system as one object an append."""

    def __init__(self, folder: Folder, where: str, number: int) -> None:
        self._folder, self._where, self.number = folder, where, number
        self._handle: int | None = None
        self.size = 0  # bytes of a local file
        self._broken = ""
        if folder.local:
            path = folder.path(self._name())
            self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            self.size = os.fstat(self._handle).st_size
            folder.sync_folder(where)

    def _name(self) -> str:
        return f"{self._where}/{self.number:012d}.log"

    def append(self, frame: bytes) -> None:
        """Returns when the frame is on disk. StoreError, with nothing appended, if it cannot be written."""
        if self._handle is None:
            try:
                with self._folder.fs.open_output_stream(self._folder.path(self._name())) as out:
                    out.write(frame)
            except OSError as error:
                raise StoreError(
                    f"{self._folder.path(self._name())}: cannot write: {_line(error)}"
                ) from error
            self.number += 1
            return
        if self._broken:
            raise StoreError(f"{self._broken}; open the sweep again to go on")
        try:
            rest = memoryview(frame)
            while rest:
                rest = rest[os.write(self._handle, rest) :]
        except OSError as error:
            message = f"{self._folder.path(self._name())}: cannot append: {_line(error)}"
            try:
                os.ftruncate(self._handle, self.size)
            except OSError:
                self._broken = message
            raise StoreError(message) from error
        try:
            _sync(self._handle)
        except OSError as error:  # what is on disk after a failed sync is unknown, so nothing may follow it
            self._broken = f"{self._folder.path(self._name())}: cannot sync: {_line(error)}"
            raise StoreError(self._broken) from error
        self.size += len(frame)

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
