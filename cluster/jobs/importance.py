"""What a store knows of a sweep's configurations, for the importance of its hyperparameters."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

from fairsweep.analysis.store import Store
from fairsweep.cluster.engine.trial import Trial, combine
from fairsweep.cluster.errors import UserError
from fairsweep.search_spaces.algorithms import Outcome
from fairsweep.search_spaces.algorithms.equal_fidelity import Level
from fairsweep.search_spaces.algorithms.importance import FEWEST, Importance, importances
from fairsweep.search_spaces.space import Space, SpaceError


def of_sweep(store: Store, name: str, step: int | None = None) -> tuple[Level, list[Importance]]:
    """The importance of a sweep's hyperparameters; see `importances`. UserError if too little is known."""
    record = store.read(name)
    try:
        space = Space.from_yaml(record.sweep["space"], source=name)
        configs, outcomes = _known(record, space)
    except (SpaceError, TypeError):
        raise UserError(f"{name}: is no sweep over hyperparameters") from None
    level, found = importances(space, configs, outcomes, step)
    if len(level.values) < FEWEST:
        at = "that have ended" if step is None else f"that came to step {step}"
        raise UserError(
            f"{name}: has {len(level.values)} configurations {at}; importance needs at least {FEWEST}"
        )
    return level, found


def _known(record: Any, space: Space) -> tuple[dict[int, dict[str, Any]], dict[int, Outcome]]:
    """Configurations and what became of them, with their best up to each step at which any was stopped."""
    # What a copy of another trial came to (scheduler=pbt) is not of its configuration alone.
    rows = [row for row in record.trials.values() if not row.get("parent")]
    stops = {row["steps"] for row in rows if row["state"] in ("paused", "pruned")}
    best_of: Callable[..., float] = min if record.sweep["mode"] == "min" else max
    metric = f"metric.{record.sweep['objective']}"
    best: dict[str, float] = {}
    judged: dict[str, dict[int, float]] = {}
    for report in record.results:
        trial, value = report["trial"], report.get(metric)
        if value is not None and math.isfinite(value):
            best[trial] = best_of(best.get(trial, value), value)
        if report["step"] in stops and trial in best:
            judged.setdefault(trial, {})[report["step"]] = best[trial]
    groups: dict[int, list[Trial]] = {}
    for row in rows:
        if row["state"] in ("complete", "paused", "pruned"):
            groups.setdefault(row["config_id"], []).append(
                Trial(
                    row["trial"], row["number"], row["config_id"], row["seed"], json.loads(row["config_json"]), 1,
                    row["steps"], state=row["state"], steps=row["steps"], best=row["value"],
                    judged=judged.get(row["trial"], {}),
                )
            )  # fmt: skip
    asked = Counter(row["config_id"] for row in rows)
    whole = [g for g in groups.values() if len(g) == asked[g[0].config_id]]  # all seeds have come to rest
    return (
        {g[0].config_id: space.validate(g[0].config) for g in whole},
        {g[0].config_id: combine(g) for g in whole},
    )
