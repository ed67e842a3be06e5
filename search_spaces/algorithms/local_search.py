"""Local search (White, Nolen and Savani, UAI 2021): hill climbing over neighbours, begun anew at every optimum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from fairsweep.search_spaces.algorithms.architecture_search import ArchitectureSearch, Unique, at_least
from fairsweep.search_spaces.algorithms.constraints import Costs
from fairsweep.search_spaces.architectures.base import Architecture, ArchitectureSpace


class LocalSearch(ArchitectureSearch):
    """A run draws `initial` architectures and climbs from the best one; neighbours known already are not evaluated
    again, but are climbed to.

    While the neighbours that would decide a step are still being evaluated, more are asked: around the next best
    architecture of the run, or at random.

    initial: draws at the beginning of a run (10 in the authors' code).
    step: `first` moves as soon as a neighbour is better, `best` to the best one after all neighbours are known.
    at_optimum: `restart` begins a new run, `continue` goes on around the best architecture whose neighbours are not
        all known (the paper's "continue at min").
    """

    def __init__(
        self, space: ArchitectureSpace, mode: str, seed: int = 0, *,
        costs: Costs | None = None, constraints: Mapping[str, Any] | None = None, unique: Unique = "network",
        initial: int = 10, step: Literal["first", "best"] = "first",
        at_optimum: Literal["restart", "continue"] = "continue",
    ) -> None:  # fmt: skip
        if unique == "none":
            raise ValueError(
                "unique=none: local search evaluates no architecture twice; use network or encoding"
            )
        super().__init__(space, mode, seed, costs=costs, constraints=constraints, unique=unique)
        at_least("initial", initial, 1)
        if step not in ("first", "best"):
            raise ValueError(f"step={step!r}: must be first or best")
        if at_optimum not in ("restart", "continue"):
            raise ValueError(f"at_optimum={at_optimum!r}: must be restart or continue")
        self.initial, self.step, self.at_optimum = initial, step, at_optimum
        self._near: dict[Architecture, list[Architecture]] = {}

    def propose(self, number: int, rng: np.random.Generator) -> tuple[Architecture, dict[str, Any]]:
        run = max(map(self._run, self.jobs), default=0)
        members = [k for k in sorted(self.jobs) if self._run(k) == run]
        known = [k for k in members if k in self.gains]
        if len(members) < self.initial or not known:
            return self.draw(rng), {"run": run}
        centre, open_ = self._climb(members[: self.initial], known)
        if open_:
            return self._one(open_, rng), {"run": run, "parent": centre}
        undecided = any(k not in self.ended for k in self._around(centre))
        if self.at_optimum == "restart" and not undecided:
            return self.draw(rng), {"run": run + 1}
        among = self.gains if self.at_optimum == "continue" else known
        for k in sorted(among, key=lambda k: (-self.gains[k], k)):
            open_ = self._unseen(k)
            if open_:
                return self._one(open_, rng), {"run": run, "parent": k}
        return self.draw(rng), {"run": run}

    def _climb(self, initial: list[int], known: list[int]) -> tuple[int, list[Architecture]]:
        """Where the run stands: the number of the centre, and those of its neighbours that are still to be proposed."""
        if self.step == "first":
            centre = max(known, key=lambda k: (self.gains[k], -k))
        else:
            start = [k for k in initial if k in self.gains] or known
            centre = max(start, key=lambda k: (self.gains[k], -k))
        while True:
            open_ = self._unseen(centre)
            around = self._around(centre)
            if self.step == "best" and (open_ or any(k not in self.ended for k in around)):
                return centre, open_
            best = max(
                (k for k in around if k in self.gains), key=lambda k: (self.gains[k], -k), default=centre
            )
            if self.gains[best] <= self.gains[centre]:
                return centre, open_
            centre = best

    def _around(self, number: int) -> list[int]:
        """Jobs of the neighbours that have been proposed."""
        near = map(self.identity, self._neighbours(self.architectures[number]))
        return [self.numbers[a] for a in near if a in self.numbers]

    def _unseen(self, number: int) -> list[Architecture]:
        return [a for a in self._neighbours(self.architectures[number]) if not self.is_seen(a)]

    def _neighbours(self, architecture: Architecture) -> list[Architecture]:
        """All neighbours within the limits."""
        if architecture not in self._near:
            self._near[architecture] = [
                a for a in self.space.neighbours(architecture) if self.budget.keeps(a)
            ]
        return self._near[architecture]

    @staticmethod
    def _one(among: list[Architecture], rng: np.random.Generator) -> Architecture:
        return among[int(rng.integers(len(among)))]

    def _run(self, number: int) -> int:
        return int(self.jobs[number].attrs.get("run", 0))
