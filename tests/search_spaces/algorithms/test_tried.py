"""No configuration is asked for twice, and a search ends with its space."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fairsweep.search_spaces.algorithms import Job, Outcome, create_search
from fairsweep.search_spaces.algorithms.tried import Tried
from fairsweep.search_spaces.space import Space

AB = {"type": "categorical", "choices": ["a", "b"], "paper": "a"}
SMALL = Space.from_mapping(
    {
        "kind": AB,
        "flag": {"type": "boolean", "paper": False},
        "k": {"type": "int", "low": 1, "high": 3, "log": True, "paper": 1},
        "share": {"type": "float", "low": 0.1, "high": 0.3, "step": 0.1, "paper": 0.1, "when": {"kind": "a"}},
        "fixed": 7,
    },
    source="small",
)
SIZE = 2 * 3 * 3 + 2 * 3  # flag and k, and share where kind is a
TWELVE = Space.from_mapping({"k": {"type": "int", "low": 1, "high": 12, "paper": 1}}, source="twelve")
SEARCHES: list[tuple[str, dict[str, Any]]] = [
    ("random", {}),
    ("tpe", {}),
    ("cmaes", {}),
    ("grid", {"points": 3}),
]


def loss(config: Any) -> float:
    return config["k"] + config.get("share", 0.5) + config.get("flag", 0)


def asked(search: Any, at_most: int, known: int = 0) -> list[Job]:
    jobs: list[Job] = []
    while len(jobs) < at_most and (more := search.ask(1)):
        jobs += more
        search.tell(more[0], Outcome(loss(more[0].config), 1, "complete"))
    return jobs


@pytest.mark.parametrize(
    ("name", "options", "space", "size"), [*((*s, SMALL, SIZE) for s in SEARCHES), ("gp", {}, TWELVE, 12)]
)
def test_every_search_runs_each_configuration_once_and_ends(
    name: str, options: dict[str, Any], space: Space, size: int
) -> None:
    search = create_search(name, space, "min", 1, **options)
    papers = Job(0, space.paper_config())
    search.adopt(papers)
    search.tell(papers, Outcome(loss(papers.config), 1, "complete"))
    jobs = [papers, *asked(search, 100)]
    assert len(jobs) == size and search.finished and search.ask(1) == []
    every = [space.validate(job.config) for job in jobs]
    assert all(config not in every[:k] for k, config in enumerate(every))
    assert [job.number for job in jobs] == list(range(size))


@pytest.mark.parametrize(("name", "options"), SEARCHES)
@pytest.mark.parametrize("cut", [3, 15, SIZE - 1])
def test_a_replay_goes_on_with_the_same_configurations(name: str, options: dict[str, Any], cut: int) -> None:
    jobs = asked(create_search(name, SMALL, "min", 1, **options), 100)
    again = create_search(name, SMALL, "min", 1, **options)
    for job in jobs[:cut]:
        again.adopt(Job(job.number, dict(job.config), dict(job.attrs)))
    for job in jobs[:cut]:
        again.tell(job, Outcome(loss(job.config), 1, "complete"))
    assert [j.config for j in asked(again, 100)] == [j.config for j in jobs[cut:]]


def test_a_listed_configuration_runs_once() -> None:
    configs = [{"kind": "b", "flag": f, "k": 1, "fixed": 7} for f in (True, False, True)]
    search = create_search("listed", SMALL, "min", configs=configs)
    assert [j.config["flag"] for j in search.ask(5)] == [True, False] and search.finished


def test_where_repeats_are_wanted_the_search_goes_on() -> None:
    for name in ("random", "tpe"):
        search = create_search(name, SMALL, "min", 1, repeats=True)
        assert len(asked(search, SIZE + 5)) == SIZE + 5 and not search.finished


def test_a_number_without_steps_has_no_end() -> None:
    space = Space.from_mapping(
        {"kind": AB, "x": {"type": "float", "low": 0.0, "high": 1.0, "paper": 0.5, "when": {"kind": "a"}}}
    )
    search = create_search("random", space, "min")
    jobs = asked_configs(search, 50)
    assert sum(c["kind"] == "b" for c in jobs) == 1, "the branch without the number is run once"
    assert not search.finished


def asked_configs(search: Any, n: int) -> list[Any]:
    return [job.config for job in search.ask(n)]


def test_what_is_left_is_found_however_seldom_it_is_drawn() -> None:
    space = Space.from_mapping({"k": {"type": "int", "low": 1, "high": 20_000, "log": True, "paper": 1}})
    tried = Tried(space)
    for k in range(1, 20_001):
        if k != 19_000:
            tried.add({"k": k})
    assert not tried.all and tried.another(np.random.default_rng(0)) == {"k": 19_000}
    tried.add({"k": 19_000})
    assert tried.all


def test_steps_are_the_same_however_they_are_rounded() -> None:
    space = Space.from_mapping({"s": {"type": "float", "low": 0.1, "high": 0.9, "step": 0.1, "paper": 0.1}})
    tried = Tried(space)
    tried.add({"s": 0.30000000000000004})
    assert {"s": 0.3} in tried and {"s": 0.4} not in tried
    tried.add({"s": 0.35})  # of no space
    assert len(tried) == 1


def test_a_space_of_fixed_values_has_one_configuration() -> None:
    search = create_search("random", Space.from_mapping({"a": 1, "b": 2}), "min")
    assert not search.finished
    assert len(search.ask(3)) == 1 and search.finished


def test_tpe_looks_at_each_trial_once_and_suggests_what_a_fresh_sampler_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fairsweep.search_spaces.algorithms.optuna_bridge import OptunaSearch, optuna
    from fairsweep.search_spaces.algorithms.warm_tpe import Seen

    looked, finished = list[int](), Seen._finished

    def counted(seen: Seen, study: Any, trial: Any) -> None:
        looked.append(trial.number)
        finished(seen, study, trial)

    monkeypatch.setattr(Seen, "_finished", counted)
    space = Space.from_mapping(
        {"x": {"type": "float", "low": 0.0, "high": 1.0, "paper": 0.5}, "n": {"type": "int", "low": 1, "high": 9,
         "paper": 1, "when": {"kind": ["a"]}}, "kind": {"type": "categorical", "choices": ["a", "b"], "paper": "a"}},
        source="test",
    )  # fmt: skip

    def configs(search: Any) -> list[Any]:
        found, late = [], []
        for k in range(60):
            (job,) = search.ask(1)
            found.append(dict(job.config))
            reason = ("complete", "failed", "paused", "complete")[k % 4]
            outcome = Outcome(
                job.config["x"] if reason == "complete" else None, 1, reason, {1: job.config["x"]}
            )
            if k % 5:
                search.tell(job, outcome)
            else:
                late.append((job, outcome))  # it still runs while the next ones are asked for
            if len(late) == 3:
                search.tell(*late.pop(0))
        return found

    warm = configs(create_search("tpe", space, "min", 3))
    assert len(looked) == len(set(looked)) >= 50
    cold = OptunaSearch(space, "min", 3, sampler=lambda seed: optuna.samplers.TPESampler(seed=seed))
    assert warm == configs(cold)
