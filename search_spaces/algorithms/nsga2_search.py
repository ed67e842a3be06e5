"""NSGA-II over hyperparameters, for several objectives: Optuna's sampler, whose generations survive a replay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import optuna
from optuna.samplers import NSGAIISampler
from optuna.trial import FrozenTrial

from fairsweep.search_spaces.algorithms.base import Job, Outcome
from fairsweep.search_spaces.algorithms.optuna_bridge import OptunaSearch
from fairsweep.search_spaces.space import Space

PARENTS = "parents"  # in a job's attributes: generation -> the jobs that it descends from
_GENERATION = NSGAIISampler._get_generation_key()
_CACHE = NSGAIISampler._get_parent_cache_key_prefix()


class NSGA2Search(OptunaSearch):
    """NSGA-II (Deb et al., IEEE Transactions on Evolutionary Computation 2002) in generations of `population`.

    Optuna chooses the parents of a generation when its first member is asked for, out of what was complete by then, and
    keeps that choice in the study. Here the job of that member keeps it, so that a search that is taken up again
    descends from the same parents. Configurations of others, the paper's own too, belong to the generation of their
    time.
    """

    def __init__(
        self,
        space: Space,
        mode: str | Sequence[str],
        seed: int = 0,
        population: int = 20,
        repeats: bool = False,
    ) -> None:
        if population < 2:
            raise ValueError(f"search.population={population}: must be at least 2")
        super().__init__(
            space, mode, seed, lambda s: NSGAIISampler(population_size=population, seed=s), repeats
        )
        self._job_of: dict[int, int] = {}  # trial of the study -> job
        self._known: set[str] = set()  # the generations whose parents a job keeps

    def _ask(self) -> Job | None:
        job = super()._ask()
        if job is None or self._study is None:
            return job
        if job.number in self._live:
            self._job_of[self._live[job.number].number] = job.number
        chosen = {
            key.removeprefix(_CACHE): [self._job_of[trial] for trial in trials if trial in self._job_of]
            for key, trials in self._study._storage.get_study_system_attrs(self._study._study_id).items()
            if key.startswith(_CACHE) and key.removeprefix(_CACHE) not in self._known
        }
        self._known |= set(chosen)
        return replace(job, attrs={**job.attrs, PARENTS: chosen}) if chosen else job

    def adopt(self, job: Job) -> None:
        super().adopt(job)
        if self._study is not None:
            self._job_of[self._place[job.number]] = job.number

    @property
    def study(self) -> optuna.Study:
        if self._study is not None:
            return self._study
        study = super().study
        numbers = sorted(self._jobs)
        self._job_of = dict(enumerate(numbers))
        trial_of = {number: trial for trial, number in self._job_of.items()}
        self._known = set()
        for number in numbers:
            for generation, parents in self._jobs[number].attrs.get(PARENTS, {}).items():
                self._known.add(generation)
                trials = [trial_of[parent] for parent in parents if parent in trial_of]
                study._storage.set_study_system_attr(study._study_id, f"{_CACHE}{generation}", trials)
        return study

    def _frozen(self, job: Job, outcome: Outcome | None) -> FrozenTrial:
        frozen = super()._frozen(job, outcome)
        if _GENERATION not in frozen.system_attrs:
            frozen.system_attrs[_GENERATION] = self._generation(job.number)
        return frozen

    def _generation(self, number: int) -> int:
        """That of the last job before `number` of which the sampler said one."""
        for earlier in range(number - 1, -1, -1):
            attrs: dict[str, Any] = (
                self._jobs[earlier].attrs.get("optuna", {}) if earlier in self._jobs else {}
            )
            if _GENERATION in attrs:
                return int(attrs[_GENERATION])
        return 0
