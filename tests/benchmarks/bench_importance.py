"""How far importances can be trusted: whether their spreads hold what other sweeps say, and what early stopping does.

    python -m tests.benchmarks.bench_importance [--seeds 50]

Random search over three numbers: (a - .3)^2 4 + .8 b + noise of .2. And of 180 configurations under successive halving
(rungs 1, 3 and 9, eta 3) how often the parameter comes first that comes first where all 180 are trained to the end: by
fairsweep's rule, by the 20 that are complete, by the last value of each.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fairsweep.search_spaces.algorithms import Outcome
from fairsweep.search_spaces.algorithms.importance import METHODS, Measure, importances
from fairsweep.search_spaces.space import Space
from tests.search_spaces.algorithms.test_importance import FLAT, complete, drawn, halved

X = {"type": "float", "low": 0.0, "high": 1.0, "paper": 0.5}
SPACE = Space.from_mapping({n: X for n in "abc"}, source="bench")


def spreads(seeds: int, configurations: int, method: str) -> None:
    found = []
    for seed in range(seeds):
        configs, rng = drawn(SPACE, configurations, seed), np.random.default_rng(1000 + seed)
        outcomes = complete(
            configs, lambda c, r=rng: 4 * (c["a"] - 0.3) ** 2 + 0.8 * c["b"] + 0.2 * r.normal()
        )
        rows = {r.parameter: r for r in importances(SPACE, configs, outcomes, measure=Measure(method)).rows}
        found.append([(rows[n].share, rows[n].low, rows[n].high, rows[n].first) for n in "abc"])
    x = np.array(found)
    share, low, high, first = (x[:, :, i] for i in range(4))
    mean, other = share.mean(axis=0), np.roll(share, 1, axis=0)
    was = np.bincount(share.argmax(axis=1), minlength=3) / seeds
    print(f"{configurations} configurations, {method}: mean {mean.round(2)}, sd {share.std(axis=0).round(3)}")
    for what, value in (("the mean of all sweeps", mean), ("another sweep", other)):
        print(f"   spread holds {what}: {((low <= value) & (value <= high)).mean(axis=0)}")
    print(f"   first, as said {first.mean(axis=0).round(2)}, as it was {was.round(2)}")


def same(c: Mapping[str, Any], step: int) -> float:
    return abs(c["lr"] - 0.4) + 0.2 * c["width"] + 2.0 / step


def grows(c: Mapping[str, Any], step: int) -> float:
    return abs(c["lr"] - 0.4) + 0.2 * step / 9 * c["width"] + 2.0 / step


def turns(c: Mapping[str, Any], step: int) -> float:
    """At the first rung width decides, later lr."""
    return abs(c["lr"] - 0.4) + (3.0 if step == 1 else 0.2) * abs(c["width"] - 0.5) + 2.0 / step


def stopped(seeds: int, value: Callable[[Mapping[str, Any], int], float], noise: float, method: str) -> None:
    right = np.zeros(4)
    for seed in range(seeds):
        configs, rng = drawn(FLAT, 180, seed), np.random.default_rng(seed)
        luck = {id(c): noise * rng.normal() for c in configs.values()}

        def noisy(c: Mapping[str, Any], step: int, luck: Mapping[int, float] = luck) -> float:
            return value(c, step) + luck[id(c)]

        ends = complete(configs, lambda c, f=noisy: f(c, 9))
        halves = halved(configs, noisy)
        last = {n: Outcome(o.value, 9, "complete") for n, o in halves.items()}
        measure = Measure(method, brief=True)
        truth, ours, end, mixed = (
            importances(FLAT, configs, o, step, measure)
            for o, step in ((ends, None), (halves, None), (halves, "end"), (last, None))
        )
        first = truth.rows[0].parameter
        right[:3] += [answer.rows[0].parameter == first for answer in (ours, end, mixed)]
        right[3] += first in (ours.rows[0].parameter, *(other for _, _, other in ours.elsewhere))
    whats = ("fairsweep", "complete alone", "last values", "fairsweep or its notes")
    said = ", ".join(f"{what} {share:.2f}" for what, share in zip(whats, right / seeds, strict=True))
    print(f"{value.__name__}, {method}: the right first by {said}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=50)
    seeds = parser.parse_args().seeds
    for method in METHODS:
        for configurations in (30, 100):
            spreads(seeds, configurations, method)
        for value in (same, grows, turns):
            stopped(seeds, value, 0.05, method)


if __name__ == "__main__":
    main()
