"""What every search over architectures owes: replay, limits, no repetition, patience with late and failed jobs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fairsweep.search_spaces.algorithms import (
    ARCHITECTURE_SEARCHES,
    ArchitectureSearch,
    ConstraintError,
    Job,
    OptunaSearch,
    Outcome,
    create_architecture_search,
    search_table,
)
from fairsweep.search_spaces.architectures.base import Architecture, ArchitectureError
from fairsweep.search_spaces.architectures.cell import CellSpace
from fairsweep.search_spaces.architectures.chain import ChainSpace
from fairsweep.search_spaces.architectures.mbconv import MBConvSpace
from fairsweep.search_spaces.space import Space

CHAIN, CELL = ChainSpace(layers=4), CellSpace()
SMALL: dict[str, dict[str, Any]] = {
    "evolution": {"population": 6, "sample": 3},
    "local_search": {"initial": 3},
    "nsga2": {"population": 6},
    "nasnet": {"batch": 4, "epochs": 2, "hidden": 8, "embedding": 4, "lr": 0.05, "known": 8},
    "grid": {"points": 3},
}
METHODS: list[tuple[str, dict[str, Any]]] = [
    ("random", {}), ("tpe", {}),
    *((name, SMALL[name]) for name in ("evolution", "local_search", "nsga2", "nasnet", "grid")),
    ("local_search", {"initial": 3, "step": "best", "at_optimum": "restart"}),
    ("nasnet", {**SMALL["nasnet"], "controller": "reinforce"}),
]  # fmt: skip
EVERY = pytest.mark.parametrize(
    ("name", "options"), METHODS, ids=[f"{k}-{name}" for k, (name, _) in enumerate(METHODS)]
)


def value(architecture: Architecture) -> float:
    """A rugged objective in 0 to 1: the better options, and what pairs of neighbours make of each other."""
    a = np.array(architecture.indices)
    return float((a.sum() + np.sin(3 * a[:-1] * a[1:] + a[:-1]).sum()) / (8 * len(a)) + 0.2)


def costs(architecture: Architecture) -> dict[str, float]:
    a = np.array(architecture.indices)
    return {"params": 100.0 * a.sum() + 50, "latency_ms": float((a == 1).sum())}


def search(
    name: str, options: dict[str, Any], space: Any = CHAIN, seed: int = 0, **common: Any
) -> ArchitectureSearch:
    return create_architecture_search(name, space, "max", seed, costs=costs, **common, **options)


def drive(algorithm: ArchitectureSearch, jobs: int, rng: np.random.Generator) -> dict[int, Outcome]:
    """Up to four jobs at a time that end in any order; some fail, some are paused first, some are told twice."""
    running: list[Job] = []
    last: dict[int, Outcome] = {}
    asked = 0
    while asked < jobs or len(running) > 2:
        while asked < jobs and len(running) < 4:
            new = algorithm.ask(min(int(rng.integers(1, 4)), jobs - asked))
            assert new, "nothing proposed while jobs are running"
            running += new
            asked += len(new)
        job = running.pop(int(rng.integers(len(running))))
        architecture = algorithm.space.from_options(job.config)
        if rng.random() < 0.15:
            algorithm.tell(job, Outcome(0.1, 1, "paused", {1: 0.1}))
        outcome = (
            Outcome(None, 0, "failed") if rng.random() < 0.15 else Outcome(value(architecture), 1, "complete")
        )
        for _ in range(1 + int(rng.random() < 0.2)):
            algorithm.tell(job, outcome)
        last[job.number] = outcome
    return last


def stored(job: Job) -> Job:
    """The job as the store gives it back."""
    return Job(job.number, json.loads(json.dumps(dict(job.config))), json.loads(json.dumps(dict(job.attrs))))


def replayed(live: ArchitectureSearch, outcomes: dict[int, Outcome], fresh: ArchitectureSearch,
             order: list[int]) -> ArchitectureSearch:  # fmt: skip
    for number in sorted(live.jobs):
        fresh.adopt(stored(live.jobs[number]))
    for number in order:
        fresh.tell(fresh.jobs[number], outcomes[number])
    return fresh


@EVERY
@pytest.mark.parametrize("unique", ["network", "none"])
def test_a_replay_in_any_order_gives_the_same_next_suggestions(
    name: str, options: dict[str, Any], unique: str
) -> None:
    if name == "local_search" and unique == "none":
        unique = "encoding"
    for seed in range(2):
        rng = np.random.default_rng(seed)
        live = search(name, options, CELL, seed, unique=unique)
        outcomes = drive(live, 27, rng)
        assert live.pending, "the replay must have to do with unfinished jobs"
        shuffled = rng.permutation(sorted(outcomes)).tolist()
        again = [
            replayed(live, outcomes, search(name, options, CELL, seed, unique=unique), order)
            for order in (sorted(outcomes), shuffled)
        ]
        wanted = [stored(job) for job in live.ask(3)]
        for fresh in again:
            assert [stored(job) for job in fresh.ask(3)] == wanted
            assert fresh.best == live.best


@EVERY
def test_seeds_differ_and_equal_seeds_do_not(name: str, options: dict[str, Any]) -> None:
    runs = [
        [a.indices for a, _ in search_table(search(name, options, CELL, seed), CELL, value, 15)]
        for seed in (3, 3, 4)
    ]
    assert runs[0] == runs[1] != runs[2]


@EVERY
def test_every_network_comes_once_and_then_the_search_is_finished(name: str, options: dict[str, Any]) -> None:
    algorithm = search(name, options, ChainSpace(layers=3))
    history = search_table(algorithm, algorithm.space, value, 100)
    assert len({a for a, _ in history}) == len(history) == 27
    assert algorithm.finished and algorithm.ask(2) == []


@EVERY
def test_encodings_of_the_same_network_count_as_one_only_by_network(
    name: str, options: dict[str, Any]
) -> None:
    # skip_connect twice in a row and once past: some encodings of this space compute the same.
    space = CellSpace(nodes=3, operations=("none", "skip_connect", "nor_conv_3x3"))
    members = list(space.enumerate())
    networks = {space.canonical(a) for a in members}
    assert len(networks) < len(members)
    for unique, count in (("network", len(networks)), ("encoding", len(members))):
        history = search_table(search(name, options, space, unique=unique), space, value, 100)
        assert len(history) == count


@EVERY
def test_only_architectures_within_the_limits_are_proposed(name: str, options: dict[str, Any]) -> None:
    limits = {"params": {"lower": 250, "upper": 450}, "latency_ms": 1}
    kept = {a for a in CHAIN.enumerate() if 250 <= costs(a)["params"] <= 450 and costs(a)["latency_ms"] <= 1}
    history = search_table(search(name, options, constraints=limits), CHAIN, value, 100)
    assert {a for a, _ in history} == kept and 5 < len(kept) < 40


@EVERY
def test_a_large_space_under_tight_limits_is_searched_too(name: str, options: dict[str, Any]) -> None:
    if name == "grid":
        pytest.skip("a grid of this size is refused")
    space = MBConvSpace(stages=(4, 4, 4))
    limit = {"params": 550}  # one draw in tens of thousands: indices sum to 5 at most, 21 on average
    algorithm = search(name, options, space, constraints=limit)
    history = search_table(algorithm, space, value, 5)
    assert len({a for a, _ in history}) == 5
    assert all(costs(a)["params"] <= 550 for a, _ in history)


@EVERY
def test_many_jobs_at_once_and_none_that_ever_succeeds(name: str, options: dict[str, Any]) -> None:
    algorithm = search(name, options, CELL)
    jobs = algorithm.ask(15)
    assert len({CELL.canonical(CELL.from_options(job.config)) for job in jobs}) == 15
    for job in jobs:
        algorithm.tell(job, Outcome(None, 0, "failed"))
    assert len(algorithm.ask(15)) == 15 and algorithm.best is None


@pytest.mark.parametrize(
    ("name", "options"), [m for m in METHODS if m[0] not in ("random", "grid", "nasnet")]
)
@pytest.mark.parametrize("mode", ["min", "max"])
def test_learning_searches_find_better_than_random_in_either_direction(
    name: str, options: dict[str, Any], mode: str
) -> None:
    sign = 1 if mode == "max" else -1

    def best(name: str, options: dict[str, Any], seed: int) -> float:
        algorithm = create_architecture_search(name, CELL, mode, seed, **options)
        found = search_table(algorithm, CELL, lambda a: sign * value(a), 50)
        assert algorithm.best is not None
        assert algorithm.best[1] == sign * max(sign * v for _, v in found)
        return sign * algorithm.best[1]

    if name == "tpe":
        pairs = [(best(name, options, s), best("random", {}, s)) for s in range(2)]
    else:
        pairs = [(best(name, options, s), best("random", {}, s)) for s in range(6)]
    assert np.mean([a - b for a, b in pairs]) > 0.01


# -- the protocol -------------------------------------------------------------------------------------


def test_the_configuration_is_that_of_the_hyperparameter_space() -> None:
    job = search("evolution", {}).ask(1)[0]
    assert CHAIN.to_space().validate(job.config) == job.config
    assert set(job.config) == {"layer_0", "layer_1", "layer_2", "layer_3"}


def test_jobs_of_others_are_adopted_and_learnt_from() -> None:
    algorithm = search("evolution", {"population": 2, "sample": 50})
    first = [
        Job(0, CHAIN.options(CHAIN.parse("2222")), {"first": True}),
        Job(1, CHAIN.options(CHAIN.parse("0000"))),
    ]
    for job, result in zip(first, (0.9, 0.1), strict=True):
        algorithm.adopt(job)
        algorithm.tell(job, Outcome(result, 1, "complete"))
    child = CHAIN.from_options(algorithm.ask(1)[0].config)
    assert sum(x != 2 for x in child.indices) == 1
    assert CHAIN.format(child) != "2222"
    with pytest.raises(ArchitectureError, match="layer_3"):
        algorithm.adopt(Job(7, {f"layer_{k}": "identity" for k in range(3)}))
    with pytest.raises(ArchitectureError, match="not a valid network"):
        search("random", {}, CELL).adopt(Job(0, {choice.name: "none" for choice in CELL.choices}))


def test_what_is_told_last_counts_but_nothing_takes_a_completion_back() -> None:
    algorithm = search("random", {})
    a, b = algorithm.ask(2)
    with pytest.raises(KeyError, match="neither asked nor adopted"):
        algorithm.tell(replace(a, number=9), Outcome(1.0, 1, "complete"))
    algorithm.tell(a, Outcome(0.3, 1, "paused", {1: 0.3}))
    assert algorithm.pending == [0, 1] and algorithm.best is None
    algorithm.tell(a, Outcome(0.5, 3, "complete"))
    algorithm.tell(a, Outcome(None, 0, "interrupted"))
    algorithm.tell(b, Outcome(float("nan"), 3, "complete"))
    assert algorithm.pending == [] and algorithm.best == (CHAIN.from_options(a.config), 0.5)
    algorithm.tell(a, Outcome(0.6, 3, "complete"))
    assert algorithm.gains == {0: 0.6}


def test_adopting_a_number_again_forgets_the_architecture_before() -> None:
    algorithm = search("random", {})
    algorithm.adopt(Job(0, CHAIN.options(CHAIN.parse("0000"))))
    algorithm.adopt(Job(0, CHAIN.options(CHAIN.parse("1111"))))
    assert algorithm.is_seen(CHAIN.parse("1111")) and not algorithm.is_seen(CHAIN.parse("0000"))


def test_failed_values_of_a_table_are_told_as_failures() -> None:
    algorithm = search("random", {})
    history = search_table(algorithm, CHAIN, lambda a: float("nan") if a.indices[0] else 1.0, 20)
    assert len(history) == 20
    assert len(algorithm.gains) == sum(a.indices[0] == 0 for a, _ in history) < 20
    assert algorithm.pending == []


# -- limits -------------------------------------------------------------------------------------------


def test_limits_that_nothing_keeps_say_how_near_the_nearest_comes() -> None:
    with pytest.raises(ConstraintError, match=r"nearest is 0000: params=50 is not within -inf to 40$"):
        search("random", {}, constraints={"params": 40}).ask(1)
    with pytest.raises(ConstraintError, match=r"no architecture .* keeps params, latency_ms; .*params=50 "):
        search("evolution", {}, MBConvSpace(), constraints={"params": 40, "latency_ms": 5}).ask(1)


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        ({"flops": 5}, "constraints.flops: costs has only params, latency_ms"),
        ({"params": "small"}, "constraints.params.upper='small': must be a number"),
        ({"params": float("nan")}, "constraints.params.upper=nan: must be a number"),
        ({"params": True}, "constraints.params.upper=True: must be a number"),
        ({"params": {"max": 3}}, "must be a number .the upper limit. or have lower and upper"),
        ({"params": {}}, "must be a number .the upper limit. or have lower and upper"),
        ({"params": {"lower": 5, "upper": 4}}, "constraints.params: lower=5 is above upper=4"),
    ],
)
def test_malformed_limits_are_refused(constraints: dict[str, Any], message: str) -> None:
    with pytest.raises(ConstraintError, match=message):
        search("random", {}, constraints=constraints).ask(1)


def test_limits_need_costs() -> None:
    with pytest.raises(ConstraintError, match=r"constraints\.params: costs=None"):
        create_architecture_search("random", CHAIN, "max", constraints={"params": 5})


def test_draws_within_limits_are_uniform() -> None:
    algorithm = search("random", {}, ChainSpace(2), unique="none", constraints={"params": 250})
    counts: dict[tuple[int, ...], int] = {}
    for architecture, _ in search_table(algorithm, algorithm.space, value, 1800):
        counts[architecture.indices] = counts.get(architecture.indices, 0) + 1
    assert set(counts) == {(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0)}
    assert all(240 < n < 360 for n in counts.values())


# -- names and options --------------------------------------------------------------------------------


def test_every_name_makes_a_search() -> None:
    for name in ARCHITECTURE_SEARCHES:
        options = {"configs": [CHAIN.options(CHAIN.parse("0120"))]} if name == "listed" else {}
        assert search(name, options).ask(1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("anneal", {}, "search=anneal: no such search over architectures; known: random, evolution"),
        ("evolution", {"populaton": 5}, "search.populaton=5: evolution has no such option; known: population, sample"),
        ("evolution", {"population": 0}, "population=0: must be at least 1"),
        ("evolution", {"sample": 0}, "sample=0: must be at least 1"),
        ("local_search", {"initial": 0}, "initial=0: must be at least 1"),
        ("local_search", {"step": "worst"}, "step='worst': must be first or best"),
        ("local_search", {"at_optimum": "stop"}, "at_optimum='stop': must be restart or continue"),
        ("local_search", {"unique": "none"}, "unique=none: local search evaluates no architecture twice"),
        ("random", {"unique": "never"}, "unique='never': must be one of network, encoding, none"),
        ("random", {"seed": -1}, "seed=-1: must not be negative"),
        ("nsga2", {"population": 1}, "population=1: must be at least 2"),
        ("nsga2", {"crossover": 1.5}, "crossover=1.5: must be a probability"),
        ("nasnet", {"controller": "a2c"}, "controller='a2c': must be ppo or reinforce"),
        ("nasnet", {"ratio": "both"}, "ratio='both': must be decision or joint"),
        ("nasnet", {"batch": 0}, "batch=0: must be at least 1"),
        ("nasnet", {"lr": 0.0}, "lr=0.0: must be above 0"),
        ("nasnet", {"clip": 2.0}, "clip=2.0: must be above 0, at most 1"),
        ("nasnet", {"baseline_decay": 1.0}, "baseline_decay=1.0: must be at least 0 and below 1"),
    ],
)  # fmt: skip
def test_bad_options_are_refused_by_name(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        create_architecture_search(name, CHAIN, "max", **options)
    assert len(str(caught.value).splitlines()) == 1


def test_mode_is_min_or_max() -> None:
    with pytest.raises(ValueError, match="mode='up'"):
        create_architecture_search("random", CHAIN, "up")


@pytest.mark.parametrize("failed", [False, True], ids=["told", "failed"])
def test_an_adopted_job_is_known_as_if_the_study_were_made_anew(failed: bool) -> None:
    """The study takes it up as it stands; a replay, which builds one from all jobs, must suggest the same."""
    space = Space.from_mapping({"x": {"type": "float", "low": 0.0, "high": 1.0, "paper": 0.5}})
    live, jobs = OptunaSearch(space, "max", 5), []
    for k in range(30):
        job = live.ask(1)[0]
        if (
            k % 3 == 2
        ):  # somebody's job comes between two of its own, and ends after the next has been asked for
            live.adopt(other := Job(job.number + 1, {"x": k / 30}))
            jobs.append((other, Outcome(None, 0, "failed") if failed else Outcome(1.0, 1, "complete")))
        jobs.append((job, Outcome(-abs(job.config["x"] - 0.3), 1, "complete")))
        if k % 3 == 0:
            for held, outcome in jobs[-3:]:
                live.tell(held, outcome)
    studied = live.study
    for held, outcome in jobs:
        live.tell(held, outcome)
    again = OptunaSearch(space, "max", 5)
    for held, _ in sorted(jobs, key=lambda pair: pair[0].number):
        again.adopt(held)
    for held, outcome in reversed(jobs):
        again.tell(held, outcome)
    assert [(t.state, t.params, t.value) for t in live.study.trials] == [
        (t.state, t.params, t.value) for t in again.study.trials
    ]
    assert len(studied.trials) == len(jobs)
    assert live.ask(3) == again.ask(3)


def test_a_job_that_is_adopted_late_takes_its_place_in_the_study() -> None:
    space = Space.from_mapping({"x": {"type": "float", "low": 0.0, "high": 1.0, "paper": 0.5}})
    search = OptunaSearch(space, "max", 5)
    search.ask(1)
    late, early = Job(5, {"x": 0.5}), Job(3, {"x": 0.25})
    for job, known in ((late, 2), (early, 3)):
        search.adopt(job)
        assert len(search.study.trials) == known
    search.tell(late, Outcome(1.0, 1, "complete"))
    assert [t.value for t in search.study.trials] == [None, None, 1.0]


@EVERY
def test_what_breaks_a_limit_is_never_the_best_nor_a_parent(name: str, options: dict[str, Any]) -> None:
    """It was adopted, from a run without the limit."""
    limit = {"params": 350}
    algorithm = search(name, options, constraints=limit)
    greedy = CHAIN.architecture([len(choice.options) - 1 for choice in CHAIN.choices])
    assert costs(greedy)["params"] > limit["params"]
    other = Job(0, CHAIN.options(greedy))
    algorithm.adopt(other)
    algorithm.tell(other, Outcome(10.0, 1, "complete"))
    assert algorithm.best is None
    for _ in range(12):
        (job,) = algorithm.ask(1)
        architecture = CHAIN.from_options(job.config)
        algorithm.tell(job, Outcome(value(architecture), 1, "complete"))
        assert job.attrs.get("parent") != 0 and 0 not in job.attrs.get("parents", [])
    assert algorithm.best is not None and costs(algorithm.best[0])["params"] <= limit["params"]
