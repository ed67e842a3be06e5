"""A long sweep: what a report and a decision cost does not grow with the trials, and it is taken up again quickly."""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from fairsweep.analysis import schema
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
