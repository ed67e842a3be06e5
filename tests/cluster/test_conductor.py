"""The driver's decisions, with real workers' code and a real store but without Ray."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest

from fairsweep.analysis.store import Store
from fairsweep.cluster import config
from fairsweep.cluster.cli import run_cli
from fairsweep.cluster.engine.checkpoints import Checkpoints, Keeper
from fairsweep.cluster.engine.conductor import Conductor
from fairsweep.cluster.engine.worker import LegRunner
from fairsweep.cluster.jobs import growth, sources, sweep
from fairsweep.search_spaces.algorithms import OptunaSearch


class Crash(Exception):
    pass


class Engine:
    """One or more places that take legs in turn, in this process."""

    def __init__(self, storage: Path, *overrides: str, name: str = "s") -> None:
        self.store, self.name = Store(storage), name
        self.overrides = [*overrides, f"storage={storage}", f"name={name}", "budget.report_seconds=0"]

    def open(self, changes: list[str] | None = None) -> None:
        if not self.store.has(self.name):
            self.settings = config.load(self.overrides)
            self.paper = self.settings.paper
            self.writer = self.store.create(
                self.name,
                sweep.sweep_row(self.settings, self.paper),
                config_fields=self.settings.space.arrow_fields(),
                metric_names=[m.name for m in self.paper.metrics],
            )
            record, news = None, ()
        else:
            self.settings, again = growth.regrown(self.store.read(self.name), changes or [], config.check)
            self.paper = self.settings.paper
            self.writer = self.store.open(self.name)
            if again:
                growth.retry_failed(self.writer)
            record = self.writer.record
            self.writer.sweep(**sweep._resumed_row(self.settings))
            news = sources.enter(self.writer, self.settings.paper)
        concurrent = self.settings.budget["concurrent"] or 1
        self.checkpoints = Checkpoints(self.store.checkpoint_dir(self.name))
        self.conductor = sweep.make_conductor(
            self.settings, self.paper, self.writer, concurrent, record, checkpoints=self.checkpoints
        )
        for text in news:
            self.conductor.note(text)
        self.post = sweep.make_post(self.settings, self.store, self.name)

    def run(
        self, crash_after: int | None = None, before_report: Callable[[dict], dict] | None = None
    ) -> Conductor:
        """Runs to the end, or 'crashes' (nothing is closed) after so many reports."""
        self.run_open(crash_after, before_report)
        self.state = self.conductor.close()
        self.writer.close(state=self.state)
        return self.conductor

    def run_open(
        self, crash_after: int | None = None, before_report: Callable[[dict], dict] | None = None
    ) -> None:
        """Runs what there is to run, and closes nothing."""
        conductor = self.conductor
        places: list[LegRunner] = []
        reports = 0
        while not conductor.finished:
            while (leg := conductor.next_leg()) is not None:
                place = LegRunner(self.post)
                place.take(leg)
                places.append(place)
            for place in list(places):
                payload = json.loads(json.dumps(place.step()))
                if before_report:
                    payload = before_report(payload)
                if crash_after is not None and reports >= crash_after:
                    self.writer.__exit__(None, None, None)
                    raise Crash
                reports += 1
                if not conductor.report(payload["trial"], payload):
                    place.close(cut_off=conductor.trials[payload["trial"]].cut_off)
                    places.remove(place)


def engine(storage: Path, *overrides: str, changes: list[str] | None = None, name: str = "s") -> Engine:
    made = Engine(storage, *overrides, name=name)
    made.open(changes)
    return made


def trials(store: Store, name: str = "s") -> list[dict[str, Any]]:
    return store.table("trials", name).sort_by("number").to_pylist()


def configs(store: Store, name: str = "s") -> list[dict[str, Any]]:
    return [json.loads(t["config_json"]) for t in trials(store, name)]


def test_a_plain_sweep_leaves_one_row_a_trial_and_a_report(tmp_path: Path) -> None:
    run = engine(tmp_path, "trainable=test_bowl", "budget.trials=6")
    run.run()
    rows = trials(run.store)
    assert [t["state"] for t in rows] == ["complete"] * 6
    assert [t["reason"] for t in rows] == ["complete"] * 6
    results = run.store.table("results", "s").to_pylist()
    assert len(results) == 6 * 9
    for t in rows:
        own = [r for r in results if r["trial"] == t["trial"]]
        assert [r["step"] for r in own] == list(range(1, 10))
        assert t["value"] == min(r["metric.val_loss"] for r in own)
        assert t["best_step"] == 9 and t["steps"] == 9
        assert t["metric.test_loss"] == pytest.approx(2 * own[-1]["metric.val_loss"])
        assert t["config.x"] == json.loads(t["config_json"])["x"]
        assert t["cost_s"] >= 0 and t["peak_memory_mb"] > 1 and t["device"] == "cpu"
        assert t["ended"] >= t["started"]
        assert json.loads(t["versions"])["optuna"] == optuna.__version__


@pytest.mark.parametrize("crash_after", [None, 8, 14])
def test_the_value_of_a_trial_is_that_of_the_model_that_was_tested(
    tmp_path: Path, crash_after: int | None
) -> None:
    """And not a better one that training passed by; also of trials that a later driver reads from the store."""
    what = ["trainable=test_overshoot", "budget.trials=3", "search=tpe"]
    if crash_after is not None:
        with pytest.raises(Crash):
            engine(tmp_path, *what).run(crash_after=crash_after)
    run = engine(tmp_path, *what)
    conductor = run.run()
    for t in trials(run.store):
        losses = [
            r["metric.val_loss"]
            for r in run.store.table("results", "s").to_pylist()
            if r["trial"] == t["trial"]
        ]
        assert len(losses) == 9 and min(losses) < losses[-1]
        assert (t["value"], t["best_step"]) == (losses[-1], 9)
        assert t["metric.test_loss"] == pytest.approx(2 * t["value"])
        told = conductor.algorithm.study.trials[t["config_id"]]  # type: ignore[attr-defined]
        assert told.value == t["value"]


def test_the_first_configuration_is_the_papers_own(tmp_path: Path) -> None:
    run = engine(tmp_path, "trainable=test_bowl", "budget.trials=2")
    run.run()
    assert configs(run.store)[0] == {"x": 0.5, "y": 1, "kind": "a"}
    run = engine(tmp_path, "trainable=test_bowl", "budget.trials=2", "search.paper_first=false", name="t")
    run.run()
    assert configs(run.store, "t")[0] != {"x": 0.5, "y": 1, "kind": "a"}


def test_seeds_are_replicates_of_one_configuration(tmp_path: Path) -> None:
    run = engine(tmp_path, "trainable=test_bowl", "budget.trials=3", "seeds=4", "seed=10")
    conductor = run.run()
    rows = trials(run.store)
    assert len(rows) == 12
    assert [t["seed"] for t in rows] == [10, 11, 12, 13] * 3
    assert [t["config_id"] for t in rows] == [0] * 4 + [1] * 4 + [2] * 4
    study = conductor.algorithm.study  # type: ignore[attr-defined]
    for number, trial in enumerate(study.trials):
        values = [t["value"] for t in rows if t["config_id"] == number]
        assert trial.value == pytest.approx(sum(values) / 4)


@pytest.mark.parametrize("search", ["tpe", "random", "grid", "cmaes", "gp"])
@pytest.mark.parametrize("scheduler", ["none", "asha", "hyperband", "median"])
def test_interrupted_at_half_suggests_the_same(tmp_path: Path, search: str, scheduler: str) -> None:
    n = 8 if search == "gp" else 16
    what = [
        "trainable=test_bowl",
        f"budget.trials={n}",
        f"search={search}",
        f"scheduler={scheduler}",
        "seed=3",
    ]
    whole = engine(tmp_path / "whole", *what)
    whole.run()
    cut = engine(tmp_path / "cut", *what)
    half = whole.store.table("results", "s").num_rows // 2
    with pytest.raises(Crash):
        cut.run(crash_after=half)
    again = engine(tmp_path / "cut", *what)
    again.run()
    assert configs(again.store) == configs(whole.store)
    keep = ("trial", "state", "reason", "value", "best_step", "steps", "seed")
    assert [{k: t[k] for k in keep} for t in trials(again.store)] == [
        {k: t[k] for k in keep} for t in trials(whole.store)
    ]
    rows = [
        (r["trial"], r["step"], r["metric.val_loss"]) for r in again.store.table("results", "s").to_pylist()
    ]
    assert sorted(rows) == sorted(
        (r["trial"], r["step"], r["metric.val_loss"]) for r in whole.store.table("results", "s").to_pylist()
    )


@pytest.mark.parametrize("crash_after", [0, 1, 5, 9, 14])
def test_no_report_is_lost_or_doubled_by_a_crash(tmp_path: Path, crash_after: int) -> None:
    what = ["trainable=test_bowl", "budget.trials=6", "scheduler=asha", "budget.concurrent=2"]
    with pytest.raises(Crash):
        engine(tmp_path, *what).run(crash_after=crash_after)
    again = engine(tmp_path, *what)
    before = again.writer.record.results
    finished = {t["trial"] for t in again.writer.record.trials.values() if t["state"] == "complete"}
    assert len(before) == crash_after
    started: list[str] = []

    def note(payload: dict) -> dict:
        started.append(payload["trial"])
        return payload

    again.run(before_report=note)
    assert not finished & set(started), "finished trials are not run again"
    results = again.store.table("results", "s").to_pylist()
    keys = [(r["trial"], r["step"]) for r in results]
    assert len(keys) == len(set(keys))
    assert {(r["trial"], r["step"]) for r in before} <= set(keys)
    for t in trials(again.store):
        assert sorted(s for i, s in keys if i == t["trial"]) == list(range(1, t["steps"] + 1))
    assert len(trials(again.store)) == 6


def test_rows_behind_a_newer_checkpoint_are_reported_from_it(tmp_path: Path) -> None:
    """The worker's checkpoint can be ahead of the last acknowledged row when the driver dies."""
    what = ["trainable=test_bowl", "budget.trials=1", "budget.checkpoint_seconds=0"]
    first = engine(tmp_path, *what)
    with pytest.raises(Crash):
        first.run(crash_after=4)
    saved = max(int(p.stem) for p in Path(first.post.checkpoints).rglob("*.ckpt"))
    assert saved == 5, "the fifth step was checkpointed and not acknowledged"
    again = engine(tmp_path, *what)
    again.run()
    assert [r["step"] for r in again.store.table("results", "s").to_pylist()] == list(range(1, 10))


def test_a_finished_sweep_grows(tmp_path: Path) -> None:
    what = ["trainable=test_bowl", "budget.trials=5", "scheduler=asha"]
    engine(tmp_path, *what).run()
    small = configs(Store(tmp_path))
    grown = engine(tmp_path, changes=["budget.trials=+7"])
    grown.run()
    assert configs(grown.store)[:5] == small
    assert len(configs(grown.store)) == 12
    assert grown.store.table("sweeps", "s").to_pylist()[0]["trials_budget"] == 12
    assert grown.state == "finished"


def test_asha_pauses_and_promotes_in_one_slot(tmp_path: Path) -> None:
    run = engine(tmp_path, "trainable=test_bowl", "budget.trials=9", "scheduler=asha", "search=random")
    conductor = run.run()
    rows = trials(run.store)
    rungs = {t["trial"]: t["steps"] for t in rows}
    # eta 3, rungs 1 and 3, maximum 9: nine trials reach 1, at least the three best 3, the best of all 9
    assert set(rungs.values()) == {1, 3, 9}
    at_first = sorted(rows, key=lambda t: (t["config.x"] - 0.3) ** 2 + 0.1 * t["config.y"])
    assert all(rungs[t["trial"]] >= 3 for t in at_first[:3]), "the best third of the rung went on"
    assert rungs[at_first[0]["trial"]] == 9
    assert {t["state"] for t in rows} == {"complete", "pruned"}
    results = run.store.table("results", "s").to_pylist()
    order = [r["trial"] for r in results]
    resumed = [i for i in set(order) if order != sorted(order) and _split(order, i)]
    assert resumed, "some trial was paused, others ran, and it was taken further"
    assert conductor.scheduler.name == "asha"


def test_hyperband_judges_each_bracket_from_a_rung_of_its_own(tmp_path: Path) -> None:
    """Steps 1 and 3 of 9: 9 of 17 configurations meet both, 5 the second, and 3 are trained to the end."""
    run = engine(
        tmp_path, "trainable=test_bowl", "budget.trials=17", "scheduler=hyperband", "search=random", "seeds=2"
    )
    scheduler: Any = run.run().scheduler
    rows = trials(run.store)
    ends = {b: [t["steps"] for t in rows if scheduler.bracket[t["trial"][:-1] + "0"] == b] for b in range(3)}
    assert {b: len(steps) for b, steps in ends.items()} == {0: 18, 1: 10, 2: 6}
    assert set(ends[0]) == {1, 3, 9} and set(ends[1]) == {3, 9} and set(ends[2]) == {9}
    assert sum(step > 1 for step in ends[0]) >= 6 and sum(step > 3 for step in ends[1]) >= 2
    pruned = [t for t in rows if t["state"] == "pruned"]
    assert pruned and all(t["reason"] == f"stopped by hyperband at step {t['steps']}" for t in pruned)


def _split(order: list[str], trial: str) -> bool:
    where = [k for k, i in enumerate(order) if i == trial]
    return where != list(range(where[0], where[0] + len(where)))


def lies_about_early_stopping(study: optuna.Study, steps: Mapping[int, int], whole: int) -> list[str]:
    """What a study says of its trials that is not so, where trial n ran `steps[n]` of `whole` steps."""
    found = []
    for trial in study.trials:
        ran = steps[trial.number]
        if (trial.state == optuna.trial.TrialState.COMPLETE) != (ran == whole):
            found.append(f"trial {trial.number} ran {ran} of {whole} steps and is {trial.state.name}")
        elif ran < whole and max(trial.intermediate_values, default=0) != ran:
            found.append(f"trial {trial.number}: no value at step {ran}, where it was stopped")
    return found


def test_optuna_is_told_the_truth_about_early_stopping(tmp_path: Path) -> None:
    """Ray's own wrapper fails this check: test_ray.py, test_rays_own_optuna_wrapper_lies."""
    run = engine(tmp_path, "trainable=test_bowl", "budget.trials=12", "scheduler=asha")
    conductor = run.run()
    assert isinstance(conductor.algorithm, OptunaSearch)
    study = conductor.algorithm.study
    rows = trials(run.store)
    assert len(study.trials) == 12
    assert lies_about_early_stopping(study, {t["config_id"]: t["steps"] for t in rows}, 9) == []
    stopped = [t for t in study.trials if t.state == optuna.trial.TrialState.PRUNED]
    assert len(stopped) >= 6
    for trial in stopped:
        steps = rows[trial.number]["steps"]
        assert steps in (1, 3)
        assert trial.intermediate_values[steps] == rows[trial.number]["value"]


@pytest.mark.parametrize("search", ["tpe", "grid", "cmaes", "random"])
@pytest.mark.parametrize("scheduler", ["none", "asha"])
def test_a_small_space_is_run_once_and_the_search_says_that_it_has_ended(
    tmp_path: Path, search: str, scheduler: str
) -> None:
    """Without `Tried` the six configurations were run again and again, with the same results."""
    what = [f"search={search}", f"scheduler={scheduler}", "space.x=0.5", "space.y.high=2", "seeds=2"]
    cut = engine(tmp_path, "trainable=test_bowl", "budget.trials=10", *what)
    with pytest.raises(Crash):
        cut.run(crash_after=20)
    run = engine(tmp_path)
    run.run()

    def said() -> list[str]:
        return [e["text"] for e in run.store.read("s").events if e["kind"] == "note"]

    rows = trials(run.store)
    assert len(rows) == 12 and run.state == "finished"
    assert len({(t["config.y"], t["config.kind"], t["seed"]) for t in rows}) == 12
    (note,) = said()
    whole = "grid" if search == "grid" else "space"
    assert note.startswith(f"budget.trials=10: the {whole} has 6 configurations, and each was run")
    engine(tmp_path, changes=["budget.trials=+5"]).run()
    assert len(trials(run.store)) == 12 and said()[1].startswith("budget.trials=15"), "it is said anew"


def test_median_stops_the_bad_half(tmp_path: Path) -> None:
    run = engine(tmp_path, "trainable=test_bowl", "budget.trials=20", "scheduler=median", "search=random")
    run.run()
    rows = trials(run.store)
    stopped = [t for t in rows if t["state"] == "pruned"]
    assert 5 <= len(stopped) <= 16
    assert all(t["reason"].startswith("stopped by median at step") for t in stopped)
    best = min(rows, key=lambda t: (t["config.x"] - 0.3) ** 2 + 0.1 * t["config.y"])
    assert best["state"] == "complete"


FAULTS = {
    "raise": "raised ZeroDivisionError: division by zero in the third step",
    "not_finite": "not finite: train_loss=nan at step 3",
    "memory": "out of memory: cannot hold 10 TB",
    "undeclared": "raised ValueError: step() returned undeclared metrics: ['surprise']",
    "setup": "raised ValueError: x=0.5: cannot be built",
    "no_unicode": r"raised ValueError: caf\udce9.txt \x1b[2J",
    "speechless": "raised Speechless",
    "huge": None,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_failures_are_rows(tmp_path: Path, fault: str) -> None:
    run = engine(
        tmp_path, "trainable=test_faulty", f"space.fault={fault}", "space.x=0.5", "budget.trials=1", "seeds=2"
    )
    run.run()
    for row in trials(run.store):
        assert row["state"] == "failed"
        assert row["reason"] == FAULTS[fault] or (fault == "huge" and len(row["reason"]) <= 540)
        assert len(row["error"]) <= 20_000
        assert "Traceback" in row["error"]
        assert row["value"] is None
        assert row["retries"] == 0, "what is deterministic is not retried"
    steps = [r["step"] for r in run.store.table("results", "s").to_pylist() if r["seed"] == 0]
    assert steps == {"not_finite": [1, 2, 3], "setup": []}.get(fault, [1, 2])


def test_a_fidelity_that_raises_fails_its_trial_alone(tmp_path: Path) -> None:
    run = engine(tmp_path, "trainable=test_unfathomed", "budget.trials=4", "seeds=2")
    run.run()
    rows = trials(run.store)
    assert [t["state"] for t in rows] == ["complete"] * 2 + ["failed"] * 6
    assert all("KeyError: 'depth'" in t["error"] for t in rows[2:])
    for changes in (["budget.trials=+1"], ["retry=failed"]):
        engine(tmp_path, changes=changes).run()
        assert [t["state"] for t in trials(run.store)] == ["complete"] * 2 + ["failed"] * 8


def test_a_failed_configuration_is_failed_for_optuna_and_the_sweep_goes_on(tmp_path: Path) -> None:
    run = engine(tmp_path, "trainable=test_faulty", "budget.trials=12", "space.fault.choices=[none,raise]")
    conductor = run.run()
    states = {t["config_id"]: t["state"] for t in trials(run.store)}
    assert set(states.values()) == {"complete", "failed"}
    for trial in conductor.algorithm.study.trials:  # type: ignore[attr-defined]
        wanted = {"complete": optuna.trial.TrialState.COMPLETE, "failed": optuna.trial.TrialState.FAIL}
        assert trial.state == wanted[states[trial.number]]


def test_a_lost_worker_is_retried_from_the_checkpoint_and_at_most_so_often(tmp_path: Path) -> None:
    run = engine(
        tmp_path, "trainable=test_bowl", "budget.trials=1", "budget.retries=2", "budget.checkpoint_seconds=0"
    )
    conductor = run.conductor
    for loss in range(3):
        leg = conductor.next_leg()
        assert leg is not None and leg.done == 2 * loss
        place = LegRunner(run.post)
        place.take(leg)
        for _ in range(2):
            payload = place.step()
            assert payload["rows"][0]["step"] > leg.done
            assert conductor.report(leg.trial, payload)
        conductor.lost(leg.trial, "ActorDiedError", "worker died")
    assert conductor.finished
    trial = conductor.trials["00000-0"]
    assert trial.state == "failed" and trial.reason == "worker died 3 times, last after step 6"


def test_a_late_report_of_a_lost_worker_changes_nothing(tmp_path: Path) -> None:
    run = engine(tmp_path, "trainable=test_bowl", "budget.trials=1", "budget.retries=0")
    leg = run.conductor.next_leg()
    assert leg is not None
    place = LegRunner(run.post)
    place.take(leg)
    payload = place.step()
    run.conductor.lost(leg.trial, "gone", "worker died")
    assert run.conductor.report(leg.trial, payload) is False
    assert run.conductor.trials[leg.trial].steps == 0


def test_interrupt_ends_at_the_next_report_and_resumes(tmp_path: Path) -> None:
    run = engine(tmp_path, "trainable=test_bowl", "budget.trials=3")
    count = 0

    def press(payload: dict) -> dict:
        nonlocal count
        count += 1
        if count == 12:
            run.conductor.interrupt()
        return payload

    run.run(before_report=press)
    assert run.state == "interrupted"
    assert [t["state"] for t in trials(run.store)] == ["complete", "interrupted"]
    assert trials(run.store)[1]["reason"] == "interrupted at step 3"
    again = engine(tmp_path)
    again.run()
    assert [t["state"] for t in trials(again.store)] == ["complete"] * 3
    assert again.store.table("results", "s").num_rows == 27


def test_minutes_are_a_budget_too(tmp_path: Path) -> None:
    run = engine(tmp_path, "trainable=test_bowl", "budget.trials=500", "budget.minutes=0.005")
    run.run()
    rows = trials(run.store)
    assert run.state == "finished"
    assert 0 < len(rows) < 500
    again = engine(tmp_path, changes=["budget.minutes=+0.005"])
    assert not again.conductor.finished
    again.run()
    assert len(trials(again.store)) > len(rows)
    assert "interrupted" not in {t["state"] for t in trials(again.store)[: len(rows)]}


def test_checkpoints_of_done_trials_are_dropped_but_the_best(tmp_path: Path) -> None:
    run = engine(tmp_path, "trainable=test_bowl", "budget.trials=5")
    keeper = Keeper(Checkpoints(run.post.checkpoints), "best", "min", print)
    run.conductor.on_end = keeper.ended
    run.run()
    kept = {p.parent.name for p in Path(run.post.checkpoints).rglob("*.ckpt")}
    assert kept == {min(trials(run.store), key=lambda t: t["value"])["trial"]}


def test_timeouts_are_counted_from_the_last_sign_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = engine(tmp_path, "trainable=test_bowl", "budget.trials=1", "budget.trial_timeout=5")
    import fairsweep.cluster.engine.conductor as module

    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    leg = run.conductor.next_leg()
    assert leg is not None
    clock[0] += 4
    run.conductor.heard_from(leg.trial)
    clock[0] += 4
    assert run.conductor.overdue() == []
    clock[0] += 2
    assert run.conductor.overdue() == [leg.trial]
    run.conductor.lost(leg.trial, "killed", "timed out")
    trial = run.conductor.trials[leg.trial]
    assert trial.state == "failed" and trial.reason == "timed out: no report for 5 s after step 0"


def test_importance_counts_stopped_trials_at_an_equal_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 24 configurations under ASHA a few are complete, of which Optuna's measures would be made alone."""
    run = engine(
        tmp_path, "trainable=test_bowl", "budget.trials=24", "scheduler=asha", "search=random", "seeds=2"
    )
    run.run()
    complete = [t for t in trials(run.store) if t["state"] == "complete"]
    assert 0 < len(complete) < 20
    assert run_cli(["importance", "s", "--storage", str(tmp_path), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["objectives"]
    assert (found["step"], found["configurations"], found["left_out"]) == (1, 24, {})
    assert found["importance"][0]["parameter"] == "y", "0.1 y varies most in the bowl"
    assert found["by_seed"] == {"0": "y", "1": "y"} and "y by 2 of 2 seeds" in " ".join(found["notes"])
    assert run_cli(["importance", "s", "--storage", str(tmp_path), "--step", "9"]) == 2
    assert "configurations that came to step 9; importance needs at least 10" in capsys.readouterr().err
