"""The one writer of a sweep on a local file system: an advisory lock on a file."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time

from fairsweep.analysis._files import StoreError, SweepLocked

try:
    import fcntl
except ImportError:  # Windows: a store can be read there, not written
    fcntl = None  # type: ignore[assignment]


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
                raise _refusal(what, holder) from None
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
            with contextlib.suppress(OSError):  # gone, or of a file system that takes nothing any more
                os.unlink(self.path)
            os.close(self._handle)  # with this it is free
            self._handle = None

    def held(self) -> bool:
        """Whether a live process has the lock."""
        return self._holder() is not None

    def check(self, what: str) -> None:
        """SweepLocked as `acquire`, which takes nothing and leaves nothing."""
        holder = self._holder()
        if holder is not None:
            raise _refusal(what, holder)

    def _holder(self) -> str | None:
        """What the file says of the live process that has the lock; None if none has."""
        if fcntl is None:
            return None
        try:
            handle = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return os.pread(handle, 4096, 0).decode(errors="replace")
        finally:
            os.close(handle)
        return None


def _refusal(what: str, holder: str) -> SweepLocked:
    try:
        found = json.loads(holder)
        name = f"process {found['pid']} on {found['host']}"
    except (ValueError, KeyError, TypeError):
        name = "another process"
    return SweepLocked(f"{what} is being written by {name}; wait for it or end it")
