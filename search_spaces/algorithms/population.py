"""Population based training: members that do badly go on from the weights of those that do well, otherwise set.

Jaderberg et al., "Population Based Training of Neural Networks" (arXiv:1711.09846). As all schedulers it is pure logic:
who is replaced by a copy of whom is a function of what was reported and of the seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np

from fairsweep.search_spaces._parameter import Parameter
from fairsweep.search_spaces.algorithms.schedulers import Decision, NoScheduler
from fairsweep.search_spaces.space import Space

FACTORS = (0.8, 1.2)  # of the paper (section 4.1)
LEAST = 0.02  # of the range: what a number on a linear scale changes by at least, so that none sticks at 0


@dataclass(frozen=True)
class Birth:
    """A decision: unit `loser` is replaced by a copy of `parent` as it was at `step`, with parameters explored."""

    loser: str
    parent: str
    step: int
    slot: int


class PopulationBasedTraining(NoScheduler):
    """PBT with truncation selection, in generations.

    At each milestone of a common grid the population waits until each member is there, has ended, or does not meet the
    milestone (it is below its own minimum, or it has reported no value there). Then all are ranked by what they report
    *now*, and each of the worst `quantile` goes on as a copy of one of the best `quantile`, drawn at random, if that is
    better. Everybody is so compared at an equal step, whatever the number of slots, and the order in which the reports
    come decides nothing; the price is that slots wait for the slowest at each milestone.

    A failed member is the worst there is, and replaced. One that has completed counts, and is neither copied nor
    replaced. A copy is a unit of its own: it has one configuration, whose parameters are known for each of its steps.
    """

    name = "pbt"
    waits = True
    latest = True

    def __init__(
        self,
        mode: str,
        minimum: int,
        maximum: int,
        space: Space,
        seed: int = 0,
        interval: int | None = None,
        quantile: float = 0.25,
        resample: float = 0.25,
        perturb: Sequence[str] | None = None,
    ) -> None:
        if not 0 < quantile <= 0.5:
            raise ValueError(f"scheduler.quantile={quantile}: must be above 0 and at most 0.5")
        if not 0 <= resample <= 1:
            raise ValueError(f"scheduler.resample={resample}: must lie in [0, 1]")
        if interval is not None and interval < 1:
            raise ValueError(f"scheduler.interval={interval}: must be at least 1")
        super().__init__()
        self.sign = 1.0 if mode == "min" else -1.0
        self.space, self.seed, self.quantile, self.resample = space, seed, quantile, resample
        self.perturb = perturbable(space) if perturb is None else checked(space, perturb)
        self.every = interval if interval is not None else max(1, maximum // 10)
        self.due = self._first(minimum)  # the milestone that the population is waiting at, or trains for
        self.slots: list[str] = []  # the unit in each place of the population; empty until all are there
        self.place: dict[str, int] = {}
        self.births: list[Birth] = []  # decided, and not yet carried out
        self._meets: dict[str, frozenset[int]] = {}
        self._reached: dict[str, int] = {}
        self._now: dict[str, tuple[int, float]] = {}  # step and loss of the last report
        self._failed: set[str] = set()
        self._paused: set[str] = set()
        self._replaced: set[str] = set()
        self._ready: dict[str, None] = {}  # in the order in which they came
        self._awaited: set[str] = set()  # who has not come to the milestone that is due

    def _first(self, minimum: int) -> int:
        return -(-minimum // self.every) * self.every

    def milestones(self, minimum: int, maximum: int, unit: str = "") -> tuple[int, ...]:
        found = tuple(range(self._first(minimum), maximum, self.every))
        self._meets[unit] = frozenset(found)
        return found

    # -- what the caller says ---------------------------------------------------------------------------

    def gathered(self, units: Sequence[str]) -> None:
        """The population is complete: these are its first members. Nobody is ranked before."""
        self.slots = list(units)
        self.place = {unit: k for k, unit in enumerate(units)}
        self._await()
        self._advance()

    def report(self, unit: str, step: int, value: float) -> Decision:
        if unit in self._replaced:
            return "stop"
        self._reached[unit], self._now[unit] = step, (step, self.sign * value)
        if step < self.due and unit not in self.over:
            return "continue"  # it had failed, was taken up again, and the others are ahead
        self._paused.add(unit)
        self._advance(unit)
        return "pause"

    def ended(self, unit: str, failed: bool = False) -> None:
        super().ended(unit)
        if failed:
            self._failed.add(unit)
        self._advance(unit)

    def revived(self, unit: str) -> None:
        super().revived(unit)
        self._failed.discard(unit)
        if unit in self.place and not self._has_come(unit):
            self._awaited.add(unit)

    def born(self, loser: str, child: str) -> None:
        """`child` has taken the place of `loser`."""
        birth = next((b for b in self.births if b.loser == loser), None)
        if birth is not None:
            self.births.remove(birth)
        self.slots[self.place[loser]] = child
        self.place[child] = self.place.pop(loser)
        self._replaced.add(loser)
        self._paused.discard(loser)
        self._awaited.discard(loser)
        if not self._has_come(child):
            self._awaited.add(child)
        self._advance()

    def spared(self, loser: str) -> None:
        """`loser` could not be replaced, and goes on as it is."""
        self.births = [b for b in self.births if b.loser != loser]
        if loser in self._paused:
            self._ready[loser] = None
        self._advance()

    def promotable(self) -> str | None:
        return next(iter(self._ready), None)

    def promoted(self, unit: str) -> None:
        self._paused.discard(unit)
        self._ready.pop(unit, None)

    def rests(self, unit: str) -> bool:
        return unit in self._paused or unit in self._replaced or unit in self.over

    # -- generations --------------------------------------------------------------------------------------

    def _await(self) -> None:
        self._awaited = {unit for unit in self.slots if not self._has_come(unit)}

    def _advance(self, unit: str = "") -> None:
        """Ends generations for as long as everybody has come to the milestone that is due; `unit` may just have."""
        if unit in self._awaited and self._has_come(unit):
            self._awaited.remove(unit)
        while self.slots and not self.births and not self._awaited:
            if not any(self._trains(member) for member in self.slots):
                return
            self._select()
            self.due += self.every
            self._await()

    def _trains(self, unit: str) -> bool:
        """Whether the unit meets the milestone that is due, or a later one, and has not ended."""
        return unit not in self.over and max(self._meets.get(unit, ()), default=0) >= self.due

    def _has_come(self, unit: str) -> bool:
        passed = self._reached.get(unit, 0) >= self.due
        return unit in self.over or passed or self.due not in self._meets.get(unit, ())

    def _select(self) -> None:
        losses: list[tuple[float, int]] = []
        for slot, unit in enumerate(self.slots):
            step, loss = self._now.get(unit, (0, 0.0))
            if unit in self._failed:
                losses.append((inf, slot))
            elif step == self.due or (step and unit in self.over):
                losses.append((loss, slot))
        losses.sort()
        many = max(1, int(self.quantile * len(losses))) if len(losses) > 1 else 0
        best = [(loss, slot) for loss, slot in losses[:many] if self._at_rung(self.slots[slot])]
        for loss, slot in reversed(losses[len(losses) - many :]):
            loser = self.slots[slot]
            if not best or (loser in self.over and loser not in self._failed):
                continue
            chosen = best[int(self._generator(slot, self.due).integers(len(best)))]
            if chosen[0] < loss:
                self.births.append(Birth(loser, self.slots[chosen[1]], self.due, slot))
        losers = {birth.loser for birth in self.births}
        self._ready |= dict.fromkeys(u for u in self.slots if self._at_rung(u) and u not in losers)

    def _at_rung(self, unit: str) -> bool:
        return unit in self._paused and unit not in self.over and self._reached[unit] == self.due

    def _generator(self, slot: int, step: int, *more: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, step, slot, *more])

    def offspring(self, birth: Birth, config: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration of a copy of `config`: each of `perturb` drawn anew or moved."""
        rng = self._generator(birth.slot, birth.step, 1)
        return explored(self.space, config, self.perturb, self.resample, rng)


def perturbable(space: Space) -> tuple[str, ...]:
    """What may be changed in mid-training where nobody says otherwise: the numbers that are searched, and that decide
    of no other whether it exists. ValueError if there are none."""
    parents = {name for p in space.parameters.values() for name in p.when}
    found = tuple(
        name
        for name, p in space.parameters.items()
        if not p.fixed and p.kind in ("float", "int") and name not in parents
    )
    if not found:
        raise ValueError(
            "scheduler=pbt: the space has no searched number to perturb; name categories in scheduler.perturb"
        )
    return found


def checked(space: Space, names: Sequence[str]) -> tuple[str, ...]:
    """`names`, if each can be perturbed. ValueError names the first that cannot."""
    if isinstance(names, str) or not names:
        raise ValueError(f"scheduler.perturb={names}: must list at least one parameter, such as [lr]")
    for name in names:
        if name not in space.parameters:
            known = ", ".join(n for n, p in space.parameters.items() if not p.fixed)
            raise ValueError(f"scheduler.perturb: {name}: no such parameter; searched are {known}")
        if space.parameters[name].fixed:
            raise ValueError(f"scheduler.perturb: {name}: is fixed, so there is nothing to perturb")
        children = [p.name for p in space.parameters.values() if name in p.when]
        if children:
            raise ValueError(
                f"scheduler.perturb: {name}: cannot change in mid-training, {', '.join(children)} "
                f"exist{'s' if len(children) == 1 else ''} only with some of its values"
            )
    return tuple(names)


def explored(
    space: Space, config: Mapping[str, Any], names: Sequence[str], resample: float, rng: np.random.Generator
) -> dict[str, Any]:
    """`config` with each of `names` that it has drawn anew with probability `resample`, else moved.

    A number is multiplied by 0.8 or 1.2, moves by a unit or step at least, and stays in its range; a category stays.
    """
    found = dict(config)
    for name in names:
        anew, up = rng.random() < resample, rng.random() < 0.5  # drawn also where a parameter does not exist
        p = space.parameters[name]
        drawn = p.draw(rng)
        if name not in config:
            continue
        if anew:
            found[name] = drawn
        elif p.kind in ("float", "int"):
            found[name] = _moved(p, config[name], up)
    return found


def neighbour(p: Parameter, value: Any) -> Any:
    """A value of `p` next to `value`, as `explored` may give it; `value` itself if there is no other."""
    if p.kind in ("float", "int"):
        others = [_moved(p, value, up) for up in (True, False)]
    else:
        others = list(p.points(1))
    return next((other for other in others if other != value), value)


def _moved(p: Parameter, value: float, up: bool) -> Any:
    assert p.low is not None and p.high is not None
    by = abs(value * (FACTORS[up] - 1.0))
    if not p.log:
        by = max(by, LEAST * (p.high - p.low))
    if p.kind == "int" or p.step is not None:
        by = max(by, p.step or 1)
    wanted = min(max(value + by if up else value - by, p.low), p.high)
    if p.step is not None:
        return p.level(min(max(round((wanted - p.low) / p.step), 0), p.levels - 1))
    return round(wanted) if p.kind == "int" else float(wanted)
