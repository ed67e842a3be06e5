"""Whether this machine is as a sweep needs it: each question a line, ok, warn or bad, and what to do about it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import platform
import re
import shutil
import stat
import statistics
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from fairsweep.cluster import doors
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.masking import masked_uri

OK, WARN, BAD = "ok", "warn", "bad"
LITTLE, NOTHING = 2 * 2**30, 200 * 2**20  # bytes of a disk that are free: to be warned of, and too few
FULL = 0.95  # of a disk, from which on Ray starts no more tasks
SLOW_S = 0.02  # of an fsync: every report waits for one
SYNCS = 15
ANSWER_S = 10.0  # that a job server may take
PROBE_S = 1.0  # that a port of Ray's may take to show what it is
# What the extras are for; one that is not here is told by what it brings.
FOR = {
    "readers": "DuckDB and Polars on the tables",
    "images": "data sets and own data as image files",
    "audio": "data sets of recordings",
    "terminal": "plots in the terminal",
    "export": "networks as ONNX files",
    "report": "reports with figures, PDF, `fairsweep dashboard`",
    "models": "networks of timm and torchvision to prune",
}
FOR_DEVELOPERS = ("dev", "benchmarks")
CLOSE = {
    "ray": "a cluster of one machine: RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 before `ray start` keeps it on loopback;"
    " of several: let no others through the firewall, and keep RAY_AUTH_MODE=token",
    "dashboard": "`ray start --dashboard-host=127.0.0.1` keeps it on loopback",
    "metrics": "a cluster of one machine: RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 before `ray start`; of several: a"
    " firewall, Ray has no other way; the ports are 44217 (AUTOSCALER_METRIC_PORT), 44227 (DASHBOARD_METRIC_PORT), and"
    " on each node any (`ray start --metrics-export-port=N`)",
    "fairsweep": "end it, and start it without --host; an SSH tunnel reaches it all the same",
}


@dataclass(frozen=True)
class Check:
    """A question and its answer. todo: what to do, where it is not ok."""

    about: str
    state: str
    said: str
    todo: str = ""


def examine(storage: str, address: str | None) -> list[Check]:
    """All of it. storage: of the store; address: of a cluster or job server, None where none is named."""
    address = address or os.environ.get("RAY_ADDRESS") or None
    found: list[Check] = []
    questions: dict[str, Callable[[], list[Check]]] = {
        "packages": packages,
        "extras": extras,
        "tokens": tokens,
        "ports": lambda: ports(listeners()),
        "storage": lambda: store(storage),
        "disk": lambda: disks(storage),
        "cluster": lambda: cluster(address, storage),
    }
    for about, ask in questions.items():
        try:
            found += ask()
        except Exception as error:  # one that cannot be asked leaves the others
            found.append(Check(about, WARN, f"cannot be found out ({type(error).__name__}: {error})"))
    return found


def verdict(checks: Iterable[Check]) -> int:
    """The exit code: 1 if anything is bad."""
    return int(any(check.state == BAD for check in checks))


def as_json(checks: Sequence[Check]) -> dict[str, Any]:
    counts = {state: sum(c.state == state for c in checks) for state in (OK, WARN, BAD)}
    return {**counts, "checks": [asdict(check) for check in checks]}


# -- packages -------------------------------------------------------------------------------------------


def requirements() -> tuple[list[Requirement], str]:
    """What fairsweep asks for, extras too (in the marker), and of Python: by the checkout that runs, or the package."""
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    if sys.version_info >= (3, 11) and project.is_file():
        import tomllib

        about = tomllib.loads(project.read_text())["project"]
        asked = [Requirement(text) for text in about["dependencies"]]
        for extra, texts in about["optional-dependencies"].items():
            asked += [_of_extra(Requirement(text), extra) for text in texts]
        return asked, about["requires-python"]
    from importlib.metadata import metadata

    return [Requirement(text) for text in requires("fairsweep") or ()], metadata("fairsweep")[
        "Requires-Python"
    ]


def _of_extra(asked: Requirement, extra: str) -> Requirement:
    marker = f'extra == "{extra}"' + (f" and ({asked.marker})" if asked.marker else "")
    return Requirement(f"{str(asked).partition(';')[0]}; {marker}")


def _extra_of(asked: Requirement) -> str:
    named = re.search(r"extra == [\"']([\w-]+)[\"']", str(asked.marker or ""))
    return named[1] if named else ""


def _wrong(asked: Requirement) -> str:
    """What is wrong with a package that is asked for; empty if it is there in a version that fits."""
    try:
        there = version(asked.name)
    except PackageNotFoundError:
        return f"{asked.name} is not installed"
    if not asked.specifier.contains(there, prereleases=True):
        return f"{asked.name} {there} is not {asked.specifier}"
    return ""


def packages() -> list[Check]:
    """Python and the packages that are always needed, against their ranges."""
    asked, python = requirements()
    found = []
    here = platform.python_version()
    if SpecifierSet(python).contains(here, prereleases=True):
        found.append(Check("python", OK, f"{here} at {sys.executable}"))
    else:
        found.append(
            Check("python", BAD, f"{here} is not {python}", "make a new environment with another Python")
        )
    needed = [a for a in asked if not _extra_of(a) and (a.marker is None or a.marker.evaluate())]
    wrong = [text for text in map(_wrong, needed) if text]
    for text in wrong:
        found.append(
            Check("packages", BAD, text, "pip install -c constraints.txt -e . (or pip install fairsweep)")
        )
    if not wrong:
        said = ", ".join(f"{name} {version(name)}" for name in ("ray", "torch", "optuna", "pyarrow"))
        found.append(Check("packages", OK, f"all {len(needed)} in their ranges: {said}"))
    return found


def extras() -> list[Check]:
    """Which extras are installed, and what each is for."""
    asked, _ = requirements()
    found = []
    for extra in dict.fromkeys(filter(None, map(_extra_of, asked))):
        if extra in FOR_DEVELOPERS:
            continue
        of_it = [
            a
            for a in asked
            if _extra_of(a) == extra and (not a.marker or a.marker.evaluate({"extra": extra}))
        ]
        names = ", ".join(a.name for a in of_it)
        what = f"{FOR[extra]} ({names})" if extra in FOR else names
        wrong = [text for text in map(_wrong, of_it) if text]
        install = f"pip install 'fairsweep[{extra}]'"
        if not wrong:
            found.append(Check(f"extra {extra}", OK, f"installed: {what}"))
        elif all(text.endswith("is not installed") for text in wrong):
            found.append(Check(f"extra {extra}", OK, f"not installed: {what}; {install} brings it"))
        else:
            found.append(Check(f"extra {extra}", WARN, "; ".join(wrong), install))
    return found


# -- tokens and ports -----------------------------------------------------------------------------------


def tokens() -> list[Check]:
    """The token of Ray, and that of `fairsweep serve` and of metrics, with the modes of their files."""
    from fairsweep.cluster.engine.local import token_file

    found = []
    ray = token_file()
    if os.environ.get("RAY_AUTH_TOKEN"):
        said = "in RAY_AUTH_TOKEN, which every process that is started here can read"
        found.append(
            Check("Ray's token", WARN, said, f"put it into {ray} (mode 0600) and unset the variable")
        )
    elif not ray.exists():
        found.append(
            Check("Ray's token", OK, f"none ({ray}): a Ray of a sweep's own needs none, on loopback")
        )
    else:
        found.append(_private("Ray's token", ray))
    mode = os.environ.get("RAY_AUTH_MODE")
    if mode not in (None, "token"):
        found.append(
            Check(
                "RAY_AUTH_MODE",
                WARN,
                f"{mode}: whoever reaches a Ray port runs code here",
                "export RAY_AUTH_MODE=token",
            )
        )
    own = doors.token_file()
    if own.exists():
        found.append(_private("serve's token", own))
    else:
        found.append(Check("serve's token", OK, f"none yet: `fairsweep serve` makes {own}"))
    return found


def _private(about: str, file: Path) -> Check:
    mode = stat.S_IMODE(file.stat().st_mode)
    if os.name == "posix" and mode & 0o077:
        return Check(
            about, BAD, f"{file} has mode {mode:04o}: others on this machine can use it", f"chmod 600 {file}"
        )
    return Check(about, OK, f"{file} has mode {mode:04o}")


@dataclass(frozen=True)
class Listener:
    """A process that listens. kind: ray, dashboard or fairsweep."""

    kind: str
    what: str
    pid: int
    address: str
    port: int


def listeners() -> list[Listener]:
    """What Ray and fairsweep listen on here; of other users' processes only root learns."""
    import psutil

    found, known = [], {}
    for each in psutil.net_connections(kind="inet"):
        if each.status != psutil.CONN_LISTEN or each.pid is None:
            continue
        if each.pid not in known:
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(each.pid)
                known[each.pid] = kind_of(process.name(), process.cmdline())
        kind = known.get(each.pid)
        if kind is not None:
            address: Any = each.laddr
            found.append(Listener(*kind, each.pid, address.ip, address.port))
    return sorted(found, key=lambda listener: (listener.what, listener.pid, listener.port))


def tells_everybody(one: Listener) -> bool:
    """Whether a port answers like Prometheus' client to who has no token, as Ray's metrics do."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(one.address, one.address.removeprefix("::ffff:"))
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    try:
        with urllib.request.urlopen(f"http://{host}:{one.port}/metrics", timeout=PROBE_S) as answer:
            return answer.status == 200 and answer.read(6) == b"# HELP"
    except (OSError, ValueError, http.client.HTTPException):  # it speaks something else, or asks for a token
        return False


def kind_of(name: str, words: Sequence[str]) -> tuple[str, str] | None:
    """Kind and name of a process of Ray or fairsweep; None of any other."""
    line = " ".join(words)
    if name in ("raylet", "gcs_server"):
        return "ray", name
    if "ray/dashboard/" in line or line.startswith("ray-dashboard"):
        agent = "agent" in line
        return ("ray", "Ray's dashboard agent") if agent else ("dashboard", "Ray's dashboard")
    for part, what in (
        ("runtime_env/agent", "Ray's runtime environments"),
        ("ray.util.client.server", "Ray's client server"),
        ("ray/_private/", "a process of Ray"),
        ("ray/autoscaler/", "Ray's autoscaler"),
    ):
        if part in line:
            return "ray", what
    if line.startswith("ray::"):
        return "ray", line.split()[0]
    ours = ("-m cluster", "-m fairsweep", "/fairsweep ")
    if any(part in f"{line} " for part in ours):
        return "fairsweep", "fairsweep " + next((w for w in words if w in ("serve", "dashboard")), "driver")
    return None


def ports(found: Sequence[Listener], tells: Callable[[Listener], bool] | None = None) -> list[Check]:
    """Who listens beyond loopback, and how to close that; a line a kind of process. tells: see `tells_everybody`."""
    tells = tells or tells_everybody
    if not found:
        return [Check("ports", OK, "neither Ray nor fairsweep listens on this machine")]
    open_ = [one for one in found if not doors.is_loopback(one.address)]
    told = [one for one in open_ if one.kind != "fairsweep" and tells(one)]
    checks = []
    for one in told:
        said = f"{one.what} (pid {one.pid}) gives its metrics to whoever asks, without a token"
        checks.append(Check("ports", WARN, f"{said}: {one.address}:{one.port}", CLOSE["metrics"]))
    open_ = [one for one in open_ if one not in told]
    for what in dict.fromkeys(one.what for one in open_):
        of_it = [one for one in open_ if one.what == what]
        where = ", ".join(f"{one.address}:{one.port}" for one in of_it[:6])
        more = f" and {len(of_it) - 6} more" if len(of_it) > 6 else ""
        said = f"{what} (pid {of_it[0].pid}) listens beyond loopback: {where}{more}"
        checks.append(Check("ports", WARN, said, CLOSE[of_it[0].kind]))
    closed = [one for one in found if doors.is_loopback(one.address)]
    if closed:
        names = ", ".join(sorted({one.what for one in closed} - {one.what for one in (*open_, *told)}))
        checks.append(
            Check("ports", OK, f"{len(closed)} on loopback alone" + (f" ({names})" if names else ""))
        )
    return checks


# -- storage and disks ----------------------------------------------------------------------------------


def store(storage: str) -> list[Check]:
    """Whether a store can be written there, locked, and how long it takes until something is on disk."""
    from fairsweep.cluster import storage as stores

    try:
        opened = stores.open_store(storage)
    except UserError as error:
        return [Check("storage", BAD, masked_uri(str(error)), "--storage says where the store is")]
    if not opened.folder.local:
        return [_remote(opened)]
    root = Path(opened.folder.root)
    there = _first_there(root)
    if not root.exists():
        if os.access(there, os.W_OK | os.X_OK):
            said = f"{root}: no store yet; `fairsweep run` makes one"
            return [Check("storage", OK, said), _sync_time(there)]
        return [
            Check("storage", BAD, f"{root}: cannot be made, {there} cannot be written", "--storage elsewhere")
        ]
    try:
        timed = _sync_time(root)
    except OSError as error:
        return [
            Check(
                "storage",
                BAD,
                f"{root}: cannot be written ({doors.why(error)})",
                "mend that, or --storage elsewhere",
            )
        ]
    return [Check("storage", OK, f"{root}: {len(opened.names())} sweeps, can be written and locked"), timed]


def _first_there(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


@contextlib.contextmanager
def _probe(folder: Path) -> Iterator[int]:
    """A file there that is gone afterwards, in a folder that no reader of tables looks into."""
    file = folder / f".fairsweep-doctor-{uuid.uuid4().hex}"
    handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        yield handle
    finally:
        os.close(handle)
        file.unlink()


def _sync_time(folder: Path) -> Check:
    sync = getattr(os, "fdatasync", os.fsync)
    times = []
    with _probe(folder) as handle:
        with contextlib.suppress(ImportError):
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for _ in range(SYNCS):
            os.write(handle, b"x" * 1024)
            began = time.perf_counter()
            sync(handle)
            times.append(time.perf_counter() - began)
    took = statistics.median(times)
    said = f"{1000 * took:.2f} ms until 1 KiB is on disk (median of {SYNCS})"
    if took > SLOW_S:
        return Check("fsync", WARN, f"{said}: every report waits for it", "a local disk for --storage")
    return Check("fsync", OK, said)


def _remote(opened: Any) -> Check:
    uri, name = masked_uri(opened.uri), f"tmp/doctor-{uuid.uuid4().hex}"
    began = time.perf_counter()
    try:
        with opened.folder.fs.open_output_stream(opened.folder.path(name)) as out:
            out.write(b"fairsweep")
        back = opened.folder.read(name)
        opened.folder.delete(name)
    except Exception as error:
        said = f"{uri}: cannot be written and read ({masked_uri(' '.join(str(error).split()))})"
        return Check("storage", BAD, said, "check bucket, credentials and endpoint")
    if back != b"fairsweep":
        return Check("storage", BAD, f"{uri}: what is read is not what was written", "use another store")
    said = f"{uri}: an object written, read and deleted in {1000 * (time.perf_counter() - began):.0f} ms"
    return Check("storage", OK, said)


def disks(storage: str) -> list[Check]:
    """What is free where the store and Ray's files lie."""
    where: dict[str, Path] = {}
    if "://" not in storage:
        where["store"] = _first_there(Path(storage).expanduser().absolute())
    where["Ray's files"] = _first_there(Path(os.environ.get("RAY_TMPDIR", "/tmp")))
    if Path("/dev/shm").is_dir():
        where["shared memory"] = Path("/dev/shm")
    return [free(about, folder, shutil.disk_usage(folder)) for about, folder in where.items()]


def free(about: str, folder: Path, usage: Any) -> Check:
    """What is said of a disk. usage: total, used and free bytes."""
    said = f"{about} in {folder}: {usage.free / 2**30:.1f} of {usage.total / 2**30:.1f} GiB free"
    if usage.free < NOTHING:
        return Check("disk", BAD, said, f"make room in {folder}, or take another folder")
    if about == "Ray's files" and usage.total and 1 - usage.free / usage.total > FULL:
        return Check("disk", WARN, f"{said}: above 95 % Ray starts no tasks", "make room, or set RAY_TMPDIR")
    if usage.free < LITTLE:
        return Check("disk", WARN, said, "make room; `fairsweep clean SWEEP` drops checkpoints")
    return Check("disk", OK, said)


# -- the cluster ----------------------------------------------------------------------------------------


def cluster(address: str | None, storage: str) -> list[Check]:
    """Whether the cluster, or the job server, is there, lets us in, and what it has."""
    from fairsweep.cluster.service import laptop

    if address is None and (here := laptop.job_server()) is not None:
        return job_server(here)  # of `fairsweep local`
    if address is None:
        note = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"
        said = "none named: a sweep starts a Ray of its own, on loopback, and ends it"
        if note.is_file():
            said += f"; one was started here at {note.read_text().strip()} (--address auto looks at it)"
        return [Check("cluster", OK, said)]
    if address.startswith(("http://", "https://")):
        return job_server(address)
    from fairsweep.cluster.engine.local import connected
    from fairsweep.cluster.errors import UnfitCluster
    from fairsweep.cluster.jobs import readiness
    from fairsweep.cluster.storage import locate

    try:
        with connected({"address": address}):
            import ray

            nodes = [node for node in ray.nodes() if node["Alive"]]
            have, idle = ray.cluster_resources(), ray.available_resources()
            found = [Check("cluster", OK, f"{address}: {_counted(nodes)}, {_resources(have, idle)}")]
            try:
                found += [Check("cluster", WARN, note, "") for note in readiness.checked(locate(storage))]
            except UnfitCluster as error:
                found.append(Check("cluster", BAD, str(error), "one environment on all nodes"))
            except UserError as error:
                found.append(
                    Check("cluster", BAD, str(error), "--storage on a file system that all nodes see")
                )
            return found
    except UserError as error:
        return [Check("cluster", BAD, str(error), "see cluster/README.md, On a cluster")]


def _counted(nodes: Sequence[Any]) -> str:
    return f"{len(nodes)} node" + ("s" if len(nodes) != 1 else "")


def _resources(have: dict[str, float], idle: dict[str, float]) -> str:
    parts = [f"{have.get('CPU', 0):g} CPUs ({idle.get('CPU', 0):g} free)"]
    parts.append(
        f"{have.get('GPU', 0):g} GPUs" + (f" ({idle.get('GPU', 0):g} free)" if have.get("GPU") else "")
    )
    return ", ".join(parts) + f", {have.get('memory', 0) / 2**30:.1f} GiB for trials"


def job_server(
    address: str, get: Callable[[str, str | None], tuple[int, bytes]] | None = None
) -> list[Check]:
    """Whether Ray's job server answers us, and nobody who has no token. get: status and body at a URL with a token."""
    from fairsweep.cluster.engine.local import token_file

    get = get or _get
    token = os.environ.get("RAY_AUTH_TOKEN")
    if not token and token_file().is_file():
        token = token_file().read_text().strip()
    url = f"{address.rstrip('/')}/api/version"
    try:
        status, body = get(url, token or None)
    except OSError as error:
        todo = "fairsweep local start, or ray start --head; the job server is at http://HOST:8265"
        return [Check("job server", BAD, f"{address}: nothing answers ({doors.why(error)})", todo)]
    if status in (401, 403):
        todo = f"put the head node's token into {token_file()} (mode 0600)"
        return [
            Check(
                "job server",
                BAD,
                f"{address}: refuses " + ("this token" if token else "us, without a token"),
                todo,
            )
        ]
    if status != 200:
        return [Check("job server", BAD, f"{address}: answers {status}", "is it Ray's job server?")]
    try:
        said = f"{address}: Ray {json.loads(body)['ray_version']} lets us in"
    except (ValueError, KeyError, TypeError):
        return [
            Check("job server", BAD, f"{address}: is no job server of Ray's", "it is at http://HOST:8265")
        ]
    found = [Check("job server", OK, said)]
    with contextlib.suppress(OSError):
        if get(url, None)[0] == 200:
            bare = f"{address}: lets in who has no token: whoever reaches it runs code there"
            found.append(Check("job server", BAD, bare, "start it with RAY_AUTH_MODE=token"))
    return found


def _get(url: str, token: str | None) -> tuple[int, bytes]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=ANSWER_S) as answer:
            return answer.status, answer.read(1 << 16)
    except urllib.error.HTTPError as error:
        return error.code, b""
    except urllib.error.URLError as error:
        raise OSError(str(error.reason)) from None
    except ValueError as error:
        raise OSError(str(error)) from None
