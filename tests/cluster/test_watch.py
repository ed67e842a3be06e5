"""`fairsweep ls --watch`: in place on a terminal, a line for each change elsewhere, and Ctrl-C is its regular end."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fairsweep.analysis import upkeep
from fairsweep.analysis.store import Store
from fairsweep.cluster.cli import run_cli
from fairsweep.cluster.commands import listing
from fairsweep.cluster.commands.listing import Listing
from tests.cluster.test_studies import ROWS, written


def turns(*deeds: Callable[[], object]) -> Callable[[float], None]:
    """A wait that does one thing after the other, and then is Ctrl-C."""
    left = list(deeds)

    def wait(seconds: float) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop(0)()

    return wait


def test_elsewhere_each_change_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = written(tmp_path, ROWS[:2], "one")

    def more() -> None:
        with store.open("one") as writer:
            writer.trial("00005-0", number=9, config_id=5, seed=0, state="failed")

    code = listing.watch(
        Listing(store, [], False),
        1.0,
        False,
        turns(
            lambda: None,
            more,
            lambda: written(tmp_path, ROWS[:1], "two"),
            lambda: upkeep.tag(store, "two", ["mine"]),
            lambda: upkeep.delete(store, "one"),
        ),
    )
    assert code == 0
    assert capsys.readouterr().out.splitlines() == [
        "one: interrupted, 2 trials: 2 complete",
        "one: interrupted, 3 trials: 2 complete, 1 failed",
        "two: interrupted, 1 trials: 1 complete",
        "two: interrupted, 1 trials: 1 complete [mine]",
        "one: deleted",
    ]


def test_as_json_each_change_is_an_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = written(tmp_path, ROWS[:2], "one")
    (tmp_path / "sweeps" / "bad").mkdir()
    (tmp_path / "sweeps" / "bad" / "sweep.parquet").write_bytes(b"nothing")
    assert (
        listing.watch(Listing(store, [], False), 1.0, True, turns(lambda: upkeep.delete(store, "one"))) == 0
    )
    bad, one, gone = map(json.loads, capsys.readouterr().out.splitlines())
    assert bad["state"] == "damaged" and "sweep.parquet" in bad["damage"]
    assert (one["sweep"], one["trials"], one["state"]) == ("one", 2, "interrupted")
    assert gone == {"sweep": "one", "state": "deleted"}


def test_an_empty_store_says_so_and_waits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deeds = turns(lambda: None, lambda: written(tmp_path, ROWS[:1], "one"))
    assert listing.watch(Listing(Store(tmp_path), [], False), 1.0, False, deeds) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"{tmp_path} has no sweeps yet" and second.startswith("one: interrupted, 1 trials")


def test_only_what_has_changed_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, read = written(tmp_path, ROWS[:2], "one"), []
    written(tmp_path, ROWS[:2], "two", close=False)
    made = Listing._read
    monkeypatch.setattr(Listing, "_read", lambda self, name: (read.append(name), made(self, name))[1])
    found = Listing(store, [], False)
    assert [row["sweep"] for row in found.rows()] == ["one", "two"] and read == ["one", "two"]
    assert len(found.rows()) == 2 and read == ["one", "two"]
    with store.open("two") as writer:
        writer.sweep(state="interrupted")
    assert found.rows()[1]["state"] == "interrupted" and read == ["one", "two", "two"]


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon", "0.1"])
def test_bad_seconds_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], seconds: str) -> None:
    assert run_cli(["ls", f"--watch={seconds}", "--storage", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"fairsweep: error: --watch={seconds}: must be seconds, at least 0.2\n"
    )


def test_on_a_terminal_it_refreshes_in_place_and_ctrl_c_ends_it(tmp_path: Path) -> None:
    store = written(tmp_path, ROWS[:2], "one", close=False)
    master, slave = pty.openpty()
    words = [sys.executable, "-m", "cluster", "ls", "--watch", "0.3", "--storage", str(tmp_path)]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "24"}
    process = subprocess.Popen(
        words, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
    )
    os.close(slave)
    seen = b""

    def until(wanted: str) -> None:
        nonlocal seen
        deadline = time.monotonic() + 60
        while wanted not in seen.decode(errors="replace"):
            assert time.monotonic() < deadline, seen
            if select.select([master], [], [], 0.5)[0]:
                seen += os.read(master, 65536)

    try:
        until("Ctrl-C ends it")
        assert b"driver gone" in seen and b"\x1b[?25l" in seen
        with store.open("one") as writer:
            writer.sweep(state="interrupted")
        until("interrupted")
        process.send_signal(signal.SIGINT)
        until("\x1b[?25h")  # the cursor is back
        assert process.wait(30) == 0
        text = seen.decode()
        assert "Traceback" not in text and re.search(r"\x1b\[\d*A", text)  # went up to write over itself
    finally:
        process.kill()
        process.wait()
        os.close(master)


def test_sweeps_that_are_named_are_listed_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = written(tmp_path, ROWS[:1], "one")
    for name in ("one.part", "two"):
        written(tmp_path, ROWS[:1], name)
    about = {"run": "cmp", "spec": {"methods": [], "data": [], "seeds": 1, "on": "x"}}
    written(tmp_path, ROWS[:1], "cmp.a.0")
    with store.open("cmp.a.0") as writer:
        writer.sweep(comparison=json.dumps(about))

    def listed(*words: str) -> list[str]:
        assert run_cli(["ls", *words, "--storage", str(tmp_path), "--json"]) == 0
        return [row["sweep"] for row in json.loads(capsys.readouterr().out)]

    assert listed("one") == ["one"] and sorted(listed("two", "cmp")) == ["cmp", "two"]
    assert listed("cmp", "--all") == ["cmp.a.0"] and len(listed()) == 4
    assert run_cli(["ls", "on", "--storage", str(tmp_path)]) == 2
    assert "has no such sweep; did you mean one?" in capsys.readouterr().err
