"""Train, score, retrain as one ask/tell algorithm, driven by hand."""

from __future__ import annotations

import pytest

from fairsweep.search_spaces.algorithms import create_search
from fairsweep.search_spaces.algorithms.base import Job, Outcome
from fairsweep.search_spaces.algorithms.phases import PhasedSearch, Plan
from fairsweep.search_spaces.architectures.chain import ChainSpace
from fairsweep.search_spaces.architectures.jobs import members

SPACE = ChainSpace(4)


def search(plan: Plan, name: str = "random", seed: int = 0) -> PhasedSearch:
    return PhasedSearch(SPACE, create_search(name, SPACE.to_space(), "max", seed), plan)


def value(text: str) -> float:
    return sum(int(c) * 10.0**-k for k, c in enumerate(text))


def outcome(job: Job) -> Outcome:
    texts = members(job.config)
    if job.config["phase"] == "score":
        return Outcome(None, len(texts), "complete", reports={k: value(t) for k, t in enumerate(texts, 1)})
    return Outcome(value(texts[0]) if texts else 0.5, 1, "complete")


def run(algorithm: PhasedSearch, jobs: list[Job] | None = None) -> list[Job]:
    done = jobs if jobs is not None else []
    while not algorithm.finished:
        (job,) = algorithm.ask(1)
        done.append(job)
        algorithm.tell(job, outcome(job))
    return done


def test_phases_follow_each_other() -> None:
    jobs = run(search(Plan(evaluations=10, batch=4, top=2, repeats=3)))
    assert [job.config["phase"] for job in jobs] == ["train"] + ["score"] * 3 + ["retrain"] * 6
    assert [len(members(job.config)) for job in jobs[1:4]] == [4, 4, 2]
    scored = sorted({t for job in jobs[1:4] for t in members(job.config)}, key=value, reverse=True)
    assert [job.config["architecture"] for job in jobs[4:]] == [scored[0]] * 3 + [scored[1]] * 3
    assert [job.config["repeat"] for job in jobs[4:]] == [0, 1, 2] * 2
    assert [job.number for job in jobs] == list(range(len(jobs)))


def test_what_may_not_be_trained_is_scored_but_not_retrained() -> None:
    algorithm = search(Plan(evaluations=10, batch=4, top=2, repeats=2))
    algorithm.keeps = lambda a: SPACE.format(a)[0] == "0"
    jobs = run(algorithm)
    scored = {t for job in jobs if job.config["phase"] == "score" for t in members(job.config)}
    kept = sorted((t for t in scored if t[0] == "0"), key=value, reverse=True)[:2]
    assert kept and len(kept) < len(scored)
    assert [job.config["architecture"] for job in jobs if job.config["phase"] == "retrain"] == [
        text for text in kept for _ in range(2)
    ]


def test_nothing_is_scored_before_the_supernet_is_there_and_nothing_retrained_before_all_scores_are() -> None:
    algorithm = search(Plan(evaluations=4, batch=2, top=1, repeats=1))
    (train,) = algorithm.ask(5)
    assert algorithm.ask(1) == [] and not algorithm.finished
    algorithm.tell(train, outcome(train))
    first, second = algorithm.ask(5)
    algorithm.tell(second, outcome(second))
    assert algorithm.ask(1) == [] and not algorithm.finished and algorithm.phase == "score"
    algorithm.tell(first, outcome(first))
    (retrain,) = algorithm.ask(5)
    assert retrain.config["phase"] == "retrain"


def test_a_supernet_that_is_there_is_not_trained_again() -> None:
    assert run(search(Plan(train=False, evaluations=2, batch=2, top=0)))[0].config["phase"] == "score"


def test_a_supernet_that_fails_ends_the_search() -> None:
    algorithm = search(Plan())
    (job,) = algorithm.ask(1)
    algorithm.tell(job, Outcome(None, 3, "failed"))
    assert algorithm.finished and algorithm.failed


def test_children_are_trained_one_a_job_without_a_supernet() -> None:
    jobs = run(search(Plan(train=False, evaluations=3, batch=0, top=1, repeats=1)))
    assert [job.config["phase"] for job in jobs] == ["child"] * 3 + ["retrain"]


def test_members_of_a_batch_without_a_report_have_failed_and_are_not_retrained() -> None:
    algorithm = search(Plan(train=False, evaluations=3, batch=3, top=3, repeats=1))
    (job,) = algorithm.ask(1)
    best = max(members(job.config), key=value)
    reports = {k: value(t) for k, t in enumerate(members(job.config), 1) if t != best}
    algorithm.tell(job, Outcome(None, 2, "failed", reports=reports))
    assert best not in [SPACE.format(a) for a in algorithm.ranking()]
    assert len(algorithm.ask(5)) == len(reports)


@pytest.mark.parametrize("name", ["random", "tpe"])
@pytest.mark.parametrize("cut", [0, 1, 2, 3, 5])
def test_a_replay_of_the_log_goes_on_as_the_uninterrupted_search(name: str, cut: int) -> None:
    plan = Plan(evaluations=12, batch=4, top=2, repeats=2)
    whole = run(search(plan, name))
    again = search(plan, name)
    for job in whole[:cut]:
        again.adopt(job)
    for job in whole[:cut]:
        again.tell(job, outcome(job))
    assert run(again, list(whole[:cut])) == whole


def test_paths_of_a_batch_are_sorted_so_that_they_share_their_beginnings() -> None:
    for job in run(search(Plan(evaluations=12, batch=6, top=0)))[1:]:
        assert list(members(job.config)) == sorted(members(job.config))


@pytest.mark.parametrize(
    "bad", [{"evaluations": 0}, {"batch": -1}, {"top": -1}, {"repeats": 0}], ids=lambda b: next(iter(b))
)
def test_impossible_plans_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Plan(**bad)
