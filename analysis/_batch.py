"""Several appends of a sweep's writer as one."""

from __future__ import annotations

import contextlib
import threading
from typing import Protocol

from fairsweep.analysis._log import Row


class Appending(Protocol):
    """The writer."""

    _mutex: threading.RLock
    _buffer: list[Row] | None

    def _commit(self, rows: list[Row], seal: bool = True) -> None: ...


class Batch(contextlib.AbstractContextManager[None]):
    """See `SweepWriter.batch`; each report enters several, so that it is no generator."""

    def __init__(self, writer: Appending) -> None:
        self._writer = writer
        self._depth = 0

    def __enter__(self) -> None:
        self._writer._mutex.acquire()
        self._depth += 1
        if self._depth == 1:
            self._writer._buffer = []

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        writer = self._writer
        try:
            self._depth -= 1
            if self._depth == 0:
                rows, writer._buffer = writer._buffer, None
                if kind is None and rows:
                    writer._commit(rows)
        finally:
            writer._mutex.release()
