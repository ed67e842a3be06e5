"""W&B's own client under our tracker: offline without a server, online against the stand-in on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fairsweep.analysis.store import Store
from fairsweep.cluster import config
from fairsweep.cluster.engine.worker import LegRunner
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs import tracked
from fairsweep.cluster.tracking import ending, wandb_runs, why_not
from fairsweep.cluster.tracking.wandb_runs import OF_ONE_RUN, WandbRun, agent_of
from tests.cluster.test_conductor import Engine, engine, trials
from tests.wandb_server import ENTITY, PROJECT, Run, Server, inspected, known_to_wandb

BOWL = ("trainable=test_bowl", "search=random", "tracking=wandb")


def test_why_wandb_cannot_start_is_known_before_the_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    online = {"name": "wandb", "mode": "online", "project": "p"}
    assert "Invalid project name 'a/b'" in str(why_not({**online, "mode": "offline", "project": "a/b"}))
    assert why_not({**online, "mode": "offline"}) is None
    assert why_not({"name": "none"}) is None
    with pytest.raises(UserError, match="W&B has no API key here; set WANDB_API_KEY"):
        tracked.check(config.load([*BOWL, "budget.trials=1", "tracking.mode=online"]))


def test_only_folders_of_the_trial_itself_are_replaced(tmp_path: Path) -> None:
    for name in ("ab-00000-0", "ab-00000-0-1", "xab-00000-0", "ab-00000-01", "x-ab-00000-0"):
        (tmp_path / "wandb" / f"offline-run-20261129_211500-{name}").mkdir(parents=True)
    run = object.__new__(WandbRun)
    run.options, run.key = {"dir": str(tmp_path)}, "ab-00000-0"
    assert [path.name[28:] for path in run._folders()] == ["ab-00000-0", "ab-00000-0-1"]


def as_agent(monkeypatch: pytest.MonkeyPatch, folder: Path, args: dict[str, Any]) -> None:
    """The environment in which W&B's agent starts a run."""
    path = folder / "config-r1.yaml"
    path.write_text(yaml.safe_dump({"wandb_version": 1, **{name: {"value": v} for name, v in args.items()}}))
    for name, value in (
        ("WANDB_SWEEP_ID", "sw1"),
        ("WANDB_RUN_ID", "r1"),
        ("WANDB_SWEEP_PARAM_PATH", str(path)),
        ("WANDB_PROJECT", "theirs"),
        ("WANDB_ENTITY", "team"),
    ):
        monkeypatch.setenv(name, value)


def test_what_an_agent_says_of_its_run_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert agent_of({"WANDB_PROJECT": "p"}) is None
    as_agent(monkeypatch, tmp_path, {"x": 0.5, "space.y": 1})
    agent = agent_of(os.environ)
    assert agent is not None and set(agent["names"]) == {"x", "space.y"}
    assert {k: agent[k] for k in ("run", "sweep", "project", "entity")} == {
        "run": "r1", "sweep": "sw1", "project": "theirs", "entity": "team",
    }  # fmt: skip


def folders(root: Path) -> list[str]:
    return sorted(path.name.split("-", 3)[3] for path in root.glob("wandb/*/wandb/offline-run-*"))


def test_under_an_agent_trials_have_runs_of_their_own_and_a_trial_alone_has_the_agents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_agent(monkeypatch, tmp_path, {"space.x": 0.25})
    two = engine(tmp_path / "two", *BOWL, "budget.trials=2")
    one = engine(tmp_path / "one", *BOWL, "budget.trials=1", "space.x=0.25")
    configs = []
    opened = WandbRun._config
    monkeypatch.setattr(WandbRun, "_config", lambda run: configs.append(opened(run)) or configs[-1])
    two.run()
    one.run()
    ending.drain(30.0)
    token = two.post.tracking["token"]
    assert folders(tmp_path / "two") == [f"{token}-00000-0", f"{token}-00001-0"]
    assert folders(tmp_path / "one") == ["r1"]
    assert configs[-1]["space.x"] == 0.25 and "x" not in configs[-1], "each parameter stands once"
    assert "x" in configs[0]
    assert not set(OF_ONE_RUN) & set(os.environ) - {"WANDB_SERVICE"}


@pytest.mark.slow
def test_an_offline_run_on_disk_is_one_and_whole(tmp_path: Path) -> None:
    """What W&B's own reader finds of a trial that was paused and promoted, or lost its worker."""
    run = engine(tmp_path, *BOWL, "budget.trials=1", "scheduler=asha")
    leg = run.conductor.next_leg()
    assert leg is not None
    place = LegRunner(run.post)
    place.take(leg)
    while not run.conductor.report(leg.trial, payload := json.loads(json.dumps(place.step()))):
        assert payload["status"] == "running", "it pauses at its first rung"
        break
    place.close()
    run.run()
    ending.drain(30.0)
    (row,) = trials(run.store)
    assert row["state"] == "complete"
    found = list(Path(tmp_path).glob("wandb/s/wandb/offline-run-*"))
    assert len(found) == 1, found
    (file,) = found[0].glob("*.wandb")
    text = inspected(file)
    losses = [r["metric.val_loss"] for r in run.store.table("results", "s").to_pylist()]
    assert len(losses) == 9
    for loss in losses:
        assert repr(loss)[:8] in text, (loss, text[-2000:])


# -- online, against the stand-in -----------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that is W&B for this process; what the client knew of another is forgotten."""
    monkeypatch.setattr(wandb_runs, "_offline_until", 0.0)
    with known_to_wandb(monkeypatch) as found:
        os.environ.pop("WANDB_SERVICE", None)
        yield found
    os.environ.pop("WANDB_SERVICE", None)


ONLINE = (
    "tracking=wandb",
    "tracking.mode=online",
    f"tracking.project={PROJECT}",
    f"tracking.entity={ENTITY}",
)


def only(server: Server, run: Engine, trial: str = "00000-0") -> Run:
    return server.runs[f"{run.post.tracking['token']}-{trial}"]


def test_the_server_hears_what_became_of_each_trial(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run a trial, with the value of the store, taken up where it stood; failed as failed, cut off as preempted."""
    known: list[int] = []
    open_run = WandbRun._open

    def opened(made: WandbRun, *arguments: Any) -> None:
        open_run(made, *arguments)
        known.append(made.known)

    monkeypatch.setattr(WandbRun, "_open", opened)
    bowl = engine(tmp_path / "a", *ONLINE, "trainable=test_bowl", "budget.trials=1", "search=random")
    leg = bowl.conductor.next_leg()
    assert leg is not None
    place = LegRunner(bowl.post)
    place.take(leg)
    bowl.conductor.report(leg.trial, place.step())
    bowl.conductor.interrupt()
    bowl.conductor.report(leg.trial, place.step())
    place.close(cut_off=True)
    bowl.writer.close(state="interrupted")
    told = only(server, bowl)
    assert (told.exitcode, told.preempting, len(told.rows)) == (255, True, 2)
    again = engine(tmp_path / "a")
    again.run()
    assert known == [0, 3], "what the server has is not told again"
    faulty = engine(tmp_path / "b", *ONLINE, "trainable=test_faulty", "budget.trials=1", "space.fault=raise")
    faulty.run()
    assert ending.drain(30.0) == []
    results = again.store.table("results", "s").to_pylist()
    assert told.values("val_loss") == [pytest.approx(r["metric.val_loss"]) for r in results]
    assert [row["_step"] for row in told.rows] == list(range(1, 10))
    (row,) = trials(again.store)
    assert told.exitcode == 0 and told.state == "finished"
    assert told.summary["val_loss"] == pytest.approx(row["value"]) and told.summary["status"] == "complete"
    assert told.config["paper"] == "test_bowl" and told.config["data"] == "bowl" and told.config["seed"] == 0
    assert told.config["git_commit"] == row["git_commit"] and told.config["x"] == row["config.x"]
    assert told.sent["groupName"] == "s" and told.sent["jobType"] == "trial"
    failed = only(server, faulty)
    assert failed.exitcode == 1 and failed.state == "failed"
    assert failed.summary["reason"] == trials(faulty.store)[0]["reason"]
    assert len(server.runs) == 2 and not server.refused


@pytest.mark.slow
def test_a_stop_on_a_runs_page_ends_that_trial_alone(tmp_path: Path, server: Server) -> None:
    """The client asks every 15 s. The process, which is Ray's worker elsewhere, gets no signal."""
    run = engine(
        tmp_path,
        *ONLINE,
        "trainable=test_slow",
        "budget.trials=2",
        "budget.steps=600",
        "search=random",
        "budget.concurrent=2",
    )
    places = []
    for _ in range(2):
        leg = run.conductor.next_leg()
        assert leg is not None
        places.append(LegRunner(run.post))
        places[-1].take(leg)
        run.conductor.report(leg.trial, places[-1].step())
    server.stop(only(server, run, "00000-0").name)
    until = time.monotonic() + 40
    while run.conductor.trials["00000-0"].state == "running" and time.monotonic() < until:
        for place in places:
            report = place.step()
            assert run.conductor.report(report["trial"], report) or report["trial"] == "00000-0"
    first = run.conductor.trials["00000-0"]
    assert (first.state, first.reason) == ("pruned", "stopped on the pages of wandb")
    assert run.conductor.trials["00001-0"].state == "running"
    assert places[1].step()["status"] == "running"
    run.conductor.interrupt()
    places[1].close(cut_off=True)
    run.conductor.close()
    run.writer.close(state="interrupted")
    ending.drain(20.0)
    assert only(server, run, "00000-0").summary["status"] == "pruned"
    assert only(server, run, "00001-0").exitcode == 255


@pytest.mark.slow
def test_thousands_of_steps_under_a_server_that_limits_its_rate(tmp_path: Path, server: Server) -> None:
    run = engine(
        tmp_path, *ONLINE, "trainable=test_bowl", "budget.trials=1", "budget.steps=4000", "search=random"
    )
    server.fail(429, times=1, where="UpsertBucket")
    server.fail(429, times=2, where="file_stream")
    began = time.monotonic()
    run.run()
    took = time.monotonic() - began
    assert ending.drain(60.0) == []
    told = only(server, run)
    assert [row["_step"] for row in told.rows] == list(range(1, 4001)) and told.exitcode == 0
    assert server.refused["429"] == 3
    (row,) = trials(run.store)
    assert row["state"] == "complete" and row["cost_s"] < 15 and took < 40, (row["cost_s"], took)


@pytest.mark.slow
def test_a_server_that_goes_away_holds_nothing_up_and_leaves_whole_runs_on_disk(
    tmp_path: Path, server: Server
) -> None:
    wanted = ("trainable=test_bowl", "budget.trials=6", "search=random", "tracking.finish_timeout_s=3")
    run = engine(tmp_path, *ONLINE, *wanted)
    seen: list[str] = []

    def before(report: dict[str, Any]) -> dict[str, Any]:
        seen.append(report["trial"])
        server.away(len(set(seen)) > 1)
        return report

    began = time.monotonic()
    run.run(before_report=before)
    took = time.monotonic() - began
    assert {t["state"] for t in trials(run.store)} == {"complete"} and took < 15, took
    assert any("its next runs are offline" in note or "takes longer" in note for note in run.store.notes("s"))
    ending.drain(10.0)
    results = run.store.table("results", "s").to_pylist()
    for row in trials(run.store):
        files = list(tmp_path.glob(f"wandb/s/wandb/*run-*{row['trial']}/*.wandb"))
        own = [r["metric.val_loss"] for r in results if r["trial"] == row["trial"]]
        texts = [inspected(file) for file in files]
        assert any(all(repr(loss)[:8] in text for loss in own) for text in texts), row["trial"]


ROOT = Path(__file__).parents[2]


def as_cli(server: Server | None = None) -> dict[str, str]:
    python = str(Path(sys.executable).parent)
    variables = server.variables() if server else {}
    variables.pop("WANDB_MODE", None)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    kept |= {"FAIRSWEEP_PLUGINS": "tests.papers", "PYTHONPATH": str(ROOT)}
    return {**kept, **variables, "PATH": f"{python}:{os.environ['PATH']}"}


@pytest.mark.slow
def test_wandbs_own_agent_runs_the_sweep_that_we_export(tmp_path: Path, server: Server) -> None:
    """The server hears of each run and its metric, each parameter stands once, a failed run is a failed one."""
    from fairsweep.trainables import catalog

    paper = catalog.get("test_faulty")
    config = paper.space().to_wandb("val_loss", "min", method="random")
    at = config["command"].index("trainable=test_faulty")
    config["command"][at:at] = [f"storage={tmp_path / 'store'}"]
    values = [{"x": 0.5, "fault": "none"}, {"x": 0.25, "fault": "raise"}]
    sweep = server.sweep(config, values)
    words = [sys.executable, "-m", "wandb", "agent", f"{ENTITY}/{PROJECT}/{sweep}"]
    done = subprocess.run(
        words,
        cwd=ROOT,
        env={**as_cli(server), "WANDB_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    first, second = server.of_sweep(sweep)
    assert first.state == "finished" and first.exitcode == 0, done.stderr[-3000:]
    assert len(first.values("val_loss")) == 9 and first.config["x"] == 0.5
    assert second.state == "failed" and second.exitcode == 1 and len(second.values("val_loss")) == 2
    assert not [name for name in first.config if name.startswith("space.")]
    assert first.summary["val_loss"] == min(first.values("val_loss"))
    assert set(server.runs) == {first.name, second.name}, "no run beside those of the sweep"


@pytest.mark.slow
def test_a_sweep_that_has_ended_has_a_run_with_all_that_is_known_of_it(
    tmp_path: Path, server: Server
) -> None:
    words = [
        "run",
        "trainable=test_bowl",
        "budget.trials=12",
        "scheduler=asha",
        "name=s",
        f"storage={tmp_path}",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "cluster", *words, *ONLINE, "tracking.entity=null"],
        cwd=ROOT, env=as_cli(server), capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0 and "note" not in done.stderr, done.stderr
    store = Store(tmp_path)
    (own,) = [run for run in server.runs.values() if run.sent.get("jobType") == "sweep"]
    rest = [run for run in server.runs.values() if run is not own]
    rows = trials(store)
    assert len(rest) == 12 and {run.sent["groupName"] for run in rest} == {"s"} == {own.sent["groupName"]}
    assert sorted(run.summary["status"] for run in rest) == sorted(t["state"] for t in rows)
    assert own.exitcode == 0 and own.summary["status"] == "finished"
    best = min((t for t in rows if t["state"] == "complete"), key=lambda t: t["value"])
    assert own.summary["val_loss"] == pytest.approx(best["value"])
    assert own.summary["best_trial"] == best["trial"] and own.config["git_commit"] == best["git_commit"]
    (table,) = [
        json.loads(data) for name, data in own.uploads.items() if "trials" in name and name.endswith("json")
    ]
    assert len(table["data"]) == 12 and {"trial", "state", "value", "x"} <= set(table["columns"])
    assert any(name.endswith("report.html") and b"<html" in data for name, data in own.uploads.items())
    assert any(name.startswith("importance") for name in own.summary)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["offline", "online", "away"])
def test_an_interrupted_sweep_ends_soon_and_leaves_runs_that_are_whole(
    tmp_path: Path, server: Server, where: str
) -> None:
    """Up to the last report, as W&B's own reader finds them; also of a server that is gone by then."""
    mode = "offline" if where == "offline" else "online"
    words = [
        "run",
        "trainable=test_slow",
        "budget.trials=40",
        "search=random",
        "name=s",
        f"storage={tmp_path}",
    ]
    words += ["tracking=wandb", f"tracking.mode={mode}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "cluster", *words],
        cwd=ROOT,
        env=as_cli(server),
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 120
    while len(list(tmp_path.glob("wandb/s/wandb/*run-*/*.wandb"))) < 4 and time.monotonic() < until:
        time.sleep(0.1)
    server.away(where == "away")
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    said = process.communicate(timeout=100)[1]
    took = time.monotonic() - began
    assert process.returncode == 130, said
    assert took < 20, took
    store = Store(tmp_path)
    results = store.table("results", "s").to_pylist()
    cut_off = [t for t in trials(store) if t["state"] == "interrupted"]
    assert cut_off, said
    for row in [t for t in trials(store) if t["steps"]]:
        files = list(tmp_path.glob(f"wandb/s/wandb/*run-*{row['trial']}/*.wandb"))
        own = [r["metric.val_loss"] for r in results if r["trial"] == row["trial"]]
        text = "".join(inspected(file) for file in files)
        assert len(files) == 1 and all(repr(loss)[:8] in text for loss in own), (row["trial"], text[-2000:])
    if where == "online":
        told = {run.name.partition("-")[2]: run for run in server.runs.values()}
        assert {told[t["trial"]].exitcode for t in cut_off} == {255}
