"""Population based training by hand: who waits, who is replaced by whom, and what a copy is set to."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from fairsweep.search_spaces.algorithms import create_scheduler
from fairsweep.search_spaces.algorithms.population import (
    PopulationBasedTraining,
    checked,
    explored,
    neighbour,
    perturbable,
)
from fairsweep.search_spaces.space import Space

SPACE = Space.from_mapping(
    {
        "lr": {"type": "float", "low": 1e-4, "high": 1.0, "log": True, "paper": 0.1},
        "drop": {"type": "float", "low": 0.0, "high": 0.5, "paper": 0.0},
        "layers": {"type": "int", "low": 1, "high": 8, "paper": 2},
        "width": {"type": "int", "low": 8, "high": 64, "step": 8, "paper": 16},
        "net": {"type": "categorical", "choices": ["a", "b"], "paper": "a"},
        "heads": {"type": "int", "low": 1, "high": 4, "paper": 1, "when": {"net": ["b"]}},
        "seen": 3,
    },
    source="test",
)
CONFIG = {"lr": 0.1, "drop": 0.0, "layers": 2, "width": 16, "net": "a", "seen": 3}


def population(many: int = 8, steps: int = 9, **options: Any) -> PopulationBasedTraining:
    rule = PopulationBasedTraining("min", 1, steps, SPACE, **{"interval": 2, **options})
    for unit in range(many):
        rule.milestones(1, steps, str(unit))
    rule.gathered([str(unit) for unit in range(many)])
    return rule


def going_on(rule: PopulationBasedTraining) -> list[str]:
    found = []
    while (unit := rule.promotable()) is not None:
        rule.promoted(unit)
        found.append(unit)
    return found


def test_all_wait_for_all_and_the_worst_quarter_is_replaced_by_the_best_one() -> None:
    rule = population()
    for unit in range(7):
        assert rule.report(str(unit), 2, float(unit)) == "pause" and rule.rests(str(unit))
    assert rule.promotable() is None and not rule.births, "one is missing"
    rule.report("7", 2, 7.0)
    assert [b.loser for b in rule.births] == ["7", "6"], "the worst first"
    assert {b.parent for b in rule.births} <= {"0", "1"} and {b.step for b in rule.births} == {2}
    for child, birth in zip("89", list(rule.births), strict=True):
        rule.milestones(1, 9, child)
        rule.born(birth.loser, child)
    assert going_on(rule) == ["0", "1", "2", "3", "4", "5"] and rule.rests("7") and not rule.rests("8")
    assert rule.due == 4 and rule.slots == ["0", "1", "2", "3", "4", "5", "9", "8"]
    assert rule.report("7", 4, 0.0) == "stop", "who was replaced never goes on"


@pytest.mark.parametrize("order", range(3))
def test_the_order_of_the_reports_decides_nothing(order: int) -> None:
    def births(order: int) -> list[Any]:
        rule, units = population(seed=5), [str(n) for n in range(8)]
        values = dict(zip(units, random.Random(0).sample(range(100), 8), strict=True))
        random.Random(order).shuffle(units)
        for unit in units:
            rule.report(unit, 2, values[unit])
        return list(rule.births)

    assert births(order) == births(99) and len(births(order)) == 2


def test_a_member_that_failed_is_the_worst_and_one_that_completed_stays() -> None:
    rule = population(4)
    rule.report("0", 2, 0.0)
    rule.report("1", 2, 1.0)
    rule.ended("2", failed=True)
    rule.report("3", 2, 3.0)
    assert [(b.loser, b.parent) for b in rule.births] == [("2", "0")]
    rule.milestones(1, 9, "4")
    rule.born("2", "4")
    for unit in going_on(rule):
        assert unit in "013"
    rule.report("0", 4, 0.0)
    rule.ended("1")  # complete, at 1.0 when it was last judged
    rule.report("3", 4, 0.5)
    assert not rule.births
    rule.report("4", 4, 0.75)
    assert not rule.births, "the worst has completed: it is not replaced, and nobody in its stead"
    assert going_on(rule) == ["0", "4", "3"], "in the order of their places"


def test_nobody_is_replaced_by_an_equal_one_and_a_copy_that_cannot_be_made_is_not_missed() -> None:
    rule = population(4)
    for unit in "0123":
        rule.report(unit, 2, 1.0)
    assert not rule.births and going_on(rule) == list("0123")
    for unit in "0123":
        rule.report(unit, 4, float(unit))
    assert [b.loser for b in rule.births] == ["3"]
    rule.spared("3")
    assert going_on(rule) == list("0123") and not rule.births


def test_who_reports_nothing_at_a_milestone_or_is_below_its_minimum_is_passed_over() -> None:
    rule = PopulationBasedTraining("max", 1, 9, SPACE, interval=2)
    for unit, minimum in (("0", 1), ("1", 1), ("2", 5)):
        rule.milestones(minimum, 9, unit)
    rule.gathered(["0", "1", "2"])
    rule.report("0", 2, 1.0)
    rule.report("1", 4, 0.5)  # it had no value at 2
    assert going_on(rule) == ["0"] and not rule.births
    rule.report("0", 4, 1.0)
    assert [(b.loser, b.parent) for b in rule.births] == [("1", "0")], "the third comes in at 6"
    assert rule.due == 6


def test_a_failed_member_that_runs_again_catches_up() -> None:
    rule = population(4)
    for unit in "012":
        rule.report(unit, 2, 1.0)
    rule.ended("3", failed=True)
    rule.spared("3")
    assert going_on(rule) == list("012")
    rule.revived("3")
    for unit in "012":
        rule.report(unit, 4, 1.0)
    assert rule.promotable() is None, "it is waited for"
    assert rule.report("3", 2, 9.0) == "continue"
    assert rule.report("3", 4, 9.0) == "pause"
    assert [b.loser for b in rule.births] == ["3"]


def test_a_report_costs_the_same_in_a_large_population(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking at each report whether all are there would ask as many as there are."""
    asked = 0
    real = PopulationBasedTraining._has_come

    def counted(self: PopulationBasedTraining, unit: str) -> bool:
        nonlocal asked
        asked += 1
        return real(self, unit)

    monkeypatch.setattr(PopulationBasedTraining, "_has_come", counted)
    rule = population(400)
    asked = 0
    for unit in range(399):
        rule.report(str(unit), 2, float(unit))
    assert asked <= 399


def test_what_is_explored_stays_in_the_space_and_moves_or_is_drawn() -> None:
    names = perturbable(SPACE)
    assert names == ("lr", "drop", "layers", "width", "heads")
    rng = np.random.default_rng(0)
    moved = [explored(SPACE, CONFIG, names, 0.0, rng) for _ in range(60)]
    assert {round(m["lr"], 6) for m in moved} == {0.08, 0.12}
    assert {m["drop"] for m in moved} == {0.0, 0.01}, "a number at 0 does not stay there"
    assert {m["layers"] for m in moved} == {1, 3} and {m["width"] for m in moved} == {8, 24}
    for config in moved + [explored(SPACE, CONFIG, names, 1.0, rng) for _ in range(60)]:
        assert SPACE.validate(config) == config and config["net"] == "a" and "heads" not in config
    only = explored(SPACE, CONFIG, ("lr",), 0.25, rng)
    assert {k for k in CONFIG if only[k] != CONFIG[k]} == {"lr"}
    assert neighbour(SPACE.parameters["layers"], 8) == 6 and neighbour(SPACE.parameters["net"], "a") == "b"


def test_a_copy_is_a_function_of_seed_step_and_place() -> None:
    def children(seed: int) -> list[dict[str, Any]]:
        rule = population(seed=seed)
        for unit in range(8):
            rule.report(str(unit), 2, float(unit))
        return [rule.offspring(b, CONFIG) for b in rule.births]

    assert children(1) == children(1) != children(2)
    assert children(1)[0] != children(1)[1]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"quantile": 0.6}, "scheduler.quantile=0.6: must be above 0 and at most 0.5"),
        ({"resample": -0.1}, r"scheduler.resample=-0.1: must lie in \[0, 1\]"),
        ({"interval": 0}, "scheduler.interval=0: must be at least 1"),
        ({"perturb": []}, "must list at least one"),
        ({"perturb": ["rl"]}, "rl: no such parameter; searched are lr, drop"),
        ({"perturb": ["seen"]}, "seen: is fixed"),
        ({"perturb": ["net"]}, "net: cannot change in mid-training, heads exists only"),
    ],
)
def test_options_that_are_wrong_are_named(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        create_scheduler("pbt", "min", 1, 9, SPACE, **options)
    assert checked(SPACE, ["lr", "drop"]) == ("lr", "drop")


def test_a_space_without_numbers_has_nothing_to_perturb() -> None:
    space = Space.from_mapping(
        {"net": {"type": "categorical", "choices": ["a", "b"], "paper": "a"}}, source="t"
    )
    with pytest.raises(ValueError, match="no searched number to perturb"):
        create_scheduler("pbt", "min", 1, 9, space)
    assert create_scheduler("pbt", "min", 1, 9, space, perturb=["net"]).name == "pbt"
