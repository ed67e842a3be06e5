"""A search to a budget: a method that trades accuracy for cost by a weight is run until what it finds costs that much.

Single-Path NAS finds cheaper networks the larger lambda is, by and large: seeds and training are noise, and the cost
goes in steps. So lambda is bisected on a logarithmic scale, a whole search at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp, log
from typing import Any

from fairsweep.search_spaces.algorithms.base import Job
from fairsweep.search_spaces.algorithms.front_search import FrontSearch
from fairsweep.search_spaces.architectures.jobs import FRONT

SEARCHES = 6  # at most
TOLERANCE = 0.05  # of the budget: what is as near is found


def _value(logarithm: float) -> float:
    return float(f"{exp(logarithm):.6g}")


def deviation(cost: float, target: float) -> float:
    """(cost - target) / target."""
    return cost / target - 1


class BudgetSearch(FrontSearch):
    """Jobs of phase `front` one after the other, until one finds what costs `target` within `TOLERANCE`, or there were
    `SEARCHES` of them; then jobs of phase `retrain` of the one that is nearest.

    low, high: of the weight; costs fall from the first to the second. cost: of what a completed job has found, None if
    that is not known any more; the same for the same job whenever it is asked. kept: whether that keeps what limits
    there are otherwise; what does not is too dear like what costs more, and is never found. Others: see `FrontSearch`.
    """

    def __init__(
        self,
        target: float,
        low: float,
        high: float,
        cost: Callable[[Job], float | None],
        alone: int = 0,
        dress: Callable[[dict[str, Any]], dict[str, Any]] = lambda config: config,
        found: Callable[[Job], str | None] = lambda job: None,
        kept: Callable[[Job], bool] = lambda job: True,
    ) -> None:
        if not 0 < low < high:
            raise ValueError(f"low={low}, high={high}: must be positive, the second above the first")
        if not target > 0:
            raise ValueError(f"target={target}: must be positive")
        super().__init__([(low * high) ** 0.5], 1, alone, dress, found)
        self.target, self.low, self.high, self.cost, self.kept = target, low, high, cost, kept

    def _known(self) -> list[tuple[Job, float | None]]:
        """The jobs that have ended and what they found costs; None if they failed."""
        ended = [job for job in self.of(FRONT) if job.number in self.outcomes]
        return [(job, self.cost(job) if self._reason(job) == "complete" else None) for job in ended]

    @property
    def nearest(self) -> Job | None:
        """The job that found what is nearest to the target, within the limits; the earlier one of equals."""
        known = [
            (abs(deviation(cost, self.target)), job)
            for job, cost in self._known()
            if cost is not None and self.kept(job)
        ]
        return min(known, key=lambda pair: (pair[0], pair[1].number))[1] if known else None

    @property
    def hit(self) -> bool:
        """Whether a job found what is near enough."""
        nearest = self.nearest
        cost = None if nearest is None else self.cost(nearest)
        return cost is not None and abs(deviation(cost, self.target)) <= TOLERANCE

    @property
    def runs(self) -> int:
        return len(self.of(FRONT)) if self.hit else SEARCHES

    def _next_run(self) -> tuple[float, int] | None:
        if len(self.of(FRONT)) >= self.runs or not self._done(FRONT):
            return None
        low, high = log(self.low), log(self.high)
        failed = set()
        for job, cost in self._known():
            value = log(job.config["value"])
            if cost is None:
                failed.add(job.config["value"])
            elif cost > self.target or not self.kept(job):
                low = max(low, value)
            else:
                high = min(high, value)
        middle = (low + high) / 2
        while _value(middle) in failed:  # a search that failed once may fail again
            middle = (low + middle) / 2
        return _value(middle), 0

    @property
    def expected(self) -> int:
        """Number of jobs; until it is known what is found, as if it took all searches."""
        return self.runs + self.alone * (len(self.architectures) if self._all_run else 1)

    def _to_train(self) -> list[Job]:
        return [] if self.nearest is None else [self.nearest]
