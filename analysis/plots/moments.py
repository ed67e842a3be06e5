"""What a sweep would have answered at any moment: its best configuration over its seeds, so far."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

ENDED = ("complete", "pruned", "failed", "interrupted")
COLUMNS = ("number", "config_id", "state", "value", "ended", "cost_s")


@dataclass(frozen=True)
class Moment:
    """When another configuration became the best: after so many trials and seconds of training, mean and range of its
    seeds' values."""

    trials: int
    cost_s: float
    config_id: int
    mean: float
    low: float
    high: float
    seeds: int


def best_so_far(trials: pa.Table, mode: str, stopped: bool = False) -> tuple[list[Moment], int, float]:
    """The moments at which the answer changed, the trials that have ended, and what they cost together in seconds.

    trials: the store's, of one sweep. As in `statistics.best` a configuration counts once all its seeds are complete;
    where that is so of none, as soon as one is. stopped: trials that were stopped early count as complete ones.
    """
    done = ("complete", "pruned") if stopped else ("complete",)
    kept = [c for c in COLUMNS if c in trials.column_names]
    rows = [row for row in trials.select(kept).to_pylist() if row["state"] in ENDED]
    rows.sort(key=lambda row: (row["ended"] is None, row["ended"] or 0, row["number"] or 0))
    asked: dict[int, int] = defaultdict(int)
    for config in trials["config_id"].to_pylist():
        asked[config] += 1
    complete: dict[int, int] = defaultdict(int)
    for row in rows:
        complete[row["config_id"]] += row["state"] in done
    if not any(complete[c] == asked[c] for c in complete):
        asked = dict.fromkeys(asked, 1)
    return _moments(rows, asked, done, 1.0 if mode == "min" else -1.0), len(rows), sum(_cost(r) for r in rows)


def _moments(
    rows: list[dict[str, Any]], asked: dict[int, int], done: tuple[str, ...], sign: float
) -> list[Moment]:
    found: list[Moment] = []
    values: dict[int, list[float]] = defaultdict(list)
    cost = 0.0
    for ended, row in enumerate(rows, 1):
        cost += _cost(row)
        value, config = row["value"], row["config_id"]
        if row["state"] not in done or value is None or not math.isfinite(value):
            continue
        values[config].append(value)
        mine = values[config]
        mean = sum(mine) / len(mine)
        if len(mine) >= asked[config] and (not found or sign * mean < sign * found[-1].mean):
            found.append(Moment(ended, cost, config, mean, min(mine), max(mine), len(mine)))
    return found


def _cost(row: dict[str, Any]) -> float:
    return row.get("cost_s") or 0.0
