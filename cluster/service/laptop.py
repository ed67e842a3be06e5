"""A Ray cluster on this machine alone: one node or several, on loopback, with a token, ended by what was started."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from fairsweep.cluster.engine.here import Cluster, Process, folder, running
from fairsweep.cluster.engine.local import token_file
from fairsweep.cluster.errors import DriverEnded, UserError

LOOPBACK = "127.0.0.1"
STARTED = "Ray runtime started"
START_S = 120.0  # that a node may take to start
END_S = 15.0  # that a node may take to end, before its processes are killed
PORTS = {"gcs": 6379, "job_server": 8265}  # Ray's own, where they are free
FORGOTTEN = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_AUTH_MODE")


def job_server() -> str | None:
    """The address of its job server."""
    found = running()
    return found.job_server if found else None


def _note(cluster: Cluster) -> None:
    place = folder() / "cluster.json"
    temporary = place.with_name(f".cluster-{os.getpid()}.json")
    temporary.touch(0o600)
    temporary.write_text(json.dumps(asdict(cluster)))
    temporary.replace(place)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Two starts, or a start and a stop, come one after the other."""
    folder().mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(folder() / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# -- the token -----------------------------------------------------------------------------------------------------


def ensure_token() -> str:
    """Where the token is; makes one (0600, in a folder of 0700) if there is none, and leaves the one that is there.

    UserError for a file without a token.
    """
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    place = token_file()
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        try:
            empty = not place.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{place}: the token cannot be read ({error})") from None
        if empty:
            raise UserError(f"{place}: is empty; remove it, and a token is made") from None
        return str(place)
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(32))
    return str(place)


def token_place() -> tuple[str, str]:
    """Where the token is, and the mode of its file: never the token."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN", ""
    place = token_file()
    try:
        mode = f"{place.stat().st_mode & 0o777:04o}"
    except OSError:
        return str(place), "is gone"
    return str(place), mode if int(mode, 8) & 0o077 == 0 else f"{mode}: others can read it; chmod 600 {place}"


def _headers() -> dict[str, str]:
    token = os.environ.get("RAY_AUTH_TOKEN") or token_file().read_text().strip()
    return {"Authorization": f"Bearer {token}"}


# -- start and stop ------------------------------------------------------------------------------------------------


def start(nodes: int, cpus: int | None, say: Callable[[str], object]) -> tuple[Cluster, bool]:
    """The cluster that runs, and whether it was started now. DriverEnded if it does not come up: nothing is left."""
    with _alone():
        found = running()
        if found is not None:
            return found, False
        ensure_token()
        each = cpus or max(1, (os.cpu_count() or 1) // nodes)
        ports = {name: free_port(usual) for name, usual in PORTS.items()}
        cluster = Cluster(
            f"{LOOPBACK}:{ports['gcs']}", f"http://{LOOPBACK}:{ports['job_server']}", each, time.time()
        )
        try:
            for number in range(nodes):
                say("starting the head node" if number == 0 else f"starting node {number + 1} of {nodes}")
                cluster.folders.append(tempfile.mkdtemp(prefix="ray-", dir=os.environ.get("RAY_TMPDIR")))
                cluster.nodes.append(_started(number, words_of(number, ports, each, cluster.folders[number])))
                _note(cluster)
                _until_up(number, cluster)
            _until_jobs(cluster)
        except BaseException:
            _end(cluster)
            (folder() / "cluster.json").unlink(missing_ok=True)
            raise
        return cluster, True


def words_of(number: int, ports: Mapping[str, int], cpus: int, folder: str) -> list[str]:
    """The words of `ray start` for a node, the head first.

    folder: of this node alone. Nodes in one folder share the copy of a job's working directory, and each (Ray 2.60)
    deletes it under the others when it makes its own; and a job belongs to the cluster that was started last in it.
    """
    common = [
        "--block", f"--num-cpus={cpus}", "--disable-usage-stats", f"--node-ip-address={LOOPBACK}",
        "--dashboard-agent-listen-port=0", "--min-worker-port=0", "--max-worker-port=0",  # several Rays on one machine
        f"--temp-dir={folder}",
    ]  # fmt: skip
    if number:
        return ["start", f"--address={LOOPBACK}:{ports['gcs']}", *common]
    return [
        "start", "--head", *common, f"--port={ports['gcs']}", f"--dashboard-host={LOOPBACK}",
        f"--dashboard-port={ports['job_server']}", f"--ray-client-server-port={free_port(10001)}",
    ]  # fmt: skip


def environment() -> dict[str, str]:
    """Of Ray's processes: token authentication whatever the caller's says, and no interface but loopback."""
    found = {name: value for name, value in os.environ.items() if name not in FORGOTTEN}
    found["RAY_AUTH_MODE"] = "token"
    found["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Ray's way to say that no other machine will join
    # A job is `python -m fairsweep.cluster ...`, of the Python that runs here.
    found["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), found.get("PATH", "")])
    found["PYTHONPATH"] = os.pathsep.join(filter(None, [found.get("PYTHONPATH", ""), str(_ours())]))
    return found


def _ours() -> Path:
    """Where Python finds the fairsweep that runs here: in a checkout that is not installed, nothing else says it."""
    return Path(sys.modules["fairsweep"].__file__ or "").resolve().parents[1]


def _started(number: int, words: Sequence[str]) -> Process:
    module = "fairsweep.cluster.service.loopback" if number else "ray.scripts.scripts"
    with open(_log(number), "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *words], env=environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True, cwd=folder(),
        )  # fmt: skip
    return Process(process.pid, psutil.Process(process.pid).create_time())


def _log(number: int) -> Path:
    return folder() / ("head.log" if number == 0 else f"node-{number + 1}.log")


def _until_up(number: int, cluster: Cluster) -> None:
    deadline = time.monotonic() + START_S
    while STARTED not in (text := _log(number).read_text(errors="replace")):
        if not cluster.nodes[number].alive() or time.monotonic() > deadline:
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            why = (
                "does not come up"
                if cluster.nodes[number].alive()
                else f"ended ({' '.join(lines[-2:])[-300:]})"
            )
            raise DriverEnded(f"local start: Ray's node {number + 1} {why}; all of it is in {_log(number)}")
        time.sleep(0.2)


def _until_jobs(cluster: Cluster) -> None:
    """Waits until the job server takes jobs and knows all nodes."""
    deadline = time.monotonic() + START_S
    while True:
        known = nodes_of(cluster)
        if known is not None and len(known) >= len(cluster.nodes):
            return
        if len(cluster.alive()) < len(cluster.nodes) or time.monotonic() > deadline:
            raise DriverEnded(
                f"local start: the job server at {cluster.job_server} does not answer; see {_log(0)}"
            )
        time.sleep(0.3)


def nodes_of(cluster: Cluster) -> list[dict[str, Any]] | None:
    """The nodes that the cluster itself says are alive; None if it does not answer."""
    import requests

    try:
        answer = requests.get(f"{cluster.job_server}/api/v0/nodes", headers=_headers(), timeout=5)
        rows = answer.json()["data"]["result"]["result"]
        return [row for row in rows if row.get("state") == "ALIVE"]
    except (requests.exceptions.RequestException, ValueError, KeyError, TypeError, OSError):
        return None


def stop() -> Cluster | None:
    """Ends the processes of the cluster that was started here, and no other; None if none runs."""
    with _alone():
        found = running()
        if found is not None:
            _end(found)
        (folder() / "cluster.json").unlink(missing_ok=True)
        return found


def _end(cluster: Cluster) -> None:
    """Ends the nodes, the head last, and then what they have left: each by its id, if it is still the same process."""
    for node in reversed(cluster.nodes):
        if not node.alive():
            continue
        with contextlib.suppress(psutil.Error):
            main = psutil.Process(node.pid)
            tree = [*main.children(recursive=True), main]
            main.terminate()
            until_gone([main])
            for signal in ("terminate", "kill"):
                for process in until_gone(tree, 0.0):
                    with contextlib.suppress(psutil.Error):
                        getattr(process, signal)()
                until_gone(tree)
    for place in cluster.folders:
        shutil.rmtree(place, ignore_errors=True)


def until_gone(processes: Sequence[psutil.Process], patience: float = END_S) -> list[psutil.Process]:
    """Waits for processes to end; those that have not. One that nobody has asked how it ended has ended as well."""
    deadline = time.monotonic() + patience
    while True:
        left = []
        for process in processes:
            with contextlib.suppress(psutil.Error):
                if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    left.append(process)
        if not left or time.monotonic() >= deadline:
            return left
        time.sleep(0.1)


def free_port(usual: int = 0) -> int:
    """`usual`, or any port of the loopback interface, if that is taken."""
    for port in (usual, 0):
        with contextlib.suppress(OSError), socket.socket() as s:
            s.bind((LOOPBACK, port))
            return int(s.getsockname()[1])
    raise DriverEnded("local start: no port of the loopback interface is free")
