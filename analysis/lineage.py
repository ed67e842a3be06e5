"""Where a trial of a population came from: which configuration trained its model, from which step to which."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa


@dataclass(frozen=True)
class Segment:
    """Steps `first` to `last`, which were trained as `trial`, with `config`."""

    trial: str
    first: int
    last: int
    config: dict[str, Any]


def lineage(trials: pa.Table, trial: str) -> list[Segment]:
    """The segments of the model of `trial`, in the order in which they were trained; one where it has no parent.

    trials: the store's table of trials of one sweep. KeyError if it has no such trial.
    """
    names = ["trial", "steps", "config_json", "parent", "parent_step"]
    rows: dict[str, Mapping[str, Any]] = {row["trial"]: row for row in trials.select(names).to_pylist()}
    found: list[Segment] = []
    name, last = trial, rows[trial]["steps"] or 0
    while True:
        row = rows[name]
        first = (row["parent_step"] or 0) + 1
        if last >= first:  # else it was copied, and never trained
            found.insert(0, Segment(name, first, last, json.loads(row["config_json"])))
        if not row["parent"]:
            return found
        name, last = row["parent"], row["parent_step"]
