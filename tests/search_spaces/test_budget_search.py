"""Bisection to a budget, on costs that are known, noisy or out of reach."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, log10

import numpy as np
import pytest

from fairsweep.search_spaces.algorithms.base import Job, Outcome
from fairsweep.search_spaces.algorithms.budget_search import SEARCHES, TOLERANCE, BudgetSearch, deviation

LOW, HIGH = 0.01, 100.0
Cost = Callable[[Job], float | None]


def smooth(job: Job) -> float:
    """From 100,000 to 20,000 over the four decades of lambda."""
    return 60_000 - 20_000 * log10(job.config["value"])


def stairs(job: Job) -> float:
    return float(20_000 * round(smooth(job) / 20_000))


def run(search: BudgetSearch, done: list[Job], fail: tuple[int, ...] = ()) -> list[Job]:
    while not search.finished:
        (job,) = search.ask(1)
        assert job.config["phase"] == "retrain" or search.ask(1) == [], "one search at a time"
        done.append(job)
        failed = job.config["phase"] == "front" and job.number in fail
        search.tell(job, Outcome(None, 1, "failed") if failed else Outcome(0.5, 1, "complete"))
    return done


def lambdas(jobs: list[Job]) -> list[float]:
    return [job.config["value"] for job in jobs if job.config["phase"] == "front"]


@pytest.mark.parametrize("target", [22_000, 35_000, 60_000, 80_000, 98_000])
def test_a_smooth_cost_is_met_within_the_tolerance(target: float) -> None:
    search = BudgetSearch(target, LOW, HIGH, smooth)
    jobs = run(search, [])
    assert search.hit and len(jobs) <= SEARCHES == 6 and search.expected == len(jobs)
    nearest = search.nearest
    assert nearest is jobs[-1] and abs(deviation(smooth(nearest), target)) <= TOLERANCE == 0.05


def test_the_intervals_are_halved_on_a_logarithmic_scale() -> None:
    """The cost falls from 40,000 to 20,000 at 10^1.5, and 31.6228 is just above that."""
    jobs = run(BudgetSearch(30_000, LOW, HIGH, stairs), [])
    assert lambdas(jobs) == pytest.approx([1, 10, 10**1.5, 10**1.25, 10**1.375, 10**1.4375], rel=1e-5)


@pytest.mark.parametrize("target", [30_000, 68_500, 300_000, 10])
def test_what_cannot_be_met_ends_after_six_searches_with_the_nearest(target: float) -> None:
    search = BudgetSearch(target, LOW, HIGH, stairs, alone=2, found=lambda job: f"costs {stairs(job):g}")
    jobs = run(search, [])
    assert not search.hit and len(lambdas(jobs)) == 6 and len(set(lambdas(jobs))) == 6
    best = min((stairs(j) for j in jobs[:6]), key=lambda cost: abs(cost - target))
    assert search.nearest is not None and stairs(search.nearest) == best
    assert [j.config["architecture"] for j in jobs[6:]] == [f"costs {best:g}"] * 2


def test_noise_does_not_lead_out_of_the_interval() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        noise = {}

        def cost(job: Job, noise: dict[int, float] = noise) -> float:
            return smooth(job) * noise.setdefault(job.number, exp(0.2 * rng.standard_normal()))

        search = BudgetSearch(50_000, LOW, HIGH, cost)
        jobs = run(search, [])
        assert len(jobs) <= 6 and all(LOW < x < HIGH for x in lambdas(jobs))
        least = min(abs(deviation(cost(j), 50_000)) for j in jobs)
        assert search.nearest is not None and abs(deviation(cost(search.nearest), 50_000)) == least
        assert search.hit == (least <= TOLERANCE)


def test_what_breaks_another_limit_is_too_dear_and_never_found() -> None:
    """The first search costs exactly what is asked, but only what has lambda above 2 keeps the limit."""
    search = BudgetSearch(
        60_000, LOW, HIGH, smooth, alone=1, found=lambda job: "a", kept=lambda job: job.config["value"] > 2
    )
    assert search.expected == 7
    jobs = run(search, [])
    assert len(lambdas(jobs)) == 6 and search.expected == len(jobs) == 7 and lambdas(jobs)[0] == 1
    assert search.nearest is not None and search.nearest.config["value"] == pytest.approx(2.05353, rel=1e-5)
    assert not search.hit
    assert not BudgetSearch(60_000, LOW, HIGH, smooth, kept=lambda job: False).hit
    nothing = BudgetSearch(60_000, LOW, HIGH, smooth, alone=1, found=lambda job: "a", kept=lambda job: False)
    assert len(run(nothing, [])) == 6 and nothing.nearest is None


def test_a_search_that_fails_counts_and_is_not_tried_again() -> None:
    search = BudgetSearch(35_000, LOW, HIGH, smooth)
    jobs = run(search, [], fail=(0, 1))
    assert len(set(lambdas(jobs))) == len(jobs) <= 6 and search.nearest not in jobs[:2]
    nothing = BudgetSearch(35_000, LOW, HIGH, smooth, alone=1, found=lambda job: "a")
    assert len(run(nothing, [], fail=tuple(range(6)))) == 6 and nothing.nearest is None


@pytest.mark.parametrize("cut", range(9))
def test_a_replay_of_the_log_goes_on_as_the_uninterrupted_search(cut: int) -> None:
    def fresh() -> BudgetSearch:
        return BudgetSearch(30_000, LOW, HIGH, stairs, alone=2, found=lambda job: f"costs {stairs(job):g}")

    whole = run(fresh(), [])
    again = fresh()
    for job in whole[:cut]:
        again.adopt(job)
    for job in whole[:cut]:
        again.tell(job, Outcome(0.5, 1, "complete"))
    assert run(again, list(whole[:cut])) == whole


def test_impossible_searches_are_refused() -> None:
    for target, low, high, said in [(0, 1, 2, "target=0"), (1, 2, 2, "high=2"), (1, 0, 2, "low=0")]:
        with pytest.raises(ValueError, match=said):
            BudgetSearch(target, low, high, smooth)
