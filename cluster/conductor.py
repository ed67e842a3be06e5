"""The driver's side of a sweep, without Ray: who runs next, what a report means, what goes into the store.

A *trial* is one configuration under one seed. It runs in one or more *legs*: from its start, or from its
last checkpoint, to the next pause, loss or end. The conductor hands out legs, writes every report down
before it acts on it, and tells the search algorithm the truth. All its state is a function of the store's
rows, so a sweep that ended in any way can be taken up again (`replay`).
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.store import SweepRecord, SweepWriter
from search_spaces.algorithms import Algorithm, Job, Outcome, Scheduler
from search_spaces.space import Space

ENDED = {"complete", "pruned", "failed"}


def now() -> datetime:
    return datetime.now(timezone.utc)


def trial_id(number: int, seed: int) -> str:
    """The name of the trial of configuration `number` under `seed`."""
    return f"{number:05d}-{seed}"


@dataclass(frozen=True)
class Rules:
    """What a sweep may spend and how its trials are judged.

    trials counts configurations (None: as many as the algorithm asks for); each is run under every seed in
    `seeds`. minutes is wall time over all runs of the sweep, `spent_s` what earlier runs used of it.
    timeout_s bounds one trial's time without a report. retries counts lost workers a trial survives.
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
    early: tuple[float, int] | None = None  # the best before `minimum`, used if nothing else was reported
    judged: dict[int, float] = field(default_factory=dict)
    reports: dict[int, float] = field(default_factory=dict)  # kept for algorithms that want them
    retries: int = 0
    cost_s: float = 0.0
    heard: float = 0.0  # monotonic time of the last sign of life
    attrs: dict[str, Any] = field(default_factory=dict)

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

    def to_json(self) -> str:
        return json.dumps(self.__dict__)

    @classmethod
    def from_json(cls, text: str) -> Leg:
        raw = json.loads(text)
        raw["milestones"] = tuple(raw["milestones"])
        return cls(**raw)


class Conductor:
    """Hands out legs (`next_leg`), takes reports (`report`) and losses (`lost`), and keeps the books."""

    def __init__(
        self,
        rules: Rules,
        space: Space,
        algorithm: Algorithm,
        scheduler: Scheduler,
        writer: SweepWriter,
        *,
        columns: Mapping[str, Any] | None = None,
        on_end: Callable[[Trial], None] | None = None,
    ) -> None:
        self.rules, self.space = rules, space
        self.algorithm, self.scheduler, self.writer = algorithm, scheduler, writer
        self.columns = dict(columns or {})
        self.on_end = on_end
        self.trials: dict[str, Trial] = {}
        self.groups: dict[int, list[Trial]] = {}  # configuration -> its trials, one a seed
        self.active: set[str] = set()
        self.waiting: deque[str] = deque()  # asked, or to be continued, and not running
        self.jobs: dict[int, Job] = {}
        self.told: dict[int, Outcome] = {}
        self.interrupted = False
        self.exhausted = False
        self.wants_reports = bool(getattr(algorithm, "wants_reports", False))
        self.began = time.monotonic()

    # -- budget ---------------------------------------------------------------------------------------

    @property
    def elapsed_s(self) -> float:
        """Wall seconds that the sweep has used, earlier runs included."""
        return self.rules.spent_s + time.monotonic() - self.began

    @property
    def expected(self) -> int:
        """How many trials there will be, as far as it is known."""
        wanted = (
            self.rules.trials if self.rules.trials is not None else getattr(self.algorithm, "expected", 0)
        )
        return max(wanted * len(self.rules.seeds), len(self.trials))

    @property
    def out_of_time(self) -> bool:
        return self.rules.minutes is not None and self.elapsed_s >= 60 * self.rules.minutes

    @property
    def stopping(self) -> bool:
        return self.interrupted or self.out_of_time

    @property
    def finished(self) -> bool:
        """Nothing runs and nothing is left to hand out."""
        return not self.active and (self.stopping or self._next_id(peek=True) is None)

    # -- legs -----------------------------------------------------------------------------------------

    def next_leg(self) -> Leg | None:
        """The next thing to run, or None if no slot is free, nothing is ready or the sweep is stopping."""
        if self.stopping or len(self.active) >= self.rules.concurrent:
            return None
        trial_id = self._next_id()
        if trial_id is None:
            return None
        trial = self.trials[trial_id]
        first = trial.state == "pending" and trial.steps == 0 and trial.retries == 0
        trial.state, trial.reason, trial.heard = "running", "", time.monotonic()
        self.active.add(trial.id)
        fields: dict[str, Any] = {"state": "running", "reason": ""}
        if first:
            fields["started"] = now()
        self.writer.trial(trial.id, **fields)
        return Leg(
            trial=trial.id,
            config=trial.config,
            seed=trial.seed,
            done=trial.steps,
            maximum=trial.maximum,
            milestones=self.scheduler.milestones(trial.minimum, trial.maximum),
        )

    def _next_id(self, peek: bool = False) -> str | None:
        if self.waiting:
            return self.waiting[0] if peek else self.waiting.popleft()
        promotable = self.scheduler.promotable()
        if promotable is not None:
            if not peek:
                self._promote(promotable)
            return promotable
        if self._may_ask():
            if peek:
                return ""
            if self._ask():
                return self.waiting.popleft()
        if not self.active and not any(t.state == "complete" for t in self.trials.values()):
            survivor = self.scheduler.survivor()
            if survivor is not None:
                if not peek:
                    self._promote(survivor)
                return survivor
        return None

    def _may_ask(self) -> bool:
        some_left = self.rules.trials is None or len(self.jobs) < self.rules.trials
        return some_left and not self.exhausted and not self.algorithm.finished

    def _ask(self) -> bool:
        number = len(self.jobs)
        if number < len(self.rules.first):
            job = Job(number, dict(self.rules.first[number]), {"first": True})
            self.algorithm.adopt(job)
        else:
            asked = self.algorithm.ask(1)
            if not asked:
                self.exhausted = (
                    not self.active
                )  # else it may have something to propose once it was told more
                return False
            job = asked[0]
        self.jobs[job.number] = job
        with self.writer.batch():
            for seed in self.rules.seeds:
                trial = self._add(job, seed)
                self.waiting.append(trial.id)
                self.writer.trial(
                    trial.id,
                    number=trial.number,
                    config_id=trial.config_id,
                    seed=trial.seed,
                    state="pending",
                    config_json=json.dumps(dict(job.config)),
                    search_attrs=json.dumps(dict(job.attrs)),
                    objective=self.rules.objective,
                    mode=self.rules.mode,
                    **{f"config.{k}": self.space.arrow_value(k, v) for k, v in job.config.items()},
                    **self.columns,
                )
        return True

    def _add(self, job: Job, seed: int) -> Trial:
        minimum, maximum = self.rules.fidelity(job.config)
        trial = Trial(
            id=trial_id(job.number, seed),
            number=len(self.trials),
            config_id=job.number,
            seed=seed,
            config=dict(job.config),
            minimum=minimum,
            maximum=maximum,
            attrs=dict(job.attrs),
        )
        self.trials[trial.id] = trial
        self.groups.setdefault(job.number, []).append(trial)
        return trial

    def _promote(self, trial_id: str) -> None:
        self.scheduler.promoted(trial_id)
        self.writer.event("promote", trial=trial_id)

    # -- reports --------------------------------------------------------------------------------------

    def report(self, trial_id: str, payload: Mapping[str, Any]) -> bool:
        """Writes a worker's report down, then decides. True: the trial goes on in its worker.

        payload: `rows` (step, wall_s, time and metrics each), `status` (running, complete or failed),
        `test` metrics on completion, `failure` (reason, error) and the worker's measurements.
        """
        trial = self.trials[trial_id]
        if trial_id not in self.active:  # already given up; its checkpoint brings these rows again
            return False
        trial.heard = time.monotonic()
        rows = [row for row in payload["rows"] if row["step"] > trial.steps]
        decision = "continue"
        with self.writer.batch():
            if rows:
                self.writer.results([self._row(trial, row) for row in rows])
            for row in rows:
                decision = self._judge(trial, row["step"], row["metrics"].get(self.rules.objective))
                if decision != "continue":
                    break  # a worker stops at every milestone, so this is the last row
            trial.cost_s = float(payload.get("cost_s", trial.cost_s))
            if payload["status"] == "failed":
                self._end(trial, "failed", payload["failure"]["reason"], payload)
            elif payload["status"] == "complete":
                self._end(trial, "complete", payload.get("reason") or "complete", payload)
            elif decision == "pause":
                self._end(trial, "paused", f"paused by {self.scheduler.name} at step {trial.steps}", payload)
            elif decision == "stop":
                self._end(trial, "pruned", f"stopped by {self.scheduler.name} at step {trial.steps}", payload)
            elif self.stopping:
                why = "interrupted" if self.interrupted else "budget.minutes is used up"
                self._end(trial, "interrupted", f"{why} at step {trial.steps}", payload)
            else:
                return True
        return False

    def lost(self, trial_id: str, error: str, reason: str = "worker died") -> None:
        """A worker ended without a report: the trial goes on from its checkpoint, or has failed for good."""
        trial = self.trials[trial_id]
        if trial_id not in self.active:
            return
        if self.stopping:
            self._end(trial, "interrupted", f"interrupted at step {trial.steps}", {})
        elif reason == "timed out":
            limit = f"{self.rules.timeout_s:g} s"
            self._end(
                trial, "failed", f"timed out: no report for {limit} after step {trial.steps}", {}, error
            )
        elif trial.retries >= self.rules.retries:
            self._end(
                trial,
                "failed",
                f"{reason} {trial.retries + 1} times, last after step {trial.steps}",
                {},
                error,
            )
        else:
            trial.retries += 1
            trial.state = "pending"
            self.active.discard(trial_id)
            self.waiting.appendleft(trial_id)
            with self.writer.batch():
                self.writer.event("retry", trial=trial_id, reason=reason, after_step=trial.steps)
                self.writer.trial(
                    trial_id, state="pending", reason=f"{reason}; retried", retries=trial.retries
                )

    def overdue(self) -> list[str]:
        """Running trials that have given no sign of life for `timeout_s` seconds."""
        limit = self.rules.timeout_s
        if limit is None:
            return []
        return [i for i in sorted(self.active) if time.monotonic() - self.trials[i].heard > limit]

    def heard_from(self, trial_id: str) -> None:
        """The trial's worker has begun; waiting for a place does not count against its timeout."""
        self.trials[trial_id].heard = time.monotonic()

    def interrupt(self) -> None:
        """Hands out nothing more; running trials end at their next report, to be resumed."""
        self.interrupted = True

    def close(self) -> str:
        """Ends the run's books and returns the sweep's state: finished or interrupted."""
        state = "interrupted" if self.interrupted else "finished"
        with self.writer.batch():
            for trial_id in list(self.active):
                trial = self.trials[trial_id]
                self._end(trial, "interrupted", f"interrupted at step {trial.steps}", {})
            for trial in self.trials.values():
                if state == "finished" and trial.state == "paused":
                    trial.state = "pruned"
                    reason = f"stopped by {self.scheduler.name} at step {trial.steps}"
                    self.writer.trial(trial.id, state="pruned", reason=reason)
            self.writer.sweep(state=state, ended=now(), elapsed_s=self.elapsed_s)
        return state

    # -- the books ------------------------------------------------------------------------------------

    def _row(self, trial: Trial, row: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "trial": trial.id,
            "config_id": trial.config_id,
            "seed": trial.seed,
            "step": row["step"],
            "wall_s": row["wall_s"],
            "time": datetime.fromtimestamp(row["time"], timezone.utc),
            **{f"metric.{name}": value for name, value in row["metrics"].items()},
        }

    def _judge(self, trial: Trial, step: int, value: float | None) -> str:
        trial.steps = step
        if value is None or not math.isfinite(value):
            return "continue"
        if self.wants_reports:
            trial.reports[step] = value
        better = (lambda a, b: a < b) if self.rules.mode == "min" else (lambda a, b: a > b)
        if step < trial.minimum:
            if trial.early is None or better(value, trial.early[0]):
                trial.early = (value, step)
            return "continue"
        if trial.best is None or better(value, trial.best):
            trial.best, trial.best_step = value, step
        if step not in self.scheduler.milestones(trial.minimum, trial.maximum):
            return "continue"
        trial.judged[step] = trial.best
        return self.scheduler.report(trial.id, step, trial.best)

    def _end(
        self, trial: Trial, state: str, reason: str, payload: Mapping[str, Any], error: str | None = None
    ) -> None:
        trial.state, trial.reason = state, reason
        self.active.discard(trial.id)
        if payload.get("failure"):
            error = payload["failure"].get("error")
        measured = {
            name: payload[name]
            for name in ("peak_memory_mb", "device", "hostname", "pid", "checkpoint_step")
            if payload.get(name) is not None
        }
        self.writer.trial(
            trial.id,
            state=state,
            reason=reason,
            error=error,
            value=trial.value if state != "failed" else None,
            best_step=trial.value_step if state != "failed" else None,
            steps=trial.steps,
            cost_s=trial.cost_s,
            retries=trial.retries,
            ended=now(),
            **measured,
            **{f"metric.{name}": value for name, value in (payload.get("test") or {}).items()},
        )
        self._tell(trial.config_id)
        if self.on_end is not None:
            self.on_end(trial)

    def _tell(self, config_id: int) -> None:
        """Tells the algorithm of a configuration once all its seeds have come to rest."""
        group = self.groups[config_id]
        if any(t.state not in ENDED | {"paused"} for t in group):
            return
        outcome = combine(group)
        if self.wants_reports and len(group) == 1:
            outcome = replace(outcome, reports=dict(group[0].reports))
        if self.told.get(config_id) != outcome:
            self.told[config_id] = outcome
            self.algorithm.tell(self.jobs[config_id], outcome)

    # -- taking a sweep up again ----------------------------------------------------------------------

    def replay(self, record: SweepRecord) -> None:
        """Brings a fresh conductor to where the store's rows say that the sweep had come.

        Reports and promotions are replayed in their order, so that scheduler and algorithm end in the
        state of the uninterrupted run. Trials that had not ended are continued first.
        """
        for row in sorted(record.trials.values(), key=lambda r: r["number"]):
            number = row["config_id"]
            if number not in self.jobs:
                job = Job(number, json.loads(row["config_json"]), json.loads(row.get("search_attrs") or "{}"))
                self.jobs[number] = job
                self.algorithm.adopt(job)
            trial = self._add(self.jobs[number], row["seed"])
            trial.retries = row.get("retries") or 0
            trial.cost_s = row.get("cost_s") or 0.0
        promotions = [e for e in record.events if e["kind"] == "promote"]
        metric = f"metric.{self.rules.objective}"
        for entry in sorted([*record.results, *promotions], key=lambda e: e["seq"]):
            if "kind" in entry:
                self.scheduler.promoted(entry["trial"])
            else:
                self._judge(self.trials[entry["trial"]], entry["step"], entry.get(metric))
        for row in sorted(record.trials.values(), key=lambda r: r["number"]):
            trial = self.trials[row["trial"]]
            trial.state, trial.reason = row["state"], row.get("reason") or ""
            if trial.state not in ENDED | {"paused"}:
                trial.state = "pending"
                self.waiting.append(trial.id)
        for config_id in sorted(self.jobs):
            self._tell(config_id)


def combine(group: list[Trial]) -> Outcome:
    """One outcome for a configuration from its trials, one a seed.

    Complete if all are, with the mean value; failed if any failed; else pruned or paused, with the mean
    at the milestones that all have reached.
    """
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
