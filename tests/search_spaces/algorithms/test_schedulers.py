"""Early stopping by hand: rungs, promotion, what ended, and what a decision costs."""

from __future__ import annotations

import random
import statistics
from collections import Counter

import pytest

from fairsweep.search_spaces.algorithms.hyperband import Hyperband
from fairsweep.search_spaces.algorithms.schedulers import ASHA, MedianStopping


def sorted_asha(reports: list[tuple[str, int, float]], eta: int) -> list[str]:
    """What ASHA says, by sorting each rung anew: the definition."""
    rungs: dict[int, dict[str, float]] = {}
    said = []
    for unit, step, value in reports:
        rung = rungs.setdefault(step, {})
        rung[unit] = value
        top = sorted(rung, key=rung.__getitem__)[: len(rung) // eta]
        said.append("continue" if unit in top else "pause")
    return said


def test_asha_decides_as_if_it_sorted_each_rung() -> None:
    rng = random.Random(0)
    reports = [(f"{n:05d}-0", rng.choice([1, 3]), rng.choice([rng.random(), 0.5])) for n in range(300)]
    asha = ASHA("min", 1, eta=3)
    assert [asha.report(*r) for r in reports] == sorted_asha(reports, 3)
    while (unit := asha.promotable()) is not None:
        level = asha.paused[unit]
        better = [
            u for u, (loss, _) in asha.rungs[level].place.items() if loss < asha.rungs[level].place[unit][0]
        ]
        assert len(better) < len(asha.rungs[level].place) // 3, "it is not among the best third"
        asha.promoted(unit)


@pytest.mark.parametrize("ended", ["complete", "failed"])
def test_what_ended_counts_in_its_rung_and_is_never_promoted(ended: str) -> None:
    asha = ASHA("min", 1, eta=3)
    for unit, value in (("a", 0.1), ("b", 0.2), ("c", 0.3)):
        assert asha.report(unit, 1, value) == "pause" or unit == "c"
    asha.ended("a")
    assert asha.promotable() is None, "the one place of three is taken by what ended"
    for unit, value in (("d", 0.4), ("e", 0.5), ("f", 0.6)):
        asha.report(unit, 1, value)
    assert asha.promotable() == "b", "two of six may go on, and the other has ended"
    assert asha.survivor() == "b"
    asha.revived("a")
    assert asha.promotable() == "a"


def test_rungs_reach_as_far_as_the_longest_trial() -> None:
    asha = ASHA("min", 1, eta=3)
    assert asha.milestones(1, 9) == (1, 3)
    assert asha.milestones(1, 100) == (1, 3, 9, 27, 81)
    assert asha.milestones(4, 100) == (9, 27, 81)


@pytest.mark.parametrize(
    ("base", "minimum", "maximum"), [(4, 1, 3), (4, 5, 10), (1, 28, 30), (10, 2, 9), (7, 30, 60)]
)
def test_every_trial_is_judged_whatever_its_fidelity(base: int, minimum: int, maximum: int) -> None:
    for rule in (ASHA("min", base, eta=3), MedianStopping("min", base, 40, min_trials=1)):
        found = rule.milestones(minimum, maximum)
        assert found and all(minimum <= step < maximum for step in found)
        assert rule.milestones(maximum, maximum) == ()
        assert rule.report("a", found[0], 0.0) in ("pause", "continue")
        assert rule.report("b", found[0], 1.0) in ("pause", "stop"), "it is worse than the only other one"


def test_a_trial_between_two_rungs_is_judged_in_the_lower() -> None:
    asha = ASHA("min", 4, eta=3)
    assert asha.milestones(5, 10) == (5,)
    assert asha.milestones(1, 1) == ()  # what has had all its steps is not paused
    for unit, value in (("a", 0.5), ("b", 0.6), ("c", 0.7)):
        asha.report(unit, 4, value)
    assert asha.report("d", 5, 0.1) == "continue"
    assert asha.report("e", 5, 0.9) == "pause"


def test_longer_trials_meet_the_same_checks_of_the_median_rule_and_not_many_more() -> None:
    rule = MedianStopping("min", 1, 101, checks=10)
    usual = rule.milestones(1, 101)
    assert usual == tuple(range(1, 101, 10))
    longer = rule.milestones(1, 5001)
    assert 10 <= len(longer) <= 21 and all((step - 1) % 10 == 0 for step in longer)


def test_hyperband_has_the_brackets_of_the_paper() -> None:
    """Table 1 of the paper: R=81, eta=3 has brackets of 81, 34, 15, 8 and 5 configurations; here in every prefix."""
    rule = Hyperband("min", 1, 81, eta=3)
    found = [rule.milestones(1, 81, f"{n:05d}-0") for n in range(286)]
    rungs = (1, 3, 9, 27)
    assert Counter(found) == {rungs: 162, rungs[1:]: 68, rungs[2:]: 30, rungs[3:]: 16, (): 10}
    for end in range(1, 286):
        for k, size in enumerate((81, 34, 15, 8, 5)):
            assert abs(found[:end].count(rungs[k:]) - size / 143 * end) < 1.0
    assert rule.milestones(1, 81, "00007-0") == found[7], "asked again it says the same"


def test_hyperband_compares_within_a_bracket() -> None:
    rule = Hyperband("max", 1, 9, eta=3)
    for n in range(22):
        rule.milestones(1, 9, str(n))
    of = {b: [str(n) for n in range(22) if rule.bracket[str(n)] == b] for b in (0, 1)}
    for unit in of[0][:3]:
        rule.report(unit, 1, 0.0)
        rule.promoted(unit)
        rule.report(unit, 3, 1.0)
    said = [rule.report(unit, 3, value) for unit, value in zip(of[1], (0.1, 0.2, 0.3), strict=False)]
    assert said == ["pause", "pause", "continue"], "the best of its bracket, worse than all of the other"
    assert rule.promotable() == of[0][0] and not rule.rests(of[1][2])
    rule.ended(of[0][0])
    assert rule.promotable() is None, "the place is taken by what ended"
    assert rule.rests(of[0][0])
    rule.revived(of[0][0])
    assert rule.promotable() == of[0][0]


def test_a_trial_of_other_length_keeps_its_bracket() -> None:
    rule = Hyperband("min", 1, 27, eta=3)
    for n in range(60):
        rule.milestones(1, 27, str(n))
    late = {b: next(u for u in rule.bracket if rule.bracket[u] == b) for b in range(4)}
    assert [rule.milestones(4, 100, late[b]) for b in range(4)] == [(9, 27, 81), (27, 81), (81,), ()]


def test_the_median_is_that_of_the_others() -> None:
    rng = random.Random(1)
    rule, losses = MedianStopping("max", 1, 11, min_trials=4), []
    for n in range(200):
        value = rng.random()
        late = len(losses) >= 4 and -value > statistics.median(losses)
        assert rule.report(str(n), 1, value) == ("stop" if late else "continue")
        assert rule.rests(str(n)) == late
        losses.append(-value)


class Counted(float):
    """A number that counts how often it is compared."""

    comparisons = 0

    def __lt__(self, other: float) -> bool:
        Counted.comparisons += 1
        return float(self) < float(other)

    def __rmul__(self, other: float) -> Counted:
        return Counted(float(self) * other)


def comparisons_a_decision(n: int) -> float:
    """Of ASHA with `n` units in its first rung: of a report and a look for who may go on."""
    rng = random.Random(2)
    asha = ASHA("min", 1, eta=3)
    for k in range(n):
        asha.report(str(k), 1, Counted(rng.random()))
    Counted.comparisons = 0
    for k in range(n, n + 300):
        asha.report(str(k), 1, Counted(rng.random()))
        unit = asha.promotable()
        if unit is not None:
            asha.promoted(unit)
    return Counted.comparisons / 300


def test_a_decision_of_asha_costs_the_same_in_a_long_sweep() -> None:
    """Where each look sorted the rung, it took as many comparisons as there were units, and more."""
    few, many = comparisons_a_decision(1_500), comparisons_a_decision(6_000)
    assert few > 10, "it compares"
    assert many < 1.5 * few
