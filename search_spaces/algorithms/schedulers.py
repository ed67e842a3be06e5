"""Early stopping as pure logic: told the objective at milestones, it says who goes on.

What is judged is a *unit*: a trial, or all trials of one configuration by their mean. It is looked at only
at the milestones that the scheduler names, and never below its own smallest meaningful fidelity. All
decisions are functions of what was reported, in order, so a resumed sweep decides as the uninterrupted one
would have. The cost of a decision does not grow with the number of units beyond a search in a sorted list.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from typing import Literal, Protocol

Decision = Literal["continue", "pause", "stop"]


class Scheduler(Protocol):
    """Decides over units at milestones. `mode` is the objective's direction, values are best-so-far, or `latest`."""

    name: str
    waits: bool  # the trials of a unit wait at a milestone for each other, rather than run on until all are there
    latest: bool  # judged by what a trial reported last, rather than by its best

    def milestones(self, minimum: int, maximum: int, unit: str = "") -> tuple[int, ...]:
        """The steps, below `maximum`, at which a trial of `unit` is judged; none below its own `minimum`.

        Asked of each new unit, in the order in which they come.
        """
        ...

    def report(self, unit: str, step: int, value: float) -> Decision:
        """Judges `unit`, whose best objective up to milestone `step` is `value`."""
        ...

    def promotable(self) -> str | None:
        """A paused unit that has earned to go on; the caller resumes it and says so with `promoted`."""
        ...

    def promoted(self, unit: str) -> None: ...

    def ended(self, unit: str, failed: bool = False) -> None:
        """The unit is complete, or has `failed`: what it reported counts, and it never goes on."""
        ...

    def revived(self, unit: str) -> None:
        """A unit that had failed is run again."""
        ...

    def rests(self, unit: str) -> bool:
        """Whether the unit was paused or stopped, or has ended, and was not told to go on since."""
        ...

    def survivor(self) -> str | None:
        """With nothing left to start: the paused unit most worth finishing, if none would finish else."""
        ...


class NoScheduler:
    """Every trial gets its whole budget."""

    name = "none"
    waits = False
    latest = False

    def __init__(self) -> None:
        self.over: set[str] = set()

    def milestones(self, minimum: int, maximum: int, unit: str = "") -> tuple[int, ...]:
        return ()

    def report(self, unit: str, step: int, value: float) -> Decision:
        return "continue"

    def promotable(self) -> str | None:
        return None

    def promoted(self, unit: str) -> None:
        pass

    def ended(self, unit: str, failed: bool = False) -> None:
        self.over.add(unit)

    def revived(self, unit: str) -> None:
        self.over.discard(unit)

    def rests(self, unit: str) -> bool:
        return unit in self.over

    def survivor(self) -> str | None:
        return None


class _Rung:
    """What was reported at one rung, best first, ties in the order of arrival; and who is paused there."""

    def __init__(self) -> None:
        self.order: list[tuple[float, int]] = []
        self.place: dict[str, tuple[float, int]] = {}
        self.held: list[tuple[float, int, str]] = []  # a heap; those that have gone on since are skipped

    def add(self, unit: str, loss: float) -> None:
        self.place[unit] = (loss, len(self.place))
        insort(self.order, self.place[unit])

    def hold(self, unit: str) -> None:
        heapq.heappush(self.held, (*self.place[unit], unit))

    def in_top(self, unit: str, eta: int) -> bool:
        """Whether the unit is among the best 1/eta."""
        return bisect_left(self.order, self.place[unit]) < len(self.order) // eta


class ASHA(NoScheduler):
    """Asynchronous successive halving with promotion (Li et al., MLSys 2020, algorithm 2).

    Rungs lie at base * eta^k for all k, where `base` is the smallest meaningful fidelity of the sweep's first
    configuration: a trial meets those between its own minimum and maximum, and one that would meet none
    is judged once, at its minimum, in the rung below. A unit that reaches a rung pauses there
    unless it is among the best 1/eta of all that have reached the rung; whenever a slot is free, the best
    paused unit that has become promotable, in the highest rung, goes on before a new one starts. The
    paper's algorithm, unlike the stopping variant, needs no luck of order: a trial stopped by early company
    can come back. Units that are complete or have failed count in their rungs and are never promoted.
    """

    name = "asha"
    waits = True

    def __init__(self, mode: str, minimum: int, eta: int = 3) -> None:
        if eta < 2:
            raise ValueError(f"scheduler.eta={eta}: must be at least 2")
        super().__init__()
        self.sign = 1.0 if mode == "min" else -1.0
        self.eta = eta
        self.base = minimum
        self.rungs: dict[int, _Rung] = {}
        self.paused: dict[str, int] = {}
        self._milestones: dict[tuple[int, int], tuple[int, ...]] = {}

    def milestones(self, minimum: int, maximum: int, unit: str = "") -> tuple[int, ...]:
        found = self._milestones.get((minimum, maximum))
        if found is None:
            found = tuple(level for level in self._levels(maximum - 1) if minimum <= level < maximum)
            if not found and minimum < maximum:
                found = (minimum,)
            self._milestones[minimum, maximum] = found
        return found

    def _levels(self, last: int) -> list[int]:
        """The rungs up to step `last`, and at least the lowest of all."""
        levels = [self.base]
        while levels[0] > 1:
            levels.insert(0, max(1, levels[0] // self.eta))
        while levels[-1] * self.eta <= last:
            levels.append(levels[-1] * self.eta)
        return [level for level in levels if level <= last] or levels[:1]

    def report(self, unit: str, step: int, value: float) -> Decision:
        level = self._levels(step)[-1]
        rung = self.rungs.setdefault(level, _Rung())
        if unit in rung.place:
            return "pause" if self.paused.get(unit) == level else "continue"
        rung.add(unit, self.sign * value)
        if unit not in self.over and rung.in_top(unit, self.eta):
            return "continue"
        self.paused[unit] = level
        rung.hold(unit)
        return "pause"

    def _best_held(self, level: int) -> str | None:
        held = self.rungs[level].held
        while held and (self.paused.get(held[0][2]) != level or held[0][2] in self.over):
            heapq.heappop(held)
        return held[0][2] if held else None

    def promotable(self) -> str | None:
        for level in sorted(self.rungs, reverse=True):
            best = self._best_held(level)
            if best is not None and self.rungs[level].in_top(best, self.eta):
                return best
        return None

    def promoted(self, unit: str) -> None:
        self.paused.pop(unit, None)

    def revived(self, unit: str) -> None:
        super().revived(unit)
        if unit in self.paused:
            self.rungs[self.paused[unit]].hold(unit)

    def rests(self, unit: str) -> bool:
        return unit in self.paused or unit in self.over

    def survivor(self) -> str | None:
        best = (self._best_held(level) for level in sorted(self.rungs, reverse=True))
        return next((unit for unit in best if unit is not None), None)


class MedianStopping(NoScheduler):
    """Stops a unit whose best value is worse than the median of the others' at the same milestone.

    The rule of Google Vizier (Golovin et al., KDD 2017, section 3.2.2) with best-so-far values; it needs
    `min_trials` others at the milestone before it speaks. Milestones are evenly spaced from `minimum`, about
    `checks` of them up to `maximum`; longer trials meet at most twice as many, shorter ones at least one.
    """

    name = "median"

    def __init__(self, mode: str, minimum: int, maximum: int, min_trials: int = 4, checks: int = 10) -> None:
        if min_trials < 1:
            raise ValueError(f"scheduler.min_trials={min_trials}: must be at least 1")
        if checks < 1:
            raise ValueError(f"scheduler.checks={checks}: must be at least 1")
        super().__init__()
        self.sign = 1.0 if mode == "min" else -1.0
        self.min_trials, self.checks, self.base = min_trials, checks, minimum
        self.every = max(1, (maximum - minimum) // checks)
        self.seen: dict[int, dict[str, Decision]] = {}
        self.losses: dict[int, list[float]] = {}  # sorted
        self.stopped: set[str] = set()

    def milestones(self, minimum: int, maximum: int, unit: str = "") -> tuple[int, ...]:
        every = self.every
        while (maximum - minimum) // every > 2 * self.checks:
            every *= 2
        first = self.base - (self.base - minimum) // every * every
        found = tuple(range(first, maximum, every))
        return found or ((minimum,) if minimum < maximum else ())

    def report(self, unit: str, step: int, value: float) -> Decision:
        level = self.base + (step - self.base) // self.every * self.every
        seen, losses = self.seen.setdefault(level, {}), self.losses.setdefault(level, [])
        if unit in seen:
            return seen[unit]
        loss, half = self.sign * value, len(losses) // 2
        late = len(losses) >= self.min_trials and loss > (losses[half] + losses[-half - 1]) / 2
        insort(losses, loss)
        seen[unit] = "stop" if late else "continue"
        if late:
            self.stopped.add(unit)
        return seen[unit]

    def rests(self, unit: str) -> bool:
        return unit in self.stopped or unit in self.over
