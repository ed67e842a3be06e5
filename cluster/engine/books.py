"""What a conductor writes beside its decisions: rows of reports and of ended trials, time that was used, notes."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from fairsweep.analysis.text import bounded
from fairsweep.cluster.engine.trial import PARENT, Rules, Trial, now

if TYPE_CHECKING:
    from fairsweep.analysis.store import SweepWriter
    from fairsweep.search_spaces.algorithms import Algorithm, Job
    from fairsweep.search_spaces.space import Space

REASON, ERROR = 500, 20_000  # characters of a reason and of an error that are kept
MEASURED = ("peak_memory_mb", "device", "hostname", "pid", "checkpoint_step")


def result_row(trial: Trial, row: Mapping[str, Any]) -> dict[str, Any]:
    """The row of `results` for one report of a worker: step, wall_s, time and metrics."""
    return {
        "trial": trial.id,
        "config_id": trial.config_id,
        "seed": trial.seed,
        "step": row["step"],
        "wall_s": row["wall_s"],
        "time": datetime.fromtimestamp(row["time"], timezone.utc),
        **{f"metric.{name}": value for name, value in row["metrics"].items()},
    }


def pending_row(trial: Trial, job: Job, rules: Rules, space: Space) -> dict[str, Any]:
    """The row of a trial that has just come into being."""
    return {
        "number": trial.number,
        "config_id": trial.config_id,
        "seed": trial.seed,
        "state": "pending",
        "config_json": json.dumps(dict(job.config)),
        "search_attrs": json.dumps(dict(job.attrs)),
        "objective": rules.objective,
        "mode": rules.mode,
        **({"parent": trial.parent, "parent_step": job.attrs[PARENT]["step"]} if trial.parent else {}),
        **{f"config.{k}": space.arrow_value(k, v) for k, v in job.config.items()},
    }


def ended_row(trial: Trial, payload: Mapping[str, Any], error: str | None) -> dict[str, Any]:
    """What the row of a trial says that has come to rest. payload: the worker's last report, {} without one."""
    failed = trial.state == "failed"
    if payload.get("failure"):
        error = payload["failure"].get("error")
    return {
        "state": trial.state,
        "reason": trial.reason,
        "error": None if error is None else bounded(error, ERROR),
        "value": None if failed else trial.value,
        "best_step": None if failed else trial.value_step,
        "steps": trial.steps,
        "cost_s": trial.cost_s,
        "startup_s": trial.startup_s,
        "retries": trial.retries,
        "ended": now(),
        **{name: payload[name] for name in MEASURED if payload.get(name) is not None},
        **({"attrs": json.dumps(payload["attrs"])} if payload.get("attrs") else {}),
        **{
            f"metric.{name}": value
            for name, value in {**trial.point, **(payload.get("test") or {})}.items()
            if not failed or name not in trial.point
        },
    }


def exhausted(algorithm: Algorithm, found: int, wanted: int | None) -> str | None:
    """Says so where there were fewer configurations, `found`, than were to be run."""
    whole = getattr(algorithm, "ends_with", None)
    if whole is None or wanted is None or found >= wanted or not algorithm.finished:
        return None
    return (
        f"budget.trials={wanted}: the {whole} has {found} configurations, and each was run; none is run twice under "
        "the same seeds"
    )


class Clock:
    """Wall time that a sweep has used, earlier runs included, as it stands in the store."""

    def __init__(self, writer: SweepWriter, spent_s: float, minutes: float | None) -> None:
        self.writer, self.spent_s, self.minutes = writer, spent_s, minutes
        self.began = self._beaten = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        return self.spent_s + time.monotonic() - self.began

    @property
    def out(self) -> bool:
        return self.minutes is not None and self.elapsed_s >= 60 * self.minutes

    def beat(self, every: float) -> None:
        """Enters the time, at most once in `every` seconds: a killed driver enters nothing more."""
        if time.monotonic() - self._beaten >= every:
            self._beaten = time.monotonic()
            self.writer.sweep(elapsed_s=self.elapsed_s)


class Notes:
    """What a reader of a sweep should know. A note of no trial in particular is entered once."""

    def __init__(self, writer: SweepWriter) -> None:
        self.writer = writer
        self.known: set[str] = set()

    def enter(self, text: str, trial: str | None) -> str | None:
        """Enters a note; how it reads, or None if it is known."""
        text = bounded(text, REASON)
        if trial is None:
            if text in self.known:
                return None
            self.known.add(text)
        self.writer.event("note", text=text, trial=trial)
        return text if trial is None else f"trial {trial}: {text}"
