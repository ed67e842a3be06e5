"""What `metrics.port` costs a driver, of its CPU a report, with Prometheus asking every second.

The real conductor, store and search run, on disk; workers are simulated and take no time, each report is an append of
its own. So this is the worst case: a driver that does nothing but take reports. What is noted and what an answer takes
are measured by themselves, many times over, for on a machine with other work two runs differ by more than that.

    python -m tests.benchmarks.bench_metrics [--trials 1000]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("FAIRSWEEP_PLUGINS", "tests.papers")

REPORTS = 9  # of a trial


def main() -> None:
    from prometheus_client import generate_latest

    from fairsweep.cluster.jobs import prometheus
    from tests.cluster.test_conductor import engine

    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=1000)
    trials = parser.parse_args().trials
    with tempfile.TemporaryDirectory() as folder:
        run = engine(Path(folder), "trainable=test_bowl", f"budget.trials={trials}", "search=tpe")
        conductor = run.conductor
        registry = prometheus.of("s", conductor)
        watched = next(c for c in registry._collector_to_names if isinstance(c, prometheus.Watched))
        cpu = time.process_time()
        while (leg := conductor.next_leg()) is not None:
            for step in range(1, REPORTS + 1):
                row = {"step": step, "wall_s": 0.1, "time": 0.0, "metrics": {"val_loss": 1.0 / step}}
                status = "complete" if step == REPORTS else "running"
                conductor.report(leg.trial, {"trial": leg.trial, "rows": [row], "status": status})
        report = (time.process_time() - cpu) / (trials * REPORTS)
        appends, asked = sum(watched.appends.counts), sum(watched.suggestions.counts)
        noted = (appends + asked) / (trials * REPORTS)
        answer = of_many(lambda: generate_latest(registry), 50)
        run.writer.close(state="finished")
    note = of_many(lambda: watched._appended(1, 0.001), 100_000)
    print(
        f"{trials} trials: a report {1e6 * report:.0f} us of CPU; {noted:.2f} notes a report, {1e6 * note:.2f} us each:"
        f" {100 * noted * note / report:.2f} %; an answer to Prometheus {1e3 * answer:.1f} ms:"
        f" {100 * answer:.2f} % at one a second, {100 * answer / 15:.2f} % at one in 15 s"
    )


def of_many(deed: Callable[[], object], times: int) -> float:
    """CPU seconds of doing it once: the least of seven rounds."""
    rounds = []
    for _ in range(7):
        began = time.process_time()
        for _ in range(times):
            deed()
        rounds.append((time.process_time() - began) / times)
    return min(rounds)


if __name__ == "__main__":
    main()
