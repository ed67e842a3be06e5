"""Limits on what an architecture costs, kept before it is evaluated: what breaks them is never proposed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Any

import numpy as np

from fairsweep.search_spaces.architectures.base import LISTED, Architecture, ArchitectureSpace

Costs = Callable[[Architecture], Mapping[str, float]]  # by name: params, flops, latency_ms ...

DRAWS = 200  # draws until something better than drawing is tried

STARTS = 5  # draws that a descent towards the limits begins at


class ConstraintError(ValueError):
    """Limits that are malformed, or that no architecture found keeps; says how near the nearest comes."""


@dataclass(frozen=True)
class Limit:
    """lower <= cost <= upper."""

    lower: float = -inf
    upper: float = inf

    def excess(self, value: float) -> float:
        """By how much `value` breaks the limit, relative to the limit; 0 if it keeps it."""
        if not value <= self.upper:
            return (value - self.upper) / max(abs(self.upper), 1e-12)
        if value < self.lower:
            return (self.lower - value) / max(abs(self.lower), 1e-12)
        return 0.0


def read_limits(constraints: Mapping[str, Any]) -> dict[str, Limit]:
    """Limits by the name of the cost: a number is an upper limit, a mapping has `lower`, `upper` or both."""
    limits = {}
    for name, given in constraints.items():
        bounds = given if isinstance(given, Mapping) else {"upper": given}
        if not bounds or set(bounds) - {"lower", "upper"}:
            raise ConstraintError(
                f"constraints.{name}={dict(bounds)}: must be a number (the upper limit) or have lower and upper"
            )
        for side, bound in bounds.items():
            if isinstance(bound, bool) or not isinstance(bound, (int, float)) or bound != bound:
                raise ConstraintError(f"constraints.{name}.{side}={bound!r}: must be a number")
        limits[name] = Limit(**{side: float(bound) for side, bound in bounds.items()})
        if limits[name].lower > limits[name].upper:
            raise ConstraintError(
                f"constraints.{name}: lower={limits[name].lower:g} is above upper={limits[name].upper:g}"
            )
    return limits


class Budget:
    """The members of a space that keep the limits on their costs.

    costs: what an architecture costs, by name; asked once an architecture.
    constraints: see `read_limits`; every name must be one that `costs` gives.
    """

    def __init__(
        self, space: ArchitectureSpace, costs: Costs | None, constraints: Mapping[str, Any] | None
    ) -> None:
        self.space, self._costs = space, costs
        self.limits = read_limits(constraints or {})
        if self.limits and costs is None:
            raise ConstraintError(f"constraints.{next(iter(self.limits))}: costs=None: nothing measures it")
        self._known: dict[Architecture, dict[str, float]] = {}

    def costs(self, architecture: Architecture) -> dict[str, float]:
        """The costs of an architecture; none if the search was given none."""
        if architecture not in self._known:
            found = dict(self._costs(architecture)) if self._costs is not None else {}
            for name in self.limits:
                if name not in found:
                    raise ConstraintError(
                        f"constraints.{name}: costs has only {', '.join(found) or 'nothing'}"
                    )
            self._known[architecture] = found
        return self._known[architecture]

    def violation(self, architecture: Architecture) -> float:
        """Sum of the relative excesses over all limits; 0 if the architecture keeps them."""
        if not self.limits:
            return 0.0
        costs = self.costs(architecture)
        return sum(limit.excess(costs[name]) for name, limit in self.limits.items())

    def keeps(self, architecture: Architecture) -> bool:
        """Whether the architecture keeps all limits."""
        return self.violation(architecture) == 0.0

    @cached_property
    def members(self) -> tuple[Architecture, ...] | None:
        """All members within the limits, or None of a space too large to list."""
        if self.space.size > LISTED:
            return None
        return tuple(a for a in self.space.enumerate() if self.keeps(a))

    def draw(self, rng: np.random.Generator) -> Architecture:
        """A random member within the limits.

        Uniform while at least one of `DRAWS` draws keeps them, or the space can be listed. Under limits tighter than
        that, draws descend towards the limits by neighbours, and are no longer uniform. ConstraintError if none is
        found.
        """
        drawn = []
        for _ in range(DRAWS):
            architecture = self.space.sample(rng)
            if self.keeps(architecture):
                return architecture
            drawn.append(architecture)
        if self.members is not None:
            if self.members:
                return self.members[int(rng.integers(len(self.members)))]
            raise self._nothing(self.space.enumerate())
        ends = []
        for start in sorted(drawn, key=self.violation)[:STARTS]:
            ends.append(self.descend(start, rng))
            if self.keeps(ends[-1]):
                return ends[-1]
        raise self._nothing(ends)

    def descend(self, architecture: Architecture, rng: np.random.Generator) -> Architecture:
        """Steps to a random one of the neighbours that break the limits least, while that helps."""
        while (now := self.violation(architecture)) > 0:
            near = list(self.space.neighbours(architecture))
            least = min(map(self.violation, near), default=now)
            if least >= now:
                return architecture
            best = [a for a in near if self.violation(a) == least]
            architecture = best[int(rng.integers(len(best)))]
        return architecture

    def _nothing(self, among: Iterable[Architecture]) -> ConstraintError:
        nearest = min(among, key=self.violation)
        broken = "; ".join(
            f"{name}={self.costs(nearest)[name]:g} is not within {limit.lower:g} to {limit.upper:g}"
            for name, limit in self.limits.items()
            if limit.excess(self.costs(nearest)[name])
        )
        return ConstraintError(
            f"constraints: no architecture of {self.space.id} found that keeps {', '.join(self.limits)}; "
            f"the nearest is {self.space.format(nearest)}: {broken}"
        )
