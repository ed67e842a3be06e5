"""Long sweeps and many workers, without Ray: what the driver and its store cost beside the trials; ratios in one run.

1. 500 simulated workers of short trials through the real exchange: reports a second that one driver takes, each
   acknowledged when it is on disk; on this disk, and on one whose fsync takes 2 ms.
2. CPU of scheduler, store and search for a report, in sweeps of 200, 2,000 and 20,000 trials.
3. Memory of the driver over 20,000 trials of 50 reports, and the time in which such a sweep, killed at 19,000, is
   taken up again, to its first new trial.
4. A soak: 20,000 trials, 200,000 reports; memory, cost of a report, and the seconds of `ls`, `show`, `best` over it.

Each is a process of its own; with `--before` the same program runs on an earlier checkout, whose driver takes reports
one by one. The curves of the soak are written to `--curves` as SVG.

    python -m tests.benchmarks.bench_scale [--before] [--runs 3] [--curves soak.svg]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[2]
SIZES = (200, 2_000, 20_000)
MARKS = (1_000, 2_000, 5_000, 10_000, 20_000)  # trials at which the soak is looked at


# -- simulated workers, for this checkout and earlier ones ------------------------------------------------


class Worker:
    """Tells of a trial's steps, `each` a message; it stops at milestones, as a worker does."""

    def __init__(self, each: int) -> None:
        self.each = each

    def take(self, legs: Sequence[Any]) -> None:
        self.leg, self.done = legs[0], legs[0].done

    def step(self) -> dict[str, Any]:
        leg, rows, x = self.leg, [], self.leg.config["x"]
        while self.done < leg.maximum and len(rows) < self.each:
            self.done += 1
            loss = (x - 0.3) ** 2 + 1 / self.done
            metrics = {"val_loss": loss, "train_loss": loss / 2}
            rows.append({"step": self.done, "wall_s": self.done / 64, "time": 1.7e9, "metrics": metrics})
            if self.done in leg.milestones:
                break
        over = self.done == leg.maximum
        report = {
            "trial": leg.trial, "rows": rows, "status": "complete" if over else "running", "notes": [],
            "test": {"test_loss": x} if over else None, "kept": None, "cost_s": self.done / 64, "device": "cpu",
            "peak_memory_mb": 200.0, "hostname": "node", "pid": 1,
        }  # fmt: skip
        return {"reports": [report], "unbegun": [], "most": 1}


class Sweep:
    """A sweep with `workers` simulated workers, run in rounds: each worker tells once a round."""

    def __init__(
        self, folder: str, trials: int, reports: int, workers: int, each: int, scheduler: str
    ) -> None:
        from fairsweep.analysis.store import Store
        from fairsweep.cluster import config
        from fairsweep.cluster.jobs import sweep

        paper(reports)
        settings = config.load(
            [
                "trainable=bench_steps", "search=random", f"scheduler={scheduler}", f"budget.trials={trials}", "name=s",
                f"storage={folder}", f"budget.concurrent={workers}",
            ]
        )  # fmt: skip
        metrics = [m.name for m in settings.paper.metrics]
        self.writer = Store(folder).create(
            "s",
            sweep.sweep_row(settings, settings.paper),
            config_fields=settings.space.arrow_fields(),
            metric_names=metrics,
        )
        self.conductor = sweep.make_conductor(settings, settings.paper, self.writer, workers)
        self.reports, self.each, self.workers, self.own_s = 0, each, workers, 0.0

    def rounds(self) -> Iterator[int]:
        """Runs the sweep; how many trials have begun, once all workers have one, and after each round.

        `own_s` counts the seconds of the simulated workers, which elsewhere have processors of their own.
        """
        try:
            from fairsweep.cluster.engine.exchange import Exchange
        except ImportError:  # before the exchange
            yield from self._one_by_one()
            return
        from tests.wires import Here

        class Apart(Here):
            def _tells(wires, place: str) -> Any:
                began = time.perf_counter()
                text = json.dumps(wires.places[place].step())
                self.own_s += time.perf_counter() - began
                return json.loads(text)

        wires = Apart(lambda post: Worker(self.each))
        exchange = Exchange(self.conductor, wires, lambda sweep: "{}")
        while not self.conductor.finished:
            while len(wires.places) < self.workers and (given := exchange.first(f"p{len(wires.places)}")):
                wires.send(f"p{len(wires.places)}", *given)
            if not self.reports:
                yield len(self.conductor.trials)
            self.reports += self.each * len(wires.working)
            exchange.round(0.0)
            yield len(self.conductor.trials)

    def _one_by_one(self) -> Iterator[int]:
        idle, busy = [Worker(self.each) for _ in range(self.workers)], list[Worker]()
        while True:
            while idle and (leg := self.conductor.next_leg()) is not None:
                idle[-1].take([leg])
                busy.append(idle.pop())
            if not busy:
                return
            if not self.reports:
                yield len(self.conductor.trials)
            for worker in list(busy):
                began = time.perf_counter()
                text = json.dumps(worker.step())
                self.own_s += time.perf_counter() - began
                (report,) = json.loads(text)["reports"]
                self.reports += len(report["rows"])
                if not self.conductor.report(report["trial"], report):
                    busy.remove(worker)
                    idle.append(worker)
            yield len(self.conductor.trials)


def paper(reports: int) -> None:
    """Registers a trainable of so many steps."""
    from fairsweep.trainables.catalog import register
    from tests import papers

    register(type("Steps", (papers.Bowl,), {"slug": "bench_steps", "length": reports}))


def resident_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


@contextlib.contextmanager
def slow_disk(seconds: float) -> Iterator[None]:
    """Every fsync of the store takes so much longer."""
    try:
        from fairsweep.analysis import _appender
    except ImportError:  # an earlier build
        from fairsweep.analysis import _files as _appender  # type: ignore[no-redef]

    real, data = os.fsync, _appender._sync

    def after(sync: Any) -> Any:
        return lambda handle: (time.sleep(seconds), sync(handle))[1]

    os.fsync, _appender._sync = after(real), after(data)
    try:
        yield
    finally:
        os.fsync, _appender._sync = real, data


# -- what is measured, each in a process of its own --------------------------------------------------------


def many_workers(folder: str, reports: int, fsync_s: float, scheduler: str) -> dict[str, float]:
    """Reports a second of 500 workers that have begun, with trials of 4 reports; cpu_us: of a report."""
    with slow_disk(fsync_s) if fsync_s else contextlib.nullcontext():
        run = Sweep(folder, max(500, reports // 4), 4, 500, 1, scheduler)
        rounds = run.rounds()
        next(rounds)
        began, cpu = time.perf_counter(), time.process_time()
        for _ in rounds:
            if run.reports >= reports:
                break
        seconds = time.perf_counter() - began - run.own_s
        used = time.process_time() - cpu - run.own_s
    return {"per_s": run.reports / seconds, "cpu_us": 1e6 * used / run.reports}


def cost(folder: str, trials: int, scheduler: str) -> dict[str, float]:
    """CPU microseconds of a report, of which each trial has ten and each message one."""
    repeats, used, reports = max(1, 2_000 // trials), 0.0, 0
    for k in range(repeats):
        run = Sweep(f"{folder}/{k}", trials, 10, 64, 1, scheduler)
        cpu = time.process_time()
        for _ in run.rounds():
            pass
        used, reports = used + time.process_time() - cpu, reports + run.reports
        run.writer.__exit__(None, None, None)
    return {"cpu_us": 1e6 * used / reports}


def filled(folder: str, trials: int) -> dict[str, Any]:
    """Leaves a sweep with trials of 50 reports as a driver that is killed does. mb: memory by trials."""
    run, seen, next_at = Sweep(folder, trials, 50, 500, 10, "none"), list[tuple[int, float]](), 0
    for begun in run.rounds():
        if begun >= next_at:
            seen.append((begun, resident_mb()))
            next_at = begun + trials // 10
        if begun >= 0.95 * trials:
            break
    return {"mb": seen}


def resumed(folder: str) -> dict[str, float]:
    """Seconds from the call to the first leg, as `fairsweep resume` takes it up."""
    from fairsweep.analysis.store import Store
    from fairsweep.cluster import config
    from fairsweep.cluster.jobs import growth, sweep

    paper(50)
    began, cpu = time.perf_counter(), time.process_time()
    settings, _ = growth.regrown(Store(folder).read("s"), [], config.check)
    writer = Store(folder).open("s")
    conductor = sweep.make_conductor(settings, settings.paper, writer, 500, writer.record)
    assert conductor.next_leg() is not None
    return {
        "s": time.perf_counter() - began,
        "cpu_s": time.process_time() - cpu,
        "trials": len(conductor.trials),
        "mb": resident_mb(),
    }


def soak(folder: str) -> list[dict[str, float]]:
    """20,000 trials of ten reports each; what it is like at each of MARKS."""
    run, rows, marks = Sweep(folder, MARKS[-1], 10, 200, 1, "none"), [], list(MARKS)
    cpu, reports = time.process_time(), 0
    for begun in run.rounds():
        if begun < marks[0] or (len(marks) == 1 and not run.conductor.finished):
            continue
        used = time.process_time() - cpu
        row = {"trials": float(marks.pop(0)), "us": 1e6 * used / (run.reports - reports), "mb": resident_mb()}
        for verb in ("ls", "show s", "best s"):
            row[verb.split()[0]] = asked(folder, verb.split())
        rows.append(row)
        cpu, reports = time.process_time(), run.reports
    assert run.reports == 10 * MARKS[-1] and not marks
    run.writer.close(state=run.conductor.close())
    return rows


def asked(folder: str, words: list[str]) -> float:
    """Seconds that a verb takes beside the running sweep, in this process."""
    from fairsweep.cluster.cli import run_cli

    with contextlib.redirect_stdout(io.StringIO()):
        began = time.perf_counter()
        code = run_cli([*words, "--storage", folder])
    assert code == 0, words
    return time.perf_counter() - began


def syncs(folder: str) -> dict[str, float]:
    """What the disk does: appends of 200 bytes a second, each on disk before the next."""
    with open(f"{folder}/probe", "ab", buffering=0) as out:
        began = time.perf_counter()
        for _ in range(200):
            out.write(b"x" * 200)
            os.fdatasync(out.fileno())
    return {"per_s": 200 / (time.perf_counter() - began)}


MEASURES = {f.__name__: f for f in (many_workers, cost, filled, resumed, soak, syncs)}


# -- the report ----------------------------------------------------------------------------------------------


class Apart:
    """Runs measurements on a checkout, each in a process of its own."""

    def __init__(self, checkout: Path, python: str) -> None:
        self.checkout, self.python = checkout, python

    def __call__(self, what: str, folder: str, *arguments: Any) -> Any:
        from tests.benchmarks.before import apart  # not where an earlier checkout is measured

        words = ["--measure", what, json.dumps([folder, *arguments])]
        return json.loads(apart(__file__, words, self.checkout, self.python))


def one_run(rows: Any, now: Apart, old: Apart | None, curves: Path | None) -> None:
    def fresh() -> Any:
        return tempfile.TemporaryDirectory(prefix="fairsweep-scale-")

    with fresh() as folder:
        print(f"  this disk: {now('syncs', folder)['per_s']:.0f} fsyncs/s")
    for scheduler in ("none", "asha"):
        for fsync_ms in (0, 2):
            disk = f"{f'fsync {fsync_ms} ms more' if fsync_ms else 'this disk'}, scheduler={scheduler}"
            with fresh() as folder:
                found = now("many_workers", folder, 30_000, fsync_ms / 1000, scheduler)
            print(f"  500 workers, {disk}: {found['per_s']:.0f} reports/s, {found['cpu_us']:.0f} us CPU each")
            if fsync_ms:
                rows.add(f"500 workers, {disk}: reports/s / 5,000", found["per_s"] / 5_000, 1)
            if old is not None:
                with fresh() as folder:
                    before = old("many_workers", folder, 1_500, fsync_ms / 1000, scheduler)
                print(f"    before: {before['per_s']:.0f} reports/s, {before['cpu_us']:.0f} us CPU each")
                rows.add(f"500 workers, {disk}: reports/s / before", found["per_s"] / before["per_s"], 20)
    for scheduler in ("none", "asha"):
        used = {}
        for trials in SIZES:
            with fresh() as folder:
                used[trials] = now("cost", folder, trials, scheduler)["cpu_us"]
        told = ", ".join(f"{trials} trials {us:.0f} us" for trials, us in used.items())
        print(f"  CPU of a report, scheduler={scheduler}: {told}")
        rows.add(
            f"CPU of a report, {scheduler}, 20,000 trials / 200",
            used[SIZES[-1]] / used[SIZES[0]],
            1.2,
            high=False,
        )
        if old is not None:
            with fresh() as folder:
                before = [old("cost", f"{folder}/{t}", t, scheduler)["cpu_us"] for t in (200, 2_000)]
            print(f"    before: 200 trials {before[0]:.0f} us, 2000 trials {before[1]:.0f} us")
    with fresh() as folder:
        seen = now("filled", folder, 20_000)["mb"]
        warm, end = seen[2], seen[-1]
        a_trial = (end[1] - warm[1]) * 2**20 / (end[0] - warm[0])
        told = ", ".join(f"{trials}: {mb:.0f}" for trials, mb in seen)
        print(f"  driver's memory in MB by trials of 50 reports: {told}; {a_trial:.0f} bytes a trial")
        found = now("resumed", folder)
        told = f"{found['s']:.2f} s ({found['cpu_s']:.2f} s CPU), {found['mb']:.0f} MB"
        print(f"  resume of {found['trials']:.0f} trials of 50 reports to its first new trial: {told}")
        rows.add("resume of 20,000 x 50 to its first new trial, s", found["s"], 5, high=False)
    with fresh() as folder:
        looked = now("soak", folder)
    print("  soak: " + " ".join(f"{name:>8}" for name in looked[0]))
    for row in looked:
        print("        " + " ".join(f"{v:8.0f}" if v >= 20 else f"{v:8.2f}" for v in row.values()))
    if curves is not None:
        draw(looked, curves)
        print(f"  curves: {curves}")


CURVES = {"CPU of a report, us": ("us",), "driver's memory, MB": ("mb",), "seconds": ("ls", "show", "best")}
COLOURS = ("#0072b2", "#d55e00", "#009e73")


def draw(looked: list[dict[str, float]], path: Path) -> None:
    """Cost, memory and the seconds of each verb over the trials of the soak, side by side."""
    width, height, parts = 300, 200, []
    for k, (title, names) in enumerate(CURVES.items()):
        most = max(row[name] for row in looked for name in names)
        left = k * (width + 60) + 50
        parts.append(f'<text x="{left}" y="20">{title} (up to {most:.3g}), over {MARKS[-1]} trials</text>')
        parts.append(f'<rect x="{left}" y="30" width="{width}" height="{height}" fill="none" stroke="#999"/>')
        for name, colour in zip(names, COLOURS, strict=False):
            at = [
                f"{left + width * row['trials'] / MARKS[-1]:.1f},{30 + height * (1 - row[name] / most):.1f}"
                for row in looked
            ]
            parts.append(
                f'<polyline points="{" ".join(at)}" fill="none" stroke="{colour}" stroke-width="2"/>'
            )
            x, y = at[-1].split(",")
            parts.append(f'<text x="{float(x) + 4}" y="{y}" fill="{colour}">{name}</text>')
    size = f'width="{3 * (width + 60) + 60}" height="{height + 50}"'
    text = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    path.write_text("\n".join([text, *parts, "</svg>"]) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--before", nargs="?", const="", help="measure the earlier build too, or a checkout of yours"
    )
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--curves", type=Path, help="where to draw the soak, as SVG")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        what, arguments = args.measure
        print(json.dumps(MEASURES[what](*json.loads(arguments))))
        sys.stdout.flush()
        os._exit(0)  # a sweep that is left open is left as by a driver that is killed
    from tests.benchmarks.before import earlier  # not where an earlier checkout is measured
    from tests.benchmarks.rows import Rows

    rows = Rows()
    old = next((Apart(*found) for found in earlier(args.before)), None)
    for run in range(args.runs):
        print(f"run {run + 1}")
        one_run(rows, Apart(HERE, sys.executable), old, args.curves)
    rows.report()


if __name__ == "__main__":
    main()
