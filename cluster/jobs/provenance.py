"""What made a row: code version, package versions, machine."""

from __future__ import annotations

import functools
import json
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("fairsweep", "torch", "ray", "optuna", "numpy", "scikit-learn", "pyarrow", "hydra-core")


@functools.lru_cache(maxsize=1)
def code_version() -> tuple[str | None, bool | None]:
    """(git commit, dirty) of the checkout that the code runs from; (None, None) if it is none."""
    root = Path(__file__).parent
    try:
        commit = _git(root, "rev-parse", "HEAD")
        tracked = _git(root, "ls-files", "--error-unmatch", Path(__file__).name)
        dirty = bool(_git(root, "status", "--porcelain"))
    except (OSError, subprocess.SubprocessError):
        return None, None
    return (commit, dirty) if tracked else (None, None)


def code_name() -> str:
    """The code version in a word, for names of what it has made; the packages' versions where there is no commit."""
    commit, dirty = code_version()
    return f"{commit}{'-changed' if dirty else ''}" if commit else versions()


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
