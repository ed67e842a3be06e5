"""An earlier fairsweep in an environment of its own, for benchmarks to measure beside this one.

python -m tests.benchmarks.before [COMMIT]      # makes build/before, once, and prints where it is
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
BEFORE_SPEED = "24da31b"  # the last commit before the work on short trials, many workers and long sweeps


def before(commit: str = BEFORE_SPEED) -> tuple[Path, str]:
    """The checkout of `commit` and its interpreter; both are made where they are not there yet."""
    folder = HERE / "build" / f"before-{commit}"
    checkout, python = folder / "checkout", folder / "venv" / "bin" / "python"
    if not checkout.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["git", "clone", "-q", "--no-checkout", str(HERE), str(checkout)], check=True)
        subprocess.run(["git", "-C", str(checkout), "checkout", "-q", commit], check=True)
    if not (folder / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder / "venv")], check=True)
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run(
            [*pip, "-c", str(checkout / "constraints.txt"), "-e", f"{checkout}[dev]"],
            cwd=checkout,
            check=True,
        )
        (folder / "installed").touch()
    return checkout, str(python)


def earlier(named: str | None) -> list[tuple[Path, str]]:
    """What `--before` names: a checkout, and its interpreter. "" is the one that `before` makes; None: nothing."""
    if named is None:
        return []
    return [(Path(named).resolve(), sys.executable) if named else before()]


def apart(program: str, words: Sequence[str], checkout: Path = HERE, python: str = sys.executable) -> str:
    """The last line that `program`, a file of these benchmarks, prints in a process that imports from `checkout`."""
    env = {
        **os.environ,
        "PYTHONPATH": str(checkout),
        "FAIRSWEEP_PLUGINS": "tests.papers",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [python, program, *words], env=env, cwd=checkout, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout.splitlines()[-1]


def add_before(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--before", nargs="?", const="", help="measure the earlier build too, or a checkout of yours"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit", nargs="?", default=BEFORE_SPEED)
    checkout, python = before(parser.parse_args().commit)
    print(checkout, python)


if __name__ == "__main__":
    main()
