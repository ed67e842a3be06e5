"""A `claims` run beside the seconds of its own trials: (wall x slots - sum of the trials' seconds) / that sum.

A paper with claims on `--sets` data sets, each a sweep of two arms under five seeds, whose trials do nothing for
`--seconds`; two slots, Ray started by the run. What `--before` names is measured in turn.

    python -m tests.benchmarks.bench_claims [--before [FOLDER]] [--seconds 5] [--sets 1 4] [--runs 3]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.before import HERE, add_before, earlier
from tests.benchmarks.bench_start import environment
from tests.benchmarks.rows import Rows

PAPER = """
import time
from fairsweep.search_spaces.space import Space
from fairsweep.trainables.base import Claim, Fidelity, Metric, Paper, Tiny
from fairsweep.trainables.catalog import register

SETS = [f"set{k}" for k in range(SETS_HERE)]

@register
class Waiting(Paper):
    slug, title, citation, task = "bench_waiting", "Waits", "none", "test"
    datasets = tuple(SETS)
    metrics = (Metric("val", "min", "validation"), Metric("out", "min", "test"))
    objective = "val"
    tiny = Tiny("set0", 1)
    claims = tuple(
        Claim(f"c_{s}", "", {"kind": "a"}, {"kind": "b"}, "out", 0.0, "direction", data=s) for s in SETS
    )

    @classmethod
    def space(cls):
        kinds = {"type": "categorical", "choices": ["a", "b"], "paper": "a"}
        return Space.from_mapping({"kind": kinds}, source=cls.slug)

    @classmethod
    def fidelity(cls, config, steps=None):
        return Fidelity("epoch", 1, 1)

    def setup(self, config, setting):
        self.seed, self.over = setting.seed, False

    @property
    def finished(self):
        return self.over

    def step(self):
        time.sleep(SECONDS_HERE)
        self.over = True
        return {"val": self.seed}

    def test(self):
        return {"out": self.seed}

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
"""
READ = """
import sys
from fairsweep.analysis.store import Store
store = Store(sys.argv[1])
print(sum(t["cost_s"] for name in store.sweeps() for t in store.table("trials", name).to_pylist()))
"""


def overhead(checkout: Path, python: str, sets: int, seconds: float) -> tuple[float, float]:
    """What a run costs beside its trials, as a share of them, and its wall time in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        text = PAPER.replace("SETS_HERE", str(sets)).replace("SECONDS_HERE", str(seconds))
        Path(folder, "waiting.py").write_text(text)
        env = environment(checkout)
        env |= {"PYTHONPATH": f"{env['PYTHONPATH']}:{folder}", "FAIRSWEEP_PLUGINS": "waiting"}
        words = ["claims", "bench_waiting", "cluster.cpus=2", "--storage", f"{folder}/store", "--json"]
        began = time.perf_counter()
        subprocess.run(
            [python, "-m", "cluster", *words], env=env, cwd=checkout, check=True, capture_output=True
        )
        wall = time.perf_counter() - began
        found = subprocess.run(
            [python, "-c", READ, f"{folder}/store"],
            env=env,
            cwd=checkout,
            check=True,
            capture_output=True,
            text=True,
        )
        own = float(found.stdout.split()[-1])
    return (2 * wall - own) / own, wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="of a trial")
    parser.add_argument("--sets", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--runs", type=int, default=1)
    add_before(parser)
    args = parser.parse_args()
    old, rows = earlier(args.before), Rows()
    for sets in args.sets:
        for run in range(args.runs):
            mine, wall = overhead(HERE, sys.executable, sets, args.seconds)
            line = f"run {run + 1}, claims in {sets} sweeps of 10 trials of {args.seconds:g} s:"
            line += f" {mine:.1%} beside the trials ({wall:.1f} s)"
            for checkout, python in old:
                share, wall = overhead(checkout, python, sets, args.seconds)
                line += f"; before {share:.1%} ({wall:.1f} s)"
            print(line, flush=True)
            rows.add(f"claims in {sets} sweeps: time beside the trials / theirs", mine, 0.1, high=False)
    rows.report()


if __name__ == "__main__":
    main()
