"""Workers that train one network together: their books are those of a trial in one process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from fairsweep.analysis.store import Store, SweepWriter
from fairsweep.cluster import config
from fairsweep.cluster.display import Display
from fairsweep.cluster.engine import group
from fairsweep.cluster.engine.conductor import Conductor
from fairsweep.cluster.engine.post import Post
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs import sweep
from fairsweep.cluster.jobs.nas import config as nas_config
from fairsweep.cluster.jobs.nas import search as nas
from fairsweep.trainables import catalog
from fairsweep.trainables.nas._job import SearchJob
from tests.cluster.test_nas import FRONT, Engine, opened


def test_a_mailbox_keeps_the_order_of_commands_and_the_first_answer_to_each() -> None:
    async def talk() -> list[Any]:
        box = group.Mailbox(readers=1)
        early = asyncio.create_task(box.command(1))
        numbers = [await box.send("step"), await box.send("load", [3])]
        await box.answer(1, "first")
        await box.answer(1, "second")
        return [numbers, await box.command(0), await early, await box.result(1), len(box._commands)]

    assert asyncio.run(talk()) == [[0, 1], ("step", None), ("load", [3]), "first", 0]


def in_group(
    conductor: Conductor,
    writer: SweepWriter,
    post: Post,
    resources: Mapping[str, float],
    done: Callable[[], bool],
    interrupt_after: int | None,
) -> None:
    """Has a group of two run the conductor's legs, interrupted after so many reports."""
    reports: list[int] = []

    def tick() -> None:
        reports.append(1)
        if len(reports) == interrupt_after:
            conductor.interrupt()

    group.train(conductor, post, 2, resources, done, tick)
    writer.close(state=conductor.close())


def train(tmp_path: Path, fault: str, interrupt_after: int | None = None) -> Conductor:
    """Runs, or goes on with, a sweep of one trial in a group of two."""
    tmp_path.mkdir(exist_ok=True)
    settings = config.load(
        ["trainable=test_together", "search=listed", f"search.configs=[{{x: 0.5, fault: {fault}}}]", "name=t",
         f"storage={tmp_path}", f"data_dir={tmp_path}", "budget.report_seconds=0", "budget.checkpoint_seconds=0"]
    )  # fmt: skip
    paper, store = catalog.get("test_together"), Store(tmp_path)
    writer, record = opened(store, "t", sweep.sweep_row(settings, paper), settings, paper.metrics)
    with writer:
        conductor = sweep.make_conductor(settings, paper, writer, 1, record)
        post = sweep.make_post(settings, store, "t")
        in_group(conductor, writer, post, {"CPU": 1, "GPU": 0}, lambda: False, interrupt_after)
    return conductor


def sums(tmp_path: Path) -> list[tuple[int, float]]:
    rows = Store(tmp_path).table("results", "t").to_pylist()
    return sorted((r["step"], r["metric.train_loss"]) for r in rows)


ALL = [(step, 3.0 * step) for step in range(1, 6)]


@pytest.mark.slow
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
            ["algorithm=oto_v2", "train.workers=2"],
            "train.workers=2: must be 1 with algorithm=oto_v2; single_path and the algorithms over a supernet take",
        ),
        (
            ["algorithm=oto_v3", "trainable=biper", "train.workers=3"],
            "train.workers=3: must be 1 with algorithm=oto_v3; single_path and",
        ),
        (
            ["algorithm=single_path", "train.workers=33"],
            "train.workers=33: must be at most 32 with algorithm.config.batch_size=64; each needs two images",
        ),
    ],
)
def test_what_no_group_can_train_is_said(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        nas_config.load(words)


# ---- fronts ----

TINY = (*FRONT, "data=digits300")
TOGETHER = (*TINY, "train.workers=2")


@pytest.mark.parametrize("count", [1, 2, 32])
def test_searches_of_a_front_can_have_workers(count: int) -> None:
    settings = nas_config.load(["algorithm=single_path", f"train.workers={count}"])
    assert settings.train["workers"] == count
    assert nas_config.check(settings.tree).tree == settings.tree


class Near(SearchJob):
    """A group in this process. Where `fatal` is 0 it loses a worker in its next step, and `fatal` counts the steps."""

    fatal = -1
    sizes: list[int] = []
    peak_memory_mb = 1.0

    def __init__(self, post: Post, size: int, resources: Mapping[str, float], scratch: str) -> None:
        self.sizes.append(size)

    def step(self) -> dict[str, float]:
        Near.fatal -= 1
        if Near.fatal == -1:
            raise group.GroupLost("a worker of the group has gone")
        return super().step()

    def begin(self) -> None: ...

    def close(self) -> None: ...  # type: ignore[override]


def train_front(storage: Path, interrupt_after: int | None = None) -> Conductor:
    """What a group does of a front, or what is left for it to do."""
    engine = Engine(storage, *TOGETHER)
    search, store = engine.search, engine.store
    writer, record = opened(store, "s", nas.row(search), engine.settings, search.metrics)
    with writer:
        conductor = nas.make_conductor(search, writer, 2, record, search.ended)
        post = sweep.make_post(engine.settings, store, "s")
        in_group(conductor, writer, post, {"CPU": 1}, lambda: search.trained(conductor), interrupt_after)
    return conductor


def found(storage: Path, name: str = "s") -> list[dict[str, Any]]:
    """The table of architectures, without what each run measures or places anew."""
    rows = Store(storage).table("architectures", name).to_pylist()
    return [{k: v for k, v in row.items() if k not in ("folder", "sweep")} for row in rows]


def test_a_group_runs_the_searches_of_a_front_and_no_more_and_survives_what_a_sweep_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group, "Group", Near)
    monkeypatch.setattr("ray.nodes", lambda: [])
    monkeypatch.setattr(Near, "sizes", [])
    (trial,) = train_front(tmp_path / "some", interrupt_after=1).trials.values()
    assert (trial.state, trial.steps) == ("interrupted", 2)
    monkeypatch.setattr(Near, "fatal", 2)  # one step is left to the first search: the second loses its group
    first, second = train_front(tmp_path / "some").trials.values()
    assert [t.config["phase"] for t in (first, second)] == ["front", "front"]
    assert [(t.state, t.retries, t.steps) for t in (first, second)] == [
        ("complete", 0, 3),
        ("complete", 1, 3),
    ]
    assert Near.sizes == [2] * 2, "one group for all searches of a driver"
    rest = Engine(tmp_path / "some", *TOGETHER).run().trials
    assert {t.config["phase"] for t in list(rest.values())[2:]} == {"retrain"}
    Engine(tmp_path / "whole", *TINY).run()
    assert found(tmp_path / "some") == found(tmp_path / "whole")


class Interrupter(Display):
    """Interrupts after so many reports of a group."""

    def __init__(self, after: int) -> None:
        self.left = after

    def tick(self, conductor: Conductor) -> None:
        self.left -= 1
        if self.left == 0:
            conductor.interrupt()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@pytest.mark.timeout(900)
def test_a_front_of_two_workers_is_interrupted_and_goes_on(tmp_path: Path) -> None:
    words = [*TOGETHER, "algorithm.steps=2", f"storage={tmp_path}", "name=s"]
    assert nas.run(nas_config.load(words), Interrupter(1)).state == "interrupted"
    assert len(Store(tmp_path).table("trials", "s")) == 1
    assert nas.resume(str(tmp_path), "s", []).state == "finished"
    trials = Store(tmp_path).table("trials", "s").sort_by("number").to_pylist()
    assert [t["config.phase"] for t in trials][:3] == ["front", "front", "retrain"]
    assert all((t["state"], t["retries"] or 0) == ("complete", 0) for t in trials)
    rows = found(tmp_path)
    assert len(rows) == 2 and all(row["alone"] is not None and row["params"] > 0 for row in rows)

    alone = Engine(tmp_path / "alone", *TINY, "algorithm.steps=2", "retrain.top=0")
    alone.run()
    losses = [
        sorted(
            (r["trial"], r["step"], r["metric.train_loss"]) for r in store.table("results", "s").to_pylist()
        )
        for store in (Store(tmp_path), alone.store)
    ]
    for together, one in zip(losses[0][:4], losses[1], strict=True):
        assert together[:2] == one[:2] and together[2] == pytest.approx(one[2], abs=0.5)
        assert together[2] != one[2], "each of two workers normalises its own part of a batch"
