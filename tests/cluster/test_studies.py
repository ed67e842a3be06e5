"""A sweep as a study of Optuna: whatever the store says of a trial, Optuna says too."""

from __future__ import annotations

import json
import math
import sqlite3
import warnings
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import optuna
import pyarrow as pa
import pytest
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from fairsweep.analysis.store import Store
from fairsweep.cluster import api
from fairsweep.cluster.cli import run_cli
from fairsweep.cluster.errors import UserError
from fairsweep.search_spaces.space import Space
from fairsweep.trainables.nas._job import SearchJob
from tests.cluster.test_conductor import engine, trials

BEGAN = datetime(2026, 3, 29, 0, 30, tzinfo=timezone.utc)
SPACE = {
    "lr": {"type": "float", "low": 1e-4, "high": 0.1, "log": True},
    "act": {"type": "categorical", "choices": [None, "relu", 2.5]},
    "bias": {"type": "boolean"},
    "slope": {"type": "float", "low": 0.0, "high": 1.0, "step": 0.1, "when": {"act": ["relu"]}},
    "width": 16,
}
NAN, INF = math.nan, math.inf
# state, config, value, reports of val_loss, more of the row
ROWS: list[tuple[str, dict[str, Any], float | None, list[float], dict[str, Any]]] = [
    ("complete", {"lr": 0.1, "act": "relu", "slope": 0.3, "bias": True}, 0.5, [0.7, 0.5], {"metric.test": 0.6}),
    ("complete", {"lr": 1e-4, "act": None, "bias": False}, 0.4, [NAN, INF, 0.4], {"metric.test": NAN}),
    ("complete", {"lr": 0.01, "act": 2.5, "bias": False}, INF, [INF], {"metric.test": -INF}),
    ("complete", {"lr": 0.02, "act": 2.5, "bias": False}, None, [NAN], {}),
    ("pruned", {"lr": 0.03, "act": None, "bias": True}, 0.9, [0.9, 1.2], {"reason": "stopped by asha at step 2"}),
    ("paused", {"lr": 0.04, "act": None, "bias": True}, 0.8, [0.8], {"parent": "00000-0", "parent_step": 2}),
    ("failed", {"lr": 0.05, "act": None, "bias": True}, None, [0.8], {"reason": "out of memory", "error": "…\n'x'"}),
    ("interrupted", {"lr": 0.06, "act": None, "bias": True}, 0.3, [0.3], {}),
    ("running", {"lr": 0.07, "act": None, "bias": True}, None, [0.2], {}),
    ("pending", {"lr": 0.08, "act": None, "bias": True}, None, [], {}),
    ("failed", {"lr": 0.5, "act": None, "bias": True}, None, [], {}),  # outside of the space
]  # fmt: skip
WANTED = [
    "COMPLETE", "COMPLETE", "COMPLETE", "FAIL", "PRUNED", "PRUNED", "FAIL", "WAITING", "RUNNING", "WAITING", "FAIL",
]  # fmt: skip


def written(folder: Path, rows: Any = ROWS, name: str = "s", close: bool = True) -> Store:
    """A store with a sweep of these trials, two seeds a configuration."""
    store = Store(folder)
    space = Space.from_mapping(SPACE, papers=False)
    row = {
        "paper": "p",
        "data": "d",
        "objective": "val_loss",
        "mode": "min",
        "space": space.to_yaml(),
        "seeds": 2,
    }
    with store.create(
        name, row, config_fields=space.arrow_fields(), metric_names=["val_loss", "test"]
    ) as writer:
        for k, (state, config, value, reports, more) in enumerate(rows):
            config = {**config, "width": 16}
            begin, trial = BEGAN + timedelta(minutes=10 * k), f"{k // 2:05d}-{k % 2}"
            writer.trial(
                trial,
                number=k,
                config_id=k // 2,
                seed=k % 2,
                state=state,
                value=value,
                config_json=json.dumps(config),
                **({} if state == "pending" else {"started": begin}),
                **({} if state in ("pending", "running") else {"ended": begin + timedelta(seconds=61.5)}),
                **{f"config.{n}": space.arrow_value(n, v) for n, v in config.items()},
                **more,
            )
            writer.results(
                [
                    {
                        "trial": trial, "config_id": k // 2, "seed": k % 2, "step": step, "wall_s": 1.0,
                        "time": begin, "metric.val_loss": loss,
                    }
                    for step, loss in enumerate(reports, 1)
                ]
            )  # fmt: skip
        if close:
            writer.close(state="interrupted")
    return store


def same(a: Any, b: Any) -> bool:
    """Equality in which NaN is itself."""
    return a == b or (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b))


def of_file(file: Path) -> optuna.Study:
    """The study `s` as a stranger opens it."""
    journal = file.suffix == ".log"
    storage = JournalStorage(JournalFileBackend(str(file))) if journal else RDBStorage(f"sqlite:///{file}")
    return optuna.load_study(study_name="s", storage=storage)


@pytest.mark.parametrize("to", [None, "study.db", "study.log"])
def test_states_values_reports_parameters_times_and_attributes_are_those_of_the_store(
    tmp_path: Path, to: str | None
) -> None:
    store = written(tmp_path / "store")
    study = api.Sweep(store, "s").to_optuna(None if to is None else tmp_path / to)
    for found in [study] if to is None else [study, of_file(tmp_path / to)]:
        rows = trials(store)
        assert [t.number for t in found.trials] == list(range(len(rows)))
        assert [t.state.name for t in found.trials] == WANTED
        for t, row, (state, config, value, reports, more) in zip(found.trials, rows, ROWS, strict=True):
            assert list(t.intermediate_values) == list(range(1, len(reports) + 1))
            assert all(map(same, t.intermediate_values.values(), reports))
            searched = {k: v for k, v in config.items() if row["number"] != 10 or k != "lr"}
            assert t.params == searched and [type(v) for v in t.params.values()] == [
                *map(type, searched.values())
            ]
            if value is not None and t.state in (TrialState.COMPLETE, TrialState.PRUNED):
                assert t.values == [value]
            else:
                assert t.values is None and t.user_attrs.get("value") == value
            assert t.user_attrs["trial"] == row["trial"] and t.user_attrs["state"] == state
            assert (t.user_attrs["config_id"], t.user_attrs["seed"]) == (row["config_id"], row["seed"])
            assert t.user_attrs["config.width"] == 16 and ("config.lr" in t.user_attrs) == (
                row["number"] == 10
            )
            assert all(same(t.user_attrs[k], v) for k, v in more.items())
            assert _utc(t.datetime_start) == row["started"]
            assert _utc(t.datetime_complete) == (row["ended"] if t.state.is_finished() else None)
        assert found.user_attrs["sweep"] == "s" and found.user_attrs["state"] == "interrupted"
        assert found.metric_names == ["val_loss"] and found.direction.name == "MINIMIZE"
        assert found.best_trial.number == 1
        assert found.trials[0].distributions == Space.from_mapping(SPACE, papers=False).distributions()


def _utc(time: datetime | None) -> datetime | None:
    return None if time is None else time.astimezone(timezone.utc)


def test_the_file_is_row_by_row_what_optuna_would_have_written(tmp_path: Path) -> None:
    sweep = api.Sweep(written(tmp_path / "store"), "s")
    for study in (
        optuna.create_study(storage=f"sqlite:///{tmp_path}/{f}.db", study_name="one") for f in "ab"
    ):
        study.add_trials(sweep.to_optuna().trials[:3])  # ids of ours come after those that are there
    sweep.to_optuna(tmp_path / "a.db")
    slow = RDBStorage(f"sqlite:///{tmp_path}/b.db")
    made = sweep.to_optuna()
    study = optuna.create_study(storage=slow, study_name="s", directions=made.directions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study.set_metric_names(["val_loss"])
    for key, value in made.user_attrs.items():
        study.set_user_attr(key, value)
    study.add_trials(made.trials)
    a, b = (_dump(tmp_path / f"{f}.db") for f in "ab")
    assert a.keys() == b.keys() and all(a[table] == b[table] for table in a)
    assert sum(map(len, a.values())) > 150


def _dump(file: Path) -> dict[str, list[Any]]:
    """Every table without its own running number."""
    with sqlite3.connect(file) as db:
        names = [n for (n,) in db.execute("select name from sqlite_master where type='table'")]
        return {n: sorted(map(repr, (row[1:] for row in db.execute(f"select * from {n}")))) for n in names}


def test_a_sweep_with_early_stopping_failures_and_seeds(tmp_path: Path) -> None:
    run = engine(
        tmp_path,
        "trainable=test_faulty",
        "space.fault.choices=[none,raise,not_finite]",
        "scheduler=asha",
        "budget.trials=9",
        "seeds=2",
    )
    run.run()
    study = api.Sweep(run.store, "s").to_optuna()
    rows, results = trials(run.store), run.store.table("results", "s").to_pylist()
    kinds = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}
    assert {r["state"] for r in rows} == set(kinds)
    assert [t.state.name for t in study.trials] == [kinds[r["state"]] for r in rows]
    assert [t.value for t in study.trials] == [r["value"] for r in rows]
    for t, row in zip(study.trials, rows, strict=True):
        own = {r["step"]: r["metric.val_loss"] for r in results if r["trial"] == row["trial"]}
        assert t.intermediate_values == own and t.user_attrs["reason"] == row["reason"]
        assert t.user_attrs.get("error") == row["error"] and t.user_attrs["cost_s"] == row["cost_s"]
        assert t.params == {"x": row["config.x"], "fault": row["config.fault"]}
        assert t.user_attrs["config.y"] == 0
        assert t.user_attrs.get("metric.test_loss") == row["metric.test_loss"]


def test_several_objectives_with_limits(tmp_path: Path) -> None:
    run = engine(
        tmp_path,
        "trainable=test_trade",
        "metric=[val_loss,size]",
        "constraints={size: {max: 3, min: 1}}",
        "budget.trials=8",
    )
    run.run()
    api.Sweep(run.store, "s").to_optuna(tmp_path / "study.db")
    study = of_file(tmp_path / "study.db")
    assert [d.name for d in study.directions] == ["MINIMIZE", "MINIMIZE"]
    assert study.metric_names == ["val_loss", "size"]
    for t, row in zip(study.trials, trials(run.store), strict=True):
        assert t.values == [row["metric.val_loss"], row["metric.size"]]
        assert t.constraints == {"size.max": t.values[1] - 3, "size.min": 1 - t.values[1]}
        assert len(t.intermediate_values) == 3 and "metric.size" not in t.user_attrs
    assert study.best_trials and all(1 <= t.values[1] <= 3 for t in study.best_trials)


def test_what_is_left_can_be_run_by_optuna(tmp_path: Path) -> None:
    study = api.Sweep(written(tmp_path / "store"), "s").to_optuna(tmp_path / "study.db")
    asked = []

    def objective(trial: optuna.Trial) -> float:
        asked.append((trial.number, trial.suggest_float("lr", 1e-4, 0.1, log=True)))
        return asked[-1][1]

    study.optimize(objective, n_trials=3)
    assert asked[:2] == [(7, 0.06), (9, 0.08)] and asked[2][0] == len(ROWS)


def test_bad_input_is_one_line_and_leaves_the_file_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = written(tmp_path / "store")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.db").write_text("no database\n" * 50)
    (tmp_path / "text.log").write_text("no journal\n")
    base = ["export", "s", "--format", "optuna", "--storage", str(tmp_path / "store")]
    assert run_cli([*base, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "path": "s.db", "study": "s", "trials": 11,
        "states": {"complete": 3, "pruned": 2, "fail": 3, "running": 1, "waiting": 2},
    }  # fmt: skip
    before = (tmp_path / "s.db").read_bytes()
    for words, said in (
        ([], "s.db: has a study called s"),
        (["--table", "trials"], "--table=trials: a study has trials"),
        (["-o", "text.db"], "text.db: cannot be opened as a storage of Optuna"),
        (["-o", "text.log"], "text.log: cannot be opened as a journal of Optuna"),
        (["-o", "."], ".: is a folder; name the file too"),
        (["-o", "no/study.db"], "no/study.db: the folder no does not exist"),
        (["-o", "nosql://host/x"], "nosql://host/x: cannot be opened as a storage of Optuna"),
    ):
        assert run_cli([*base, *words]) == 2, said
        err = capsys.readouterr().err
        assert said in err and err.count("error") == 1 and "Traceback" not in err
    assert (tmp_path / "s.db").read_bytes() == before
    assert (tmp_path / "text.db").read_text() == "no database\n" * 50
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.db", "store", "text.db", "text.log"]
    assert store.table("trials", "s").num_rows == len(ROWS)


def test_a_write_that_fails_leaves_no_half_of_a_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = api.Sweep(written(tmp_path / "store"), "s")
    monkeypatch.setattr("fairsweep.cluster.jobs.study_files._stored", _full)
    with pytest.raises(OSError, match="full"):
        sweep.to_optuna(tmp_path / "new.db")
    assert not (tmp_path / "new.db").exists()
    optuna.create_study(storage=f"sqlite:///{tmp_path}/old.db", study_name="mine")
    with pytest.raises(OSError, match="full"):
        sweep.to_optuna(tmp_path / "old.db")
    assert optuna.get_all_study_names(f"sqlite:///{tmp_path}/old.db") == ["mine"]


def _full(value: float) -> Any:
    raise OSError("the disk is full")


def test_a_search_for_networks_is_no_study(tmp_path: Path) -> None:
    store = Store(tmp_path)
    row = {"paper": SearchJob.slug, "objective": "accuracy", "mode": "max"}
    with store.create(
        "n", row, config_fields=[pa.field("phase", pa.string())], metric_names=["accuracy"]
    ) as w:
        w.close(state="finished")
    with pytest.raises(UserError, match="n: is a search for networks"):
        api.Sweep(store, "n").to_optuna()
