"""Taking a sweep up again: the store's rows, told to a fresh conductor in the order in which they were written."""

from __future__ import annotations

import heapq
import json
from collections import deque
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
    state of the uninterrupted run. Trials that had not ended are continued first. Where the search is asked
    ahead, it is told of each configuration where that came to rest, adopts what is due then, and is asked for
    what the store lacks.
    """
    rows = sorted(record.trials.values(), key=lambda r: r["number"])
    for row in rows:
        number = row["config_id"]
        if number not in conductor.jobs:
            job = Job(number, json.loads(row["config_json"]), json.loads(row.get("search_attrs") or "{}"))
            conductor.jobs[number] = job
            if PARENT not in job.attrs:
                conductor.asker.log.append(job)
        trial = conductor.add(conductor.jobs[number], row["seed"])
        trial.retries = row.get("retries") or 0
        trial.startup_s = row.get("startup_s") or 0.0
        conductor.purse.took(trial, row.get("cost_s") or 0.0)
    if not conductor.looks_ahead:
        conductor.asker.adopt_all()
    conductor.think()
    kept = {row["trial"]: row for row in rows if row["state"] == "complete"}
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
        trial.state, trial.reason = row["state"], row.get("reason") or ""
        at_rest = trial.state in OVER or (
            trial.state in ("paused", "pruned") and conductor.judge.rests(trial) and not trial.cut_off
        )
        if not at_rest:
            trial.state = "pending"
            unfinished.append(trial)
    asked = {*conductor.stock}
    begun = {row["config_id"] for row in rows if row.get("started") is not None}
    fresh = {t.config_id for t in unfinished if not t.fault} - begun if conductor.looks_ahead else set()
    conductor.stock = deque(sorted(fresh | asked))
    conductor.enqueue(t for t in unfinished if t.config_id not in fresh)
    conductor.asker.adopt_all()
    for config_id in sorted(conductor.jobs):
        conductor.tell(config_id)
    if not conductor.looks_ahead:
        conductor.think()


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


def _end(conductor: Conductor, trial: Trial, state: str, kept: Mapping[str, Mapping[str, Any]]) -> None:
    trial.state = state
    if state == "complete" and trial.id in kept:
        row = kept[trial.id]
        trial.best, trial.best_step = row["value"], row["best_step"]
        if conductor.aims is not None:
            trial.point = {name: row[f"metric.{name}"] for name in conductor.aims.watched}
    if state in OVER:
        conductor.judge.ended(trial)


def _event(conductor: Conductor, event: Mapping[str, Any], kept: Mapping[str, Mapping[str, Any]]) -> None:
    """kept: rows of the trials that are complete now, whose values their reports alone need not say."""
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
        if conductor.looks_ahead:
            conductor.tell(trial.config_id)
            conductor.think()
    elif event["kind"] == "rerun":
        trial.state = "pending"
        conductor.judge.revived(trial)
