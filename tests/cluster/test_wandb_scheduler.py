"""Our search behind W&B's local scheduler: what its hooks make of a conductor, and, slow, the whole over loopback."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb.sdk.sweeps.run_state import RunState
from wandb.sdk.sweeps.scheduler.optimizer import Run, RunConfig, RunWithMetrics
from wandb.sdk.sweeps.sweep_info import SweepInfo

from fairsweep.analysis.store import Store
from fairsweep.cluster import config
from fairsweep.cluster.cli import run_cli
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.service import searching
from fairsweep.cluster.service.sweep_words import TRIAL
from fairsweep.cluster.service.wandb_client import Client, connected, place_of
from fairsweep.cluster.service.wandb_scheduler import ConductorOptimizer, config_of
from tests.cluster.test_agent import Driver, server
from tests.cluster.test_conductor import Engine, engine, trials
from tests.wandb_server import Server

__all__ = ["server"]
METRIC = {"metric": {"name": "val_loss", "goal": "minimize"}}


def scheduled(run: Engine, runs: Mapping[str, str] = {}, **more: Any) -> ConductorOptimizer:
    info = SweepInfo("s", "s", "e", "p", {**METRIC, **more}, "c")
    return ConductorOptimizer(info, run.conductor, run.name, "bowl", runs)


def told(
    state: RunState,
    history: list[tuple[int, float]] = [],  # noqa: B006
    last: float | None = None,
    run: str = "r",
    config: Mapping[str, Any] = {},
) -> RunWithMetrics:
    summary = {} if last is None else {"val_loss": last, "_step": 9, "_runtime": 2.5}
    rows = [{"_step": step, "val_loss": value} for step, value in history]
    return RunWithMetrics(RunConfig.from_values(dict(config)), state, run, summary, rows)


def test_what_wandb_tells_is_a_sweep_of_the_store(tmp_path: Path) -> None:
    run = engine(tmp_path, "trainable=test_bowl", "budget.trials=4", "budget.concurrent=3")
    optimizer = scheduled(run)
    first, second, third = optimizer.ask_n_runs(5) or ()
    assert first.config.flat_dict()[TRIAL] == f"s.{first.run_id}"
    assert optimizer.ask_n_runs(5) is None, "three at a time, and one is left"
    optimizer.tell_run(first.run_id, told(RunState.PENDING, run="a"))
    optimizer.tell_run(first.run_id, told(RunState.RUNNING, [(1, 0.9), (4, 0.7)], run="a"))
    optimizer.tell_run(first.run_id, told(RunState.RUNNING, [(1, 0.9), (6, 0.6)], run="a"))
    optimizer.tell_run(first.run_id, told(RunState.FINISHED, [(2, 0.8)], 0.5, run="a"))
    optimizer.tell_run(second.run_id, told(RunState.CRASHED, [(1, 0.9)], run="b"))
    optimizer.forget_run(third.run_id)
    asked = optimizer.ask_n_runs(5) or ()
    assert [a.run_id for a in asked] == [third.run_id, "00003-0"], "what could not be queued comes first"
    optimizer.tell_run(third.run_id, told(RunState.PREEMPTED, [(1, 0.9)], run="c"))
    optimizer.tell_run("00003-0", told(RunState.FINISHED, last=0.4, run="d"))
    assert optimizer.ask_n_runs(5) == [], "the budget is used up"
    assert run.conductor.close() == "finished"
    rows = trials(run.store)
    assert [row["state"] for row in rows] == ["complete", "failed", "interrupted", "complete"]
    assert [row["value"] for row in rows] == [0.5, None, 0.9, 0.4]
    assert rows[1]["reason"] == "its run crashed (W&B run b)" and rows[0]["cost_s"] == 2.5
    steps = [r["step"] for r in run.store.table("results", "s").to_pylist() if r["trial"] == first.run_id]
    assert steps == [1, 4, 6, 9]


def test_median_stops_runs_though_the_history_is_sampled(tmp_path: Path) -> None:
    run = engine(
        tmp_path, "trainable=test_bowl", "budget.trials=6", "budget.concurrent=6", "scheduler=median",
        "scheduler.min_trials=2",
    )  # fmt: skip
    optimizer = scheduled(run)
    runs = [s.run_id for s in optimizer.ask_n_runs(6) or ()]
    rung = run.conductor.trials[runs[0]].milestones[0]
    for k, name in enumerate(runs):
        worse = told(RunState.RUNNING, [(1, 0.1 * k), (rung + 2, 0.1 * k)], run=name)
        optimizer.tell_run(name, worse)
        if optimizer.prune_run(name, worse):
            assert not optimizer.prune_run(name, told(RunState.KILLED)), "it has ended already"
            optimizer.tell_run(name, told(RunState.KILLED, last=9.9, run=name))
    states = [row["state"] for row in trials(run.store)]
    assert states[:2] == ["running", "running"] and "pruned" in states[2:], states
    values = [row["value"] for row in trials(run.store) if row["state"] == "pruned"]
    assert 9.9 not in values and None not in values, "the value that it was stopped by"


def test_a_new_scheduler_knows_what_the_server_and_the_store_tell(tmp_path: Path) -> None:
    words = ("trainable=test_bowl", "budget.trials=5", "budget.concurrent=4")
    run = engine(tmp_path, *words)
    optimizer = scheduled(run)
    a, b, c, _ = [s.run_id for s in optimizer.ask_n_runs(4) or ()]
    optimizer.tell_run(a, told(RunState.RUNNING, [(1, 0.9)], run="a"))
    run.writer.__exit__(None, None, None)  # the process is killed
    again = engine(tmp_path, *words)
    optimizer = scheduled(again, searching._runs(again.writer.record))
    optimizer.tell_existing_finished_run(told(RunState.FINISHED, [(1, 0.9)], 0.3, run="a"))
    optimizer.tell_existing_finished_run(
        told(RunState.FINISHED, [(1, 0.9)], 0.35, run="b", config={TRIAL: f"s.{b}"})
    )
    ours = Run(RunConfig.from_values({TRIAL: f"s.{c}"}), RunState.RUNNING, "c")
    assert optimizer.tell_existing_active_run(ours) == c
    somebody = told(RunState.FINISHED, last=0.2, run="x", config={"x": 0.3, "y": 1, "kind": "a"})
    optimizer.tell_existing_finished_run(somebody)
    optimizer.tell_existing_finished_run(somebody)
    assert optimizer.tell_existing_active_run(Run(RunConfig({}), RunState.RUNNING, "z")) is None
    states = {row["trial"]: row["state"] for row in trials(again.store)}
    assert states[a] == states[b] == states["00005-0"] == "complete" and states[c] == "running"
    assert [s.run_id for s in optimizer.ask_n_runs(4) or ()] == ["00003-0", "00004-0"], "W&B has lost one"


def test_another_objective_than_the_sweeps_is_refused(tmp_path: Path) -> None:
    run = engine(tmp_path, "trainable=test_bowl", "budget.trials=1")
    with pytest.raises(ValueError, match="s is searched for val_loss, to be minimized"):
        scheduled(run, metric={"name": "val_loss", "goal": "maximize"})


def test_there_are_never_two_searches_on_one_sweep(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain: dict[str, Any] = {**METRIC, "parameters": {"x": {"min": 0.0, "max": 1.0}}}
    for sweep, why in (
        ({**plain, "method": "bayes"}, "W&B's server searches it (method: bayes)"),
        ({**plain, "method": "custom", "scheduler": {"engine": "ax"}}, "W&B's scheduler searches it by ax"),
        ({**plain, "method": "custom"}, "its own driver says what runs"),
        (config_of("mine", plain), "is searched by the sweep mine of another store"),
    ):
        assert run_cli(["wandb", server.sweep(sweep), f"storage={tmp_path / 'none'}"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert why in line, line
    assert not (tmp_path / "none").exists() or not list((tmp_path / "none").iterdir())
    from wandb.sdk.sweeps.scheduler.optimizer import make_optimizer

    told_ours = SweepInfo("s", "s", "e", "p", {**config_of("mine", plain)}, "c")
    with pytest.raises((wandb.Error, ValueError, OSError)):
        make_optimizer(told_ours)  # what `wandb sweep-scheduler` does with a sweep of ours


def test_what_wandbs_scheduler_cannot_be_told_is_refused() -> None:
    for word, why in (
        ("scheduler=asha", "can be stopped, not paused and promoted"),
        ("seeds=2", "seeds must be 1"),
        ("budget.minutes=5", "agents of other machines train on"),
    ):
        with pytest.raises(UserError, match=why):
            searching.check(config.load(["trainable=test_bowl", word]))


@pytest.mark.slow
def test_a_whole_sweep_over_loopback_and_its_scheduler_started_again(server: Server, tmp_path: Path) -> None:
    words = ["trainable=test_bowl", "budget.trials=6", "name=mine", f"storage={tmp_path / 'searched'}"]
    ended: list[Any] = []

    def search() -> None:
        ended.append(searching.run([*words, "tracking.project=bowls"], 2, 5.0))

    thread = threading.Thread(target=search)
    thread.start()
    for _ in range(600):
        if server.sweeps:
            break
        threading.Event().wait(0.05)
    (sweep_id,) = server.sweeps
    server.sweeps[sweep_id].endless = True
    agent = Driver(tmp_path, sweep_id, places=2)
    trained = threading.Thread(target=agent.run, kwargs={"seconds": 120.0})
    trained.start()
    thread.join(120)
    assert ended and ended[0].state == "finished"
    assert server.sweeps[sweep_id].state == "FINISHED", "so the agent is told to exit"
    trained.join(60)
    rows = trials(Store(tmp_path / "searched"), "mine")
    assert [row["state"] for row in rows] == ["complete"] * 6
    theirs = {row["config.x"]: row["value"] for row in trials(agent.store)}
    assert {row["config.x"]: row["value"] for row in rows} == pytest.approx(theirs)
    client = Client(api := connected(), place_of(sweep_id, api))
    assert searching.searched_as(client) == "mine"
