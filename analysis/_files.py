"""Files of a store on any file system: found by URI, written whole or not at all, checked when read."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from fairsweep.analysis._patience import Patience
from fairsweep.analysis.text import escaped, storable

T = TypeVar("T")

# What is being written lies apart from the tables: some readers of a folder pass over no name in it (Polars 2.1 on a
# folder and DuckDB 2.0 on `folder/*` open every file, also one that begins with a dot).
TEMPORARIES = "tmp"
_OLD_TEMPORARY = ".tmp"  # beside the files, where earlier versions wrote
_EXCHANGE, _HERE = 2, -100  # renameat2(2): RENAME_EXCHANGE, AT_FDCWD
# Where an object is there as a whole, once its writing has ended, or not at all.
_OBJECTS = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "memory"}


class StoreError(Exception):
    """A store cannot do what is asked of it; the message says why and what would be right."""


class StoreDamaged(StoreError):
    """Files of a store are broken, and the rows in them are nowhere else; names the file and the rows."""


class SweepLocked(StoreError):
    """Another live process writes the sweep; names it."""


class StoreFailed(StoreError, OSError):
    """An object store did not do what it was asked for; it may later."""


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
        system, path = _of_arrow(text)
        return system, path.rstrip("/") or "/"
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as arrow_error:
        if urlsplit(text).scheme in ("file", "s3", "gs", "gcs", "hdfs", "viewfs", ""):
            raise StoreError(f"storage={text}: {line(arrow_error)}") from None
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise StoreError(f"storage={text}: this scheme needs fsspec (pip install fsspec)") from None
    try:
        found, path = url_to_fs(text)
    except Exception as error:
        raise StoreError(f"storage={text}: {line(error)}") from None
    cache: Any = getattr(found, "dircache", None)
    if hasattr(cache, "use_listings_cache"):  # of folders: it would not show what other processes write
        cache.use_listings_cache = False
        cache.clear()
    return pafs.PyFileSystem(pafs.FSSpecHandler(found)), path.rstrip("/")


def _of_arrow(text: str) -> tuple[pafs.FileSystem, str]:
    if (
        text.startswith("s3:") and "allow_delayed_open" not in text
    ):  # or Arrow (26) takes three requests for an object
        with contextlib.suppress(
            pa.ArrowInvalid, OSError
        ):  # of an Arrow that does not know it, or of what is wrong
            return pafs.FileSystem.from_uri(f"{text}{'&' if '?' in text else '?'}allow_delayed_open=true")
    return pafs.FileSystem.from_uri(text)


def _schemes(fs: pafs.FileSystem) -> set[str]:
    if not isinstance(fs, pafs.PyFileSystem):
        return {fs.type_name}
    found = getattr(getattr(fs.handler, "fs", None), "protocol", ())
    return {found} if isinstance(found, str) else set(found)


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


def line(error: BaseException) -> str:
    """The first line of what an error says, or its type."""
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
        self.patience = Patience()  # with a remote file system
        scheme = str(uri).partition("://")[0] if "://" in str(uri) else ""
        self.name = f"{scheme}://{self.root}" if scheme and not self.local else self.root  # for messages
        self.objects = bool(_schemes(self.fs) & _OBJECTS)  # a store of objects, which has no folders

    def _ask(self, call: Callable[[], T]) -> T:
        if self.local:
            return call()
        try:
            return self.patience.trying(call, f"storage={self.name}")
        except (FileNotFoundError, NotADirectoryError):
            raise
        except OSError as error:
            raise StoreFailed(f"storage={self.name}: {line(error)}") from error

    def path(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{name}"

    def names(self, folder: str) -> list[str]:
        """Names in `folder`, sorted; empty if there is no such folder."""
        selector = pafs.FileSelector(self.path(folder), allow_not_found=True)
        try:
            found = self._ask(lambda: self.fs.get_file_info(selector))
        except NotADirectoryError:
            return []
        return sorted(f.base_name for f in found)

    def exists(self, name: str) -> bool:
        found = self._ask(lambda: self.fs.get_file_info(self.path(name)))
        return found.type == pafs.FileType.File

    def make(self, folder: str) -> None:
        """Creates a folder and those above it, durably."""
        if self.local and Path(self.path(folder)).is_dir():
            return
        self._ask(lambda: self.fs.create_dir(self.path(folder), recursive=True))
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

        def read() -> bytes:
            with self.fs.open_input_stream(self.path(name)) as source:
                return source.read()

        return self._ask(read)

    def delete(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._ask(lambda: self.fs.delete_file(self.path(name)))

    def put(self, name: str, data: bytes, once: bool = False) -> None:
        """Writes a file of a remote file system, as a whole or not at all. once: it is not tried again."""

        def put() -> None:
            target = name if self.objects else self.temporary(name)
            with self.fs.open_output_stream(self.path(target)) as out:
                out.write(data)
            if target != name:
                self.fs.move(self.path(target), self.path(name))

        if once:
            put()
        else:
            self._ask(put)

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
        if not self.local:
            # Not into the stream: its closing keeps what there is of a file also where the block has failed.
            buffer = io.BytesIO()
            yield buffer
            self.put(name, buffer.getvalue())
            return
        temporary = self.temporary(name)
        try:
            with open(self.path(temporary), "wb") as out:
                yield out
                out.flush()
                os.fsync(out.fileno())
            os.replace(self.path(temporary), self.path(name))
            self.sync_folder(os.path.dirname(name))
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

    def _opened(self, name: str) -> Any:
        """A file to be read from anywhere. Of a remote one all at once: that is one question, not one a column."""
        return self.fs.open_input_file(self.path(name)) if self.local else pa.BufferReader(self.read(name))

    def read_parquet(
        self, name: str, columns: Sequence[str] | None = None
    ) -> tuple[pa.Table, dict[str, Any]]:
        """The table (those of `columns` that the file has) and its `about`.

        FileNotFoundError if there is no file, `Unreadable` if it is not a whole Parquet file or a page's
        checksum does not match.
        """
        try:
            with self._opened(name) as source:
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
        except (FileNotFoundError, StoreFailed):
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            raise Unreadable(self.path(name), line(error)) from None
