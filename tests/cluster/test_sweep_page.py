"""`tracking.sweep=true`: a sweep that our driver runs has a sweep page of W&B's; the real client, without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fairsweep.analysis.store import Store
from fairsweep.cluster import config
from fairsweep.cluster.cli import run_cli
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs import sweep
from fairsweep.cluster.jobs.driving import Result
from fairsweep.cluster.service import page
from fairsweep.cluster.tracking import drain
from tests.cluster.test_agent import server
from tests.cluster.test_conductor import Engine, trials
from tests.wandb_server import PROJECT, Server

__all__ = ["server"]
WORDS = (
    "trainable=test_bowl",
    "budget.trials=3",
    "tracking=wandb",
    "tracking.mode=online",
    "tracking.sweep=true",
)


class Here(Engine):
    """An engine of settings that are made already."""

    def __init__(self, settings: config.Settings) -> None:
        self.store, self.name, self.settings = Store(settings.storage), settings.name, settings

    def open(self, changes: list[str] | None = None) -> None:
        paper = self.settings.paper
        self.writer = self.store.create(
            self.name,
            sweep.sweep_row(self.settings, paper),
            config_fields=self.settings.space.arrow_fields(),
            metric_names=[m.name for m in paper.metrics],
        )
        self.conductor = sweep.make_conductor(self.settings, paper, self.writer, 1)
        self.post = sweep.make_post(self.settings, self.store, self.name)


def test_its_trials_belong_to_a_sweep_in_which_nobody_else_searches(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(settings: config.Settings, display: Any = None, attach: Any = None) -> Result:
        engine = Here(settings)
        engine.open()
        engine.run()
        drain(20.0)
        return Result(engine.name, engine.store.uri, engine.state)

    monkeypatch.setattr(sweep, "run", run)
    result = page.run(
        config.load([*WORDS, f"tracking.project={PROJECT}", f"storage={tmp_path / 'store'}", "name=mine"])
    )
    (made,) = server.sweeps.values()
    assert made.state == "FINISHED" and made.config["method"] == "custom" and made.config["name"] == "mine"
    assert set(made.config["parameters"]) == {"x", "y", "kind"}
    runs = {run.config["x"]: run for run in server.of_sweep(made.name)}
    rows = trials(Store(tmp_path / "store"), result.sweep)
    assert len(rows) == 3 and sorted(runs) == sorted(row["config.x"] for row in rows)
    for row in rows:
        assert min(runs[row["config.x"]].values("val_loss")) == pytest.approx(row["value"])
    made.state = "RUNNING"
    for verb, why in (("agent", "runs it itself"), ("wandb", "its own driver says what runs")):
        assert run_cli([verb, made.name, f"storage={tmp_path / 'none'}"]) == 2
        assert why in capsys.readouterr().err


def test_a_page_needs_the_server(tmp_path: Path) -> None:
    words = [word for word in WORDS if word != "tracking.mode=online"]
    with pytest.raises(UserError, match=r"tracking\.mode=offline must be online"):
        page.run(config.load([*words, f"storage={tmp_path / 'none'}"]))
    assert not (tmp_path / "none").exists()
    with pytest.raises(UserError, match=r"tracking\.sweep=maybe: must be true or false"):
        config.load([*words[:-1], "tracking.sweep=maybe"])
