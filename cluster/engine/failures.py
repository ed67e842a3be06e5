"""Why a trial failed, in one line, and whether it may well succeed when it is tried again."""

from __future__ import annotations

import errno

from fairsweep.analysis.text import bounded
from fairsweep.cluster.engine.books import ERROR, REASON
from fairsweep.cluster.engine.checkpoints import StorageFault
from fairsweep.cluster.engine.inheriting import CannotInherit
from fairsweep.trainables.base import BadReport
from fairsweep.trainables.own.source import TrainableError

STORAGE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EROFS}


class GroupLost(RuntimeError):
    """A worker of a group that trains a trial together, or its node, has gone."""


class NotFinite(ArithmeticError):
    """A declared metric is NaN or infinite."""


def is_storage_fault(error: BaseException) -> bool:
    """Whether the disk or file system failed, so that the same trial may well succeed when it is tried again."""
    return isinstance(error, StorageFault) or (isinstance(error, OSError) and error.errno in STORAGE_ERRORS)


def may_succeed(error: BaseException) -> bool:
    """Whether the same trial may well succeed when it is tried again: it was not its own code that failed."""
    return isinstance(error, GroupLost) or is_storage_fault(error)


def describe(error: BaseException) -> str:
    """One line on why a trial failed, in words that the tables can be grouped by."""
    try:
        text = bounded(str(error), ERROR)
    except Exception:  # an error may fail to say what it is
        text = ""
    first = bounded(text.strip().splitlines()[0], REASON) if text.strip() else ""
    out_of_memory = isinstance(error, MemoryError) or (
        type(error).__name__ in ("OutOfMemoryError", "RuntimeError")
        and (
            "out of memory" in text.lower() or "can't allocate memory" in text or "not enough memory" in text
        )
    )
    if out_of_memory:
        return f"out of memory: {first}" if first else "out of memory"
    if isinstance(error, (NotFinite, GroupLost, StorageFault, BadReport, TrainableError, CannotInherit)):
        return first
    return f"raised {type(error).__name__}: {first}" if first else f"raised {type(error).__name__}"
