"""Importance at equal fidelity, and of parameters that exist only at times: planted functions with a known answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import optuna
import pytest

from fairsweep.search_spaces.algorithms import Outcome
from fairsweep.search_spaces.algorithms import importance as module
from fairsweep.search_spaces.algorithms.importance import Answer, Importance, Measure, importances
from fairsweep.search_spaces.space import Space

X = {"type": "float", "low": 0.0, "high": 1.0, "paper": 0.5}
SPACE = Space.from_mapping(
    {
        "kind": {"type": "categorical", "choices": ["a", "b"], "paper": "a"},
        "noise": X, "of_a": {**X, "when": {"kind": "a"}}, "of_b": {**X, "when": {"kind": "b"}},
    },
    source="planted",
)  # fmt: skip
FLAT = Space.from_mapping({"lr": X, "width": X, "noise": X}, source="flat")
PED = Measure("ped_anova", 0.2)


@pytest.fixture(autouse=True)
def fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trees and draws take the time of a test."""
    monkeypatch.setattr(module, "TREES", 25)
    monkeypatch.setattr(module, "DRAWS", 25)


def drawn(space: Space, n: int, seed: int = 0) -> dict[int, dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return {k: space.sample(rng) for k in range(n)}


CONFIGS = drawn(SPACE, 60)


def complete(configs: Mapping[int, Any], loss: Callable[[Any], float]) -> dict[int, Outcome]:
    return {n: Outcome(loss(c), 9, "complete") for n, c in configs.items()}


def by_name(answer: Answer) -> dict[str, Importance]:
    return {i.parameter: i for i in answer.rows}


def shares(answer: Answer) -> dict[str, float | None]:
    return {i.parameter: i.share for i in answer.rows}


def loss(config: dict) -> float:
    """`kind` decides, then what is of the kind; `of_b` never comes near the best tenth."""
    return (config["of_a"] - 0.3) ** 2 if config["kind"] == "a" else 1 + (config["of_b"] - 0.6) ** 2


@pytest.mark.parametrize("measure", [Measure(), PED])
def test_a_parameter_is_judged_where_it_exists(measure: Measure) -> None:
    found = by_name(importances(SPACE, CONFIGS, complete(CONFIGS, loss), measure=measure))
    for name in ("kind", "of_a", "of_b"):  # that of two halves explains 3/4 of the variance of ranks
        assert found[name].share > (0.65 if measure.method == "fanova" else 0.5) and found[name].first > 0.5
    assert found["noise"].share < (0.2 if measure.method == "fanova" else 0.5)  # of 60, 12 are the best fifth
    assert (
        found["kind"].configurations == 60
        and found["of_a"].configurations + found["of_b"].configurations == 60
    )
    assert [found[n].conditions for n in ("kind", "of_a", "of_b")] == ["", "kind=a", "kind=b"]


def test_trials_that_were_stopped_count_with_the_value_of_an_equal_step() -> None:
    """The later values are of another scale: mixed with the earlier ones they would hide what matters."""
    outcomes = {}
    for n, config in CONFIGS.items():
        early = 10 + loss(config)
        outcomes[n] = Outcome(early, 1, "pruned", {1: early})
        if n < 6:
            outcomes[n] = Outcome(loss(config), 9, "complete", {1: early, 3: early - 5})
    answer = importances(SPACE, CONFIGS, outcomes)
    assert answer.level.step == 1 and len(answer.level.values) == 60
    assert shares(answer)["kind"] > 0.65 and shares(answer)["noise"] < 0.2
    few = by_name(importances(SPACE, CONFIGS, outcomes, step=3))
    assert few["kind"].share is None and few["kind"].reason == (
        "6 configurations have it; importance needs at least 10"
    )


def halved(
    configs: Mapping[int, Any], value: Callable[[Any, int], float], eta: int = 3
) -> dict[int, Outcome]:
    """What successive halving with rungs 1, 3 and 9 leaves: all but the best third stop at each."""
    seen: dict[int, dict[int, float]] = {n: {} for n in configs}
    alive = list(configs)
    for step in (1, 3):
        for n in alive:
            seen[n][step] = value(configs[n], step)
        alive = sorted(alive, key=lambda n: seen[n][step])[: len(alive) // eta]
    return {
        n: Outcome(value(configs[n], 9), 9, "complete", seen[n])
        if n in alive
        else Outcome(min(seen[n].values()), max(seen[n]), "pruned", seen[n])
        for n in configs
    }


@pytest.mark.parametrize("measure", [Measure(), PED])
def test_what_early_stopping_let_through_does_not_decide(measure: Measure) -> None:
    """lr decides at every step, so those that are complete have a good lr and differ by width. COMPLETE trials alone,
    as Optuna takes them, say width. All trained to the end say lr, and so does the sweep at an equal step."""

    def value(config: Any, step: int) -> float:
        return abs(config["lr"] - 0.4) + 0.2 * step / 9 * config["width"] + 2.0 / step

    configs = drawn(FLAT, 180)
    outcomes = halved(configs, value)
    truth = importances(FLAT, configs, complete(configs, lambda c: value(c, 9)), measure=measure)
    ours = importances(FLAT, configs, outcomes, measure=measure)
    naive = importances(FLAT, configs, outcomes, "end", measure)
    assert ours.level.step == 1 and len(ours.level.values) == 180 and len(naive.level.values) == 20
    assert truth.rows[0].parameter == ours.rows[0].parameter == "lr"
    assert min(ours.rows[0].share, truth.rows[0].share) > 0.7
    assert naive.rows[0].parameter == "width"
    assert (None, 20, "width") in ours.elsewhere
    study = optuna.create_study()
    for n, outcome in outcomes.items():
        if outcome.reason == "complete":
            study.add_trial(
                optuna.trial.create_trial(
                    value=outcome.value, params=configs[n], distributions=FLAT.distributions()
                )
            )
    theirs = optuna.importance.FanovaImportanceEvaluator(seed=0, n_trees=8).evaluate(study)
    assert max(theirs, key=theirs.get) == "width"


def test_the_last_values_of_all_would_say_that_what_decides_does_less() -> None:
    """Where later steps are better, the last value of a trial says how far it came more than what it is worth."""

    def value(config: Any, step: int) -> float:
        early = (
            3.0 * abs(config["width"] - 0.5) if step == 1 else 0.0
        )  # decides who goes on, not what comes of it
        return early + abs(config["lr"] - 0.4) + 20.0 / step

    configs = drawn(FLAT, 180)
    outcomes = halved(configs, value)
    last = {n: Outcome(o.value, 9, "complete") for n, o in outcomes.items()}
    assert importances(FLAT, configs, last).rows[0].parameter == "width"
    assert importances(FLAT, configs, outcomes, step=3).rows[0].parameter == "lr"


@pytest.mark.filterwarnings("ignore")
def test_what_optuna_5_says_of_the_same() -> None:
    """Why it is not used as it is; a version that answers otherwise makes this test fail."""
    study = optuna.create_study()
    distributions = SPACE.distributions()
    for config in CONFIGS.values():
        study.add_trial(
            optuna.trial.create_trial(
                value=loss(config), params=config, distributions={k: distributions[k] for k in config}
            )
        )
    assert optuna.importance.get_param_importances(study)["of_b"] == 0
    trees = optuna.importance.FanovaImportanceEvaluator(seed=0, n_trees=4)
    assert set(optuna.importance.get_param_importances(study, evaluator=trees)) == {"kind", "noise"}


def test_one_value_explains_nothing_nor_does_a_constant_objective() -> None:
    configs = {n: {**CONFIGS[n], "noise": 0.5} for n in CONFIGS}
    for measure in (Measure(), PED):
        found = by_name(importances(SPACE, configs, complete(configs, loss), measure=measure))
        assert found["noise"].share is None and found["kind"].share == 1.0
        assert found["noise"].reason == "has one value in all 60 configurations"
        same = importances(SPACE, CONFIGS, complete(CONFIGS, lambda _: 1.0), measure=measure)
        assert set(shares(same).values()) == {None} and not same.pairs
        assert by_name(same)["kind"].reason == "the values of all 60 configurations are equal"


def test_failed_trials_and_those_under_way_are_left_out() -> None:
    outcomes = complete(CONFIGS, loss)
    more = drawn(SPACE, 20, seed=9)
    configs = {**CONFIGS, **{100 + n: c for n, c in more.items()}}
    states = ("failed", "interrupted")
    lost = {100 + n: Outcome(None, 3, states[n % 2], {3: -99.0}) for n in more}
    assert importances(SPACE, configs, {**outcomes, **lost}) == importances(SPACE, CONFIGS, outcomes)


@pytest.mark.parametrize("method", ["fanova", "ped_anova"])
def test_one_parameter_and_the_direction(method: str) -> None:
    one = Space.from_mapping({"x": {**X, "low": 1e-4, "log": True}}, source="one")
    configs = drawn(one, 40)
    answer = importances(one, configs, complete(configs, lambda c: c["x"]), measure=Measure(method))
    assert (answer.rows[0].share, answer.rows[0].first, answer.pairs) == (1.0, 1.0, [])
    # Of x alone it depends who is best; what is worst depends on noise too.
    configs = drawn(FLAT, 80)

    def bent(config: Any) -> float:
        return config["lr"] if config["lr"] < 0.5 else 0.5 + config["noise"]

    for mode, first in (("min", "lr"), ("max", "noise")):
        outcomes = complete(configs, bent)
        found = importances(FLAT, configs, outcomes, measure=Measure("ped_anova", 0.15), mode=mode)
        assert found.rows[0].parameter == first


def test_the_spread_says_how_sure_the_first_is() -> None:
    configs = drawn(FLAT, 60)
    rng = np.random.default_rng(1)
    for measure in (Measure(), PED):
        sure = importances(FLAT, configs, complete(configs, lambda c: c["lr"]), measure=measure)
        noise = importances(FLAT, configs, complete(configs, lambda c: rng.random()), measure=measure)
        assert sure.rows[0].first == 1.0 and noise.rows[0].first < 0.9
        for row in (*sure.rows, *noise.rows):
            assert 0 <= row.low <= row.share <= row.high <= 1
        assert sum(r.first for r in noise.rows) == pytest.approx(1)
        wide = [r.high - r.low for r in (sure.rows[0], noise.rows[0])]
        assert wide[0] < wide[1]
    said = importances(FLAT, configs, complete(configs, lambda c: rng.random())).notes
    assert (
        len(said) == 1 and "of the variance of configurations that it has not seen: most of what" in said[0]
    )


def test_pairs_are_what_two_explain_beyond_each_alone() -> None:
    configs = drawn(FLAT, 150)
    answer = importances(FLAT, configs, complete(configs, lambda c: (c["lr"] - 0.5) * (c["width"] - 0.5)))
    first = answer.pairs[0]
    assert {first.parameter, first.other} == {"lr", "width"} and first.low <= first.share <= first.high
    assert first.share > 2 * max(r.share for r in answer.rows), "alone neither explains much"
    total = sum(r.share for r in answer.rows) + sum(p.share for p in answer.pairs)
    assert total <= 1 + 1e-9


def test_pairs_are_of_parameters_that_exist_together() -> None:
    """Not `of_a` and `kind`, which has one value where `of_a` exists, nor `of_a` and `of_b`, which never meet."""
    configs = drawn(SPACE, 80)
    pairs = importances(SPACE, configs, complete(configs, loss)).pairs
    assert {(p.parameter, p.other) for p in pairs} == {
        ("kind", "noise"),
        ("noise", "of_a"),
        ("noise", "of_b"),
    }
    assert {p.configurations for p in pairs if p.other == "noise"} == {80}


def test_among_the_best_something_else_matters() -> None:
    """The toy example of PED-ANOVA's authors (`analyze_toy.py` of their code; its 10,000 draws and quantiles): x0 to
    x3 in [-5, 5] weigh 1, 1/5, 1/25, 1/125 outside of [-1, 1] and 1/5, 1/25, 1/125, 1 within. x0 decides who is among
    the best tenth, x1 and x2 which of these are among the best hundredth. The truth by histograms of many draws."""
    names = [f"x{d}" for d in range(4)]
    weights = 5.0 ** -np.arange(5)[:4]
    space = Space.from_mapping({n: {**X, "low": -5.0, "high": 5.0} for n in names}, source="toy")
    configs = drawn(space, 10_000)

    def toy(x: np.ndarray) -> np.ndarray:
        return (np.where(np.abs(x) < 1, np.roll(weights, -1), weights) * x**2).sum(axis=-1)

    def truth(quantile: float, region: float) -> np.ndarray:
        x = np.random.default_rng(1).uniform(-5, 5, (400_000, 4))
        y = toy(x)
        best, wide = (x[y <= np.quantile(y, q)] for q in (quantile, region))
        p, q = (
            np.array([np.histogram(part[:, d], 50, (-5, 5))[0] / len(part) for d in range(4)])
            for part in (best, wide)
        )
        found = np.where(q > 0, (p - q) ** 2 / np.maximum(q, 1e-9), 0).sum(axis=1)
        return found / found.sum()

    outcomes = complete(configs, lambda c: float(toy(np.array([c[n] for n in names]))))
    everywhere = importances(space, configs, outcomes, measure=Measure("ped_anova", 0.1))
    local = importances(space, configs, outcomes, measure=Measure("ped_anova", 0.01, 0.1))
    for answer, known, off in ((everywhere, truth(0.1, 1.0), 0.01), (local, truth(0.01, 0.1), 0.08)):
        assert [shares(answer)[n] for n in names] == pytest.approx(known, abs=off)
    assert everywhere.rows[0].parameter == "x0" and everywhere.rows[0].first == 1.0
    assert {r.parameter for r in local.rows[:2]} == {"x1", "x2"} and shares(local)["x0"] < 0.1


def test_few_among_the_best_say_so_and_ties_are_no_answer() -> None:
    configs = drawn(FLAT, 30)
    answer = importances(FLAT, configs, complete(configs, lambda c: c["lr"]), measure=Measure("ped_anova"))
    assert answer.notes == ["3 of 30 configurations are the best 10%, which is few; --quantile 0.17 has 5"]
    # Most have the same best value: they are the best, all of them.
    tied = importances(FLAT, configs, complete(configs, lambda c: float(c["lr"] > 0.9)), measure=PED)
    assert tied.rows[0].parameter == "lr" and not tied.notes
    region = Measure("ped_anova", 0.1, 0.2)
    reason = importances(FLAT, configs, complete(configs, lambda c: c["lr"]), measure=region).rows[0].reason
    assert reason == "6 configurations are among the best 20%; needs 10"
    half = Measure("ped_anova", 0.1, 0.5)
    equal = importances(FLAT, configs, complete(configs, lambda c: float(c["lr"] > 0.9)), measure=half)
    assert equal.rows[0].reason.endswith(
        "configurations tie, so that none is better than the rest of the region"
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"method": "shap"}, "method=shap: must be fanova or ped_anova"),
        ({"method": "ped_anova", "quantile": 0.0}, "quantile=0: must be above 0 and below region=1"),
        ({"method": "ped_anova", "quantile": 0.5, "region": 0.5}, "quantile=0.5: must be above 0 and below"),
        ({"method": "ped_anova", "region": 1.5}, "region=1.5: must be above 0, and at most 1"),
        ({"method": "ped_anova", "quantile": float("nan")}, "quantile=nan: must be above 0"),
        ({"quantile": 0.2}, "method=fanova: takes no quantile and no region; ped_anova does"),
    ],
)
def test_what_cannot_be_asked_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Measure(**given)


def test_many_configurations_are_thinned_for_the_forest_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MOST", 50)
    configs = drawn(FLAT, 120)
    answer = importances(FLAT, configs, complete(configs, lambda c: c["lr"]))
    assert answer.notes == ["the forests are made of 50 of 120 configurations, drawn at random"]
    assert answer.rows[0].parameter == "lr" and answer.rows[0].configurations == 120
