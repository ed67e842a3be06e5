"""A Ray cluster of several machines on this one, each a network namespace with an address of its own (Linux, root).

The namespaces hang on a bridge in one more of them, so that nothing of it is seen outside. Each machine has a name and
a folder for Ray of its own as well; what they share is the rest of the file system, as by NFS. Whoever made a cluster
closes it: then its processes, namespaces and folders are gone.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
_numbers = itertools.count()
NETWORK = "10.213.7"
PORT = 6379
# Enters the machine: a name, a mount of Ray's folder that only this machine sees, and then the command.
_ENTER = 'hostname "$1"; mount --bind "$2" "$3"; shift 3; exec "$@"'


def missing() -> str | None:
    """Why there can be no such cluster here; None if there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs network namespaces: Linux, and root"
    for tool in ("ip", "unshare", "mount"):
        if shutil.which(tool) is None:
            return f"needs network namespaces: there is no {tool}"
    probe = f"fsw{os.getpid()}x"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True)
    try:
        if made.returncode:
            return f"needs network namespaces: {made.stderr.strip()}"
        bridge = subprocess.run(
            ["ip", "-n", probe, "link", "add", "br0", "type", "bridge"], capture_output=True, text=True
        )
        return f"needs a bridge: {bridge.stderr.strip()}" if bridge.returncode else None
    finally:
        subprocess.run(["ip", "netns", "del", probe], capture_output=True)


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


@dataclass(frozen=True)
class Machine:
    """One of them: its name, namespace and address."""

    name: str
    space: str
    address: str
    ray: Path


class Machines:
    """A head and `workers` more, each with `cpus` CPUs. `storage`: a folder that all of them see."""

    def __init__(self, workers: int = 2, cpus: int = 1) -> None:
        self.cpus = cpus
        self.base = Path(tempfile.mkdtemp(prefix="fsn", dir="/tmp"))  # short: Ray's sockets lie below
        self.storage = self.base / "store"
        self._tag = f"fsw{os.getpid()}x{next(_numbers)}"
        self._hub = f"{self._tag}h"
        self._count = 0
        self.alive: list[Machine] = []
        (self.base / "ray").mkdir()
        token = self.base / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "TUNE_"))}
        self.environment = {
            **kept,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_TMPDIR": str(self.base / "ray"),
            "RAY_DISABLE_IMPORT_WARNING": "1",
            "PYTHONPATH": str(ROOT),
            "FAIRSWEEP_PLUGINS": "tests.papers",
            "OMP_NUM_THREADS": "1",
        }
        try:
            _ip("netns", "add", self._hub)
            for words in (
                ("link", "set", "lo", "up"),
                ("link", "add", "br0", "type", "bridge", "forward_delay", "0", "stp_state", "0"),
                ("addr", "add", f"{NETWORK}.254/24", "dev", "br0"),
                ("link", "set", "br0", "up"),
            ):
                _ip("-n", self._hub, *words)
            self.head = self.add()
            for _ in range(workers):
                self.add()
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> str:
        """Of the cluster."""
        return f"{self.head.address}:{PORT}"

    @property
    def workers(self) -> list[Machine]:
        """Those that live, but for the head."""
        return self.alive[1:]

    def add(self) -> Machine:
        """One more machine, which joins the cluster; the first is its head."""
        self._count += 1
        k = self._count
        made = Machine(f"machine{k}", f"{self._tag}n{k}", f"{NETWORK}.{k}", self.base / f"ray{k}")
        made.ray.mkdir()
        _ip("netns", "add", made.space)
        _ip(
            "-n",
            self._hub,
            "link",
            "add",
            f"v{k}",
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            made.space,
        )
        _ip("-n", self._hub, "link", "set", f"v{k}", "master", "br0", "up")
        for words in (
            ("link", "set", "lo", "up"),
            ("addr", "add", f"{made.address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("route", "add", "default", "via", f"{NETWORK}.254"),
        ):
            _ip("-n", made.space, *words)
        self.alive.append(made)
        joins = (
            ["--head", f"--port={PORT}", "--include-dashboard=false"]
            if k == 1
            else [f"--address={self.address}"]
        )
        started = self.start(
            made,
            [
                sys.executable, "-m", "ray.scripts.scripts", "start", *joins, f"--node-ip-address={made.address}",
                f"--num-cpus={self.cpus}", "--object-store-memory=100000000", "--disable-usage-stats",
            ],
        )  # fmt: skip
        out, err = started.communicate(timeout=180)
        if started.returncode:
            raise RuntimeError(f"{made.name} did not start: {out[-2000:]} {err[-2000:]}")
        return made

    def start(self, machine: Machine, command: Sequence[str]) -> subprocess.Popen[str]:
        """Runs a command on a machine, in the root of this repository; the process is that of the command."""
        enter = ["unshare", "--uts", "--mount", "sh", "-c", _ENTER, "sh"]
        return subprocess.Popen(
            ["ip", "netns", "exec", machine.space, *enter, machine.name, str(machine.ray), str(self.base / "ray"),
             *command],
            cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def fairsweep(self, machine: Machine, *words: str) -> subprocess.Popen[str]:
        """`fairsweep` on a machine."""
        return self.start(machine, [sys.executable, "-m", "cluster", *words])

    def processes(self, machine: Machine) -> list[int]:
        return [int(pid) for pid in _ip("netns", "pids", machine.space).split()]

    def end_all_of(self, machine: Machine) -> None:
        """Ends all that runs on a machine; its network still answers."""
        for _ in range(50):
            left = self.processes(machine)
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not left:
                break
            time.sleep(0.1)

    def kill(self, machine: Machine) -> None:
        """Ends a machine, as a power cut does; it does not come again."""
        self.end_all_of(machine)
        _ip("netns", "del", machine.space)
        with contextlib.suppress(RuntimeError):  # it goes with the namespace, a moment later
            _ip("-n", self._hub, "link", "del", f"v{machine.space.rpartition('n')[2]}")
        self.alive.remove(machine)

    def cut(self, machine: Machine, seconds: float) -> threading.Thread:
        """Takes a machine off the network for so long; returns at once."""
        end = f"v{machine.space.rpartition('n')[2]}"

        def cut() -> None:
            _ip("-n", self._hub, "link", "set", end, "down")
            time.sleep(seconds)
            _ip("-n", self._hub, "link", "set", end, "up")

        thread = threading.Thread(target=cut)
        thread.start()
        return thread

    def close(self) -> None:
        """Ends and removes all of it."""
        for machine in list(self.alive):
            with contextlib.suppress(RuntimeError):
                self.kill(machine)
        with contextlib.suppress(RuntimeError):
            _ip("netns", "del", self._hub)
        shutil.rmtree(self.base, ignore_errors=True)
