"""What a person sees while a comparison runs: a line for each repeat that is over, and what has been found so far."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fairsweep.analysis.plots.parts import count
from fairsweep.analysis.report import number
from fairsweep.cluster.display import Display, FleetLines, Forecast, clock, done_of, moves

SEARCHED = 0.9  # of the time of a repeat, about what its search takes

if TYPE_CHECKING:
    from fairsweep.cluster.engine.conductor import Conductor
    from fairsweep.cluster.jobs.comparing.plan import Plan


class ComparisonDisplay(Display):
    """Shows nothing; the base of the real one."""

    def started(self, plan: Plan, uri: str, done: int, concurrent: int) -> None: ...

    def compared(self, row: Mapping[str, Any], done: int, expected: int) -> None: ...


class Lines(FleetLines, ComparisonDisplay):
    """Lines on standard error, one for each repeat that is over."""

    _fleet: Any = None  # what runs now, once it does

    def started(self, plan: Plan, uri: str, done: int, concurrent: int) -> None:
        self._last, self._done = time.monotonic(), done
        self._forecast = Forecast(done)
        spec = plan.spec
        of = " x ".join(
            [count(len(spec.methods), "method"), count(len(spec.data), "data set"), f"{spec.seeds} searches"]
        )
        there = f", {done} of them done" if done else ""
        self._print(f"comparison {spec.run}: {of}{there}, {concurrent} trials at a time, store {uri}")

    def tick(self, conductor: Any) -> None:
        self._fleet = conductor
        self._forecast.seen(moves(conductor), self._work)
        super().tick(conductor)

    def _work(self) -> float:
        """Repeats that are done, those that run as far as they have come."""
        lanes = self._fleet.lanes if self._fleet is not None else {}
        return self._done + sum(share_of(name, lane.conductor) for name, lane in list(lanes.items()))

    def compared(self, row: Mapping[str, Any], done: int, expected: int) -> None:
        self._done = done
        self._forecast.seen(True, self._work)
        where = f"{row['method']} on {row['data']}, search {row['repeat']}"
        cost = f"{row['trials']} trials, {clock(row['cost_s'] + row['final_cost_s'])}"
        if row["score"] is None:
            found = f"failed: {row['reason']}"
        else:
            chosen = f"{row['objective']} {number(row['validation'])}"
            found = f"{chosen} chosen, {row['metric']} {number(row['score'])}"
        left = self._forecast.left(self._work(), expected) if done < expected else None
        told = f", about {clock(left)} left" if left is not None else ""
        self._print(f"{where}: {found} ({cost}); {done} of {expected}{told}")


def share_of(name: str, conductor: Conductor) -> float:
    """How much of its repeat is done with the search, or the training of its choice, called `name`."""
    if name.endswith(".final"):
        return SEARCHED + (1 - SEARCHED) * min(1.0, done_of(conductor) / max(1, conductor.expected))
    whole = conductor.purse.share or done_of(conductor) / max(1, conductor.expected)
    return SEARCHED * min(1.0, whole)
