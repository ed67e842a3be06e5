"""The examples run as they say."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
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


def test_an_optuna_objective(tmp_path: Path) -> None:
    words = ("mode=max", "budget.trials=5", "search=random", "seed=1")
    run = engine(tmp_path, f"trainable={EXAMPLES}/optuna_objective.py:objective", *words)
    run.run()
    rows = trials(run.store)
    assert all(t["state"] == "complete" and t["value"] > 0.6 for t in rows)
    for t in rows:
        assert (t["config.svc_c"] is None) == (t["config.classifier"] == "forest")
        assert (t["config.max_depth"] is None) == (t["config.classifier"] == "svc")


def test_a_tuner_of_ray(tmp_path: Path) -> None:
    words = ("budget.trials=3", "scheduler=asha", "search=random", "space.lr=0.2", "space.momentum=0.5")
    run = engine(tmp_path, f"trainable={EXAMPLES}/tune_trainable.py:tuner", *words)
    run.run()
    rows = trials(run.store)
    assert {t["state"] for t in rows} == {"complete", "pruned"}
    assert max(t["value"] for t in rows if t["state"] == "complete") > 0.7
    assert {t["mode"] for t in rows} == {"max"} and {t["objective"] for t in rows} == {"accuracy"}


def test_a_graph_of_ones_own_through_two_papers(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("own_graph", EXAMPLES / "own_graph.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = module.write(tmp_path / "graph", nodes=200)
    for paper in ("dagnn", "ncn"):
        words = ("data=own", f"data_dir={folder}", "budget.trials=1", "budget.steps=12")
        run = engine(tmp_path / paper, f"trainable={paper}", *words)
        run.run()
        (row,) = trials(run.store)
        assert row["state"] == "complete" and row["data"] == "own" and row["value"] > 0.1


@pytest.mark.slow
def test_a_notebook(tmp_path: Path) -> None:
    cells = json.loads((EXAMPLES / "notebook.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    script = "import sys\nscope = {'__name__': '__main__'}\n" + "".join(
        f"exec(compile({c!r}, '<cell>', 'exec'), scope)\n" for c in code
    )
    script += "assert scope['grown'].trials().num_rows == 45 and scope['best']['seeds'] == 3\n"
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=250, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]


def test_a_class_whose_trials_are_paused_has_the_values_of_one_that_is_not(tmp_path: Path) -> None:
    same = (
        f"trainable={EXAMPLES}/own_class.py:Boosting",
        "budget.trials=1",
        "budget.steps=9",
        "search=random",
    )
    found = []
    for folder, words in (("a", same), ("b", (*same, "scheduler=asha"))):
        run = engine(tmp_path / folder, *words)
        run.run()
        (row,) = trials(run.store)
        assert row["state"] == "complete" and row["metric.test_r2"] > 0.1
        found.append((row["value"], row["metric.test_r2"], row["steps"]))
    assert found[0] == found[1] and found[0][2] == 9
