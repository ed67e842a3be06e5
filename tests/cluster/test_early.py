"""A long trial among short ones: what has ended before it is told, and what waits behind it runs elsewhere."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fairsweep.cluster.engine import bundles, early
from fairsweep.cluster.engine.bundles import Bundle
from fairsweep.cluster.engine.exchange import Exchange
from fairsweep.cluster.engine.worker import LegRunner
from tests.cluster.test_bundles import TRIVIAL, close
from tests.cluster.test_conductor import Engine, engine, trials
from tests.wires import Here, Simple, complete


class Held(LegRunner):
    """Runs trials at once, but for one, which ends when `free` is set."""

    def __init__(self, post: Any, long: str) -> None:
        super().__init__(post)
        self.long, self.free = long, threading.Event()

    def step(self) -> dict[str, Any]:
        assert self.leg is not None
        if self.leg.trial == self.long:
            assert self.free.wait(30)
        return complete(self.leg)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "LATE_S", 0.05)


@pytest.mark.parametrize("at", [0, 2, 4])
def test_what_has_ended_is_handed_over_while_a_long_trial_runs(tmp_path: Path, at: int) -> None:
    run = engine(tmp_path, *TRIVIAL, "budget.trials=20")
    legs = [run.conductor._hand_out() for _ in range(5)]
    names = [leg.trial for leg in legs if leg]
    said: list[Mapping[str, Any]] = []
    runner = Held(replace(run.post, report_s=0.01), names[at])

    def hand_over(message: Mapping[str, Any]) -> None:
        said.append(json.loads(json.dumps(message)))
        runner.free.set()

    place = Bundle(runner, hand_over)
    place.take([leg for leg in legs if leg])
    if at:
        place.runner.post = replace(run.post, report_s=0.2)  # so that those before it are run with it
    message = place.step()
    (early,) = said
    assert [r["trial"] for r in early["reports"]] == names[:at] and early["running"] == names[at]
    assert early["unbegun"] == names[at + 1 :]
    assert [r["trial"] for r in message["reports"]] == [names[at]]
    assert message["early"] and not message["unbegun"]
    place.take([leg for leg in legs if leg][:2])
    again = place.step()
    assert not again["early"] and len(again["reports"]) + len(again["unbegun"]) == 2


def test_what_cannot_be_handed_over_stands_in_the_message(tmp_path: Path) -> None:
    run = engine(tmp_path, *TRIVIAL, "budget.trials=20")
    legs = [leg for leg in (run.conductor._hand_out() for _ in range(3)) if leg]
    runner = Held(replace(run.post, report_s=0.2), legs[1].trial)

    def fail(message: Mapping[str, Any]) -> None:
        runner.free.set()
        raise ConnectionError("no route")

    place = Bundle(runner, fail)
    place.take(legs)
    message = place.step()
    assert [r["trial"] for r in message["reports"]] == [leg.trial for leg in legs[:2]]
    assert message["unbegun"] == [legs[2].trial] and not message["early"]


class Parted(Here):
    """The first place's bundle is handed over early when `parts` says so, and its message comes at the end."""

    def __init__(self, at: int, told: bool = True) -> None:
        super().__init__(lambda post: Simple(), lambda working: [w for w in working if w != self.late])
        self.at, self.told, self.late, self.said = at, told, "", dict[str, Any]()

    def send(self, place: str, legs: str = "", post: str = "") -> None:
        super().send(place, legs, post)
        bundle = self.places[place]
        assert isinstance(bundle, Simple)
        if not self.late and len(bundle.legs) > self.at:
            self.late, self.bundle = place, list(bundle.legs)
            names = [leg.trial for leg in bundle.legs]
            done = [complete(leg) for leg in bundle.legs[: self.at]]
            self.said = {place: {"reports": done, "running": names[self.at], "unbegun": names[self.at + 1 :]}}
            bundle.legs = [bundle.legs[self.at]]

    def early(self) -> Mapping[str, Mapping[str, Any]]:
        said, self.said = self.said if self.told else {}, {}
        return said

    def end(self) -> None:
        """The long trial ends."""
        place, self.late = self.late, "none"
        tells = self._tells

        def early(name: str) -> Any:
            message, first = tells(name), name == place and self._tells is early
            if first:
                self._tells = tells  # type: ignore[method-assign]
            return {**message, "early": True} if first else message

        self._tells = early  # type: ignore[method-assign]


def driven(run: Engine, wires: Parted) -> Exchange:
    exchange = Exchange(run.conductor, wires, lambda sweep: json.dumps(asdict(run.post)))
    for k in range(2):
        given = exchange.first(f"p{k}")
        assert given is not None
        wires.send(f"p{k}", *given)
    return exchange


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setattr("fairsweep.cluster.engine.exchange.LATE_S", 0.0)
    monkeypatch.setattr(Simple, "step", _eight_at_a_time)
    return engine(tmp_path, *TRIVIAL, "budget.trials=60", "budget.concurrent=2")


def _eight_at_a_time(place: Simple) -> dict[str, Any]:
    return {"reports": [complete(leg) for leg in place.legs], "unbegun": [], "most": 8}


def test_all_but_the_long_trial_end_before_it_and_two_run_at_a_time(bundled: Engine) -> None:
    wires = Parted(3)
    exchange, conductor = driven(bundled, wires), bundled.conductor
    while not wires.late:
        exchange.round(0.0)
    long = wires.bundle[3].trial
    for _ in range(30):
        exchange.round(0.0)
        assert conductor.busy <= 2
    assert exchange.holds[wires.late] == [long] and conductor.active == {long} and conductor.busy == 1
    states = {t["trial"]: t["state"] for t in trials(bundled.store)}
    assert states.pop(long) == "running" and set(states.values()) == {"complete"} and len(states) == 59
    wires.end()
    exchange.round(0.0)
    assert conductor.finished and {t["state"] for t in close(bundled)} == {"complete"}


def test_what_was_handed_over_is_taken_before_the_message_that_lacks_it(bundled: Engine) -> None:
    wires = Parted(3)
    exchange = driven(bundled, wires)
    while not wires.late:
        exchange.round(0.0)
    wires.end()
    while not bundled.conductor.finished:
        exchange.round(0.0)
    assert not exchange.broken and {t["state"] for t in close(bundled)} == {"complete"}


def test_a_place_whose_handing_over_was_lost_runs_its_bundle_again(bundled: Engine) -> None:
    wires = Parted(3, told=False)
    exchange = driven(bundled, wires)
    while not wires.late:
        exchange.round(0.0)
    place, held = wires.late, list(exchange.holds[wires.late])
    wires.end()
    exchange.round(0.0)
    assert "lost on its way" in str(exchange.broken[place])
    assert exchange.forget(place) == held
    bundled.conductor.lost_bundle(held, "ConnectionError", "worker died")
    while not bundled.conductor.finished:
        if (given := exchange.first("new")) is not None:
            wires.send("new", *given)
        exchange.round(0.0)
    rows = close(bundled)
    assert {t["state"] for t in rows} == {"complete"} and len(rows) == 60
    assert not any(t["retries"] for t in rows)


class KeyValues(dict[bytes, str]):
    """Ray's key-value store."""

    def _internal_kv_put(self, key: str, text: str, overwrite: bool, namespace: bytes) -> None:
        self[key.encode()] = text

    def _internal_kv_list(self, prefix: str, namespace: bytes) -> list[bytes]:
        return [key for key in self if key.startswith(prefix.encode())]

    def _internal_kv_get(self, key: bytes, namespace: bytes) -> str | None:
        return self.get(key)

    def _internal_kv_del(self, key: bytes, namespace: bytes) -> None:
        self.pop(key, None)


def test_what_a_place_handed_over_before_it_died_goes_with_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    from fairsweep.cluster.engine.bridge import RayWires

    store = KeyValues()
    monkeypatch.setattr("ray.experimental.internal_kv", store)
    wires = RayWires()
    for place, actor in (("p", "aa"), ("q", "bb")):
        wires.join(place, SimpleNamespace(_actor_id=SimpleNamespace(hex=lambda actor=actor: actor)))
    for actor in ("aa", "bb", "of another driver"):
        store._internal_kv_put(f"{early.PREFIX}{actor}", "{}", True, b"")
    wires.leave("p")  # it has died
    assert wires.early() == {"q": {}}
    wires.close()
    assert list(store) == [f"{early.PREFIX}of another driver".encode()]


LONG = """
import time
import fairsweep

@fairsweep.trainable(space={"x": (0.0, 1.0)}, metric="loss", mode="min")
def train(config, trial):
    if trial.number == 60:
        time.sleep(6)
    return {"loss": config["x"]}
"""


@pytest.mark.slow
def test_a_long_trial_among_short_ones_holds_nothing_up(tmp_path: Path) -> None:
    import fairsweep
    from fairsweep.analysis.store import Store

    (tmp_path / "train.py").write_text(LONG)
    storage = str(tmp_path / "store")
    fairsweep.run(
        f"{tmp_path}/train.py:train", budget={"trials": 400}, search="random", name="s", storage=storage,
        cluster={"cpus": 2},
    )  # fmt: skip
    rows = Store(storage).table("trials", "s").to_pylist()
    assert {t["state"] for t in rows} == {"complete"}
    ended = {t["number"]: t["ended"].timestamp() for t in rows}
    late = [n for n in ended if ended[n] > ended[60] - 2.5 and n != 60]
    assert not late, late
    assert time.time() > ended[60]
