"""What a trial costs beside its training: 200 trivial trials, fairsweep beside stock Ray Tune.

All in one run on one embedded Ray: stock function trainables with fresh actors, stock with
`reuse_actors=True`, and fairsweep's whole way (search, worker, report, durable store). Each is timed from
the call to the last result, so that the start of its workers counts.

    python -m tests.benchmarks.bench_overhead [--trials 200] [--fresh 40]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time

os.environ.setdefault("FAIRSWEEP_PLUGINS", "tests.papers")


def stock(trials: int, reuse: bool) -> float:
    """Trials per second of stock Tune with default loggers and a random search."""
    from ray import tune

    def trivial(config: dict) -> None:
        tune.report({"loss": (config["x"] - 0.3) ** 2})

    with tempfile.TemporaryDirectory() as folder:
        tuner = tune.Tuner(
            trivial,
            param_space={"x": tune.uniform(0.0, 1.0)},
            tune_config=tune.TuneConfig(metric="loss", mode="min", num_samples=trials, reuse_actors=reuse),
            run_config=tune.RunConfig(storage_path=folder, name="stock", verbose=0),
        )
        began = time.perf_counter()
        results = tuner.fit()
        seconds = time.perf_counter() - began
        assert len(results) == trials
    return trials / seconds


def ours(trials: int) -> float:
    """Trials per second of fairsweep, store included."""
    from fairsweep.analysis.store import Store
    from fairsweep.cluster import config
    from fairsweep.cluster.jobs import sweep

    with tempfile.TemporaryDirectory() as folder:
        settings = config.load(
            [
                "trainable=test_trivial", "search=random", f"budget.trials={trials}", "name=bench",
                f"storage={folder}", "keep_checkpoints=none",
            ]
        )  # fmt: skip
        began = time.perf_counter()
        result = sweep.run(settings)
        seconds = time.perf_counter() - began
        assert result.state == "finished"
        assert Store(folder).table("trials", "bench").num_rows == trials
    return trials / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--fresh", type=int, default=40, help="trials for the slow way, with fresh actors")
    args = parser.parse_args()
    # Stock Tune runs as its users run it: its own loggers on. `connected` would turn them off.
    import ray

    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    fresh = stock(args.fresh, reuse=False)
    reused = stock(args.trials, reuse=True)
    mine = ours(args.trials)
    print(f"ray {ray.__version__}, {int(ray.cluster_resources()['CPU'])} CPUs, {args.trials} trivial trials")
    print(f"stock Tune, fresh actors  {fresh:8.1f} trials/s   ({args.fresh} trials)")
    print(f"stock Tune, reuse_actors  {reused:8.1f} trials/s")
    print(
        f"fairsweep                 {mine:8.1f} trials/s   {mine / fresh:.1f}x fresh, {mine / reused:.2f}x reused"
    )
    ray.shutdown()


if __name__ == "__main__":
    main()
