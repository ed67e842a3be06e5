"""Where a sweep runs: `ray start` and `ray job submit` as cluster/README.md has them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fairsweep.analysis.store import Store
from fairsweep.cluster.engine.local import find_cluster
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.service import laptop
from fairsweep.cluster.storage import locate

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def test_addresses_are_looked_at_before_ray_waits_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))  # where `fairsweep local` notes what it has started
    assert find_cluster(None) is find_cluster("") is find_cluster("local") is None
    assert find_cluster("ray://head:10001") == "ray://head:10001"
    for address, words in (
        ("auto", ["no Ray cluster runs on this machine"]),
        ("nohost", ["must be auto or host:port"]),
        (":6379", ["must be auto or host:port"]),
        ("http://head:8265", ["must be auto, HOST:6379 or ray://HOST:10001"]),
        (f"127.0.0.1:{free_port()}", ["nothing answers", "ray start --head"]),
    ):
        with pytest.raises(UserError) as error:
            find_cluster(address)
        assert f"cluster.address={address}" in str(error.value)
        assert all(word in str(error.value) for word in words)
    with socket.create_server(("127.0.0.1", 0)) as server:
        there = f"127.0.0.1:{server.getsockname()[1]}"
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text(there)
        assert find_cluster("auto") == find_cluster(there) == there
        (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
        laptop.folder().mkdir(parents=True)
        created = psutil.Process().create_time()
        laptop._note(
            laptop.Cluster(there, "http://127.0.0.1:2", 1, 0.0, [laptop.Process(os.getpid(), created)])
        )
        assert find_cluster("auto") == there, "the cluster of `fairsweep local`, of which Ray has no note"


def test_a_jobs_relative_store_is_not_in_rays_copy_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert locate("store") == str(tmp_path / "store")
    copy = tmp_path / "session" / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    assert locate("store") == str(tmp_path / "home" / "store")
    assert locate("/data/store") == "/data/store"
    assert locate("s3://bucket/store") == "s3://bucket/store"


@pytest.fixture
def head(tmp_path: Path) -> Iterator[dict[str, str]]:
    with started(tmp_path, cpus=2) as env:
        yield env


@contextlib.contextmanager
def started(tmp_path: Path, cpus: int, *more: str, **environment: str) -> Iterator[dict[str, str]]:
    """A cluster of one loopback node with its token, ended by its own process; yields the environment."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    env |= {
        "PATH": f"{BIN}:{env['PATH']}",
        "HOME": str(tmp_path / "home"),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "7" * 64,
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{(port := free_port())}",
        "FAIRSWEEP_PLUGINS": "tests.papers",
        **environment,
    }
    command = [
        "ray", "start", "--head", "--block", f"--num-cpus={cpus}", "--disable-usage-stats", f"--dashboard-port={port}",
        f"--port={(gcs := free_port())}", f"--ray-client-server-port={free_port()}", "--dashboard-agent-listen-port=0",
        *more,
    ]  # fmt: skip
    with open(tmp_path / "head.log", "w") as log:
        process = subprocess.Popen(
            command, env=env, stdout=log, stderr=log, start_new_session=True, cwd=tmp_path
        )
    try:
        deadline = time.monotonic() + 90
        while "Ray runtime started" not in (tmp_path / "head.log").read_text():
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "head.log").read_text()
            time.sleep(0.5)
        yield {**env, "CLUSTER": f"127.0.0.1:{gcs}"}
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_jobs_and_drivers_on_a_cluster_with_a_token(head: dict[str, str], tmp_path: Path) -> None:
    submit = ["ray", "job", "submit", "--working-dir", str(ROOT), "--"]
    what = ["python", "-m", "cluster", "run", "trainable=test_bowl", "budget.trials=3"]
    deadline = time.monotonic() + 90
    while True:  # a head that has just started has no agent yet
        done = subprocess.run(
            [*submit, *what, "name=job"], env=head, capture_output=True, text=True, timeout=200
        )
        if "No available agent" not in done.stderr + done.stdout or time.monotonic() > deadline:
            break
        time.sleep(2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout + done.stderr
    store = tmp_path / "home" / "fairsweep-store"
    assert [t["state"] for t in Store(store).table("trials", "job").to_pylist()] == ["complete"] * 3

    driver = [sys.executable, "-m", "cluster", "run", "trainable=test_bowl", "budget.trials=3", "--json"]
    driver += [f"storage={store}", f"cluster.address={head['CLUSTER']}"]
    done = subprocess.run([*driver, "name=driver"], env=head, cwd=ROOT, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    refused = subprocess.run(
        [*driver, "name=refused"],
        env={**head, "RAY_AUTH_TOKEN": "8" * 64},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert refused.returncode == 2
    line = next(text for text in refused.stderr.splitlines() if text.startswith("fairsweep: error"))
    assert "RAY_AUTH_MODE=token" in line and head["CLUSTER"] in line
    assert not Store(store).has("refused")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_function_of_ones_own_in_a_job(head: dict[str, str], tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "model.py").write_text("OFFSET = 0.5\n")
    (mine / "train.py").write_text(
        "import fairsweep\n\n\n"
        '@fairsweep.trainable(space={"x": (0.0, 1.0)}, metric="loss", steps=3)\n'
        "def train(config, trial):\n"
        "    from model import OFFSET\n\n"
        "    for step in range(3):\n"
        '        trial.report(loss=OFFSET + config["x"] / (1 + step))\n'
    )
    what = [
        "ray",
        "job",
        "submit",
        "--working-dir",
        str(mine),
        "--",
        "python",
        "-m",
        "fairsweep.cluster",
        "run",
    ]
    what += ["trainable=train.py:train", "budget.trials=3", "name=own"]
    deadline = time.monotonic() + 90
    while True:
        done = subprocess.run(what, env=head, cwd=tmp_path, capture_output=True, text=True, timeout=200)
        if "No available agent" not in done.stderr + done.stdout or time.monotonic() > deadline:
            break
        time.sleep(2)
    assert done.returncode == 0, done.stdout + done.stderr
    store = Store(tmp_path / "home" / "fairsweep-store")
    assert [t["state"] for t in store.table("trials", "own").to_pylist()] == ["complete"] * 3
    # The copy of the working directory that Ray made may be gone by now: the text in the store is what is left.
    assert '"model.py"' in store.table("sweeps", "own").to_pylist()[0]["source"]


@pytest.mark.slow
def test_a_ray_that_was_imported_before_is_told_of_the_token() -> None:
    """As in a notebook, or by a file with a Tune trainable: Ray decides at its import whether it sends one."""
    script = (
        "from ray import tune\nimport ray\nfrom fairsweep.cluster.engine.local import connected, prepare_environment\n"
        "prepare_environment()\nwith connected({'cpus': 1}):\n    print(ray.get(ray.remote(lambda: 7).remote()))\n"
    )
    env = {k: v for k, v in os.environ.items() if k != "RAY_AUTH_MODE"}
    env |= {"RAY_AUTH_TOKEN": "0123456789abcdef" * 4, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.stdout.split() == ["7"], run.stderr[-1500:]
