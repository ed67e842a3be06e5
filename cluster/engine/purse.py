"""What a sweep may spend over all its trials together, steps or time of training; what of it is used or spoken for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fairsweep.cluster.engine.judging import OVER, Judge
from fairsweep.cluster.engine.trial import SPENT, Rules, Trial


class Purse:
    """The budgets of a sweep's trials taken together, `Rules.total_steps` and `Rules.total_s`.

    Steps: whoever is begun, or sent on from a pause, may need all that is left up to its maximum. It begins only if
    that fits into what is left after what those that are under way may need, so that no more is ever spent than there
    is, and nobody has to be ended for it. What a scheduler's pause leaves over is free for others; the last that was
    begun could always be trained to its end, which is why one of a sweep is complete in the end, if it does not fail.
    What a trial reports beyond its maximum, on its return, is no step. Time: as trials report it, so what runs may
    take a report's time longer each.
    """

    def __init__(self, rules: Rules, judge: Judge) -> None:
        self.rules, self.judge = rules, judge
        self.used, self.spent_s = 0, 0.0
        self.usual = 0  # steps that the configuration may take which was asked for last

    @property
    def limited(self) -> bool:
        """Whether there is such a budget at all."""
        return self.rules.total_steps is not None or self.rules.total_s is not None

    @property
    def empty(self) -> bool:
        """Whether the time is used up."""
        return self.rules.total_s is not None and self.spent_s >= self.rules.total_s

    @property
    def share(self) -> float:
        """How much of the purse is used, from 0 to 1."""
        steps, seconds = self.rules.total_steps, self.rules.total_s
        shares = [self.used / steps if steps else 0.0, self.spent_s / seconds if seconds else 0.0]
        return min(1.0, max(shares))

    def went(self, trial: Trial, before: int) -> None:
        """The trial has gone on from step `before` to where it is."""
        self.used += min(trial.steps, trial.maximum) - min(before, trial.maximum)

    def took(self, trial: Trial, cost_s: float) -> None:
        """The trial has taken so many seconds up to now."""
        self.spent_s += cost_s - trial.cost_s
        trial.cost_s = cost_s

    def affords(self, steps: int, under_way: Iterable[Trial]) -> bool:
        """Whether `steps` more fit beside what the configurations of the trials `under_way` may need."""
        if self.rules.total_steps is None:
            return True
        spoken_for = sum(map(self.need, {trial.config_id for trial in under_way}))
        return self.used + spoken_for + steps <= self.rules.total_steps

    def need(self, config_id: int) -> int:
        """Steps that the trials of a configuration may still take."""
        verdicts = self.judge.verdicts.get(config_id, {})
        return sum(
            max(0, trial.maximum - trial.steps)
            for trial in self.judge.groups[config_id]
            if trial.state not in OVER and verdicts.get(trial.steps) != "stop"
        )

    def whole(self, config: Mapping[str, Any]) -> int:
        """Steps that a configuration which has not begun may take, under all seeds."""
        if self.rules.total_steps is None:
            return 0
        _, maximum, fault = self.rules.extent(config)
        self.usual = 0 if fault else maximum * len(self.rules.seeds)
        return self.usual

    def why(self, trial: Trial) -> str:
        """The reason of a trial that ends because the time is used up."""
        return f"{SPENT} at step {trial.steps}"

    def closing(self, wanting: bool) -> str | None:
        """What is to be said at the end of a sweep that has come to the end of its purse. wanting: it would go on."""
        rules, more = self.rules, "; `fairsweep resume` with budget.{}=+N adds to it"
        if self.empty:
            said = f"budget.total_minutes={(rules.total_s or 0) / 60:g} is used up ({self.spent_s:.0f} s)"
            said += more.format("total_minutes")
        elif rules.total_steps is not None and wanting:
            said = (
                f"budget.total_steps={rules.total_steps}: {self.used} are used, and what is left is too little for"
                " another configuration"
            )
            said += more.format("total_steps")
        else:
            return None
        if any(all(t.state == "complete" for t in group) for group in self.judge.groups.values()):
            return said
        return f"{said}; no configuration is complete, the best value is that of an unfinished one"
