"""What a person sees while a comparison runs: a line for each repeat that is over, and what has been found so far."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fairsweep.analysis.report import number
from fairsweep.cluster.display import Display, FleetLines, clock

if TYPE_CHECKING:
    from fairsweep.cluster.jobs.comparing.plan import Plan


class ComparisonDisplay(Display):
    """Shows nothing; the base of the real one."""

    def started(self, plan: Plan, uri: str, done: int, concurrent: int) -> None: ...

    def compared(self, row: Mapping[str, Any], done: int, expected: int) -> None: ...


class Lines(FleetLines, ComparisonDisplay):
    """Lines on standard error, one for each repeat that is over."""

    def started(self, plan: Plan, uri: str, done: int, concurrent: int) -> None:
        self._began, self._done, self._last, self._first = time.monotonic(), done, time.monotonic(), done
        spec = plan.spec
        of = f"{len(spec.methods)} methods x {len(spec.data)} data sets x {spec.seeds} searches"
        there = f", {done} of them done" if done else ""
        self._print(f"comparison {spec.run}: {of}{there}, {concurrent} trials at a time, store {uri}")

    def compared(self, row: Mapping[str, Any], done: int, expected: int) -> None:
        self._done = done
        where = f"{row['method']} on {row['data']}, search {row['repeat']}"
        cost = f"{row['trials']} trials, {clock(row['cost_s'] + row['final_cost_s'])}"
        if row["score"] is None:
            found = f"failed: {row['reason']}"
        else:
            chosen = f"{row['objective']} {number(row['validation'])}"
            found = f"{chosen} chosen, {row['metric']} {number(row['score'])}"
        passed = time.monotonic() - self._began
        left = passed / max(1, done - self._first) * (expected - done)
        self._print(f"{where}: {found} ({cost}); {done} of {expected}, about {clock(left)} left")
