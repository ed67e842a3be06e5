"""Short trials: how many a second, each trial durable, beside what a user would take instead; ratios within one run.

Trivial trials with two workers, from the call to the last result, so that the start of the workers counts; Ray is up
before. Beside fairsweep: Optuna with `JournalStorage` in two processes, stock Ray Tune with `reuse_actors=True` (its
reports are not durable), and with `--before` the fairsweep before bundles and the exchange, in an environment of its
own (`tests.benchmarks.before`). Each measurement is a process of its own, one after the other.

    python -m tests.benchmarks.bench_speed [--trials 200 5000] [--tpe 2000] [--runs 3] [--stock 200] [--before]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
OPTUNA = """
import sys, optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
optuna.logging.set_verbosity(optuna.logging.ERROR)
samplers = {"random": optuna.samplers.RandomSampler, "tpe": optuna.samplers.TPESampler}
study = optuna.create_study(
    study_name="s", storage=JournalStorage(JournalFileBackend(sys.argv[1])), load_if_exists=True,
    sampler=samplers[sys.argv[4]](seed=int(sys.argv[3])),
)
def objective(trial):
    y = trial.suggest_int("y", 0, 5)
    trial.suggest_categorical("kind", ["a", "b"])
    return (trial.suggest_float("x", 0.0, 1.0) - 0.3) ** 2 + 0.1 * y
study.optimize(objective, n_trials=int(sys.argv[2]))
"""


def optuna(trials: int, search: str) -> float:
    """Trials per second of Optuna, two processes on one journal."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        words = [sys.executable, "-c", OPTUNA, f"{folder}/journal.log", str(trials // 2)]
        processes = [subprocess.Popen([*words, str(k), search]) for k in range(2)]
        assert [p.wait() for p in processes] == [0, 0]
        return trials / (time.perf_counter() - began)


def stock(trials: int, search: str) -> float:
    """Trials per second of stock Tune, Ray up."""
    import ray

    from tests.benchmarks.bench_overhead import stock as measured

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    return measured(trials, reuse=True)


def fairsweep(trials: int, search: str) -> float:
    """Trials per second of the fairsweep that this process imports, Ray up: as stock Tune has it, with idle workers."""
    import ray

    from fairsweep.analysis.store import Store
    from fairsweep.cluster import config
    from fairsweep.cluster.jobs import sweep

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        settings = config.load(
            [
                "trainable=test_trivial", f"search={search}", f"budget.trials={trials}", "name=bench",
                f"storage={folder}", "keep_checkpoints=none",
            ]
        )  # fmt: skip
        result = sweep.run(settings)
        seconds = time.perf_counter() - began
        assert result.state == "finished" and Store(folder).table("trials", "bench").num_rows == trials
    return trials / seconds


def measured(
    what: str, trials: int, search: str, python: str = sys.executable, checkout: Path = HERE
) -> float:
    """What `what` measures in a process of its own that imports from `checkout`."""
    from tests.benchmarks.before import apart  # not where an earlier checkout is measured

    words = ["--measure", what, "--trials", str(trials), "--search", search]
    return float(apart(__file__, words, checkout, python))


def limits() -> None:
    """What no engine here can pass: fsyncs of this disk, calls of Ray's actors, one thread that calls and waits."""
    with tempfile.TemporaryDirectory() as folder, open(f"{folder}/f", "wb") as f:
        began, n = time.perf_counter(), 0
        while time.perf_counter() - began < 1.0:
            f.write(b"x" * 500)
            f.flush()
            os.fdatasync(f.fileno())
            n += 1
        print(f"limits: {n / (time.perf_counter() - began):.0f} fdatasync/s of 500 bytes", end="")
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")

    @ray.remote
    class Echo:
        def say(self, text: str) -> str:
            return text

    actors = [Echo.remote() for _ in range(2)]
    ray.get([actor.say.remote("x") for actor in actors])
    began, n = time.perf_counter(), 0
    while time.perf_counter() - began < 1.0:
        ray.get([actor.say.remote("x" * 500) for actor in actors])
        n += 2
    print(f"; {n / (time.perf_counter() - began):.0f} actor calls/s to two actors, each awaited")
    ray.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, nargs="*", default=[200, 5000], help="of random search")
    parser.add_argument("--tpe", type=int, nargs="*", default=[2000], help="trials of TPE")
    parser.add_argument("--stock", type=int, default=200, help="trials of stock Tune, which takes its time")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument(
        "--before", nargs="?", const="", help="measure the earlier build too, or a checkout of yours"
    )
    parser.add_argument("--measure", choices=["fairsweep", "stock"], help=argparse.SUPPRESS)
    parser.add_argument("--search", default="random", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print({"fairsweep": fairsweep, "stock": stock}[args.measure](args.trials[0], args.search))
        return
    from tests.benchmarks.before import earlier  # not where an earlier checkout is measured
    from tests.benchmarks.rows import Rows

    limits()
    others = earlier(args.before)
    rows = Rows()
    for run in range(args.runs):
        print(f"run {run + 1}")
        tune = measured("stock", args.stock, "random")
        for search, trials in [("random", n) for n in args.trials] + [("tpe", n) for n in args.tpe]:
            mine, journal = measured("fairsweep", trials, search), optuna(trials, search)
            line = f" {trials} trials of {search}, a second: fairsweep {mine:.1f}; Optuna's journal {journal:.1f}"
            line += f"; stock Tune {tune:.1f} ({args.stock} of random)"
            old = sum(measured("fairsweep", trials, search, python, checkout) for checkout, python in others)
            print(line + (f"; before {old:.1f}" if old else ""), flush=True)
            what = f"{trials} trials of {search}"
            rows.add(f"{what} / Optuna + JournalStorage", mine / journal, 2.0 if search == "random" else 1.0)
            if search == "random":
                rows.add(f"{what} / stock Tune, reused actors", mine / tune, 40.0 if trials >= 5000 else 1.0)
            if old:
                rows.add(f"{what} / before", mine / old, 5.0 if trials <= 200 else 1.0)
    rows.report()


if __name__ == "__main__":
    main()
