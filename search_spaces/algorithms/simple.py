"""Searches that do not learn: random sampling, the full factorial grid, a list."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from search_spaces.algorithms.base import Job, Outcome
from search_spaces.space import Space


class RandomSearch:
    """Independent draws from the space; draw number k depends on the seed and k alone."""

    def __init__(self, space: Space, mode: str, seed: int = 0) -> None:
        self.space, self.seed, self._next = space, seed, 0

    def ask(self, n: int = 1) -> list[Job]:
        jobs = []
        for _ in range(n):
            config = self.space.sample(np.random.default_rng([self.seed, self._next]))
            jobs.append(Job(self._next, config))
            self._next += 1
        return jobs

    def adopt(self, job: Job) -> None:
        self._next = max(self._next, job.number + 1)

    def tell(self, job: Job, outcome: Outcome) -> None:
        pass

    @property
    def finished(self) -> bool:
        return False


class GridSearch:
    """Every combination of `points` values a numeric parameter and all choices of a categorical one.

    Conditions are respected (Optuna's grid sampler has none), and the order is shuffled by the seed, so
    that a grid cut short is a fair sample of the whole. Configurations adopted from elsewhere do not
    count against the grid.
    """

    def __init__(self, space: Space, mode: str, seed: int = 0, points: int = 3) -> None:
        if points < 1:
            raise ValueError(f"search.points={points}: must be at least 1")
        limit = 1_000_000
        size = space.grid_size(points)
        if size > limit:
            raise ValueError(
                f"search.points={points}: the grid has {size:,} configurations, more than {limit:,}; "
                "use fewer points or fix parameters with space.<name>=<value>"
            )
        self.space, self._next = space, 0
        self._grid: list[dict[str, Any]] = list(space.grid(points))
        self._order: Iterator[int] = iter(np.random.default_rng(seed).permutation(len(self._grid)).tolist())
        self._left = len(self._grid)

    def ask(self, n: int = 1) -> list[Job]:
        jobs = []
        for _ in range(min(n, self._left)):
            jobs.append(Job(self._next, self._grid[next(self._order)], {"grid": True}))
            self._next += 1
            self._left -= 1
        return jobs

    def adopt(self, job: Job) -> None:
        if job.attrs.get("grid"):
            next(self._order)
            self._left -= 1
        self._next = max(self._next, job.number + 1)

    def tell(self, job: Job, outcome: Outcome) -> None:
        pass

    @property
    def finished(self) -> bool:
        return self._left == 0


class ListedSearch:
    """The given configurations, in their order, and no other."""

    def __init__(
        self, space: Space, mode: str, seed: int = 0, configs: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        if not configs:
            raise ValueError("search.configs=[]: must list at least one configuration")
        self._configs = [space.validate(config) for config in configs]
        self._next = 0

    def ask(self, n: int = 1) -> list[Job]:
        first, self._next = self._next, min(self._next + n, len(self._configs))
        return [Job(number, self._configs[number]) for number in range(first, self._next)]

    def adopt(self, job: Job) -> None:
        self._next = max(self._next, job.number + 1)

    def tell(self, job: Job, outcome: Outcome) -> None:
        pass

    @property
    def finished(self) -> bool:
        return self._next >= len(self._configs)
