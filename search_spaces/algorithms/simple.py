"""Searches that do not learn: random sampling, the full factorial grid, a list."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fairsweep.search_spaces.algorithms.base import Job, Outcome
from fairsweep.search_spaces.algorithms.tried import Tried
from fairsweep.search_spaces.space import Space


class _Untold(ABC):
    """What asks without regard to what it is told."""

    untold = True  # so it may be asked ahead of what it will be told

    def __init__(self, tried: Tried) -> None:
        self.tried, self._next = tried, 0

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Nothing is left to ask."""

    @abstractmethod
    def _another(self) -> dict[str, Any]: ...

    def ask(self, n: int = 1) -> list[Job]:
        jobs: list[Job] = []
        while len(jobs) < n and not self.finished:
            jobs.append(Job(self._next, self._another()))
            self.adopt(jobs[-1])
        return jobs

    def adopt(self, job: Job) -> None:
        self._next = max(self._next, job.number + 1)
        self.tried.add(job.config)

    def tell(self, job: Job, outcome: Outcome) -> None:  # noqa: B027  # it asks the same whatever it is told
        pass


class RandomSearch(_Untold):
    """Independent draws from the space, none twice; draw number k depends on the seed, k and what was drawn before."""

    ends_with = "space"

    def __init__(self, space: Space, mode: str | Sequence[str], seed: int = 0, repeats: bool = False) -> None:
        super().__init__(Tried(space, repeats))
        self.seed = seed

    def _another(self) -> dict[str, Any]:
        return self.tried.another(np.random.default_rng([self.seed, self._next]))

    @property
    def finished(self) -> bool:
        return self.tried.all


class _Each(_Untold):
    """Every one of `configs` that was not tried before, in their order."""

    def __init__(self, space: Space, configs: Sequence[dict[str, Any]]) -> None:
        super().__init__(Tried(space))
        self._left = deque(configs)

    def _another(self) -> dict[str, Any]:
        return self._left.popleft()

    @property
    def finished(self) -> bool:
        while self._left and self._left[0] in self.tried:
            self._left.popleft()
        return not self._left


class GridSearch(_Each):
    """Every combination of `points` values a numeric parameter and all choices of a categorical one.

    Conditions are respected (Optuna's grid sampler has none), and the order is shuffled by the seed, so
    that a grid cut short is a fair sample of the whole.
    """

    ends_with = "grid"

    def __init__(self, space: Space, mode: str | Sequence[str], seed: int = 0, points: int = 3) -> None:
        if points < 1:
            raise ValueError(f"search.points={points}: must be at least 1")
        limit = 1_000_000
        size = space.grid_size(points)
        if size > limit:
            raise ValueError(
                f"search.points={points}: the grid has {size:,} configurations, more than {limit:,}; "
                "use fewer points or fix parameters with space.<name>=<value>"
            )
        grid = list(space.grid(points))
        super().__init__(space, [grid[k] for k in np.random.default_rng(seed).permutation(len(grid))])


class ListedSearch(_Each):
    """The given configurations, in their order, and no other; what is listed twice is run once."""

    ends_with = "list"

    def __init__(
        self,
        space: Space,
        mode: str | Sequence[str],
        seed: int = 0,
        configs: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        if not configs:
            raise ValueError("search.configs=[]: must list at least one configuration")
        super().__init__(space, [space.validate(config) for config in configs])
