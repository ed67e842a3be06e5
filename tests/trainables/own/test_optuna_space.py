"""What dry runs have asked for, as a space: conditions, loose names, places; and what is tried next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fairsweep.search_spaces.space import Space, SpaceError
from fairsweep.trainables.own.labels import chosen, label, plain_name
from fairsweep.trainables.own.optuna_space import Run, asked_choices, asked_of, infer, questions

Objective = Callable[["Script"], None]


class Script:
    """A trial that answers from `given`, else by defaults or by a generator, and keeps what it was asked."""

    def __init__(self, given: dict[str, Any], rng: np.random.Generator | None = None) -> None:
        self.given, self.run, self.rng = given, Run(end="return", returned=1), rng

    def _ask(self, ask: Any) -> Any:
        if ask.name not in self.run.values:
            parameter = ask.parameter()
            value = parameter.draw(self.rng) if self.rng is not None else None
            if value is None:
                value = ask.choices[0] if ask.choices else ask.low
            self.run.values[ask.name] = self.given.get(ask.name, value)
            self.run.asked.append(ask)
        return self.run.values[ask.name]

    def num(self, name: str, low: float, high: float, kind: str = "float", log: bool = False) -> Any:
        return self._ask(asked_of(name, kind, low, high, log, None))

    def cat(self, name: str, choices: list[Any]) -> Any:
        return self._ask(asked_choices(name, choices))


def explored(objective: Objective, randomly: int = 6) -> list[Run]:
    runs: list[Run] = []
    given: list[dict[str, Any]] = []
    for _ in range(200):
        plan = questions(runs, given) if runs else [{}]
        if not plan:
            break
        given.append(plan[0])
        script = Script(plan[0])
        objective(script)
        runs.append(script.run)
    for seed in range(randomly):
        script = Script({}, np.random.default_rng(seed))
        objective(script)
        runs.append(script.run)
    return runs


def space_of(objective: Objective) -> dict[str, Any]:
    found = infer(explored(objective))
    Space.from_mapping(found.space, papers=False)
    return {name: raw.get("when") if isinstance(raw, dict) else raw for name, raw in found.space.items()}


def layers(t: Script) -> None:
    for i in range(t.num("layers", 1, 3, "int")):
        t.num(f"units{i}", 4, 128, "int", log=True)


def nested(t: Script) -> None:
    if t.cat("optimizer", ["adam", "sgd"]) == "sgd" and t.cat("nesterov", [True, False]):
        t.num("momentum", 0.1, 0.9)


def conjunction(t: Script) -> None:
    a, b = t.cat("a", ["x", "y"]), t.cat("b", ["u", "v", "w"])
    if a == "y" and b in ("v", "w"):
        t.num("both", 0, 1)


def disjunction(t: Script) -> None:
    a, b = t.cat("a", ["x", "y"]), t.cat("b", ["u", "v", "w"])
    if a == "x" or b == "w":
        t.num("either", 0, 1)


def by_float(t: Script) -> None:
    if t.num("lr", 0, 1) > 0.5:
        t.num("warm", 0, 1)


def many(t: Script) -> None:
    if t.num("n", 1, 100, "int") > 50:
        t.num("large", 0, 1)


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (layers, {"layers": None, "units0": None, "units1": {"layers": [2, 3]}, "units2": {"layers": [3]}}),
        (nested, {"optimizer": None, "nesterov": {"optimizer": ["sgd"]}, "momentum": {"nesterov": [True]}}),
        (conjunction, {"a": None, "b": None, "both": {"a": ["y"], "b": ["v", "w"]}}),
        (disjunction, {"a": None, "b": None, "either": None}),  # no condition says it: always there
        (by_float, {"lr": None, "warm": None}),
        (many, {"n": None, "large": None}),  # too many values to try each
    ],
)
def test_a_name_exists_where_the_runs_prove_it_and_else_always(objective: Objective, expected: Any) -> None:
    assert space_of(objective) == expected


def test_what_no_condition_explains_is_said() -> None:
    (note,) = infer(explored(disjunction)).notes
    assert "either" in note and "every configuration" in note


def test_a_condition_needs_every_value_of_its_parents_to_have_been_tried() -> None:
    runs = [run for run in explored(layers, 0) if run.values["layers"] != 2]
    assert all("when" not in raw for raw in infer(runs).space.values())


def test_a_run_that_did_not_come_to_its_end_proves_no_absence() -> None:
    runs = explored(layers, 0)
    runs.append(Run(asked=runs[0].asked[:1], values={"layers": 3}, end="raised", error="KeyError"))
    assert infer(runs).space["units2"]["when"] == {"layers": [3]}


def test_a_range_that_depends_on_another_value_becomes_a_place() -> None:
    def objective(t: Script) -> None:
        t.num("inner", 2, t.num("outer", 4, 9, "int"), "int")

    space = infer(explored(objective)).space
    assert space["inner_place"]["low"] == 0.0 and "2 to 9" in space["inner_place"]["help"]
    assert "inner" not in space


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        (
            lambda t: t.num("x", 1, 2, "int" if t.cat("a", [1, 2]) == 1 else "float"),
            "int, log=False and as float",
        ),
        (lambda t: t.num("x", 1, 2, log=t.cat("a", [1, 2]) == 1), "log=True"),
        (lambda t: t.cat("x", ["p", "q"] if t.cat("a", [1, 2]) == 1 else ["p"]), "choices"),
    ],
)
def test_what_optuna_refuses_in_one_study_is_refused_by_name(objective: Objective, words: str) -> None:
    with pytest.raises(SpaceError, match=rf"^x: .*{words}.*two names$"):
        infer(explored(objective))


def test_labels_are_the_choices_themselves_or_texts_no_two_alike() -> None:
    class Net:
        pass

    assert label([1, 2.5, "a", None]) == [1, 2.5, "a", None]
    assert label([np.float64(0.5), np.int64(3)]) == [0.5, 3]
    odd = [(32,), (64, 64), None, Net, "${x}", 1, "1", True]
    words = label(odd)
    assert len(set(words)) == len(odd) and all(isinstance(word, str) for word in words)
    assert [chosen(odd, word) for word in words] == odd
    with pytest.raises(KeyError):
        chosen(odd, "nothing")


def test_names_that_a_space_does_not_take_get_one_that_it_takes() -> None:
    assert plain_name("n_units_l0") == "n_units_l0" and plain_name("model.lr") == "model.lr"
    odd = ["x 1", "x/1", "Größe", "0", "opt.type", "_a b"]
    names = [plain_name(name) for name in odd]
    assert len(set(names)) == len(odd)
    Space.from_mapping(dict.fromkeys(names, 1))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("int", 3, 2, False, 1), "low=3 is above high=2"),
        (("float", 0, 1, True, None), "low=0.0 must be above 0"),
        (("float", 1, 2, True, 0.5), "step=0.5 does not go with log"),
        (("int", 1, 2, False, 0), "step=0 must be above 0"),
    ],
)
def test_ranges_that_are_none_are_errors_that_name_the_parameter(given: Any, words: str) -> None:
    with pytest.raises(ValueError, match=f"^x: {words}"):
        asked_of("x", *given)


def test_steps_that_do_not_reach_the_high_end_where_they_end() -> None:
    p = asked_of("x", "float", 0, 1, False, 0.3).parameter()
    assert (p.low, p.high, p.step) == (0.0, pytest.approx(0.9), 0.3)
    assert asked_of("x", "int", 1, 8, False, 3).parameter().high == 7
    assert asked_of("x", "int", 1, 2, False, 5).parameter().value == 1
    assert asked_of("x", "int", 4, 4, False, 1).parameter().value == 4
