"""What made a row: code version, package versions, machine."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fairsweep._flat import ROOMS
from fairsweep.cluster.copies import RAY_COPIES

REVISION = "FAIRSWEEP_REVISION"  # in a job, whose copy of the code has no history: commit, and -changed
PACKAGES = ("fairsweep", "torch", "ray", "optuna", "numpy", "scikit-learn", "pyarrow", "hydra-core")


@functools.lru_cache(maxsize=1)
def code_version() -> tuple[str | None, bool | None]:
    """(git commit, dirty) of the checkout that the code runs from; (None, None) if it is none."""
    found = version_of(Path(__file__).parent, Path(__file__).name)
    return _sent() if found == (None, None) else found


def version_of(root: Path, file: str) -> tuple[str | None, bool | None]:
    """(git commit, dirty) of the checkout at `root` that has `file`; (None, None) if it is none."""
    try:
        commit = _git(root, "rev-parse", "HEAD")
        tracked = _git(root, "ls-files", "--error-unmatch", file)
        dirty = bool(_git(root, "status", "--porcelain"))
    except (OSError, subprocess.SubprocessError):
        return None, None
    return (commit, dirty) if tracked else (None, None)


def _sent() -> tuple[str | None, bool | None]:
    """What `fairsweep submit` says of the code that it has sent along, where that is what runs."""
    if RAY_COPIES not in Path(__file__).as_posix():
        return None, None
    commit, changed, _ = os.environ.get(REVISION, "").partition("-changed")
    return (commit, bool(changed)) if commit else (None, None)


def code_name() -> str:
    """The code version in a word, for names of what it has made; the packages' versions where there is no commit."""
    commit, dirty = code_version()
    return f"{commit}{'-changed' if dirty else ''}" if commit else versions()


def revision() -> str:
    """The code version for a reader: release and commit."""
    commit, dirty = code_version()
    release = json.loads(versions())["fairsweep"] or "that is not installed"
    return f"{release} (commit {commit[:12]}{', changed' if dirty else ''})" if commit else release


@functools.lru_cache(maxsize=1)
def code_digest() -> str:
    """A digest of the code itself: the same on machines that run the same, installed or from a checkout."""
    found = hashlib.sha256()
    root = Path(__file__).parents[2]
    for room in ROOMS:
        for file in sorted((root / room).rglob("*.py")):
            found.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return found.hexdigest()


def _git(root: Path, *args: str) -> str:
    run = subprocess.run(
        ["git", "-C", str(root), *args], capture_output=True, text=True, timeout=10, check=True
    )
    return run.stdout.strip()


@functools.lru_cache(maxsize=1)
def versions() -> str:
    """JSON of Python's and the packages' versions."""
    found: dict[str, Any] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return json.dumps(found)
