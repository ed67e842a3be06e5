"""Short trials: how many a second, each trial durable, beside what a user would take instead; ratios within one run.

Trivial trials by random search with two workers, from the call to the last result, so that the start of the workers
counts; Ray is up before. Beside fairsweep: Optuna with `JournalStorage` in two processes, stock Ray Tune with
`reuse_actors=True` (its reports are not durable), and with `--before FOLDER` the fairsweep of another checkout, by
`--python` if it has an environment of its own. Each measurement is a process of its own, one after the other.

    git worktree add ../before COMMIT
    python -m tests.benchmarks.bench_speed --before ../before [--trials 200 5000] [--runs 3] [--stock 200]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OPTUNA = """
import sys, optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
optuna.logging.set_verbosity(optuna.logging.ERROR)
study = optuna.create_study(
    study_name="s", storage=JournalStorage(JournalFileBackend(sys.argv[1])), load_if_exists=True,
    sampler=optuna.samplers.RandomSampler(seed=int(sys.argv[3])),
)
def objective(trial):
    y = trial.suggest_int("y", 0, 5)
    trial.suggest_categorical("kind", ["a", "b"])
    return (trial.suggest_float("x", 0.0, 1.0) - 0.3) ** 2 + 0.1 * y
study.optimize(objective, n_trials=int(sys.argv[2]))
"""


def optuna(trials: int) -> float:
    """Trials per second of Optuna, two processes on one journal."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        words = [sys.executable, "-c", OPTUNA, f"{folder}/journal.log", str(trials // 2)]
        processes = [subprocess.Popen([*words, str(k)]) for k in range(2)]
        assert [p.wait() for p in processes] == [0, 0]
        return trials / (time.perf_counter() - began)


def stock(trials: int) -> float:
    """Trials per second of stock Tune, Ray up."""
    import ray

    from tests.benchmarks.bench_overhead import stock as measured

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    return measured(trials, reuse=True)


def fairsweep(trials: int) -> float:
    """Trials per second of the fairsweep that this process imports, Ray up."""
    from fairsweep.analysis.store import Store
    from fairsweep.cluster import config
    from fairsweep.cluster.engine.local import connected
    from fairsweep.cluster.jobs import sweep

    with tempfile.TemporaryDirectory() as folder, connected({"cpus": 2}):
        settings = config.load(
            [
                "trainable=test_trivial", "search=random", f"budget.trials={trials}", "name=bench",
                f"storage={folder}", "keep_checkpoints=none",
            ]
        )  # fmt: skip
        began = time.perf_counter()
        result = sweep.run(settings)
        seconds = time.perf_counter() - began
        assert result.state == "finished" and Store(folder).table("trials", "bench").num_rows == trials
    return trials / seconds


def apart(what: str, trials: int, python: str, checkout: Path) -> float:
    """What `what` measures in a process of its own that imports from `checkout`."""
    env = {
        **os.environ,
        "PYTHONPATH": str(checkout),
        "FAIRSWEEP_PLUGINS": "tests.papers",
        "OMP_NUM_THREADS": "1",
    }
    words = [python, __file__, "--measure", what, "--trials", str(trials)]
    done = subprocess.run(words, env=env, cwd=checkout, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, nargs="+", default=[200, 5000])
    parser.add_argument("--stock", type=int, default=200, help="trials of stock Tune, which takes its time")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--before", type=Path, help="another checkout to measure beside this one")
    parser.add_argument("--python", default=sys.executable, help="the interpreter for it")
    parser.add_argument("--measure", choices=["fairsweep", "stock"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print({"fairsweep": fairsweep, "stock": stock}[args.measure](args.trials[0]))
        return
    here = Path(__file__).resolve().parents[2]
    for run in range(args.runs):
        tune = apart("stock", args.stock, sys.executable, here)
        for trials in args.trials:
            mine, journal = apart("fairsweep", trials, sys.executable, here), optuna(trials)
            line = f"run {run + 1}, {trials} trials: fairsweep {mine:.1f}/s"
            line += f"; Optuna {journal:.1f}/s, {mine / journal:.2f}x"
            line += f"; stock Tune {tune:.1f}/s ({args.stock} trials), {mine / tune:.1f}x"
            if args.before:
                old = apart("fairsweep", trials, args.python, args.before.resolve())
                line += f"; before {old:.1f}/s, {mine / old:.1f}x"
            print(line, flush=True)


if __name__ == "__main__":
    main()
