"""What `metrics.port` costs a driver: its CPU and wall time a report, with Prometheus asking every second and without.

The real conductor, store and search run, on disk; workers are simulated and take no time, each report is an append of
its own. So this is the worst case: a driver that does nothing but take reports. Runs with and without take turns.

    python -m tests.benchmarks.bench_metrics [--trials 1000] [--pairs 5] [--every 1.0]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

os.environ.setdefault("FAIRSWEEP_PLUGINS", "tests.papers")

REPORTS = 9  # of a trial


def one(on: bool, trials: int, every: float) -> tuple[float, float, int]:
    """CPU and wall seconds of a report, and how often Prometheus asked."""
    from fairsweep.cluster import doors
    from fairsweep.cluster.jobs import prometheus
    from tests.cluster.test_conductor import engine

    token, asked, over = doors.new_token(), [0], threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        run = engine(Path(folder), "trainable=test_bowl", f"budget.trials={trials}", "search=random")
        conductor = run.conductor
        if on:
            server = prometheus.Server(prometheus.of("s", conductor), token, doors.listen("127.0.0.1", 0))

            def ask() -> None:
                request = urllib.request.Request(server.url, headers={"Authorization": f"Bearer {token}"})
                while not over.wait(every):
                    urllib.request.urlopen(request, timeout=30).read()
                    asked[0] += 1

            threading.Thread(target=ask, daemon=True).start()
        cpu, wall = time.process_time(), time.perf_counter()
        while (leg := conductor.next_leg()) is not None:
            for step in range(1, REPORTS + 1):
                row = {"step": step, "wall_s": 0.1, "time": 0.0, "metrics": {"val_loss": 1.0 / step}}
                status = "complete" if step == REPORTS else "running"
                conductor.report(leg.trial, {"trial": leg.trial, "rows": [row], "status": status})
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        over.set()
        if on:
            server.close()
        run.writer.close(state="finished")
    return cpu / (trials * REPORTS), wall / (trials * REPORTS), asked[0]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--every", type=float, default=1.0)
    given = parser.parse_args()
    one(False, 50, given.every)
    one(True, 50, given.every)
    ratios: dict[str, list[float]] = {"CPU": [], "wall": []}
    for k in range(given.pairs):
        found = {on: one(on, given.trials, given.every) for on in ((False, True) if k % 2 else (True, False))}
        (cpu, wall, _), (cpu_on, wall_on, asked) = found[False], found[True]
        ratios["CPU"].append(cpu_on / cpu)
        ratios["wall"].append(wall_on / wall)
        print(
            f"a report: CPU {1e6 * cpu:.1f} us off, {1e6 * cpu_on:.1f} on; wall {1e6 * wall:.1f} off,"
            f" {1e6 * wall_on:.1f} on; asked {asked} times",
            flush=True,
        )
    for what, found_ratios in ratios.items():
        print(
            f"{what}: on / off {statistics.median(found_ratios):.4f} (each {[round(r, 3) for r in found_ratios]})"
        )


if __name__ == "__main__":
    main()
