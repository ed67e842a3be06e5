"""A front over one setting: a method that finds a network by training is run at each of its values, seed by seed.

Single-Path NAS is run over the weight of the runtime, OTO over the share of groups that go. What the runs find may
then be trained stand-alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from fairsweep.search_spaces.algorithms.base import Job, Outcome, ask_each
from fairsweep.search_spaces.architectures.jobs import FRONT, RETRAIN


class FrontSearch:
    """Jobs of phase `front` at each of `values`, each with `repeats` seeds; then jobs of phase `retrain`.

    dress: makes the whole configuration of a job out of what is said here. found: the architecture that a completed
    front job has found, as text, or None if it is not to be trained; the same for the same job whenever it is asked.
    alone: how often each of the different architectures found is trained stand-alone.
    """

    def __init__(
        self,
        values: Sequence[float],
        repeats: int = 3,
        alone: int = 0,
        dress: Callable[[dict[str, Any]], dict[str, Any]] = lambda config: config,
        found: Callable[[Job], str | None] = lambda job: None,
    ) -> None:
        if not values or len(set(values)) < len(values):
            raise ValueError(f"values={list(values)}: must be at least one number, and none twice")
        for name, number, low in (("repeats", repeats, 1), ("alone", alone, 0)):
            if number < low:
                raise ValueError(f"{name}={number}: must be at least {low}")
        self.values, self.repeats, self.alone = list(values), repeats, alone
        self.dress, self.found = dress, found
        self.jobs: dict[int, Job] = {}
        self.outcomes: dict[int, Outcome] = {}
        self._architectures: list[str] | None = None

    def ask(self, n: int = 1) -> list[Job]:
        return ask_each(self._next, self.jobs, n)

    def _next(self) -> Job | None:
        run = self._next_run()
        if run is not None:
            return self._job(FRONT, *run)
        if not self._all_run:
            return None
        for text in self.architectures:
            made = sum(1 for job in self.of(RETRAIN) if job.config["architecture"] == text)
            if made < self.alone:
                return self._job(RETRAIN, None, made, text)
        return None

    def _next_run(self) -> tuple[float, int] | None:
        """The value and the repetition of the next run; None if none is to begin now."""
        for value in self.values:
            made = sum(1 for job in self.of(FRONT) if job.config["value"] == value)
            if made < self.repeats:
                return value, made
        return None

    def _job(self, phase: str, value: float | None, repeat: int, architecture: str = "") -> Job:
        config = {
            "phase": phase, "architecture": architecture, "paths": "", "repeat": repeat, "value": value,
        }  # fmt: skip
        return Job(max(self.jobs, default=-1) + 1, self.dress(config))

    def adopt(self, job: Job) -> None:
        self.jobs[job.number] = job

    def tell(self, job: Job, outcome: Outcome) -> None:
        if job.number not in self.jobs:
            raise KeyError(f"job {job.number} was neither asked nor adopted")
        self.outcomes[job.number] = outcome
        self._architectures = None

    def of(self, phase: str) -> list[Job]:
        """The jobs of a phase, in their order."""
        return [self.jobs[k] for k in sorted(self.jobs) if self.jobs[k].config["phase"] == phase]

    def _done(self, phase: str) -> bool:
        return all(job.number in self.outcomes for job in self.of(phase))

    @property
    def runs(self) -> int:
        """How many runs there are, as far as is known."""
        return len(self.values) * self.repeats

    @property
    def _all_run(self) -> bool:
        return len(self.of(FRONT)) >= self.runs and self._done(FRONT)

    def _to_train(self) -> list[Job]:
        """The runs that found what is to be trained alone."""
        return [j for j in self.of(FRONT) if self._reason(j) == "complete"]

    @property
    def architectures(self) -> list[str]:
        """The different architectures that are to be trained alone, in the order of the runs that found them."""
        if self._architectures is None:
            texts = [self.found(job) for job in self._to_train()] if self.alone else []
            self._architectures = list(dict.fromkeys(text for text in texts if text))
        return self._architectures

    def _reason(self, job: Job) -> str:
        outcome = self.outcomes.get(job.number)
        return outcome.reason if outcome is not None else ""

    @property
    def finished(self) -> bool:
        if not self._all_run:
            return False
        made = Counter(job.config["architecture"] for job in self.of(RETRAIN))
        return all(made[text] >= self.alone for text in self.architectures)

    @property
    def expected(self) -> int:
        """Number of jobs; until it is known what the runs find, as if each found another architecture."""
        return self.runs + self.alone * (len(self.architectures) if self._all_run else self.runs)

    @property
    def phase(self) -> str:
        """The phase that runs now, for a reader."""
        return RETRAIN if self._all_run else FRONT
