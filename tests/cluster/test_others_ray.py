"""An objective of Optuna's and a function of Tune's on a real Ray: looked through in processes of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import fairsweep

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.slow]


def test_an_objective_travels_with_what_was_found(tmp_path: Path) -> None:
    reference = f"{EXAMPLES}/optuna_objective.py:objective"
    budget = {"trials": 6}
    found = fairsweep.run(
        reference, mode="max", budget=budget, scheduler="asha", storage=tmp_path, name="s", quiet=True
    )
    rows = found.trials().to_pylist()
    assert {row["state"] for row in rows} <= {"complete", "pruned"} and len(rows) == 6
    sweep = found.store.read("s").sweep
    assert json.loads(sweep["source"])["found"]["space"]["svc_c"]["when"] == {"classifier": ["svc"]}
    again = fairsweep.resume("s", storage=tmp_path, budget={"trials": 8}, quiet=True)
    assert len(again.trials()) == 8


def test_a_tune_function_pauses_and_goes_on_in_workers(tmp_path: Path) -> None:
    found = fairsweep.run(
        f"{EXAMPLES}/tune_trainable.py:tuner",
        budget={"trials": 4},
        scheduler="asha",
        storage=tmp_path,
        name="s",
        quiet=True,
    )
    rows = found.trials().to_pylist()
    assert {row["state"] for row in rows} == {"complete", "pruned"}
    assert all(row["objective"] == "accuracy" and row["mode"] == "max" for row in rows)
