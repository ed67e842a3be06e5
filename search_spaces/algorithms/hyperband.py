"""Hyperband, asynchronous and promoting: brackets of successive halving that differ in how early they judge."""

from __future__ import annotations

from math import ceil

from fairsweep.search_spaces.algorithms.schedulers import ASHA, Decision, NoScheduler


class Hyperband(NoScheduler):
    """Hyperband (Li et al., JMLR 2018, algorithm 1) over asynchronous successive halving (Li et al., MLSys 2020).

    Early values may mislead, and nobody knows how much: so ASHA's rungs are used from the lowest on by one bracket,
    from the second on by the next, and so forth; the last bracket trains each of its configurations to the end. A unit
    is compared with its own bracket alone, and goes on as in `ASHA`.

    A bracket of s rungs gets ceil((s_max + 1) / (s + 1) * eta^s) of the configurations of a round, the paper's numbers,
    by which all brackets cost alike. They come interleaved: whenever the sweep ends, each bracket has had its share
    to within one configuration. A unit's bracket is a function of the order in which the units came.
    """

    name = "hyperband"
    waits = True

    def __init__(self, mode: str, minimum: int, maximum: int, eta: int = 3) -> None:
        super().__init__()
        self.rungs = ASHA(mode, minimum, eta)  # only asked for its milestones
        most = len(self.rungs.milestones(minimum, maximum))
        self.brackets = [ASHA(mode, minimum, eta) for _ in range(most + 1)]  # the earliest first
        self.sizes = [ceil((most + 1) / (s + 1) * eta**s) for s in range(most, -1, -1)]
        self.filled = [0] * (most + 1)
        self.bracket: dict[str, int] = {}

    def milestones(self, minimum: int, maximum: int, unit: str = "") -> tuple[int, ...]:
        """The rungs of the unit's bracket: those of `ASHA` but the lowest ones. A new unit is given a bracket."""
        return self.rungs.milestones(minimum, maximum)[self._bracket(unit) :]

    def _bracket(self, unit: str) -> int:
        if unit not in self.bracket:
            count, whole = len(self.bracket) + 1, sum(self.sizes)
            lack = [size * count / whole - n for size, n in zip(self.sizes, self.filled, strict=True)]
            self.bracket[unit] = lack.index(max(lack))
            self.filled[self.bracket[unit]] += 1
        return self.bracket[unit]

    def _of(self, unit: str) -> ASHA:
        return self.brackets[self._bracket(unit)]

    def report(self, unit: str, step: int, value: float) -> Decision:
        return self._of(unit).report(unit, step, value)

    def promotable(self) -> str | None:
        """The unit in the highest rung of all brackets, from the earliest bracket among equals."""
        return self._highest([bracket.promotable() for bracket in self.brackets])

    def survivor(self) -> str | None:
        return self._highest([bracket.survivor() for bracket in self.brackets])

    def _highest(self, units: list[str | None]) -> str | None:
        there = [unit for unit in units if unit is not None]
        return max(there, key=lambda unit: self._of(unit).paused[unit], default=None)

    def promoted(self, unit: str) -> None:
        self._of(unit).promoted(unit)

    def ended(self, unit: str, failed: bool = False) -> None:
        self._of(unit).ended(unit, failed)

    def revived(self, unit: str) -> None:
        self._of(unit).revived(unit)

    def rests(self, unit: str) -> bool:
        return self._of(unit).rests(unit)
