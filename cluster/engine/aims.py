"""What a sweep with several objectives is after, and what its trials and configurations came to in each of them.

A trial's point is one model's: what it reported at the step of its value, the one with the best value of the first
objective, or the model that the trainable keeps. Of a metric that is not reported at each step the last report counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fairsweep.cluster.engine.trial import Trial
from fairsweep.search_spaces.algorithms import Outcome


@dataclass(frozen=True)
class Aims:
    """modes: objective -> min or max, in order. limits: metric -> "min" and "max" that it must keep."""

    modes: Mapping[str, str]
    limits: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def watched(self) -> tuple[str, ...]:
        """All metrics that a trial must report."""
        return tuple(dict.fromkeys([*self.modes, *self.limits]))

    def see(self, trial: Trial, step: int, metrics: Mapping[str, Any]) -> None:
        """Enters a report of a trial, after its value was."""
        for name in self.watched:
            value = metrics.get(name)
            if value is not None and math.isfinite(value):
                trial.seen[name] = value
        if trial.value_step == step:
            trial.point = dict(trial.seen)

    def completed(self, trial: Trial, kept: Mapping[str, Any]) -> str:
        """Enters the report `kept` of the model that the trainable keeps, {} where that is of the best value.

        Returns why the trial has failed, where one of the metrics was never reported.
        """
        own = {name: kept[name] for name in self.watched if kept.get(name) is not None}
        trial.point = {**trial.seen, **trial.point, **own}
        never = [name for name in self.watched if name not in trial.point]
        return f"never reported {', '.join(never)}" if never else ""

    def outcome(self, group: list[Trial], found: Outcome) -> Outcome:
        """`found` of a configuration with its mean in each objective, and by how much it breaks each limit."""
        if found.reason != "complete":
            return found
        mean = {name: sum(t.point[name] for t in group) / len(group) for name in self.watched}
        broken: dict[str, float] = {}
        for name, limits in self.limits.items():
            for side, limit in limits.items():
                over = mean[name] - limit if side == "max" else limit - mean[name]
                broken[f"{name}.{side}"] = over
        return replace(found, values=tuple(mean[name] for name in self.modes), broken=broken)
