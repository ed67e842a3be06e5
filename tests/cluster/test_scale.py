"""A long sweep: what a report and a decision cost does not grow with the trials, and it is taken up again quickly."""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from fairsweep.analysis import _log, schema
from fairsweep.analysis._files import Folder
from fairsweep.analysis.store import Store
from fairsweep.cluster import config
from fairsweep.cluster.engine import replay
from fairsweep.cluster.engine.checkpoints import Checkpoints
from fairsweep.cluster.engine.conductor import Conductor
from fairsweep.cluster.engine.exchange import Exchange
from fairsweep.cluster.engine.stretches import Stretch
from fairsweep.cluster.engine.trial import Leg
from fairsweep.cluster.jobs import growth, sweep
from fairsweep.search_spaces.space import Space
from tests.cluster.test_conductor import Engine, engine
from tests.wires import Here, Steady


class Frail(Steady):
    """Some trials fail on their way, the second of a configuration before or after its first has gone by."""

    def _report(self, leg: Leg) -> dict[str, Any]:
        report = super()._report(leg)
        if leg.seed and self.done >= 60 * leg.config["x"] + 4:
            return {**report, "status": "failed", "failure": {"reason": "raised", "error": "odd"}}
        return report


def some_rounds(made: Engine, rounds: int, seed: int = 0, each: int = 1) -> None:
    """Runs a sweep with simulated places that tell in a random order, and leaves it as a driver that is killed does."""
    rng = random.Random(seed)
    wires = Here(lambda post: Frail(each), lambda working: [p for p in working if rng.random() < 0.7])
    exchange, told = Exchange(made.conductor, wires, lambda sweep: json.dumps(asdict(made.post))), 0
    while not made.conductor.finished and told < rounds:
        while (given := exchange.first(f"p{len(wires.places)}")) is not None:
            wires.send(f"p{len(wires.places)}", *given)
        exchange.round(0.0)
        told += 1
    made.writer._release()


def one_by_one(
    reports: Any, events: Any, trials: Any, objective: str, mode: str, whole: bool = False
) -> Iterator[Stretch]:
    """Every report as a stretch of its own."""
    for row in schema.to_rows(reports):
        told = [] if row[f"metric.{objective}"] is None else [(row["step"], row[f"metric.{objective}"])]
        yield Stretch(trials[row["trial"]], row["seq"], row["step"], told, row["wall_s"])


def taken_up(storage: Path) -> Conductor:
    """A conductor that has replayed the sweep `s`; it can write nothing."""
    record = Store(storage).read("s")
    settings, _ = growth.regrown(record, [], config.check)
    unwritten: Any = None
    where = Checkpoints(str(storage))
    return sweep.make_conductor(settings, settings.paper, unwritten, 4, record, checkpoints=where)


def inside(found: Any) -> Any:
    """What an object of the schedulers is made of, as plain values."""
    if isinstance(found, Space):
        return None
    if isinstance(found, dict):
        return {key: inside(value) for key, value in found.items()}
    if isinstance(found, (list, tuple, deque)):
        return [inside(value) for value in found]
    return inside(vars(found)) if hasattr(found, "__dict__") else found


def state(conductor: Conductor) -> dict[str, Any]:
    """All that its decisions depend on."""
    return {
        "trials": {k: {**asdict(trial), "heard": 0.0} for k, trial in conductor.trials.items()},
        "verdicts": conductor.judge.verdicts,
        "condemned": conductor.judge.condemned,
        "purse": (conductor.purse.used, pytest.approx(conductor.purse.spent_s)),
        "told": conductor.told,
        "scheduler": inside(conductor.scheduler),
        "waiting": conductor.waiting,
    }


class Killed(BaseException):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["none", "asha"])
def test_500_workers_and_a_driver_that_is_killed_at_random(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheduler: str
) -> None:
    """It is killed between two appends, in one, or in a seal; what was answered is there, once, when it goes on."""
    rng, runs = random.Random(500), 0
    words = ("trainable=test_bowl", f"scheduler={scheduler}", "search=random", "budget.trials=1000")
    write, in_a_seal = Folder.write_parquet, 0

    def written(self: Folder, *arguments: Any) -> None:
        nonlocal in_a_seal
        if rounds > 1 and runs in (1, 3, 5) and next(files, None) is None:
            in_a_seal += 1
            raise Killed
        write(self, *arguments)

    monkeypatch.setattr(Folder, "write_parquet", written)
    answered: set[tuple[str, int]] = set()
    finished: set[str] = set()
    while True:
        files = iter(range(rng.randrange(7)))  # that are written before it is killed
        rounds, killed = 0, False
        made = engine(tmp_path, *words, "budget.concurrent=500")
        wires = Acknowledged(rng.random)
        exchange = Exchange(made.conductor, wires, lambda sweep: "{}")
        kill_at = rng.randrange(2, 5) if runs in (0, 2, 4) else 10**9
        while not made.conductor.finished and rounds < kill_at:
            while (given := exchange.first(f"p{len(wires.places)}")) is not None:
                wires.send(f"p{len(wires.places)}", *given)
            rounds += 1
            made.writer._next_seal = 0.0
            try:
                exchange.round(0.0)
            except Killed:
                killed = True
                break
        assert not wires.began & finished, "a finished trial was run again"
        answered |= wires.answered
        if made.conductor.finished and not killed:
            made.writer.close(state=made.conductor.close())
            break
        made.writer._release()
        runs += 1
        log, acknowledged = max((tmp_path / "log/s").glob("*.log")), made.writer._appender.size  # type: ignore[union-attr]
        assert log.stat().st_size == acknowledged
        with open(log, "ab") as out:  # of an append that was under way
            out.write(_log.encode(10**6, [("results", {"step": 1})])[: rng.randrange(60)])
        rows = reported(tmp_path)
        assert len(rows) == len(set(rows)) and answered <= set(rows)
        trials = Store(tmp_path).table("trials", "s").select(["trial", "state"]).to_pylist()
        finished = {t["trial"] for t in trials if t["state"] == "complete"}
    rows, trials = reported(tmp_path), Store(tmp_path).table("trials", "s")
    assert runs == 6 and in_a_seal == 3 and len(rows) == len(set(rows)) and answered <= set(rows)
    assert trials.num_rows == 1000 and set(trials["state"].to_pylist()) <= {"complete", "pruned"}
    if scheduler == "none":
        assert len(rows) == 1000 * 9


def reported(storage: Path) -> list[tuple[str, int]]:
    table = Store(storage).table("results", "s")
    return list(zip(table["trial"].to_pylist(), table["step"].to_pylist(), strict=True))


class Acknowledged(Here):
    """Places of which some tell in a round. answered: reports that were acknowledged; began: what was handed out."""

    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__(lambda post: Steady(), lambda working: [p for p in working if draw() < 0.6])
        self.answered: set[tuple[str, int]] = set()
        self.began: set[str] = set()
        self.told: dict[str, list[tuple[str, int]]] = {}

    def _tells(self, place: str) -> Any:
        message: Any = super()._tells(place)
        self.told[place] = [(r["trial"], row["step"]) for r in message["reports"] for row in r["rows"]]
        return message

    def send(self, place: str, legs: str = "", post: str = "") -> None:
        self.answered.update(self.told.pop(place, ()))
        self.began |= {leg["trial"] for leg in json.loads(legs or "[]")}
        super().send(place, legs, post)


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("scheduler", ["none", "asha", "hyperband", "median", "pbt"])
def test_reports_are_replayed_in_stretches_as_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheduler: str, seeds: int
) -> None:
    monkeypatch.setattr(Checkpoints, "copy", lambda *args: True)
    made = engine(
        tmp_path, "trainable=test_long", f"scheduler={scheduler}", "search=random", "budget.trials=12",
        f"seeds={seeds}", "budget.concurrent=5",
    )  # fmt: skip
    some_rounds(made, 110 * seeds, seed=seeds)
    applied = 0
    passed = Conductor.passed

    def counting(self: Conductor, stretch: Stretch) -> None:
        nonlocal applied
        applied += 1
        passed(self, stretch)

    monkeypatch.setattr(Conductor, "passed", counting)
    quick, stretches = state(taken_up(tmp_path)), applied
    monkeypatch.setattr(replay, "stretches", one_by_one)
    assert state(taken_up(tmp_path)) == quick
    reports = Store(tmp_path).table("results", "s").num_rows
    assert applied - stretches == reports > 40
    assert stretches < reports / (10 if scheduler == "none" else 2)
