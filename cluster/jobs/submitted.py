"""In a job: what a sweep leaves in its store for who submitted it, and the words that did not go by the command line.

`jobs/<submission id>.json` holds the sweep from its start and the exit code from its end: Ray's own client makes 1 of
each code but 0, and Ray keeps none of a job that it stopped.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairsweep.cluster.masking import masked_uri

if TYPE_CHECKING:
    from fairsweep.analysis.store import Store

WORDS = "FAIRSWEEP_WORDS"  # a file of the working directory with the words as they are, where a command has secrets
FOLDER = "FAIRSWEEP_FOLDER"  # where the command was given; see `storage.locate`
STORE, HOME_STORE = "fairsweep_store", "fairsweep_home_store"  # in a job's metadata: where its store may be
_open: tuple[Store, str] | None = None


def submission() -> str | None:
    """The id of the job that this process drives; None outside of one."""
    try:
        about = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", ""))["metadata"]
        return str(about["job_submission_id"])
    except (ValueError, KeyError, TypeError):
        return None


def enter(store: Store, sweep: str) -> None:
    """A sweep, comparison or run of claims begins, or goes on."""
    global _open
    _open = (store, sweep)
    _write(None)


def ended(code: int) -> None:
    """The verb ends with this exit code. Without a sweep nothing is written: what was refused leaves no trace."""
    _write(code)


def _write(code: int | None) -> None:
    job = submission()
    if job is None or _open is None or "/" in job:  # Ray takes any id, also one that leads out of the folder
        return
    store, sweep = _open
    row = {"code": code, "sweep": sweep, "ended": None if code is None else time.time()}
    row["storage"] = masked_uri(store.uri)
    with contextlib.suppress(Exception):  # never the end of a sweep
        store.folder.make("jobs")
        with store.folder.replacing(f"jobs/{job}.json") as out:
            out.write(json.dumps(row).encode())


def read(storage: str, job: str) -> dict[str, Any] | None:
    """What a job has left in the store at `storage`; None if there is nothing, or no store."""
    from fairsweep.analysis.store import Store
    from fairsweep.cluster.storage import locate

    if "://" not in storage and not Path(locate(storage)).is_dir():
        return None
    try:
        found = json.loads(Store(locate(storage)).folder.read(f"jobs/{job}.json"))
    except Exception:
        return None
    return found if isinstance(found, dict) else None


def of_sweep(storage: str, sweep: str) -> str | None:
    """The job that runs the sweep `sweep` of the store at `storage`, or ran it last; None if none did."""
    from fairsweep.analysis.store import Store
    from fairsweep.cluster.storage import locate

    found: list[tuple[float, str]] = []
    with contextlib.suppress(Exception):  # no store
        for file in Store(locate(storage)).folder.names("jobs"):
            job = file.removesuffix(".json")
            record = read(storage, job)
            if record is not None and record.get("sweep") == sweep:
                found.append((record.get("ended") or math.inf, job))
    return max(found)[1] if found else None


def words(argv: Sequence[str]) -> list[str]:
    """`argv`, or what it stands for: secrets are masked on the command line of a job, which Ray shows and keeps."""
    name = os.environ.get(WORDS)
    if not name:
        return list(argv)
    try:
        about = json.loads(Path(name).read_text())
    except (OSError, ValueError):
        return list(argv)
    return list(about["words"]) if list(argv) == about["shown"] else list(argv)
