"""What the searches over architectures share: who was proposed, how it came out, and what may be proposed next.

The state is the set of jobs and the last word on each: neither the order of the outcomes nor when they came counts.
Whatever else a proposal depends on stands in `Job.attrs`. So a replay of the log, in any order, gives the same next
suggestion; draws of job k depend on the seed and k.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from math import isfinite
from typing import Any, Literal, get_args

import numpy as np

from fairsweep.search_spaces.algorithms.base import Job, Outcome
from fairsweep.search_spaces.algorithms.constraints import DRAWS, Budget, Costs
from fairsweep.search_spaces.architectures.base import Architecture, ArchitectureSpace

WALK = 50  # steps from an inadmissible architecture in search of an admissible one


Unique = Literal["network", "encoding", "none"]


class Exhausted(Exception):
    """Nothing is left to propose."""


class ArchitectureSearch(ABC):
    """A search over the architectures of a space; `Job.config` maps the name of each choice to its option.

    mode: min or max, the direction of the objective.
    costs: what an architecture costs, by name, known without evaluating it.
    constraints: limits on the costs (see `constraints.read_limits`); only architectures within them are proposed.
    unique: what is not proposed twice, whatever became of it before: a `network`, not even in another encoding that
        computes the same; an `encoding` (a table has values of its own for each); or `none`, anything may be. The
        search is finished once nothing is left.
    """

    def __init__(
        self, space: ArchitectureSpace, mode: str, seed: int = 0, *,
        costs: Costs | None = None, constraints: Mapping[str, Any] | None = None, unique: Unique = "network",
    ) -> None:  # fmt: skip
        if mode not in ("min", "max"):
            raise ValueError(f"mode={mode!r}: must be min or max")
        if unique not in get_args(Unique):
            raise ValueError(f"unique={unique!r}: must be one of {', '.join(get_args(Unique))}")
        if seed < 0:
            raise ValueError(f"seed={seed}: must not be negative")
        self.space, self.mode, self.seed, self.unique = space, mode, seed, unique
        self.budget = Budget(space, costs, constraints)
        self.jobs: dict[int, Job] = {}
        self.architectures: dict[int, Architecture] = {}
        self.gains: dict[int, float] = {}  # of completed jobs: the objective, turned so that more is better
        self.ended: set[int] = set()
        self.numbers: dict[Architecture, int] = {}  # by `identity`: the latest job
        self._exhausted = False

    @abstractmethod
    def propose(self, number: int, rng: np.random.Generator) -> tuple[Architecture, dict[str, Any]]:
        """The architecture of job `number`, and what a replay must know of it. Exhausted if none is left."""

    # -- the protocol ---------------------------------------------------------------------------------

    def ask(self, n: int = 1) -> list[Job]:
        jobs: list[Job] = []
        while len(jobs) < n and not self._exhausted:
            number = max(self.jobs, default=-1) + 1
            try:
                architecture, attrs = self.propose(number, np.random.default_rng([self.seed, number]))
            except Exhausted:
                self._exhausted = True
                break
            jobs.append(Job(number, self.space.options(architecture), attrs))
            self._enter(jobs[-1], architecture)
        return jobs

    def adopt(self, job: Job) -> None:
        """ArchitectureError if the job's configuration is not a valid one of this space."""
        self._enter(job, self.space.check(self.space.from_options(job.config)))

    def _enter(self, job: Job, architecture: Architecture) -> None:
        again = job.number in self.jobs
        self.jobs[job.number], self.architectures[job.number] = job, architecture
        entered = sorted(self.architectures) if again else [job.number]
        if again:
            self.numbers.clear()
        for number in entered:
            self.numbers[self.identity(self.architectures[number])] = number

    def tell(self, job: Job, outcome: Outcome) -> None:
        """Only the value of a complete job counts, and once complete, only another complete outcome changes it.

        What breaks the limits, as a job that was adopted may, is never the best, a parent or a lesson.
        """
        if job.number not in self.jobs:
            raise KeyError(f"job {job.number} was neither asked nor adopted")
        known = outcome.reason == "complete" and outcome.value is not None and isfinite(outcome.value)
        if known and self.budget.keeps(self.architectures[job.number]):
            assert outcome.value is not None
            self.gains[job.number] = outcome.value if self.mode == "max" else -outcome.value
        if outcome.reason != "paused":
            self.ended.add(job.number)

    @property
    def finished(self) -> bool:
        return self._exhausted

    # -- for the methods ------------------------------------------------------------------------------

    @property
    def pending(self) -> list[int]:
        """Jobs whose outcome is not known yet."""
        return [number for number in sorted(self.jobs) if number not in self.ended]

    @property
    def best(self) -> tuple[Architecture, float] | None:
        """The best architecture evaluated and its objective; the earlier one of equals."""
        if not self.gains:
            return None
        number = max(self.gains, key=lambda k: (self.gains[k], -k))
        return self.architectures[number], self.gains[number] if self.mode == "max" else -self.gains[number]

    def identity(self, architecture: Architecture) -> Architecture:
        """Equal for (valid) architectures that `unique` does not tell apart."""
        return self.space.canonical(architecture) if self.unique == "network" else architecture

    def is_seen(self, architecture: Architecture) -> bool:
        """Whether the architecture, or one that `unique` does not tell from it, has been proposed or adopted."""
        return self.identity(architecture) in self.numbers

    def admissible(self, architecture: Architecture) -> bool:
        """Whether the architecture may be proposed: valid, within the limits and, as `unique` wants it, new."""
        return (
            self.space.is_valid(architecture)
            and not (self.unique != "none" and self.is_seen(architecture))
            and self.budget.keeps(architecture)
        )

    def draw(self, rng: np.random.Generator) -> Architecture:
        """A random admissible architecture, uniform as long as `Budget.draw` is. Exhausted if none is found."""
        architecture = self.budget.draw(rng)
        for _ in range(DRAWS):
            if self.admissible(architecture):
                return architecture
            architecture = self.budget.draw(rng)
        if self.budget.members is not None:
            left = [a for a in self.budget.members if not self.is_seen(a)]
            if left:
                return left[int(rng.integers(len(left)))]
            raise Exhausted
        found = self.near(architecture, rng)
        if found is None:
            raise Exhausted
        return found

    def near(self, architecture: Architecture, rng: np.random.Generator) -> Architecture | None:
        """An admissible architecture found by a random walk from this one, itself admissible or not, that begins by
        descending to the limits; None if there is none within `WALK` steps."""
        architecture = self.budget.descend(architecture, rng)
        for _ in range(WALK):
            if self.admissible(architecture):
                return architecture
            around = list(self.space.neighbours(architecture))
            found = [a for a in around if self.admissible(a)]
            within = found or [a for a in around if self.budget.keeps(a)] or around
            if not within:
                return None
            architecture = within[int(rng.integers(len(within)))]
        return None


def at_least(name: str, value: float, minimum: float) -> None:
    """ValueError unless value >= minimum."""
    if not value >= minimum:
        raise ValueError(f"{name}={value}: must be at least {minimum}")
