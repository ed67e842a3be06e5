"""A sweep over three machines that die, join and are cut off, and whose driver is killed and taken up elsewhere."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fairsweep.analysis.store import Store
from tests import nodes
from tests.cluster.test_crash import finish, reports

TRIALS, STEPS = 60, 40  # of 50 ms each
CUT_S = 20.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def machines() -> Iterator[nodes.Machines]:
    why = nodes.missing()
    if why:
        pytest.skip(why)
    made = nodes.Machines()
    try:
        yield made
    finally:
        made.close()


class Run:
    """One sweep, its drivers one after the other, and what was seen of it while it ran."""

    def __init__(self, machines: nodes.Machines, folder: Path, seed: int) -> None:
        self.machines, self.rng, self.seed = machines, random.Random(seed), seed
        self.store, self.trace = folder / "store", folder / "trace"
        self.trace.touch()
        self.seen: dict[tuple[str, int], float] = {}
        self.done: list[
            tuple[int, set[str]]
        ] = []  # size of the trace, and which trials were complete by then
        self.told: list[str] = []
        self.began = time.monotonic()
        self.where = machines.workers[0]
        self.driver = machines.fairsweep(
            self.where, "run", "trainable=test_slow", f"budget.trials={TRIALS}", f"budget.steps={STEPS}", "name=s",
            f"storage={self.store}", f"data_dir={folder}", f"cluster.address={machines.address}",
            "budget.checkpoint_seconds=0.5",
        )  # fmt: skip

    def tell(self, text: str) -> None:
        self.told.append(f"{time.monotonic() - self.began:.0f} s ({self.share:.0%}): {text}")

    @property
    def share(self) -> float:
        return len(self.seen) / (TRIALS * STEPS)

    def look(self) -> None:
        """What is in the store stays in it."""
        if not ((self.store / "log" / "s").is_dir() and Store(self.store).has("s")):
            return
        rows = Store(self.store).table("trials", "s").to_pylist()
        size = self.trace.stat().st_size  # what is computed from now on is of none that was complete
        found = reports(self.store)
        assert self.seen.items() <= found.items(), "a report that was acknowledged is gone"
        self.seen = found
        self.done.append((size, {repr(t["config.x"]) for t in rows if t["state"] == "complete"}))

    def wait(self, share: float) -> None:
        """Until so much is reported."""
        until = time.monotonic() + 300
        while self.share < share:
            assert time.monotonic() < until, f"nothing goes on: {self.told}"
            assert self.driver.poll() is None, finish(self.driver)
            self.look()
            time.sleep(0.3)

    def wait_for_driver(self) -> None:
        """Until it writes: one that is still starting is refused where it cannot reach the cluster."""
        until = time.monotonic() + 120
        while self.driver.poll() is None and not Store(self.store).written("s"):
            assert time.monotonic() < until, f"no driver begins: {self.told}"
            time.sleep(0.2)

    def kill_driver(self, machine_too: bool) -> None:
        """Kills the driver, or all of its machine, and goes on with the sweep from another one."""
        self.driver.kill()
        if machine_too:
            self.machines.kill(self.where)
            self.machines.add()
        self.driver.communicate()
        self.tell(f"the driver on {self.where.name} is killed{', with its machine' if machine_too else ''}")
        self.look()
        self.where = self.rng.choice([m for m in self.machines.alive if m is not self.where])
        self.driver = self.machines.fairsweep(self.where, "resume", "s", "--storage", str(self.store))
        self.tell(f"resumed on {self.where.name}")

    def check(self) -> dict[str, Any]:
        """Waits for the end, and looks whether all is there once."""
        while self.driver.poll() is None:
            self.look()
            time.sleep(0.5)
        code, _, err = finish(self.driver)
        assert code == 0, f"{err[-3000:]}\n{self.told}"
        self.look()
        rows = Store(self.store).table("trials", "s").sort_by("number").to_pylist()
        assert [t["state"] for t in rows] == ["complete"] * TRIALS, self.told
        assert sorted(self.seen) == [(t["trial"], step) for t in rows for step in range(1, STEPS + 1)]
        assert len({t["config_id"] for t in rows}) == TRIALS
        assert not Store(self.store).notes("s")
        text = self.trace.read_text()
        for size, complete in self.done:
            again = {line.split()[0] for line in text[size:].splitlines() if line.count(" ") == 3} & complete
            assert not again, f"finished trials were run again: {again}; {self.told}"
        machines = sorted({t["hostname"] for t in rows})
        assert len(machines) >= 2, machines  # one that dies early and one that joins late may end no trial
        computed = sum(line.count(" ") == 3 for line in text.splitlines())
        return {
            "seed": self.seed, "seconds": round(time.monotonic() - self.began), "machines": machines,
            "retries": sum(t["retries"] for t in rows), "steps again": computed - TRIALS * STEPS, "events": self.told,
        }  # fmt: skip


def repetition(machines: nodes.Machines, folder: Path, seed: int, drivers: int) -> dict[str, Any]:
    """A machine dies, another one joins later, the head is cut off, drivers are killed: at moments drawn by `seed`."""
    while len(machines.workers) < 2:
        machines.add()
    folder.mkdir(parents=True)
    run = Run(machines, folder, seed)
    rng = run.rng
    cut: list[Any] = []

    def die() -> None:
        dying = rng.choice([m for m in machines.workers if m is not run.where])
        machines.kill(dying)
        run.tell(f"{dying.name} dies")

    def join() -> None:
        run.tell(f"{machines.add().name} joins")

    def cut_off() -> None:
        run.wait_for_driver()
        cut.append(machines.cut(machines.head, CUT_S))
        run.tell(f"the head is cut off for {CUT_S:g} s")

    def kill() -> None:
        for thread in cut:  # a driver cannot begin on a cluster that it does not reach
            thread.join()
        run.kill_driver(machine_too=rng.random() < 0.3)

    dies = rng.uniform(0.05, 0.5)
    events: list[tuple[float, Callable[[], None]]] = [
        (dies, die), (rng.uniform(dies, 0.7), join), (rng.uniform(0.05, 0.8), cut_off),
        *((rng.uniform(0.1, 0.9), kill) for _ in range(drivers)),
    ]  # fmt: skip
    try:
        for share, event in sorted(events, key=lambda e: e[0]):
            run.wait(share)
            event()
        told = run.check()
    finally:
        for thread in cut:
            thread.join()
        if run.driver.poll() is None:
            run.driver.kill()
            run.driver.communicate()
    print(json.dumps(told))
    return told


def test_a_sweep_survives_machines_that_die_join_and_are_cut_off(
    machines: nodes.Machines, tmp_path: Path
) -> None:
    repetition(machines, tmp_path / "faults", seed=1, drivers=0)


def test_a_driver_that_was_killed_goes_on_from_another_machine(
    machines: nodes.Machines, tmp_path: Path
) -> None:
    repetition(machines, tmp_path / "driver", seed=2, drivers=1)


def test_ten_repetitions_at_random_moments(machines: nodes.Machines, tmp_path: Path) -> None:
    for seed in range(100, 110):
        repetition(machines, tmp_path / str(seed), seed, drivers=seed % 3)
        shutil.rmtree(tmp_path / str(seed), ignore_errors=True)


def test_a_driver_does_not_wait_long_for_a_cluster_that_has_ended(tmp_path: Path) -> None:
    why = nodes.missing()
    if why:
        pytest.skip(why)
    made = nodes.Machines(workers=1)
    try:
        run = Run(made, tmp_path, seed=0)
        run.wait(0.05)
        made.end_all_of(made.head)
        began = time.monotonic()
        code, _, err = finish(run.driver, 60)
        print(f"ended {time.monotonic() - began:.1f} s after the head: {err.splitlines()[-1]}")
        assert code == 1 and "Traceback" not in err, err
        assert "has ended" in err and "`fairsweep resume s --storage" in err, err
        assert time.monotonic() - began < 30
        (row,) = Store(run.store).table("sweeps", "s").to_pylist()
        assert row["state"] == "interrupted"
        run.look()
        assert "running" not in Store(run.store).table("trials", "s").column("state").to_pylist()
    finally:
        made.close()


def test_nothing_is_left_of_a_cluster() -> None:
    why = nodes.missing()
    if why:
        pytest.skip(why)
    made = nodes.Machines(workers=0)
    spaces = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    assert made.head.space in spaces and made.processes(made.head)
    pids = made.processes(made.head)
    made.close()
    spaces = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    assert made.head.space not in spaces and not made.base.exists()
    assert not [pid for pid in pids if alive(pid)]


def alive(pid: int) -> bool:
    """Whether there is such a process, not only what is left of one for a parent to see."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return False
