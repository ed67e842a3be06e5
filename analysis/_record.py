"""What a sweep's files say of it: all its rows, for a driver to replay, and what a reader should know."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fairsweep.analysis import schema
from fairsweep.analysis._state import State


@dataclass(frozen=True)
class SweepRecord:
    """All rows of a sweep: `trials` by id in the order of their number, `reports` and `events` by `seq`.

    Rows of `sweep` and `trials` have every column of their table. `reports` is the table `results`; `results` are its
    rows as dicts, which of a million take seconds and a gigabyte. An event is `{"seq": n, "kind": kind, ...}` with the
    fields that it was written with.
    """

    sweep: dict[str, Any]
    trials: dict[str, dict[str, Any]]
    reports: pa.Table
    events: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)

    @cached_property
    def results(self) -> list[dict[str, Any]]:
        return schema.to_rows(self.reports)

    @property
    def last(self) -> int:
        """The number of the last report or event; 0 where there is none."""
        reported = pc.max(self.reports.column("seq")).as_py() or 0
        return max([reported, *(event["seq"] for event in self.events)])


@dataclass(frozen=True)
class Recovery:
    """What opening a sweep that had not been closed found: reports, events and bytes that were dropped."""

    rows: int
    events: int
    torn_bytes: int
    message: str


def record_of(state: State) -> SweepRecord:
    sweep = schema.to_rows(schema.to_arrow([state.row], schema.SWEEPS, state.paths.sweep))[0]
    trials = {r["trial"]: r for r in schema.to_rows(state.tables["trials"])}
    seqs, kinds, rows = (state.tables["events"].column(c).to_pylist() for c in ("seq", "kind", "row"))
    events = [{"seq": s, "kind": k, **json.loads(r)} for s, k, r in zip(seqs, kinds, rows, strict=True)]
    return SweepRecord(sweep, trials, state.tables["results"], events, notes_of(state))


def notes_of(state: State) -> list[str]:
    name = state.paths.sweep
    notes = [f"{problem}; its rows are read from the log" for problem in state.repairs]
    if state.live:
        return notes
    if state.leftovers:
        many = len(state.leftovers)
        notes.append(
            f"{state.folder.path(state.leftovers[0])}{f' and {many - 1} more' if many > 1 else ''}: "
            f"left over by a writer that died; other programs than fairsweep see these rows of sweep {name} twice "
            "until it is opened again"
        )
    torn = state.log.torn_bytes
    ignored = f"{torn} byte{'s' if torn != 1 else ''} of an incomplete record at the end of its log ignored"
    if state.closed:
        return [*notes, f"sweep {name} is closed; {ignored}"] if torn else notes
    notes.append(
        f"sweep {name} was not closed ({_why(state)}): {_counts(state)} recovered"
        + (f", {ignored}" if torn else "")
    )
    if state.log.last < state.sealed.sealed:
        notes.append(
            f"the log of sweep {name} ends at row {state.log.last}, but it was once longer; "
            f"rows up to {state.sealed.sealed} are read from Parquet, later ones, if there were any, are lost"
        )
    return notes


def _why(state: State) -> str:
    return "its driver ended abruptly" if state.live is False else "its driver still runs, or ended abruptly"


def _counts(state: State) -> str:
    results = state.tables["results"]
    trials = max(state.tables["trials"].num_rows, pc.count_distinct(results.column("trial")).as_py())
    reports = results.num_rows
    return f"{reports} report{'s' if reports != 1 else ''} of {trials} trial{'s' if trials != 1 else ''}"
