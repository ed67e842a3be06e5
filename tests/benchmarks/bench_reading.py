"""How fast answers come out of the store, beside Ray Tune's own way.

1. The best of 1,000 trials of 20 reports: `Store` + `statistics.best` beside `ExperimentAnalysis` and
   `ResultGrid` on the same values. Tune's folder is made from a real experiment of two trials: its state
   file and result files are written 1,000 times with Tune's own classes, and it is checked that Tune loads
   every trial, every report, and finds the same best one.
2. One million reports: mean and maximum of a metric by trial.

    python -m tests.benchmarks.bench_reading [--trials 1000] [--reports 20] [--rows 1000000]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics as py_statistics
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa

from fairsweep.analysis import statistics
from fairsweep.analysis.store import Store

Values = list[tuple[float, list[float]]]


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """The median wall time of `call`."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return py_statistics.median(times)


def draw(trials: int, reports: int) -> Values:
    """For each trial its hyperparameter x and the loss of each report."""
    rng = random.Random(0)
    xs = [rng.random() for _ in range(trials)]
    return [(x, [(x - 0.3) ** 2 + 1 / k + rng.random() / 50 for k in range(1, reports + 1)]) for x in xs]


def write_ours(folder: Path, values: Values) -> None:
    """The sweep as fairsweep's driver writes it."""
    now = datetime.now(timezone.utc)
    fields = [pa.field("config.x", pa.float64())]
    with Store(folder).create(
        "bench", {"mode": "min"}, config_fields=fields, metric_names=["loss"]
    ) as writer:
        for number, (x, losses) in enumerate(values):
            trial = f"{number:05d}-0"
            with writer.batch():
                writer.results(
                    [
                        {
                            "trial": trial,
                            "config_id": number,
                            "seed": 0,
                            "step": k,
                            "time": now,
                            "metric.loss": loss,
                        }
                        for k, loss in enumerate(losses, 1)
                    ]
                )
                writer.trial(
                    trial, number=number, config_id=number, seed=0, state="complete", value=min(losses),
                    steps=len(losses), **{"config.x": x},
                )  # fmt: skip
        writer.close(state="finished")


def write_tune(folder: Path, values: Values) -> Path:
    """The same sweep as Tune writes it; returns the experiment's folder."""
    import ray
    from ray import tune
    from ray.tune.experiment import Trial

    reports = len(values[0][1])

    def report(config: dict[str, float]) -> None:
        for k in range(reports):
            tune.report({"loss": config["x"] + k})

    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    tuner = tune.Tuner(
        report,
        param_space={"x": tune.uniform(0.0, 1.0)},
        tune_config=tune.TuneConfig(metric="loss", mode="min", num_samples=1),
        run_config=tune.RunConfig(storage_path=str(folder), name="bench", verbose=0),
    )
    tuner.fit()
    ray.shutdown()
    experiment = folder / "bench"
    (state_file,) = experiment.glob("experiment_state-*.json")
    state = json.loads(state_file.read_text())
    trial_state, run_state = state["trial_data"][0]
    real = Trial.from_json_state(trial_state, stub=True)
    lines = [
        json.loads(line)
        for line in (experiment / real.relative_logdir / "result.json").read_text().splitlines()
    ]
    assert len(lines) == reports
    made = []
    for number, (x, losses) in enumerate(values):
        trial = Trial.from_json_state(trial_state, stub=True)
        trial.restore_run_metadata(run_state)
        trial.trial_id = f"bench_{number:05d}"
        trial.config = trial.evaluated_params = {"x": x}
        name = f"report_{trial.trial_id}_{number}_x={x:.4f}"
        trial.relative_logdir = trial.storage.trial_dir_name = name
        where = experiment / name
        where.mkdir()
        metadata = trial.run_metadata
        metadata.metric_analysis, metadata.metric_n_steps = {}, {}
        rows = []
        for line, loss in zip(lines, losses, strict=True):
            rows.append({**line, "loss": loss, "trial_id": trial.trial_id, "config": {"x": x}})
            for metric in ("loss", "training_iteration", "time_total_s"):
                metadata.update_metric(metric, rows[-1][metric], step=line["training_iteration"])
        metadata.last_result = rows[-1]
        (where / "result.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (where / "params.json").write_text(json.dumps({"x": x}))
        trial.invalidate_json_state()
        metadata.invalidate_cache()
        made.append(trial.get_json_state())
    state["trial_data"] = made
    state_file.write_text(json.dumps(state))
    return experiment


def reading_the_best(trials: int, reports: int) -> None:
    """Prints seconds and ratios of finding the best trial."""
    values = draw(trials, reports)
    best_number = min(range(trials), key=lambda n: min(values[n][1]))
    with tempfile.TemporaryDirectory() as scratch:
        ours, tune_folder = Path(scratch, "store"), Path(scratch, "tune")
        write_ours(ours, values)
        experiment = write_tune(tune_folder, values)
        from ray.tune import ExperimentAnalysis, ResultGrid

        def by_store() -> int:
            found = statistics.best(Store(ours).table("trials", "bench"), "min")
            assert found is not None
            return found.config_id

        def by_reports() -> str:
            table = Store(ours).table("results", "bench", columns=["trial", "metric.loss"])
            least = table.group_by("trial").aggregate([("metric.loss", "min")])
            return least.sort_by("metric.loss_min").column("trial")[0].as_py()

        def by_analysis() -> Any:
            return ExperimentAnalysis(str(experiment)).get_best_trial("loss", "min", scope="all")

        def by_grid() -> Any:
            return ResultGrid(ExperimentAnalysis(str(experiment))).get_best_result("loss", "min", scope="all")

        grid = ResultGrid(ExperimentAnalysis(str(experiment)))
        assert len(grid) == trials, f"Tune loads {len(grid)} of {trials} trials"
        assert all(len(r.metrics_dataframe) == reports for r in grid)
        assert by_store() == best_number and by_reports() == f"{best_number:05d}-0"
        assert by_analysis().config == by_grid().config == {"x": values[best_number][0]}

        print(f"best of {trials} trials x {reports} reports, the same answer from all (median seconds):")
        ours_s, reports_s = seconds(by_store, 15), seconds(by_reports, 15)
        for name, call in (("ExperimentAnalysis", by_analysis), ("ResultGrid", by_grid)):
            theirs = seconds(call, 5)
            print(
                f"  {name:<19} {theirs:8.4f} s   Store + best {ours_s:.4f} s: {theirs / ours_s:.0f}x;"
                f"   from all {trials * reports} reports {reports_s:.4f} s: {theirs / reports_s:.0f}x"
            )


def aggregating(rows: int) -> None:
    """Prints seconds of the mean and the maximum by trial over `rows` reports."""
    rng = random.Random(1)
    now = datetime.now(timezone.utc)
    block = 10_000
    with tempfile.TemporaryDirectory() as scratch:
        began = time.perf_counter()
        with Store(scratch).create("big", {}, config_fields=[], metric_names=["loss"]) as writer:
            for start in range(0, rows, block):
                writer.results(
                    [
                        {
                            "trial": f"{i % 1000:05d}-0", "config_id": i % 1000, "seed": 0, "step": i // 1000,
                            "wall_s": 0.5, "time": now, "metric.loss": rng.random(),
                        }
                        for i in range(start, min(start + block, rows))
                    ]
                )  # fmt: skip
            live = seconds(lambda: aggregate(scratch, rows), 1)
            writer.close(state="finished")
        wrote = time.perf_counter() - began
        closed = seconds(lambda: aggregate(scratch, rows), 5)
        size = sum(p.stat().st_size for p in Path(scratch).rglob("*.parquet")) / 2**20
        print(
            f"{rows} reports: written and closed in {wrote:.1f} s, {size:.1f} MiB; mean and maximum by trial "
            f"in {closed:.3f} s, while the sweep runs {live:.3f} s"
        )


def aggregate(store: str, rows: int) -> None:
    """Mean and maximum of the loss by trial."""
    table = Store(store).table("results", "big", columns=["trial", "metric.loss"])
    found = table.group_by("trial").aggregate([("metric.loss", "mean"), ("metric.loss", "max")])
    assert table.num_rows == rows and found.num_rows == min(1000, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--reports", type=int, default=20)
    parser.add_argument("--rows", type=int, default=1_000_000)
    args = parser.parse_args()
    reading_the_best(args.trials, args.reports)
    aggregating(args.rows)


if __name__ == "__main__":
    main()
