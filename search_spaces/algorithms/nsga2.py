"""NSGA-II (Deb, Pratap, Agarwal and Meyarivan, IEEE Transactions on Evolutionary Computation 2002) over the objective
and the costs of architectures.

Optuna's NSGAIISampler is not used: costs are known before an architecture is evaluated, and its constraints are looked
at only afterwards; its tournament leaves out the crowding distance; and under parallel evaluation it keeps its parents
in the study alone, where a replay of the trials does not find them again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

import numpy as np

from fairsweep.search_spaces.algorithms.architecture_search import ArchitectureSearch, Unique, at_least
from fairsweep.search_spaces.algorithms.constraints import DRAWS, Costs
from fairsweep.search_spaces.architectures.base import Architecture, ArchitectureSpace


def fronts(points: np.ndarray) -> list[np.ndarray]:
    """Fast non-dominated sorting (section III-A): row indices of each front of (n, objectives), all minimised."""
    better = np.all(points[:, None] <= points[None], axis=2) & np.any(points[:, None] < points[None], axis=2)
    dominators = better.sum(0)
    found, left = [], np.arange(len(points))
    while len(left):
        front = left[dominators[left] == 0]
        found.append(front)
        left = left[dominators[left] > 0]
        dominators = dominators - better[front].sum(0)
    return found


def crowding(points: np.ndarray) -> np.ndarray:
    """Crowding distance (section III-B) of each of (n, objectives): infinite at the ends of every objective."""
    distance = np.zeros(len(points))
    for values in points.T:
        order = np.argsort(values, kind="stable")
        span = values[order[-1]] - values[order[0]]
        if span > 0:
            distance[order[[0, -1]]] = inf
            distance[order[1:-1]] += (values[order[2:]] - values[order[:-2]]) / span
    return distance


class NSGA2(ArchitectureSearch):
    """Generations of `population` completed jobs; the next parents are the best of parents and children together, by
    front and within the last one by crowding distance.

    Until a generation has its completed jobs, more children of the same parents are asked, so that failures are made
    good for and nothing waits. What comes in late is considered at the next selection.

    objectives: names of the costs to minimise beside the objective; by default all that `costs` gives.
    population: N; even in the paper, any number here.
    crossover: probability of crossover, else the child begins as a copy (0.9 in the paper).
    mutation: probability for each choice to take another option; by default one over the number of choices.
    """

    def __init__(
        self, space: ArchitectureSpace, mode: str, seed: int = 0, *,
        costs: Costs | None = None, constraints: Mapping[str, Any] | None = None, unique: Unique = "network",
        objectives: Sequence[str] | None = None, population: int = 20, crossover: float = 0.9,
        mutation: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(space, mode, seed, costs=costs, constraints=constraints, unique=unique)
        at_least("population", population, 2)
        for name, value in (("crossover", crossover), ("mutation", mutation or 0.0)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value}: must be a probability, 0 to 1")
        if objectives and costs is None:
            raise ValueError(f"objectives={list(objectives)}: costs=None: nothing measures them")
        self.objectives, self.population, self.crossover = objectives, population, crossover
        self.mutation = 1 / max(len(space.choices), 1) if mutation is None else mutation

    # -- the objectives -------------------------------------------------------------------------------

    def point(self, number: int) -> tuple[float, ...]:
        """What a completed job is judged by, all to be minimised: its objective first, then its costs."""
        costs = self.budget.costs(self.architectures[number])
        names = costs if self.objectives is None else self.objectives
        unknown = [name for name in names if name not in costs]
        if unknown:
            raise ValueError(f"objectives={unknown}: costs has only {', '.join(costs)}")
        return (-self.gains[number], *(costs[name] for name in names))

    @property
    def front(self) -> list[int]:
        """Numbers of the completed jobs that no other one dominates, the best objective first."""
        numbers = sorted(self.gains)
        if not numbers:
            return []
        first = fronts(np.array([self.point(k) for k in numbers]))[0]
        return sorted((numbers[k] for k in first), key=self.point)

    def select(self, numbers: Sequence[int]) -> list[int]:
        """The `population` best of these completed jobs, in the order of the crowded comparison (section III-C)."""
        points = np.array([self.point(k) for k in numbers])
        chosen: list[int] = []
        for front in fronts(points):
            order = front[np.argsort(-crowding(points[front]), kind="stable")]
            chosen += [numbers[k] for k in order]
            if len(chosen) >= self.population:
                break
        return chosen[: self.population]

    # -- generations ----------------------------------------------------------------------------------

    def propose(self, number: int, rng: np.random.Generator) -> tuple[Architecture, dict[str, Any]]:
        generation = max(map(self._generation, self.jobs), default=0)
        members = [k for k in sorted(self.jobs) if self._generation(k) == generation]
        if sum(k in self.gains for k in members) < self.population:
            attrs: dict[str, Any] = {"generation": generation}
            parents: list[int] = self._opening(members).get("parents", [])
        else:
            parents = self.select(self._candidates(members))
            late = [k for k in self.pending if k not in self.gains]
            attrs = {"generation": generation + 1, "parents": parents, "late": late}
        parents = [k for k in parents if k in self.gains]  # a log cut short may lack some
        if len(parents) >= 2:
            for _ in range(DRAWS):
                child, mother = self._child(parents, rng)
                if self.admissible(child):
                    return child, {**attrs, "parent": mother}
        return self.draw(rng), attrs

    def _candidates(self, members: Sequence[int]) -> list[int]:
        opening = self._opening(members)
        numbers = {*opening.get("parents", ()), *opening.get("late", ()), *members}
        return [k for k in sorted(numbers) if k in self.gains]

    def _opening(self, members: Sequence[int]) -> Mapping[str, Any]:
        """Attributes of the job that opened the generation of these jobs; none in the first."""
        return next((self.jobs[k].attrs for k in members if "parents" in self.jobs[k].attrs), {})

    def _generation(self, number: int) -> int:
        return int(self.jobs[number].attrs.get("generation", 0))

    def _child(self, parents: Sequence[int], rng: np.random.Generator) -> tuple[Architecture, int]:
        """A child and its first parent. `parents` stand in the order of the crowded comparison, so that the earlier of
        two wins the binary tournament; it may be infeasible or known."""
        mother, father = (parents[min(rng.integers(len(parents), size=2))] for _ in range(2))
        child = self.architectures[mother]
        if rng.random() < self.crossover:
            child = self.space.crossover(child, self.architectures[father], rng)
        indices = list(child.indices)
        for k, choice in enumerate(self.space.choices):
            if len(choice.options) > 1 and rng.random() < self.mutation:
                indices[k] = (indices[k] + int(rng.integers(1, len(choice.options)))) % len(choice.options)
        return self.space.architecture(indices), mother
