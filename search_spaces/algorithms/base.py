"""The ask/tell protocol between a search algorithm and whoever runs its jobs.

Every `tell` carries value, step and reason, so that an algorithm is never led to take the first-epoch
value of a stopped trial for the result of a finished one. An algorithm's state is a function of its
seed and of the jobs and outcomes that it has seen: replaying them into a fresh algorithm gives the same
next suggestion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

Reason = Literal["complete", "pruned", "paused", "failed", "interrupted"]


@dataclass(frozen=True)
class Job:
    """One configuration to evaluate. `attrs` is what the algorithm needs to see again in a replay."""

    number: int
    config: Mapping[str, Any]
    attrs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What became of a job, so far.

    value: the objective (in its own direction) if the job is complete, else the best seen or None.
    step: the fidelity reached. `intermediate` maps every judged step to the objective there.
    reason: `paused` outcomes may be followed by another outcome of the same job; all others are final
    (an `interrupted` job may be adopted again by a later run).
    values: each objective of a complete job, where there are several (`value` is the first).
    broken: limit -> by how much a complete job breaks it; at most 0 where it is kept.
    reports: the objective at every reported step, for algorithms that set `wants_reports` (their jobs are
    batches, and each step is the evaluation of one member).
    """

    value: float | None
    step: int
    reason: Reason
    intermediate: Mapping[int, float] = field(default_factory=dict)
    reports: Mapping[int, float] = field(default_factory=dict)
    values: tuple[float, ...] = ()
    broken: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class Algorithm(Protocol):
    """Proposes jobs and learns from their outcomes; deterministic for a seed and a log.

    One that never asks for a configuration twice may say in `ends_with` what it is that it comes to the end of.
    """

    def ask(self, n: int = 1) -> Sequence[Job]:
        """Up to `n` new jobs; none while it waits for outcomes, or once it has nothing left to propose."""
        ...

    def adopt(self, job: Job) -> None:
        """Takes over a job that was asked of an earlier instance or chosen by somebody else."""
        ...

    def tell(self, job: Job, outcome: Outcome) -> None:
        """Reports what became of a job that was asked or adopted."""
        ...

    @property
    def finished(self) -> bool:
        """Whether `ask` will never propose anything again."""
        ...


def ask_each(make: Callable[[], Job | None], jobs: dict[int, Job], n: int) -> list[Job]:
    """Up to `n` jobs, one after the other, as long as `make` gives one; each is entered into `jobs`."""
    asked: list[Job] = []
    while len(asked) < n:
        job = make()
        if job is None:
            break
        jobs[job.number] = job
        asked.append(job)
    return asked
