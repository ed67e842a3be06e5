"""`fairsweep new-paper`: what it writes passes the contract, and nothing is overwritten."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fairsweep.cluster.cli import run_cli

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    skip = shutil.ignore_patterns(".*", "__pycache__", "fairsweep-store", "build", "*.egg-info")
    shutil.copytree(ROOT, tmp_path / "checkout", ignore=skip)
    monkeypatch.chdir(tmp_path / "checkout")
    return tmp_path / "checkout"


@pytest.mark.timeout(200)
def test_the_skeleton_is_formatted_and_listed(checkout: Path) -> None:
    assert run_cli(["new-paper", "my_method", "--room", "theory", "--title", "My Method"]) == 0
    env = {**os.environ, "PYTHONPATH": str(checkout)}
    python = [sys.executable, "-m"]
    for words in (["check", "."], ["format", "--check", "."]):
        style = subprocess.run([*python, "ruff", *words], cwd=checkout, capture_output=True, text=True)
        assert style.returncode == 0, style.stdout
    listed = subprocess.run(
        [*python, "cluster", "list"], cwd=checkout, env=env, capture_output=True, text=True
    )
    assert "my_method" in listed.stdout and "My Method" in listed.stdout


@pytest.mark.slow
def test_the_skeleton_passes_the_contract(checkout: Path) -> None:
    assert run_cli(["new-paper", "my_method", "--room", "theory", "--title", "My Method"]) == 0
    test = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/trainables/test_contract.py", "tests/trainables/test_my_method.py",
         "-k", "my_method", "-n", "0", "-p", "no:cacheprovider"],
        cwd=checkout, env={**os.environ, "PYTHONPATH": str(checkout)}, capture_output=True, text=True,
    )  # fmt: skip
    assert test.returncode == 0, test.stdout


def test_what_it_refuses(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout / "tests" / "trainables" / "test_taken.py").write_text("mine")
    for words, expected in (
        (["My-Method"], "lower-case"),
        (["dagnn"], "there is a paper of this name"),
        (["new", "--room", "kitchen"], "--room=kitchen: must be one of"),
        (["taken"], "is there already"),
    ):
        assert run_cli(["new-paper", *words]) == 2
        assert expected in capsys.readouterr().err
    assert not (checkout / "trainables" / "vision" / "taken.py").exists()
    monkeypatch.chdir(checkout / "tests")
    assert run_cli(["new-paper", "other"]) == 2
    assert "is no checkout" in capsys.readouterr().err
