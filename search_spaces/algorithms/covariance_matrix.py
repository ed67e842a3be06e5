"""CMA-ES over the numbers of a space, beside TPE for the rest, and under early stopping."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from cmaes import CMA, get_warm_start_mgd
from optuna.samplers import BaseSampler

from fairsweep.search_spaces.algorithms.optuna_bridge import OptunaSearch
from fairsweep.search_spaces.space import Space, SpaceError

SIGMA = 1 / 6  # of the first generation, as Optuna has it


class _Injectable(CMA):
    """CMA-ES that can be told of points that it has not drawn (Hansen, arXiv:1110.4181)."""

    def pulled_in(self, x: np.ndarray) -> np.ndarray:
        """`x`, moved towards the mean until it is no further off than what is drawn usually is."""
        axes, lengths = self._eigen_decomposition()
        distance = float(np.linalg.norm(axes.T @ (x - self._mean) / lengths)) / self._sigma
        usual = math.sqrt(self.dim) + 2 * self.dim / (self.dim + 2)
        return self._mean + (x - self._mean) * min(1.0, usual / max(distance, 1e-12))


class CmaEsSearch(OptunaSearch):
    """CMA-ES over the numbers that every configuration has, and TPE over categories and what is there only at times.

    A generation is made of any jobs that have a value and were in none before: its own, late ones of earlier
    generations, and others' (the paper's configuration, jobs of another sweep), which are pulled in. If there is a
    generation of others' before the first draw, they give the first distribution (Nomura et al., AAAI 2021). Jobs are
    ranked by the milestone that they have come to, the end being the highest, and by their value there. Which jobs a
    generation had, and in which order, is kept in the attributes of the first job that was drawn after it, so that
    what the search knows is a function of its jobs.
    """

    def __init__(self, space: Space, mode: str, seed: int = 0, repeats: bool = False) -> None:
        super().__init__(space, mode, seed, repeats=repeats)
        self.numbers = [
            name
            for name, p in space.parameters.items()
            if p.kind in ("float", "int") and not p.fixed and p.low != p.high and space.always(name)
        ]
        if not self.numbers:
            raise ValueError(
                "search=cmaes: no searched number is there in every configuration of the space; use tpe or gp"
            )
        dim = len(self.numbers)
        self.popsize = 4 + math.floor(3 * math.log(dim))

    # -- what the search knows --------------------------------------------------------------------------

    def _point(self, number: int) -> np.ndarray:
        """Job `number` in the unit cube; KeyError or SpaceError if it does not lie in it."""
        config = self._jobs[number].config
        return np.array([self.space.parameters[name].unit(config[name]) for name in self.numbers])

    def _inside_cube(self, number: int) -> bool:
        try:
            self._point(number)
        except (KeyError, SpaceError):
            return False
        return True

    def _rank(self, number: int) -> tuple[float, float] | None:
        """Sorts the jobs from the best on; None for one without a value."""
        outcome, sign = self._outcomes.get(number), 1.0 if self.mode == "min" else -1.0
        if outcome is None or not self._inside_cube(number):
            return None
        if outcome.reason == "complete" and outcome.value is not None:
            return -math.inf, sign * outcome.value
        if outcome.reason in ("pruned", "paused") and outcome.intermediate:
            step = max(outcome.intermediate)
            return -float(step), sign * outcome.intermediate[step]
        return None

    def _best_first(self, numbers: Sequence[int]) -> list[int]:
        ranks = {n: rank for n in numbers if (rank := self._rank(n)) is not None}
        return sorted(ranks, key=ranks.__getitem__)

    def _start(self, others: Sequence[int]) -> _Injectable:
        """The first distribution: that of the best of `others`, which are best first, or else a wide one."""
        dim = len(self.numbers)
        mean, sigma, cov = np.full(dim, 0.5), SIGMA, None
        if others:
            points = [(self._point(n), float(k)) for k, n in enumerate(others)]
            # The share of the paper; cmaes 0.13 asks for ten points or more with it.
            mean, sigma, cov = get_warm_start_mgd(points, gamma=max(0.1, 1.5 / len(points)))
        bounds = np.tile([0.0, 1.0], (dim, 1))
        return _Injectable(mean=mean, sigma=sigma, cov=cov, bounds=bounds, population_size=self.popsize)

    def _evolve(self, cma: _Injectable, generation: Sequence[int]) -> None:
        """Tells `cma` of a generation, best first."""
        told = []
        for k, number in enumerate(generation):
            x = self._point(number)
            own = self._jobs[number].attrs.get("cmaes", {}).get("generation") == cma.generation
            told.append((x if own else cma.pulled_in(x), float(k)))
        cma.tell(told)

    def distribution(self) -> tuple[_Injectable, dict[str, Any]]:
        """The distribution to draw from, and the attributes of what is drawn."""
        log = [a for n in sorted(self._jobs) if (a := self._jobs[n].attrs.get("cmaes"))]
        new: dict[str, Any] = {}
        if log:
            start = log[0].get("start", [])
        else:
            known = self._best_first(list(self._outcomes))
            start = known if len(known) >= self.popsize else []
            if start:
                new["start"] = start
        cma, used = self._start(start), set(start)
        for generation in (g for a in log for g in a.get("learnt", ())):
            self._evolve(cma, generation)
            used |= set(generation)
        while True:
            pool = [n for n in sorted(self._outcomes) if n not in used and self._rank(n) is not None]
            if len(pool) < self.popsize:
                break
            generation = self._best_first(pool[: self.popsize])
            self._evolve(cma, generation)
            used |= set(generation)
            new.setdefault("learnt", []).append(generation)
        return cma, {**new, "generation": cma.generation}

    # -- suggestions ------------------------------------------------------------------------------------

    def _sampler(self, seed: int) -> tuple[BaseSampler, dict[str, Any]]:
        cma, attrs = self.distribution()
        cma.reseed_rng(seed)
        drawn = {
            name: self.space.parameters[name].at_unit(u)
            for name, u in zip(self.numbers, cma.ask(), strict=True)
        }
        rest = super()._sampler(seed)[0]
        return optuna.samplers.PartialFixedSampler(drawn, rest), {"cmaes": attrs}
