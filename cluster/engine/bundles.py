"""Bundles: the legs of short trials that a place is given at a time, and what it says of them in one message.

A message to the driver and back costs milliseconds in Tune's controller, and an fsync each way. A trial of a
millisecond must not pay for that alone. So a place is given as many legs as it can run in about a report's time
(`Post.report_s`), and tells of all that have ended in one message, which the driver writes down at once and then
acknowledges by the next bundle. The size follows the trials: it begins at one, doubles at most, and is one again
where a trial lasts longer. What could not begin in a report's time goes back to the driver, so that no trial waits
behind a long one.

A worker that is lost has told of nothing in its bundle: its trials run again, each alone, so that the one that ended
the worker is known. Only then is a loss, or a silence beyond the timeout, charged to it. What several processes train
together is handed out one by one.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from fairsweep.cluster.engine.trial import Leg
from fairsweep.cluster.engine.worker import LegRunner

MOST = 512  # legs of a bundle


class Bundle:
    """Runs the legs of a bundle, one after the other, by `runner`."""

    def __init__(self, runner: LegRunner) -> None:
        self.runner = runner
        self.left: deque[Leg] = deque()
        self._given = 0

    def take(self, legs: Sequence[Leg]) -> None:
        """The next bundle. The first of `legs` begins at the next `step`."""
        self.left = deque(legs)
        self._given = len(self.left)
        self.runner.take(self.left.popleft())

    def step(self) -> dict[str, Any]:
        """The next message to the driver, after about a report's time or where all legs have ended.

        `reports`: see `Conductor.reports`; the last one may be of a trial that goes on. `unbegun`: trials that had no
        time left to begin. `most`: how many legs the next bundle may have.
        """
        began, room = time.monotonic(), self.runner.post.report_s
        reports = [self.runner.step()]
        while reports[-1]["status"] != "running" and self.left and time.monotonic() - began < room:
            self.runner.take(self.left.popleft())
            reports.append(self.runner.step())
        took, most = time.monotonic() - began, 1
        if reports[-1]["status"] != "running" and self.runner.group is None:
            fit = len(reports) * room / max(took, 1e-6)
            most = max(1, min(MOST, 2 * self._given, int(fit)))
        self._given = most
        unbegun = [leg.trial for leg in self.left]
        self.left.clear()
        return {"reports": reports, "unbegun": unbegun, "most": most}
