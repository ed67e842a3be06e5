"""A search that is asked ahead: in one slot it suggests the same in bundles of any size and after any interruption."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fairsweep.cluster.engine import asking
from fairsweep.cluster.engine.worker import LegRunner
from fairsweep.search_spaces.algorithms import OptunaSearch
from tests.cluster.test_bundles import bundled, close, same, slow
from tests.cluster.test_conductor import Engine, engine, trials
from tests.wires import Here, exchanged, real

TPE = ("trainable=test_trivial", "search=tpe", "keep_checkpoints=none", "seed=3", "search.ahead=64")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """One is asked for ahead for each three that are known, so that tests of some twenty trials see it."""
    monkeypatch.setattr(asking, "EVERY", 3)


def prunes(count: int, message: dict[str, Any]) -> None:
    """Each fifth configuration says that it is pruned."""
    for report in message["reports"]:
        if int(report["trial"][:5]) % 5 == 3 and report["status"] == "complete":
            report.update(status="pruned", reason="pruned by the trainable: enough")


def plain(count: int, message: dict[str, Any]) -> None:
    pass


def logged(run: Engine, folder: Path, drive: Callable[[], Any]) -> list[int]:
    """Has `drive` run what there is, closes nothing; the length of the log after each append, all in one file."""
    run.writer.seal_every = 1e9
    (log,) = (folder / "log" / run.name).glob("*.log")
    appender, lengths = run.writer._appender, [log.stat().st_size]
    assert appender is not None
    append = appender.append

    def measured(frame: bytes, last: bool = False) -> None:
        append(frame, last)
        lengths.append(log.stat().st_size)

    appender.append = measured  # type: ignore[method-assign]
    drive()
    shutil.copytree(folder, folder.with_suffix(".log"))  # leaving seals it
    run.writer.__exit__(None, None, None)
    return lengths


def cut(folder: Path, length: int) -> Engine:
    """The sweep, taken up where a driver died that had written so much of the log of `folder`."""
    where = folder.with_suffix(f".{length}")
    shutil.copytree(folder.with_suffix(".log"), where)
    (log,) = (where / "log" / "s").glob("*.log")
    os.truncate(log, length)
    return engine(where)


CASES: dict[str, tuple[tuple[str, ...], Callable[[int, dict[str, Any]], None]]] = {
    "plain": ((), plain),
    "seeds": (("seeds=2", "budget.trials=18"), plain),
    "some fail": (("trainable=test_faulty", "space.fault.choices=[none,raise]"), plain),
    "some cannot begin": (("trainable=test_unfathomed",), plain),
    "some are pruned": ((), prunes),
    "not ahead": (("search.ahead=0",), plain),
    "asha": (("trainable=test_bowl", "scheduler=asha", "budget.trials=16"), plain),
    "hyperband": (("trainable=test_bowl", "scheduler=hyperband", "budget.trials=16"), plain),
    "steps": (("trainable=test_bowl", "budget.total_steps=120"), plain),
    "several": (("trainable=test_trade", "metric=[val_loss,size]", "budget.trials=14"), plain),
}


def cut_everywhere(tmp_path: Path, case: str, every: int) -> None:
    words, at_message = CASES[case]
    words = (*TPE, "budget.trials=24", *words)
    alone = engine(tmp_path / "alone", *words)
    bundled(alone, 1, at_message)
    whole = same(close(alone))
    assert len(whole) >= 12
    for most in (3, 17):
        run = engine(tmp_path / str(most), *words)
        slow(run)
        lengths = logged(run, tmp_path / str(most), partial(bundled, run, most, at_message))
        for k, length in enumerate(lengths[:-1]):
            if k % every:
                continue
            again = cut(tmp_path / str(most), length)
            slow(again)
            bundled(again, most, at_message)
            assert same(close(again)) == whole, f"bundles of {most}, cut after {k} of {len(lengths)} appends"
        again = engine(tmp_path / str(most))
        assert same(close(again)) == whole


@pytest.mark.parametrize("case", CASES)
def test_suggests_the_same_in_any_bundles_and_cut_at_some_moments(tmp_path: Path, case: str) -> None:
    cut_everywhere(tmp_path, case, 19 if case in ("asha", "hyperband", "steps") else 7)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_suggests_the_same_cut_at_every_moment(tmp_path: Path, case: str) -> None:
    cut_everywhere(tmp_path, case, 1)


def test_in_several_slots_what_is_asked_for_is_a_function_of_the_log(tmp_path: Path) -> None:
    """Wherever the log ends: what had been due by then and is not in it is asked for as it had been."""
    words = (*TPE, "budget.trials=40", "budget.concurrent=4")
    run = engine(tmp_path / "whole", *words)
    draw = random.Random(1)
    wires = Here(real, lambda working: [place for place in working if draw.random() < 0.4][::-1])
    lengths = logged(
        run,
        tmp_path / "whole",
        lambda: exchanged(run.conductor, wires, lambda sweep: json.dumps(asdict(run.post))),
    )
    whole = [t["config_json"] for t in trials(run.store)]
    ended = [e["trial"] for e in run.store.read("s").events if e["kind"] == "end"]
    assert len(ended) == 40 and ended != sorted(ended), "trials end in another order than they began in"
    asked = 0
    for length in lengths[1:-1]:
        again = cut(tmp_path / "whole", length)
        assert again.writer.record is not None
        there = len(again.writer.record.trials)
        again.conductor.think()
        again.writer.__exit__(None, None, None)
        found = [t["config_json"] for t in trials(again.store)]
        assert found == whole[: len(found)]
        asked += len(found) - there
    assert asked > 10


def test_a_driver_that_thinks_late_asks_for_the_same(tmp_path: Path) -> None:
    """The search may be told of all that came at once, or of one outcome at a time."""
    found = []
    for name, seconds in (("at once", float("inf")), ("bit by bit", 0.0)):
        run = engine(tmp_path / name, *TPE, "budget.trials=30", "budget.concurrent=2")
        slow(run)
        left = 0

        def think(count: int, message: dict[str, Any], run: Engine = run, seconds: float = seconds) -> None:
            nonlocal left
            left += run.conductor.think(seconds)

        bundled(run, 5, think)
        assert (left > 0) == (seconds == 0.0)
        found.append(same(close(run)))
    assert found[0] == found[1]


def test_a_longer_sweep_begins_as_a_shorter_one_that_grew(tmp_path: Path) -> None:
    whole, grown = (engine(tmp_path / k, *TPE, f"budget.trials={n}") for k, n in (("a", 30), ("b", 17)))
    bundled(whole, 4)
    bundled(grown, 4)
    assert len(close(grown)) == 17
    again = engine(tmp_path / "b", changes=["budget.trials=+13"])
    bundled(again, 4)
    assert same(close(again)) == same(close(whole))


def test_how_many_are_asked_for_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The random first ones at once; then one for each slot and one for each so many that are known."""
    monkeypatch.setattr(asking, "EVERY", 10)
    run = engine(tmp_path / "a", *TPE, "budget.trials=60", "search.ahead=3")
    beyond, conductor = [], run.conductor
    while (leg := conductor.next_leg()) is not None:
        beyond.append(len(conductor.jobs) - len(conductor.asker.known) - 1)
        place = run_one(run, leg)
        assert conductor.report(place["trial"], place) is False
        conductor.think()
    assert beyond == [max(9 - k, min(k // 10, 3, 59 - k)) for k in range(60)]
    blind = engine(tmp_path / "b", *TPE, "budget.trials=60", "search.ahead=0")
    blind.conductor.next_leg()
    assert len(blind.conductor.jobs) == 1


@pytest.mark.parametrize("slots", [1, 2, 5, 64])
def test_unless_said_half_as_many_as_there_are_slots_are_asked_for_ahead(tmp_path: Path, slots: int) -> None:
    """One worker suggests what bare TPE does; many hide what the others do from each other anyway."""
    run = engine(tmp_path, *TPE, "search.ahead=null", f"budget.concurrent={slots}")
    assert run.conductor.asker.most_ahead == slots // 2
    assert run.conductor.looks_ahead == (slots > 1)


def run_one(run: Engine, leg: Any) -> dict[str, Any]:
    place = LegRunner(run.post)
    place.take(leg)
    return place.step()


def test_the_first_suggestions_are_those_of_a_search_that_is_not_asked_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is random anyway, and until so many are known that the rule asks for one more."""
    monkeypatch.setattr(asking, "EVERY", 12)
    ahead, not_ahead = (
        engine(tmp_path / k, *TPE, "budget.trials=13", f"search.ahead={k}") for k in ("64", "0")
    )
    bundled(ahead, 8)
    bundled(not_ahead, 1)
    assert same(close(ahead)) == same(close(not_ahead))


def test_a_sweep_cut_short_leaves_what_was_asked_for_ahead_pending_and_goes_on_with_it(
    tmp_path: Path,
) -> None:
    run = engine(tmp_path, *TPE, "budget.trials=40", "seeds=2")

    def press(count: int, message: dict[str, Any]) -> None:
        run.conductor.think()
        if count == 33:
            run.conductor.interrupt()

    bundled(run, 1, press)
    rows = close(run)
    states = [t["state"] for t in rows]
    assert states == ["complete"] * 33 + ["pending"] * (len(rows) - 33) and len(rows) > 40
    again = engine(tmp_path)
    bundled(again, 3)
    grown = close(again)
    assert [t["config_json"] for t in grown[: len(rows)]] == [t["config_json"] for t in rows]
    assert [t["state"] for t in grown] == ["complete"] * 80


def test_no_place_is_left_without_a_trial_that_another_took_ahead(tmp_path: Path) -> None:
    run = engine(tmp_path, *TPE, "budget.trials=60", "budget.concurrent=4")
    taken = [len(run.conductor.next_legs(64)) for _ in range(4)]
    assert all(taken) and taken[0] <= 3
    assert isinstance(run.conductor.algorithm, OptunaSearch)
