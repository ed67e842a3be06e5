"""Budgets over a whole sweep: steps and minutes of all trials together."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

import pytest

from fairsweep.cluster.cli import run_cli
from fairsweep.cluster.display import LineDisplay
from fairsweep.cluster.engine.conductor import Conductor
from fairsweep.cluster.engine.trial import Leg, Rules
from fairsweep.cluster.errors import UserError
from fairsweep.search_spaces.algorithms import create_scheduler, create_search
from fairsweep.search_spaces.space import Space
from tests.cluster.test_conductor import Crash, Engine, engine, trials
from tests.cluster.test_own import folder, own, write

__all__ = ["folder"]
ALL = ("trainable=test_bowl", "search=random", "budget.trials=null")


def notes(run: Engine) -> list[str]:
    return list(run.store.notes("s"))


def total(run: Engine) -> int:
    """Steps of all trials, by the rows of their reports."""
    return run.store.table("results", "s").num_rows


@pytest.mark.parametrize("scheduler", ["none", "asha", "hyperband", "median"])
@pytest.mark.parametrize("seeds, concurrent", [(1, 1), (1, 4), (3, 2)])
def test_no_more_steps_are_trained_than_there_are_and_none_is_left_unfinished(
    tmp_path: Path, scheduler: str, seeds: int, concurrent: int
) -> None:
    words = (f"scheduler={scheduler}", f"seeds={seeds}", f"budget.concurrent={concurrent}", "budget.steps=9")
    run = engine(tmp_path, *ALL, *words, "budget.total_steps=100")
    run.run()
    rows = trials(run.store)
    assert run.state == "finished" and total(run) == sum(t["steps"] for t in rows) <= 100
    assert {t["state"] for t in rows} <= {"complete", "pruned"}
    assert all(t["steps"] == 9 for t in rows if t["state"] == "complete")
    complete = [t["config_id"] for t in rows if t["state"] == "complete"]
    assert any(complete.count(number) == seeds for number in complete)
    assert 100 - total(run) < 9 * seeds, "another configuration would have fitted"
    if scheduler == "none":
        assert len(complete) == len(rows) == 11 // seeds * seeds
    assert any("budget.total_steps=100: " in text and "too little for another" in text for text in notes(run))


@pytest.mark.parametrize("scheduler", ["asha", "hyperband"])
def test_the_last_steps_are_kept_for_a_configuration_that_becomes_complete(
    tmp_path: Path, scheduler: str
) -> None:
    # Rungs at 1 and 3 of 9 steps: with eta=100 none is promoted, so all would stay at a rung.
    words = (f"scheduler={scheduler}", "scheduler.eta=100", "budget.steps=9", "budget.concurrent=3")
    run = engine(tmp_path, *ALL, *words, "budget.total_steps=40")
    run.run()
    rows = trials(run.store)
    assert total(run) <= 40 and [t["state"] for t in rows].count("complete") >= 1
    assert scheduler == "hyperband" or len(rows) > 20


def test_configurations_of_different_lengths_each_fit(tmp_path: Path) -> None:
    """The longest takes 50 steps, the shortest 3: what is too long for the rest ends the sweep, and is no row."""
    for scheduler in ("none", "asha"):
        where = tmp_path / scheduler
        words = ("trainable=test_lengths", "search=random", "budget.trials=null", f"scheduler={scheduler}")
        run = engine(where, *words, "budget.concurrent=3", "budget.total_steps=170")
        run.run()
        rows = trials(run.store)
        assert 120 < total(run) <= 170 and {t["state"] for t in rows} <= {"complete", "pruned"}
        assert any(t["state"] == "complete" for t in rows)
        number = len({t["config_id"] for t in rows})
        again = engine(where, changes=["budget.total_steps=+100"])
        again.run()
        assert len({t["config_id"] for t in trials(again.store)}) > number and total(again) <= 270


def test_trials_and_steps_bound_a_sweep_together(tmp_path: Path) -> None:
    run = engine(tmp_path, *ALL[:2], "budget.trials=4", "budget.total_steps=900")
    run.run()
    assert total(run) == 4 * 9 and not any("total_steps" in text for text in notes(run))
    again = engine(tmp_path, changes=["budget.trials=+200"])
    again.run()
    assert total(again) == 900


@pytest.mark.parametrize("scheduler", ["none", "asha"])
def test_a_sweep_that_is_taken_up_again_spends_no_more(tmp_path: Path, scheduler: str) -> None:
    whole = engine(tmp_path / "whole", *ALL, f"scheduler={scheduler}", "budget.total_steps=60")
    whole.run()
    run = engine(tmp_path, *ALL, f"scheduler={scheduler}", "budget.total_steps=60")
    for after in (7, 9, 20):
        with pytest.raises(Crash):
            run.run(crash_after=after)
        run = engine(tmp_path)
    run.run()
    assert [(t["steps"], t["state"]) for t in trials(run.store)] == [
        (t["steps"], t["state"]) for t in trials(whole.store)
    ]
    grown = engine(tmp_path, changes=["budget.total_steps=+30"])
    grown.run()
    assert 60 < total(grown) <= 90
    with pytest.raises(UserError, match="can only grow"):
        engine(tmp_path, changes=["budget.total_steps=50"])


def test_failed_trials_are_run_again_only_if_they_fit(tmp_path: Path) -> None:
    words = ("trainable=test_faulty", "search=random", "space.fault=raise", "budget.trials=null")
    run = engine(tmp_path, *words, "budget.total_steps=20")
    run.run()
    rows = trials(run.store)
    assert {t["state"] for t in rows} == {"failed"} and total(run) <= 20
    assert any("no configuration is complete" in text for text in notes(run))
    with pytest.raises(UserError, match=r"budget\.total_steps=20: .* must be at least \d+"):
        engine(tmp_path, changes=["retry=failed"])
    need = total(run) + sum(9 - t["steps"] for t in rows)
    again = engine(tmp_path, changes=["retry=failed", f"budget.total_steps={need}"])
    again.run()
    assert total(again) <= need


# -- minutes of training ----------------------------------------------------------------------------------


def costly(seconds: float) -> Any:
    """Reports as if each step had taken so long."""

    def change(payload: dict[str, Any]) -> dict[str, Any]:
        for row in payload["rows"]:
            row["wall_s"] = seconds * row["step"]
        last = payload["rows"][-1]["step"] if payload["rows"] else 0
        return {**payload, "cost_s": seconds * last}

    return change


@pytest.mark.parametrize("concurrent", [1, 3])
def test_when_the_minutes_of_training_are_used_nothing_more_begins(tmp_path: Path, concurrent: int) -> None:
    run = engine(tmp_path, *ALL, "budget.total_minutes=10", f"budget.concurrent={concurrent}")
    run.run(before_report=costly(25.0))  # a trial takes 225 s
    rows = trials(run.store)
    complete, ended = ([t for t in rows if t["state"] == state] for state in ("complete", "pruned"))
    assert len(complete) + len(ended) == len(rows) and 1 <= len(ended) <= concurrent
    assert 600 <= sum(t["cost_s"] for t in rows) <= 600 + 25 * concurrent
    assert all(t["reason"].startswith("budget.total_minutes is used up at step") for t in ended)
    assert all(t["value"] is not None and t["steps"] < 9 for t in ended)
    assert any("budget.total_minutes=10 is used up" in text for text in notes(run))
    with pytest.raises(UserError, match=r"budget\.total_minutes=10: .* have taken .* of it"):
        engine(tmp_path, changes=["budget.trials=100"])
    again = engine(tmp_path, changes=["budget.total_minutes=+10"])
    again.run(before_report=costly(25.0))
    now = {t["trial"]: t for t in trials(again.store)}
    assert all(now[t["trial"]]["state"] == "complete" for t in ended), "they go on from where they were"
    assert 1200 <= sum(t["cost_s"] for t in now.values()) <= 1200 + 25 * concurrent


def test_a_sweep_that_has_completed_nothing_when_its_minutes_are_used_says_so(tmp_path: Path) -> None:
    run = engine(tmp_path, *ALL, "budget.total_minutes=1", "scheduler=asha", "budget.concurrent=2")
    run.run(before_report=costly(25.0))
    rows = trials(run.store)
    assert not any(t["state"] == "complete" for t in rows) and run.state == "finished"
    (said,) = [text for text in notes(run) if "total_minutes" in text]
    assert "no configuration is complete" in said
    again = engine(tmp_path, changes=["budget.total_minutes=+20"])
    again.run(before_report=costly(25.0))
    assert any(t["state"] == "complete" for t in trials(again.store))


def test_a_crash_forgets_no_time(tmp_path: Path) -> None:
    run = engine(tmp_path, *ALL, "budget.total_minutes=10")
    with pytest.raises(Crash):
        run.run(crash_after=4, before_report=costly(25.0))
    again = engine(tmp_path)
    assert again.conductor.purse.spent_s == 100.0 and again.conductor.purse.used == 4


# -- what is no budget ------------------------------------------------------------------------------------


def test_what_a_function_returns_after_its_steps_is_no_step(folder: Path) -> None:
    write(folder, "for k in range(trial.steps): trial.report(val_loss=1.0)\nreturn 0.5", ", steps=3")
    run = own(folder, "budget.trials=null", "budget.total_steps=10")
    run.run()
    assert len(trials(run.store)) == 3


BAD = [
    (["budget.total_steps=0"], ["budget.total_steps=0", "at least 1"]),
    (["budget.total_steps=2.5"], ["budget.total_steps=2.5", "whole number"]),
    (["budget.total_minutes=0"], ["budget.total_minutes=0", "above 0"]),
    (["budget.total_steps=26", "seeds=3"], ["budget.total_steps=26", "at least 27", "9 x 3 seed(s)"]),
    (["budget.trials=null"], ["budget.trials=None", "budget.total_steps"]),
    (["budget.trials=null", "budget.minutes=5", "scheduler=pbt"], ["budget.trials=None", "population"]),
    (["budget.total_steps=99", "scheduler=pbt"], ["budget.total_steps=99", "not with scheduler=pbt"]),
    (["budget.total_minutes=9", "scheduler=pbt"], ["budget.total_minutes=9", "not with scheduler=pbt"]),
]


@pytest.mark.parametrize("words, said", BAD, ids=lambda x: x[0] if isinstance(x, list) else "")
def test_one_line_and_no_sweep(
    tmp_path: Path, words: list[str], said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(["run", "trainable=test_bowl", f"storage={tmp_path}/store", *words]) == 2
    err = capsys.readouterr().err.strip()
    assert len(err.splitlines()) == 1 and all(word in err for word in said), err
    assert not (tmp_path / "store").exists()


def test_steps_of_a_function_that_ends_when_it_does_are_unknown(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder, "return 1.0")
    words = ["trainable=train.py:train", "budget.total_steps=9", f"storage={folder}/store"]
    assert run_cli(["run", *words]) == 2
    assert "budget.total_steps=9: needs to know how many reports" in capsys.readouterr().err


def test_how_many_there_will_be_is_not_said_where_nobody_knows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = engine(tmp_path, *ALL, "budget.total_steps=20", "budget.concurrent=2")
    for _ in range(2):
        LineDisplay().begin("s", "store", run.settings, run.conductor, None)
        assert "configurations as long as the budget lasts x 1 seed(s)" in capsys.readouterr().err
        assert run.conductor.next_leg() is not None


def test_trials_without_a_number_end_with_the_grid_or_the_minutes(tmp_path: Path) -> None:
    grid = (
        "search=grid",
        "search.points=2",
        "budget.minutes=60",
        "trainable=test_bowl",
        "budget.trials=null",
    )
    run = engine(tmp_path, *grid)
    run.run()
    assert len(trials(run.store)) == 8
    listed = ("search=listed", "search.configs=[{x: 0.1},{x: 0.2}]", "budget.trials=null", "budget.minutes=9")
    other = engine(tmp_path / "listed", "trainable=test_bowl", *listed)
    other.run()
    assert len(trials(other.store)) == 2


# -- many sweeps, without a store -------------------------------------------------------------------------


class Silent:
    """A writer of nothing."""

    def batch(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **values: None


def simulated(rng: random.Random, lengths: tuple[int, ...], failing: float) -> Conductor:
    """A sweep of made-up reports that come in any order; some trials end early, some fail."""
    space = Space.from_mapping(
        {
            "x": {"type": "float", "low": 0.0, "high": 1.0, "paper": 0.5},
            "n": {"type": "categorical", "choices": list(lengths), "paper": lengths[0]},
        },
        source="simulated",
    )
    name = rng.choice(["none", "asha", "asha", "hyperband", "median"])
    seeds = tuple(range(rng.choice([1, 1, 2, 3])))
    total = round(max(lengths) * len(seeds) * rng.choice([1, 1.5, 2, 3, 8]))
    options: dict[str, Any] = {} if name in ("none", "median") else {"eta": rng.choice([2, 3, 4])}
    conductor = Conductor(
        Rules(
            objective="loss",
            mode="min",
            trials=None,
            seeds=seeds,
            concurrent=rng.choice([1, 2, 5]),
            fidelity=lambda config: (1, config["n"]),
            total_steps=total,
        ),
        space,
        create_search("random", space, "min", rng.randrange(99)),
        create_scheduler(name, "min", 1, max(lengths), space, 0, **options),
        Silent(),  # type: ignore[arg-type]
    )
    legs: list[Leg] = []
    while not conductor.finished:
        while (leg := conductor.next_leg()) is not None:
            legs.append(leg)
        if not legs:  # what was asked for has turned out to be too long
            assert conductor.finished
            break
        leg = rng.choice(legs)
        trial = conductor.trials[leg.trial]
        stops = [m for m in leg.milestones if m > trial.steps]
        last = rng.randint(trial.steps + 1, min([*stops, leg.maximum]))
        rows = [
            {"step": s, "wall_s": 0.0, "time": 0.0, "metrics": {"loss": rng.random()}}
            for s in range(trial.steps + 1, last + 1)
        ]
        early = last not in leg.milestones and rng.random() < 0.05
        status = "complete" if last == leg.maximum or early else "running"
        status = "failed" if rng.random() < failing else status
        failure = {"failure": {"reason": "raised", "error": ""}} if status == "failed" else {}
        if not conductor.report(leg.trial, {"rows": rows, "status": status, **failure}):
            legs.remove(leg)
        assert sum(t.steps for t in conductor.trials.values()) == conductor.purse.used <= total
        under_way = [conductor.trials[i] for i in (*conductor.active, *conductor.waiting)]
        assert conductor.purse.affords(0, under_way), "what is under way may need more than there is"
    return conductor


@pytest.mark.parametrize("failing", [0.0, 0.03])
@pytest.mark.parametrize("lengths", [(9,), (4, 27), (20, 30)])
def test_whatever_happens_the_steps_are_enough_for_what_has_begun(
    lengths: tuple[int, ...], failing: float
) -> None:
    rng = random.Random(len(lengths) + 100 * failing)
    ended = []
    for _ in range(100):
        conductor = simulated(rng, lengths, failing)
        states = {t.state for t in conductor.trials.values()}
        assert states <= {"complete", "pruned", "paused", "failed"}
        left = conductor.rules.total_steps - conductor.purse.used  # type: ignore[operator]
        assert left < max(lengths) * len(conductor.rules.seeds), "another configuration would have fitted"
        ended.append(any(t.state == "complete" for t in conductor.trials.values()))
    assert all(ended) or failing
