"""NSGA-II over hyperparameters: generations, what survives a replay, limits, and Optuna's own beside it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from fairsweep.search_spaces.algorithms import Job, Outcome, create_search
from fairsweep.search_spaces.algorithms.nsga2_search import PARENTS, NSGA2Search
from fairsweep.search_spaces.space import Space

SPACE = Space.from_mapping(
    {
        "x": {"type": "float", "low": 0.0, "high": 1.0, "paper": 0.5},
        "y": {"type": "float", "low": 0.0, "high": 1.0, "paper": 0.5},
        "kind": {"type": "categorical", "choices": ["a", "b"], "paper": "a"},
    },
    source="test",
)


def outcome(job: Job) -> Outcome:
    x, y = job.config["x"], job.config["y"]
    return Outcome(x, 1, "complete", values=(x, 1 - x + y), broken={"y.max": y - 0.7})


def searched(seed: int = 0, many: int = 40) -> tuple[NSGA2Search, list[tuple[str, Job]]]:
    """A search with six jobs at a time, of which the first of each six comes last; and what was done, in order."""
    search, log = NSGA2Search(SPACE, ("min", "min"), seed, population=4), []
    first = Job(0, {"x": 0.5, "y": 0.5, "kind": "a"}, {"first": True})
    search.adopt(first)
    log.append(("ask", first))
    waiting = [first]
    while len(log) < many:
        (job,) = search.ask(1)
        log.append(("ask", job))
        waiting.append(job)
        if len(waiting) == 6:
            for done in waiting[1:5] if len(log) % 4 else waiting[::-1]:
                waiting.remove(done)
                search.tell(done, outcome(done))
                log.append(("tell", done))
    return search, log


def replayed(log: list[tuple[str, Job]], seed: int = 0, parents: bool = True) -> NSGA2Search:
    """A fresh search that is given the log, jobs first, as a resumed sweep does."""
    search = NSGA2Search(SPACE, ("min", "min"), seed, population=4)
    for kind, job in log:
        if kind == "ask":
            attrs = json.loads(json.dumps(dict(job.attrs)))
            search.adopt(
                replace(job, attrs=attrs if parents else {k: v for k, v in attrs.items() if k != PARENTS})
            )
    for kind, job in log:
        if kind == "tell":
            search.tell(job, outcome(job))
    return search


def test_a_replayed_search_descends_from_the_same_parents() -> None:
    differ = 0
    for seed in range(4):
        for many in (30, 41, 52):
            live, log = searched(seed, many)
            again = replayed(log, seed)
            wanted = [live.ask(1)[0].config for _ in range(2)]
            assert [again.ask(1)[0].config for _ in range(2)] == wanted
            other = replayed(log, seed, parents=False)
            differ += [other.ask(1)[0].config for _ in range(2)] != wanted
    assert differ, "Optuna's own choice would be another one once late trials have come"


def test_generations_count_the_papers_own_configuration() -> None:
    search, _ = searched(many=40)
    generations = [t.system_attrs["NSGAIISampler:generation"] for t in search.study.trials]
    assert generations[0] == 0 and generations == sorted(generations) and max(generations) >= 2


def test_limits_and_both_objectives_reach_the_sampler() -> None:
    search, log = searched()
    told = {job.number for kind, job in log if kind == "tell"}
    for trial in replayed(log).study.trials:
        if trial.number in told:
            job = search._jobs[trial.number]
            assert trial.values == list(outcome(job).values) and trial.constraints == dict(
                outcome(job).broken
            )


def late(name: str, seed: int) -> float:
    """The mean of what the last third of 60 configurations came to, feasible, by the sum of both objectives."""
    options: dict[str, Any] = {"population": 8} if name == "nsga2" else {}
    search = create_search(name, SPACE, ("min", "min"), seed, **options)
    found = []
    for _ in range(60):
        (job,) = search.ask(1)
        search.tell(job, outcome(job))
        found.append(job.config["y"])
    return sum(found[40:]) / 20


@pytest.mark.parametrize("name", ["nsga2", "tpe"])
def test_it_learns(name: str) -> None:
    """On the front y is 0; random draws have it at one half."""
    assert sum(late(name, seed) for seed in range(3)) / 3 < 0.25


def test_what_takes_one_objective_is_refused_by_name() -> None:
    for name in ("gp", "cmaes"):
        with pytest.raises(
            ValueError, match=f"search={name}: tunes on one metric; with several take tpe or nsga2"
        ):
            create_search(name, SPACE, ("min", "max"))
    with pytest.raises(ValueError, match=r"search=nsga2: is for several metrics"):
        create_search("nsga2", SPACE, "min")
    with pytest.raises(ValueError, match=r"search\.population=1: must be at least 2"):
        create_search("nsga2", SPACE, ("min", "min"), population=1)
