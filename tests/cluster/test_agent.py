"""`fairsweep agent` with the real W&B client against the stand-in of its server; workers in this process, no Ray."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fairsweep.analysis.store import Store
from fairsweep.cluster.cli import run_cli
from fairsweep.cluster.engine.conductor import Conductor
from fairsweep.cluster.engine.worker import LegRunner
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs import sweep
from fairsweep.cluster.service import agent, searching
from fairsweep.cluster.service.slots import Agents, Tally
from fairsweep.cluster.service.sweep_words import read
from fairsweep.cluster.service.wandb_client import Client, connected, parts_of, place_of
from fairsweep.cluster.tracking import drain
from fairsweep.search_spaces.space import SpaceError
from fairsweep.trainables import catalog
from tests.cluster.test_conductor import trials
from tests.wandb_server import ENTITY, PROJECT, Server, known_to_wandb

COMMAND = ["${env}", "${interpreter}", "-m", "fairsweep", "run", "trainable=test_bowl", "${args_no_hyphens}"]
METRIC = {"name": "val_loss", "goal": "minimize"}
EVERY = 0.05


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.chdir(tmp_path)
    with known_to_wandb(monkeypatch) as made:
        yield made


def asked(x: float, kind: str = "a", y: int = 1) -> dict[str, Any]:
    return {"space.x": x, "space.y": y, "space.kind": kind}


def bowls(server: Server, *runs: Mapping[str, Any], **more: Any) -> str:
    """A sweep over the bowl, as `space --to wandb` writes it, whose search answers `runs`."""
    config = {"method": "random", "metric": METRIC, "command": COMMAND}
    config["parameters"] = {name: {"min": 0.0, "max": 1.0} for name in asked(0)}
    return server.sweep(config, runs, **more)


class Driver:
    """What the agent's driver does, with `places` in this process in Ray's stead."""

    def __init__(
        self, folder: Path, sweep_id: str, places: int = 1, count: int | None = None, **words: Any
    ) -> None:
        self.client = Client(api := connected(), place_of(sweep_id, api))
        self.store = Store(folder / "store")
        settings = agent.settings_for(
            self.client, [f"budget.{k}={v}" for k, v in words.items()], self.store.uri, "s", places
        )
        paper = settings.paper
        if self.store.has("s"):
            self.writer, record = self.store.open("s"), None
            record = self.writer.record
        else:
            record = None
            self.writer = self.store.create(
                "s",
                sweep.sweep_row(settings, paper),
                config_fields=settings.space.arrow_fields(),
                metric_names=[m.name for m in paper.metrics],
            )
        self.conductor = sweep.make_conductor(settings, paper, self.writer, places, record)
        self.post = sweep.make_post(settings, self.store, "s")
        self.said: list[str] = []
        self.agents = Agents(self.client, settings.space, "bowl", str(folder), count, EVERY, self.said.append)
        self.agents.attach(self.conductor)

    def run(
        self,
        at_report: Callable[[int, Conductor], None] = lambda number, conductor: None,
        seconds: float = 60.0,
    ) -> str:
        places: list[LegRunner] = []
        number, until = 0, time.monotonic() + seconds
        while not self.conductor.finished:
            assert time.monotonic() < until, "it never ends"
            while (leg := self.conductor.next_leg()) is not None:
                places.append(LegRunner(self.post))
                places[-1].take(leg)
            for place in list(places):
                payload = place.step()
                number += 1
                at_report(number, self.conductor)
                if not self.conductor.report(payload["trial"], payload):
                    place.close(cut_off=self.conductor.trials[payload["trial"]].cut_off)
                    places.remove(place)
            if not places:
                time.sleep(0.01)
        drain(20.0)  # what still tells W&B
        state = self.conductor.close()
        self.agents.close()
        self.writer.close(state=state)
        return state


def test_w_and_b_decides_and_each_of_its_runs_is_a_trial_two_at_a_time(
    server: Server, tmp_path: Path
) -> None:
    sweep_id = bowls(server, asked(0.1), asked(0.2, "b"), asked(7.0), asked(0.4))
    driver = Driver(tmp_path, sweep_id, places=2)
    assert driver.run() == "finished"
    rows = trials(driver.store)
    assert sorted(row["config.x"] for row in rows) == [0.1, 0.2, 0.4]
    assert {row["state"] for row in rows} == {"complete"}
    runs = {run.config.get("space.x"): run for run in server.of_sweep(sweep_id)}
    for row in rows:
        run = runs[row["config.x"]]
        assert run.values("val_loss") == pytest.approx([r["metric.val_loss"] for r in _reports(driver, row)])
        assert (run.state, run.sweep) == ("finished", sweep_id)
        assert "x" not in run.config, "each parameter stands once, by its name in the sweep"
    wrong = runs[7.0]
    assert (wrong.state, wrong.exitcode) == ("failed", 1) and "x=7.0: must lie in" in wrong.summary["error"]
    (note,) = driver.store.notes("s")
    assert note.startswith(f"W&B run {wrong.name} has failed: trainable=test_bowl: x=7.0: must lie in")
    assert len(server.agents) == 2 and all(a.exited for a in server.agents.values())
    assert not driver.agents.problem


def _reports(driver: Driver, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [r for r in driver.store.table("results", "s").to_pylist() if r["trial"] == row["trial"]]


def test_a_stop_ends_a_trial_at_its_next_report_and_an_exit_the_agent(server: Server, tmp_path: Path) -> None:
    sweep_id = bowls(server, asked(0.1), asked(0.2), asked(0.3), endless=True)
    first, second, third = server.of_sweep(sweep_id)
    driver = Driver(tmp_path, sweep_id, report_seconds=0)

    def at_report(number: int, conductor: Conductor) -> None:
        if number in (2, 5):  # of the first, and of the second
            server.stop(first.name) if number == 2 else server.order(type="exit")
            _until(lambda: len(conductor.halted) == (1 if number == 2 else 2))

    assert driver.run(at_report) == "finished"
    rows = trials(driver.store)
    assert [row["state"] for row in rows] == ["pruned", "pruned"]
    assert [row["reason"] for row in rows] == [
        "stopped by W&B at step 2",
        "stopped by W&B at step 3",
    ]
    assert third.name in server.sweeps[sweep_id].waiting, "nothing is taken up after an exit"
    assert len(first.values("val_loss")) == 2 and first.state in ("finished", "killed")
    assert second.exitcode == 0


def _until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_was_cut_off_goes_on_and_what_has_ended_is_not_run_again(server: Server, tmp_path: Path) -> None:
    sweep_id = bowls(server, asked(0.1), asked(0.2), asked(0.3))
    first, second, third = server.of_sweep(sweep_id)
    driver = Driver(tmp_path, sweep_id, report_seconds=0)
    assert driver.run(lambda number, c: c.interrupt() if number == 12 else None) == "interrupted"
    assert [row["state"] for row in trials(driver.store)] == ["complete", "interrupted"]
    server.sweeps[sweep_id].waiting += [first.name, second.name]  # as if it had not heard of the end of one
    driver = Driver(tmp_path, sweep_id, report_seconds=0)
    assert driver.run() == "finished"
    assert [row["state"] for row in trials(driver.store)] == ["complete"] * 3
    assert [len(run.values("val_loss")) for run in (first, second, third)] == [9, 9, 9]
    assert {run.state for run in (first, second, third)} == {"finished"}


def test_it_takes_as_many_runs_as_it_was_told(server: Server, tmp_path: Path) -> None:
    sweep_id = bowls(server, *(asked(k / 10) for k in range(6)), burst=1)
    driver = Driver(tmp_path, sweep_id, places=2, count=3)
    assert driver.run() == "finished"
    assert len(trials(driver.store)) == 3 and len(server.sweeps[sweep_id].waiting) == 3


def test_runs_that_fail_one_after_the_other_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    tally = Tally(failed=2)
    assert not tally.hopeless()
    tally.failed = 3
    assert "the first 3 runs have failed" in tally.hopeless()
    tally.well = 1
    assert not tally.hopeless(), "one that ended well is enough"
    late = Tally(failed=4, began=time.monotonic() - 61)
    assert not late.hopeless()
    late.failed = 5
    assert late.hopeless()
    monkeypatch.setenv("WANDB_AGENT_DISABLE_FLAPPING", "true")
    assert not late.hopeless()


def test_a_run_is_read_as_the_sweep_means_it() -> None:
    space = catalog.get("test_bowl").space()
    assert read({"x": {"value": 1}}, space, "bowl") == {"x": 1.0, "y": 1, "kind": "a"}
    word = {"space.x": {"value": 0.5}, "space.kind": {"value": "'b'"}, "space.y": {"value": 2}}
    assert read(word, space, "bowl", "space.") == {"x": 0.5, "y": 2, "kind": "b"}
    for args, why in (
        ({"x": {"value": "a lot"}}, "x='a lot': must be"),
        ({"z": {"value": 1}}, "z=1: no such parameter"),
        ({"kind": {"value": "c"}}, "kind='c': must be"),
    ):
        with pytest.raises(SpaceError, match=why):
            read(args, space, "bowl")


def test_what_no_agent_can_run_is_refused_before_the_store_is_touched(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = {"method": "random", "parameters": {"x": {"min": 0.0, "max": 1.0}}, "program": "train.py"}
    odd = {**other, "parameters": {"depth": {"value": 1}}, "command": COMMAND}
    wrong_way = {**other, "metric": {**METRIC, "goal": "maximize"}, "command": COMMAND}
    ended = bowls(server)
    server.sweeps[ended].state = "FINISHED"
    for path, words, why in (
        ("nowhere", [], f"{ENTITY}/{PROJECT}/nowhere: W&B does not know this sweep"),
        (ended, [], "is finished: W&B hands out no more runs of it"),
        (bowls(server), ["search=tpe"], "search=tpe: W&B's sweep decides that"),
        (bowls(server), ["seeds=3"], "seeds=3: W&B's sweep decides that"),
        (bowls(server), ["--count", "0"], "--count=0: must be a whole number of at least 1"),
        (server.sweep(other), [], "its command is none of fairsweep's"),
        (server.sweep(odd), [], "its parameter depth: test_bowl has none of this name"),
        (server.sweep(wrong_way), [], "metric.goal=maximize: val_loss of test_bowl is minimized"),
    ):
        assert run_cli(["agent", path, *words, f"storage={tmp_path / 'none'}"]) == 2, path
        (line,) = capsys.readouterr().err.splitlines()
        assert why in line, line
    assert not (tmp_path / "none").exists()


def test_a_sweep_of_an_agent_asks_nobody_without_one(tmp_path: Path) -> None:
    from fairsweep.cluster import config

    settings = config.load(["trainable=test_bowl", f"storage={tmp_path}"])
    settings.tree["search"] = {"name": "outside", "sweep": "e/p/s"}
    with pytest.raises(UserError, match="use `fairsweep agent e/p/s`"):
        sweep.run(settings)


@pytest.mark.parametrize(
    "path", ["a/b/c/d", "http://x/y", "https://wandb.ai/e/p/runs/r", "a//b", "a/b?c", " "]
)
def test_what_is_no_sweeps_path_is_refused_before_anybody_is_asked(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (agent, searching):
        monkeypatch.setattr(module, "connected", lambda: pytest.fail("W&B was asked"))
    for verb in ("agent", "wandb"):
        assert run_cli([verb, path, f"storage={tmp_path / 'none'}"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "must be SWEEP_ID, PROJECT/SWEEP_ID, ENTITY/PROJECT/SWEEP_ID or the URL of its page" in line
    assert parts_of("https://wandb.ai/e/my project/sweeps/s1?nw=x") == ["e", "my project", "s1"]


@pytest.mark.slow
def test_a_server_that_goes_away_for_a_while_ends_nothing(server: Server, tmp_path: Path) -> None:
    sweep_id = bowls(server, *(asked(k / 10) for k in range(4)))
    driver = Driver(tmp_path, sweep_id, report_seconds=0)

    def at_report(number: int, conductor: Conductor) -> None:
        if number == 3:
            server.away(True)
            threading.Timer(20.0, server.away, [False]).start()
            server.fail(429, times=3, where="Heartbeat")

    assert driver.run(at_report, 200.0) == "finished"
    assert {row["state"] for row in trials(driver.store)} == {"complete"}
    first, *others = server.of_sweep(sweep_id)
    assert [len(run.values("val_loss")) for run in others] == [9] * 3
    # The one that ended meanwhile was not waited for longer than `finish_timeout_s`: the rest is on disk, for a sync.
    assert len(first.values("val_loss")) in (0, 9) and list(
        tmp_path.glob(f"store/wandb/s/wandb/*run-*-{first.name}*")
    )


@pytest.mark.slow
def test_on_ray_from_the_command_line_interrupted_and_taken_up_again(server: Server, tmp_path: Path) -> None:
    command = [*COMMAND[:-2], "trainable=test_slow", "budget.steps=60", COMMAND[-1]]
    parameters = {name: {"min": 0.0, "max": 1.0} for name in asked(0)}
    told = {"method": "random", "metric": METRIC, "command": command, "parameters": parameters}
    sweep_id = server.sweep(told, [asked(k / 10) for k in range(6)])
    words = [
        sys.executable,
        "-m",
        "cluster",
        "agent",
        sweep_id,
        "--parallel",
        "2",
        f"storage={tmp_path / 'store'}",
    ]
    root = str(Path(__file__).parents[2])
    run = subprocess.Popen(words, cwd=root, stderr=subprocess.PIPE, text=True)
    _until(lambda: sum(r.starts for r in server.of_sweep(sweep_id)) >= 2, 90)
    time.sleep(1.0)
    run.send_signal(signal.SIGTERM)
    assert run.wait(40) == 130, run.stderr and run.stderr.read()
    states = [row["state"] for row in trials(Store(tmp_path / "store"), f"wandb-{sweep_id}")]
    assert states.count("interrupted") == 2, states
    again = subprocess.run(words, cwd=root, capture_output=True, text=True, timeout=200)
    assert again.returncode == 0, again.stderr
    rows = trials(Store(tmp_path / "store"), f"wandb-{sweep_id}")
    assert [row["state"] for row in rows] == ["complete"] * 6
    for made in server.of_sweep(sweep_id):
        steps = [row["_step"] for row in made.rows]
        assert steps == sorted(set(steps)) and made.state == "finished", made
