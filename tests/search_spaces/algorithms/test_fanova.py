"""Variance decomposition of forests: against enumeration, against Optuna's, and against functions with a known one."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import optuna
import pytest
from sklearn.tree import DecisionTreeRegressor

from fairsweep.search_spaces.algorithms import fanova
from fairsweep.search_spaces.space import Space

X = {"type": "float", "low": 0.0, "high": 1.0, "paper": 0.5}
MIXED = Space.from_mapping(
    {
        "lr": {**X, "low": 1e-4, "log": True}, "layers": {"type": "int", "low": 1, "high": 4, "paper": 1},
        "width": {"type": "int", "low": 1, "high": 9, "log": True, "paper": 1}, "drop": {**X, "step": 0.25},
        "act": {"type": "categorical", "choices": ["relu", 1, None], "paper": 1},
        "bias": {"type": "boolean", "paper": True},
        "seed": {"type": "int", "low": 0, "high": 1000, "paper": 0},
    },
    source="mixed",
)  # fmt: skip
FLOATS = Space.from_mapping({n: X for n in "abc"}, source="floats")


def axes_of(space: Space) -> list[fanova.Axis]:
    return [fanova.Axis.of(p) for p in space.parameters.values()]


def drawn(space: Space, n: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    return [space.sample(rng) for _ in range(n)]


def enumerated(axes: list[fanova.Axis], tree: DecisionTreeRegressor) -> tuple[np.ndarray, np.ndarray]:
    """Shares of single parameters and of pairs, by asking the tree in every cell of the whole space."""
    values, weights, at = [], [], 0
    for axis in axes:
        p = axis.parameter
        if p.kind in ("categorical", "boolean"):
            found, weight = list(p.points(1)), np.ones(len(p.points(1)))
        elif p.kind == "int" and p.high <= 9:
            found = list(range(p.low, p.high + 1))
            ends = [math.log(v + 0.5) - math.log(v - 0.5) if p.log else 1.0 for v in found]
            weight = np.array(ends)
        elif p.step is not None:
            found, weight = [0.0, 0.25, 0.5, 0.75, 1.0], np.ones(5)
        else:  # between two splits nothing changes
            edges = [0.0, *sorted(set(tree.tree_.threshold[tree.tree_.feature == at])), 1.0]
            found, weight = [(a + b) / 2 for a, b in itertools.pairwise(edges)], np.diff(edges)
        continuous = axis.columns is None
        values.append([[v] for v in found] if continuous else axis.encode(found).tolist())
        weights.append(weight / weight.sum())
        at += len(values[-1][0])
    rows = np.array([list(itertools.chain(*cell)) for cell in itertools.product(*values)])
    y = tree.predict(rows).reshape([len(w) for w in weights])
    w = weights[0]
    for more in weights[1:]:
        w = w[..., None] * more
    mean = (w * y).sum()
    total = (w * (y - mean) ** 2).sum()
    k = len(axes)

    def variance(kept: tuple[int, ...]) -> float:
        rest = tuple(i for i in range(k) if i not in kept)
        mass = w.sum(axis=rest)
        return float((mass * ((w * y).sum(axis=rest) / mass - mean) ** 2).sum() / total)

    single = np.array([variance((i,)) for i in range(k)])
    pairs = np.zeros((k, k))
    for i, j in itertools.combinations(range(k), 2):
        pairs[i, j] = pairs[j, i] = variance((i, j)) - single[i] - single[j]
    return single, pairs


def test_200_random_trees_agree_with_enumeration() -> None:
    worst = 0.0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        names = rng.choice(list(MIXED.parameters), int(rng.integers(1, 5)), replace=False)
        axes = [fanova.Axis.of(MIXED.parameters[n]) for n in names]
        n = int(rng.integers(5, 25))
        x, y = fanova.encode(axes, drawn(MIXED, n, rng)), rng.normal(size=n)
        tree = DecisionTreeRegressor(random_state=0).fit(x, y)
        found = fanova.of_tree(axes, tree.tree_)
        if found is None:
            assert tree.tree_.node_count == 1
            continue
        for mine, theirs in zip(found, enumerated(axes, tree), strict=True):
            worst = max(worst, float(np.abs(mine - theirs).max()))
    print(f"fANOVA by enumeration: largest difference {worst:.1e}")
    assert worst < 1e-9


def test_200_random_forests_over_ranges_agree_with_optuna() -> None:
    """Where parameters are plain ranges, of which Optuna's measure is right."""
    worst = 0.0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        configs, n = drawn(FLOATS, 10, rng), 10
        y = rng.normal(size=n) + [3 * c["a"] * c["b"] for c in configs]
        study = optuna.create_study()
        study.add_trials(
            optuna.trial.create_trial(value=v, params=c, distributions=FLOATS.distributions())
            for c, v in zip(configs, y.tolist(), strict=True)
        )
        theirs = optuna.importance.FanovaImportanceEvaluator(n_trees=1, seed=seed).evaluate(study)
        axes = axes_of(FLOATS)
        mine = fanova.shares(axes, fanova.encode(axes, configs), y, 1, seed).single.mean(axis=0)
        worst = max(worst, *(abs(theirs[n] - m) for n, m in zip(FLOATS.parameters, mine, strict=True)))
    print(f"fANOVA of Optuna: largest difference {worst:.1e}")
    assert worst < 1e-9


def single(space: Space, f: Any, n: int = 400, trees: int = 8) -> tuple[dict[str, float], np.ndarray]:
    rng = np.random.default_rng(0)
    configs, axes = drawn(space, n, rng), axes_of(space)
    found = fanova.shares(axes, fanova.encode(axes, configs), np.array([f(c) for c in configs]), trees)
    return dict(zip(space.parameters, found.single.mean(axis=0), strict=True)), found.pairs.mean(axis=0)


def test_ishigami_and_homma_1990() -> None:
    """sin x1 + 7 sin^2 x2 + .1 x3^4 sin x1 on [-pi, pi]^3: shares .314, .442, 0; of x1 and x3 together .244; of the
    other pairs 0. A forest of 2000 points takes a tenth, of x2, for interactions."""
    space = Space.from_mapping(
        {n: {**X, "low": -math.pi, "high": math.pi} for n in ("x1", "x2", "x3")}, source="i"
    )

    def ishigami(c: Any) -> float:
        return math.sin(c["x1"]) + 7 * math.sin(c["x2"]) ** 2 + 0.1 * c["x3"] ** 4 * math.sin(c["x1"])

    found, pairs = single(space, ishigami, 2000, 4)
    assert [found[n] for n in space.parameters] == pytest.approx([0.314, 0.442, 0.0], abs=0.12)
    assert pairs[0, 2] == pytest.approx(0.244, abs=0.03) and max(pairs[0, 1], pairs[1, 2]) < 0.06


def test_sobol_s_g_function() -> None:
    """Saltelli and Sobol 1995: the product of (|4 x - 2| + a) / (1 + a), a = 0, 1, 9: the variance of one factor is
    1 / (3 (1 + a)^2); the shares are .7165, .1791, .0072 and, of the first two together, .0597."""
    space = Space.from_mapping({"x0": X, "x1": X, "x2": X}, source="g")

    def g(c: Any) -> float:
        return math.prod((abs(4 * c[f"x{i}"] - 2) + a) / (1 + a) for i, a in enumerate((0, 1, 9)))

    parts = [1 / (3 * (1 + a) ** 2) for a in (0, 1, 9)]
    total = math.prod(1 + v for v in parts) - 1
    found, pairs = single(space, g, 2000, 4)
    assert [found[f"x{i}"] for i in range(3)] == pytest.approx([v / total for v in parts], abs=0.03)
    assert pairs[0, 1] == pytest.approx(parts[0] * parts[1] / total, abs=0.03)


def optunas(space: Space, f: Any, n: int = 400) -> dict[str, float]:
    study, rng = optuna.create_study(), np.random.default_rng(0)
    study.add_trials(
        optuna.trial.create_trial(value=float(f(c)), params=c, distributions=space.distributions())
        for c in drawn(space, n, rng)
    )
    return optuna.importance.FanovaImportanceEvaluator(n_trees=2, max_depth=6, seed=0).evaluate(study)


def test_a_logarithmic_range_counts_by_its_logarithm() -> None:
    """Optuna 5.0.0 weighs it by its plain value, so that of a learning rate from 1e-5 to 1 the part above .1 is nine
    tenths: what explains .97 of the variance of random draws explains less than half, and is no longer the first."""
    space = Space.from_mapping({"lr": {**X, "low": 1e-5, "log": True}, "x": X}, source="log")

    def f(c: Any) -> float:
        return min(abs(math.log10(c["lr"]) + 4), 2.5) + 0.5 * c["x"]

    found, _ = single(space, f)
    assert found["lr"] == pytest.approx(0.975, abs=0.02)
    assert optunas(space, f)["lr"] < 0.5


def test_a_category_counts_by_its_choices() -> None:
    """Optuna 5.0.0 gives each choice a column that is on half of the time, whatever their number, on with the others
    too: one of ten that differs has half of the cases."""
    space = Space.from_mapping(
        {"c": {"type": "categorical", "choices": list("abcdefgh"), "paper": "a"}, "x": X}, source="c"
    )

    def f(c: Any) -> float:
        return float(c["c"] == "c") + c["x"]

    true = (7 / 64) / (7 / 64 + 1 / 12)
    assert single(space, f)[0]["c"] == pytest.approx(true, abs=0.03)
    assert optunas(space, f, 200)["c"] > true + 0.1


def test_whole_numbers_count_alike() -> None:
    """Optuna 5.0.0 gives the ends of a range of whole numbers half of what the others have."""
    space = Space.from_mapping({"k": {"type": "int", "low": 1, "high": 3, "paper": 1}, "x": X}, source="k")

    def f(c: Any) -> float:
        return float(c["k"] == 2) + c["x"]

    true = (2 / 9) / (2 / 9 + 1 / 12)
    assert single(space, f)[0]["k"] == pytest.approx(true, abs=0.01)
    assert optunas(space, f)["k"] == pytest.approx((1 / 4) / (1 / 4 + 1 / 12), abs=0.01)


def test_the_weights_of_levels_are_how_often_they_are_drawn() -> None:
    rng = np.random.default_rng(0)
    configs = drawn(MIXED, 20_000, rng)
    for axis in axes_of(MIXED):
        if axis.columns is not None:
            drawn_as = axis.encode([c[axis.parameter.name] for c in configs])
            for column, weight in zip(axis.columns, axis.weights, strict=True):
                assert np.all(np.isclose(drawn_as, column), axis=1).mean() == pytest.approx(weight, abs=0.012)
