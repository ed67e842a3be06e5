"""Do model-based searches pay under early stopping? Against random search under the same rule, on planted functions.

Four functions of known optimum: a bowl, a narrow valley on logarithmic scales, one with categories and one whose
numbers depend on a category. What a trial shows at step t is the function and what is still to be learnt, which falls
as t to the power of minus a rate that differs by configuration; so an early milestone misleads a little. Each search
runs in the conductor of real sweeps with one place, until it has spent as many steps as the others. Reported: what the
best complete trial is above the optimum, as a ratio to random search: geometric mean over functions and seeds with its
95 % interval; below 1 the search is better.

    python -m tests.benchmarks.bench_early_stopping [--steps 200] [--seeds 5] [--scheduler asha] [--searches gp,tpe]
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

LENGTH = 27  # steps of a whole trial; with eta = 3 the rungs are 1, 3 and 9


def number(low: float, high: float, **more: Any) -> dict[str, Any]:
    return {"type": "float", "low": low, "high": high, "paper": low, **more}


def category(*choices: str) -> dict[str, Any]:
    return {"type": "categorical", "choices": list(choices), "paper": choices[0]}


def bowl(c: Mapping[str, Any]) -> float:
    return sum((c[f"x{k}"] - 0.2 - 0.15 * k) ** 2 for k in range(4))


def valley(c: Mapping[str, Any]) -> float:
    lr, decay = np.log10(c["lr"]) + 2.3, np.log10(c["decay"]) + 4.2
    return 0.2 * (lr + 0.7 * decay) ** 2 + 0.02 * (lr - decay) ** 2 + 0.1 * (c["momentum"] - 0.85) ** 2


def mixed(c: Mapping[str, Any]) -> float:
    own = {"sgd": 0.2, "adam": 0.0, "lion": 0.1}[c["optimizer"]] + {"relu": 0.05, "gelu": 0.0}[c["act"]]
    return (
        0.15 * (np.log10(c["lr"]) + 2.6) ** 2
        + 0.5 * (c["drop"] - 0.15) ** 2
        + 0.002 * (c["depth"] - 6) ** 2
        + own
    )


def conditional(c: Mapping[str, Any]) -> float:
    if c["model"] == "tree":
        return 0.08 + 0.004 * (c["leaves"] - 9) ** 2 + 0.1 * (c["noise"] - 0.4) ** 2
    return (
        0.12 * (np.log10(c["lr"]) + 2.2) ** 2 + 0.4 * (c["drop"] - 0.3) ** 2 + 0.1 * (c["noise"] - 0.1) ** 2
    )


LR = number(1e-5, 1.0, log=True)
FUNCTIONS: dict[str, tuple[Callable[[Mapping[str, Any]], float], dict[str, Any]]] = {
    "bowl": (bowl, {f"x{k}": number(0.0, 1.0) for k in range(4)}),
    "valley": (valley, {"lr": LR, "decay": number(1e-6, 1e-2, log=True), "momentum": number(0.0, 0.99)}),
    "mixed": (mixed, {
        "optimizer": category("sgd", "adam", "lion"), "act": category("relu", "gelu"), "lr": LR,
        "drop": number(0.0, 0.8), "depth": {"type": "int", "low": 1, "high": 12, "paper": 1},
    }),
    "conditional": (conditional, {
        "model": category("tree", "net"), "noise": number(0.0, 1.0), "lr": LR | {"when": {"model": "net"}},
        "drop": number(0.0, 0.8) | {"when": {"model": "net"}},
        "leaves": {"type": "int", "low": 2, "high": 32, "paper": 2, "when": {"model": "tree"}},
    }),
}  # fmt: skip


def shown(config: Mapping[str, Any], value: float, step: int) -> float:
    """The objective at `step` of a configuration worth `value` at the end."""
    rate = 0.6 + 0.5 * np.sin(12 * sum(v for v in config.values() if isinstance(v, float)))
    return float(value + 0.5 * (step**-rate - LENGTH**-rate))


class Unwritten:
    """A sweep's writer that keeps nothing."""

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        yield

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **fields: None


def sweep(search: str, scheduler: str, function: str, steps: int, seed: int) -> tuple[float, int]:
    """(regret of the best trial that was complete after so many steps, how many trials had been started)."""
    from fairsweep.cluster.engine.conductor import Conductor, Rules
    from fairsweep.search_spaces.algorithms import create_scheduler, create_search
    from fairsweep.search_spaces.space import Space

    value, declared = FUNCTIONS[function]
    space = Space.from_mapping(declared, source=function)
    own = int(np.random.SeedSequence([seed, *function.encode()]).generate_state(1)[0])
    rules = Rules("loss", "min", None, (0,), 1, fidelity=lambda config: (1, LENGTH))
    writer: Any = Unwritten()
    conductor = Conductor(
        rules, space, create_search(search, space, "min", own), create_scheduler(scheduler, "min", 1, LENGTH), writer
    )  # fmt: skip
    spent, best = 0, float("inf")
    while (leg := conductor.next_leg()) is not None:
        for step in range(leg.done + 1, leg.maximum + 1):
            if spent == steps:
                return best, len(conductor.trials)
            spent += 1
            found = value(leg.config)
            row = {
                "step": step,
                "wall_s": 0.0,
                "time": 0.0,
                "metrics": {"loss": shown(leg.config, found, step)},
            }
            status = "complete" if step == leg.maximum else "running"
            if status == "complete":
                best = min(best, found)
            if not conductor.report(leg.trial, {"rows": [row], "status": status}):
                break
    raise AssertionError("the search has ended")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--scheduler", default="asha")
    parser.add_argument("--searches", default="gp,cmaes,tpe")
    parser.add_argument("--functions", default=",".join(FUNCTIONS))
    args = parser.parse_args()
    import torch
    from scipy import stats

    torch.set_num_threads(1)
    cells = [
        (f, s)
        for f in args.functions.split(",")
        for s in range(args.first_seed, args.first_seed + args.seeds)
    ]
    base = {cell: sweep("random", args.scheduler, cell[0], args.steps, cell[1]) for cell in cells}
    print(
        f"{args.steps} steps under {args.scheduler}, {args.seeds} seeds: regret beside that of random search"
    )
    for search in args.searches.split(","):
        began = time.process_time()
        found = {cell: sweep(search, args.scheduler, cell[0], args.steps, cell[1]) for cell in cells}
        logs = {cell: np.log(found[cell][0] / base[cell][0]) for cell in cells}
        d = np.array(list(logs.values()))
        low, high = stats.t.interval(0.95, len(d) - 1, d.mean(), stats.sem(d))
        started = [np.mean([r[1] for r in runs.values()]) for runs in (found, base)]
        each = ", ".join(
            f"{f} {np.exp(np.mean([v for c, v in logs.items() if c[0] == f])):.2f}"
            for f in args.functions.split(",")
        )
        print(
            f"{search:<6} {np.exp(d.mean()):.3f} [{np.exp(low):.3f}, {np.exp(high):.3f}], better {np.sum(d < 0)} of "
            f"{len(d)} times  ({each})  trials {started[0]:.0f}, random {started[1]:.0f}; "
            f"{time.process_time() - began:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
