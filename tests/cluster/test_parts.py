"""split_seed and test=false in a sweep: who draws the parts, what the rows say of them, and that nothing is tested."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.test_conductor import Crash, engine, trials
from tests.cluster.test_own import QUIET, folder, own, results, write
from tests.cluster.test_own_bad_input import PAPER

__all__ = ["folder"]
SPLITS = ("trainable=test_splits", "search=random", "budget.trials=2", "seeds=3")


def test_with_a_split_seed_seeds_share_their_test_rows_and_without_they_do_not(tmp_path: Path) -> None:
    for name, words, different in (("with", ["split_seed=4"], 1), ("without", [], 3)):
        run = engine(tmp_path, *SPLITS, *words, name=name)
        run.run()
        rows = trials(run.store, name)
        assert len({t["metric.test_rows"] for t in rows}) == different
        first = [t["value"] for t in rows if t["config_id"] == 0]
        assert len({round(value, 3) for value in first}) == 3, "each seed begins elsewhere"
        assert run.settings.split_seed == (4 if words else None)


def test_a_sweep_that_is_taken_up_again_keeps_its_split_seed(tmp_path: Path) -> None:
    run = engine(tmp_path, *SPLITS, "split_seed=4")
    with pytest.raises(Crash):
        run.run(crash_after=3)
    again = engine(tmp_path, changes=["budget.trials=+1"])
    assert again.post.split_seed == 4
    again.run()
    assert len({t["metric.test_rows"] for t in trials(again.store)}) == 1


def test_a_sweep_of_before_there_was_a_split_seed_goes_on(tmp_path: Path) -> None:
    run = engine(tmp_path, *SPLITS)
    old = yaml.safe_load(run.settings.to_yaml())
    del old["split_seed"], old["test"]
    run.writer.sweep(config=yaml.safe_dump(old))
    run.writer.__exit__(None, None, None)
    again = engine(tmp_path, changes=["budget.trials=+1"])
    assert again.post.split_seed is None and again.post.test
    again.run()
    assert len({t["metric.test_rows"] for t in trials(again.store)}) == 3


def test_without_tests_the_paper_is_not_asked_for_any(tmp_path: Path) -> None:
    for name, words, calls in (("tested", [], 6), ("untested", ["test=false"], 0)):
        data = tmp_path / name
        data.mkdir()
        run = engine(tmp_path / "store", *SPLITS, f"data_dir={data}", *words, name=name)
        run.run()
        rows = trials(run.store, name)
        assert {t["state"] for t in rows} == {"complete"}
        asked = (data / "tests").read_text().count("\n") if (data / "tests").exists() else 0
        assert asked == calls == sum(t["metric.test_rows"] is not None for t in rows)


def test_without_tests_nothing_that_a_function_reports_of_test_data_is_kept(folder: Path) -> None:
    body = """
    for epoch in range(trial.steps):
        loss = config["lr"] + trial.seed
        trial.report(val_loss=loss, test_acc=0.5, testing=int(trial.testing), parts=trial.split_seed)
    open("ended", "a").write("x")
    return {"test_size": 7.0}
    """
    write(folder, body, ", steps=3, test=['test_acc', 'test_size']")
    run = own(folder, "test=false", "seeds=2", "split_seed=9")
    run.run()
    rows = trials(run.store)
    assert [t["state"] for t in rows] == ["complete", "complete"] and (folder / "ended").read_text() == "xx"
    assert all(t["metric.test_acc"] is None and t["metric.test_size"] is None for t in rows)
    found = results(run.store)
    assert len(found) == 6 and all(r.get("metric.test_acc") is None for r in found)
    assert {(r["metric.testing"], r["metric.parts"]) for r in found} == {(0.0, 9.0)}


def test_a_function_without_a_split_seed_sees_its_own(folder: Path) -> None:
    write(folder, "trial.report(val_loss=1.0, parts=trial.split_seed, testing=int(trial.testing))")
    run = own(folder, "seeds=2", "seed=5")
    run.run()
    assert [(r["metric.parts"], r["metric.testing"]) for r in results(run.store)] == [(5.0, 1.0), (6.0, 1.0)]


def parts(rows: list[dict[str, Any]]) -> list[dict[str, str] | None]:
    """What the rows of trials say of their parts."""
    return [json.loads(t["attrs"] or "{}").get("parts") for t in rows]


def test_the_row_of_each_trial_says_which_parts_it_had(tmp_path: Path) -> None:
    for name, words, different in (("with", ["split_seed=4"], 1), ("without", [], 3)):
        run = engine(tmp_path, *SPLITS, "scheduler=asha", *words, name=name)
        run.run()
        found = parts(trials(run.store, name))
        assert len({json.dumps(of) for of in found}) == different
        assert all(of is not None and set(of) == {"train", "validation", "test"} for of in found)


def test_a_function_says_its_parts(folder: Path) -> None:
    body = """
    rows = [f"patient {i}" for i in range(9)]
    cut = 3 + trial.split_seed % 2
    for epoch in range(3):
        trial.parts(train=rows[cut:], test=rows[:3])
        trial.report(val_loss=1.0)
    """
    write(folder, body)
    run = own(folder, "seeds=2")
    run.run()
    one, two = parts(trials(run.store))
    assert one is not None and two is not None and set(one) == {"train", "test"}
    assert one["test"] == two["test"] and one["train"] != two["train"]


def test_a_function_whose_test_examples_are_trained_on_fails(folder: Path) -> None:
    write(folder, "try: trial.parts(train=range(10), test=[9, 10])\nexcept: pass\ntrial.report(val_loss=1.0)")
    run = own(folder)
    run.run()
    (row,) = trials(run.store)
    assert row["state"] == "failed" and "1 examples of test are in train, too, such as 9" in row["reason"]


def test_what_else_a_class_of_the_users_calls_parts_is_no_fault(folder: Path) -> None:
    for meant in ("parts = ('a', 'b')", "def parts(self): return ['a']", "def parts(self): return 1 / 0"):
        (folder / "train.py").write_text(PAPER.format(more=f"space = {{'x': (0.1, 1.0)}}\n    {meant}"))
        run = engine(folder.parent / "store", "trainable=train.py:Mine", *QUIET, name=str(len(meant)))
        run.run()
        (row,) = trials(run.store, str(len(meant)))
        assert row["state"] == "complete" and parts([row]) == [None]


@pytest.mark.parametrize("slug", ["dagnn", "biper"])
def test_papers_of_the_catalogue_say_theirs(tmp_path: Path, slug: str) -> None:
    run = engine(
        tmp_path, f"trainable={slug}", "budget.trials=1", "budget.steps=1", "seeds=2", "split_seed=1"
    )
    run.run()
    one, two = parts(trials(run.store))
    assert one == two and one is not None and len(one) == 3
