"""Taking a sweep up again: the store's rows, told to a fresh conductor in the order in which they were written."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fairsweep.analysis.schema import to_rows
from fairsweep.cluster.engine import breeding
from fairsweep.cluster.engine.conductor import Conductor
from fairsweep.cluster.engine.judging import OVER
from fairsweep.cluster.engine.stretches import Stretch, stretches
from fairsweep.cluster.engine.trial import PARENT, Trial
from fairsweep.search_spaces.algorithms import Job

if TYPE_CHECKING:
    from fairsweep.analysis.store import SweepRecord


def replay(conductor: Conductor, record: SweepRecord) -> None:
    """Brings a fresh conductor to where the store's rows say that the sweep had come.

    Reports, promotions and ends are replayed in their order, so that scheduler and algorithm end in the
    state of the uninterrupted run. Trials that had not ended are continued first.
    """
    rows = sorted(record.trials.values(), key=lambda r: r["number"])
    for row in rows:
        number = row["config_id"]
        if number not in conductor.jobs:
            job = Job(number, json.loads(row["config_json"]), json.loads(row.get("search_attrs") or "{}"))
            conductor.jobs[number] = job
            if PARENT not in job.attrs:
                conductor.algorithm.adopt(job)
        trial = conductor.add(conductor.jobs[number], row["seed"])
        trial.retries = row.get("retries") or 0
        trial.startup_s = row.get("startup_s") or 0.0
        conductor.purse.took(trial, row.get("cost_s") or 0.0)
    kept = {row["trial"]: (row["value"], row["best_step"]) for row in rows if row["state"] == "complete"}
    watched = (conductor.rules.objective,) if conductor.aims is None else conductor.aims.watched
    for _, entry in heapq.merge(_reported(conductor, record, watched), _decided(record), key=lambda e: e[0]):
        if isinstance(entry, Stretch):
            conductor.passed(entry)
        elif "kind" in entry:
            _event(conductor, entry, kept)
        else:
            metrics = {name: entry.get(f"metric.{name}") for name in watched}
            trial = conductor.trials[entry["trial"]]
            conductor.judged(trial, entry["step"], metrics)
            if (entry.get("wall_s") or 0.0) > trial.cost_s:  # its row was written when it last came to rest
                conductor.purse.took(trial, entry["wall_s"])
    ended = [row for row in rows if row["state"] in OVER and conductor.trials[row["trial"]].state not in OVER]
    for row in ended:  # of which no event says when
        _end(conductor, conductor.trials[row["trial"]], row["state"], kept)
    unfinished: list[Trial] = []
    for row in rows:
        trial = conductor.trials[row["trial"]]
        if row["state"] == "complete" and conductor.aims is not None:
            trial.point = {name: row[f"metric.{name}"] for name in watched}
        trial.state, trial.reason = row["state"], row.get("reason") or ""
        at_rest = trial.state in OVER or (
            trial.state in ("paused", "pruned") and conductor.judge.rests(trial) and not trial.cut_off
        )
        if not at_rest:
            trial.state = "pending"
            unfinished.append(trial)
    conductor.enqueue(unfinished)
    for config_id in sorted(conductor.jobs):
        conductor.tell(config_id)


def _reported(
    conductor: Conductor, record: SweepRecord, watched: Sequence[str]
) -> Iterator[tuple[int, Stretch | dict[str, Any]]]:
    """By number, the stretches of all reports; with several objectives the reports, for their points are of one."""
    if conductor.aims is None:
        whole, rules = conductor.wants_reports, conductor.rules
        for stretch in stretches(
            record.reports, record.events, conductor.trials, rules.objective, rules.mode, whole
        ):
            yield stretch.seq, stretch
        return
    wanted = ["seq", "trial", "step", "wall_s", *(f"metric.{name}" for name in watched)]
    for row in to_rows(record.reports.select([c for c in wanted if c in record.reports.column_names])):
        yield row["seq"], row


def _decided(record: SweepRecord) -> Iterator[tuple[int, Mapping[str, Any]]]:
    return ((event["seq"], event) for event in sorted(record.events, key=lambda e: e["seq"]))


def _end(conductor: Conductor, trial: Trial, state: str, kept: Mapping[str, tuple[Any, Any]]) -> None:
    trial.state = state
    if state == "complete" and trial.id in kept:
        trial.best, trial.best_step = kept[trial.id]
    conductor.judge.ended(trial)


def _event(conductor: Conductor, event: Mapping[str, Any], kept: Mapping[str, tuple[Any, Any]]) -> None:
    """kept: value and best step of each trial that is complete now, which its reports alone need not say."""
    trial = conductor.trials.get(event.get("trial") or "")
    if event["kind"] == "note" and trial is None:
        conductor.notes.known.add(event["text"])
    breeding.replayed(conductor, event)
    if trial is None:
        return
    if event["kind"] == "promote":
        conductor.scheduler.promoted(conductor.judge.unit(trial))
    elif event["kind"] == "end":
        _end(conductor, trial, event["state"], kept)
    elif event["kind"] == "rerun":
        trial.state = "pending"
        conductor.judge.revived(trial)
