"""Workers that train one network together: their books are those of a trial in one process."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from analysis.store import Store
from cluster import config, group, nas_config, sweep
from cluster.conductor import Conductor
from cluster.errors import UserError
from trainables import catalog


def test_a_mailbox_keeps_the_order_of_commands_and_the_first_answer_to_each() -> None:
    async def talk() -> list[Any]:
        box = group.Mailbox()
        early = asyncio.create_task(box.command(1))
        numbers = [await box.send("step"), await box.send("load", [3])]
        await box.answer(1, "first")
        await box.answer(1, "second")
        return [numbers, await box.command(0), await early, await box.result(1)]

    assert asyncio.run(talk()) == [[0, 1], ("step", None), ("load", [3]), "first"]


def train(tmp_path: Path, fault: str, interrupt_after: int | None = None) -> Conductor:
    """Runs, or goes on with, a sweep of one trial in a group of two."""
    tmp_path.mkdir(exist_ok=True)
    settings = config.load(
        ["trainable=test_together", "search=listed", f"search.configs=[{{x: 0.5, fault: {fault}}}]", "name=t",
         f"storage={tmp_path}", f"data_dir={tmp_path}", "budget.report_seconds=0", "budget.checkpoint_seconds=0"]
    )  # fmt: skip
    paper, store = catalog.get("test_together"), Store(tmp_path)
    record = None
    if store.has("t"):
        writer = store.open("t")
        record = writer.record
    else:
        writer = store.create(
            "t",
            sweep.sweep_row(settings, paper),
            config_fields=settings.space.arrow_fields(),
            metric_names=[m.name for m in paper.metrics],
        )
    with writer:
        conductor = sweep.make_conductor(settings, paper, writer, 1, record)
        reports: list[int] = []

        def tick() -> None:
            reports.append(1)
            if len(reports) == interrupt_after:
                conductor.interrupt()

        post = sweep.make_post(settings, store, "t")
        group.train(conductor, post, 2, {"CPU": 1, "GPU": 0}, lambda: False, tick)
        writer.close(state=conductor.close())
    return conductor


def sums(tmp_path: Path) -> list[tuple[int, float]]:
    rows = Store(tmp_path).table("results", "t").to_pylist()
    return sorted((r["step"], r["metric.train_loss"]) for r in rows)


ALL = [(step, 3.0 * step) for step in range(1, 6)]


@pytest.mark.usefixtures("ray_session")
@pytest.mark.timeout(200)
def test_a_lost_worker_costs_no_step(tmp_path: Path) -> None:
    (trial,) = train(tmp_path, "exit_once").trials.values()
    assert (trial.state, trial.retries, trial.steps) == ("complete", 1, 5)
    assert sums(tmp_path) == ALL


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@pytest.mark.timeout(200)
def test_a_fault_of_the_paper_is_the_trials(tmp_path: Path) -> None:
    (trial,) = train(tmp_path, "raise").trials.values()
    assert (trial.state, trial.retries, trial.steps) == ("failed", 0, 2)
    assert trial.reason == "raised ZeroDivisionError: division by zero in the third step"


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@pytest.mark.timeout(200)
def test_an_interrupted_group_goes_on_where_it_was(tmp_path: Path) -> None:
    (trial,) = train(tmp_path, "none", interrupt_after=2).trials.values()
    assert trial.state == "interrupted" and 2 <= trial.steps < 5
    before = sums(tmp_path)
    (trial,) = train(tmp_path, "none").trials.values()
    assert trial.state == "complete" and sums(tmp_path) == ALL and ALL[: len(before)] == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train.workers=0"], "train.workers=0: must be a whole number of at least 1"),
        (
            ["algorithm=single_path", "train.workers=2"],
            "train.workers=2: must be 1 with algorithm=single_path",
        ),
    ],
)
def test_what_no_group_can_train_is_said(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        nas_config.load(words)
