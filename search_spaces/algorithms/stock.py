"""Searches over hyperparameters put to work on architectures: the choices are categorical parameters to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fairsweep.search_spaces.algorithms.architecture_search import ArchitectureSearch, Exhausted, Unique
from fairsweep.search_spaces.algorithms.base import Algorithm, Job, Outcome
from fairsweep.search_spaces.algorithms.constraints import Costs
from fairsweep.search_spaces.architectures.base import Architecture, ArchitectureSpace


class StockSearch(ArchitectureSearch):
    """Any search over `space.to_space()`, with what architectures need beside: validity, limits, no duplicates.

    A suggestion that is inadmissible is told to the search as failed. With `repair` an admissible one near it is
    evaluated in its place, and the search learns from it as from anybody's job; else the search is asked again. Jobs
    carry what was refused, for the replay.

    make: a fresh search, over `space.to_space()`.
    repair: false suits a search that ends (a grid, a list), of which nothing should be evaluated but its own.
    """

    def __init__(
        self, space: ArchitectureSpace, mode: str, seed: int = 0, *, make: Callable[[], Algorithm],
        costs: Costs | None = None, constraints: Mapping[str, Any] | None = None, unique: Unique = "network",
        repair: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(space, mode, seed, costs=costs, constraints=constraints, unique=unique)
        self.repair, self._inner = repair, make()
        self._inner_jobs: dict[int, Job] = {}
        self._next = 0  # number of the inner search's next job

    def propose(self, number: int, rng: np.random.Generator) -> tuple[Architecture, dict[str, Any]]:
        refused: list[dict[str, Any]] = []
        while asked := self._inner.ask(1):
            job, architecture = asked[0], self.space.from_options(asked[0].config)
            self._next = job.number + 1
            if self.admissible(architecture):
                self._inner_jobs[number] = job
                return architecture, {"refused": refused, "inner": [job.number, dict(job.attrs)]}
            refused.append({"inner": [job.number, dict(job.attrs)], "config": dict(job.config)})
            self._inner.tell(job, Outcome(None, 0, "failed"))
            if self.repair:
                near = self.near(architecture, rng) or self.draw(rng)
                self._take(Job(number, self.space.options(near)), [self._next, {}])
                return near, {"refused": refused, "inner": [self._next - 1, {}]}
        raise Exhausted

    def adopt(self, job: Job) -> None:
        super().adopt(job)
        if job.number in self._inner_jobs:
            return
        for refused in job.attrs.get("refused", ()):
            number, attrs = refused["inner"]
            other = Job(number, refused["config"], attrs)
            self._inner.adopt(other)
            self._inner.tell(other, Outcome(None, 0, "failed"))
        self._take(job, job.attrs.get("inner", [self._next, {}]))

    def _take(self, job: Job, inner: Sequence[Any]) -> None:
        """Has the inner search adopt a job under the number and with the attributes `inner`."""
        self._inner_jobs[job.number] = Job(inner[0], job.config, inner[1])
        self._inner.adopt(self._inner_jobs[job.number])
        self._next = max(self._next, inner[0] + 1)

    def tell(self, job: Job, outcome: Outcome) -> None:
        super().tell(job, outcome)
        self._inner.tell(self._inner_jobs[job.number], outcome)

    @property
    def finished(self) -> bool:
        return self._exhausted or self._inner.finished
