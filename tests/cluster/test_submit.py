"""What a cluster needs around a sweep: a token that is private, a package without logs. Needs no running Ray."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fairsweep.cluster.engine import local
from fairsweep.cluster.errors import UserError

ROOT = Path(__file__).parents[2]


def test_a_token_that_others_can_read_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    token = tmp_path / "auth_token"
    token.write_text("7" * 64)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # restored afterwards
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setattr(local, "_token_said", False)

    def connect() -> None:
        with pytest.raises(UserError), local.connected({"address": "nowhere"}):
            pass

    token.chmod(0o600)
    connect()
    assert capsys.readouterr().err == ""
    token.chmod(0o644)
    for _ in range(2):
        connect()
    said = capsys.readouterr().err
    assert (
        said.count("can be read by other users") == 1 and f"chmod 600 {token}" in said and "777" not in said
    )


@pytest.mark.slow
def test_the_readmes_command_makes_a_token_for_oneself_and_prints_none(tmp_path: Path) -> None:
    (command,) = re.findall(r"^\(umask.*?\)(?= )", (ROOT / "cluster" / "README.md").read_text(), re.MULTILINE)
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    env |= {"HOME": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{env['PATH']}"}
    done = subprocess.run(
        ["sh", "-c", f"umask 022; {command}"], env=env, capture_output=True, text=True, check=True
    )
    token = tmp_path / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o777 == 0o600 and token.parent.stat().st_mode & 0o077 == 0
    assert len(token.read_text()) == 64 and token.read_text() not in done.stdout + done.stderr


def test_logs_are_no_part_of_the_package_of_a_job(tmp_path: Path) -> None:
    """Ray names the package by its contents before it packs it: a log that grows meanwhile makes another."""
    from ray._private.runtime_env.packaging import get_uri_for_directory

    shutil.copy(ROOT / ".rayignore", tmp_path)
    (tmp_path / "code.py").write_text("x = 1")
    before = get_uri_for_directory(str(tmp_path), include_gitignore=True)
    for name in (
        "sweep.log",
        "nohup.out",
        "logs/3.txt",
        "slurm-42.txt",
        "fairsweep-store/s",
        "outputs/o",
        "wandb/w",
    ):
        (tmp_path / name).parent.mkdir(
            exist_ok=True
        )  # Ray 2.60 takes the folder itself in where `logs/` is left out
        (tmp_path / name).write_text("epoch 1")
        assert get_uri_for_directory(str(tmp_path), include_gitignore=True) == before, name
    (tmp_path / "more.py").write_text("y = 1")
    assert get_uri_for_directory(str(tmp_path), include_gitignore=True) != before


def test_a_ray_that_does_not_start_in_time_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray 2.60 raises a bare Exception there."""
    import ray

    def late(**options: object) -> None:
        raise Exception("The current node timed out during startup. This could happen\nbecause ...")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", late)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    late_words = r"no Ray could be started .*timed out during startup.*busy machine"
    with pytest.raises(UserError, match=late_words) as caught, local.connected({}):
        pass
    assert "\n" not in str(caught.value)


def test_a_cluster_that_has_ended_is_gone_for_all_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several threads ask; only the first of each five seconds was told, and the driver's last line began with None."""
    monkeypatch.setattr(local, "_pulse", local._Pulse())
    with socket.create_server(("127.0.0.1", 0)) as listening:
        local._pulse._address = listening.getsockname()
        local._pulse.look()
        assert local.ray_gone() is None, "it answers"
    local._pulse.look()
    assert local.ray_gone() is None, "it may begin again"
    local._pulse._heard -= local.REFUSED_S
    assert [bool(local.ray_gone()) for _ in range(3)] == [True] * 3
    assert "has ended" in str(local.ray_gone())


def test_a_cluster_may_be_cut_off_for_longer_than_a_switch_takes_to_restart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise TimeoutError

    pulse = local._Pulse()
    pulse._address = ("10.0.0.1", 6379)
    monkeypatch.setattr(socket, "create_connection", unreachable)
    began = pulse._answered
    for silent, gone in ((20.0, False), (40.0, False), (46.0, True)):
        pulse._heard = pulse._answered = began - silent
        pulse.look()
        assert bool(pulse.gone()) is gone
    assert "10.0.0.1:6379 does not answer any more" in str(pulse.gone())
