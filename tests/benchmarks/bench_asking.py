"""What a suggestion of TPE costs beside bare Optuna's, and how busy it keeps many workers; ratios within one run.

Suggestions: CPU of asking for one and telling it, through the bridge and of a bare study, that know as many trials.

Workers: 64 of them, trials of .9 to 1.1 s, TPE with `--told` outcomes known when the clock begins to count. The workers
are simulated, the driver is not: the real exchange, conductor, search and store run, on disk, and each second that they
take is a second on the clock of the workers. That clock jumps only where the driver has nothing to do, to the moment at
which the next worker ends. Ray is left out of it. With `--cpu` it is the driver's CPU time that passes, for a machine
with other work; an fsync is then free.

`--before [FOLDER]` measures an earlier checkout in the same way, one report after the other where it has no exchange.

    python -m tests.benchmarks.bench_asking [--told 2000] [--seconds 10] [--cpu] [--runs 3] [--before]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("FAIRSWEEP_PLUGINS", "tests.papers")

KNOWN = (400, 600, 2000)
ASKS = 30
WORKERS = 64
SPACE: dict[str, Any] = {
    **{f"x{k}": {"type": "float", "low": 0.0, "high": 1.0, "paper": 0.5} for k in range(4)},
    "y": {"type": "int", "low": 0, "high": 5, "paper": 1},
    "kind": {"type": "categorical", "choices": ["a", "b", "c"], "paper": "a"},
}


def loss(config: Mapping[str, Any]) -> float:
    return sum((config[f"x{k}"] - 0.3) ** 2 for k in range(4)) + 0.1 * config["y"] + (config["kind"] == "a")


def suggestions(known: int, bare: bool) -> float:
    """CPU seconds of a suggestion, and of telling what it came to."""
    import numpy as np
    import optuna

    from fairsweep.search_spaces.algorithms import Job, Outcome, create_search
    from fairsweep.search_spaces.space import Space

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = Space.from_mapping(SPACE, source="bench")
    rng = np.random.default_rng(0)
    configs = [space.sample(rng) for _ in range(known)]
    if bare:
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
        ways = space.distributions()
        for config in configs:
            study.add_trial(optuna.trial.create_trial(params=config, distributions=ways, value=loss(config)))

        def once() -> None:
            trial = study.ask(ways)
            study.tell(trial, loss(trial.params))

    else:
        search = create_search("tpe", space, "min", 0)
        for number, config in enumerate(configs):
            search.adopt(Job(number, config))
            search.tell(Job(number, config), Outcome(loss(config), 1, "complete"))

        def once() -> None:
            (job,) = search.ask(1)
            search.tell(job, Outcome(loss(job.config), 1, "complete"))

    once()  # it builds what it keeps
    began = time.process_time()
    for _ in range(ASKS):
        once()
    return (time.process_time() - began) / ASKS


class Clock:
    """Passes as the driver works, and jumps where it waits."""

    def __init__(self, real: Callable[[], float]) -> None:
        self.real, self.ahead = real, -real()

    @property
    def now(self) -> float:
        return self.real() + self.ahead

    def wait_until(self, moment: float) -> None:
        self.ahead += max(0.0, moment - self.now)


class Workers:
    """`Wires` to simulated places; notes when each was at work."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.draw = clock, random.Random(0)
        self.ends: dict[str, tuple[float, list[Any]]] = {}
        self.worked: list[tuple[float, float]] = []

    def begin(self, place: str, legs: list[Any]) -> None:
        now = self.clock.now
        end = now + sum(self.draw.uniform(0.9, 1.1) for _ in legs)
        self.ends[place] = (end, legs)
        self.worked.append((now, end))

    def send(self, place: str, legs: str = "", post: str = "") -> None:
        self.begin(place, json.loads(legs))

    def come(self) -> list[str]:
        """Those that have ended by now, the first to end first; waits for one."""
        self.clock.wait_until(min(end for end, _ in self.ends.values()))
        now = self.clock.now
        return sorted((p for p, (end, _) in self.ends.items() if end <= now), key=lambda p: self.ends[p][0])

    def ready(self, timeout: float) -> list[tuple[str, Mapping[str, Any] | BaseException]]:
        return [(place, self.message(place)) for place in self.come()]

    def message(self, place: str) -> dict[str, Any]:
        _, legs = self.ends.pop(place)
        return {"reports": [report(leg) for leg in legs], "unbegun": [], "most": 1}

    def stash(self, places: Any) -> None:
        raise AssertionError("nothing is cut off")

    def early(self) -> dict[str, Any]:
        return {}

    def busy(self, since: float, until: float) -> float:
        """The share of their time between two moments that the workers were at work."""
        total = sum(max(0.0, min(end, until) - max(begun, since)) for begun, end in self.worked)
        return total / (WORKERS * (until - since))


def report(leg: Mapping[str, Any]) -> dict[str, Any]:
    config = leg["config"]
    metrics = {"val_loss": (config["x"] - 0.3) ** 2 + 0.1 * config["y"], "train_loss": 0.1}
    row = {"step": leg["maximum"], "wall_s": 1.0, "time": time.time(), "metrics": metrics}
    return {
        "trial": leg["trial"], "rows": [row], "status": "complete", "test": {"test_loss": 0.1}, "kept": None,
        "cost_s": 1.0, "notes": [],
    }  # fmt: skip


def busy(told: int, seconds: float, cpu: bool) -> float:
    """How busy the driver that this process imports keeps its workers once `told` outcomes are known."""
    from tests.cluster.test_conductor import engine

    with tempfile.TemporaryDirectory() as folder:
        run = engine(
            Path(folder), "trainable=test_trivial", "search=tpe", "keep_checkpoints=none",
            f"budget.trials={told + int((seconds + 3) * WORKERS)}", f"budget.concurrent={WORKERS}",
        )  # fmt: skip
        workers = Workers(Clock(time.process_time if cpu else time.perf_counter))
        step = exchanging(run, workers) if has_exchange() else one_by_one(run, workers)
        since = 0.0
        while not since or workers.clock.now < since + seconds:
            step()
            ended = len(workers.worked) - len(workers.ends)
            since = since or (workers.clock.now if ended >= told else 0.0)
        run.writer.__exit__(None, None, None)
        return workers.busy(since, since + seconds)


def has_exchange() -> bool:
    from importlib.util import find_spec

    return find_spec("fairsweep.cluster.engine.exchange") is not None


def exchanging(run: Any, workers: Workers) -> Callable[[], None]:
    from fairsweep.cluster.engine.exchange import Exchange

    exchange = Exchange(run.conductor, workers, lambda sweep: "{}")
    for k in range(WORKERS):
        given = exchange.first(f"p{k}")
        assert given is not None
        workers.send(f"p{k}", *given)
    return lambda: exchange.round(0.0)


def one_by_one(run: Any, workers: Workers) -> Callable[[], None]:
    conductor = run.conductor

    def hand_out(place: str) -> None:
        leg = conductor.next_leg()
        assert leg is not None
        workers.begin(place, [leg.__dict__])

    def step() -> None:
        place = workers.come()[0]
        for said in workers.message(place)["reports"]:
            conductor.report(said["trial"], said)
        hand_out(place)

    for k in range(WORKERS):
        hand_out(f"p{k}")
    return step


def measured(words: list[str], checkout: Path, python: str) -> float:
    """What a process of its own measures that imports from `checkout`."""
    from tests.benchmarks.before import apart  # not where an earlier checkout is measured

    return float(apart(__file__, words, checkout, python))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--told", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=10.0, help="of the workers' time that count")
    parser.add_argument("--cpu", action="store_true", help="the driver's CPU time passes, not the time")
    parser.add_argument(
        "--before", nargs="?", const="", help="measure the earlier build too, or a checkout of yours"
    )
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--only", choices=["suggestions", "workers"])
    parser.add_argument("--measure", choices=["bridge", "bare", "busy"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        if args.measure == "busy":
            print(busy(args.told, args.seconds, args.cpu))
        else:
            print(suggestions(args.told, args.measure == "bare"))
        return
    from tests.benchmarks.before import HERE, earlier  # not where an earlier checkout is measured
    from tests.benchmarks.rows import Rows

    rows, old = Rows(), earlier(args.before)
    for run in range(args.runs):
        print(f"run {run + 1}")
        for known in KNOWN if args.only != "workers" else ():
            words = ["--told", str(known), "--measure"]
            bare = measured([*words, "bare"], HERE, sys.executable)
            line = f" a suggestion with {known} known: bare Optuna {1000 * bare:.2f} ms of CPU"
            for checkout, python in [(HERE, sys.executable), *old]:
                took = measured([*words, "bridge"], checkout, python)
                line += f"; {'fairsweep' if checkout == HERE else 'before'} {1000 * took:.2f} ms"
                if checkout == HERE:
                    rows.add(
                        f"a suggestion of TPE, {known} known / bare Optuna", took / bare, 1.05, high=False
                    )
            print(line, flush=True)
        if args.only != "suggestions":
            words = ["--told", str(args.told), "--seconds", str(args.seconds), "--measure", "busy"]
            words += ["--cpu"] if args.cpu else []
            mine = measured(words, HERE, sys.executable)
            line = f" {WORKERS} workers, trials of a second, TPE, {args.told} known: busy {100 * mine:.1f} %"
            for checkout, python in old:
                line += f"; before {100 * measured(words, checkout, python):.1f} %"
            print(line + (" (the driver's CPU time)" if args.cpu else ""), flush=True)
            rows.add(f"{WORKERS} workers: share of their time in which they work", mine, 0.97)
    rows.report()


if __name__ == "__main__":
    main()
