"""split_seed and test=false in a sweep: who draws the parts, and that nothing is measured on test data."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.cluster.test_conductor import Crash, engine, trials
from tests.cluster.test_own import folder, own, results, write

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
