"""The rooms under one name: in a checkout, in a wheel, beside folders of the user's own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fairsweep._flat import ROOMS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]


def test_the_wheel_holds_every_room_of_every_room() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = [file.parent.relative_to(ROOT) for room in ROOMS for file in (ROOT / room).rglob("__init__.py")]
    assert sorted(listed) == sorted(["fairsweep", *(".".join(("fairsweep", *f.parts)) for f in folders)])


def test_the_walk_through_cluster_names_each_file_once() -> None:
    page = (ROOT / "cluster" / "README.md").read_text()
    walk = page[page.index("## One trial") :].partition("\n## ")[0]
    named = re.findall(r"`([\w/]+\.py)`", walk)
    files = [
        f.relative_to(ROOT / "cluster") for f in (ROOT / "cluster").rglob("*.py") if f.name != "__init__.py"
    ]
    for file in files:
        parts = file.parts
        known = {"/".join(parts[i:]) for i in range(len(parts))}
        shared = sum(f.name == file.name for f in files) > 1  # then it is named with its folder
        count = sum(name in known and (not shared or name == file.as_posix()) for name in named)
        assert count == 1, f"{file} is named {count} times"
    assert len(named) == len(files)


def test_no_file_has_the_marks_of_a_conflict() -> None:
    done = subprocess.run(
        ["git", "grep", "-lE", "^(<{7}|>{7}) "], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == ""


def run(words: list[str], where: Path, **environment: str) -> str:
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "FAIRSWEEP_PLUGINS")} | environment
    done = subprocess.run(words, cwd=where, env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("linked", [False, True])
def test_short_names_are_the_same_modules_in_a_checkout(tmp_path: Path, linked: bool) -> None:
    where = tmp_path / "link" if linked else ROOT
    if linked:
        where.symlink_to(ROOT)
    code = (
        "import fairsweep, analysis.schema, trainables.base as short, fairsweep.trainables.base as long\n"
        "from search_spaces.space import Space\n"
        "import fairsweep.search_spaces.space as space\n"
        "print(short is long, space.Space is Space, analysis.schema.__spec__.name, short.__name__)"
    )
    said = run([sys.executable, "-c", code], tmp_path, PYTHONPATH=str(where))
    assert said.split() == ["True", "True", "fairsweep.analysis.schema", "fairsweep.trainables.base"]


def test_a_folder_of_the_users_called_like_a_room_stays_the_users(tmp_path: Path) -> None:
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis" / "__init__.py").write_text("mine = True")
    code = "import fairsweep.analysis.schema, analysis; print(analysis.mine, fairsweep.analysis is analysis)"
    assert run([sys.executable, "-c", code], tmp_path, PYTHONPATH=str(ROOT)).split() == ["True", "False"]


@pytest.mark.slow
def test_a_wheel_runs_a_sweep_beside_folders_called_like_rooms(tmp_path: Path) -> None:
    words = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(ROOT),
    ]
    run(words, tmp_path)
    site = tmp_path / "site"
    (wheel,) = tmp_path.glob("fairsweep-*.whl")
    run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel)],
        tmp_path,
    )
    mine = tmp_path / "mine"
    for room in ("analysis", "cluster"):
        (mine / room).mkdir(parents=True)
        (mine / room / "__init__.py").write_text("raise RuntimeError('this is a folder of the user')")
    sweep = [
        "run",
        "trainable=biper",
        "data=digits",
        "budget.trials=2",
        "budget.steps=32",
        "search=random",
        "name=w",
    ]
    run([sys.executable, "-m", "fairsweep.cluster", *sweep], mine, PYTHONPATH=str(site))
    code = (
        "from fairsweep.analysis.store import Store; import fairsweep.analysis as a; "
        "print(Store('fairsweep-store').table('trials', 'w').num_rows, a.__file__)"
    )
    rows, file = run([sys.executable, "-c", code], mine, PYTHONPATH=str(site)).split()
    assert rows == "2" and file.startswith(str(site))
