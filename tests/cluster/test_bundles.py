"""Legs handed out several at a time: what is suggested, judged and written is what it is without; nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fairsweep.analysis.store import Store, StoreError
from fairsweep.cluster.engine import bundles
from fairsweep.cluster.engine.bundles import Bundle
from fairsweep.cluster.engine.conductor import Leg
from fairsweep.cluster.engine.post import Post
from fairsweep.cluster.engine.worker import LegRunner
from tests.cluster.test_compare import BOWLS, Crash, essence, here
from tests.cluster.test_conductor import Engine, engine, trials

TRIVIAL = ("trainable=test_trivial", "search=random", "keep_checkpoints=none")


def bundled(
    run: Engine, most: int = 64, at_message: Callable[[int, dict[str, Any]], None] | None = None
) -> int:
    """Runs what there is with one place a slot, in bundles of up to `most`; returns how many messages there were."""
    conductor, places, count = run.conductor, list[Bundle](), 0
    while not conductor.finished:
        while legs := conductor.next_legs(most):
            places.append(Bundle(LegRunner(run.post)))
            places[-1].take(legs)
        for place in list(places):
            message = json.loads(json.dumps(place.step()))
            count += 1
            if at_message:
                at_message(count, message)
            if conductor.reports(message["reports"], message["unbegun"]) is None:
                place.runner.stash()
                places.remove(place)
    return count


def close(run: Engine) -> list[dict[str, Any]]:
    run.writer.close(state=run.conductor.close())
    return trials(run.store)


SAME = (
    "trial",
    "number",
    "config_json",
    "state",
    "value",
    "best_step",
    "steps",
    "retries",
    "metric.test_loss",
)


def same(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: row.get(name) for name in SAME} for row in rows]


def slow(run: Engine, seconds: float = 60.0) -> None:
    """A report's time that no bundle of these tests reaches."""
    run.post = Post(**{**run.post.__dict__, "report_s": seconds})


@pytest.mark.parametrize("search", ["random", "grid"])
def test_a_bundled_sweep_is_the_sweep_that_is_not(tmp_path: Path, search: str) -> None:
    words = (*TRIVIAL, f"search={search}", "budget.trials=18", "seeds=3")
    alone, many = engine(tmp_path / "a", *words), engine(tmp_path / "b", *words)
    assert bundled(alone, most=1) == 54
    slow(many)
    assert bundled(many) < 12
    assert same(close(alone)) == same(close(many))
    rows = [Store(tmp_path / k).table("results", "s").to_pylist() for k in "ab"]
    what = ("trial", "step", "metric.val_loss")
    assert [[r[k] for k in what] for r in rows[0]] == [[r[k] for k in what] for r in rows[1]]


def test_a_bundle_is_one_append(tmp_path: Path) -> None:
    run = engine(tmp_path, *TRIVIAL, "budget.trials=200")
    slow(run)
    appends = 0
    append = run.writer._appender.append  # type: ignore[union-attr]

    def count(frame: bytes, last: bool = False) -> None:
        nonlocal appends
        appends += 1
        append(frame)

    run.writer._appender.append = count  # type: ignore[method-assign, union-attr]
    messages = bundled(run)
    assert messages < 20 and appends <= 2 * messages + 2


def test_a_trial_that_fails_in_a_bundle_fails_alone(tmp_path: Path) -> None:
    run = engine(
        tmp_path, "trainable=test_faulty", "space.x=0.5", "search=grid", "budget.trials=5", "keep_checkpoints=none",
        "space.fault.choices=[none,raise,not_finite,undeclared,huge]", "space.fault.paper=none",
    )  # fmt: skip
    slow(run)
    assert bundled(run) < 5
    rows = close(run)
    assert {t["config.fault"]: t["state"] for t in rows} == {
        "none": "complete", "raise": "failed", "not_finite": "failed", "undeclared": "failed", "huge": "failed"
    }  # fmt: skip
    assert all(t["reason"] and (t["state"] == "complete") == (t["error"] is None) for t in rows)


def test_who_ended_a_worker_is_found_and_nobody_else_is_charged(tmp_path: Path) -> None:
    """Of a lost bundle each runs alone; the one that kills its worker is charged then, as often as ever."""
    run = engine(tmp_path, *TRIVIAL, "budget.trials=40", "budget.retries=1")
    conductor = run.conductor
    legs = conductor.next_legs(64)
    assert len(legs) > 8
    conductor.lost_bundle([leg.trial for leg in legs], "ActorDiedError", "worker died")
    culprit, deaths = legs[3].trial, 0
    for leg in legs:
        while True:
            (again,) = conductor.next_legs(64)
            assert again.trial == leg.trial
            if leg.trial != culprit:
                break
            deaths += 1
            conductor.lost_bundle([leg.trial], "ActorDiedError", "worker died")
            if conductor.trials[culprit].state == "failed":
                break
        if leg.trial != culprit:
            place = Bundle(LegRunner(run.post))
            place.take([again])
            conductor.reports(place.step()["reports"])
    assert deaths == 2
    bundled(run)
    rows = close(run)
    assert [t["trial"] for t in rows if t["state"] != "complete"] == [culprit]
    assert {t["trial"]: t["retries"] for t in rows if t["retries"]} == {culprit: 1}
    assert conductor.trials[culprit].reason == "worker died 2 times, last after step 0"


def test_a_silent_bundle_is_no_timeout_of_its_trials(tmp_path: Path) -> None:
    run = engine(tmp_path, *TRIVIAL, "budget.trials=30", "budget.trial_timeout=5")
    legs = run.conductor.next_legs(64)
    run.conductor.lost_bundle([leg.trial for leg in legs], "killed", "timed out")
    assert {run.conductor.trials[leg.trial].state for leg in legs} == {"pending"}
    (alone,) = run.conductor.next_legs(64)
    run.conductor.lost_bundle([alone.trial], "killed", "timed out")
    assert run.conductor.trials[alone.trial].reason == "timed out: no report for 5 s after step 0"
    bundled(run)
    assert [t["state"] for t in close(run)] == ["failed"] + ["complete"] * 29


def test_what_had_no_time_to_begin_comes_first(tmp_path: Path) -> None:
    run = engine(tmp_path, *TRIVIAL, "budget.trials=40")
    legs = [leg.trial for leg in run.conductor.next_legs(10)]
    place = LegRunner(run.post)
    place.take(Leg.of(run.conductor.trials[legs[0]]))
    assert run.conductor.reports([place.step()], legs[1:]) is None
    assert not run.conductor.active and run.conductor.busy == 0
    assert [leg.trial for leg in run.conductor.next_legs(10)][:9] == legs[1:]


@pytest.mark.parametrize(
    "words",
    [
        ("search=tpe", "search.ahead=0"), ("search=cmaes",), ("search=tpe", "scheduler=asha"),
        ("search=random", "scheduler=asha"), ("search=random", "scheduler=hyperband"),
        ("search=tpe", "budget.total_steps=90"), ("search=random", "budget.total_minutes=9"),
    ],
)  # fmt: skip
def test_where_a_report_may_change_what_follows_legs_come_one_by_one(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    run = engine(tmp_path, "trainable=test_bowl", "budget.trials=30", *words)
    assert len(run.conductor.next_legs(64)) == 1


@pytest.mark.parametrize("at", [1, 3, 5])
def test_a_driver_that_dies_loses_whole_bundles_and_no_acknowledged_report(tmp_path: Path, at: int) -> None:
    words = (*TRIVIAL, "budget.trials=60")
    whole, run = engine(tmp_path / "whole", *words), engine(tmp_path / "killed", *words)
    bundled(whole, most=1)
    acknowledged: set[str] = set()

    def die(count: int, message: dict[str, Any]) -> None:
        if count == at:
            run.writer.__exit__(None, None, None)
            raise Crash
        acknowledged.update(report["trial"] for report in message["reports"])

    with pytest.raises(Crash):
        bundled(run, 7, die)
    again = engine(tmp_path / "killed")
    found = {t.id for t in again.conductor.trials.values() if t.state == "complete"}
    assert found == acknowledged
    bundled(again, 7)
    assert same(close(again)) == same(close(whole))


def test_a_store_that_cannot_be_written_has_none_of_the_bundle(tmp_path: Path) -> None:
    run = engine(tmp_path, *TRIVIAL, "budget.trials=60")
    slow(run)
    told: list[str] = []
    run.conductor.on_end = lambda trial: told.append(trial.id)

    def full(frame: bytes, last: bool = False) -> None:
        raise StoreError("no space")

    def break_it(count: int, message: dict[str, Any]) -> None:
        if count == 2:
            run.writer._appender.append = full  # type: ignore[method-assign, union-attr]

    with pytest.raises(StoreError):
        bundled(run, 8, break_it)
    assert len(told) == 8, "of a bundle that is not on disk nobody is told"
    run.writer._appender = None
    run.writer.__exit__(None, None, None)
    assert Store(tmp_path).table("results", "s").num_rows == 8


def test_interrupted_in_a_bundle_nothing_is_charged_and_it_goes_on(tmp_path: Path) -> None:
    run = engine(tmp_path, *TRIVIAL, "budget.trials=50")
    slow(run)

    def press(count: int, message: dict[str, Any]) -> None:
        if count == 2:
            run.conductor.interrupt()

    bundled(run, 8, press)
    rows = close(run)
    assert {t["state"] for t in rows} == {"complete"} and len(rows) == 16
    again = engine(tmp_path)
    bundled(again)
    assert [t["state"] for t in close(again)] == ["complete"] * 50


class Paced:
    """A runner whose trials last as long as they are said to, on a clock of its own."""

    group = None

    def __init__(self, clock: list[float], seconds: dict[str, float], report_s: float) -> None:
        self.clock, self.seconds = clock, seconds
        self.post = Post("s", "p", "c", report_s=report_s)

    def take(self, leg: Leg) -> None:
        self.trial = leg.trial

    def step(self) -> dict[str, Any]:
        took = min(self.seconds[self.trial], self.post.report_s or self.seconds[self.trial])
        self.clock[0] += took
        self.seconds[self.trial] -= took
        over = self.seconds[self.trial] <= 1e-9
        return {"trial": self.trial, "status": "complete" if over else "running", "rows": []}


def paced(
    monkeypatch: pytest.MonkeyPatch, seconds: list[float], report_s: float = 0.25
) -> list[tuple[int, int]]:
    """Reports and legs handed back of each message, for trials of these lengths at one place."""
    clock = [0.0]
    monkeypatch.setattr(bundles.time, "monotonic", lambda: clock[0])
    left = [Leg(str(k), {}, 0, 0, 1, ()) for k in range(len(seconds))]
    place = Bundle(Paced(clock, {str(k): s for k, s in enumerate(seconds)}, report_s))  # type: ignore[arg-type]
    said, most, running = list[tuple[int, int]](), 1, False
    while left or running:
        if not running:
            given, left = left[:most], left[most:]
            place.take(given)
        message = place.step()
        back = message["unbegun"]
        left = [leg for leg in given if leg.trial in back] + left
        most, running = message["most"], message["reports"][-1]["status"] == "running"
        said.append((len(message["reports"]), len(back)))
    return said


def test_bundles_grow_to_a_reports_time_and_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    said = paced(monkeypatch, [1 / 128] * 200)
    assert [n for n, _ in said[:6]] == [1, 2, 4, 8, 16, 32] and max(n for n, _ in said) == 32
    assert not any(back for _, back in said)
    assert [n for n, _ in paced(monkeypatch, [1 / 128] * 9, report_s=0.0)] == [1] * 9
    assert max(n for n, _ in paced(monkeypatch, [0.0] * 3000)) == bundles.MOST


def test_nothing_waits_behind_a_long_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    said = paced(monkeypatch, [1 / 128] * 40 + [1.0] + [1 / 128] * 40)
    assert (10, 22) in said, "what stood behind the long trial went back"
    assert sum(n for n, _ in said) == 81 + 3  # the long one reports four times
    after = said[said.index((10, 22)) + 1 :]
    assert [n for n, _ in after[:5]] == [1, 1, 1, 1, 2], "and the next bundles began small"


def test_lanes_of_a_fleet_are_bundled_each_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comparison comes to the same however its legs are handed out."""
    from fairsweep.cluster.jobs.comparing import job, plan
    from fairsweep.cluster.jobs.comparing.display import ComparisonDisplay

    def run(where: str, words: tuple[str, ...]) -> job.Run:
        return job.Run.of(
            plan.asked(words, "c", str(tmp_path / where)),
            Store(str(tmp_path / where)),
            ComparisonDisplay(),
            2,
        )

    words = (*BOWLS, "search=random")
    here(run("a", words).fleet())
    fleet, most = run("b", words).fleet(), 0
    places: list[tuple[str, Bundle]] = []
    while not fleet.finished:
        while legs := fleet.next_legs(8):
            assert len({leg.sweep for leg in legs}) == 1
            most = max(most, len(legs))
            assert len(places) < 2
            place = Bundle(LegRunner(Post(**{**json.loads(fleet.post_of(legs[0].sweep)), "report_s": 60.0})))
            place.take(legs)
            places.append((legs[0].sweep, place))
        for lane, place in places[:1]:
            message = json.loads(json.dumps(place.step()))
            if fleet.reports(message["reports"], message["unbegun"], lane) is None:
                del places[0]
    assert most > 1
    assert essence(tmp_path / "a") == essence(tmp_path / "b")
