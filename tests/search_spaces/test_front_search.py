"""Runs over the values of a setting, and the networks that they find, driven by hand."""

from __future__ import annotations

import pytest

from fairsweep.search_spaces.algorithms.base import Job, Outcome
from fairsweep.search_spaces.algorithms.front_search import FrontSearch

FOUND = {(0.0, 0): "big", (0.0, 1): "big", (1.0, 0): "small", (1.0, 1): "smaller"}


def found(job: Job) -> str | None:
    return FOUND[job.config["value"], job.config["repeat"]]


def run(search: FrontSearch, done: list[Job]) -> list[Job]:
    while not search.finished:
        (job,) = search.ask(1)
        done.append(job)
        search.tell(job, Outcome(0.5, 1, "complete"))
    return done


def test_every_value_is_run_with_every_seed_and_what_is_found_is_retrained_once() -> None:
    search = FrontSearch([0.0, 1.0], repeats=2, alone=2, found=found)
    assert search.expected == 4 + 8
    jobs = run(search, [])
    assert [(j.config["value"], j.config["repeat"]) for j in jobs[:4]] == [
        (0.0, 0),
        (0.0, 1),
        (1.0, 0),
        (1.0, 1),
    ]
    assert [j.config["architecture"] for j in jobs[4:]] == [
        "big",
        "big",
        "small",
        "small",
        "smaller",
        "smaller",
    ]
    assert search.expected == len(jobs) == 10 and search.phase == "retrain"


def test_nothing_is_retrained_before_all_runs_have_ended_nor_of_runs_that_failed() -> None:
    search = FrontSearch([0.0, 1.0], repeats=1, alone=1, found=found)
    first, second = search.ask(5)
    search.tell(second, Outcome(None, 1, "failed"))
    assert search.ask(1) == [] and not search.finished and search.phase == "front"
    search.tell(first, Outcome(0.5, 1, "complete"))
    (job,) = search.ask(5)
    assert job.config["architecture"] == "big"


def test_what_is_not_to_be_trained_is_not_even_if_a_run_before_had_begun_to() -> None:
    def kept(job: Job) -> str | None:
        return None if found(job) == "big" else found(job)

    done = run(FrontSearch([0.0, 1.0], repeats=2, alone=2, found=kept), [])
    assert [j.config["architecture"] for j in done[4:]] == ["small", "small", "smaller", "smaller"]
    other = FrontSearch([0.0, 1.0], repeats=2, alone=2, found=kept)
    before = run(FrontSearch([0.0, 1.0], repeats=2, alone=2, found=found), [])
    for job in before[:6]:  # two trainings of what is no longer to be trained
        other.adopt(job)
        other.tell(job, Outcome(0.5, 1, "complete"))
    more = run(other, [])
    assert [j.config["architecture"] for j in more] == ["small", "small", "smaller", "smaller"]


def test_without_retraining_nobody_asks_what_was_found() -> None:
    def never(job: Job) -> str | None:
        raise AssertionError

    assert len(run(FrontSearch([0.1, 0.2, 0.3], repeats=1, found=never), [])) == 3


@pytest.mark.parametrize("cut", range(8))
def test_a_replay_of_the_log_goes_on_as_the_uninterrupted_search(cut: int) -> None:
    whole = run(FrontSearch([0.0, 1.0], 2, 1, found=found), [])
    again = FrontSearch([0.0, 1.0], 2, 1, found=found)
    for job in whole[:cut]:
        again.adopt(job)
    for job in whole[:cut]:
        again.tell(job, Outcome(0.5, 1, "complete"))
    assert run(again, list(whole[:cut])) == whole


def test_impossible_searches_are_refused() -> None:
    for values, repeats, alone, said in [([], 1, 0, "values"), ([1, 1], 1, 0, "none twice"), ([1], 0, 0, "repeats"),
                                         ([1], 1, -1, "alone")]:  # fmt: skip
        with pytest.raises(ValueError, match=said):
            FrontSearch(values, repeats, alone)
