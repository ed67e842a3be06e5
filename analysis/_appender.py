"""Appends to the log of a sweep: what is appended is on disk when the call returns, or it is not there."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable

from fairsweep.analysis._files import Folder, StoreError, line

LAST_WORDS = 64 << 10  # bytes of a log file that a full disk leaves for how the sweep ended
AHEAD = 256 << 10
_KEEP_SIZE = 1  # fallocate(2): FALLOC_FL_KEEP_SIZE
_sync = getattr(os, "fdatasync", os.fsync)


def _allocate(handle: int, start: int, size: int) -> bool:
    """Takes room on the disk for bytes that the file does not have yet. False where the file system cannot.

    OSError where there is none.
    """
    here = ctypes.CDLL(None, use_errno=True)
    call = getattr(here, "fallocate64", None) or getattr(here, "fallocate", None)
    if call is None:
        return False
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    if call(handle, _KEEP_SIZE, start, size) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG):
        raise OSError(code, os.strerror(code))
    return False


class Appender:
    """Appends to one log, durably: to a file, or on a remote file system as one object an append."""

    def __init__(
        self, folder: Folder, where: str, number: int, ensure: Callable[[], None] = lambda: None
    ) -> None:
        """ensure: raises where another process has taken the log over; nothing is down before it has not."""
        self._folder, self._where, self.number, self._ensure = folder, where, number, ensure
        self._handle: int | None = None
        self.size = 0  # bytes of a local file
        self._broken = ""
        self._room = 0  # bytes that the disk has for it
        self._rooms = True  # whether the file system says so
        if folder.local:
            path = folder.path(self._name())
            self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            self.size = self._room = os.fstat(self._handle).st_size
            folder.sync_folder(where)

    def _name(self) -> str:
        return f"{self._where}/{self.number:012d}.log"

    def append(self, frame: bytes, last: bool = False) -> None:
        """Returns when the frame is on disk. StoreError, with nothing appended, if it cannot be written.

        last: it says how the sweep ended, and may take the room that is kept for that.
        """
        if self._handle is None:
            self._ensure()
            try:
                self._folder.put(self._name(), frame)
            except FileNotFoundError as error:
                raise StoreError(f"storage={self._folder.name}: {line(error)}") from error
            self._ensure()
            self.number += 1
            return
        if self._broken:
            raise StoreError(f"{self._broken}; open the sweep again to go on")
        try:
            if not last:
                self._keep_room(self._handle, len(frame))
            rest = memoryview(frame)
            while rest:
                rest = rest[os.write(self._handle, rest) :]
        except OSError as error:
            message = f"{self._folder.path(self._name())}: cannot append: {line(error)}"
            try:
                if os.fstat(self._handle).st_size > self.size:  # to cut gives back what is kept, too
                    os.ftruncate(self._handle, self.size)
                    self._room = self.size
            except OSError:
                self._broken = message
            raise StoreError(message) from error
        try:
            _sync(self._handle)
        except OSError as error:  # what is on disk after a failed sync is unknown, so nothing may follow it
            self._broken = f"{self._folder.path(self._name())}: cannot sync: {line(error)}"
            raise StoreError(self._broken) from error
        self.size += len(frame)

    def _keep_room(self, handle: int, more: int) -> None:
        """Makes sure of room for `more` bytes and for last words behind them. OSError if the disk is full."""
        wanted = self.size + more + LAST_WORDS
        if not self._rooms or wanted <= self._room:
            return
        for size in (wanted + AHEAD, wanted):
            try:
                self._rooms = _allocate(handle, self._room, size - self._room)
            except OSError:
                if size == wanted:
                    raise
            else:
                self._room = size
                return

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
