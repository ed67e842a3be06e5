"""Jobs on a cluster of `fairsweep local`, as the READMEs have them. One cluster for all of this file."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from fairsweep.analysis.store import Store
from fairsweep.cluster.service import laptop

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
FAIRSWEEP = [sys.executable, "-m", "fairsweep.cluster"]
TRAIN = """import os, time
import fairsweep
from helper import OFFSET

@fairsweep.trainable(space={"x": (0.0, 1.0), "api_key": "none"}, metric="loss", steps=3)
def train(config, trial):
    values = [float(v) for v in open(os.path.join(trial.data_dir, "v.csv")).read().split(",")]
    for step in range(3):
        trial.report(loss=OFFSET + sum(values) + config["x"] / (1 + step))
"""


class Cluster:
    """A clone of this repository, a home, and a cluster that was started there."""

    def __init__(self, place: Path) -> None:
        self.clone, self.home = place / "clone", place / "home"
        self.home.mkdir()
        subprocess.run(["git", "clone", "-q", str(ROOT), str(self.clone)], check=True)
        env = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "FAIRSWEEP_"))}
        env |= {"HOME": str(self.home), "PYTHONPATH": str(self.clone), "FAIRSWEEP_PLUGINS": "tests.papers"}
        # Sockets of Ray have short names.
        self.env = env | {"RAY_TMPDIR": os.environ.get("RAY_TMPDIR", "/tmp"), "COLUMNS": "200"}

    def __call__(self, *words: str, cwd: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*FAIRSWEEP, *words], cwd=cwd or self.clone, env={**self.env, **more}, capture_output=True, text=True,
            timeout=400,
        )  # fmt: skip

    def json(self, *words: str) -> Any:
        return json.loads(self(*words, "--json").stdout)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    found = Cluster(tmp_path_factory.mktemp("c"))
    try:
        started = found("local", "start", "--cpus", "2")
        assert started.returncode == 0, started.stderr
        yield found
    finally:
        before = found.json("local", "status")
        stopped = found("local", "stop")
        assert stopped.returncode == 0 and "stopped 1 node(s)" in stopped.stdout
        left = [psutil.Process(node["pid"]) for node in before["nodes"] if psutil.pid_exists(node["pid"])]
        assert laptop.until_gone(left, 0.0) == []
        assert found("local", "status").returncode == 1


def commands(page: str, heading: str) -> list[list[str]]:
    """The `fairsweep` commands of the first block below a heading."""
    text = (ROOT / page).read_text().partition(heading)[2].split("```")[1]
    lines = [line.partition("  #")[0] for line in text.splitlines()]
    return [
        part.split()[1:] for line in lines for part in line.split(";") if part.split()[:1] == ["fairsweep"]
    ]


def ones_own(place: Path) -> list[str]:
    """A trainable with a module beside it, and data, both outside of where jobs are submitted."""
    for folder in ("other", "data"):
        (place / folder).mkdir()
    (place / "other" / "train.py").write_text(TRAIN)
    (place / "other" / "helper.py").write_text("OFFSET = 0.5\n")
    (place / "data" / "v.csv").write_text("0.25,0.25")
    return [f"trainable={place}/other/train.py:train", f"data_dir={place}/data"]


def test_the_readmes_commands_from_a_fresh_clone(cluster: Cluster) -> None:
    start, submit, status, logs, stop, end = commands("cluster/README.md", "## On a cluster\n")
    assert [start, end] == [["local", "start"], ["local", "stop"]]
    assert [start, submit, status, end] == commands("README.md", "**Run it on a cluster.**")
    again = cluster(*start)
    assert again.returncode == 0 and "a cluster runs already" in again.stderr
    about = cluster.json("local", "status")
    assert about["answers"] and about["token_mode"] == "0600"

    done = cluster(*submit)
    assert done.returncode == 0, done.stdout + done.stderr
    job = re.search(r"job +(raysubmit_\w+) at ", done.stderr)
    assert job is not None and "best " in done.stdout and "Running entrypoint" not in done.stdout
    store = Store(cluster.clone / "fairsweep-store")
    (sweep,) = store.sweeps()
    assert [t["state"] for t in store.table("trials", sweep).to_pylist()].count("complete") == 6
    row = store.table("sweeps", sweep).to_pylist()[0]
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=cluster.clone, capture_output=True, text=True
    ).stdout
    assert (
        row["git_commit"] == head.strip()
        and row["command"] == "fairsweep run trainable=biper budget.trials=6"
    )

    listed = cluster(*status)
    assert job[1] in listed.stdout and "succeeded" in listed.stdout and sweep in listed.stdout
    one = cluster.json("status", job[1])
    assert (one["state"], one["code"], one["sweep"]) == ("succeeded", 0, sweep)
    assert cluster(*logs[:2], job[1]).stdout == done.stdout
    assert "has ended already (succeeded)" in cluster(stop[0], job[1]).stdout


def test_plain_ray_job_submit_works_as_well(cluster: Cluster) -> None:
    about = cluster.json("local", "status")
    env = {**cluster.env, "RAY_AUTH_MODE": "token"}
    ray = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", about["job_server"]]
    job = ["--submission-id", "plain", "--working-dir", ".", "--", "python", "-m", "cluster", "run"]
    what = [*ray, *job, "trainable=test_bowl", "budget.trials=2"]
    done = subprocess.run(what, cwd=cluster.clone, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    store = cluster.home / "fairsweep-store"  # of the home folder
    record = json.loads((store / "jobs" / "plain.json").read_text())
    assert record["code"] == 0 and Store(store).sweeps() == [record["sweep"]]
    one = cluster.json("status", "plain", "--storage", str(store))
    assert (one["code"], one["sweep"]) == (0, record["sweep"])


def test_the_sweeps_exit_code_comes_back(cluster: Cluster) -> None:
    refused = cluster("submit", "resume", "no-such-sweep")
    assert refused.returncode == 2 and "fairsweep: error" in refused.stdout
    failed = cluster(
        "submit", "run", "trainable=test_faulty", "space.x=1.0", "space.fault=raise", "budget.trials=1"
    )
    assert failed.returncode == 1 and "raised ZeroDivisionError" in failed.stdout
    before = len(cluster.json("status"))
    wrong = cluster("submit", "run", "trainable=no_such_paper")
    assert wrong.returncode == 2 and len(cluster.json("status")) == before, (
        "refused here, before anything is sent"
    )


def test_a_stopped_sweep_is_interrupted_with_its_last_reports_and_goes_on(
    cluster: Cluster, tmp_path: Path
) -> None:
    words = [
        "run",
        "trainable=test_slow",
        "budget.trials=2",
        "budget.steps=500",
        f"data_dir={tmp_path}",
        "name=slow",
    ]
    begun = cluster("submit", "--no-wait", "--no-data", *words)
    job = begun.stdout.strip()
    assert begun.returncode == 0 and job.startswith("raysubmit_") and "\n" not in job
    trace, deadline = tmp_path / "trace", time.monotonic() + 120
    while not trace.exists() or len(trace.read_text().splitlines()) < 8:
        assert time.monotonic() < deadline, cluster("logs", job).stdout
        time.sleep(0.2)
    assert cluster("status", job).returncode == 0, "while it runs"
    stopped = cluster("stop", job)
    assert (
        stopped.returncode == 0 and "is stopped" in stopped.stdout and "submit resume slow" in stopped.stdout
    )
    store = Store(cluster.clone / "fairsweep-store")
    assert store.table("sweeps", "slow").to_pylist()[0]["state"] == "interrupted"
    steps = [r["step"] for r in store.table("results", "slow").to_pylist()]
    reported = {
        (line.split()[0], line.split()[1], line.split()[2]) for line in trace.read_text().splitlines()
    }
    assert len(steps) >= len(reported) - 2, (
        "a step that was computed but not reported yet, of each of two trials"
    )
    one = cluster("status", job)
    assert one.returncode == 130 and "interrupted" not in one.stdout and "slow" in one.stdout
    again = cluster("submit", "resume", "slow")
    assert again.returncode == 0, again.stdout + again.stderr
    assert {t["state"] for t in store.table("trials", "slow").to_pylist()} == {"complete"}


def test_ones_own_from_elsewhere_its_data_and_no_secret_anywhere(cluster: Cluster, tmp_path: Path) -> None:
    (mine := tmp_path / "mine").mkdir()
    words = [*ones_own(tmp_path), "budget.trials=3", "name=own", "space.api_key=hunter2-long"]
    begun = cluster("submit", "--id", "mine-1", "run", *words, cwd=mine, FAIRSWEEP_PLUGINS="")
    assert begun.returncode == 0, begun.stdout + begun.stderr
    store = Store(mine / "fairsweep-store")
    rows = store.table("trials", "own").to_pylist()
    assert [t["state"] for t in rows] == ["complete"] * 3 and all(1.0 <= t["value"] <= 2.0 for t in rows)
    command = store.table("sweeps", "own").to_pylist()[0]["command"]
    assert "'space.api_key=***'" in command and "hunter2" not in command
    shown = json.dumps(cluster.json("status", "mine-1")) + begun.stderr + cluster("logs", "mine-1").stdout
    assert "space.api_key: is a parameter" in shown
    assert "hunter2" not in shown.replace(
        "api_key=hunter2-long", ""
    )  # the column of the table is the parameter
    taken = cluster("submit", "--id", "mine-1", "run", "trainable=test_bowl")
    assert taken.returncode == 2 and "--id=mine-1: the cluster has a job of this id" in taken.stderr


def test_files_that_grow_while_jobs_are_submitted(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    growing = subprocess.Popen(
        ["sh", "-c", "while :; do echo epoch >> progress.txt; done"],
        cwd=tmp_path / "w",
        start_new_session=True,
    )
    try:
        done = [cluster("submit", "papers" if n else "list", cwd=tmp_path / "w") for n in range(1)]
    finally:
        growing.kill()
        growing.wait()
    assert done[0].returncode == 0, done[0].stdout + done[0].stderr


def test_nothing_answers_without_the_token_or_beyond_loopback(cluster: Cluster) -> None:
    about = cluster.json("local", "status")
    for token, said in (("", "wants its token"), ("8" * 64, "does not take the token in RAY_AUTH_TOKEN")):
        home = str(cluster.home.parent) if not token else str(cluster.home)
        more = {"RAY_AUTH_TOKEN": token, "HOME": home, "RAY_API_SERVER_ADDRESS": about["job_server"]}
        for words in (["submit", "run", "trainable=dagnn"], ["status"], ["logs", "x"], ["stop", "x"]):
            done = cluster(*words, **more)
            assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
            assert said in done.stderr and "888" not in done.stderr
    for method, path in (
        ("GET", "/api/version"), ("GET", "/api/jobs/"), ("POST", "/api/jobs/"), ("PUT", "/api/packages/gcs/x.zip"),
        ("GET", "/api/v0/nodes"), ("GET", "/nodes?view=summary"), ("GET", "/logs/"),
    ):  # fmt: skip
        for headers in ({}, {"Authorization": f"Bearer {'8' * 64}"}):
            request = urllib.request.Request(
                about["job_server"] + path, method=method, headers=headers, data=b"{}"
            )
            with pytest.raises(urllib.error.HTTPError) as error:
                urllib.request.urlopen(request, timeout=20)
            assert error.value.code in (401, 403), (method, path)
    root = psutil.Process(about["nodes"][0]["pid"])
    listening = [
        c
        for p in (root, *root.children(recursive=True))
        for c in p.net_connections("inet")
        if c.status == "LISTEN"
    ]
    assert listening and {c.laddr.ip for c in listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, (
        listening
    )


def test_three_nodes_of_a_laptop_each_with_its_own_copy(tmp_path: Path) -> None:
    """A node lies in a folder of its own, as on a machine of its own: data that went along are in each."""
    own = Cluster(tmp_path)
    (tmp_path / "mine").mkdir()
    words = [*ones_own(tmp_path), "budget.trials=9", "name=three", "budget.report_seconds=0"]
    try:
        started = own("local", "start", "--nodes", "3", "--cpus", "1")
        assert started.returncode == 0 and "3 of 3" in started.stdout, started.stderr
        before = own.json("local", "status")
        done = own("submit", "run", *words, cwd=tmp_path / "mine", FAIRSWEEP_PLUGINS="")
        assert done.returncode == 0, done.stdout + done.stderr
        rows = Store(tmp_path / "mine" / "fairsweep-store").table("trials", "three").to_pylist()
        assert [t["state"] for t in rows] == ["complete"] * 9 and len({t["pid"] for t in rows}) == 3
        pids = [node["pid"] for node in before["nodes"]]
        tree = [
            p for pid in pids for p in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))
        ]
    finally:
        assert own("local", "stop").returncode == 0
    assert len(pids) == 3 and laptop.until_gone(tree, 0.0) == []
