"""Regularised (ageing) evolution (Real et al., AAAI 2019, algorithm 1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fairsweep.search_spaces.algorithms.architecture_search import ArchitectureSearch, Unique, at_least
from fairsweep.search_spaces.algorithms.constraints import DRAWS, Costs
from fairsweep.search_spaces.architectures.base import Architecture, ArchitectureSpace


class Evolution(ArchitectureSearch):
    """The best of a random sample of the population has a child by one mutation; the oldest member goes.

    The population is the youngest completed jobs, by their numbers: a job that ends late takes the place of its age.

    population: members, P in the paper (100 there; 20 suits budgets of some hundred evaluations).
    sample: size of the tournament, drawn with replacement, S in the paper (25 there).
    """

    def __init__(
        self, space: ArchitectureSpace, mode: str, seed: int = 0, *,
        costs: Costs | None = None, constraints: Mapping[str, Any] | None = None, unique: Unique = "network",
        population: int = 20, sample: int = 5,
    ) -> None:  # fmt: skip
        super().__init__(space, mode, seed, costs=costs, constraints=constraints, unique=unique)
        at_least("population", population, 1)
        at_least("sample", sample, 1)
        self.population, self.sample = population, sample

    @property
    def members(self) -> list[int]:
        """Numbers of the jobs in the population, the oldest first."""
        return sorted(self.gains)[-self.population :]

    def propose(self, number: int, rng: np.random.Generator) -> tuple[Architecture, dict[str, Any]]:
        members = self.members
        if len(self.jobs) < self.population or not members:
            return self.draw(rng), {}
        for _ in range(DRAWS):
            tournament = [members[k] for k in rng.integers(len(members), size=self.sample)]
            parent = max(tournament, key=self.gains.__getitem__)
            child = self.space.mutate(self.architectures[parent], rng)
            if self.admissible(child):
                return child, {"parent": parent}
        return self.draw(rng), {}
