"""Shared by all tests: the test papers, the public data sets, one Ray for the whole session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["FAIRSWEEP_PLUGINS"] = "tests.papers"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes share the cores
os.environ.setdefault("WANDB_MODE", "offline")


@pytest.fixture(autouse=True)
def _comes_back() -> Iterator[None]:
    """What a worker does here goes to the folder of its command, which is deleted after the test."""
    before = os.getcwd()
    yield
    os.chdir(before)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of public data sets; tests that need it are skipped where there is none."""
    folder = os.environ.get("FAIRSWEEP_DATA_DIR")
    if not folder:
        pytest.skip("FAIRSWEEP_DATA_DIR is not set: it names the folder with the public data sets")
    return Path(folder)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One embedded Ray of two CPUs for every test that needs one."""
    from fairsweep.cluster.engine.local import connected

    with connected({"cpus": 2}):
        yield
