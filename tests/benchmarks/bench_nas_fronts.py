"""How near searches over architectures come to the true front of accuracy against FLOPs, on complete tables.

The hypervolume of all that a search has evaluated after 100, 300 and 1000 architectures, divided by that of the whole
table: 1 is a search that has found the whole front. Exact, as the area of steps. Its reference point is the nadir of
the true front, moved away from it by a tenth of the front's ranges, so that the front's ends count as well: what is
less accurate than the cheapest network of the front, or costs more than the most accurate one, adds next to nothing.

    python -m tests.benchmarks.bench_nas_fronts [--seeds 10] [--processes 1] [--searches "nsga2;random"]

Accuracies are means over the table's seeds, without noise. `nsga2` is told the FLOPs before it evaluates; `random` and
`evolution` look at accuracy alone. FLOPs of NAS-Bench-Macro are the table's; NAS-Bench-201 has none, and they are
counted on its network for 32 x 32 pixels. Packages and files as in `bench_nas_tables`.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from fairsweep.analysis.fronts import hypervolume, pareto
from fairsweep.search_spaces.architectures.base import Architecture
from fairsweep.search_spaces.architectures.tables import Table
from tests.benchmarks.bench_nas_tables import _threads, interval, table, tables

POINTS = (100, 300, 1000)
SEARCHES: dict[str, tuple[str, dict[str, object]]] = {
    "nsga2": ("nsga2", {}),
    "nsga2, 50": ("nsga2", {"population": 50}),
    "random": ("random", {}),
    "evolution": ("evolution", {}),
}
MODES = ("max", "min")
MARGIN = 0.1  # of the front's ranges, between its nadir and the reference point


@functools.lru_cache(maxsize=1)
def flops_of_cells(cells: tuple[Architecture, ...]) -> np.ndarray:
    """FLOPs of the networks of NAS-Bench-201."""
    from fairsweep.search_spaces.supernets import build_supernet

    net = build_supernet("cell", "paper")
    return np.array([net.cost(cell, "flops") for cell in cells])


@dataclass(frozen=True)
class Problem:
    """A table, the FLOPs of its architectures, its front, and the area below it down to `reference`."""

    table: Table
    flops: dict[Architecture, float]
    front: frozenset[Architecture]
    reference: tuple[float, float]

    def area(self, architectures: Iterable[Architecture]) -> float:
        points = [(self.table.value(a), self.flops[a]) for a in architectures]
        return hypervolume(points, MODES, self.reference)


@functools.lru_cache(maxsize=4)
def problem(name: str) -> Problem:
    found, _ = table(name)
    flops = found.prices["flops"] if "flops" in found.prices else flops_of_cells(found.keys)
    points = np.stack([found.means(), flops], 1)
    on = np.array(pareto(points, MODES))  # type: ignore[arg-type]  # an array is a sequence of rows
    heights, widths = points[on].T
    reference = (
        float(heights.min() - MARGIN * np.ptp(heights)),
        float(widths.max() + MARGIN * np.ptp(widths)),
    )
    front = frozenset(a for a, is_on in zip(found.keys, on, strict=True) if is_on)
    return Problem(found, dict(zip(found.keys, flops, strict=True)), front, reference)


def one(job: tuple[str, str, int]) -> tuple[str, str, int, list[float], list[float], float]:
    """Ratios of hypervolumes and shares of the true front found, at `POINTS`, and CPU seconds."""
    from fairsweep.search_spaces.algorithms import create_architecture_search, search_table

    label, name, seed = job
    _threads()
    given = problem(name)
    space = given.table.space
    search, options = SEARCHES[label]
    began = time.process_time()
    algorithm = create_architecture_search(
        search, space, "max", seed, costs=lambda a: {"flops": given.flops[a]}, unique="encoding", **options
    )
    history = [a for a, _ in search_table(algorithm, space, given.table.value, POINTS[-1])]
    spent = time.process_time() - began
    ratios = [given.area(history[:k]) / given.area(given.front) for k in POINTS]
    shares = [len(given.front & set(history[:k])) / len(given.front) for k in POINTS]
    return label, name, seed, ratios, shares, spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--searches", help="separated by semicolons; default all: " + "; ".join(SEARCHES))
    parser.add_argument("--tables", help="names separated by commas; default all at hand")
    parser.add_argument("--processes", type=int, default=1)
    args = parser.parse_args()
    names = args.tables.split(",") if args.tables else tables()
    labels = [label.strip() for label in (args.searches or ";".join(SEARCHES)).split(";")]
    unknown = [label for label in labels if label not in SEARCHES]
    if unknown or not names:
        sys.exit(f"--searches={unknown}: known are {'; '.join(SEARCHES)}" if unknown else "no table at hand")
    jobs = [(label, name, seed) for name in names for label in labels for seed in range(args.seeds)]
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        rows = pool.map(one, jobs, chunksize=1)
    points = " / ".join(map(str, POINTS))
    print(
        f"{args.seeds} seeds; hypervolume over that of the true front after {points} evaluations, mean and 95 %"
    )
    for name in names:
        accuracy, flops = problem(name).reference
        size = len(problem(name).front)
        print(f"\n{name}: {size} networks on the front; reference {accuracy:.2f} %, {flops:.4g} FLOPs")
        print(f"{'':<14}{'ratio':>51}{'share of the front':>26}{'ms/evaluation':>16}")
        for label in labels:
            here = [r for r in rows if r[:2] == (label, name)]
            ratios = ["{:.3f} ±{:.3f}".format(*interval([r[3][k] for r in here])) for k in range(len(POINTS))]
            shares = [f"{np.mean([r[4][k] for r in here]):.2f}" for k in range(len(POINTS))]
            ms = 1000 * float(np.mean([r[5] for r in here])) / POINTS[-1]
            print(
                f"{label:<14}" + "".join(f"{c:>17}" for c in ratios) + f"{' / '.join(shares):>26}{ms:>16.2f}"
            )


if __name__ == "__main__":
    main()
