"""Trainables of one's own, from the reference to the row, without Ray."""

from __future__ import annotations

import json
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fairsweep.analysis.store import Store
from fairsweep.cluster.cli import run_cli
from fairsweep.cluster.engine.worker import LegRunner
from fairsweep.trainables import catalog
from tests.cluster.test_conductor import Crash, Engine, engine, trials

QUIET = ("search=random", "budget.trials=1")

HEAD = """
import fairsweep

@fairsweep.trainable(space={"lr": (1e-4, 1e-1, "log"), "width": [8, 16], "depth": (1, 4)}, metric="val_loss"%s)
def train(config, trial):
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "mine"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


def write(folder: Path, body: str, more: str = "", name: str = "train.py") -> None:
    """A file with a function `train` of this body."""
    (folder / name).write_text(HEAD % more + textwrap.indent(textwrap.dedent(body), "    "))


def own(folder: Path, *overrides: str, **known: Any) -> Engine:
    return engine(folder.parent / "store", "trainable=train.py:train", *QUIET, *overrides, **known)


def results(store: Store) -> list[dict[str, Any]]:
    return store.table("results", "s").to_pylist()


def test_a_function_is_tuned_like_a_paper(folder: Path) -> None:
    write(
        folder,
        """
        for epoch in range(trial.steps):
            trial.report(val_loss=config["lr"] + 1 / (1 + epoch), acc=epoch / 10)
        """,
        ", steps=9",
    )
    run = own(folder, "budget.trials=6", "scheduler=asha", "space.lr.high=0.05", "space.width=8")
    run.run()
    rows = trials(run.store)
    assert {t["state"] for t in rows} == {"complete", "pruned"}
    assert all(t["paper"] == "train" and t["data"] == "own" and t["config.lr"] <= 0.05 for t in rows)
    assert {t["config.width"] for t in rows} == {8}
    found = results(run.store)
    for t in rows:
        mine = [r for r in found if r["trial"] == t["trial"]]
        assert [r["step"] for r in mine] == list(range(1, t["steps"] + 1))
        assert t["value"] == min(r["metric.val_loss"] for r in mine)
        assert [r["metric.acc"] for r in mine] == [
            i / 10 for i in range(t["steps"])
        ]  # not declared, and kept
    row = run.store.table("sweeps", "s").to_pylist()[0]
    assert row["reference"] == f"{folder}/train.py:train" and row["plugin"] is None
    assert json.loads(row["source"])["files"]["train.py"] == (folder / "train.py").read_text()
    assert json.loads(row["metrics"]) == ["val_loss", "acc"]


def test_promotion_goes_on_from_the_users_checkpoint(folder: Path) -> None:
    write(
        folder,
        """
        start = trial.restore() or 0
        with open("begun.txt", "a") as f:
            print(trial.number, start, file=f)
        for epoch in range(start, trial.steps):
            if epoch % 2:
                trial.checkpoint(epoch + 1)
            trial.report(val_loss=config["lr"] + 1 / (1 + epoch), epoch=epoch)
        """,
        ", steps=9",
    )
    configs = ",".join(f"{{lr: {k / 100}, width: 8, depth: 1}}" for k in range(1, 10))  # the best comes first
    run = own(folder, "budget.trials=9", "scheduler=asha", "search=listed", f"search.configs=[{configs}]")
    run.run()
    begun = [tuple(map(int, line.split())) for line in (folder / "begun.txt").read_text().splitlines()]
    # Paused at step 1 it has no checkpoint yet; at step 3 it has that of step 2, and step 3 is not told twice.
    assert [start for number, start in begun if number == 0] == [0, 0, 2]
    for t in trials(run.store):
        mine = [r for r in results(run.store) if r["trial"] == t["trial"]]
        assert [r["step"] for r in mine] == list(range(1, t["steps"] + 1))
        assert [r["metric.epoch"] for r in mine] == list(range(t["steps"]))


def test_without_checkpoints_a_trial_begins_anew(folder: Path) -> None:
    write(folder, "for e in range(9): trial.report(val_loss=config['lr'] + 1 / (1 + e))", ", steps=9")
    run = own(folder, "budget.trials=9", "scheduler=asha")
    run.run()
    assert any(t["steps"] == 9 for t in trials(run.store))
    for t in trials(run.store):
        mine = [r for r in results(run.store) if r["trial"] == t["trial"]]
        assert [r["step"] for r in mine] == list(range(1, t["steps"] + 1))


@pytest.mark.parametrize(
    "body", ["yield {'val_loss': 0.5}; yield {'val_loss': 0.25}", "return 0.25", "return {'val_loss': 0.25}"]
)
def test_generators_and_functions_that_return(folder: Path, body: str) -> None:
    write(folder, body)
    run = own(folder)
    run.run()
    (row,) = trials(run.store)
    assert (row["state"], row["value"], row["steps"]) == ("complete", 0.25, 2 if "yield" in body else 1)


def test_a_crash_loses_and_doubles_nothing(folder: Path) -> None:
    write(
        folder,
        """
        for epoch in range(trial.restore() or 0, 6):
            trial.checkpoint(epoch + 1)
            trial.report(val_loss=1 / (1 + epoch), draw=__import__("random").random())
        """,
    )
    run = own(folder, "budget.checkpoint_seconds=0")
    with pytest.raises(Crash):
        run.run(crash_after=3)
    again = engine(folder.parent / "store")
    again.run()
    assert [r["step"] for r in results(again.store)] == [1, 2, 3, 4, 5, 6]
    assert again.store.notes("s") == []


def test_the_class_of_a_reference_is_made_once_for_a_text(folder: Path) -> None:
    write(folder, "return 1.0")
    assert catalog.get("train.py:train") is catalog.get("train.py:train")
    before = catalog.get("train.py:train")
    write(folder, "return 2.0")
    assert catalog.get("train.py:train") is not before


def test_what_was_reported_is_sent_though_the_next_report_takes_its_time(folder: Path) -> None:
    write(
        folder,
        """
        import os, time
        trial.report(val_loss=0.5)
        while not os.path.exists("go"):
            time.sleep(0.01)
        trial.report(val_loss=0.25)
        """,
    )
    run = own(folder)
    run.post = replace(run.post, report_s=0.05)
    runner = LegRunner(run.post)
    leg = run.conductor.next_leg()
    assert leg is not None
    runner.take(leg)
    first = runner.step()
    assert [r["step"] for r in first["rows"]] == [1] and first["status"] == "running"
    (folder / "go").touch()
    second = runner.step()
    assert [r["step"] for r in second["rows"]] == [2]


def test_info_asks_for_a_mode_and_takes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "study.py"
    file.write_text(
        "import optuna\n\n\ndef objective(trial):\n    return trial.suggest_float('x', 0, 1)\n\n\n"
        "if __name__ == '__main__':\n    optuna.create_study(direction='maximize').optimize(objective)\n"
    )
    assert run_cli(["info", f"{file}:objective"]) == 2
    assert "say mode=max" in capsys.readouterr().err
    assert run_cli(["info", f"{file}:objective", "mode=max"]) == 0
    said = capsys.readouterr().out
    assert "objective  value (max)" in said and "2147483647" not in said
    assert run_cli(["info", "dagnn", "mode=max"]) == 2
    assert "of a trainable of your own only" in capsys.readouterr().err
