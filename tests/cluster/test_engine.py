"""What befalls a sweep besides its trials: storage that fails, killed drivers, spent budgets; without Ray."""

from __future__ import annotations

import errno
import json
import os
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs as pafs

from fairsweep.analysis import upkeep
from fairsweep.analysis.store import StoreError, SweepLocked
from fairsweep.cluster import config
from fairsweep.cluster.display import Display
from fairsweep.cluster.engine.checkpoints import Checkpoints, Keeper
from fairsweep.cluster.engine.judging import Judge
from fairsweep.cluster.engine.trial import Trial
from fairsweep.cluster.errors import DriverEnded, UserError
from fairsweep.cluster.jobs import driving, growth, sweep
from fairsweep.cluster.jobs.comparing import job, plan
from fairsweep.cluster.jobs.comparing.display import ComparisonDisplay
from fairsweep.cluster.jobs.nas import search
from fairsweep.search_spaces.algorithms.schedulers import ASHA
from tests.cluster.test_conductor import Crash, Engine, engine, trials

BOWL = ("trainable=test_bowl", "search=random")


def test_what_another_driver_writes_is_refused_before_ray_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (sweep, job):
        monkeypatch.setattr(module, "connected", lambda options: pytest.fail("Ray was started"))
    run = engine(tmp_path, *BOWL, "budget.trials=1")
    for resume in (sweep.resume, search.resume):
        with pytest.raises(SweepLocked, match=f"sweep s is being written by process {os.getpid()} on"):
            resume(str(tmp_path), "s", [])
    run.run()
    asked = plan.asked(["test_bowl:kind=a,b", "data=bowl", "budget.trials=1"], "c", str(tmp_path))
    with (
        upkeep.alone(run.store, "comparisons", "c", "comparison"),
        pytest.raises(SweepLocked, match="comparison c is being written by"),
    ):
        job.run(asked, ComparisonDisplay())


class FullDisk(pafs.LocalFileSystem):
    """Takes no checkpoint of the steps in `full`."""

    full: tuple[int, ...] = ()

    def move(self, source: str, to: str) -> None:
        if to.endswith(".ckpt") and int(Path(to).stem) in self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().move(source, to)


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> type[FullDisk]:
    whole = Checkpoints.__init__

    def init(self: Checkpoints, root: str) -> None:
        whole(self, root)
        self.fs = FullDisk()

    monkeypatch.setattr(Checkpoints, "__init__", init)
    monkeypatch.setattr(FullDisk, "full", (9,))
    return FullDisk


def kept(run: Engine) -> set[str]:
    return {p.parent.name for p in Path(run.post.checkpoints).rglob("*.ckpt")}


def test_a_last_checkpoint_that_cannot_be_written_costs_no_value(
    tmp_path: Path, full_disk: type[FullDisk]
) -> None:
    run = engine(tmp_path, *BOWL, "budget.trials=2")
    run.run()
    for row in trials(run.store):
        assert (row["state"], row["reason"], row["retries"]) == ("complete", "complete", 0)
        assert row["value"] is not None and row["metric.test_loss"] is not None
    notes = run.store.notes("s")
    assert len(notes) == 2 and notes[0].startswith(
        "trial 00000-0: complete, but its last checkpoint could not be"
    )
    assert "No space left on device" in notes[0]
    assert list(Path(run.post.checkpoints).rglob("*.tmp")) == []


def test_a_trial_paused_without_its_checkpoint_goes_on_all_the_same(
    tmp_path: Path, full_disk: type[FullDisk]
) -> None:
    full_disk.full = (1, 3, 9)
    run = engine(tmp_path / "a", *BOWL, "budget.trials=9", "scheduler=asha")
    run.run()
    full_disk.full = ()
    whole = engine(tmp_path / "b", *BOWL, "budget.trials=9", "scheduler=asha")
    whole.run()
    same = ("trial", "state", "value", "steps", "retries")
    assert [{k: t[k] for k in same} for t in trials(run.store)] == [
        {k: t[k] for k in same} for t in trials(whole.store)
    ]
    assert any("the trial went on" in note for note in run.store.notes("s"))


def test_a_checkpoint_that_is_what_the_trial_is_for_is_retried_like_a_lost_worker(
    tmp_path: Path, full_disk: type[FullDisk]
) -> None:
    run = engine(tmp_path, *BOWL, "budget.trials=1", "budget.retries=1")
    run.post = replace(run.post, vital=True)
    run.run()
    (row,) = trials(run.store)
    assert row["state"] == "failed" and row["retries"] == 1
    assert row["reason"].startswith("the checkpoint of step 9 cannot be written: ")
    assert row["reason"].endswith("2 times, last after step 9")


def test_a_full_disk_under_a_trial_is_retried_and_failed_trials_can_run_again(tmp_path: Path) -> None:
    run = engine(tmp_path, "trainable=test_faulty", "space.x=0.5", "space.fault=disk", "budget.trials=1")
    run.run()
    (row,) = trials(run.store)
    assert row["state"] == "failed" and row["retries"] == 2
    assert "No space left on device" in row["reason"] and row["reason"].endswith("3 times, last after step 2")
    again = engine(tmp_path, changes=["retry=failed"])
    assert [t.state for t in again.conductor.trials.values()] == ["pending"]

    def mended(payload: dict[str, Any]) -> dict[str, Any]:
        if payload["status"] == "lost":
            row = {"step": 3, "wall_s": 1.0, "time": time.time(), "metrics": {"val_loss": 0.25}}
            payload.update(status="complete", rows=[row], test={"test_loss": 1.0})
            del payload["failure"]
        return payload

    again.run(before_report=mended)
    (row,) = trials(again.store)
    assert (row["state"], row["retries"], row["error"], row["value"]) == ("complete", 0, None, 0.25)
    assert [e["kind"] for e in again.store.table("events", "s").to_pylist()] == ["retry", "retry", "rerun"]
    with pytest.raises(UserError, match="retry=all: must be retry=failed"):
        growth.split(["retry=all"])


def test_what_a_dead_worker_left_half_written_is_swept_up(tmp_path: Path) -> None:
    run = engine(tmp_path, *BOWL, "budget.trials=1")
    folder = Path(run.post.checkpoints) / "00000-0"
    folder.mkdir(parents=True)
    for name in ("4.tmp", "notes.ckpt", "\u0664.ckpt"):
        (folder / name).write_bytes(b"half")
    run.run()
    assert trials(run.store)[0]["state"] == "complete"
    assert sorted(p.name for p in folder.iterdir()) == ["9.ckpt", "notes.ckpt", "\u0664.ckpt"]
    Checkpoints(run.post.checkpoints).delete("00000-0")
    assert not folder.exists()


def test_costs_are_counted_from_the_papers_setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fairsweep.cluster.engine.worker as module

    get = module.catalog.get

    def slow(slug: str) -> Any:
        time.sleep(0.5)
        return get(slug)

    run = engine(tmp_path, *BOWL, "budget.trials=1")
    monkeypatch.setattr(module.catalog, "get", slow)
    run.run()
    (row,) = trials(run.store)
    assert row["startup_s"] >= 0.5 > row["cost_s"]
    assert max(r["wall_s"] for r in run.store.table("results", "s").to_pylist()) < 0.5


def test_waiting_for_a_busy_driver_is_no_cost_of_a_trial(tmp_path: Path) -> None:
    run = engine(tmp_path, *BOWL, "budget.trials=1")

    def late(payload: dict[str, Any]) -> dict[str, Any]:
        time.sleep(0.1)
        return payload

    run.run(before_report=late)
    (row,) = trials(run.store)
    assert row["steps"] == 9 and row["cost_s"] < 0.3
    assert max(r["wall_s"] for r in run.store.table("results", "s").to_pylist()) < 0.3


# -- time -----------------------------------------------------------------------------------------------


def test_the_time_of_a_killed_driver_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fairsweep.cluster.engine.conductor as module

    clock = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    what = [*BOWL, "budget.trials=50", "budget.minutes=1.5"]

    def tick(payload: dict[str, Any]) -> dict[str, Any]:
        clock[0] += 4
        return payload

    run = engine(tmp_path, *what)
    with pytest.raises(Crash):
        run.run(crash_after=10, before_report=tick)
    again = engine(tmp_path)
    assert again.conductor.elapsed_s == 40
    with pytest.raises(Crash):
        again.run(crash_after=10, before_report=tick)
    last = engine(tmp_path)
    assert last.conductor.elapsed_s == 80
    last.run(before_report=tick)
    assert last.state == "finished" and 90 <= last.conductor.elapsed_s < 100
    grown = engine(tmp_path, changes=["budget.minutes=+1"])
    assert grown.settings.budget["minutes"] == pytest.approx(last.conductor.elapsed_s / 60 + 1)


def test_plus_adds_to_what_was_used_and_a_used_up_budget_is_said(tmp_path: Path) -> None:
    run = engine(tmp_path, *BOWL, "budget.trials=1")
    run.conductor.clock.spent_s = 600.0
    run.run()
    record = run.store.read("s")
    assert growth.used_s(record) >= 600
    tree = growth.changed(config.compose_tree(list(BOWL)), ["budget.minutes=+5"], used_s=600.0)
    assert tree.budget.minutes == 15
    for change, word in (
        ("budget.concurrent=+1", "budget.concurrent=1"),
        ("budget.trial_timeout=+30", "=30 sets"),
    ):
        with pytest.raises(UserError, match="there is no limit to add to") as raised:
            growth.changed(config.compose_tree(list(BOWL)), [change])
        assert word in str(raised.value)
    whole = config.compose_tree([*BOWL, "search=grid", "budget.trials=null"])
    assert growth.changed(whole, ["budget.trials=3"]).budget.trials == 3
    with pytest.raises(
        UserError, match=r"budget.minutes=10: s has used 10:0. min of it; budget.minutes=\+N adds"
    ):
        growth.check_time("s", 10.0, record, ["budget.trials=+5"])
    growth.check_time("s", 15.0, record, ["budget.trials=+5"])


# -- early stopping ---------------------------------------------------------------------------------------


def test_a_trial_that_ends_by_itself_at_a_rung_is_run_and_tested_once(tmp_path: Path) -> None:
    run = engine(tmp_path, "trainable=test_early", "search=random", "budget.trials=12", "scheduler=asha")
    ends: list[str] = []

    def note(payload: dict[str, Any]) -> dict[str, Any]:
        if payload["status"] == "complete":
            ends.append(payload["trial"])
        return payload

    run.run(before_report=note)
    rows = trials(run.store)
    early = [t for t in rows if t["state"] == "complete" and t["steps"] == 3]
    assert early, "some trial has ended at the rung of step 3"
    assert sorted(ends) == sorted(t["trial"] for t in rows if t["state"] == "complete")
    promoted = [e for e in run.store.table("events", "s").to_pylist() if e["kind"] == "promote"]
    again = engine(tmp_path, changes=["budget.trials=+3"])
    assert not {t["trial"] for t in early} & set(again.conductor.waiting) and promoted is not None
    again.run(before_report=note)
    assert len(ends) == len(set(ends))


def test_trials_of_another_length_are_judged(tmp_path: Path) -> None:
    run = engine(tmp_path, "trainable=test_lengths", "search=random", "budget.trials=20", "scheduler=asha")
    run.run()
    rows = trials(run.store)
    long = [t for t in rows if json.loads(t["config_json"])["y"] >= 4]
    assert all(t["steps"] in (1, 3, 9, 27) or t["state"] == "complete" for t in long)
    assert run.conductor.scheduler.milestones(1, 50) == (1, 3, 9, 27)
    assert [t for t in rows if t["state"] == "pruned"]


def test_asha_judges_a_configuration_by_the_mean_over_its_seeds(tmp_path: Path) -> None:
    run = engine(tmp_path, *BOWL, "budget.trials=9", "seeds=3", "scheduler=asha", "budget.concurrent=2")
    run.run()
    rows = trials(run.store)
    by_config = [[t for t in rows if t["config_id"] == n] for n in range(9)]
    for group in by_config:
        assert len({t["steps"] for t in group}) == 1, "its seeds go on together"
        assert len({t["state"] for t in group}) == 1
    assert {t["steps"] for t in rows} == {1, 3, 9}
    best = min(by_config, key=lambda g: (g[0]["config.x"] - 0.3) ** 2 + 0.1 * g[0]["config.y"])
    assert all(t["state"] == "complete" for t in best)
    whole = engine(tmp_path / "cut", *BOWL, "budget.trials=9", "seeds=3", "scheduler=asha")
    whole.run()
    for crash in (3, 11, 30):
        what = [*BOWL, "budget.trials=9", "seeds=3", "scheduler=asha"]
        with pytest.raises(Crash):
            engine(tmp_path / str(crash), *what).run(crash_after=crash)
        again = engine(tmp_path / str(crash))
        again.run()
        same = ("trial", "state", "value", "steps")
        assert [{k: t[k] for k in same} for t in trials(again.store)] == [
            {k: t[k] for k in same} for t in trials(whole.store)
        ]


def judged(*losses: tuple[float, ...], eta: int = 3) -> tuple[Judge, list[str]]:
    """A judge of configurations with these losses at step 1, one a seed, and what it said of the last of each."""
    judge, said = Judge(ASHA("min", 1, eta=eta), "min"), []
    for number, seeds in enumerate(losses):
        group = [
            Trial(f"{number:05d}-{seed}", number, number, seed, {}, 1, 9, milestones=(1, 3))
            for seed in range(len(seeds))
        ]
        for trial in group:
            judge.add(trial)
        for trial, loss in zip(group, seeds, strict=True):
            last = judge.report(trial, 1, loss)
            trial.state = "paused"
        said.append(last)
    return judge, said


def test_one_lucky_seed_promotes_no_configuration() -> None:
    judge, said = judged((0.0, 10.0), (3.0, 3.0), (9.0, 0.5))
    assert said == ["pause", "pause", "pause"], (
        "each is at its rung before a third of three is known to be better"
    )
    assert [t.id for t in judge.promotable()] == ["00001-0", "00001-1"], (
        "the best mean is 3, though no seed is best"
    )
    judge, said = judged((0.0, 10.0), (9.0, 0.5), (3.0, 3.0))
    assert said[-1] == "continue" and [t.id for t in judge.released] == ["00002-0"]


def test_who_is_told_of_an_end_finds_it_in_the_store(tmp_path: Path) -> None:
    """A listener drops checkpoints: what ended must be on disk before, whatever becomes of the driver next."""
    run = engine(tmp_path, *BOWL, "budget.trials=4", "scheduler=asha")
    told: list[str] = []

    def ended(trial: Trial) -> None:
        (row,) = [t for t in trials(run.store) if t["trial"] == trial.id]
        assert (row["state"], row["steps"]) == (trial.state, trial.steps)
        told.append(trial.state)

    run.conductor.on_end = ended
    run.run()
    assert "paused" in told and "complete" in told


def test_a_configuration_of_which_a_seed_failed_counts_and_is_not_promoted(tmp_path: Path) -> None:
    run = engine(tmp_path, *BOWL, "budget.trials=6", "seeds=2", "scheduler=asha")
    best = 2

    def fail(payload: dict[str, Any]) -> dict[str, Any]:
        if payload["trial"] == f"{best:05d}-1" and payload["status"] != "failed":
            payload.update(rows=[], status="failed", failure={"reason": "raised X", "error": ""})
        for row in payload["rows"]:
            if payload["trial"].startswith(f"{best:05d}"):
                row["metrics"]["val_loss"] = -1.0
        return payload

    run.run(before_report=fail)
    rows = {t["trial"]: t for t in trials(run.store)}
    assert rows[f"{best:05d}-1"]["state"] == "failed"
    assert (rows[f"{best:05d}-0"]["state"], rows[f"{best:05d}-0"]["steps"]) == ("pruned", 1)
    assert run.conductor.scheduler.rungs[1].place[f"{best:05d}-0"][0] == -1.0  # type: ignore[attr-defined]


# -- checkpoints ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", ["best", "none", "all"])
def test_checkpoints_of_trials_that_asha_stopped_are_cleared_as_documented(tmp_path: Path, keep: str) -> None:
    run = engine(tmp_path, *BOWL, "budget.trials=9", "scheduler=asha", f"keep_checkpoints={keep}")
    keeper = Keeper(Checkpoints(run.post.checkpoints), keep, "min", print)
    run.conductor.on_end = keeper.ended
    run.run()
    keeper.closed(run.conductor.trials.values())
    rows = trials(run.store)
    stopped = {t["trial"] for t in rows if t["state"] == "pruned"}
    complete = {t["trial"] for t in rows if t["state"] == "complete"}
    best = {min((t for t in rows if t["trial"] in complete), key=lambda t: t["value"])["trial"]}
    assert stopped
    assert kept(run) == {"best": stopped | best, "none": set(), "all": stopped | complete}[keep]
    from fairsweep.cluster.jobs.cleaning import clean

    found = clean(run.store, "s")
    assert set(found.dropped) == (stopped if keep != "none" else set())
    assert (found.bytes > 0) == (keep != "none")
    assert kept(run) == set(found.kept) == {"best": best, "none": set(), "all": complete}[keep]
    grown = engine(tmp_path, changes=["budget.trials=+9"])
    with pytest.raises(UserError, match="its trials go on from their checkpoints"):
        clean(run.store, "s")
    grown.run()
    assert len({(r["trial"], r["step"]) for r in grown.store.table("results", "s").to_pylist()}) == (
        grown.store.table("results", "s").num_rows
    )


def test_the_best_of_earlier_runs_is_known(tmp_path: Path) -> None:
    run = engine(tmp_path, *BOWL, "budget.trials=4")
    keeper = Keeper(Checkpoints(run.post.checkpoints), "best", "min", print)
    run.conductor.on_end = keeper.ended
    run.run()
    grown = engine(tmp_path, changes=["budget.trials=+4"])
    keeper = Keeper(Checkpoints(run.post.checkpoints), "best", "min", print)
    keeper.known(grown.conductor.trials.values())
    grown.conductor.on_end = keeper.ended
    grown.run()
    assert kept(grown) == {min(trials(grown.store), key=lambda t: t["value"])["trial"]}


# -- the driver's end -------------------------------------------------------------------------------------


class Broken(Display):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


def drive(run: Engine, then: Any) -> Any:
    """`driving.drive` on the trials of `run` in this process, up to where `then` does something."""

    reports = 0

    def count(payload: dict[str, Any]) -> dict[str, Any]:
        nonlocal reports
        reports += 1
        then(reports)
        return payload

    def before(conductor: Any) -> None:
        run.run_open(before_report=count)

    display = Broken()
    result = driving.drive(
        run.settings,
        run.store,
        "s",
        run.writer,
        lambda on_end: run.conductor,
        run.post,
        display,
        print,
        before,
    )
    return result, display


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "No space left on device; the sweep is interrupted",
        ),
        (StoreError("1.log: cannot append"), "^1.log: cannot append; the sweep is interrupted"),
        (DriverEnded("Tune's controller failed 5 times"), "failed 5 times; the sweep is interrupted"),
        (ZeroDivisionError("a bug"), None),
    ],
)
def test_a_driver_that_ends_by_an_error_leaves_an_interrupted_sweep(
    tmp_path: Path, error: Exception, line: str | None
) -> None:
    run = engine(tmp_path, *BOWL, "budget.trials=9", "scheduler=asha", "budget.concurrent=2")

    def then(reports: int) -> None:
        if reports == 20:
            raise error

    with pytest.raises(DriverEnded if line else type(error)) as raised:
        drive(run, then)
    if line:
        assert re.search(line, str(raised.value))
        assert f"`fairsweep resume s --storage {tmp_path}` goes on" in str(raised.value)
    (row,) = run.store.table("sweeps", "s").to_pylist()
    assert row["state"] == "interrupted" and row["elapsed_s"] > 0
    rows = trials(run.store)
    states = {t["state"] for t in rows}
    assert "paused" in states and "running" not in states and "pruned" not in states
    assert all(t["retries"] in (0, None) for t in rows)
    again = engine(tmp_path)
    again.run()
    assert {t["state"] for t in trials(again.store)} == {"complete", "pruned"}
