"""Shared by all tests: the test papers, the public data sets, one Ray for the whole session."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["FAIRSWEEP_PLUGINS"] = "tests.papers"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes share the cores
os.environ.setdefault("WANDB_MODE", "offline")

MEMORY, ROOM = "/dev/shm", 4 * 2**30  # a file system in memory, and the bytes that it must have left


def _have_memory() -> bool:
    """Whether the folders of tests can lie in memory: a store waits for the disk at each append, most of a test's time.

    What a test says of kills and of what is on disk holds there as well: no power is cut. In containers it may be small
    or hold no programs.
    """
    try:
        there = os.statvfs(MEMORY)
    except (AttributeError, OSError):  # another system
        return False
    usable = not there.f_flag & os.ST_NOEXEC and os.access(MEMORY, os.W_OK)
    return usable and there.f_bavail * there.f_frsize >= ROOM


if _have_memory():
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", MEMORY)
# Under `nohup`, or in the background of a script, signals are ignored: a driver leaves it so, and so do its children.
if threading.current_thread() is threading.main_thread():
    for _number, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(_number) is signal.SIG_IGN:
            signal.signal(_number, _usual)


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
