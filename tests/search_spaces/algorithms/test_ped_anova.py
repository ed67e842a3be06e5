"""PED-ANOVA's divergences against Optuna's evaluator, and what a weight of a configuration means."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
import pytest

from fairsweep.search_spaces.algorithms import ped_anova
from fairsweep.search_spaces.space import Space

X = {"type": "float", "low": 0.0, "high": 1.0, "paper": 0.5}
MIXED = Space.from_mapping(
    {
        "lr": {**X, "low": 1e-4, "log": True}, "x": {**X, "low": -3.0},
        "layers": {"type": "int", "low": 1, "high": 4, "paper": 1},
        "width": {"type": "int", "low": 1, "high": 300, "log": True, "paper": 1}, "drop": {**X, "step": 0.25},
        "seed": {"type": "int", "low": 0, "high": 1000, "step": 10, "paper": 0},
        "act": {"type": "categorical", "choices": ["relu", 1, None], "paper": 1},
        "bias": {"type": "boolean", "paper": True},
    },
    source="mixed",
)  # fmt: skip


def grids(space: Space, configs: list[dict[str, Any]]) -> list[ped_anova.Grid]:
    return [ped_anova.Grid.of(p, [c[name] for c in configs]) for name, p in space.parameters.items()]


@pytest.mark.filterwarnings("ignore")
def test_200_random_sweeps_agree_with_optuna() -> None:
    """Of all kinds of parameters, few to many configurations, ties, quantiles and regions."""
    worst, distributions = 0.0, MIXED.distributions()
    for seed in range(200):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(10, 40))
        configs = [MIXED.sample(rng) for _ in range(n)]
        y = np.round(
            rng.normal(size=n) + [np.log(c["lr"]) + c["bias"] for c in configs], int(rng.integers(0, 4))
        )
        study = optuna.create_study()
        study.add_trials(
            optuna.trial.create_trial(value=v, params=c, distributions=distributions)
            for c, v in zip(configs, y.tolist(), strict=True)
        )
        quantile, region = float(rng.uniform(0.02, 0.5)), float(rng.choice([1.0, 0.8, 0.6]))
        theirs = optuna.importance.PedAnovaImportanceEvaluator(
            target_quantile=quantile, region_quantile=region
        ).evaluate(study)
        mine = ped_anova.divergences(grids(MIXED, configs), y, np.ones(n), quantile, region)
        for name, value in zip(MIXED.parameters, mine, strict=True):
            worst = max(worst, abs(value - theirs[name]) / max(theirs[name], 1e-6))
    print(f"PED-ANOVA of Optuna: largest difference {worst:.1e} of a value")
    assert worst < 1e-9


def test_a_configuration_that_counts_twice_is_two() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        configs = [MIXED.sample(rng) for _ in range(20)]
        y, times = rng.normal(size=20), rng.integers(0, 3, 20)
        again = [c for c, k in zip(configs, times, strict=True) for _ in range(k)]
        one = ped_anova.divergences(grids(MIXED, configs), y, times.astype(float), 0.2, 0.8)
        other = ped_anova.divergences(grids(MIXED, again), np.repeat(y, times), np.ones(len(again)), 0.2, 0.8)
        assert one == pytest.approx(other, rel=1e-9)


def test_the_best_tenth_of_a_uniform_draw_has_the_divergence_of_theory() -> None:
    """Equation 16 of the paper where x alone decides: a density of 10 on the best tenth against 1: 10 - 1 = 9, times
    (1/10)^2. Kernels reach over the edge of the tenth, more so in fewer points."""
    space = Space.from_mapping({"x": X, "noise": X}, source="theory")
    rng = np.random.default_rng(0)
    configs = [space.sample(rng) for _ in range(20_000)]
    found = ped_anova.divergences(grids(space, configs), np.array([c["x"] for c in configs]), np.ones(20_000))
    assert found[0] == pytest.approx(0.09, abs=0.012) and found[1] < 1e-3


def test_the_best_are_those_that_tie_with_the_last_of_them() -> None:
    y = np.array([3.0, 1.0, 1.0, 1.0, 2.0])
    assert ped_anova.best(y, np.ones(5), 0.2).tolist() == [False, True, True, True, False]
    assert ped_anova.best(y, np.ones(5), 1.0).all()
    # Of three that are drawn in a resample, the least two thirds.
    assert ped_anova.best(y, np.array([1.0, 1, 0, 0, 1]), 2 / 3).tolist() == [False, True, True, True, True]
