"""Runs a search on a table of known values, one evaluation at a time."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite

from fairsweep.search_spaces.algorithms.base import Algorithm, Outcome
from fairsweep.search_spaces.architectures.base import Architecture, ArchitectureSpace


def search_table(
    algorithm: Algorithm,
    space: ArchitectureSpace,
    value: Callable[[Architecture], float],
    evaluations: int,
) -> list[tuple[Architecture, float]]:
    """The architectures that `algorithm` asked for and their values, in order; fewer if it finishes before.

    value: looks an architecture up; NaN is a failed evaluation.
    """
    history: list[tuple[Architecture, float]] = []
    while len(history) < evaluations:
        asked = algorithm.ask(1)
        if not asked:
            break
        architecture = space.from_options(asked[0].config)
        found = value(architecture)
        history.append((architecture, found))
        outcome = Outcome(found, 1, "complete") if isfinite(found) else Outcome(None, 0, "failed")
        algorithm.tell(asked[0], outcome)
    return history
