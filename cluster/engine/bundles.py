"""Bundles: the legs of short trials that a place is given at a time, and what it says of them in one message.

A message to the driver and back costs milliseconds in Tune's controller, and an fsync each way. A trial of a
millisecond must not pay for that alone. So a place is given as many legs as it can run in about a report's time
(`Post.report_s`), and tells of all that have ended in one message, which the driver writes down at once and then
acknowledges by the next bundle. The size follows the trials: it begins at one, doubles at most, and is one again
where a trial lasts longer. What could not begin in a report's time goes back to the driver. Where one lasts so long
that the message is late, what has ended before it is handed over meanwhile, and what waits behind it goes back: nothing
waits for a long trial.

A worker that is lost has told of nothing in its bundle: its trials run again, each alone, so that the one that ended
the worker is known. Only then is a loss, or a silence beyond the timeout, charged to it. What several processes train
together is handed out one by one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fairsweep.cluster.engine.trial import Leg
from fairsweep.cluster.engine.worker import LegRunner

logger = logging.getLogger(__name__)
MOST = 512  # legs of a bundle
LATE_S = 1.0  # after the report's time, before what has ended is handed over beside the message


class Bundle:
    """Runs the legs of a bundle, one after the other, by `runner`."""

    def __init__(
        self, runner: LegRunner, hand_over: Callable[[Mapping[str, Any]], None] | None = None
    ) -> None:
        """hand_over: takes what is said while a leg runs on, see `_hand_over`; called in a thread of its own."""
        self.runner, self._over_to = runner, hand_over
        self.left: deque[Leg] = deque()
        self._given = 0
        self._lock = threading.Lock()  # of what `_hand_over` looks at
        self._number = 0  # of the bundle
        self._running = ""  # its trial whose leg runs
        self._ended: list[dict[str, Any]] = []  # reports on those before it
        self._early = False

    def take(self, legs: Sequence[Leg]) -> None:
        """The next bundle. The first of `legs` begins at the next `step`."""
        self.left = deque(legs)
        self._given = len(self.left)
        self.runner.take(self._next())

    def _next(self) -> Leg:
        leg = self.left.popleft()
        self._running = leg.trial
        return leg

    def step(self) -> dict[str, Any]:
        """The next message to the driver, after about a report's time or where all legs have ended.

        `reports`: see `Conductor.reports`; the last one may be of a trial that goes on. `unbegun`: trials that had no
        time left to begin. `most`: how many legs the next bundle may have. `early`: whether some was told before.
        """
        began, room = time.monotonic(), self.runner.post.report_s
        late = self._watch(room + LATE_S)
        last, count = self.runner.step(), 1
        while last["status"] != "running" and time.monotonic() - began < room:
            with self._lock:
                if not self.left:
                    break
                self._ended.append(last)
                leg = self._next()
            self.runner.take(leg)
            last, count = self.runner.step(), count + 1
        late.cancel()
        took, most = time.monotonic() - began, 1
        if last["status"] != "running" and self.runner.group is None:
            most = max(1, min(MOST, 2 * self._given, int(count * room / max(took, 1e-6))))
        self._given = most
        with self._lock:
            reports, unbegun = [*self._ended, last], [leg.trial for leg in self.left]
            message = {"reports": reports, "unbegun": unbegun, "most": most, "early": self._early}
            self._close()
        return message

    def _close(self) -> None:
        self.left.clear()
        self._ended, self._early = [], False
        self._number += 1

    def _watch(self, seconds: float) -> threading.Timer:
        """Hands over after so long. It is not started where there is nothing that could be."""
        late = threading.Timer(seconds, self._hand_over, [self._number])
        late.daemon = True
        if self._over_to is not None and self.left:
            late.start()
        return late

    def _hand_over(self, bundle: int) -> None:
        """`reports` on what has ended, and `unbegun`, beside the `running`: its message has neither any more."""
        with self._lock:
            if self._over_to is None or bundle != self._number or not (self._ended or self.left):
                return
            unbegun = [leg.trial for leg in self.left]
            try:
                self._over_to({"reports": self._ended, "running": self._running, "unbegun": unbegun})
            except Exception as error:  # then it stands in the message
                logger.warning("what has ended is told when trial %s has: %s", self._running, error)
                return
            self._ended, self._early = [], True
            self.left.clear()
