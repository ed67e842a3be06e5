"""How supernets rank: PA&DA, its halves, and the baselines, at equal cost of training, against a table of truths.

Cost is counted in forward and backward passes of a batch: a strategy that trains several paths an update gets as
many fewer epochs. Scores are validation accuracies with inherited weights, the truth is the table's test accuracy.
Beside each tau stand those of FLOPs and of parameters, the ceiling that the truth's noise sets, and the truly best
fifth. Intervals are Student's t over the seeds of the supernet, and percentile bootstraps over architectures.

    python -m tests.benchmarks.bench_ranking nb201_micro.parquet [--data fashion_mnist_7x7] [--data-dir DIR]
        [--limit 500] [--strategies pada,pa,da,uniform,fairnas] [--seeds 6] [--epochs 40] [--processes 2]
        [--set floor=0.05] [--out rows.jsonl]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from fairsweep.analysis import ranking
from fairsweep.analysis.statistics import paired, summary
from fairsweep.search_spaces.architectures.files import open_table
from fairsweep.search_spaces.architectures.tables import Table
from fairsweep.search_spaces.space import Space
from fairsweep.search_spaces.supernets import build_supernet
from fairsweep.trainables.base import Setting
from fairsweep.trainables.nas.pa_da import PaDa
from fairsweep.trainables.tasks.path_scoring import path_accuracies
from fairsweep.trainables.tasks.supernet_training import INNER_STEPS


def table_of(args: argparse.Namespace) -> Table:
    """The architectures that are ranked: those of the table that the supernet has, or `--limit` of them."""
    space = build_supernet(args.supernet, args.size).space
    return open_table(args.table, args.table_path).over(space).drawn(args.limit)


def passes(paper: PaDa) -> int:
    """Forward and backward passes of an update."""
    return paper.path_rule.paths * (INNER_STEPS if paper.config["strategy"] == "sumnas" else 1)


def configuration(args: argparse.Namespace, strategy: str) -> dict[str, Any]:
    declared = PaDa.space()
    chosen = {"strategy": strategy, "supernet": args.supernet, "size": args.size, **args.set}
    space = Space.from_mapping({**declared.to_mapping(), **chosen}, source="pa_da", declared=declared)
    return space.for_data(args.data).validate(space.paper_config(args.data))


def one(args: argparse.Namespace, job: tuple[str, int]) -> dict[str, Any]:
    strategy, seed = job
    torch.set_num_threads(1)
    config = configuration(args, strategy)
    paper = PaDa()
    setting = Setting(seed, data=args.data, data_dir=args.data_dir, steps=args.epochs)
    paper.setup(config, setting)
    paper.setup(config, replace(setting, steps=max(2, args.epochs // passes(paper))))
    table = table_of(args)
    began, variances = time.process_time(), []
    while not paper.finished:
        variances.append(paper.step()["gradient_variance"])
    trained = time.process_time() - began
    scores, losses = path_accuracies(paper.supernet, table.keys, paper.data, "validation")
    return {
        "strategy": strategy,
        "seed": seed,
        "epochs": paper.epochs,
        "train_seconds": trained,
        "rank_seconds": time.process_time() - began - trained,
        "gradient_variance": float(np.mean(variances)) / paper.path_rule.paths**2,
        "scores": scores.tolist(),
        "losses": losses.tolist(),
        "probabilities": {n: p.round(4).tolist() for n, p in paper.path_rule.probabilities.items()},
    }


def over_seeds(values: list[float]) -> str:
    found = summary(values)
    interval = "" if found.ci95 is None else f" [{found.ci95[0]:+.3f}, {found.ci95[1]:+.3f}]"
    return f"{found.mean:+.3f}{interval}"


def report(args: argparse.Namespace, rows: list[dict[str, Any]], table: Table) -> None:
    truth, seeds = table.means(), table.values[table.metric]
    k = min(10, len(truth))
    print(f"{table.source.title}: {len(table)} architectures of {table.space.id}, {seeds.shape[1]} seeds")
    if seeds.shape[1] > 1 and np.isfinite(seeds).all():
        ceiling = ranking.ceiling_of(seeds)
        spread = f"sd between {ceiling.between**0.5:.4f}, within {ceiling.within**0.5:.4f}"
        low, high = ceiling.ci95
        print(f"noise ceiling of tau {ceiling.tau:.3f} [{low:.3f}, {high:.3f}]  ({spread})")
    net = build_supernet(args.supernet, args.size)
    costs = {cost: np.array([net.cost(key, cost) for key in table.keys]) for cost in ("flops", "params")}
    for cost, of_each in costs.items():
        trivial = ranking.rank(of_each, truth, ks=(k,), draws=args.draws)
        low, high = trivial.kendall.ci95
        print(
            f"tau of {cost:<11}{trivial.kendall.value:+.3f} [{low:+.3f}, {high:+.3f}]   best fifth"
            f" {trivial.top.value:+.3f}   at {k} {trivial.precision[k].value:.2f}"
        )
    print(
        f"\n{'strategy':<10}{'epochs':>7}{'tau':>26}{'over architectures':>22}{'best fifth':>27}"
        f"{f'at {k}':>7}{'to FLOPs':>10}{'variance':>10}{'CPU-s':>7}"
    )
    taus: dict[str, dict[int, float]] = {}
    for strategy in args.strategies:
        found = [r for r in rows if r["strategy"] == strategy]
        scores = [np.array(r["scores"]) for r in found]
        taus[strategy] = {
            r["seed"]: ranking.kendall_tau(s, truth) for r, s in zip(found, scores, strict=True)
        }
        mean = ranking.rank(np.mean(scores, axis=0), truth, draws=args.draws)
        low, high = mean.kendall.ci95
        flops = [ranking.kendall_tau(s, costs["flops"]) for s in scores]
        print(
            f"{strategy:<10}{found[0]['epochs']:>7}{over_seeds(list(taus[strategy].values())):>26}"
            f"{f'[{low:+.3f}, {high:+.3f}]':>22}{over_seeds([ranking.top_tau(s, truth) for s in scores]):>27}"
            f"{np.mean([ranking.precision_at(s, truth, k) for s in scores]):>7.2f}"
            f"{np.mean(flops):>10.3f}"
            f"{np.mean([r['gradient_variance'] for r in found]):>10.3f}"
            f"{np.mean([r['train_seconds'] for r in found]):>7.1f}"
        )
    print(
        "over architectures: interval of the tau of the scores' mean over seeds; to FLOPs: tau of scores and FLOPs"
    )
    print(f"\nagainst {args.against}, seed by seed")
    base = taus[args.against]
    for strategy in args.strategies:
        shared = sorted(set(taus[strategy]) & set(base))
        d = paired([taus[strategy][s] for s in shared], [base[s] for s in shared])
        if taus[strategy] is not base and d.ci95 is not None:
            each = " ".join(f"{taus[strategy][s] - base[s]:+.2f}" for s in shared)
            print(f"{strategy:<10}{d.difference:+.3f} [{d.ci95[0]:+.3f}, {d.ci95[1]:+.3f}]   {each}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", help="name of a table, or a Parquet file")
    parser.add_argument("--table-path", help="file of a table that is no package's (nas_bench_macro)")
    parser.add_argument("--data", default="fashion_mnist_7x7")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--supernet", default="cell")
    parser.add_argument("--size", default="laptop")
    parser.add_argument("--limit", type=int, help="so many of the table's architectures, drawn once")
    parser.add_argument("--strategies", type=lambda s: s.split(","), default="pada,pa,da,uniform,fairnas")
    parser.add_argument("--against", default="uniform")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--draws", type=int, default=1000, help="of a bootstrap")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="hyperparameters")
    parser.add_argument("--out", type=Path, help="rows as JSON lines; what it holds already is not run again")
    args = parser.parse_args()
    args.set = {k: yaml.safe_load(v) for k, v in (pair.split("=", 1) for pair in args.set)}
    if args.against not in args.strategies:
        parser.error(f"--against {args.against}: must be one of {', '.join(args.strategies)}")
    rows = []
    if args.out and args.out.is_file():
        rows = [json.loads(line) for line in args.out.read_text().splitlines()]
    done = {(r["strategy"], r["seed"]) for r in rows}
    jobs = [(s, seed) for seed in range(args.seeds) for s in args.strategies if (s, seed) not in done]
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        for row in pool.imap_unordered(partial(one, args), jobs):
            rows.append(row)
            if args.out:
                with args.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            print(f"\r{len(rows)} of {len(done) + len(jobs)} supernets", end="", flush=True)
    print()
    report(args, rows, table_of(args))


if __name__ == "__main__":
    main()
