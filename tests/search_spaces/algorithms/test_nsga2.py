"""NSGA-II: sorting and crowding against their definitions and Optuna's front, generations against the paper's loop."""

from __future__ import annotations

import numpy as np
import optuna
import pytest

from fairsweep.search_spaces.algorithms import NSGA2, Outcome, search_table
from fairsweep.search_spaces.algorithms.nsga2 import crowding, fronts
from fairsweep.search_spaces.architectures.base import Architecture
from fairsweep.search_spaces.architectures.chain import ChainSpace

SPACE = ChainSpace(layers=5)


def costs(architecture: Architecture) -> dict[str, float]:
    return {"params": float(sum(architecture.indices)), "flops": float(architecture.indices[0])}


def accuracy(architecture: Architecture) -> float:
    a = np.array(architecture.indices)
    return float(np.sqrt(a).sum() + 0.3 * np.sin(5.0 * a @ np.arange(1, 6)))


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a <= b).all() and (a < b).any())


def test_fronts_by_definition_and_as_optuna_has_the_first() -> None:
    rng = np.random.default_rng(0)
    for trial in range(20):
        points = rng.integers(6, size=(30, 2 + trial % 2)).astype(float)
        found = fronts(points)
        assert sorted(np.concatenate(found).tolist()) == list(range(30))
        rest = set(range(30))
        for front in found:
            expected = {k for k in rest if not any(dominates(points[j], points[k]) for j in rest)}
            assert set(front.tolist()) == expected
            rest -= expected
        study = optuna.create_study(directions=["minimize"] * points.shape[1])
        for point in points:
            study.add_trial(optuna.trial.create_trial(values=point.tolist()))
        assert {t.number for t in study.best_trials} == set(found[0].tolist())


def test_crowding_by_hand() -> None:
    points = np.array([[0.0, 10.0], [1.0, 6.0], [4.0, 5.0], [10.0, 0.0]])
    # Second point: (4 - 0) / 10 + (10 - 5) / 10; third: (10 - 1) / 10 + (6 - 0) / 10.
    assert crowding(points).tolist() == pytest.approx([np.inf, 0.9, 1.5, np.inf])
    assert crowding(np.ones((3, 2))).tolist() == [0.0, 0.0, 0.0]


def test_generations_are_those_of_the_paper() -> None:
    """Sequentially: parents of generation g + 1 are the best of the parents of g and its children, each time."""
    size = 8
    algorithm = NSGA2(SPACE, "max", 3, costs=costs, population=size)
    search_table(algorithm, SPACE, accuracy, 6 * size + 1)
    parents: list[int] = []
    for generation in range(6):
        members = [k for k, job in algorithm.jobs.items() if job.attrs["generation"] == generation]
        assert members == list(range(generation * size, (generation + 1) * size))
        pool = sorted({*parents, *members})
        points = np.array([algorithm.point(k) for k in pool])
        parents = []
        while len(parents) < size:
            left = [k for k in range(len(pool)) if pool[k] not in parents]
            front = [k for k in left if not any(dominates(points[j], points[k]) for j in left)]
            room = size - len(parents)
            apart = crowding(points[front])
            if len(front) > room:
                cut = np.sort(apart)[::-1][room - 1]
                assert all(
                    apart[front.index(k)] >= cut
                    for k in front
                    if pool[k] in algorithm.jobs[(generation + 1) * size].attrs["parents"]
                )
                front = [
                    k for k in front if pool[k] in algorithm.jobs[(generation + 1) * size].attrs["parents"]
                ]
                assert len(front) == room
            parents += [pool[k] for k in front]
        opening = algorithm.jobs[(generation + 1) * size].attrs
        assert sorted(opening["parents"]) == sorted(parents) and opening["late"] == []


def test_parents_stand_in_the_order_of_the_crowded_comparison() -> None:
    algorithm = NSGA2(SPACE, "max", 0, costs=costs, population=10)
    search_table(algorithm, SPACE, accuracy, 30)
    numbers = sorted(algorithm.gains)
    algorithm.population = 25
    chosen = algorithm.select(numbers)
    points = np.array([algorithm.point(k) for k in numbers])
    rank = {numbers[k]: r for r, front in enumerate(fronts(points)) for k in front}
    apart = {
        numbers[k]: d for front in fronts(points) for k, d in zip(front, crowding(points[front]), strict=True)
    }
    keys = [(rank[k], -apart[k]) for k in chosen]
    assert keys == sorted(keys) and len({r for r, _ in keys}) > 1


def test_the_better_of_two_parents_is_taken() -> None:
    algorithm = NSGA2(SPACE, "max", 0, population=4, crossover=0.0, mutation=0.0, unique="none")
    for k, job in enumerate(algorithm.ask(4)):
        algorithm.tell(job, Outcome(float(k), 1, "complete"))
    counts = np.zeros(4)
    rng = np.random.default_rng(0)
    parents = algorithm.select([0, 1, 2, 3])
    assert parents == [3, 2, 1, 0]
    for _ in range(2000):
        child, mother = algorithm._child(parents, rng)
        assert child == algorithm.architectures[mother]
        counts[mother] += 1
    assert counts / 2000 == pytest.approx(np.array([1, 3, 5, 7]) / 16, abs=0.03)


def test_children_come_of_crossover_and_mutation() -> None:
    algorithm = NSGA2(SPACE, "max", 0, population=2, unique="none")
    a, b = SPACE.parse("00000"), SPACE.parse("11111")
    algorithm.architectures.update({0: a, 1: b})
    rng = np.random.default_rng(0)
    children = np.array([algorithm._child([0, 1], rng)[0].indices for _ in range(3000)])
    # A choice becomes 2 only by mutation: probability 1/5, one of two other options.
    assert (children == 2).mean() == pytest.approx(0.1, abs=0.015)
    mixed = [(row == 0).any() and (row == 1).any() for row in children]
    assert 0.3 < np.mean(mixed) < 0.9


def test_the_front_is_that_of_all_that_was_evaluated() -> None:
    algorithm = NSGA2(SPACE, "max", 1, costs=costs, population=10, objectives=["params"])
    assert algorithm.front == []
    search_table(algorithm, SPACE, accuracy, 60)
    points = {k: np.array([-accuracy(a), costs(a)["params"]]) for k, a in algorithm.architectures.items()}
    expected = {k for k in points if not any(dominates(points[j], points[k]) for j in points)}
    assert set(algorithm.front) == expected and len(expected) > 2
    assert [algorithm.gains[k] for k in algorithm.front] == sorted(
        (algorithm.gains[k] for k in expected), reverse=True
    )


def test_its_front_covers_more_than_random_architectures_do() -> None:
    space = ChainSpace(layers=8)

    def covered(random: bool, seed: int) -> float:
        algorithm = NSGA2(
            space, "max", seed, costs=costs, objectives=["params"], population=10_000 if random else 10
        )
        search_table(algorithm, space, lambda a: float(np.sqrt(a.indices).sum()), 150)
        best = np.full(18, 0.0)  # the best accuracy at each size: the area under the front
        for k in algorithm.front:
            best[int(costs(algorithm.architectures[k])["params"]) :] = np.maximum(
                best[int(costs(algorithm.architectures[k])["params"]) :], algorithm.gains[k]
            )
        return float(best.sum())

    pairs = [(covered(False, seed), covered(True, seed)) for seed in range(5)]
    assert all(ours > theirs for ours, theirs in pairs)


def test_a_generation_waits_for_its_results_with_children_of_the_same_parents() -> None:
    algorithm = NSGA2(SPACE, "max", 0, costs=costs, population=4)
    first = algorithm.ask(9)  # nothing has come in: all of the first generation
    assert {job.attrs["generation"] for job in first} == {0}
    for job in first[:3]:
        algorithm.tell(job, Outcome(accuracy(algorithm.architectures[job.number]), 1, "complete"))
    algorithm.tell(first[3], Outcome(None, 0, "failed"))
    assert algorithm.ask(1)[0].attrs == {"generation": 0}
    algorithm.tell(first[4], Outcome(accuracy(algorithm.architectures[4]), 1, "complete"))
    opening = algorithm.ask(1)[0]
    assert opening.attrs["generation"] == 1 and sorted(opening.attrs["parents"]) == [0, 1, 2, 4]
    assert opening.attrs["late"] == [5, 6, 7, 8, 9]
    # A late one is better than all: it is a parent of the next generation but not of this one.
    algorithm.tell(first[8], Outcome(100.0, 1, "complete"))
    others = algorithm.ask(3)
    assert {job.attrs["generation"] for job in others} == {1}
    assert 8 not in {job.attrs["parent"] for job in others}
    for job in (opening, *others):
        algorithm.tell(job, Outcome(accuracy(algorithm.architectures[job.number]), 1, "complete"))
    assert 8 in algorithm.ask(1)[0].attrs["parents"]


def test_objectives_must_be_measured() -> None:
    with pytest.raises(ValueError, match=r"objectives=\['energy'\]: costs has only params, flops"):
        search_table(
            NSGA2(SPACE, "max", costs=costs, population=2, objectives=["energy"]), SPACE, accuracy, 5
        )
    with pytest.raises(ValueError, match=r"objectives=\['params'\]: costs=None"):
        NSGA2(SPACE, "max", objectives=["params"])
