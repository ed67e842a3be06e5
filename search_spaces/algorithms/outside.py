"""A search that proposes nothing of its own: somebody outside offers configurations, while the sweep runs."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from fairsweep.search_spaces.algorithms.base import Job, Outcome
from fairsweep.search_spaces.space import Space

RUN = "run"  # the attribute of a job that says what it is called outside


class OutsideSearch:
    """Proposes what it was offered, in that order, until it is closed. `offer` and `close` take any thread.

    Each configuration has the name that it is known by outside, and comes once, also after a replay.
    """

    patient = True  # that there is nothing to ask now does not mean that nothing will come

    def __init__(self, space: Space, mode: str | Sequence[str] = "min", seed: int = 0) -> None:
        self.space = space
        self.numbers: dict[str, int] = {}  # outside name -> job
        self._offered: deque[tuple[str, dict[str, Any]]] = deque()
        self._known: set[str] = set()
        self._closed = False
        self._lock = threading.Lock()
        self._next = 0

    def offer(self, name: str, config: Mapping[str, Any]) -> bool:
        """Takes a configuration; False if one of this name has come before. SpaceError for one that is wrong."""
        whole = self.space.validate(config)
        with self._lock:
            if name in self._known:
                return False
            self._known.add(name)
            self._offered.append((name, whole))
            return True

    def knows(self, name: str) -> bool:
        """Whether a configuration of this name has come before."""
        with self._lock:
            return name in self._known

    def withdraw(self, name: str) -> bool:
        """Takes an offer back; False if it has been asked for already, or never came."""
        with self._lock:
            kept = [(other, config) for other, config in self._offered if other != name]
            found = len(kept) < len(self._offered)
            self._offered = deque(kept)
            return found

    @property
    def offered(self) -> int:
        """How many configurations wait to be asked for."""
        return len(self._offered)

    def close(self) -> None:
        """Says that nothing more will be offered."""
        self._closed = True

    def ask(self, n: int = 1) -> list[Job]:
        jobs: list[Job] = []
        with self._lock:
            while len(jobs) < n and self._offered:
                name, config = self._offered.popleft()
                jobs.append(Job(self._next, config, {RUN: name}))
                self._enter(jobs[-1])
        return jobs

    def adopt(self, job: Job) -> None:
        with self._lock:
            self._enter(job)

    def _enter(self, job: Job) -> None:
        self._next = max(self._next, job.number + 1)
        if RUN in job.attrs:
            self._known.add(job.attrs[RUN])
            self.numbers[job.attrs[RUN]] = job.number

    def tell(self, job: Job, outcome: Outcome) -> None:
        """Whoever offers learns elsewhere what becomes of it."""

    @property
    def finished(self) -> bool:
        with self._lock:
            return self._closed and not self._offered
