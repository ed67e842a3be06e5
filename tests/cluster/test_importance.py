"""`fairsweep importance` and `Sweep.importance` on sweeps of a store, without Ray."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fairsweep.cluster import api
from fairsweep.cluster.cli import run_cli
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs.importance import _judged, of_sweep
from fairsweep.search_spaces.algorithms import importance as module
from tests.cluster.test_conductor import Crash, engine

BOWL = ("trainable=test_bowl", "search=random")


@pytest.fixture(autouse=True)
def fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trees and draws take the time of a test."""
    monkeypatch.setattr(module, "TREES", 20)
    monkeypatch.setattr(module, "DRAWS", 20)


def told(capsys: pytest.CaptureFixture[str], storage: Path, *more: str) -> Any:
    assert run_cli(["importance", "s", "--storage", str(storage), "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)


def test_stopped_trials_count_at_an_equal_step_and_the_others_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine(tmp_path, *BOWL, "budget.trials=40", "scheduler=asha").run()
    said = told(capsys, tmp_path)
    assert (said["sweep"], said["method"]) == ("s", "fanova")
    (found,) = said["objectives"]
    assert (found["step"], found["configurations"], found["left_out"]) == (1, 40, {})
    first = found["importance"][0]
    assert first["parameter"] == "y" and first["low"] <= first["importance"] <= first["high"]
    (later,) = found["elsewhere"]
    assert later["step"] == 3 and later["first"] == "y"
    (later,) = told(capsys, tmp_path, "--step", "3")["objectives"]
    assert later["left_out"] == {"stopped before step 3": 40 - later["configurations"]}
    assert (
        run_cli(["importance", "s", "--storage", str(tmp_path), "--step", "3", "--method", "ped_anova"]) == 0
    )
    shown = capsys.readouterr()
    assert "configurations compared at step 3" in shown.out and "of what sets the best apart" in shown.out
    assert "those that were stopped did worse: this is importance among the better ones" in shown.err


def test_failed_and_interrupted_trials_are_counted_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Half of the configurations fail, of which nothing can be learnt.
    space = "space.fault.choices=[none,raise]"
    engine(tmp_path, "trainable=test_faulty", "search=random", "budget.trials=40", space).run()
    (found,) = told(capsys, tmp_path)["objectives"]
    failed = found["left_out"]["failed"]
    assert 5 < failed < 30 and found["configurations"] == 40 - failed
    by = {row["parameter"]: row for row in found["importance"]}
    assert by["x"]["importance"] == 1.0
    assert by["fault"]["reason"] == f"has one value in all {40 - failed} configurations"
    assert f"left out: {failed} failed" in found["notes"]


def test_a_sweep_that_is_not_over_answers_from_what_has_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Crash):
        engine(tmp_path, *BOWL, "budget.trials=20", "budget.concurrent=3").run(crash_after=120)
    (found,) = told(capsys, tmp_path)["objectives"]
    under_way = found["left_out"]["not at an end"]
    assert found["configurations"] >= 10 and 1 <= under_way <= 4
    assert f"{under_way} not at an end" in found["notes"][-1]


def test_each_objective_has_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    what = ("trainable=test_trade", "metric=[val_loss,size]", "budget.trials=24", "search=random")
    engine(tmp_path, *what).run()
    said = told(capsys, tmp_path)["objectives"]
    assert [(s["objective"], s["mode"]) for s in said] == [("val_loss", "min"), ("size", "min")]
    table = api.open("s", tmp_path).importance(pairs=True)
    assert table.schema.names == [
        "objective", "parameter", "other", "importance", "low", "high", "first", "configurations", "conditions",
        "reason", "method", "step",
    ]  # fmt: skip
    rows = table.to_pylist()
    assert {row["objective"] for row in rows} == {"val_loss", "size"}
    assert rows[: len(said[0]["importance"])] == said[0]["importance"]
    assert any(row["other"] for row in rows)
    assert json.loads(table.schema.metadata[b"sentences"]) == [s["sentence"] for s in said]
    (alone,) = told(capsys, tmp_path, "--metric", "size")["objectives"]
    assert alone == said[1]
    assert api.open("s", tmp_path).importance("ped_anova", metric="size", quantile=0.3).num_rows == len(
        said[1]["importance"]
    )


def test_what_cannot_be_answered_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine(tmp_path, *BOWL, "budget.trials=8").run()
    for more, line in (
        ((), "s: has 8 configurations that have ended; importance needs at least 10"),
        (("--step", "soon"), "step=soon: must be a whole number of at least 1, or end"),
        (("--step", "0"), "step=0: must be a whole number of at least 1, or end"),
        (("--method", "shap"), "method=shap: must be fanova or ped_anova"),
        (("--metric", "acc"), "metric=acc: is no objective of s; val_loss can be asked for"),
        (("--region", "0.5"), "method=fanova: takes no quantile and no region; ped_anova does"),
        (("--method", "ped_anova", "--quantile", "2"), "quantile=2: must be above 0 and below region=1"),
    ):
        assert run_cli(["importance", "s", "--storage", str(tmp_path), *more]) == 2
        assert capsys.readouterr().err == f"fairsweep: error: {line}\n"
    with pytest.raises(UserError, match="importance needs at least 10"):
        api.open("s", tmp_path).importance()


def test_a_row_of_a_sweep_that_names_no_space_is_one_line() -> None:
    store = SimpleNamespace(read=lambda name: SimpleNamespace(sweep={"objective": "v", "mode": "max"}))
    with pytest.raises(UserError, match="s: is no sweep over hyperparameters"):
        of_sweep(store, "s")  # type: ignore[arg-type]


def test_a_trial_that_did_not_report_at_a_step_counts_by_its_next_report() -> None:
    """Steps of their own: b reports at 4 and 8, where a was stopped at 3; at its end it would be as of another step."""
    rows = [
        {"trial": "a", "steps": 3, "state": "pruned"},
        {"trial": "b", "steps": 8, "state": "complete"},
        {"trial": "c", "steps": 2, "state": "complete"},
    ]
    reports = [("a", 3, 0.7), ("b", 2, float("nan")), ("b", 4, 0.5), ("c", 2, 0.6), ("b", 8, 0.1)]
    results = [{"trial": t, "step": s, "metric.loss": v} for t, s, v in reports]
    record = SimpleNamespace(sweep={"mode": "min", "objective": "loss"}, results=results)
    assert _judged(record, rows) == {"a": {3: 0.7}, "b": {3: 0.5}}
