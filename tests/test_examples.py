"""The examples run as they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.test_conductor import engine, trials

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_a_function_on_a_csv_file(tmp_path: Path) -> None:
    reference = f"trainable={EXAMPLES}/own_function.py:train"
    run = engine(
        tmp_path, reference, "budget.trials=6", "scheduler=asha", f"data_dir={EXAMPLES}", "search=random"
    )
    run.run()
    rows = trials(run.store)
    assert {t["state"] for t in rows} == {"complete", "pruned"}
    best = min((t for t in rows if t["state"] == "complete"), key=lambda t: t["value"])
    assert best["value"] < 0.5 and best["metric.test_accuracy"] > 0.9
    results = run.store.table("results", "s").to_pylist()
    at_best = next(r for r in results if r["trial"] == best["trial"] and r["step"] == best["best_step"])
    assert best["metric.test_accuracy"] == at_best["metric.test_accuracy"]
    for t in rows:
        mine = [r["step"] for r in results if r["trial"] == t["trial"]]
        assert mine == list(range(1, t["steps"] + 1))


def test_its_checkpoints_change_nothing(tmp_path: Path) -> None:
    """A trial that was paused and promoted has the values of one that was not."""
    reference = f"trainable={EXAMPLES}/own_function.py:train"
    same = (reference, "budget.trials=1", "budget.steps=9", f"data_dir={EXAMPLES}", "search=random")
    whole = engine(tmp_path / "a", *same)
    whole.run()
    parts = engine(tmp_path / "b", *same, "scheduler=asha")
    parts.run()
    assert len([e for e in parts.store.table("events", "s").to_pylist() if e["kind"] == "promote"]) == 2
    a, b = (run.store.table("results", "s")["metric.val_loss"].to_pylist() for run in (whole, parts))
    assert a == pytest.approx(b, rel=1e-12)
