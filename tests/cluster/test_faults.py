"""Signals, a disk that is full, a file system that becomes read-only: a clean end, a true table, a right resume."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fairsweep.analysis import _appender
from fairsweep.analysis.store import Store, StoreError
from fairsweep.cluster.display import Display
from fairsweep.cluster.engine.exchange import Exchange
from fairsweep.cluster.jobs import driving
from tests.cluster.test_conductor import engine
from tests.cluster.test_crash import finish, reports, start, wait_for_reports

# -- without Ray --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_each_signal_ends_trials_at_their_next_report(tmp_path: Path, number: int) -> None:
    run = engine(tmp_path, "trainable=test_bowl", "budget.trials=3")
    books = driving.Books(run.conductor, run.writer, Display())
    before = signal.getsignal(number)
    with books.interruptible():
        os.kill(os.getpid(), number)
        assert run.conductor.interrupted
        if number != signal.SIGINT:  # once more within a second, as `timeout` does it
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before
    assert books.close() == "interrupted"
    assert Store(tmp_path).table("sweeps").column("state").to_pylist() == ["interrupted"]


HANGS = """
import os, signal, sys, threading, time
from pathlib import Path
from fairsweep.cluster.display import Display
from fairsweep.cluster.jobs import driving
from tests.cluster.test_conductor import engine

signal.signal(signal.SIGINT, signal.default_int_handler)  # see `heeded`
driving.LAST_S = driving.GONE_GRACE_S = 0.5
run = engine(Path(sys.argv[1]), "trainable=test_bowl", "budget.trials=3")
run.conductor.next_leg()
books = driving.Books(run.conductor, run.writer, Display())

def hang():
    with run.writer.batch() if sys.argv[2] == "writer" else threading.Lock():
        time.sleep(60)

round = threading.Thread(target=hang)
with books.interruptible():
    round.start()
    print("ready", flush=True)
    threading.Event().wait()
"""


@pytest.mark.parametrize("where", ["writer", "search"])
def test_a_second_interrupt_does_not_wait_for_a_round_that_hangs(tmp_path: Path, where: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HANGS, str(tmp_path), where],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and time.monotonic() - began < 5, err
    assert "could not be closed in time" in err and "resume" in err and "Traceback" not in err
    state = Store(tmp_path).table("sweeps").column("state").to_pylist()
    assert state == ["running" if where == "writer" else "interrupted"]
    assert Store(tmp_path).written(Store(tmp_path).sweeps()[0]) is False


def test_a_driver_that_cannot_write_any_more_says_that_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full: there is room for that, and for more trials than the room is for their number is kept short."""

    def full(handle: int, start: int, size: int) -> bool:
        raise OSError(28, "No space left on device")

    run = engine(tmp_path, "trainable=test_bowl", "budget.trials=300", "search=random")
    leg = run.conductor.next_leg()
    assert leg is not None
    run.conductor.active.discard(leg.trial)  # it has told that it is complete, in what could not be written
    monkeypatch.setattr(_appender, "_allocate", full)
    books = driving.Books(run.conductor, run.writer, Display())
    with pytest.raises(StoreError, match="No space left") as caught:
        for _ in range(100_000):
            run.writer.event("note", text="x" * 1000)
    with pytest.raises(
        driving.DriverEnded, match=r"No space left on device; the sweep is interrupted, `fairsweep res"
    ):
        books.fail(caught.value)
    run.writer._release()
    (row,) = Store(tmp_path).table("sweeps").to_pylist()
    assert row["state"] == "interrupted" and row["ended"] is not None
    states = Store(tmp_path).table("trials", row["sweep"]).column("state").to_pylist()
    assert states == ["interrupted"]


def test_trials_are_not_late_where_the_driver_did_not_listen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that did not answer for a minute: what was told meanwhile is heard of afterwards."""
    run = engine(tmp_path, "trainable=test_bowl", "budget.trials=3", "budget.trial_timeout=30")
    leg = run.conductor.next_leg()
    assert leg is not None
    now = [time.monotonic()]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    run.conductor.heard_from(leg.trial)

    class Wires:
        def ready(self, timeout: float) -> list[Any]:
            return []

    exchange = Exchange(run.conductor, Wires(), lambda sweep: "")  # type: ignore[arg-type]
    monkeypatch.setattr(run.conductor, "think", lambda: now.__setitem__(0, now[0] + 60))
    exchange.round(0.0)
    assert not run.conductor.overdue()
    now[0] += 31
    assert run.conductor.overdue() == [leg.trial]


# -- on Ray -------------------------------------------------------------------------------------------


def started(store: Path, *words: str) -> subprocess.Popen[str]:
    process = start("run", "trainable=test_slow", "budget.trials=200", "name=s", f"storage={store}", *words)
    wait_for_reports(process, store, 15)
    return process


def resumed(store: Path, seen: dict[tuple[str, int], float]) -> None:
    """Goes on for some seconds; nothing is lost, nothing is there twice, the sweep is closed."""
    code, _, err = finish(start("resume", "s", "--storage", str(store), "budget.minutes=+0.4"))
    assert code == 0, err
    found = reports(store)
    assert seen.items() <= found.items() and len(found) > len(seen)
    row = Store(store).table("sweeps", "s").to_pylist()[0]
    assert row["closed"]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
@pytest.mark.parametrize("whom", ["driver", "group"])
def test_a_signal_ends_a_sweep_cleanly(tmp_path: Path, number: int, whom: str) -> None:
    store = tmp_path / "store"
    process = started(store)
    seen = reports(store)
    began = time.monotonic()
    (os.kill if whom == "driver" else os.killpg)(process.pid, number)
    code, out, err = finish(process, 60)
    assert code == 130 and time.monotonic() - began < 20, err
    assert "resume" in out and "Traceback" not in err
    (row,) = Store(store).table("sweeps", "s").to_pylist()
    assert row["state"] == "interrupted" and row["closed"]
    assert "running" not in Store(store).table("trials", "s").column("state").to_pylist()
    resumed(store, seen)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a file system of its own: `mount` words but for the place."""
    places: list[Path] = []

    def mount(*words: str) -> Path:
        place = tmp_path / f"mnt{len(places)}"
        place.mkdir()
        done = subprocess.run(["mount", *words, str(place)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"needs to mount: {done.stderr.strip()}")
        places.append(place)
        return place

    if os.name != "posix" or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs to mount: Linux, and root")
    yield mount
    for place in places:
        subprocess.run(["umount", "--lazy", str(place)], capture_output=True)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_full_disk_ends_a_sweep_cleanly(mounted: Callable[..., Path]) -> None:
    disk = mounted("-t", "tmpfs", "-o", "size=4m", "tmpfs")
    store = disk / "store"
    process = started(store)
    ballast = open(disk / "ballast", "wb")  # noqa: SIM115
    with pytest.raises(OSError, match="No space left"):
        while True:
            os.write(ballast.fileno(), b"x" * 4096)
    code, _, err = finish(process, 120)
    assert code == 1 and "Traceback" not in err, err
    (line,) = [line for line in err.splitlines() if "fairsweep: error" in line]
    assert "No space left on device" in line and "`fairsweep resume s --storage" in line
    seen = reports(store)
    (row,) = Store(store).table("sweeps", "s").to_pylist()
    assert row["state"] == "interrupted", "there was room for that"
    assert "running" not in Store(store).table("trials", "s").column("state").to_pylist()
    code, _, err = finish(start("resume", "s", "--storage", str(store)))
    assert code == 1 and "No space left on device" in err and "Traceback" not in err, err
    assert reports(store) == seen
    ballast.close()
    (disk / "ballast").unlink()
    resumed(store, seen)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_store_that_becomes_read_only_ends_a_sweep_cleanly(
    mounted: Callable[..., Path], tmp_path: Path
) -> None:
    """As a file system does that has found an error."""
    image = tmp_path / "image"
    with open(image, "wb") as file:
        file.truncate(64 << 20)
    made = subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"needs ext4: {made.stderr.strip()}")
    disk = mounted("-o", "loop", str(image))
    store = disk / "store"
    process = started(store)
    subprocess.run(["mount", "-o", "remount,abort", str(disk)], check=True)
    code, _, err = finish(process, 120)
    assert code == 1 and "Traceback" not in err, err
    (line,) = [line for line in err.splitlines() if "fairsweep: error" in line]
    # The append is refused, or its sync fails.
    assert "Read-only file system" in line or "Input/output error" in line
    assert "`fairsweep resume s --storage" in line
    seen = reports(store)
    assert "its driver ended abruptly" in Store(store).notes("s")[0], (
        "nothing else can be said on such a disk"
    )
    code, out, _ = finish(start("ls", "--storage", str(store), "--json"))
    assert code == 0 and json.loads(out)[0]["state"] == "driver gone"
    code, _, err = finish(start("resume", "s", "--storage", str(store)))
    assert code == 1 and "Read-only file system" in err and "Traceback" not in err, err
    subprocess.run(["umount", str(disk)], check=True)
    # A copy: the first may be mounted in somebody's namespace still.
    repaired = shutil.copy(image, tmp_path / "repaired")
    subprocess.run(["e2fsck", "-fy", str(repaired)], capture_output=True)
    subprocess.run(["mount", "-o", "loop", str(repaired), str(disk)], check=True)
    assert seen.items() <= reports(store).items()
    resumed(store, seen)
