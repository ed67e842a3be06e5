"""Whether this machine is as a sweep needs it: each question a line, ok, warn or bad, and what to do about it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import statistics
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fairsweep.cluster import doors
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.masking import masked_uri
from fairsweep.cluster.service.checking import BAD, OK, WARN, Check
from fairsweep.cluster.service.installed import extras, packages
from fairsweep.cluster.service.listening import listeners, ports

LITTLE, NOTHING = 2 * 2**30, 200 * 2**20  # bytes of a disk that are free: to be warned of, and too few
FULL = 0.95  # of a disk, from which on Ray starts no more tasks
SLOW_S = 0.02  # of an fsync: every report waits for one
SYNCS = 15
ANSWER_S = 10.0  # that a job server may take


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


# -- tokens -------------------------------------------------------------------------------------------


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
        said = f"{root}: cannot be made, {there} cannot be written"
        if os.access(there, os.W_OK | os.X_OK):
            try:
                timed = _sync_time(there)
            except OSError as error:  # the mode of /proc, and of some mounts, is not true
                said += f" ({doors.why(error)})"
            else:
                return [Check("storage", OK, f"{root}: no store yet; `fairsweep run` makes one"), timed]
        return [Check("storage", BAD, said, "--storage elsewhere")]
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
