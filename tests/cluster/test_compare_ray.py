"""Comparisons on Ray: many sweeps on the workers of one Tune run, killed and taken up."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from fairsweep.analysis.store import Store
from fairsweep.cluster.jobs.comparing import job, plan
from fairsweep.cluster.jobs.comparing.display import ComparisonDisplay
from tests.cluster.test_compare import BOWLS, compared, essence, rows
from tests.cluster.test_crash import finish, start


def test_lanes_share_workers_and_end_as_without_ray(tmp_path: Path, ray_session: None) -> None:
    compared(tmp_path / "here", *BOWLS)
    answer, state = job.run(plan.asked(BOWLS, "c", str(tmp_path / "ray")), ComparisonDisplay())
    assert state == "finished" and answer is not None
    assert essence(tmp_path / "ray") == essence(tmp_path / "here")
    store = Store(str(tmp_path / "ray"))
    pids = {
        pid
        for row in rows(tmp_path / "ray")
        for pid in store.table("trials", row["search"])["pid"].to_pylist()
    }
    assert len(pids) <= 2, "a worker takes legs of several sweeps"
    assert all(store.table("sweeps", name)["state"][0].as_py() == "finished" for name in store.sweeps())


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_comparison_killed_at_random_moments_ends_the_same(tmp_path: Path) -> None:
    words = ["test_slow:kind=a,b", "budget.trials=6", "seeds=2", "budget.checkpoint_seconds=0.3"]
    command = ["compare", *words, "name=c", f"storage={tmp_path}/store"]
    rng = random.Random(4)
    for signals in (signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGKILL):
        known = len(Store(str(tmp_path / "store")).table("results")) if (tmp_path / "store").exists() else 0
        process = start(*command)
        until = time.monotonic() + 120
        while time.monotonic() < until and process.poll() is None:
            if (tmp_path / "store").exists() and len(Store(str(tmp_path / "store")).table("results")) > known:
                break
            time.sleep(0.2)
        time.sleep(rng.uniform(0, 2))
        assert process.poll() is None, "it ended before it was to be ended"
        process.send_signal(signals)
        code, _out, err = finish(process)
        assert code == (130 if signals == signal.SIGINT else -9), err
        command = ["resume", "c", "--storage", str(tmp_path / "store")]
    code, out, err = finish(start(*command), 600)
    assert code == 0, err
    assert "answer " in out
    compared(tmp_path / "here", *words)
    assert essence(tmp_path / "store") == essence(tmp_path / "here")
