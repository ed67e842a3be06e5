"""Ageing evolution and local search: who has children, who dies, where the climb goes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fairsweep.search_spaces.algorithms import Evolution, Job, LocalSearch, Outcome, search_table
from fairsweep.search_spaces.architectures.base import Architecture
from fairsweep.search_spaces.architectures.chain import ChainSpace

SPACE = ChainSpace(layers=5)


def distance(a: Architecture, b: Architecture) -> int:
    return sum(x != y for x, y in zip(a.indices, b.indices, strict=True))


def run(algorithm: Evolution | LocalSearch, value: Callable[[Architecture], float], jobs: int) -> None:
    search_table(algorithm, algorithm.space, value, jobs)


# -- ageing evolution ---------------------------------------------------------------------------------


def test_after_the_first_population_every_child_is_one_mutation_from_a_living_parent() -> None:
    algorithm = Evolution(SPACE, "max", 1, population=8, sample=3)
    run(algorithm, lambda a: float(sum(a.indices)), 60)
    parents = {k: job.attrs.get("parent") for k, job in algorithm.jobs.items()}
    assert all(parents[k] is None for k in range(8))
    assert all(parents[k] is not None for k in range(8, 60))
    for child in range(8, 60):
        parent = parents[child]
        assert child - 8 <= parent < child
        assert distance(algorithm.architectures[child], algorithm.architectures[parent]) == 1
    assert algorithm.members == list(range(52, 60))


def test_the_oldest_dies_however_good_it_is() -> None:
    algorithm = Evolution(SPACE, "max", 0, population=3, sample=200)
    values = iter([9.0, 1.0, 2.0, *np.linspace(1.0, 0.0, 9)])  # only ever worse
    run(algorithm, lambda a: next(values), 12)
    parents = [algorithm.jobs[k].attrs["parent"] for k in range(3, 12)]
    # Of the three youngest the best is the oldest one, once the first ones have gone.
    assert parents == [0, 2, 2, 3, 4, 5, 6, 7, 8]


def test_the_tournament_is_a_sample_with_the_best_as_winner() -> None:
    def share_of_best(sample: int) -> float:
        wins = 0
        for seed in range(300):
            algorithm = Evolution(SPACE, "max", seed, population=4, sample=sample)
            for k, job in enumerate(algorithm.ask(4)):
                algorithm.tell(job, Outcome(float(k), 1, "complete"))
            wins += algorithm.ask(1)[0].attrs["parent"] == 3
        return wins / 300

    # With replacement: 1 - (3/4) ** sample.
    assert share_of_best(1) == pytest.approx(0.25, abs=0.09)
    assert share_of_best(3) == pytest.approx(0.578, abs=0.1)


def test_a_late_result_takes_the_place_of_its_age() -> None:
    algorithm = Evolution(SPACE, "max", 0, population=3, sample=1)
    jobs = algorithm.ask(6)
    for k in (5, 4, 3, 0):
        algorithm.tell(jobs[k], Outcome(1.0, 1, "complete"))
    assert algorithm.members == [3, 4, 5]


# -- local search -------------------------------------------------------------------------------------


def test_a_climb_ends_at_the_optimum_of_a_function_without_others() -> None:
    target = SPACE.parse("12012")
    for step in ("first", "best"):
        algorithm = LocalSearch(SPACE, "min", 2, initial=4, step=step)
        run(algorithm, lambda a: float(distance(a, target)), 60)
        assert algorithm.best == (target, 0.0)
        reached = next(k for k, a in algorithm.architectures.items() if a == target)
        assert reached < 45  # of 243


def test_first_moves_at_once_and_best_only_after_all_neighbours() -> None:
    """From 00: its neighbours are worth 1, 2, 1 and 2; the centre of the climb is the parent of what is asked."""
    space = ChainSpace(layers=2)
    worth = {
        "00": 0.0,
        "10": 1.0,
        "20": 2.0,
        "01": 1.0,
        "02": 2.0,
        "11": 9.0,
        "12": 0.5,
        "21": 0.5,
        "22": 0.5,
    }

    def parents(step: str) -> list[str]:
        algorithm = LocalSearch(space, "max", 0, initial=1, step=step)  # type: ignore[arg-type]  # a bare string
        first = Job(0, space.options(space.parse("00")))
        algorithm.adopt(first)
        algorithm.tell(first, Outcome(0.0, 1, "complete"))
        run(algorithm, lambda a: worth[space.format(a)], 6)
        return [space.format(algorithm.architectures[algorithm.jobs[k].attrs["parent"]]) for k in range(1, 7)]

    best = parents("best")
    assert best[:4] == ["00"] * 4 and best[4] in ("20", "02") and best[5] == best[4]
    first = parents("first")
    assert first[0] == "00" and first[1] != "00"


def test_at_an_optimum_a_new_run_begins_or_the_next_best_is_looked_around() -> None:
    """One optimum at 00000, found by the draw that the search adopts: its 10 neighbours, then what follows."""
    zero = SPACE.parse("00000")

    def jobs(at_optimum: str) -> LocalSearch:
        algorithm = LocalSearch(SPACE, "max", 0, initial=1, at_optimum=at_optimum)  # type: ignore[arg-type]  # a bare string
        first = Job(0, SPACE.options(zero))
        algorithm.adopt(first)
        algorithm.tell(first, Outcome(0.0, 1, "complete"))
        run(algorithm, lambda a: -float(distance(a, zero)), 14)
        return algorithm

    restart, onward = jobs("restart"), jobs("continue")
    for algorithm in (restart, onward):
        assert all(distance(algorithm.architectures[k], zero) == 1 for k in range(1, 11))
    assert restart.jobs[10].attrs["run"] == 0 and restart.jobs[11].attrs == {"run": 1}
    assert [onward.jobs[k].attrs["run"] for k in range(15)[1:]] == [0] * 14
    assert all(onward.gains[onward.jobs[k].attrs["parent"]] == -1 for k in range(11, 15))


def test_a_new_run_climbs_to_neighbours_known_from_the_one_before() -> None:
    zero = SPACE.parse("00000")
    algorithm = LocalSearch(SPACE, "max", 0, initial=1, at_optimum="restart")
    for text in (
        "00000",
        "00001",
        "00002",
        "00010",
        "00020",
        "00100",
        "00200",
        "01000",
        "02000",
        "10000",
        "20000",
    ):
        job = Job(len(algorithm.jobs), SPACE.options(SPACE.parse(text)), {"run": 0})
        algorithm.adopt(job)
        algorithm.tell(job, Outcome(-float(distance(SPACE.parse(text), zero)), 1, "complete"))
    near = Job(
        11, SPACE.options(SPACE.parse("00011")), {"run": 1}
    )  # next to 00001, which is next to the optimum
    algorithm.adopt(near)
    algorithm.tell(near, Outcome(-2.0, 1, "complete"))
    # The climb of run 1 goes 00011 -> 00001 -> 00000 without an evaluation and ends there: run 2 begins.
    assert algorithm.ask(1)[0].attrs == {"run": 2}


def test_while_a_step_waits_for_its_neighbours_others_are_asked() -> None:
    for step in ("first", "best"):
        algorithm = LocalSearch(SPACE, "max", 0, initial=2, step=step)  # type: ignore[arg-type]  # a bare string
        for job in algorithm.ask(2):
            algorithm.tell(job, Outcome(float(job.number), 1, "complete"))
        jobs = algorithm.ask(25)
        assert len(jobs) == 25
        assert [job.attrs["parent"] for job in jobs[:10]] == [1] * 10
        assert 0 in [job.attrs.get("parent") for job in jobs[10:]]
        assert {job.attrs["run"] for job in jobs} == {0}
