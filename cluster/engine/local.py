"""Where a sweep runs: an embedded Ray, a running cluster, or the cluster of the job that we are in."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fairsweep.cluster.engine import here
from fairsweep.cluster.engine.lean import lean_start, light_actors
from fairsweep.cluster.engine.nodes import check_own
from fairsweep.cluster.errors import UserError

CONNECT_S = 10.0
SILENT_S = 45.0  # that a cluster may be out of reach: a switch restarts in less; Ray ends a driver after 60 s
REFUSED_S = 10.0  # that nothing may listen there any more, though the machine answers
SHUTDOWN_S = 10.0  # that Ray may take to end
_token_said = False
CORE = ("gcs_server", "raylet")  # without these two a Ray is none
# Tune writes a CSV, a JSON and a TensorBoard file for every trial, and snapshots that we never restore.
TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "60",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def token_file() -> Path:
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()


def prepare_environment() -> None:
    """Sets what Ray reads at import and start. Token authentication stays on where a token exists."""
    for name, value in TUNE_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if os.environ.get("RAY_AUTH_TOKEN") or token_file().exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def read_environment() -> None:
    """Makes Ray read its environment again: a user's file, or a notebook, may have imported it before we set it.

    Ray (2.60) decides at its import whether it sends a token; its own start would then refuse it, after 30 s.
    """
    from ray import _raylet

    raylet: Any = _raylet  # compiled: no types
    with contextlib.suppress(AttributeError):  # of a Ray that has these no more
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()


def check_token_is_private() -> None:
    """Warns once of a token that others can read: whoever has it can run code on the cluster. Ray writes it 0644."""
    global _token_said
    try:
        mode = token_file().stat().st_mode
    except OSError:
        return
    if mode & 0o077 and not _token_said and os.name == "posix":
        _token_said = True
        print(
            f"fairsweep: warning: {token_file()} can be read by other users of this machine, who can then use the "
            f"cluster; chmod 600 {token_file()}",
            file=sys.stderr,
        )


def find_cluster(address: str | None) -> str | None:
    """`address` as host:port where it can be known; UserError if nothing listens there.

    None for none and for "local", a Ray of one's own; an address with a scheme (ray://) is returned as it is.
    Ray itself would try an address at which nothing answers for many minutes.
    """
    if address in (None, "", "local"):
        return None
    assert address is not None
    if "://" in address:
        if not address.startswith("ray://"):
            raise UserError(f"cluster.address={address}: must be auto, HOST:6379 or ray://HOST:10001")
        return address
    found = _of_this_machine() if address == "auto" else address
    host, colon, port = found.rpartition(":")
    if address == "auto" and not found:
        raise UserError(
            "cluster.address=auto: no Ray cluster runs on this machine; start one with `fairsweep local start` or "
            "`ray start --head`, or leave cluster.address out to use this machine alone"
        )
    if not (colon and host and port.isdigit()):
        raise UserError(f"cluster.address={address}: must be auto or host:port, such as 10.0.0.5:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        raise UserError(
            f"cluster.address={address}: nothing answers at {found} ({error}); start a cluster with "
            "`fairsweep local start` or `ray start --head`, or leave cluster.address out to use this machine alone"
        ) from None
    return found


def _of_this_machine() -> str:
    """host:port of the cluster of `fairsweep local`, of which Ray's note does not tell, else of that note; or ""."""
    cluster = here.running()
    if cluster is not None:
        return cluster.gcs
    note = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"
    return note.read_text().strip() if note.is_file() else ""


def stay_on_loopback(address: str | None) -> None:
    """Before Ray is imported: it replaces 127.0.0.1 by the machine's address unless told that no other will join."""
    if address is None or address.startswith(("127.", "localhost:")):
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


class _Pulse:
    """Whether the Ray that this process is connected to is still there."""

    EVERY_S = 5.0  # between two looks at a cluster; once it has not answered, a second

    def __init__(self) -> None:
        self.core: list[subprocess.Popen[Any]] = []  # of the embedded Ray
        self._address: tuple[str, int] | None = None
        self._heard = self._answered = time.monotonic()  # the cluster; its machine
        self._problem = ""
        self._over = threading.Event()

    def watch(self, host: str, port: int) -> None:
        """Looks after a cluster, in a thread: one that is cut off lets everybody wait who asks it."""
        self._address = host, port
        threading.Thread(target=self._watch, name="fairsweep-pulse", daemon=True).start()

    def over(self) -> None:
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(1.0 if self._problem else self.EVERY_S):
            self.look()

    def look(self) -> None:
        """Asks the cluster once."""
        assert self._address is not None
        try:
            socket.create_connection(self._address, timeout=self.EVERY_S).close()
        except ConnectionRefusedError:  # the machine is there
            self._answered, self._problem = time.monotonic(), "has ended"
        except OSError:
            self._problem = "does not answer any more"
        else:
            self._heard = self._answered = time.monotonic()
            self._problem = ""

    def gone(self) -> str | None:
        """Why it is taken for gone; None as long as it is there."""
        for process in self.core:
            if process.poll() is not None:
                return f"Ray's {_name(process)} has ended ({_ending(process.returncode)})"
        if self._address is None or not self._problem:
            return None
        silent, refused = time.monotonic() - self._answered, self._answered - self._heard
        if silent > SILENT_S or refused > REFUSED_S:
            return f"the cluster at {self._address[0]}:{self._address[1]} {self._problem}"
        return None


def _name(process: subprocess.Popen[Any]) -> str:
    return Path(str(process.args[0])).name  # type: ignore[index]


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


_pulse = _Pulse()


def ray_gone() -> str | None:
    """Why the Ray that `connected` gave is taken for gone; None as long as it is there."""
    return _pulse.gone()


def alone() -> bool:
    """Whether the Ray that `connected` gave was started here, so that no other driver uses it."""
    return bool(_pulse.core)


@contextlib.contextmanager
def _own_session(meanwhile: Callable[[], object]) -> Iterator[list[subprocess.Popen[Any]]]:
    """Gives what Ray starts in the block a session of its own, and yields those processes.

    meanwhile: done once, when the last of them has been started and Ray would wait for it.

    A signal to the driver's process group, as `timeout`, a closing terminal or a shell's `kill %1` send it, would
    else end Ray under the driver. Its processes end with the driver all the same: the kernel tells them when it dies.
    """
    from ray._private import services

    started: list[subprocess.Popen[Any]] = []
    popen = getattr(services, "ConsolePopen", None)
    if popen is None or sys.platform == "win32":
        yield started
        return

    class Apart(popen):  # type: ignore[misc, valid-type]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "start_new_session": True})
            started.append(self)
            if _name(self) == CORE[-1]:
                meanwhile()

    services.ConsolePopen = Apart  # type: ignore[misc]
    try:
        yield started
    finally:
        services.ConsolePopen = popen  # type: ignore[misc]


def _shut_down(ray: Any) -> None:
    """Ends the connection to Ray; waits for no longer than `SHUTDOWN_S` if Ray is gone."""
    global _pulse
    if ray_gone():
        threading.Thread(target=ray.shutdown, daemon=True).start()
        deadline = time.monotonic() + SHUTDOWN_S
        while ray.is_initialized() and time.monotonic() < deadline:
            time.sleep(0.1)
    else:
        ray.shutdown()
    _pulse.over()
    _pulse = _Pulse()


@contextlib.contextmanager
def connected(options: Mapping[str, Any]) -> Iterator[str]:
    """Connects to Ray and yields where; shuts down only what it started.

    An embedded Ray listens on the loopback interface only. options: of the group `cluster`; `concurrent` as well,
    where it is known how many trials run at a time.
    """
    prepare_environment()
    if not os.environ.get("RAY_AUTH_TOKEN"):
        check_token_is_private()
    address = options.get("address")
    if address in (None, "", "auto"):  # in a job `auto` is its own cluster
        address = os.environ.get("RAY_ADDRESS") or address
    address = find_cluster(address)
    stay_on_loopback(address)
    import ray

    if address is None and not ray.is_initialized():
        check_own(options)

    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    if ray.is_initialized():
        with light_actors(inherited=False):
            yield "the Ray of this process"
        return
    read_environment()
    try:
        if address:
            if "://" not in address:
                host, _, port = address.rpartition(":")
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
                _pulse.watch(host.strip("[]"), int(port))
            else:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        else:
            with lean_start(options) as further, _own_session(_import_tune) as started:
                ray.init(
                    address="local",  # without it Ray attaches to whatever cluster was last started here
                    num_cpus=options.get("cpus"),
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    _node_ip_address="127.0.0.1",
                    **further,
                )
            _pulse.core = [p for p in started if _name(p) in CORE]
    except Exception as error:  # Ray raises bare Exception where its start takes too long
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        if address is None:
            ray.shutdown()  # ends what has started
            raise UserError(
                f"no Ray could be started on this machine ({first}); Ray gives itself 30 s, which a busy "
                "machine may not have: try again, or use a cluster that runs already (cluster.address=auto)"
            ) from None
        raise UserError(
            f"cluster.address={address}: something answers there, but does not let us in ({first}); a Ray cluster "
            f"wants its token: set RAY_AUTH_MODE=token and put the head node's token in {token_file()} or "
            "RAY_AUTH_TOKEN"
        ) from None
    try:
        with light_actors(inherited=address is None):
            yield f"the cluster at {address}" if address else "an embedded Ray on this machine"
    finally:
        _shut_down(ray)


def _import_tune() -> None:
    import ray.tune  # noqa: F401
