"""The best configuration of a sweep, over its seeds."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from fairsweep.analysis import statistics
from fairsweep.analysis.lineage import lineage
from fairsweep.analysis.store import Store
from fairsweep.trainables import catalog, index


def best_of(store: Store, sweep: str) -> dict[str, Any] | None:
    """Value, interval, metrics and configuration of the best configuration over its seeds; None without a value."""
    row = store.table("sweeps", sweep).to_pylist()[0]
    trials = store.table("trials", sweep)
    try:
        found = statistics.best(trials, row["mode"])
    except ValueError:
        return None
    if found is None:
        return None
    ranges = _ranges(row["paper"])
    rows = [r for r in trials.sort_by("number").to_pylist() if r["config_id"] == found.config_id]
    return {
        "sweep": sweep,
        "config_id": found.config_id,
        "trials": [r["trial"] for r in rows],
        "complete": found.complete,
        "objective": row["objective"],
        "mode": row["mode"],
        "value": found.value.mean,
        "seeds": found.value.n,
        "ci95": _interval(found.value, ranges.get(row["objective"])),
        "metrics": {
            name: {"mean": s.mean, "ci95": _interval(s, ranges.get(name)), "n": s.n}
            for name, s in found.metrics.items()
            if s.n
        },
        "config": json.loads(rows[0]["config_json"]),
        **({"lineage": [asdict(s) for s in lineage(trials, rows[0]["trial"])]} if rows[0]["parent"] else {}),
    }


def _ranges(slug: str) -> dict[str, tuple[float, float] | None]:
    """Where the metrics of a paper can lie, by name; nothing is known of one that is not at hand."""
    try:
        return {m.name: m.range for m in index.entry(slug).metrics}
    except catalog.UnknownPaper:
        return {}


def _interval(found: Any, limits: tuple[float, float] | None) -> tuple[float, float] | None:
    return (found if limits is None else found.within(*limits)).ci95
