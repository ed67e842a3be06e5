"""Sweeps on a real Ray: workers that die, hang or are killed, Tune's adapters, tracking."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fairsweep.analysis.store import Store
from fairsweep.cluster import config
from fairsweep.cluster.jobs import sweep
from fairsweep.cluster.jobs.best import best_of
from fairsweep.cluster.jobs.sweep import Result
from tests.cluster.test_conductor import lies_about_early_stopping
from tests.wandb_server import inspected

pytestmark = pytest.mark.usefixtures("ray_session")


def run(tmp_path: Path, *overrides: str, name: str = "s") -> Result:
    return sweep.run(config.load([*overrides, f"storage={tmp_path / 'store'}", f"name={name}"]))


def trials(result: Result) -> list[dict[str, Any]]:
    return Store(result.storage).table("trials", result.sweep).sort_by("number").to_pylist()


def steps(result: Result, trial: str) -> list[int]:
    rows = Store(result.storage).table("results", result.sweep).to_pylist()
    return [r["step"] for r in rows if r["trial"] == trial]


def test_a_sweep_reuses_its_workers(tmp_path: Path) -> None:
    result = run(tmp_path, "trainable=test_bowl", "budget.trials=12")
    rows = trials(result)
    assert result.state == "finished"
    assert [t["state"] for t in rows] == ["complete"] * 12
    assert len({t["pid"] for t in rows}) <= 2
    assert all(steps(result, t["trial"]) == list(range(1, 10)) for t in rows)
    record = Store(result.storage).table("sweeps", "s").to_pylist()[0]
    assert record["closed"] and record["rows_results"] == 108 and record["rows_trials"] == 12


def test_asha_with_one_slot_pauses_and_promotes(tmp_path: Path) -> None:
    result = run(tmp_path, "trainable=test_bowl", "budget.trials=9", "scheduler=asha", "budget.concurrent=1")
    rows = trials(result)
    assert {t["steps"] for t in rows} == {1, 3, 9}
    order = [r["trial"] for r in Store(result.storage).table("results", "s").to_pylist()]
    split = [
        i
        for i in set(order)
        if order[order.index(i) : order.index(i) + order.count(i)] != [i] * order.count(i)
    ]
    assert split, "no trial was taken up again after others had run"


@pytest.mark.slow
def test_places_that_are_released_come_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place without work gives its resources back; what waits for others to end then begins at a new one."""
    from fairsweep.cluster.engine.bridge import Places

    monkeypatch.setattr(Places, "RELEASE_S", 0.0)
    given: list[str] = []
    leave = Places._leave
    monkeypatch.setattr(Places, "_leave", lambda self, place: (given.append(place), leave(self, place))[1])
    words = ("trainable=test_slow", f"data_dir={tmp_path}", "budget.steps=9", "scheduler=hyperband")
    rows = trials(run(tmp_path, *words, "budget.trials=9"))
    assert {t["steps"] for t in rows} == {1, 3, 9}
    assert given, "no place was released"


@pytest.mark.slow
def test_hyperband_on_ray_pauses_promotes_and_trains_a_bracket_whole(tmp_path: Path) -> None:
    rows = trials(run(tmp_path, "trainable=test_bowl", "budget.trials=17", "scheduler=hyperband"))
    assert {t["steps"] for t in rows} == {1, 3, 9}
    assert sum(t["state"] == "complete" for t in rows) >= 3


@pytest.mark.slow
def test_a_population_on_ray_goes_on_from_the_checkpoints_of_others(tmp_path: Path) -> None:
    rows = trials(
        run(
            tmp_path, "trainable=test_bowl", "budget.trials=4", "scheduler=pbt", "search=random",
            "scheduler.interval=3",
        )
    )  # fmt: skip
    copies = [t for t in rows if t["parent"]]
    assert len(copies) == 2 and sum(t["state"] == "complete" for t in rows) == 4
    assert [t["parent_step"] for t in copies] == [3, 6]


@pytest.mark.slow
def test_several_objectives_on_ray_make_a_front(tmp_path: Path) -> None:
    result = run(
        tmp_path, "trainable=test_trade", "metric=[val_loss,size]", "search=nsga2", "search.population=4",
        "budget.trials=10", "constraints={size: {max: 4}}",
    )  # fmt: skip
    rows = trials(result)
    assert [t["state"] for t in rows] == ["complete"] * 10
    assert all(t["metric.size"] is not None and t["metric.val_loss"] == t["value"] for t in rows)
    best = best_of(Store(result.storage), "s")
    assert best is not None and best["hypervolume"] >= 0 and len(best["front"]) >= 2


def test_one_slot_on_ray_suggests_what_the_bare_conductor_does(tmp_path: Path) -> None:
    """Tune neither reorders nor prefetches: the suggestions are a function of the seed."""
    a = run(tmp_path, "trainable=test_bowl", "budget.trials=10", "budget.concurrent=1", name="a")
    b = run(tmp_path, "trainable=test_bowl", "budget.trials=10", "budget.concurrent=1", name="b")
    assert [t["config_json"] for t in trials(a)] == [t["config_json"] for t in trials(b)]


def test_a_worker_that_always_dies_is_a_failed_row_and_the_sweep_goes_on(
    tmp_path: Path,
) -> None:
    result = run(
        tmp_path, "trainable=test_faulty", "space.x=0.5", "space.fault.choices=[exit,none]", "space.fault.paper=none",
        "search=grid", "budget.trials=2", "budget.retries=1",
    )  # fmt: skip
    by_fault = {t["config.fault"]: t for t in trials(result)}
    assert by_fault["exit"]["state"] == "failed"
    assert by_fault["exit"]["reason"].startswith("worker died 2 times")
    assert "Actor" in by_fault["exit"]["error"]
    assert by_fault["exit"]["retries"] == 1
    assert by_fault["none"]["state"] == "complete"


def test_a_hanging_trial_is_ended_and_not_retried(tmp_path: Path) -> None:
    began = time.monotonic()
    result = run(
        tmp_path, "trainable=test_faulty", "space.x=0.5", "space.fault.choices=[hang,none]", "space.fault.paper=none",
        "search=grid", "budget.trials=2", "budget.trial_timeout=5", "budget.report_seconds=0",
    )  # fmt: skip
    assert time.monotonic() - began < 90
    by_fault = {t["config.fault"]: t for t in trials(result)}
    assert by_fault["hang"]["state"] == "failed" and by_fault["hang"]["retries"] == 0
    assert by_fault["hang"]["reason"] == "timed out: no report for 5 s after step 2"
    assert steps(result, by_fault["hang"]["trial"]) == [1, 2]
    assert by_fault["none"]["state"] == "complete"


def test_rays_own_optuna_wrapper_lies(tmp_path: Path) -> None:
    """Why we have a bridge of our own: the check of test_conductor.py on ASHA with Ray's `OptunaSearch`."""
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    def bowl(config: dict[str, float]) -> None:
        for step in range(1, 10):
            tune.report({"val_loss": (config["x"] - 0.3) ** 2 + 2.0**-step})

    search = OptunaSearch(metric="val_loss", mode="min", seed=0)
    tuner = tune.Tuner(
        bowl,
        param_space={"x": tune.uniform(0.0, 1.0)},
        tune_config=tune.TuneConfig(
            search_alg=search,
            scheduler=ASHAScheduler(
                metric="val_loss", mode="min", max_t=9, grace_period=1, reduction_factor=3
            ),
            num_samples=6,
            max_concurrent_trials=1,
            reuse_actors=True,  # of Tune's own functions too: else each trial waits for a process that imports Tune
        ),
        run_config=tune.RunConfig(storage_path=str(tmp_path), name="s", verbose=0),
    )
    found = tuner.fit()
    steps = {search._ot_trials[r.metrics["trial_id"]].number: r.metrics["training_iteration"] for r in found}
    assert len(steps) == 6 and min(steps.values()) < 9, "ASHA stopped none"
    lies = lies_about_early_stopping(search._ot_study, steps, 9)
    assert len(lies) == sum(ran < 9 for ran in steps.values())
    assert all("and is COMPLETE" in lie for lie in lies)


@pytest.mark.timeout(120)
def test_a_killed_worker_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    killed: list[int] = []

    def kill_soon() -> None:
        while not trace.exists() or len(trace.read_text().splitlines()) < 12:
            time.sleep(0.05)
        pid = int(trace.read_text().splitlines()[-1].split()[-1])
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)

    killer = threading.Thread(target=kill_soon, daemon=True)
    killer.start()
    result = run(
        tmp_path, "trainable=test_slow", "budget.trials=1", "budget.steps=24", f"data_dir={tmp_path}",
        "budget.checkpoint_seconds=0.2",
    )  # fmt: skip
    killer.join()
    (row,) = trials(result)
    assert killed and row["state"] == "complete" and row["retries"] == 1
    assert steps(result, row["trial"]) == list(range(1, 25))
    computed = [(int(line.split()[2]), int(line.split()[3])) for line in trace.read_text().splitlines()]
    again = [step for step, pid in computed if pid != killed[0]]
    assert again and min(again) > 1, "it began anew instead of from the checkpoint"
    events = Store(result.storage).table("events", "s").to_pylist()
    assert [e["kind"] for e in events if e["kind"] != "end"] == ["retry"]


def test_wandb_runs_are_written_in_the_worker_and_read_back(tmp_path: Path) -> None:
    began = time.monotonic()
    result = run(tmp_path, "trainable=test_bowl", "budget.trials=2", "tracking=wandb")
    assert time.monotonic() - began < 90
    found = sorted(Path(result.storage).glob("wandb/s/wandb/offline-run-*/*.wandb"))
    runs = [file for file in found if not file.stem.endswith("-sweep")]
    assert len(runs) == 2 and len(found) == 3, "one offline run a trial, and one of the sweep"
    rows = {t["trial"]: t for t in trials(result)}
    for file in runs:
        text = inspected(file, "--summary")
        trial = next(t for t in rows if t in text or t in file.name)
        assert "val_loss" in text and "test_loss" in text, text
        assert file.stem.endswith(f"-{trial}")
        whole = inspected(file)
        assert repr(rows[trial]["value"])[:8] in whole, whole[-2000:]


def test_json_and_exit_codes_of_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fairsweep.cluster.cli import run_cli

    store = str(tmp_path / "store")
    assert (
        run_cli(["run", "trainable=test_bowl", "budget.trials=3", "name=c", f"storage={store}", "--json"])
        == 0
    )
    answer = json.loads(capsys.readouterr().out)
    assert answer["state"] == "finished" and answer["sweep"] == "c"
    assert run_cli(["best", "c", "--storage", store, "--json"]) == 0
    best = json.loads(capsys.readouterr().out)
    rows = Store(store).table("trials", "c").to_pylist()
    assert best["value"] == min(t["value"] for t in rows)
    assert best == answer["best"]
    assert run_cli(["run", "trainable=test_faulty", "space.x=1.0", "space.fault=raise", "budget.trials=1", "name=d",
                    f"storage={store}", "--quiet"]) == 1  # fmt: skip
    assert "raised ZeroDivisionError" in capsys.readouterr().out
    for command in (["ls"], ["show", "c"], ["show", "d"]):
        assert run_cli([*command, "--storage", store, "--json"]) == 0
        json.loads(capsys.readouterr().out)
    for form in ("parquet", "csv", "arrow"):
        path = tmp_path / f"out.{form}"
        assert run_cli(["export", "c", "--storage", store, "--format", form, "-o", str(path), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["rows"] == 27
        assert path.stat().st_size > 0
