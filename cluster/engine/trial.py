"""What a sweep is made of, without Ray: its rules, its trials, and the legs in which they run."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from fairsweep.search_spaces.algorithms import Outcome

ENDED = {"complete", "pruned", "failed"}
SPENT = "budget.total_minutes is used up"  # the beginning of the reason of a trial that ended for it
PARENT = "parent"  # in a job's attributes: config, step and replaces of what it is a copy of


def now() -> datetime:
    return datetime.now(timezone.utc)


def trial_id(number: int, seed: int) -> str:
    """The name of the trial of configuration `number` under `seed`."""
    return f"{number:05d}-{seed}"


def key_of(lane: str, trial: str) -> str:
    """What a driver knows a trial by. lane: which sweep of a fleet it is of; "" for the only one."""
    return f"{lane}/{trial}" if lane else trial


@dataclass(frozen=True)
class Rules:
    """What a sweep may spend and how its trials are judged.

    trials counts configurations (None: as many as the algorithm asks for); each is run under every seed in
    `seeds`. minutes is wall time over all runs of the sweep, `spent_s` what earlier runs used of it.
    timeout_s bounds one trial's time without a report. retries counts lost workers and faults of the storage
    that a trial survives. total_steps and total_s bound what all trials take together (`engine.purse`).
    """

    objective: str
    mode: str
    trials: int | None
    seeds: tuple[int, ...]
    concurrent: int
    minutes: float | None = None
    spent_s: float = 0.0
    timeout_s: float | None = None
    retries: int = 2
    fidelity: Callable[[Mapping[str, Any]], tuple[int, int]] = lambda config: (1, 1)
    first: tuple[Mapping[str, Any], ...] = ()
    total_steps: int | None = None
    total_s: float | None = None

    def extent(self, config: Mapping[str, Any]) -> tuple[int, int, str]:
        """Minimum and maximum of a trial of `config`, and what its paper raised where they cannot be told."""
        try:
            return *self.fidelity(config), ""
        except Exception:  # the paper's code, on a configuration that nobody has tried yet
            return 1, 1, traceback.format_exc()

    def given_up(self, trial: Trial, reason: str, charged: bool) -> str:
        """Why a trial whose worker is lost has failed; empty if it is tried again."""
        if reason == "timed out" and charged:
            return f"timed out: no report for {self.timeout_s:g} s after step {trial.steps}"
        if charged and trial.retries >= self.retries:
            return f"{reason} {trial.retries + 1} times, last after step {trial.steps}"
        return ""


@dataclass
class Trial:
    """What the driver knows of a trial."""

    id: str
    number: int
    config_id: int
    seed: int
    config: dict[str, Any]
    minimum: int
    maximum: int
    state: str = "pending"
    reason: str = ""
    steps: int = 0
    best: float | None = None
    best_step: int | None = None
    latest: float | None = None  # the last objective that was reported
    early: tuple[float, int] | None = None  # the best before `minimum`, used if nothing else was reported
    judged: dict[int, float] = field(default_factory=dict)
    seen: dict[str, float] = field(default_factory=dict)  # the last report of each of several objectives
    point: dict[str, float] = field(default_factory=dict)  # those of its model
    reports: dict[int, float] = field(default_factory=dict)  # kept for algorithms that want them
    milestones: tuple[int, ...] = ()  # the steps at which it is judged
    retries: int = 0
    cost_s: float = 0.0
    startup_s: float = 0.0  # of all its legs: imports and tracking, before the paper's setup
    heard: float = 0.0  # monotonic time of the last sign of life
    attrs: dict[str, Any] = field(default_factory=dict)
    fault: str = ""  # why it cannot even begin
    alone: bool = False  # a worker was lost that had it: it shares no bundle with others
    born: int = 0  # the step after which it began as a copy of another trial

    @property
    def cut_off(self) -> bool:
        """Whether it was ended at a report like any other, by no decision about it, and may go on from there."""
        return self.state == "interrupted" or self.reason.startswith(SPENT)

    @property
    def parent(self) -> str:
        """The trial whose checkpoint it began from: of the same seed; empty for one that began at the start."""
        origin = self.attrs.get(PARENT)
        return trial_id(origin["config"], self.seed) if origin else ""

    def inherit(self, parent: Trial) -> None:
        """Begins where `parent` stands. Its model is that of the parent so far, and so is its best value."""
        self.born = self.steps = parent.steps
        self.best, self.best_step, self.early = parent.best, parent.best_step, parent.early
        self.latest = parent.latest

    @property
    def value(self) -> float | None:
        return self.best if self.best is not None else (self.early[0] if self.early else None)

    @property
    def value_step(self) -> int | None:
        return self.best_step if self.best is not None else (self.early[1] if self.early else None)


@dataclass(frozen=True)
class Leg:
    """What a worker is to do: continue `trial` after step `done`, stopping to report at `milestones`."""

    trial: str
    config: dict[str, Any]
    seed: int
    done: int
    maximum: int
    milestones: tuple[int, ...]
    parent: str = ""  # the trial whose checkpoint it began from
    sweep: str = ""  # of a fleet: the lane that it is of
    run: str = ""  # what somebody outside calls the trial: the W&B run that it is to write into

    @property
    def key(self) -> str:
        """What the driver knows its trial by."""
        return key_of(self.sweep, self.trial)

    @classmethod
    def of(cls, trial: Trial) -> Leg:
        """The next leg of `trial`."""
        return cls(
            trial.id, trial.config, trial.seed, trial.steps, trial.maximum, trial.milestones, trial.parent,
            run=trial.attrs.get("run", ""),  # of `OutsideSearch`
        )  # fmt: skip

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Leg:
        """A leg of what JSON made of its attributes."""
        return cls(**{**raw, "milestones": tuple(raw["milestones"])})


@dataclass(frozen=True)
class Answer:
    """To what a place told: the trial that goes on there, else what it runs next; both empty if there is nothing now.

    cut_off: its last trial has not come to its end and is to write a checkpoint.
    """

    going_on: str
    legs: Sequence[Leg] = ()
    cut_off: bool = False


class Nursery(Protocol):
    """Makes the new trials that a scheduler has decided on (`engine.breeding`)."""

    @property
    def due(self) -> bool:
        """Whether there is something to do before another leg is handed out."""
        ...

    def deliver(self) -> None: ...


def combine(group: list[Trial]) -> Outcome:
    """One outcome for a configuration from its trials, one a seed.

    Complete if all are, with the mean value; failed if any failed; else pruned or paused, with the mean
    at the milestones that all have reached.
    """
    from fairsweep.search_spaces.algorithms import Outcome  # workers need none

    states = {t.state for t in group}
    step = min(t.steps for t in group)
    shared = set.intersection(*(set(t.judged) for t in group)) if group else set()
    judged = {s: sum(t.judged[s] for t in group) / len(group) for s in sorted(shared)}
    values = [t.value for t in group if t.value is not None]
    mean = sum(values) / len(values) if len(values) == len(group) else None
    if "failed" in states or (states == {"complete"} and mean is None):
        return Outcome(None, step, "failed", judged)
    if states == {"complete"}:
        return Outcome(mean, step, "complete", judged)
    return Outcome(mean, step, "paused" if "paused" in states else "pruned", judged)
