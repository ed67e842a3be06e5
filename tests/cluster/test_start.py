"""What an embedded Ray starts, what its workers have imported before they have a trial, and that Tune takes them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fairsweep.cluster.engine.checkpoints import _is_plain, _plain, _read
from fairsweep.cluster.engine.lean import ALWAYS, preloaded

ROOT = Path(__file__).parents[2]

EMBEDDED = """
import json, os, sys, time
import psutil
import torch
from fairsweep.cluster.engine.local import connected

class Trial:
    def __init__(self, config, folder):
        self.given = [config, folder]
    def look(self):
        modules = [m for m in ("torch", "ray.tune", "pyarrow.fs", "pandas", "torch._dynamo") if m in sys.modules]
        return [os.getpid(), modules, os.environ.get("OMP_NUM_THREADS"), os.environ.get("PL_DISABLE_FORK"), *self.given]

class Known:
    light = Trial

class Storage:  # nothing that the worker could unpickle
    trial_working_directory = "/folder"
    def __reduce__(self):
        raise TypeError

def words(p):
    with __import__("contextlib").suppress(psutil.Error):
        return " ".join(p.cmdline())
    return ""

with connected({"cpus": 1, "cpus_per_trial": 1.0}):
    import ray
    from ray._private import parameter, services, utils
    from ray.tune.execution.class_cache import _ActorClassCache
    me = psutil.Process()
    inside = me.children(recursive=True)
    first = [p.pid for p in inside if "default_worker" in words(p) or words(p).startswith("ray::IDLE")]
    listening = {
        c.laddr.ip.removeprefix("::ffff:")
        for c in psutil.net_connections("inet")
        if c.status == psutil.CONN_LISTEN and c.pid in {me.pid, *(p.pid for p in inside)}
    }
    kinds = {p.pid: words(p) for p in inside}
    of_tune = _ActorClassCache().get(Known).options(num_cpus=1)
    actor = of_tune.remote(config={"post": "p", "__trial_info__": Storage()}, storage=Storage())
    trial = ray.get(actor.look.remote())
    as_before = [
        parameter.RayParams.__module__, services.start_api_server.__module__,
        utils.get_dashboard_dependency_error.__module__,
    ]
as_before.append(_ActorClassCache.get.__module__)
print(json.dumps({
    "listening": sorted(listening), "words": list(kinds.values()), "first": first,
    "trial": trial, "as_before": as_before,
    "threads here": os.environ.get("OMP_NUM_THREADS"),
}))
"""


@pytest.fixture(scope="module")
def embedded() -> dict[str, Any]:
    """What was found in a process that started a Ray of its own, and in a worker that Tune would take."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_") and k != "OMP_NUM_THREADS"}
    words = [sys.executable, "-c", EMBEDDED]
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.timeout(180)
def test_an_embedded_ray_listens_on_loopback_only(embedded: dict[str, Any]) -> None:
    assert embedded["listening"] == ["127.0.0.1"]


@pytest.mark.timeout(180)
def test_an_embedded_ray_starts_nothing_that_no_sweep_needs(embedded: dict[str, Any]) -> None:
    running = "\n".join(embedded["words"])
    assert "gcs_server" in running and "raylet" in running
    for unneeded in ("monitor.py", "dashboard.py", "log_monitor.py"):
        assert unneeded not in running
    # Ray is as it was: who uses it beside us, in a notebook, gets what it asks for.
    private = [f"ray._private.{name}" for name in ("parameter", "services", "utils")]
    assert embedded["as_before"] == [*private, "ray.tune.execution.class_cache"]
    assert embedded["threads here"] is None


@pytest.mark.timeout(180)
def test_tune_takes_a_worker_that_has_imported_what_a_trial_needs(embedded: dict[str, Any]) -> None:
    pid, modules, threads, no_fork, config, folder = embedded["trial"]
    assert pid in embedded["first"]
    assert modules == [
        "torch",
        "pyarrow.fs",
        "torch._dynamo",
    ]  # torch since the driver had it; of Tune, nothing
    assert config == {"post": "p"} and folder == "/folder"
    assert threads == "1"  # before torch and numpy read it
    assert no_fork == "1"


def test_workers_import_ahead_only_where_most_of_them_will_run_a_trial() -> None:
    import torch  # noqa: F401

    assert {*ALWAYS, "torch"} <= set(preloaded({"cpus": 2}))
    assert "torch" in preloaded({"cpus": 64, "concurrent": 64})
    assert preloaded({"cpus": 2, "concurrent": 1}) == preloaded({"cpus": 64, "concurrent": 40}) == [*ALWAYS]
    assert preloaded({"cpus": 64, "concurrent": 4}) == []
    assert preloaded({"cpus": 64, "cpus_per_trial": 8.0}) == []
    assert preloaded({"cpus": 2, "gpus_per_trial": 1.0}) == []


HEAVY = ("torch", "ray", "pandas", "scipy", "sklearn", "optuna", "wandb", "hydra", "pyarrow", "numpy", "rich")
STAGES = """
import contextlib, io, json, sys
from pathlib import Path

def said(stage):
    print(stage, *(m for m in HEAVY if m in sys.modules))

from fairsweep.cluster.cli import run_cli
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    run_cli(["--help"])
said("help")
from fairsweep.cluster import config
settings = config.load(["trainable=test_bowl", "search=random", f"storage={sys.argv[1]}"])
said("composed")
from fairsweep.cluster.jobs import sweep
sweep.rehearse(settings, settings.paper)
sweep.preflight(settings, settings.paper)
said("rehearsed")
"""
PAPER = """
import sys
from fairsweep.cluster import config
from fairsweep.cluster.jobs import sweep
settings = config.load(["trainable=dagnn", "data=digits_knn", "search=random", f"storage={sys.argv[1]}"])
sweep.preflight(settings, settings.paper)
print("built", *(m for m in (*HEAVY, "torch._dynamo") if m in sys.modules))
from torch.optim import SGD
from torch import zeros
SGD([zeros(1, requires_grad=True)], lr=0.1)
print("left", *(m for m in ("torch._dynamo",) if m in sys.modules))  # PyTorch is as it was
"""
WORKER = """
import sys
import json
from dataclasses import asdict
from fairsweep.cluster.engine.checkpoints import Checkpoints
from fairsweep.cluster.engine.place import Place
from fairsweep.cluster.engine.trial import Leg
from fairsweep.cluster.engine.post import Post
leg = Leg("00000-0", {"x": 0.5, "y": 1, "kind": "a"}, 0, 0, 3, ())
config = {"post": json.dumps(asdict(Post("s", "test_bowl", sys.argv[1]))), "legs": json.dumps([asdict(leg)])}
[report] = json.loads(Place(config, sys.argv[1]).train()["report"])["reports"]
assert report["status"] == "complete", report
assert Checkpoints(sys.argv[1]).load("00000-0")["step"] == 3
ours = ("fairsweep.search_spaces.algorithms", "fairsweep.analysis.store")
print("trained", *(m for m in (*HEAVY, *ours) if m in sys.modules))
"""


def stages(code: str, folder: Path) -> dict[str, set[str]]:
    """Which of `HEAVY` a process had imported by which stage of `code`."""
    env = {**os.environ, "FAIRSWEEP_PLUGINS": "tests.papers", "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", f"HEAVY = {HEAVY}\n{code}", str(folder)]
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return {stage: set(names) for stage, *names in map(str.split, done.stdout.splitlines())}


def test_the_driver_imports_nothing_before_it_needs_it(tmp_path: Path) -> None:
    found = stages(STAGES, tmp_path)
    assert found["help"] == set()
    assert found["composed"] <= {"hydra", "numpy"}
    assert found["rehearsed"] <= {
        "hydra",
        "numpy",
        "pyarrow",
        "rich",
    }  # Ray has not been thought of: no refusal waits


def test_to_build_the_first_trial_takes_neither_scikit_learn_nor_a_compiler(tmp_path: Path) -> None:
    found = stages(PAPER, tmp_path)
    assert found["built"] == {"torch", "scipy", "hydra", "pyarrow", "numpy", "rich"}
    assert found["left"] == {"torch._dynamo"}


def test_a_worker_whose_paper_needs_no_torch_imports_none(tmp_path: Path) -> None:
    assert stages(WORKER, tmp_path)["trained"] <= {"numpy", "pyarrow", "rich"}


@pytest.mark.parametrize(
    ("state", "plain"),
    [
        ({"a": [1, 2.5, None, True, "x\ud800"], "b": {"c": b"\x00\xff", "d": float("inf")}}, True),
        ({"a": (1, 2)}, False),
        ({"a": {1: 2}}, False),
        ({"a": {"bytes": [0, 1]}}, False),
        ({"a": {"x"}}, False),
    ],
)
def test_a_checkpoint_without_tensors_is_read_back_to_the_type(state: dict[str, Any], plain: bool) -> None:
    assert _is_plain(state) is plain
    if plain:
        assert _read(_plain(state)) == state
