"""What a sweep with several objectives has found: configurations over their seeds, and which of them are best."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from fairsweep.analysis.fronts import hypervolume, pareto
from fairsweep.analysis.statistics import Summary, summarise


@dataclass(frozen=True)
class Point:
    """A configuration all of whose seeds are complete.

    values: metric -> its mean over the seeds with Student's interval, for objectives and what is limited. broken: by
    how much all limits together are exceeded, 0 if they are kept. on_front: no other one is as good in all objectives
    and better in one, among those that break the limits least.
    """

    config_id: int
    seeds: int
    values: Mapping[str, Summary]
    broken: float
    on_front: bool
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Front:
    """points: all, by config_id. modes, limits: what was asked for. volume: the hypervolume beyond `reference`."""

    points: tuple[Point, ...]
    modes: Mapping[str, str]
    limits: Mapping[str, Mapping[str, float]]
    volume: float | None
    reference: Mapping[str, float] | None

    @property
    def best(self) -> list[Point]:
        """Those on the front, by the first objective, best first."""
        first, mode = next(iter(self.modes.items()))
        sign = 1.0 if mode == "min" else -1.0
        on = [p for p in self.points if p.on_front]
        return sorted(on, key=lambda p: (sign * (p.values[first].mean or 0.0), p.config_id))


def front(
    trials: pa.Table,
    modes: Mapping[str, str],
    limits: Mapping[str, Mapping[str, float]] | None = None,
    reference: Mapping[str, float] | None = None,
) -> Front:
    """The Pareto front of a sweep's configurations.

    trials: the store's table of trials of one sweep. modes: objective -> min or max. Limits come first: of two
    configurations the one that breaks them by less is better, whatever the objectives. reference: the value of
    each objective beyond which volume counts; None: the worst of any complete configuration. KeyError if it lacks an
    objective.
    """
    limits = limits or {}
    names = tuple(dict.fromkeys([*modes, *limits]))
    configs = dict(zip(trials["config_id"].to_pylist(), trials["config_json"].to_pylist(), strict=True))
    found = [
        c for c in summarise(trials) if c.complete and all(c.metrics[name].mean is not None for name in names)
    ]
    broken = [sum(_over(c.metrics[name].mean or 0.0, limits[name]) for name in limits) for c in found]
    least = min(broken, default=0.0)
    means = [[c.metrics[name].mean or 0.0 for name in modes] for c in found]
    rows = [m if b == least else [float("nan")] * len(modes) for m, b in zip(means, broken, strict=True)]
    on = pareto(rows, list(modes.values()))
    points = tuple(
        Point(
            c.config_id, c.value.n, {n: c.metrics[n] for n in names}, b, o, json.loads(configs[c.config_id])
        )
        for c, b, o in zip(found, broken, on, strict=True)
    )
    if not points or least > 0:
        return Front(points, modes, limits, None, None)
    worst = {
        name: (max if mode == "min" else min)(m[k] for m in means)
        for k, (name, mode) in enumerate(modes.items())
    }
    given = dict(reference) if reference is not None else worst
    kept = [m for m, b in zip(means, broken, strict=True) if b == 0]
    volume = hypervolume(kept, list(modes.values()), [given[name] for name in modes])
    return Front(points, modes, limits, volume, given)


def _over(value: float, limits: Mapping[str, float]) -> float:
    low, high = limits.get("min", -float("inf")), limits.get("max", float("inf"))
    return max(0.0, value - high, low - value)


def as_table(points: Sequence[Point]) -> pa.Table:
    """One row a configuration: config_id, seeds, metrics with `.low` and `.high` of their intervals, broken, config."""
    rows = []
    for p in points:
        row: dict[str, Any] = {"config_id": p.config_id, "seeds": p.seeds}
        for name, s in p.values.items():
            low, high = s.ci95 or (None, None)
            row |= {name: s.mean, f"{name}.low": low, f"{name}.high": high}
        rows.append({**row, "broken": p.broken, "config_json": json.dumps(dict(p.config))})
    names = list(points[0].values) if points else []
    numbers = [pa.field(f"{n}{end}", pa.float64()) for n in names for end in ("", ".low", ".high")]
    return pa.Table.from_pylist(
        rows,
        schema=pa.schema(
            [
                pa.field("config_id", pa.int64()),
                pa.field("seeds", pa.int64()),
                *numbers,
                pa.field("broken", pa.float64()),
                pa.field("config_json", pa.string()),
            ]
        ),
    )
