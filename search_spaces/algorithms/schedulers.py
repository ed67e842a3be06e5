"""Early stopping as pure logic: told the objective at milestones, it says who goes on.

A trial is looked at only at the milestones that the scheduler names, and never below the trial's own
smallest meaningful fidelity. All decisions are functions of what was reported, in order, so a resumed
sweep decides as the uninterrupted one would have.
"""

from __future__ import annotations

import statistics
from typing import Literal, Protocol

Decision = Literal["continue", "pause", "stop"]


class Scheduler(Protocol):
    """Decides over trials at milestones. `mode` is the objective's direction, values are best-so-far."""

    name: str

    def milestones(self, minimum: int, maximum: int) -> tuple[int, ...]:
        """The steps, below `maximum`, at which a trial is judged; none below its own `minimum`."""
        ...

    def report(self, trial: str, step: int, value: float) -> Decision:
        """Judges `trial`, whose best objective up to milestone `step` is `value`."""
        ...

    def promotable(self) -> str | None:
        """A paused trial that has earned to go on; the caller resumes it and says so with `promoted`."""
        ...

    def promoted(self, trial: str) -> None: ...

    def survivor(self) -> str | None:
        """With nothing left to start: the paused trial most worth finishing, if none would finish else."""
        ...


class NoScheduler:
    """Every trial gets its whole budget."""

    name = "none"

    def milestones(self, minimum: int, maximum: int) -> tuple[int, ...]:
        return ()

    def report(self, trial: str, step: int, value: float) -> Decision:
        return "continue"

    def promotable(self) -> str | None:
        return None

    def promoted(self, trial: str) -> None:
        pass

    def survivor(self) -> str | None:
        return None


class ASHA:
    """Asynchronous successive halving with promotion (Li et al., MLSys 2020, algorithm 2).

    Rungs lie at minimum * eta^k. A trial that reaches a rung pauses there unless it is among the best
    1/eta of all that have reached the rung; whenever a slot is free, the best paused trial that has
    become promotable, in the highest rung, goes on before a new one starts. The paper's algorithm,
    unlike the stopping variant, needs no luck of order: a trial stopped by early company can come back.
    """

    name = "asha"

    def __init__(self, mode: str, minimum: int, maximum: int, eta: int = 3) -> None:
        if eta < 2:
            raise ValueError(f"scheduler.eta={eta}: must be at least 2")
        self.sign = 1.0 if mode == "min" else -1.0
        self.eta = eta
        levels, step = [], minimum
        while step < maximum:
            levels.append(step)
            step *= eta
        self.levels = tuple(levels)
        # rung -> trial -> loss; insertion order is the order of arrival and breaks ties
        self.rungs: dict[int, dict[str, float]] = {level: {} for level in levels}
        self.gone_on: dict[int, set[str]] = {level: set() for level in levels}
        self.paused: dict[str, int] = {}

    def milestones(self, minimum: int, maximum: int) -> tuple[int, ...]:
        return tuple(level for level in self.levels if minimum <= level < maximum)

    def _top(self, level: int) -> list[str]:
        rung = self.rungs[level]
        return sorted(rung, key=rung.__getitem__)[: len(rung) // self.eta]

    def report(self, trial: str, step: int, value: float) -> Decision:
        if step not in self.rungs:
            return "continue"
        self.rungs[step][trial] = self.sign * value
        if trial in self._top(step):
            self.gone_on[step].add(trial)
            return "continue"
        self.paused[trial] = step
        return "pause"

    def promotable(self) -> str | None:
        for level in reversed(self.levels):
            for trial in self._top(level):
                if self.paused.get(trial) == level and trial not in self.gone_on[level]:
                    return trial
        return None

    def promoted(self, trial: str) -> None:
        level = self.paused.pop(trial, None)
        if level is not None:
            self.gone_on[level].add(trial)

    def survivor(self) -> str | None:
        for level in reversed(self.levels):
            here = [trial for trial, at in self.paused.items() if at == level]
            if here:
                return min(here, key=self.rungs[level].__getitem__)
        return None


class MedianStopping(NoScheduler):
    """Stops a trial whose best value is worse than the median of the others' at the same milestone.

    The rule of Google Vizier (Golovin et al., KDD 2017, section 3.2.2) with best-so-far values; it needs
    `min_trials` others at the milestone before it speaks.
    """

    name = "median"

    def __init__(self, mode: str, minimum: int, maximum: int, min_trials: int = 4, checks: int = 10) -> None:
        if min_trials < 1:
            raise ValueError(f"scheduler.min_trials={min_trials}: must be at least 1")
        if checks < 1:
            raise ValueError(f"scheduler.checks={checks}: must be at least 1")
        self.sign = 1.0 if mode == "min" else -1.0
        self.min_trials = min_trials
        every = max(1, (maximum - minimum) // checks)
        self.levels = tuple(range(minimum, maximum, every))
        self.seen: dict[int, dict[str, float]] = {}

    def milestones(self, minimum: int, maximum: int) -> tuple[int, ...]:
        return tuple(level for level in self.levels if minimum <= level < maximum)

    def report(self, trial: str, step: int, value: float) -> Decision:
        if step not in self.levels:
            return "continue"
        here = self.seen.setdefault(step, {})
        others = [loss for name, loss in here.items() if name != trial]
        here[trial] = self.sign * value
        if len(others) >= self.min_trials and self.sign * value > statistics.median(others):
            return "stop"
        return "continue"
