"""W&B's own client under our tracker: offline without a server, online against the stand-in on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from fairsweep.cluster.engine.worker import LegRunner
from fairsweep.cluster.jobs import tracked
from fairsweep.cluster.tracking import ending, why_not
from fairsweep.cluster.tracking.wandb_runs import OF_ONE_RUN, WandbRun, agent_of
from tests.cluster.test_conductor import engine, trials

BOWL = ("trainable=test_bowl", "search=random", "tracking=wandb")


def test_why_wandb_cannot_start_is_known_before_the_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    online = {"name": "wandb", "mode": "online", "project": "p"}
    assert "Invalid project name 'a/b'" in str(why_not({**online, "mode": "offline", "project": "a/b"}))
    assert why_not({**online, "mode": "offline"}) is None
    assert why_not({"name": "none"}) is None
    run = engine(tmp_path, *BOWL, "budget.trials=1", "tracking.mode=online")
    post, notes = tracked.tracked(run.post)
    assert post.tracking["name"] == "none" and notes[0].endswith("; the trials are not tracked")
    run.writer.close(state="finished")


def test_only_folders_of_the_trial_itself_are_replaced(tmp_path: Path) -> None:
    for name in ("ab-00000-0", "ab-00000-0-1", "xab-00000-0", "ab-00000-01", "x-ab-00000-0"):
        (tmp_path / "wandb" / f"offline-run-20261129_211500-{name}").mkdir(parents=True)
    run = object.__new__(WandbRun)
    run.options, run.key = {"dir": str(tmp_path)}, "ab-00000-0"
    assert [path.name[28:] for path in run._folders()] == ["ab-00000-0", "ab-00000-0-1"]


def as_agent(monkeypatch: pytest.MonkeyPatch, folder: Path, args: dict[str, Any]) -> None:
    """The environment in which W&B's agent starts a run."""
    path = folder / "config-r1.yaml"
    path.write_text(yaml.safe_dump({"wandb_version": 1, **{name: {"value": v} for name, v in args.items()}}))
    for name, value in (
        ("WANDB_SWEEP_ID", "sw1"),
        ("WANDB_RUN_ID", "r1"),
        ("WANDB_SWEEP_PARAM_PATH", str(path)),
        ("WANDB_PROJECT", "theirs"),
        ("WANDB_ENTITY", "team"),
    ):
        monkeypatch.setenv(name, value)


def test_what_an_agent_says_of_its_run_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert agent_of({"WANDB_PROJECT": "p"}) is None
    as_agent(monkeypatch, tmp_path, {"x": 0.5, "space.y": 1})
    agent = agent_of(os.environ)
    assert agent is not None and set(agent["names"]) == {"x", "space.y"}
    assert {k: agent[k] for k in ("run", "sweep", "project", "entity")} == {
        "run": "r1", "sweep": "sw1", "project": "theirs", "entity": "team",
    }  # fmt: skip


def folders(root: Path) -> list[str]:
    return sorted(path.name.split("-", 3)[3] for path in root.glob("wandb/*/wandb/offline-run-*"))


def test_under_an_agent_trials_have_runs_of_their_own_and_a_trial_alone_has_the_agents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_agent(monkeypatch, tmp_path, {"space.x": 0.25})
    two = engine(tmp_path / "two", *BOWL, "budget.trials=2")
    one = engine(tmp_path / "one", *BOWL, "budget.trials=1", "space.x=0.25")
    configs = []
    opened = WandbRun._config
    monkeypatch.setattr(WandbRun, "_config", lambda run: configs.append(opened(run)) or configs[-1])
    two.run()
    one.run()
    ending.drain(30.0)
    token = two.post.tracking["token"]
    assert folders(tmp_path / "two") == [f"{token}-00000-0", f"{token}-00001-0"]
    assert folders(tmp_path / "one") == ["r1"]
    assert configs[-1]["space.x"] == 0.25 and "x" not in configs[-1], "each parameter stands once"
    assert "x" in configs[0]
    assert not set(OF_ONE_RUN) & set(os.environ) - {"WANDB_SERVICE"}


def inspected(file: Path, *words: str) -> str:
    """What W&B's own reader finds in a run's file."""
    leet = [sys.executable, "-m", "wandb", "leet", "inspect", *words, str(file)]
    return subprocess.run(leet, capture_output=True, text=True, timeout=60, check=True).stdout


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
    ending.drain(30.0)
    (row,) = trials(run.store)
    assert row["state"] == "complete"
    found = list(Path(tmp_path).glob("wandb/s/wandb/offline-run-*"))
    assert len(found) == 1, found
    (file,) = found[0].glob("*.wandb")
    text = inspected(file)
    losses = [r["metric.val_loss"] for r in run.store.table("results", "s").to_pylist()]
    assert len(losses) == 9
    for loss in losses:
        assert repr(loss)[:8] in text, (loss, text[-2000:])
