"""W&B runs of trials that go on, and W&B that cannot start; without Ray."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fairsweep.cluster import tracking
from fairsweep.cluster.engine.worker import LegRunner
from fairsweep.cluster.jobs import sweep
from fairsweep.cluster.tracking import why_not
from tests.cluster.test_conductor import Crash, engine, trials

BOWL = ("trainable=test_bowl", "search=random", "tracking=wandb")


class Noted:
    """A tracker that keeps what it is told, run after run."""

    runs: list[tuple[str, list[int]]]

    def __init__(self, options: Any, sweep: str, trial: str, config: Any, seed: int) -> None:
        self.steps: list[int] = []
        self.runs.append((trial, self.steps))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        assert metrics["val_loss"] > 0
        self.steps.append(step)
        raise ConnectionError("tracking never fails a trial")

    def summary(self, tests: Mapping[str, float], status: str) -> None: ...

    def finish(self, paused: bool) -> None: ...


def test_every_run_of_a_trial_that_goes_on_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "WandbTracker", Noted)
    Noted.runs = []
    run = engine(tmp_path, *BOWL, "budget.trials=9", "scheduler=asha")
    with pytest.raises(Crash):
        run.run(crash_after=17)
    engine(tmp_path).run()
    again = [trial for trial in {t for t, _ in Noted.runs} if sum(t == trial for t, _ in Noted.runs) > 1]
    assert again, "some trial was promoted or resumed"
    for _, steps in Noted.runs:
        assert steps == list(range(1, len(steps) + 1)), "a run lacks its beginning"
    assert {t["state"] for t in trials(run.store)} == {"complete", "pruned"}


def test_a_tracker_that_cannot_start_is_said_once_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> Any:
        raise ConnectionError("no route to host\nsecond line")

    monkeypatch.setattr(tracking, "WandbTracker", refuse)
    run = engine(tmp_path, *BOWL, "budget.trials=3")
    said: list[str] = []
    run.conductor.on_note = said.append
    run.run()
    assert said == ["tracking=wandb could not start in a worker: no route to host"] == run.store.notes("s")
    assert {t["state"] for t in trials(run.store)} == {"complete"}


def test_why_wandb_cannot_start_is_known_before_the_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wandb.login", lambda **how: False)
    online = {"name": "wandb", "mode": "online", "project": "p"}
    assert "W&B has no API key here; set WANDB_API_KEY" in str(why_not(online))
    assert "Invalid project name 'a/b'" in str(why_not({**online, "mode": "offline", "project": "a/b"}))
    assert why_not({**online, "mode": "offline"}) is None
    assert why_not({"name": "none"}) is None
    run = engine(tmp_path, *BOWL, "budget.trials=1", "tracking.mode=online")
    post, notes = sweep.tracked(run.post)
    assert post.tracking["name"] == "none" and notes[0].endswith("; the trials are not tracked")
    run.writer.close(state="finished")


@pytest.mark.slow
def test_an_offline_run_on_disk_is_one_and_whole(tmp_path: Path) -> None:
    """What W&B's own reader finds of a trial that was paused and promoted, or lost its worker."""
    run = engine(tmp_path, *BOWL, "budget.trials=1", "scheduler=asha")
    leg = run.conductor.next_leg()
    assert leg is not None
    place = LegRunner(run.post)
    place.take(leg)
    while not run.conductor.report(leg.trial, payload := json.loads(json.dumps(place.step()))):
        assert payload["status"] == "running", "it pauses at its first rung"
        break
    place.close()
    run.run()
    (row,) = trials(run.store)
    assert row["state"] == "complete"
    found = list(Path(tmp_path).glob("wandb/s/wandb/offline-run-*"))
    assert len(found) == 1, found
    (file,) = found[0].glob("*.wandb")
    leet = [sys.executable, "-m", "wandb", "leet", "inspect", str(file)]
    text = subprocess.run(leet, capture_output=True, text=True, timeout=60).stdout
    losses = [r["metric.val_loss"] for r in run.store.table("results", "s").to_pylist()]
    assert len(losses) == 9
    for loss in losses:
        assert repr(loss)[:8] in text, (loss, text[-2000:])
