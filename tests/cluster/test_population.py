"""Population based training with real workers' code and a real store, without Ray: copies, lineage, crashes."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fairsweep.analysis.lineage import lineage
from fairsweep.cluster import config
from fairsweep.cluster.cli import run_cli
from fairsweep.cluster.engine.checkpoints import Checkpoints, Keeper
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs import best as best_module
from fairsweep.cluster.jobs import sweep
from fairsweep.cluster.jobs.importance import of_sweep
from fairsweep.cluster.jobs.perturbing import settled
from fairsweep.trainables.base import Setting
from tests.cluster.test_conductor import Crash, Engine, engine, trials

PBT = ("scheduler=pbt", "search=random", "scheduler.interval=2", "budget.trials=8")
LR = ("trainable=test_descent", *PBT, "scheduler.perturb=[lr]", "space.width=4")


def story(run: Engine) -> dict[str, Any]:
    """All that a sweep's rows and events say of who was what; not in which order, nor when."""
    record = run.store.read("s")
    keep = (
        "trial", "state", "reason", "value", "best_step", "steps", "seed", "parent", "parent_step", "config_json",
    )  # fmt: skip
    births = [{k: v for k, v in e.items() if k != "seq"} for e in record.events if e["kind"] == "exploit"]
    results = sorted((r["trial"], r["step"], r["metric.val_loss"]) for r in record.results)
    rows = [{k: row[k] for k in keep} for row in record.trials.values()]
    return {"trials": rows, "births": births, "results": results}


def test_a_population_is_trained_and_copied_in_generations(tmp_path: Path) -> None:
    run = engine(tmp_path, "trainable=test_bowl", *PBT)
    run.conductor.on_end = Keeper(run.checkpoints, "best", "min", print).ended
    run.run()
    rows, events = trials(run.store), run.store.read("s").events
    births = [e for e in events if e["kind"] == "exploit"]
    assert [e["step"] for e in births] == [2, 2, 4, 4, 6, 6, 8, 8], "a quarter at each milestone"
    assert [t["trial"] for t in rows if t["parent"] is None] == [f"{n:05d}-0" for n in range(8)]
    by_name = {t["trial"]: t for t in rows}
    for event in births:
        child, parent, loser = (by_name[event[k]] for k in ("trial", "parent", "replaces"))
        assert (child["parent"], child["parent_step"]) == (event["parent"], event["step"])
        assert json.loads(child["config_json"]) == event["new"] != event["copied"]
        assert json.loads(parent["config_json"]) == event["copied"]
        assert json.loads(loser["config_json"]) == event["old"]
        assert (loser["state"], loser["steps"]) == ("pruned", event["step"])
        assert loser["reason"] == f"replaced by {child['trial']} at step {event['step']}"
    assert sum(t["state"] == "complete" for t in rows) == 8, "as many as there are places"
    results = run.store.table("results", "s").to_pylist()
    for t in rows:
        own = [r["step"] for r in results if r["trial"] == t["trial"]]
        assert own == list(range((t["parent_step"] or 0) + 1, t["steps"] + 1)), (
            "each step once, under one configuration"
        )
    assert len(results) == 8 * 9, "copies cost no step"
    first = run.store.table("results", "s").to_pylist()
    for t in rows:
        if t["parent"]:  # the bowl's state is its steps: a copy's next loss is that of its own configuration
            x = json.loads(t["config_json"])
            own = [r for r in first if r["trial"] == t["trial"]]
            assert own[0]["metric.val_loss"] == pytest.approx(
                (x["x"] - 0.3) ** 2 + 0.1 * x["y"] + 2.0 ** -own[0]["step"]
            )


def test_the_lineage_of_the_best_says_what_was_set_when(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = engine(tmp_path, *LR)
    run.run()
    summaries = {c.config_id: c for c in best_module.statistics.summarise(run.store.table("trials", "s"))}
    table = run.store.table("trials", "s")
    copied = next(t for t in reversed(trials(run.store)) if t["parent"] and t["state"] == "complete")
    found = lineage(table, copied["trial"])
    assert len(found) >= 2 and found[0].first == 1 and found[-1].last == 9
    assert all(a.last + 1 == b.first for a, b in pairwise(found))
    assert found[-1].config == json.loads(copied["config_json"])
    monkeypatch.setattr(best_module.statistics, "best", lambda *_: summaries[copied["config_id"]])
    assert run_cli(["best", "s", "--storage", str(tmp_path), "--json"]) == 0
    best = json.loads(capsys.readouterr().out)
    assert best["lineage"][-1]["config"] == best["config"] and best["lineage"][-1]["last"] == 9
    assert run_cli(["best", "s", "--storage", str(tmp_path)]) == 0
    assert f"config   {best['lineage'][0]['trial']}, steps 1 to" in capsys.readouterr().out
    assert run_cli(["show", "s", "--storage", str(tmp_path)]) == 0
    assert "parent" in capsys.readouterr().out


def crash_everywhere(folder: Path, points: range, *more: str) -> None:
    what = ["trainable=test_bowl", *PBT[:-1], "budget.trials=4", "budget.steps=5", "seed=3", *more]
    whole = engine(folder / "whole", *what)
    whole.run()
    told = story(whole)
    assert len(told["births"]) == 2
    for crash_after in points:
        where = folder / str(crash_after)
        with pytest.raises(Crash):
            engine(where, *what).run(crash_after=crash_after)
        again = engine(where)
        again.run()
        assert story(again) == told, crash_after


def test_a_crash_leaves_the_same_lineage(tmp_path: Path) -> None:
    crash_everywhere(tmp_path, range(7, 20, 5))


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 2])
def test_a_crash_anywhere_leaves_the_same_lineage(tmp_path: Path, seeds: int) -> None:
    crash_everywhere(tmp_path, range(20 * seeds), f"seeds={seeds}")


def test_a_crash_between_a_decision_and_what_follows_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copied, but not written down: the copy is made again."""
    whole = engine(tmp_path / "whole", *LR)
    whole.run()
    cut = engine(tmp_path / "cut", *LR)
    real, copies = Checkpoints.copy, 0

    def dies(self: Checkpoints, *arguments: Any) -> bool:
        nonlocal copies
        copies += 1
        done = real(self, *arguments)
        if copies == 4:
            cut.writer.__exit__(None, None, None)
            raise Crash
        return done

    monkeypatch.setattr(Checkpoints, "copy", dies)
    with pytest.raises(Crash):
        cut.run()
    again = engine(tmp_path / "cut")
    again.run()
    assert story(again) == story(whole)


def test_two_slots_make_the_same_population_as_one(tmp_path: Path) -> None:
    one, two = engine(tmp_path / "1", *LR), engine(tmp_path / "2", *LR, "budget.concurrent=2")
    one.run()
    two.run()
    assert story(one) == story(two)


def test_seeds_are_copied_seed_by_seed_and_ranked_by_their_mean(tmp_path: Path) -> None:
    run = engine(tmp_path, *LR, "seeds=3", "seed=1")
    run.run()
    rows = [t for t in trials(run.store) if t["parent"]]
    assert rows and all(t["parent"].endswith(f"-{t['seed']}") for t in rows)
    assert {t["seed"] for t in rows} == {1, 2, 3}
    losses: dict[str, dict[int, float]] = {}
    for r in run.store.table("results", "s").to_pylist():
        losses.setdefault(r["trial"], {})[r["step"]] = r["metric.val_loss"]
    event = next(e for e in run.store.read("s").events if e["kind"] == "exploit")
    mean = {c: sum(losses[f"{c:05d}-{s}"][2] for s in (1, 2, 3)) / 3 for c in range(8)}
    assert int(event["replaces"][:5]) == max(mean, key=mean.__getitem__)
    assert int(event["parent"][:5]) in sorted(mean, key=mean.__getitem__)[:2]


def test_a_changed_learning_rate_takes_effect_and_the_schedule_stays_where_it_was(tmp_path: Path) -> None:
    """PyTorch's optimisers and schedules load the old rate: without more, nothing would change."""
    run = engine(tmp_path, *LR)
    run.run()
    rates = {
        (r["trial"], r["step"]): r["metric.train_loss"] for r in run.store.table("results", "s").to_pylist()
    }
    for t in trials(run.store):
        lr = json.loads(t["config_json"])["lr"]
        for step in range((t["parent_step"] or 0) + 1, t["steps"] + 1):
            assert rates[t["trial"], step] == pytest.approx(lr * 0.9**step)


def test_a_member_that_fails_is_replaced(tmp_path: Path) -> None:
    what = ["trainable=test_faulty", *PBT, "space.fault.choices=[none,raise]", "scheduler.perturb=[x]"]
    whole = engine(tmp_path / "whole", *what)
    whole.run()
    rows = {t["trial"]: t for t in trials(whole.store)}
    failed = [t for t in rows.values() if t["state"] == "failed"]
    births = [e for e in whole.store.read("s").events if e["kind"] == "exploit"]
    replaced = [e for e in births if rows[e["replaces"]]["state"] == "failed"]
    assert failed and replaced and all(e["step"] == 4 for e in replaced[:1])
    cut = engine(tmp_path / "cut", *what)
    with pytest.raises(Crash):
        cut.run(crash_after=28)
    again = engine(tmp_path / "cut")
    again.run()
    assert story(again)["births"] == story(whole)["births"]


def test_a_copy_whose_checkpoint_is_gone_fails_and_never_starts_anew(tmp_path: Path) -> None:
    run = engine(tmp_path, *LR)

    def lose(payload: dict) -> dict:
        for t in run.conductor.trials.values():
            if t.parent and t.state == "pending":
                run.checkpoints.delete(t.id)
        return payload

    run.run(before_report=lose)
    copies = [t for t in trials(run.store) if t["parent"]]
    gone = [t for t in copies if t["state"] == "failed"]
    assert (
        gone
        and gone[0]["reason"] == f"the checkpoint of trial {gone[0]['parent']} that it goes on from is gone"
    )


def test_a_parent_without_its_checkpoint_is_not_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Checkpoints, "copy", lambda *a: False)
    run = engine(tmp_path, *LR)
    run.run()
    assert [t["state"] for t in trials(run.store)] == ["complete"] * 8
    notes = run.store.notes("s")
    assert len(notes) == 8 and "goes on as it is at step 2: trial" in notes[0]
    with pytest.raises(Crash):
        engine(tmp_path, *LR, name="t").run(crash_after=40)
    again = engine(tmp_path, name="t")
    again.run()
    assert [t["state"] for t in trials(again.store, "t")] == ["complete"] * 8


def test_a_checkpoint_that_does_not_load_names_what_differs(tmp_path: Path) -> None:
    run = engine(tmp_path, "trainable=test_descent", *PBT, "scheduler.perturb=[width]", "space.lr=0.01")
    run.run()
    failed = [t["reason"] for t in trials(run.store) if t["state"] == "failed"]
    assert failed and failed[0].startswith("the checkpoint of trial 0")
    assert "does not load with another width (scheduler.perturb must leave out" in failed[0]


def test_what_does_not_load_is_found_before_anything_is_trained() -> None:
    def settle(*words: str) -> tuple[Any, tuple[str, ...]]:
        settings = config.load(["trainable=test_descent", "scheduler=pbt", *words])
        paper = sweep.catalog.get("test_descent")
        return settled(settings, paper, settings.space.paper_config("bowl"), Setting())

    settings, notes = settle()
    assert settings.scheduler["perturb"] == ["lr", "momentum"]
    assert notes == ("scheduler=pbt: not perturbed, for no checkpoint loads with another value: width",)
    assert settle("scheduler.perturb=[lr]")[0].scheduler["perturb"] == ["lr"]
    with pytest.raises(
        UserError, match=r"scheduler\.perturb: width: a checkpoint does not load with another value"
    ):
        settle("scheduler.perturb=[lr,width]")
    with pytest.raises(UserError, match="no checkpoint loads with another width: nothing can be perturbed"):
        settle("space.lr=0.01", "space.momentum=0")


def test_a_small_space_makes_a_small_population(tmp_path: Path) -> None:
    run = engine(tmp_path, "trainable=test_bowl", *PBT, "space.x=0.5", "space.kind=a", "space.y.high=3")
    with pytest.raises(Crash):
        run.run(crash_after=20)
    again = engine(tmp_path)
    again.run()
    assert sum(t["parent"] is None for t in trials(again.store)) == 4
    assert any(t["parent"] for t in trials(again.store)) and again.state == "finished"


def test_a_population_cannot_grow_and_its_copies_are_not_what_importance_is_made_of(tmp_path: Path) -> None:
    what = ["trainable=test_bowl", *PBT[:-1], "budget.trials=12"]
    engine(tmp_path, *what).run()
    with pytest.raises(UserError, match=r"budget\.trials=14: a population of 12 members .* cannot grow"):
        engine(tmp_path, changes=["budget.trials=+2"])
    again = engine(tmp_path)
    (said,) = of_sweep(again.store, "s", 2)
    assert len(said.answer.level.values) == 12 and said.left_out["copies of others"] > 0
    told = again.conductor.algorithm
    assert max(getattr(told, "_jobs", {0: 0}), default=0) < 12, "a search is not told of copies"


OWN = """
import fairsweep

@fairsweep.trainable(space={"lr": (0.1, 1.0)}, metric="loss", steps=6)
def train(config, trial):
    state = %s or {"far": 0.0}
    while trial.step < trial.steps:
        state["far"] += config["lr"]
        %s
        trial.report(loss=-state["far"])
"""


def test_an_own_function_goes_on_from_the_state_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(OWN % ("trial.restore()", "trial.checkpoint(state)"))
    run = engine(tmp_path / "store", "trainable=train.py:train", *PBT)
    run.run()
    far = {(r["trial"], r["step"]): -r["metric.loss"] for r in run.store.table("results", "s").to_pylist()}
    copies = [t for t in trials(run.store) if t["parent"]]
    assert copies
    for t in copies:
        if t["steps"] > t["parent_step"]:
            before = far[t["parent"], t["parent_step"]]
            assert far[t["trial"], t["parent_step"] + 1] == pytest.approx(before + t["config.lr"])


def test_an_own_function_without_checkpoints_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(OWN % ("None", "pass"))
    settings = config.load(["trainable=train.py:train", "scheduler=pbt"])
    with pytest.raises(UserError, match=r"scheduler=pbt: train keeps no checkpoints .* trial\.checkpoint"):
        settled(settings, settings.paper, {"lr": 0.5}, Setting())
    (tmp_path / "train.py").write_text(
        (OWN % ("trial.restore()", "trial.checkpoint(state)")).replace(", steps=6", "")
    )
    with pytest.raises(UserError, match=r"budget\.steps is missing: scheduler=pbt"):
        config.load(["trainable=train.py:train", "scheduler=pbt"])
