"""Jobs on a Ray cluster, by its job server: submitted, followed, looked at, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fairsweep.cluster import DEFAULT_STORAGE
from fairsweep.cluster.engine.local import (
    check_token_is_private,
    find_cluster,
    prepare_environment,
    read_environment,
    stay_on_loopback,
    token_file,
)
from fairsweep.cluster.errors import DriverEnded, UserError
from fairsweep.cluster.jobs import submitted
from fairsweep.cluster.service import laptop

USUAL = "http://127.0.0.1:8265"
VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
ANSWER_S = 10.0  # that a job server may take to say who it is
AGENT_S = 90.0  # that a head which has just started may take until its agent takes jobs
PATIENCE_S = 60.0  # that a job server may be out of reach while a job is followed
STOP_S = 60  # that a sweep may take to end at its next reports; Ray's own limit is 3 s
OVER = ("SUCCEEDED", "FAILED", "STOPPED")
# What Ray writes first into the log of a job.
_SETTING_UP, _OURS = "Runtime env is setting up", "Running entrypoint for job"


def where(address: str | None) -> tuple[str, str]:
    """The address of a job server, and what names it: option, variable, `fairsweep local`, or Ray's usual port."""
    if address:
        return address, f"--address={address}"
    for name in VARIABLES:
        if found := os.environ.get(name):
            return found, f"{name}={found}"
    here = laptop.job_server()
    return (here, "`fairsweep local`") if here else (USUAL, USUAL)


def connect(address: str | None) -> Any:
    """A client of Ray's job server. UserError in one line where none answers, or it does not let us in."""
    prepare_environment()
    if not os.environ.get("RAY_AUTH_TOKEN"):
        check_token_is_private()
    given, named = where(address)
    url = _server(given, named)
    module = _ray_jobs()
    read_environment()
    with _unset(VARIABLES):  # which Ray would take in the place of what it is given
        try:
            return module.JobSubmissionClient(url)
        except Exception as error:  # Ray's errors have no common base
            raise UserError(refusal(error, url, named)) from None


def refusal(error: Exception, url: str, named: str) -> str:
    """Why a job server did not take a request, and what to do."""
    text = " ".join(str(error).split())
    if type(error).__name__ == "AuthenticationError" or "token" in text.lower():
        mode, place = os.environ.get("RAY_AUTH_MODE"), token_file()
        if mode not in (None, "token"):
            return f"{named}: the cluster wants its token, and RAY_AUTH_MODE={mode} keeps it back; unset RAY_AUTH_MODE"
        own = "RAY_AUTH_TOKEN" if os.environ.get("RAY_AUTH_TOKEN") else str(place)
        if own == str(place) and not place.is_file():
            return (
                f"{named}: the cluster wants its token, and there is none here; copy the head node's ~/.ray/auth_token"
                f" to {place} (chmod 600), or set RAY_AUTH_TOKEN"
            )
        return (
            f"{named}: the cluster does not take the token in {own}; put the head node's there (its ~/.ray/auth_token),"
            " or name another cluster with --address"
        )
    return f"{named}: {url} is no job server that can be used ({text[:300] or type(error).__name__})"


def _server(given: str, named: str) -> str:
    """The URL of a job server; of the cluster at HOST:PORT too, where that speaks no HTTP itself."""
    import requests

    url = given if "://" in given else f"http://{given}"
    if given == "auto" and (here := laptop.job_server()):
        return here  # of which Ray's own note does not tell
    if not url.startswith(("http://", "https://")) or given == "auto":
        try:
            return _of_cluster(given)
        except UserError as error:
            if not str(error).startswith("cluster.address="):  # a setting that nobody gave here
                raise
        if given == "auto":
            raise UserError(
                f"{named}: no Ray cluster runs on this machine; `fairsweep local start` starts one"
            )
        raise UserError(f"{named}: must be http://HOST:8265, HOST:PORT or auto")
    try:
        requests.get(f"{url.rstrip('/')}/api/version", timeout=ANSWER_S, allow_redirects=False)
    except requests.exceptions.InvalidURL:
        raise UserError(f"{named}: must be http://HOST:PORT, HOST:PORT or auto") from None
    except requests.exceptions.RequestException as error:
        if "://" not in given and not isinstance(error, requests.exceptions.Timeout):
            with contextlib.suppress(UserError):
                return _of_cluster(given)
        place = "there" if named.endswith(url) else f"at {url}"
        raise UserError(
            f"{named}: no job server answers {place}; start a cluster on this machine with `fairsweep local start`, or"
            " name one with --address http://HEAD:8265"
        ) from None
    return url


def _of_cluster(given: str) -> str:
    """The URL of the job server of the cluster at `given`: auto, HOST:PORT of its GCS, ray://."""
    found = find_cluster(given)
    assert found is not None
    stay_on_loopback(found)
    _ray_jobs()
    read_environment()
    from ray.dashboard.utils import get_address_for_submission_client

    with _unset(VARIABLES):
        try:
            return str(get_address_for_submission_client(found))
        except Exception as error:
            raise UserError(refusal(error, found, f"--address={given}")) from None


def _ray_jobs() -> Any:
    module = importlib.import_module("ray.job_submission")
    for name in ("ray", "ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return module


@contextlib.contextmanager
def _unset(names: tuple[str, ...]) -> Iterator[None]:
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


def submit(
    client: Any, entrypoint: str, runtime_env: Mapping[str, Any], metadata: Mapping[str, str], job: str | None
) -> str:
    """Hands a job in; its id. job: the id that it is to have. UserError for one that is taken, and what Ray refuses."""
    deadline = time.monotonic() + AGENT_S
    while True:
        try:
            return str(
                client.submit_job(
                    entrypoint=entrypoint,
                    runtime_env=dict(runtime_env),
                    metadata=dict(metadata),
                    submission_id=job,
                )
            )
        except Exception as error:
            text = " ".join(str(error).split())
            if "No available agent" in text and time.monotonic() < deadline:
                time.sleep(1.0)  # a head that has just started has none yet
                continue
            if job and f"{job} already exists" in text:
                raise UserError(f"--id={job}: the cluster has a job of this id; choose another") from None
            raise UserError(f"submit: the job server refuses the job ({text[-400:]})") from None


def info(client: Any, job: str) -> Any:
    """What the job server knows of a job. UserError if there is none of this id."""
    try:
        return client.get_job_info(job)
    except RuntimeError as error:
        if "404" in str(error):
            raise UserError(f"{job}: the cluster has no such job; `fairsweep status` lists them") from None
        raise


def find(client: Any, name: str, storage: str | None = None) -> Any:
    """What the job server knows of a job: of this id, or that runs the sweep `name`, or ran it last. UserError.

    storage: the store of the sweep, where it is not where jobs were submitted.
    """
    try:
        return info(client, name)
    except UserError:
        ran = [about for about in listed(client) if (record_of(about, storage) or {}).get("sweep") == name]
        if ran:
            return next((about for about in reversed(ran) if not is_over(about)), ran[-1])
    raise UserError(
        f"{name}: the cluster has no such job, and none that ran a sweep of this name; `fairsweep status` lists them"
    )


def listed(client: Any) -> list[Any]:
    """All jobs that were submitted, the newest last."""
    found = [one for one in client.list_jobs() if one.submission_id]
    return sorted(found, key=lambda one: one.start_time or 0)


def is_over(about: Any) -> bool:
    return state_of(about) in OVER


def state_of(about: Any) -> str:
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    return str(getattr(about.status, "value", about.status))


def follow(client: Any, job: str, out: Callable[[str], object]) -> Any:
    """Hands what the job writes to `out` until it ends; what the server knows of it then.

    Nothing is said twice, and nothing left out, where the connection breaks meanwhile. DriverEnded, in one line, if the
    server stays out of reach for `PATIENCE_S`.
    """
    said, heard = _Said(out), time.monotonic()
    while True:
        try:
            with contextlib.suppress(RuntimeError):  # the connection broke: the rest is asked for below
                asyncio.run(_tail(client, job, said))
            about = info(client, job)
            heard = time.monotonic()
            if is_over(about):
                said.all(client.get_job_logs(job))
                return about
        except _broken() as error:
            if time.monotonic() - heard > PATIENCE_S:
                raise DriverEnded(
                    f"the job server does not answer any more ({type(error).__name__}); job {job} may go on:"
                    f" `fairsweep logs -f {job}`"
                ) from None
        time.sleep(0.5)


class _Said:
    """What of a log has been handed on; the lines that Ray puts in front are not."""

    def __init__(self, out: Callable[[str], object]) -> None:
        self.out, self.count = out, 0
        self._front: str | None = (
            ""  # a line of Ray's that may be one, as far as it has come; None behind them
        )

    def more(self, text: str) -> None:
        """The next part."""
        self.count += len(text)
        while self._front is not None and text:
            line, end, text = text.partition("\n")
            self._front += line
            if not end:
                return
            front, self._front = self._front, ""
            if front.startswith(_OURS):
                self._front = None
            elif _SETTING_UP not in front:
                self.out(f"{front}\n")
        if text:
            self.out(text)

    def all(self, text: str) -> None:
        """All of the log, of which a part may have been handed on."""
        if len(text) > self.count:
            self.more(text[self.count :])
        if self._front:
            self.out(self._front)
            self._front = ""


def without_front(log: str) -> str:
    """A job's log without the lines in which Ray says what it is about to run."""
    found: list[str] = []
    _Said(found.append).all(log)
    return "".join(found)


async def _tail(client: Any, job: str, said: _Said) -> None:
    passed, known = 0, said.count  # a new connection begins at the beginning
    async for part in client.tail_job_logs(job):
        new = part[max(0, known - passed) :]
        passed += len(part)
        if new:
            said.more(new)


def _broken() -> tuple[type[Exception], ...]:
    """What the clients of a server that is out of reach raise."""
    import aiohttp
    import requests

    return OSError, asyncio.TimeoutError, requests.exceptions.RequestException, aiohttp.ClientError


def stop(client: Any, job: str, patience: float = STOP_S + 15.0) -> tuple[bool, Any]:
    """Asks a job to end, and waits until it has; whether it ran, and what the server knows of it then."""
    before = info(client, job)
    if is_over(before):
        return False, before
    client.stop_job(job)
    return True, _ended(client, job, patience)


def _ended(client: Any, job: str, patience: float) -> Any:
    """What the server knows of a job once it has ended, or after so many seconds."""
    deadline = time.monotonic() + patience
    while not is_over(about := info(client, job)) and time.monotonic() < deadline:
        time.sleep(0.3)
    return about


def stop_all(address: str) -> list[str]:
    """Stops what runs, before the cluster itself ends; the ids. Nothing where the job server does not answer."""
    found = []
    with contextlib.suppress(Exception):
        client = connect(address)
        for about in listed(client):
            if not is_over(about):
                client.stop_job(about.submission_id)
                found.append(about.submission_id)
        for job in found:
            _ended(client, job, STOP_S + 15.0)
    return found


def outcome(about: Any, record: Mapping[str, Any] | None) -> int | None:
    """The exit code of a job's verb; None while it runs.

    The store's record has it (`jobs/<id>.json`), of a verb that is not a sweep's the job server, which knows none of a
    job that it stopped.
    """
    if not is_over(about):
        return None
    own = getattr(about, "driver_exit_code", None)
    if record is not None and record.get("code") is not None:
        return int(record["code"])
    if own is not None:
        return int(own) if own >= 0 else 128 - int(own)
    return {"SUCCEEDED": 0, "STOPPED": 130}.get(state_of(about), 1)


def record_of(about: Any, storage: str | None = None) -> dict[str, Any] | None:
    """What a job has left in its store; None where that is not within reach, or the job has had none."""
    metadata = about.metadata or {}
    # Plain `ray job submit` says nothing of a store.
    own = [metadata.get(submitted.STORE), metadata.get(submitted.HOME_STORE)]
    places = [storage] if storage else own if any(own) else [DEFAULT_STORAGE]
    for place in filter(None, places):
        found = submitted.read(place, about.submission_id)
        if found is not None:
            return found
    return None


def why_failed(about: Any) -> str:
    """Why a job did not come to run its verb, in one line; "" if it did."""
    kind = str(getattr(getattr(about, "error_type", None), "value", getattr(about, "error_type", None)) or "")
    if state_of(about) != "FAILED" or kind == "JOB_ENTRYPOINT_COMMAND_ERROR":
        return ""
    return " ".join(str(about.message or "").split())[-500:]


def lacking(log: str) -> str:
    """The module that the nodes lack, if that ended a job; "" else."""
    for line in reversed(log.splitlines()[-5:]):
        _, found, name = line.partition("No module named ")
        if found:
            return name.strip().strip("'\"").partition(";")[0].strip("'\" ")
    return ""
