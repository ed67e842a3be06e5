"""The exchange: all that came in one append, nothing answered before; places that wait, are lost, or tell too late."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fairsweep.analysis.store import Store
from fairsweep.cluster.engine.exchange import Exchange
from fairsweep.cluster.engine.fleet import Lane
from fairsweep.cluster.jobs.comparing import job, plan
from fairsweep.cluster.jobs.comparing.display import ComparisonDisplay
from tests.cluster.test_bundles import TRIVIAL, close, same, slow
from tests.cluster.test_compare import BOWLS, essence, here
from tests.cluster.test_conductor import Engine, engine, trials
from tests.wires import Here, Simple, exchanged, real


def run(made: Engine, wires: Here) -> Exchange:
    return exchanged(made.conductor, wires, lambda sweep: json.dumps(asdict(made.post)))


def appends(made: Engine, log: list[str]) -> None:
    """Notes each append of `made` in `log`."""
    appender = made.writer._appender
    whole = appender.append

    def append(frame: bytes, last: bool = False) -> None:
        whole(frame, last)
        log.append("append")

    appender.append = append  # type: ignore[method-assign, union-attr]


def test_all_that_came_is_one_append_and_is_answered_after_it(tmp_path: Path) -> None:
    made = engine(tmp_path, *TRIVIAL, "budget.trials=600", "budget.concurrent=50")
    log: list[str] = []
    appends(made, log)

    class Noted(Here):
        def send(self, place: str, legs: str = "", post: str = "") -> None:
            log.append("send")
            super().send(place, legs, post)

    exchange = run(made, Noted(lambda post: Simple()))
    assert log[:100] == ["append", "send"] * 50  # each place begins with a leg
    assert log[100:] == ["append", *["send"] * 50] * 11 + ["append"]
    assert len(exchange.parked) == 50
    assert {t["state"] for t in close(made)} == {"complete"}


@pytest.mark.parametrize(
    "words", [TRIVIAL, ("trainable=test_bowl", "scheduler=asha", "keep_checkpoints=none")]
)
def test_one_place_on_the_exchange_runs_the_sweep_that_runs_without(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    alone, traded = (engine(tmp_path / k, *words, "budget.trials=20", "search=random") for k in "ab")
    alone.run()
    slow(traded)
    run(traded, Here(real))
    assert same(trials(alone.store)) == same(close(traded))


def test_places_tell_in_any_order_and_all_ends(tmp_path: Path) -> None:
    draw = random.Random(0)
    made = engine(
        tmp_path, "trainable=test_bowl", "scheduler=hyperband", "budget.trials=30", "budget.concurrent=7"
    )
    exchange = run(made, Here(real, lambda working: [p for p in working if draw.random() < 0.4]))
    assert not exchange.broken
    states = {t["state"] for t in close(made)}
    assert states == {"complete", "pruned"}


def test_what_could_not_be_written_is_not_answered(tmp_path: Path) -> None:
    made = engine(tmp_path, *TRIVIAL, "budget.trials=40", "budget.concurrent=4")
    wires = Here(lambda post: Simple())
    exchange = Exchange(made.conductor, wires, lambda sweep: json.dumps(asdict(made.post)))
    for k in range(4):
        given = exchange.first(f"p{k}")
        assert given is not None
        wires.send(f"p{k}", *given)

    def full(frame: bytes, last: bool = False) -> None:
        raise OSError(28, "No space left on device")

    made.writer._appender.append = full  # type: ignore[method-assign, union-attr]
    with pytest.raises(OSError, match="No space"):
        exchange.round(0.0)
    assert wires.working == []
    with pytest.raises(OSError, match="No space"):  # and nothing is done after it
        exchange.first("p9")
    made.writer.__exit__(None, None, None)
    again = engine(tmp_path)
    run(again, Here(lambda post: Simple()))
    assert len(close(again)) == 40
    assert Store(tmp_path).table("results", "s").num_rows == 40


def test_a_lost_place_loses_its_bundle_and_what_it_tells_later_is_not_heard(tmp_path: Path) -> None:
    made = engine(tmp_path, *TRIVIAL, "budget.trials=12", "budget.concurrent=3")
    wires = Here(lambda post: Simple())
    wires.lost["p1"] = RuntimeError("gone")
    exchange = run(made, wires)
    wires.working.append("p1")
    exchange.round(0.0)
    rows = close(made)
    assert [t["state"] for t in rows] == ["complete"] * 12
    assert [t["number"] for t in rows if t["retries"]] == [1]


def test_a_message_of_other_trials_than_the_place_holds_ends_the_run(tmp_path: Path) -> None:
    made = engine(tmp_path, *TRIVIAL, "budget.trials=4")

    class Confused(Simple):
        def step(self) -> dict[str, Any]:
            message = super().step()
            message["reports"][0]["trial"] = "c99999-s0"
            return message

    with pytest.raises(RuntimeError, match=r"holds .* and reported"):
        run(made, Here(lambda post: Confused()))


def test_a_place_without_work_is_idle_until_there_is_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last of a rung makes others wait: their places are parked, and run what is promoted."""
    now = [0.0]
    monkeypatch.setattr("fairsweep.cluster.engine.exchange.time", SimpleNamespace(monotonic=lambda: now[0]))
    made = engine(tmp_path, *TRIVIAL, "budget.trials=3", "budget.concurrent=3")
    wires = Here(lambda post: Simple(), lambda working: working[:1])
    exchange = Exchange(made.conductor, wires, lambda sweep: json.dumps(asdict(made.post)))
    for k in range(3):
        wires.send(f"p{k}", *(exchange.first(f"p{k}") or ()))
    exchange.round(0.0)
    assert exchange.stirred.is_set() and list(exchange.parked) == ["p0"] and exchange.idle(1.0) == []
    now[0] = 2.0
    assert exchange.idle(1.0) == ["p0"]
    wires.lost["p1"] = RuntimeError("gone")
    exchange.round(0.0)  # what p1 held is to be run again, by whoever is free
    made.conductor.lost_bundle(exchange.forget("p1"), "gone")
    assert exchange.first("p3") is None  # for p0 is there
    wires.which = lambda working: []
    exchange.round(0.0)
    assert wires.working == ["p2", "p0"] and not exchange.parked
    wires.which = lambda working: working
    while not made.conductor.finished:
        exchange.round(0.0)
    assert [t["state"] for t in close(made)] == ["complete"] * 3


def test_lanes_are_traded_each_in_its_books(tmp_path: Path) -> None:
    """A comparison comes to the same on the exchange; the places of a lane that has ended work for the next."""

    def made(where: str) -> job.Run:
        store = str(tmp_path / where)
        return job.Run.of(
            plan.asked((*BOWLS, "search=random"), "c", store), Store(store), ComparisonDisplay(), 2
        )

    here(made("a").fleet())
    fleet, wires = made("b").fleet(), Here(real)
    exchanged(fleet, wires, fleet.post_of)
    assert essence(tmp_path / "a") == essence(tmp_path / "b")
    assert len(wires.places) == 2


def test_a_lane_that_opens_while_the_run_is_interrupted_is_interrupted_too(tmp_path: Path) -> None:
    """The exchange opens lanes, a signal comes to another thread: such a search was finished, with no trials."""
    store = str(tmp_path)
    run = job.Run.of(plan.asked((*BOWLS, "search=random"), "c", store), Store(store), ComparisonDisplay(), 2)
    fleet = run.fleet()
    source = fleet.source

    def opened() -> Lane | None:
        lane = source()
        fleet.interrupt()
        return lane

    fleet.source = opened
    assert fleet.next_leg() is None and len(fleet.lanes) == 1
    (name,) = fleet.lanes
    assert fleet.close() == "interrupted"
    assert Store(store).read(name).sweep["state"] == "interrupted"


def test_who_was_given_to_a_place_that_is_being_killed_is_not_charged(tmp_path: Path) -> None:
    """A place tells just before the driver's kill for a timeout takes effect, and was handed others by then."""
    from fairsweep.cluster.engine.bridge import Places

    made = engine(tmp_path, *TRIVIAL, "budget.trials=4", "budget.trial_timeout=60", "budget.retries=0")
    places = Places(made.conductor, lambda sweep: json.dumps(asdict(made.post)), lambda: None)
    wires = Here(lambda post: Simple())
    places.exchange.wires = wires
    wires.send("p", *(places.exchange.first("p") or ()))
    late = list(places.exchange.holds["p"])
    places.killed["p"] = "timed out", late
    places.exchange.round(0.0)
    after = list(places.exchange.holds["p"])
    assert after != late
    places.lost(SimpleNamespace(trial_id="p", pickled_error_file=None))  # type: ignore[arg-type]
    run(made, Here(lambda post: Simple()))
    rows = close(made)
    assert [t["state"] for t in rows] == ["complete"] * 4
    assert [t["retries"] for t in rows] == [0] * 4


@pytest.mark.parametrize("parked", [True, False])
def test_a_worker_that_died_while_it_had_nothing_to_do_is_no_loss_of_the_next_trial(
    tmp_path: Path, parked: bool
) -> None:
    from fairsweep.cluster.engine.bridge import Places

    made = engine(tmp_path, *TRIVIAL, "budget.trials=2", "budget.concurrent=2", "budget.retries=0")
    places = Places(made.conductor, lambda sweep: json.dumps(asdict(made.post)), lambda: None)
    wires = Here(lambda post: Simple(), lambda working: working[:1])
    exchange = places.exchange
    exchange.wires = wires
    for k in range(2):
        wires.send(f"p{k}", *(exchange.first(f"p{k}") or ()))
    if parked:
        exchange.round(0.0)  # p0 has nothing more to do
        made.conductor.lost_bundle(exchange.forget("p1"), "gone", charged=False)
        wires.which = lambda working: []
        exchange.round(0.0)
        assert exchange.holds["p0"] and not exchange.parked
    places.lost(SimpleNamespace(trial_id="p0", pickled_error_file=None))  # type: ignore[arg-type]
    states = [t["state"] for t in trials(made.store)]
    assert states == (["complete", "pending"] if parked else ["failed", "running"])
    made.writer.__exit__(None, None, None)


def test_who_reports_seldom_has_the_time_of_a_report_when_the_sweep_is_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its next report, by which it hands over what it has, may be as far away as `budget.report_seconds`."""
    import ray

    from fairsweep.cluster.engine.bridge import Places

    made = engine(tmp_path, *TRIVIAL, "budget.trials=2", "budget.report_seconds=20")
    places = Places(made.conductor, lambda sweep: json.dumps(asdict(made.post)), lambda: None, report_s=20.0)
    wires = Here(lambda post: Simple())
    places.exchange.wires = wires
    wires.send("p", *(places.exchange.first("p") or ()))
    actor = SimpleNamespace()
    running = SimpleNamespace(status="RUNNING", temporary_state=SimpleNamespace(ray_actor=actor))
    places.trials["p"] = running  # type: ignore[assignment]
    killed: list[object] = []
    monkeypatch.setattr(ray, "kill", lambda actor, no_restart: killed.append(actor))
    made.conductor.interrupt()
    for seconds, ended in ((0.0, []), (34.0, []), (36.0, [actor])):
        made.conductor.clock.spent_s = seconds
        places._end_what_is_late()
        assert killed == ended, seconds
    made.writer.__exit__(None, None, None)
