"""The start: seconds from `fairsweep run` to the first report, beside another checkout and beside bare Ray.

One trial of one step, with files in the page cache, of a trivial paper, of a paper that needs PyTorch, and of a
function of one's own; with a Ray that is started for it, and on a cluster that is up already. The first report's time
is the worker's. Bare Ray is `ray.init` and an actor that does nothing. What `--before` names is measured in turn.

    python -m tests.benchmarks.bench_start [--before [FOLDER]] [--runs 3] [--only trivial paper own verbs]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.before import HERE, add_before, earlier
from tests.benchmarks.rows import Rows

OWN = """
import fairsweep

@fairsweep.trainable(space={"x": (0.0, 1.0)}, metric="loss", mode="min")
def train(config):
    return {"loss": (config["x"] - 0.3) ** 2}
"""
KINDS = {
    "trivial": ["trainable=test_trivial"],
    "paper": ["trainable=dagnn", "data=digits_knn", "budget.steps=1"],
    "own": [],  # its file is written
}
RAY = """
import time, ray
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
         _node_ip_address="127.0.0.1")
class Nothing:
    def now(self):
        return time.time()
print(ray.get(ray.remote(Nothing).remote().now.remote()))
"""
HEAD = RAY.partition("class")[0] + "print(ray.get_runtime_context().gcs_address, flush=True)\ninput()\n"


def environment(checkout: Path) -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_") or k == "RAY_TMPDIR"}
    return {
        **env, "PYTHONPATH": str(checkout), "FAIRSWEEP_PLUGINS": "tests.papers", "OMP_NUM_THREADS": "1",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "disabled",
    }  # fmt: skip


def first_report(checkout: Path, python: str, words: list[str]) -> float:
    """Seconds from the call of `fairsweep run` until its worker has made the first report."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            python, "-m", "cluster", "run", *words, "search=random", "budget.trials=1", "name=bench",
            f"storage={folder}/store", "--quiet",
        ]  # fmt: skip
        began = time.time()
        subprocess.run(command, env=environment(checkout), cwd=checkout, check=True, capture_output=True)
        read = "from fairsweep.analysis.store import Store; import sys; s = Store(sys.argv[1])"
        read += "; print(min(r['time'] for r in s.table('results', 'bench').to_pylist()).timestamp())"
        found = subprocess.run(
            [python, "-c", read, f"{folder}/store"], env=environment(checkout), cwd=checkout, check=True,
            capture_output=True, text=True,
        )  # fmt: skip
        return float(found.stdout.split()[-1]) - began


def bare(here: Path) -> float:
    """The same of Ray alone."""
    began = time.time()
    done = subprocess.run(
        [sys.executable, "-c", RAY], env=environment(here), check=True, capture_output=True, text=True
    )
    return float(done.stdout.split()[-1]) - began


@contextlib.contextmanager
def head(here: Path) -> Iterator[str]:
    """A cluster on this machine; its address."""
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD], env=environment(here), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield re.findall(r"[0-9.]+:[0-9]+", process.stdout.readline())[-1]
    finally:
        process.communicate("\n")


def verb(checkout: Path, python: str, words: list[str]) -> float:
    """Seconds that a verb takes."""
    began = time.perf_counter()
    subprocess.run(
        [python, "-m", "cluster", *words], env=environment(checkout), cwd=checkout, capture_output=True
    )
    return time.perf_counter() - began


def told(
    rows: Rows, what: str, mine: list[float], old: list[float], ray: list[float], aim: float | None = None
) -> None:
    """Prints a line of all runs. aim: of the ratio to `old`, which is then a row."""
    line = f"{what}: {', '.join(f'{s:.2f}' for s in mine)} s"
    line += f"; before {', '.join(f'{s:.2f}' for s in old)} s" if old else ""
    line += f"; bare Ray {', '.join(f'{s:.2f}' for s in ray)} s" if ray else ""
    print(line, flush=True)
    for k, seconds in enumerate(old if aim is not None else ()):
        rows.add(f"{what} / before", mine[k] / seconds, aim or 0.0, high=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1)
    add_before(parser)
    parser.add_argument("--only", nargs="+", default=[*KINDS, "verbs"], choices=[*KINDS, "verbs"])
    parser.add_argument("--where", nargs="+", default=["own", "up"], choices=["own", "up"], help="whose Ray")
    args = parser.parse_args()
    rows = Rows()
    checkouts = [(HERE, sys.executable), *earlier(args.before)]
    for kind in [kind for kind in KINDS if kind in args.only]:
        with contextlib.ExitStack() as stack:
            words = list(KINDS[kind])
            if kind == "own":
                folder = stack.enter_context(tempfile.TemporaryDirectory())
                Path(folder, "train.py").write_text(OWN)
                words = [f"trainable={folder}/train.py:train"]
            for where in args.where:
                found: list[list[float]] = [[] for _ in checkouts]
                ray = []
                for _ in range(args.runs):
                    for (checkout, python), seconds in zip(checkouts, found, strict=True):
                        if where == "own":
                            seconds.append(first_report(checkout, python, [*words, "cluster.cpus=2"]))
                        else:
                            with head(HERE) as address:
                                time.sleep(3)  # its first workers are up
                                there = ["cluster=ray", f"cluster.address={address}"]
                                seconds.append(first_report(checkout, python, [*words, *there]))
                    ray += [bare(HERE)] if where == "own" else []
                name = f"first report, {kind}, {'a Ray of its own' if where == 'own' else 'Ray is up'}"
                told(rows, name, found[0], *(found[1:] or [[]]), ray, aim=0.5)
    if "verbs" in args.only:
        for words in (["--help"], ["ls", "--storage", "nowhere"], ["run", "trainable=nothing"]):
            found = [[verb(c, p, words) for _ in range(args.runs)] for c, p in checkouts]
            told(rows, f"fairsweep {' '.join(words)}", found[0], *(found[1:] or [[]]), [])
    rows.report()


if __name__ == "__main__":
    main()
