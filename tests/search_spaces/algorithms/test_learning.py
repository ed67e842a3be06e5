"""What model-based searches learn from: trials stopped early, conditional parameters, other people's trials."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from fairsweep.search_spaces.algorithms import Job, Outcome, create_search
from fairsweep.search_spaces.algorithms.covariance_matrix import CmaEsSearch
from fairsweep.search_spaces.algorithms.equal_fidelity import highest_level, value_at
from fairsweep.search_spaces.space import Space

X = {"type": "float", "low": 0.0, "high": 1.0, "paper": 0.5}
SPACES = {
    "numbers": {"x": X, "y": X},
    "mixed": {"x": X, "y": X, "kind": {"type": "categorical", "choices": ["a", "b"], "paper": "a"}},
    "conditional": {
        "kind": {"type": "categorical", "choices": ["a", "b"], "paper": "a"}, "x": X, "y": X,
        "of_a": {**X, "when": {"kind": "a"}},
        "of_b": {"type": "int", "low": 1, "high": 9, "paper": 2, "when": {"kind": "b"}},
    },
}  # fmt: skip


def space(name: str) -> Space:
    return Space.from_mapping(SPACES[name], source=name)


def loss(config: Mapping[str, Any]) -> float:
    return (config["x"] - 0.2) ** 2 + (config["y"] - 0.8) ** 2 + 0.1 * (config.get("kind") == "a")


def stopped_early(number: int, config: Mapping[str, Any]) -> Outcome:
    """The better half comes to step 3, none to the end."""
    value, at_one = loss(config), loss(config) + 0.5
    if value > 0.35:
        return Outcome(at_one, 1, "paused", {1: at_one})
    return Outcome(value, 3, "pruned", {1: at_one, 3: value})


def complete(number: int, config: Mapping[str, Any]) -> Outcome:
    return Outcome(loss(config), 9, "complete")


def run(
    name: str, where: Space, jobs: int, outcome: Callable[[int, Mapping[str, Any]], Outcome], seed: int = 0
) -> tuple[Any, list[Job]]:
    search = create_search(name, where, "min", seed)
    asked = []
    for _ in range(jobs):
        (job,) = search.ask(1)
        search.tell(job, outcome(job.number, job.config))
        asked.append(job)
    return search, asked


def uninformed(name: str, where: Space, jobs: list[Job], seed: int = 0) -> Job:
    """What the search suggests after `jobs` if it hears of no outcome but that they have failed."""
    search = create_search(name, where, "min", seed)
    for job in jobs:
        search.adopt(other := Job(job.number, job.config))
        search.tell(other, Outcome(None, 0, "failed"))
    return search.ask(1)[0]


@pytest.mark.parametrize("outcome", [complete, stopped_early])
@pytest.mark.parametrize("where", SPACES)
@pytest.mark.parametrize(("name", "count", "last"), [("gp", 15, 4), ("cmaes", 30, 10)])
def test_suggestions_follow_the_model_also_of_trials_that_were_stopped(
    name: str, count: int, last: int, where: str, outcome: Callable[[int, Mapping[str, Any]], Outcome]
) -> None:
    """With Optuna 5.0's samplers as they are, none of 29 suggestions did."""
    _, jobs = run(name, space(where), count, outcome)
    for job in jobs:
        space(where).validate(job.config)
    assert uninformed(name, space(where), jobs[:-1]).config != jobs[-1].config
    early, late = (np.mean([loss(j.config) for j in part]) for part in (jobs[:10], jobs[-last:]))
    assert late < 0.7 * early, "it has found where the good ones are"


@pytest.mark.parametrize("name", ["gp", "cmaes", "tpe"])
def test_a_replay_suggests_the_same(name: str) -> None:
    where = space("conditional")
    live, jobs = run(name, where, 17, stopped_early)
    again = create_search(name, where, "min", 0)
    for job in jobs:
        again.adopt(job)
    for job in reversed(jobs):
        again.tell(job, stopped_early(job.number, job.config))
    assert live.ask(2) == again.ask(2)


def test_values_are_compared_at_the_highest_milestone_that_enough_have_come_to() -> None:
    outcomes = {
        0: Outcome(0.1, 9, "complete", {1: 0.5, 3: 0.3}),
        1: Outcome(0.2, 3, "pruned", {1: 0.6, 3: 0.2}),
        2: Outcome(0.7, 1, "paused", {1: 0.7}),
        3: Outcome(0.05, 2, "complete", {1: 0.4}),
        4: Outcome(None, 4, "failed", {1: 0.0, 3: 0.0}),
    }
    assert highest_level(outcomes, 2) == (None, {0: 0.1, 3: 0.05})
    assert highest_level(outcomes, 3) == (3, {0: 0.3, 1: 0.2, 3: 0.05}), "a short one keeps its value"
    assert highest_level(outcomes, 4) == (1, {0: 0.5, 1: 0.6, 2: 0.7, 3: 0.4})
    assert highest_level(outcomes, 9).step == 1, "where none has so many, the one with most"
    assert highest_level({}, 2) == (None, {})
    own_steps = Outcome(0.3, 5, "paused", {5: 0.3})
    assert (value_at(own_steps, 4), value_at(own_steps, 6)) == (0.3, None)


def cmaes(where: Space | None = None) -> CmaEsSearch:
    return CmaEsSearch(where or space("numbers"), "min", 0)


def known(search: CmaEsSearch, points: list[tuple[float, float]], first: int = 0) -> None:
    """Has `search` learn of other people's trials at `points`."""
    for number, (x, y) in enumerate(points, start=first):
        job = Job(number, {"x": x, "y": y})
        search.adopt(job)
        search.tell(job, complete(number, job.config))


def mean(search: CmaEsSearch) -> np.ndarray:
    return search.distribution()[0].mean


def test_cmaes_starts_from_what_is_known() -> None:
    rng = np.random.default_rng(0)
    search = cmaes()
    known(search, [tuple(p) for p in rng.random((40, 2))])
    np.testing.assert_allclose(mean(search), [0.2, 0.8], atol=0.12)
    (job,) = search.ask(1)
    assert len(job.attrs["cmaes"]["start"]) == 40
    few = cmaes()
    known(few, [(0.9, 0.9), (0.2, 0.8), (0.1, 0.1), (0.6, 0.2), (0.5, 0.5), (0.4, 0.1)])
    np.testing.assert_allclose(mean(few), [0.2, 0.8], err_msg="also of fewer than cmaes asks for")


def test_cmaes_learns_from_the_papers_configuration_and_from_late_trials() -> None:
    def generation(papers: float | None) -> np.ndarray:
        search, own = cmaes(), cmaes().popsize - 1
        job = Job(0, {"x": 0.2, "y": 0.8})
        search.adopt(job)
        jobs = search.ask(own)
        if papers is not None:
            search.tell(job, Outcome(papers, 9, "complete"))
        for k, asked in enumerate(jobs):
            search.tell(asked, Outcome(1.0 + k, 9, "complete"))
        return mean(search)

    wide = np.array([0.5, 0.5])
    good, bad = generation(0.0), generation(99.0)
    np.testing.assert_array_equal(generation(None), wide, err_msg="one is missing of the generation")
    assert np.linalg.norm(good - [0.2, 0.8]) < np.linalg.norm(bad - [0.2, 0.8]) - 0.05


def test_a_far_point_does_not_blow_the_distribution_up() -> None:
    search, _ = run("cmaes", space("numbers"), 60, complete)
    before = search.distribution()[0]
    spread = before._sigma * np.sqrt(np.diag(before._C)).max()
    first = max(search._jobs) + 1
    known(search, [(1.0, 0.0)] * search.popsize, first=first)
    for number in range(first, first + search.popsize):  # and it seems to be the best of all
        search.tell(search._jobs[number], Outcome(-1.0, 9, "complete"))
    after = search.distribution()[0]
    assert after.generation > before.generation
    assert np.linalg.norm(after.mean - before.mean) < 5 * spread
    assert after._sigma < 10 * before._sigma


def test_a_trial_that_lacks_a_number_or_lies_outside_leaves_the_others_their_model() -> None:
    """Optuna 5.0 falls back to random draws for good once a complete trial lacks a number that it searches over."""
    where = space("conditional")
    search = CmaEsSearch(where, "min", 0)
    odd = [
        Job(0, {"kind": "a", "x": 0.5, "of_a": 0.5}),
        Job(1, {"kind": "a", "x": 7.0, "y": 0.5, "of_a": 0.5}),
    ]
    for job in odd:
        search.adopt(job)
        search.tell(job, Outcome(0.0, 9, "complete"))
    for _ in range(2 * search.popsize):
        (job,) = search.ask(1)
        search.tell(job, complete(job.number, job.config))
    assert search.distribution()[0].generation == 2
    assert not {0, 1} & {n for g in search.ask(1)[0].attrs["cmaes"].get("learnt", []) for n in g}


def test_cmaes_ranks_who_came_further_before_who_did_not() -> None:
    search = cmaes()
    jobs = search.ask(3)
    told = [
        Outcome(0.1, 1, "paused", {1: 0.1}),
        Outcome(0.9, 3, "pruned", {1: 0.5, 3: 0.9}),
        Outcome(2.0, 9, "complete"),
    ]
    for job, outcome in zip(jobs, told, strict=True):
        search.tell(job, outcome)
    assert search._best_first([0, 1, 2]) == [2, 1, 0]


def test_cmaes_is_refused_where_no_number_is_always_there() -> None:
    only = {"kind": SPACES["conditional"]["kind"], "of_a": SPACES["conditional"]["of_a"]}
    with pytest.raises(ValueError, match=r"search=cmaes: no searched number .* use tpe or gp") as caught:
        create_search("cmaes", Space.from_mapping(only), "min")
    assert len(str(caught.value).splitlines()) == 1
    one_kind = {"kind": {**SPACES["conditional"]["kind"], "value": "a"}, "of_a": only["of_a"]}
    assert cmaes(Space.from_mapping(one_kind)).numbers == ["of_a"], (
        "it is always there once its parent is fixed"
    )
    other_kind = {**one_kind, "kind": {**one_kind["kind"], "value": "b"}}
    with pytest.raises(ValueError, match="no searched number"):
        cmaes(Space.from_mapping(other_kind))
