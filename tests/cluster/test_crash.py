"""`kill -9` of the driver, interrupts, and resuming: as a user does it, in processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fairsweep.analysis.store import Store

ROOT = Path(__file__).parents[2]


def start(*arguments: str) -> subprocess.Popen[str]:
    env = {**os.environ, "FAIRSWEEP_PLUGINS": "tests.papers"}
    return subprocess.Popen(
        [sys.executable, "-m", "cluster", *arguments],
        cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str], seconds: float = 200) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def reports(store: Path, sweep: str = "s") -> dict[tuple[str, int], float]:
    rows = Store(store).table("results", sweep).to_pylist()
    found = {(r["trial"], r["step"]): r["metric.val_loss"] for r in rows}
    assert len(found) == len(rows), "a report is doubled"
    return found


def wait_for_reports(
    process: subprocess.Popen[str], store: Path, more_than: int, seconds: float = 60
) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        if (store / "log" / "s").is_dir() and Store(store).has("s") and len(reports(store)) > more_than:
            return
        time.sleep(0.1)


def killed(
    process: subprocess.Popen[str], store: Path, acknowledged: dict[tuple[str, int], float]
) -> dict[tuple[str, int], float]:
    """Kills a driver; the reports in its store, among them all that were `acknowledged`."""
    assert process.poll() is None, "the sweep ended before it was killed; give it more trials"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    found = reports(store)
    assert acknowledged.items() <= found.items(), "a report that was acknowledged is gone"
    return found


def kill_and_resume(tmp_path: Path, kills: int, trials: int, seed: int) -> None:
    rng = random.Random(seed)
    store = tmp_path / "store"
    command = ["run", "trainable=test_slow", f"budget.trials={trials}", "name=s", f"storage={store}",
               f"data_dir={tmp_path}", "budget.checkpoint_seconds=0.3"]  # fmt: skip
    acknowledged: dict[tuple[str, int], float] = {}
    complete: set[str] = set()
    for _ in range(kills):
        process = start(*command)
        wait_for_reports(process, store, len(acknowledged))
        time.sleep(rng.uniform(0.0, 2.0))
        acknowledged = killed(process, store, acknowledged)
        rows = Store(store).table("trials", "s").to_pylist()
        complete |= {t["trial"] for t in rows if t["state"] == "complete"}
        assert Store(store).notes("s"), "a reader is told that the sweep did not end"
        with open(tmp_path / "trace", "a") as f:
            f.write(f"killed {json.dumps(sorted(complete))}\n")
        command = ["resume", "s", "--storage", str(store)]
    code, _out, err = finish(start(*command))
    assert code == 0, err
    assert "recovered" in err
    final = reports(store)
    assert acknowledged.items() <= final.items()
    rows = Store(store).table("trials", "s").sort_by("number").to_pylist()
    assert len(rows) == trials
    assert {t["state"] for t in rows} == {"complete"}
    assert sorted(final) == sorted((t["trial"], step) for t in rows for step in range(1, 13))
    assert not Store(store).notes("s")
    done: set[str] = set()
    by_x = {repr(t["config.x"]): t["trial"] for t in rows}
    for line in (tmp_path / "trace").read_text().splitlines():
        if line.startswith("killed "):
            done = set(json.loads(line.removeprefix("killed ")))
        else:
            assert by_x[line.split()[0]] not in done, "a finished trial was run again"


@pytest.mark.timeout(280)
def test_driver_killed(tmp_path: Path) -> None:
    kill_and_resume(tmp_path, kills=1, trials=8, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_driver_killed_at_twenty_random_moments(tmp_path: Path) -> None:
    kill_and_resume(tmp_path, kills=20, trials=160, seed=20)


@pytest.mark.timeout(200)
def test_one_interrupt_ends_cleanly_and_says_how_to_resume(tmp_path: Path) -> None:
    store = tmp_path / "store"
    process = start(
        "run", "trainable=test_slow", "budget.trials=400", "name=s", f"storage={store}", "budget.steps=30"
    )
    wait_for_reports(process, store, 10)
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process, 60)
    assert code == 130
    assert f"fairsweep resume s --storage {store}" in out
    rows: list[dict[str, Any]] = Store(store).table("trials", "s").to_pylist()
    assert not {t["state"] for t in rows} & {"running"}
    interrupted = [t for t in rows if t["state"] == "interrupted"]
    assert interrupted and all(t["reason"].startswith("interrupted at step") for t in interrupted)
    assert Store(store).table("sweeps", "s").to_pylist()[0]["state"] == "interrupted"
    before = reports(store)
    for trial in interrupted:
        kept = list((store / "checkpoints" / "s" / trial["trial"]).glob("*.ckpt"))
        assert kept or not trial["steps"], "an interrupted trial that has taken a step keeps its checkpoint"
    process = start("resume", "s", f"storage={store}", "budget.minutes=+1")
    wait_for_reports(process, store, len(before))
    os.killpg(
        process.pid, signal.SIGTERM
    )  # as `timeout` and shells send it: it must not end Ray under the driver
    code, out, err = finish(process, 60)
    assert code == 130, err
    assert err.count("interrupted at step") == 2, "running trials ended at their next report"
    assert Store(store).table("sweeps", "s").to_pylist()[0]["closed"]
    after = reports(store)
    assert before.items() <= after.items() and len(after) > len(before)


def descendants(pid: int) -> dict[int, str]:
    """Processes below `pid`: number and command."""
    rows = subprocess.run(
        ["ps", "-ewwo", "pid,ppid,args"], capture_output=True, text=True
    ).stdout.splitlines()
    found: dict[int, str] = {}
    parents = {pid}
    for row in rows[1:] * 5:  # children may be listed before their parents
        number, parent, command = row.split(None, 2)
        if int(parent) in parents:
            parents.add(int(number))
            found[int(number)] = command
    return found


@pytest.mark.slow
@pytest.mark.parametrize("gone", ["raylet", "gcs_server", "everything"])
def test_a_driver_closes_its_books_when_ray_is_gone(tmp_path: Path, gone: str) -> None:
    """Killed for want of memory, or with the whole job (SLURM, systemd): Ray would end the driver in a minute."""
    store = tmp_path / "store"
    process = start("run", "trainable=test_slow", "budget.trials=90", "name=s", f"storage={store}")
    wait_for_reports(process, store, 10)
    family = descendants(process.pid)
    began = time.monotonic()
    if gone == "everything":
        for number in (process.pid, *family):
            os.kill(number, signal.SIGTERM)
    else:
        (number,) = [n for n, command in family.items() if command.split()[0].endswith(f"/{gone}")]
        os.kill(number, signal.SIGKILL)
    code, _, err = finish(process, 100)
    assert time.monotonic() - began < 45
    assert code == (130 if gone == "everything" else 1), err
    assert gone == "everything" or err.count("Ray's") == 1, err
    assert "Traceback" not in err
    row = Store(store).table("sweeps", "s").to_pylist()[0]
    assert row["state"] == "interrupted" and row["elapsed_s"] > 0
    code, _, err = finish(start("resume", "s", f"storage={store}", "budget.minutes=0.2"))
    assert code in (0, 2), err


SEARCH = (
    "nas", "algorithm=pa_da", "supernet=chain", "data=digits", "seed=3", "train.steps=6", "search.evaluations=60",
    "search.batch=10", "retrain.top=2", "retrain.seeds=2", "retrain.steps=12", "budget.concurrent=1",
    "budget.checkpoint_seconds=0.2", "--quiet",
)  # fmt: skip


def architectures(store: Path) -> list[dict[str, Any]]:
    rows = Store(store).table("architectures", "s").to_pylist()
    return [{k: v for k, v in row.items() if k != "folder"} for row in rows]


def wait_for_phase(process: subprocess.Popen[str], store: Path, phase: str, seconds: float = 120) -> None:
    """Until a trial of `phase` runs and one has reported, not always the same: a batch is scored in a moment."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        if (store / "log" / "s").is_dir() and Store(store).has("s"):
            record = Store(store).read("s")
            reported = {row["trial"] for row in record.results}
            of_phase = [t for t in record.trials.values() if t["config.phase"] == phase]
            if any(t["state"] == "running" for t in of_phase) and reported & {t["trial"] for t in of_phase}:
                return
        time.sleep(0.02)
    raise AssertionError(f"no trial of the phase {phase} was seen running: {finish(process)}")


@pytest.mark.slow
def test_search_killed_in_each_phase_ends_as_the_uninterrupted_one(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    code, _, err = finish(start(*SEARCH, "name=s", f"storage={whole}"))
    assert code == 0, err
    for phase in ("train", "score", "retrain"):
        store = tmp_path / phase
        process = start(*SEARCH, "name=s", f"storage={store}")
        wait_for_phase(process, store, phase)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        code, _, err = finish(start("resume", "s", "--storage", str(store), "--quiet"))
        assert code == 0, err
        assert architectures(store) == architectures(whole)
        for row in Store(store).table("architectures", "s").to_pylist():
            assert row["alone"] is None or Path(row["folder"], "architecture.svg").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("grow", [False, True])
def test_a_search_runs_from_the_command_line_and_can_grow(tmp_path: Path, grow: bool) -> None:
    small = ["train.steps=1", "search.evaluations=6", "search.batch=3", "retrain.top=1", "retrain.seeds=1",
             "retrain.steps=1", "name=s", f"storage={tmp_path}", "cluster.cpus=1"]  # fmt: skip
    code, out, err = finish(start("nas", "supernet=chain", *small, "--json"))
    assert code == 0, err
    answer = json.loads(out)
    assert answer["state"] == "finished" and answer["front"] and len(answer["retrained"]) == 1
    assert len(architectures(tmp_path)) == 6
    if grow:
        code, out, err = finish(start("resume", "s", f"storage={tmp_path}", "search.evaluations=+3"))
        assert code == 0, err
        assert "front of 9 scored" in out and "architecture.svg" in out
        assert len(architectures(tmp_path)) == 9


def bundled_and_killed(tmp_path: Path, trials: int, drivers: int, workers: int, seed: int) -> None:
    """A sweep of short trials in bundles, on one slot, whose driver and workers are killed at random moments."""
    from tests.cluster.test_conductor import engine

    rng, store = random.Random(seed), tmp_path / "store"
    (tmp_path / "trace").touch()
    command = [
        "run", "trainable=test_short", "search=random", f"budget.trials={trials}", "name=s", f"storage={store}",
        f"data_dir={tmp_path}", "budget.concurrent=1", "keep_checkpoints=none", "--quiet",
    ]  # fmt: skip
    acknowledged: dict[tuple[str, int], float] = {}
    for kill in range(drivers + 1):
        process = start(*command)
        command = ["resume", "s", "--storage", str(store), "--quiet"]
        for _ in range(workers // (drivers + 1)):
            wait_for_reports(process, store, len(acknowledged))
            time.sleep(rng.uniform(0.0, 0.4))
            for number, what in descendants(process.pid).items():
                if "ray::Place" in what:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(number, signal.SIGKILL)
            found = reports(store)
            assert acknowledged.items() <= found.items()
            acknowledged = found
        if kill == drivers:
            break
        wait_for_reports(process, store, len(acknowledged))
        time.sleep(rng.uniform(0.0, 0.4))
        acknowledged = killed(process, store, acknowledged)
        by_id = {t["trial"]: t for t in Store(store).table("trials", "s").to_pylist()}
        with open(tmp_path / "trace", "a") as f:
            f.write(f"killed {json.dumps([repr(by_id[t]['config.x']) for t, _ in acknowledged])}\n")
    code, _, err = finish(process, 400)
    assert code == 0, err
    final, rows = reports(store), Store(store).table("trials", "s").sort_by("number").to_pylist()
    assert acknowledged.items() <= final.items()
    assert [t["state"] for t in rows] == ["complete"] * trials
    assert sorted(final) == [(t["trial"], 1) for t in rows]
    whole = engine(
        tmp_path / "whole", "trainable=test_short", "search=random", f"budget.trials={trials}"
    ).conductor
    asked = [whole.next_legs(1)[0].config]
    while len(asked) < trials:
        whole.active.clear()  # as if it were over: what is suggested does not depend on it
        asked.append(whole.next_legs(1)[0].config)
    assert [json.loads(t["config_json"]) for t in rows] == asked
    done: set[str] = set()
    for line in (tmp_path / "trace").read_text().splitlines():
        if line.startswith("killed "):
            done |= set(json.loads(line.removeprefix("killed ")))
        else:
            assert line not in done, "a finished trial was run again"


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_bundles_survive_kills_of_driver_and_workers(tmp_path: Path) -> None:
    bundled_and_killed(tmp_path, trials=1500, drivers=1, workers=4, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_bundles_survive_twenty_kills_of_each(tmp_path: Path) -> None:
    bundled_and_killed(tmp_path, trials=5000, drivers=20, workers=21, seed=20)
