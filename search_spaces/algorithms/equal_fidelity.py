"""Values of jobs that early stopping ended at different fidelities, made comparable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from fairsweep.search_spaces.algorithms.base import Outcome


class Level(NamedTuple):
    """What is known of the jobs at one fidelity.

    step: the milestone, or None for the end of training. values: job -> its objective there.
    """

    step: int | None
    values: Mapping[int, float]


def value_at(outcome: Outcome, step: int | None) -> float | None:
    """The objective at milestone `step` (None: at the end), or None if the job has not come so far.

    A job that is complete keeps its value at milestones that it did not live to see; one that is judged at steps of its
    own is known at the first of them that is not before `step`.
    """
    complete = outcome.reason == "complete"
    if step is None:
        return outcome.value if complete else None
    if outcome.reason not in ("complete", "pruned", "paused"):
        return None
    later = [s for s in outcome.intermediate if s >= step]
    if later:
        return outcome.intermediate[min(later)]
    return outcome.value if complete else None


def level_at(outcomes: Mapping[int, Outcome], step: int | None) -> Level:
    """What is known at milestone `step`, or at the end (None)."""
    return Level(step, {n: v for n, o in outcomes.items() if (v := value_at(o, step)) is not None})


def levels(outcomes: Mapping[int, Outcome]) -> list[Level]:
    """Every fidelity of which something is known, the end of training first, then the later before the earlier."""
    steps = sorted({s for o in outcomes.values() for s in o.intermediate}, reverse=True)
    return [level for step in (None, *steps) if (level := level_at(outcomes, step)).values]


def common_level(outcomes: Mapping[int, Outcome], share: float) -> Level:
    """The highest fidelity that at least `share` of the jobs with any value have come to, so that those compared there
    were not chosen by how they did; where none has so many, the one with most jobs."""
    known = levels(outcomes)
    everybody = set().union(*(level.values for level in known))
    best = Level(None, {})
    for level in known:
        if len(level.values) >= share * len(everybody):
            return level
        if len(level.values) > len(best.values):
            best = level
    return best


def highest_level(outcomes: Mapping[int, Outcome], enough: int) -> Level:
    """The highest fidelity that at least `enough` jobs have come to; where none has so many, the one with most jobs."""
    best = Level(None, {})
    for level in levels(outcomes):
        if len(level.values) >= enough:
            return level
        if len(level.values) > len(best.values):
            best = level
    return best
