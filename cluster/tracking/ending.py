"""The ends of runs. They take long where a server is slow or gone, so each has a thread of its own and trials go on.

Only so many end at a time: who brings one more waits for the oldest. A run is waited for once, so that several waits
that follow each other are never longer than one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

MOST = 8  # runs that end at a time in one process
_ends: dict[str, threading.Thread] = {}  # by run, the oldest first
_lock = threading.Lock()


def end(key: str, work: Callable[[], object], wait_s: float, together: bool = False) -> bool:
    """Has `work` end the run `key`; whether that is known to be done.

    together: waits for it. wait_s: for no longer.
    """
    thread = threading.Thread(target=work, name=f"fairsweep-end-{key}", daemon=True)
    with _lock:
        oldest = next(iter(_ends), None) if len(_ends) >= MOST else None
        _ends[key] = thread
    thread.start()
    if oldest is not None:
        wait(oldest, wait_s)
    return wait(key, wait_s) if together else not thread.is_alive()


def wait(key: str, seconds: float) -> bool:
    """Waits for the end of a run, if it ends in this process; False if that takes longer than `seconds`."""
    with _lock:
        thread = _ends.pop(key, None)
    if thread is None:
        return True
    thread.join(seconds)
    return not thread.is_alive()


def drain(seconds: float) -> list[str]:
    """Waits for all ends that nobody has waited for, together no longer than `seconds`; runs that have not ended."""
    until = time.monotonic() + seconds
    with _lock:
        keys = list(_ends)
    return [key for key in keys if not wait(key, max(0.0, until - time.monotonic()))]
