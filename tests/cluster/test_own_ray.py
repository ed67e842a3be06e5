"""Trainables of one's own on a real Ray: their files travel, and what hangs or dies costs its trial alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fairsweep
from fairsweep.cluster import config
from fairsweep.cluster.jobs import sweep
from tests.cluster.test_own import folder, write
from tests.cluster.test_ray import trials

pytestmark = pytest.mark.usefixtures("ray_session")
__all__ = ["folder"]


def test_files_travel_to_workers_that_do_not_have_them(folder: Path) -> None:
    (folder / "model.py").write_text("OFFSET = 0.25\n")
    write(
        folder,
        """
        from model import OFFSET
        for step in range(trial.restore() or 0, trial.steps):
            trial.checkpoint(step + 1)
            trial.report(val_loss=OFFSET + 1 / (1 + step), where=float("fairsweep-own-" in __file__))
        """,
        ", steps=3",
    )
    words = [
        "trainable=train.py:train",
        "scheduler=asha",
        "budget.trials=4",
        f"storage={folder.parent / 'store'}",
    ]
    settings = config.load([*words, "name=s"])
    assert settings.paper.slug == "train"
    for name in ("train.py", "model.py"):
        (folder / name).unlink()  # as on another machine
    result = sweep.run(settings)
    rows = trials(result)
    assert {t["state"] for t in rows} == {"complete", "pruned"}
    assert min(t["value"] for t in rows) == pytest.approx(0.25 + 1 / 3)
    found = fairsweep.open("s", folder.parent / "store").results()
    assert set(found["metric.where"].to_pylist()) == {1.0}


def test_a_function_of_this_process_travels_itself(tmp_path: Path) -> None:
    offset = 0.5

    @fairsweep.trainable(space={"x": (0.0, 1.0), "fault": ["none", "hang", "die"]}, metric="loss")
    def fit(config: dict[str, Any]) -> Any:
        import os
        import time

        yield {"loss": offset + config["x"]}
        if config["fault"] == "hang":
            time.sleep(600)
        if config["fault"] == "die":
            time.sleep(1)  # so that its report is there
            os._exit(1)

    configs = [{"x": k / 4, "fault": fault} for k, fault in enumerate(("none", "hang", "die", "none"))]
    found = fairsweep.run(
        fit,
        quiet=True,
        storage=tmp_path / "store",
        name="s",
        search="listed",
        budget={"trials": 4, "trial_timeout": 4, "retries": 0},
        **{"search.configs": configs},
    )
    rows = found.trials().to_pylist()
    assert [t["state"] for t in rows] == ["complete", "failed", "failed", "complete"]
    assert rows[1]["reason"].startswith("timed out: no report for 4 s after step 1")
    assert rows[2]["reason"].startswith("worker died")
    assert found.best()["value"] == 0.5  # type: ignore[index]
    assert len(found.results()) == 4  # what the two had reported is there
