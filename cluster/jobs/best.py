"""The best configuration of a sweep, over its seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from fairsweep.analysis import statistics
from fairsweep.analysis.lineage import lineage
from fairsweep.analysis.statistics import Summary
from fairsweep.analysis.store import Store
from fairsweep.analysis.trade_offs import Front, front
from fairsweep.cluster.errors import UserError
from fairsweep.trainables import catalog, index


def best_of(store: Store, sweep: str) -> dict[str, Any] | None:
    """Value, interval, metrics and configuration of the best configuration over its seeds; None without a value.

    Of a sweep with several objectives: its front, with the interval of each point, and the hypervolume.
    """
    row = store.table("sweeps", sweep).to_pylist()[0]
    trials = store.table("trials", sweep)
    if row.get("objectives"):
        return _front_said(row, front_of(store, sweep))
    try:
        found = statistics.best(trials, row["mode"])
    except ValueError:
        return None
    if found is None:
        return None
    ranges = _ranges(row)
    rows = [r for r in trials.sort_by("number").to_pylist() if r["config_id"] == found.config_id]
    return {
        "sweep": sweep,
        "config_id": found.config_id,
        "trials": [r["trial"] for r in rows],
        "complete": found.complete,
        "completed": found.completed,
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
        "stopped": _better_stopped(trials, found.value.mean, row["mode"]) if found.complete else None,
        **({"lineage": [asdict(s) for s in lineage(trials, rows[0]["trial"])]} if rows[0]["parent"] else {}),
    }


def _better_stopped(trials: Any, value: float | None, mode: str) -> dict[str, Any] | None:
    """The best trial that early stopping ended, where it had a better value than the best complete configuration."""
    sign = 1.0 if mode == "min" else -1.0
    table = trials.select(["trial", "state", "value", "steps"])
    rows = [t for t in table.to_pylist() if t["state"] == "pruned" and t["value"] is not None]
    best = min(rows, key=lambda t: sign * t["value"], default=None)
    if best is None or value is None or not sign * best["value"] < sign * value:
        return None
    return {"trial": best["trial"], "value": best["value"], "steps": best["steps"]}


def front_of(store: Store, sweep: str, reference: Mapping[str, float] | None = None) -> Front:
    """The Pareto front of a sweep with several objectives. reference: see `trade_offs.front`.

    UserError for a sweep with one objective, and for a reference that does not say each objective.
    """
    row = store.table("sweeps", sweep).to_pylist()[0]
    if not row.get("objectives"):
        raise UserError(f"{sweep}: is tuned on one metric, {row['objective']}; its best is `best`")
    modes = json.loads(row["objectives"])
    if reference is not None and set(reference) != set(modes):
        raise UserError(f"reference={dict(reference)}: must say a value of {', '.join(modes)} each")
    trials = store.table("trials", sweep)
    found = front(trials, modes, json.loads(row["constraints"] or "{}"), reference)
    ranges = _ranges(row)
    points = tuple(replace(p, values=_within(p.values, ranges)) for p in found.points)
    return replace(found, points=points)


def _within(
    values: Mapping[str, Summary], ranges: Mapping[str, tuple[float, float] | None]
) -> dict[str, Summary]:
    """`values` with their intervals cut to where the metrics can lie."""
    limits = {name: ranges.get(name) for name in values}
    return {name: s if (r := limits[name]) is None else s.within(*r) for name, s in values.items()}


def _front_said(row: dict[str, Any], found: Front) -> dict[str, Any] | None:
    if not found.points:
        return None
    return {
        "sweep": row["sweep"],
        "objectives": dict(found.modes),
        "constraints": {name: dict(limits) for name, limits in found.limits.items()},
        "configurations": len(found.points),
        "front": [
            {
                "config_id": p.config_id,
                "seeds": p.seeds,
                "metrics": {n: {"mean": s.mean, "ci95": s.ci95, "n": s.n} for n, s in p.values.items()},
                "broken": p.broken,
                "config": p.config,
            }
            for p in found.best
        ],
        "hypervolume": found.volume,
        "reference": found.reference,
    }


def _ranges(sweep: Mapping[str, Any]) -> dict[str, tuple[float, float] | None]:
    """Where the metrics of a sweep's paper can lie, by name; nothing is known of one that is not at hand."""
    if sweep.get("reference"):  # the user's own, which may be called like a paper
        return {}
    try:
        return {m.name: m.range for m in index.entry(sweep["paper"]).metrics}
    except catalog.UnknownPaper:
        return {}


def _interval(found: Any, limits: tuple[float, float] | None) -> tuple[float, float] | None:
    return (found if limits is None else found.within(*limits)).ci95
