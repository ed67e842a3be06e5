"""The door to trackers: what a worker tells of a trial, whatever becomes of it; without Ray."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fairsweep.cluster import config, tracking
from fairsweep.cluster.engine.worker import LegRunner
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs import claims, sweep, telling, tracked
from fairsweep.cluster.jobs.comparing import job, plan
from fairsweep.cluster.jobs.comparing.display import ComparisonDisplay
from fairsweep.cluster.tracking import ending
from fairsweep.search_spaces.space import Space
from tests.cluster.test_conductor import Crash, Engine, engine, trials
from tests.papers import Faulty

BOWL = ("trainable=test_bowl", "search=random", "tracking=wandb")


class Noted:
    """A run that keeps what it is told, or cannot keep it."""

    def __init__(self, trial: tracking.Trial, broken: bool) -> None:
        self.trial, self.broken, self.steps = trial, broken, list[int]()
        self.end: tuple[str, ...] = ()
        self.values: Mapping[str, float] = {}

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        assert metrics["val_loss"] > 0
        self.steps.append(step)
        if self.broken:
            raise ConnectionError("no route to host\nsecond line")

    def summary(self, values: Mapping[str, float], status: str, reason: str) -> None:
        self.values, self.end = values, (status, reason)

    def finish(self, status: str) -> None:
        self.end += (status,)


class Runs(list[Noted]):
    """A tracker's module."""

    broken = False

    def why_not(self, options: Mapping[str, Any]) -> str | None:
        return None

    def open_run(self, options: Mapping[str, Any], trial: tracking.Trial) -> Noted:
        self.append(Noted(trial, self.broken))
        return self[-1]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    found = Runs()
    monkeypatch.setattr(tracking, "_module", lambda options: found)
    return found


def test_every_run_of_a_trial_that_goes_on_is_whole(tmp_path: Path, runs: Runs) -> None:
    runs.broken = True
    run = engine(tmp_path, *BOWL, "budget.trials=9", "scheduler=asha")
    said: list[str] = []
    run.conductor.on_note = said.append
    with pytest.raises(Crash):
        run.run(crash_after=17)
    engine(tmp_path).run()
    assert said == ["tracking=wandb: log failed in a worker: no route to host"]
    keys = [noted.trial.key for noted in runs]
    again = [key for key in set(keys) if keys.count(key) > 1]
    assert again, "some trial was promoted or resumed"
    for noted in runs:
        assert noted.steps == list(range(1, len(noted.steps) + 1)), "a run lacks its beginning"
    assert {t["state"] for t in trials(run.store)} == {"complete", "pruned"}


def test_a_tracker_that_cannot_start_is_said_once_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> Any:
        raise ConnectionError("no route to host\nsecond line")

    monkeypatch.setattr(tracking, "_module", lambda options: SimpleNamespace(open_run=refuse))
    run = engine(tmp_path, *BOWL, "budget.trials=3")
    said: list[str] = []
    run.conductor.on_note = said.append
    run.run()
    assert said == ["tracking=wandb could not start in a worker: no route to host"] == run.store.notes("s")
    assert {t["state"] for t in trials(run.store)} == {"complete"}


def test_a_run_says_what_made_it_and_how_it_ended(tmp_path: Path, runs: Runs) -> None:
    run = engine(tmp_path, *BOWL, "budget.trials=9", "scheduler=asha", "seed=3")
    run.run()
    last = {noted.trial.name: noted for noted in runs}
    for row in trials(run.store):
        noted = last[row["trial"]]
        assert noted.trial.config["x"] == row["config.x"] and noted.trial.config["seed"] == row["seed"] == 3
        about = {key: noted.trial.config[key] for key in ("paper", "data", "git_commit", "sweep")}
        assert about == {"paper": "test_bowl", "data": "bowl", "git_commit": row["git_commit"], "sweep": "s"}
        assert noted.end[::2] == {"complete": ("complete",) * 2, "pruned": ("paused",) * 2}[row["state"]]
        assert noted.values["val_loss"] == row["value"], "the value of the store, not the last one"
        assert ("test_loss" in noted.values) == (row["state"] == "complete")


def test_the_value_of_a_run_is_that_of_the_model_that_was_tested(tmp_path: Path, runs: Runs) -> None:
    run = engine(tmp_path, "trainable=test_overshoot", "tracking=wandb", "budget.trials=2")
    run.run()
    assert [n.values["val_loss"] for n in runs] == [t["value"] for t in trials(run.store)]


@pytest.mark.parametrize("fault", ["raise", "setup", "not_finite"])
def test_a_failed_trial_is_told_as_failed_with_its_reason(tmp_path: Path, runs: Runs, fault: str) -> None:
    run = engine(
        tmp_path, "trainable=test_faulty", "tracking=wandb", "budget.trials=1", f"space.fault={fault}"
    )
    run.run()
    (row,) = trials(run.store)
    assert row["state"] == "failed"
    assert [n.end for n in runs] == [("failed", row["reason"], "failed")]


def leg(run: Engine) -> LegRunner:
    """A place that has reported the first step of a trial."""
    given = run.conductor.next_leg()
    assert given is not None
    place = LegRunner(run.post)
    place.take(given)
    assert run.conductor.report(given.trial, place.step())
    return place


def test_a_trial_that_is_cut_off_is_told_as_interrupted(tmp_path: Path, runs: Runs) -> None:
    run = engine(tmp_path, *BOWL, "budget.trials=1")
    place = leg(run)
    run.conductor.interrupt()
    report = place.step()
    assert not run.conductor.report(report["trial"], report)
    place.close(cut_off=True)
    assert runs[0].end == ("interrupted", "at step 2", "interrupted")
    run.writer.close(state="interrupted")
    engine(tmp_path).run()
    assert [n.steps for n in runs] == [[1, 2], list(range(1, 10))]
    assert len({n.trial.key for n in runs}) == 1 and runs[1].trial.begun and not runs[0].trial.begun


def test_a_stop_on_the_trackers_pages_ends_that_trial_alone(tmp_path: Path, runs: Runs) -> None:
    run = engine(tmp_path, *BOWL, "budget.trials=2")
    place = leg(run)
    runs[0].trial.stop()
    report = place.step()
    assert not run.conductor.report(report["trial"], report)
    run.run()
    first, second = trials(run.store)
    assert first["state"] == "pruned" and first["reason"] == "stopped on the pages of wandb"
    assert runs[0].end == ("pruned", "stopped on the pages of wandb", "pruned")
    assert second["state"] == "complete", "another trial in the same process goes on"


def test_keys_of_runs_are_of_one_sweep_alone_and_outlast_a_renaming(tmp_path: Path, runs: Runs) -> None:
    from fairsweep.analysis.upkeep import rename

    keys = set()
    for store, name in (("a", "s"), ("b", "s"), ("a", "t")):
        run = engine(tmp_path / store, *BOWL, "budget.trials=1", name=name)
        leg(run)
        run.writer.close(state="interrupted")
        keys.add(runs[-1].trial.key)
    assert len(keys) == 3
    rename(run.store, "t", "u")
    engine(tmp_path / "a", name="u").run()
    assert runs[-1].trial.key == runs[-2].trial.key


def test_secrets_given_as_parameters_stay_here(
    tmp_path: Path, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = Faulty.space().to_mapping()
    keyed = Space.from_mapping(
        {**fields, "api_key": "abc123", "key_width": {"type": "int", "low": 1, "high": 2, "paper": 1}}
    )
    monkeypatch.setattr(Faulty, "space", classmethod(lambda cls: keyed))
    run = engine(tmp_path, "trainable=test_faulty", "tracking=wandb", "budget.trials=1", "space.fault=raise")
    assert run.post.tracking["hidden"] == ["api_key"], "a width that is searched is none"
    run.run()
    (noted,) = runs
    assert noted.trial.config["api_key"] == tracking.HIDDEN and noted.trial.config["key_width"] in (1, 2)
    told, _ = telling._told(run.store, run.post.tracking, tmp_path)
    assert "abc123" not in repr(told) + Path(told.report).read_text() and told.rows[0]["trial"] == "00000-0"
    assert tracking.without("401 for abc123", ["abc123", 7]) == "401 for ***"


def test_what_is_told_of_a_sweep_that_has_ended(tmp_path: Path, runs: Runs) -> None:
    run = engine(tmp_path, *BOWL, "budget.trials=16", "scheduler=asha")
    run.run()
    told, problems = telling._told(run.store, run.post.tracking, tmp_path)
    rows = trials(run.store)
    best = min((t for t in rows if t["state"] == "complete"), key=lambda t: t["value"])
    assert not problems and len(told.rows) == 16 and told.rows[0]["value"] == min(t["value"] for t in rows)
    assert told.values["val_loss"] == best["value"] and told.values["best.x"] == best["config.x"]
    assert told.values["pruned"] == sum(t["state"] == "pruned" for t in rows)
    assert set(told.importance) == {"x", "y", "kind"} and "<html" in Path(told.report).read_text()
    assert told.config["paper"] == "test_bowl"


def test_a_tracker_is_imported_where_it_is_asked_for_and_nowhere_else() -> None:
    code = (
        "import sys, fairsweep.cluster.engine.worker, fairsweep.cluster.tracking;"
        "print({'wandb', 'mlflow', 'tensorboardX'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr


def test_runs_end_beside_the_trials_and_are_waited_for_once(tmp_path: Path) -> None:
    go = threading.Event()
    assert not ending.end("slow", lambda: go.wait(60), 0.01, together=True)
    for k in range(3):
        ending.end(f"later{k}", lambda: go.wait(60), 60.0)
    assert ending.drain(0.05) == ["later0", "later1", "later2"], "`slow` has been waited for"
    assert ending.drain(60.0) == [] and ending.wait("later0", 60.0)
    go.set()
    ending.end("last", lambda: None, 1.0)
    assert ending.drain(5.0) == []


# -- the driver's dealings ------------------------------------------------------------------------------


def test_the_driver_waits_for_a_tracker_no_longer_than_it_said() -> None:
    from fairsweep.cluster.tracking.apart import apart

    assert apart("json:dumps", {"obj": [1, 2]}, 60.0) == "[1, 2]"
    with pytest.raises(RuntimeError, match=r"FileNotFoundError: .*no such command"):
        apart("subprocess:run", {"args": ["no such command"]}, 60.0)
    with pytest.raises(TimeoutError, match=r"longer than 0\.2 s"):
        apart("subprocess:run", {"args": ["sleep", "60"]}, 0.2)


def test_a_sweep_that_has_ended_is_told_in_bounded_time_and_never_fails(
    tmp_path: Path, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = engine(tmp_path, *BOWL, "budget.trials=1")
    run.run()
    said: list[str] = []
    monkeypatch.setattr(tracked, "SUMMARY_S", 0.01)
    tracked.tell_end(run.store, [run.post.tracking], said.append)
    assert said == ["tracking=wandb: the run of the sweep is not complete: it took longer than 0.01 s"]
    tracked.tell_end(run.store, [{"name": "none"}], said.append)
    assert len(said) == 1


# -- TensorBoard ----------------------------------------------------------------------------------------


def events(folder: Path) -> list[Any]:
    """The events of the only file in `folder`: TFRecords, of which each has 8 bytes of length and checksums of 4."""
    import struct

    from tensorboardX.proto.event_pb2 import Event

    (file,) = folder.glob("events.out.tfevents.*")
    data, at, found = file.read_bytes(), 0, []
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        found.append(Event.FromString(data[at + 12 : at + 12 + length]))
        at += 16 + length
    return found


def test_event_files_of_trials_that_go_on_are_one_and_whole(tmp_path: Path) -> None:
    run = engine(tmp_path, *BOWL[:2], "tracking=tensorboard", "budget.trials=9", "scheduler=asha")
    with pytest.raises(Crash):
        run.run(crash_after=17)
    again = engine(tmp_path)
    again.run()
    results = again.store.table("results", "s").to_pylist()
    states = set()
    for row in trials(again.store):
        found = events(tmp_path / "tensorboard" / "s" / row["trial"])
        scalars = [
            (e.step, v.tag, v.simple_value)
            for e in found
            for v in e.summary.value
            if not v.metadata.ByteSize()
        ]
        rows = [(step, value) for step, tag, value in scalars if tag == "val_loss"]
        own = [
            (r["step"], pytest.approx(r["metric.val_loss"])) for r in results if r["trial"] == row["trial"]
        ]
        assert rows == own
        text = b"".join(
            v.tensor.string_val[0] for e in found for v in e.summary.value if v.tag.startswith("status")
        )
        assert text.decode().partition(":")[0] == row["state"]
        assert any(v.tag == "_hparams_/session_end_info" for e in found for v in e.summary.value)
        states.add(row["state"])
    assert states == {"complete", "pruned"}


def test_the_folder_of_a_sweep_has_its_table(tmp_path: Path) -> None:
    run = engine(tmp_path, *BOWL[:2], "tracking=tensorboard", "budget.trials=5")
    run.run()
    assert telling.summaries(str(tmp_path), [run.post.tracking]) == []
    text = {
        v.tag: v.tensor.string_val[0].decode()
        for e in events(tmp_path / "tensorboard/s/sweep")
        for v in e.summary.value
        if v.tensor.string_val
    }
    table = next(value for tag, value in text.items() if tag.startswith("trials"))
    assert table.count("\n") == 6 and "| complete |" in table
    assert (tmp_path / "tensorboard/s/sweep/s-report.html").is_file()


# -- MLflow ---------------------------------------------------------------------------------------------


def mlflow_runs(root: Path) -> dict[str, Any]:
    """What MLflow's own client finds in a file store: name -> run, and its history of val_loss."""
    from mlflow import MlflowClient

    client = MlflowClient(f"file:{root}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "fairsweep"]
    found = {}
    for run in client.search_runs([experiment.experiment_id], max_results=1000):
        assert run.info.run_name not in found, "two runs of one trial"
        history = client.get_metric_history(run.info.run_id, "val_loss")
        found[run.info.run_name] = run, [(m.step, m.value) for m in history]
    return found


def test_mlflows_runs_of_trials_that_go_on_are_one_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = engine(tmp_path, *BOWL[:2], "tracking=mlflow", "budget.trials=9", "scheduler=asha")
    run.post, notes = tracked.tracked(run.post)
    assert notes == ()
    with pytest.raises(Crash):
        run.run(crash_after=17)
    ending.drain(20.0)
    again = engine(tmp_path)
    again.post, _ = tracked.tracked(again.post)
    again.run()
    ending.drain(20.0)
    assert telling.summaries(str(tmp_path), [again.post.tracking]) == []
    found = mlflow_runs(tmp_path / "mlruns")
    results = again.store.table("results", "s").to_pylist()
    sweep = found["s"][0]
    assert sweep.info.status == "FINISHED" and sweep.data.tags["status"] == "finished"
    for row in trials(again.store):
        told, history = found[row["trial"]]
        own = [(r["step"], r["metric.val_loss"]) for r in results if r["trial"] == row["trial"]]
        assert history == own
        assert told.info.status == "FINISHED" and told.data.tags["status"] == row["state"]
        assert told.data.tags["mlflow.parentRunId"] == sweep.info.run_id
        assert told.data.params["x"] == str(row["config.x"]) and told.data.params["paper"] == "test_bowl"
        assert told.data.metrics["end/val_loss"] == row["value"]


def test_mlflow_is_told_of_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = engine(tmp_path, "trainable=test_faulty", "tracking=mlflow", "budget.trials=1", "space.fault=raise")
    run.post, _ = tracked.tracked(run.post)
    run.run()
    ending.drain(20.0)
    assert mlflow_runs(tmp_path / "mlruns")["00000-0"][0].info.status == "FAILED"


@pytest.mark.parametrize(
    ("name", "library", "said"),
    [
        ("mlflow", "mlflow", "tracking=mlflow: MLflow is missing; pip install 'fairsweep[mlflow]'"),
        ("tensorboard", "tensorboardX", "which is missing; pip install tensorboardX"),
    ],
)
def test_a_tracker_without_its_library_is_refused_before_anything_is_begun(
    name: str, library: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    for module in (sweep, job, claims):
        monkeypatch.setattr(module, "connected", lambda options: pytest.fail("Ray was started"))
    words = [f"tracking={name}", "budget.trials=1", f"storage={tmp_path / 'store'}"]
    with pytest.raises(UserError, match=re.escape(said)):
        sweep.run(config.load(["trainable=test_bowl", *words]))
    with pytest.raises(UserError, match=re.escape(said)):
        asked = plan.asked(["test_bowl:kind=a,b", "data=bowl", *words[:2]], "c", str(tmp_path / "store"))
        job.run(asked, ComparisonDisplay())
    assert not list(tmp_path.rglob("*.*")), "something was written"
