"""The one writer of a sweep on an object store, which has no locks: an object that names it and that it renews.

Who opens a sweep and finds its writer's object takes it over at once where that process was one of this machine and has
ended, and elsewhere once the object has not changed for `HOLD_S` seconds; else it is refused. A writer that could not
renew it for `VALID_S` seconds tells nobody that rows are down before it has seen that nobody else has taken over.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from datetime import datetime, timezone
from typing import Any

from fairsweep.analysis._files import Folder, StoreError, SweepLocked, line

HOLD_S = 30.0  # that a silent writer keeps a sweep
VALID_S = 20.0  # that a writer trusts what it last saw
RENEW_S = 5.0
SETTLE_S = 0.5  # after which one of two that took over at once sees the other
LONG_AGO_S = 300.0  # clocks differ by less


def _now() -> float:
    """Seconds, those of a suspended machine included: others count them too."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _text(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""


def _begun(pid: int | str) -> str:
    """When a process of this machine began, in the kernel's ticks; "" where there is none, or it is a zombie."""
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] != "Z" else ""


def _home() -> str:
    """Where numbers of processes mean what they mean here; "" where that cannot be told (no Linux)."""
    with contextlib.suppress(OSError):
        return f"{_text('/proc/sys/kernel/random/boot_id')} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _lives(holder: dict[str, Any]) -> bool | None:
    """Whether the process lives; None of one that cannot be seen from here."""
    if not holder.get("home") or holder["home"] != _home():
        return None
    return bool(holder.get("begun")) and _begun(holder["pid"]) == holder["begun"]


def _named(holder: dict[str, Any]) -> str:
    return f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"


def _look(folder: Folder, name: str) -> dict[str, Any] | None:
    """Who holds it; None if nobody does."""
    for pause in (0.01, 0.05, None):  # some file systems show a file that is just being written
        try:
            with folder.fs.open_input_stream(folder.path(name)) as source:
                found = json.loads(source.read())
        except FileNotFoundError:
            return None
        except ValueError:
            if pause is not None:
                time.sleep(pause)
        else:
            return found if "renewed" in found else None  # earlier versions left theirs, and never renewed it
    return {"renewed": -1}


def written(folder: Folder, name: str) -> bool | None:
    """Whether a live process holds it; None if nobody can tell from here."""
    holder = _look(folder, name)
    if holder is None:
        return False
    lives = _lives(holder)
    if lives is not None:
        return lives
    renewed = folder.fs.get_file_info(folder.path(name)).mtime
    age = (datetime.now(timezone.utc) - renewed).total_seconds() if renewed else HOLD_S + 1
    return True if age <= HOLD_S else False if age > LONG_AGO_S else None


class Lease:
    """Holds a sweep for this process, from `acquire` to `release`, and renews that in a thread of its own."""

    def __init__(self, folder: Folder, name: str) -> None:
        """name: of the object."""
        self._folder, self._name, self._what = folder, name, ""
        pid = os.getpid()
        self._own = {
            "id": uuid.uuid4().hex, "pid": pid, "host": socket.gethostname(), "home": _home(), "begun": _begun(pid),
        }  # fmt: skip
        self._renewed = 0
        self._seen_at = float("-inf")
        self._lost: dict[str, Any] | None = None
        self._mutex = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="fairsweep-lease", daemon=True)

    def acquire(self, what: str) -> None:
        """SweepLocked while another live process holds it. May wait `HOLD_S` for one that is silent.

        what: is held, for messages.
        """
        self._what = what
        try:
            self._wait_until_free()
            self._take()
        except OSError as error:
            raise StoreError(f"storage={self._folder.name}: {line(error)}") from error
        if self._lost is not None:
            raise self._refusal(self._lost)
        self._thread.start()

    def held(self) -> bool:
        """Whether a live process holds it."""
        return bool(written(self._folder, self._name))

    def check(self, what: str) -> None:
        """SweepLocked as `acquire`, of a process that is seen to live from here. Takes nothing, waits for nobody."""
        self._what = what
        seen = _look(self._folder, self._name)
        if seen is not None and _lives(seen):
            raise self._refusal(seen)

    def _refusal(self, holder: dict[str, Any]) -> SweepLocked:
        return SweepLocked(f"{self._what} is being written by {_named(holder)}; wait for it or end it")

    def _wait_until_free(self) -> None:
        seen = _look(self._folder, self._name)
        if seen is None or _lives(seen) is False:
            return
        if _lives(seen):
            raise self._refusal(seen)
        since, told = _now(), False
        while _now() - since < HOLD_S:
            time.sleep(min(1.0, HOLD_S))
            found = _look(self._folder, self._name)
            if found is None:
                return
            if found != seen:
                raise self._refusal(found)
            if not told:
                told = True
                self._folder.patience.say(
                    f"{self._what} was last written by {_named(seen)}; it shows in {HOLD_S:g} s whether that is there"
                )

    def _take(self) -> None:
        began = _now()
        self._write()
        time.sleep(SETTLE_S)
        seen = _look(self._folder, self._name)
        if seen is None or seen.get("id") != self._own["id"]:
            self._lost = seen or {}
        elif _now() - began < HOLD_S - VALID_S:
            self._seen_at = began

    def _write(self) -> None:
        self._renewed += 1
        self._folder.put(self._name, json.dumps({**self._own, "renewed": self._renewed}).encode(), once=True)

    def _renew(self) -> None:
        while not self._over.wait(RENEW_S) and self._lost is None:
            with contextlib.suppress(Exception):  # who appends sees what is so
                self._confirm()

    def _confirm(self) -> None:
        with self._mutex:
            began = _now()
            seen = _look(self._folder, self._name)
            if self._over.is_set() or self._lost is not None:
                return
            if seen is None or seen.get("id") != self._own["id"]:
                self._lost = seen or {}
            elif began - self._seen_at > VALID_S:
                self._take()  # another may be about to
            else:
                self._write()
                if _now() - began < HOLD_S - VALID_S:
                    self._seen_at = began

    def ensure(self) -> None:
        """SweepLocked if another has taken it over. Waits, as long as the folder's patience is, for who can tell."""
        if self._lost is None and _now() - self._seen_at > VALID_S:
            self._folder.patience.trying(self._confirm, f"storage={self._folder.name}")
            if self._lost is None and _now() - self._seen_at > VALID_S:
                raise StoreError(f"storage={self._folder.name}: {self._name} could not be renewed in time")
        if self._lost is not None:
            raise SweepLocked(f"{self._what} was taken over by {_named(self._lost)}")

    def release(self) -> None:
        if self._over.is_set():
            return
        self._over.set()
        if self._folder.patience.given_up:
            return
        with self._mutex, contextlib.suppress(Exception):
            seen = _look(self._folder, self._name)
            if seen is not None and seen.get("id") == self._own["id"]:
                self._folder.fs.delete_file(self._folder.path(self._name))
