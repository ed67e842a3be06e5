"""`fairsweep doctor`: each fault that it looks for is made here, and told with what to do; and it changes nothing."""

from __future__ import annotations

import json
import os
import socket
from collections import namedtuple
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import prometheus_client
import psutil
import pytest

from fairsweep.cluster import doors
from fairsweep.cluster.cli import run_cli
from fairsweep.cluster.jobs.prometheus import Server
from fairsweep.cluster.service import checking, doctor, installed, laptop, listening
from fairsweep.cluster.service.checking import BAD, NOT_HERE, OK, WARN, Check
from fairsweep.cluster.service.listening import Listener
from tests.cluster.test_studies import written


def states(checks: list[Check], about: str = "") -> list[str]:
    return [check.state for check in checks if about in check.about]


def test_every_package_is_held_against_its_range(monkeypatch: pytest.MonkeyPatch) -> None:
    found = installed.packages()
    assert states(found) == [OK, OK] and "in their ranges" in found[1].said
    real = installed.version

    def version(name: str) -> str:
        if name == "optuna":
            return "4.1.0"
        if name == "cmaes":
            raise PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(installed, "version", version)
    monkeypatch.setattr(installed.platform, "python_version", lambda: "3.8.1")
    wrong = [check for check in installed.packages() if check.state == BAD]
    assert [check.said for check in wrong] == [
        "3.8.1 is not >=3.10", "optuna 4.1.0 is not <6,>=5.0", "cmaes is not installed",
    ]  # fmt: skip
    assert all(check.todo for check in wrong)


def test_extras_say_what_they_bring(monkeypatch: pytest.MonkeyPatch) -> None:
    real = installed.version

    def version(name: str) -> str:
        if name in ("vl-convert-python", "typst"):
            raise PackageNotFoundError(name)
        return {"duckdb": "0.1"}.get(name) or real(name)

    monkeypatch.setattr(installed, "version", version)
    found = {check.about: check for check in installed.extras()}
    assert "extra dev" not in found and {"extra readers", "extra report", "extra images"} <= set(found)
    report, readers = found["extra report"], found["extra readers"]
    assert report.state == NOT_HERE and "pip install 'fairsweep[report]' brings it" in report.said
    assert checking.as_json([report, Check("x", OK, "")])["ok"] == 1, "what is not installed is not ok"
    assert readers.state == WARN and readers.said == "duckdb 0.1 is not >=1.1"


def test_requirements_are_the_same_from_the_checkout_and_the_package() -> None:
    asked, python = installed.requirements()
    assert python == ">=3.10"
    names = {installed._extra_of(a) for a in asked}
    assert {"", "readers", "dev"} <= names
    (conditional,) = [a for a in asked if a.name == "tomli"]
    assert installed._extra_of(conditional) == "dev" and "python_version" in str(conditional.marker)


def test_a_token_that_others_can_read_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray, own = tmp_path / "ray", tmp_path / "own"
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(ray))
    monkeypatch.setenv(doors.TOKEN_FILE, str(own))
    assert states(doctor.tokens()) == [OK, OK]
    for file in (ray, own):
        file.write_text("the-secret-itself-of-32-letters-x")
        file.chmod(0o644)
    found = doctor.tokens()
    assert states(found) == [BAD, BAD]
    assert found[0].todo == f"chmod 600 {ray}" and "mode 0644" in found[0].said
    assert "secret" not in str(found)
    for file in (ray, own):
        file.chmod(0o600)
    assert states(doctor.tokens()) == [OK, OK]
    monkeypatch.setenv("RAY_AUTH_TOKEN", "the-secret")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    found = doctor.tokens()
    assert states(found) == [WARN, WARN, OK] and "the-secret" not in str(found)


def test_ports_beyond_loopback_are_told_with_the_way_to_close_them() -> None:
    assert states(listening.ports([])) == [OK]
    found = listening.ports(
        [
            Listener("ray", "raylet", 7, "0.0.0.0", 40001),
            Listener("ray", "raylet", 7, "::", 40002),
            Listener("ray", "gcs_server", 6, "127.0.0.1", 6379),
            Listener("dashboard", "Ray's dashboard", 8, "192.0.2.4", 8265),
            Listener("fairsweep", "fairsweep serve", 9, "::ffff:127.0.0.1", 9000),
            Listener("ray", "Ray's autoscaler", 5, "0.0.0.0", 44217),
        ],
        lambda one: one.port == 44217,
    )
    assert states(found) == [WARN, WARN, WARN, OK]
    told, *found = found
    assert "(pid 5) gives its metrics to whoever asks, without a token: 0.0.0.0:44217" in told.said
    assert "firewall" in told.todo and "--metrics-export-port" in told.todo
    assert "raylet (pid 7) listens beyond loopback: 0.0.0.0:40001, :::40002" in found[0].said
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0" in found[0].todo and "--dashboard-host" in found[1].todo
    assert found[2].said == "2 on loopback alone (fairsweep serve, gcs_server)"


def test_a_port_that_tells_everybody_is_found_by_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ray's metrics do (Ray 2.60: autoscaler, dashboard, each node's agent); ours ask for the token."""
    open_, thread = prometheus_client.start_http_server(0, "127.0.0.1")
    closed = Server(prometheus_client.CollectorRegistry(), "a-token", doors.listen("127.0.0.1", 0))
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(1)
        try:
            for address in ("127.0.0.1", "0.0.0.0", "::ffff:127.0.0.1"):
                assert listening.tells_everybody(Listener("ray", "x", 1, address, open_.server_port))
            port = int(closed.url.split(":")[2].split("/")[0])
            assert not listening.tells_everybody(Listener("ray", "x", 1, "127.0.0.1", port))
            monkeypatch.setattr(listening, "PROBE_S", 0.05)
            assert not listening.tells_everybody(
                Listener("ray", "x", 1, "127.0.0.1", silent.getsockname()[1])
            )
        finally:
            closed.close()
            open_.shutdown()
            open_.server_close()
            thread.join()


@pytest.mark.parametrize(
    ("name", "line", "kind"),
    [
        ("raylet", "/x/ray/core/src/ray/raylet/raylet --a", ("ray", "raylet")),
        ("gcs_server", "/x/gcs_server", ("ray", "gcs_server")),
        ("python", "python /x/ray/dashboard/dashboard.py --host=0.0.0.0", ("dashboard", "Ray's dashboard")),
        ("python", "python -u /x/ray/dashboard/agent.py", ("ray", "Ray's dashboard agent")),
        ("python", "python /x/ray/_private/runtime_env/agent/main.py", ("ray", "Ray's runtime environments")),
        ("ray::IDLE", "ray::Place.work", ("ray", "ray::Place.work")),
        ("python", "python -m cluster serve", ("fairsweep", "fairsweep serve")),
        ("fairsweep", "python /bin/fairsweep run trainable=x", ("fairsweep", "fairsweep driver")),
        ("python", "python -m http.server", None),
        ("array", "array of things", None),
    ],
)
def test_processes_are_known_by_their_command(name: str, line: str, kind: Any) -> None:
    assert listening.kind_of(name, line.split()) == kind


def test_what_listens_here_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as mine_too:
        mine_too.bind(("127.0.0.1", 0))
        mine_too.listen(1)
        port = mine_too.getsockname()[1]
        monkeypatch.setattr(
            listening, "kind_of", lambda name, words: ("fairsweep", "a test") if words == mine else None
        )
        mine = psutil.Process().cmdline()
        assert Listener("fairsweep", "a test", os.getpid(), "127.0.0.1", port) in listening.listeners()


def test_a_store_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    store = written(tmp_path / "store")
    before = sorted(tmp_path.rglob("*"))
    found = doctor.store(str(tmp_path / "store"))
    assert states(found) == [OK, OK] and "1 sweeps" in found[0].said and "ms until" in found[1].said
    assert sorted(tmp_path.rglob("*")) == before and store.sweeps() == ["s"]
    assert states(doctor.store(str(tmp_path / "none"))) == [OK, OK]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_store_that_cannot_be_written_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    assert states(doctor.store(str(tmp_path / "file"))) == [BAD]
    assert states(doctor.store("memory://x")) == [BAD]
    assert states(doctor.store("s3:/bucket")) == [BAD]
    real = os.open

    def full(path: Any, *more: Any, **options: Any) -> int:
        if ".fairsweep-doctor" in str(path):
            raise OSError(30, "Read-only file system")
        return real(path, *more, **options)

    monkeypatch.setattr(os, "open", full)
    (found,) = doctor.store(str(tmp_path))
    assert found.state == BAD and "Read-only file system" in found.said and found.todo
    (found,) = doctor.store(str(tmp_path / "none" / "yet"))
    assert found.state == BAD and "cannot be made" in found.said and "Read-only file system" in found.said
    monkeypatch.undo()
    monkeypatch.setattr(doctor, "SLOW_S", 0.0)
    assert states(doctor.store(str(tmp_path))) == [OK, WARN]


Usage = namedtuple("Usage", "total used free")


def test_disks() -> None:
    gib = 2**30
    for about, usage, state in (
        ("store", Usage(100 * gib, 1, 50 * gib), OK),
        ("store", Usage(100 * gib, 1, gib), WARN),
        ("store", Usage(100 * gib, 1, 10 * 2**20), BAD),
        ("store", Usage(100 * gib, 1, 4 * gib), OK),
        ("Ray's files", Usage(100 * gib, 1, 4 * gib), WARN),
    ):
        found = doctor.free(about, Path("/x"), usage)
        assert found.state == state and bool(found.todo) == (state != OK)


def test_a_job_server_must_let_us_in_and_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    right = b'{"ray_version": "2.60.0"}'

    def server(with_token: tuple[int, bytes], without: tuple[int, bytes]) -> list[Check]:
        return doctor.job_server("http://127.0.0.1:1", lambda url, token: with_token if token else without)

    assert states(server((200, right), (401, b""))) == [BAD]  # no token here
    (tmp_path / "token").write_text("a-token\n")
    (tmp_path / "token").chmod(0o600)
    (found,) = server((200, right), (401, b""))
    assert found.state == OK and "Ray 2.60.0 lets us in" in found.said
    assert states(server((200, right), (200, right))) == [OK, BAD]
    assert states(server((403, b""), (401, b""))) == [BAD]
    assert states(server((500, b""), (401, b""))) == [BAD]
    assert states(server((200, b"<html>"), (401, b""))) == [BAD]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    (found,) = doctor.job_server(url)
    assert found.state == BAD and "nothing answers" in found.said and found.todo


def test_the_verb_answers_with_a_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "ray"))
    monkeypatch.setenv(doors.TOKEN_FILE, str(tmp_path / "own"))
    monkeypatch.setattr(doctor, "listeners", list)
    monkeypatch.setattr(laptop, "job_server", lambda: None)
    monkeypatch.setattr(doctor, "disks", lambda storage: [])
    written(tmp_path / "store")
    where = ["--storage", str(tmp_path / "store")]
    assert run_cli(["doctor", *where]) == 0
    out = capsys.readouterr().out
    states_said = {line[:5].strip() for line in out.splitlines()[:-1]}
    assert "0 bad" in out and states_said <= {OK, WARN, NOT_HERE, ""}
    (tmp_path / "own").write_text("x" * 40)
    (tmp_path / "own").chmod(0o666)
    assert run_cli(["doctor", *where, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["bad"] == 1
    assert [c["todo"] for c in found["checks"] if c["state"] == BAD] == [f"chmod 600 {tmp_path / 'own'}"]
    monkeypatch.setattr(doctor, "extras", lambda: 1 / 0)
    assert run_cli(["doctor", *where]) == 1
    assert "cannot be found out (ZeroDivisionError" in capsys.readouterr().out
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    assert run_cli(["doctor", *where, "--address", address]) == 1
    assert f"cluster.address={address}: nothing answers" in capsys.readouterr().out
    monkeypatch.setattr(
        laptop, "job_server", lambda: f"http://{address}"
    )  # one that `fairsweep local` started
    (found,) = doctor.cluster(None, "")
    assert found.state == BAD and f"http://{address}: nothing answers" in found.said
