"""The front of Single-Path NAS over lambda, and what its predicted latency is worth, on this machine and one thread.

front: a search on digits for each lambda and seed with the costs of `--cost`: cost and inherited accuracy of what is
found, and Spearman's correlation of lambda with the cost. latency: predicted by a table of blocks timed now and by
the one that the searches go by, beside whole networks timed in the same run. random: the networks found at each
lambda of `--compare` and `--random` others within 5 % of their cost, all trained from scratch on the same data.

    python -m tests.benchmarks.bench_single_path [--lambdas 0,0.1,0.3,1] [--seed 0] [--seeds 5] [--cost flops]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr

from fairsweep.analysis.statistics import summary
from fairsweep.search_spaces.architectures.base import Architecture
from fairsweep.search_spaces.costs import check_latency
from fairsweep.trainables.base import Setting
from fairsweep.trainables.nas.single_path_nas import SinglePathNAS
from fairsweep.trainables.tasks.image_classification import ImageTask
from fairsweep.trainables.tasks.latency import kept_latency, timed_latency
from fairsweep.trainables.tasks.training import cosine_factor


def begun(lmbda: float, seed: int, cost: str, epochs: int) -> SinglePathNAS:
    """A search on digits before its first epoch; lambda 0 is without the runtime term."""
    config: dict[str, Any] = {**SinglePathNAS.space().paper_config("digits"), "cost": cost}
    if lmbda:
        config["lmbda"] = lmbda
    else:
        config["runtime_term"] = False
        config.pop("lmbda")
    paper = SinglePathNAS()
    paper.setup(config, Setting(seed=seed, data="digits", steps=epochs))
    return paper


def search(lmbda: float, seed: int, cost: str, epochs: int) -> tuple[SinglePathNAS, dict[str, float]]:
    """A finished search and its test metrics."""
    paper = begun(lmbda, seed, cost, epochs)
    while not paper.finished:
        paper.step()
    return paper, paper.test()


def front(
    lambdas: Sequence[float], seeds: Sequence[int], cost: str, epochs: int
) -> dict[float, list[SinglePathNAS]]:
    """Prints the front; the searches of each lambda."""
    found: dict[float, list[tuple[SinglePathNAS, dict[str, float]]]] = {}
    print(f"{'lambda':>7} {'seed':>4} {'cost':>10} {'accuracy':>8} {'s':>6}  architecture")
    for lmbda in lambdas:
        found[lmbda] = []
        for seed in seeds:
            start = time.process_time()
            paper, tests = search(lmbda, seed, cost, epochs)
            found[lmbda].append((paper, tests))
            text = paper.net.space.format(paper.architecture())
            print(
                f"{lmbda:>7g} {seed:>4} {tests['test_cost']:>10.6g} {tests['test_accuracy']:>8.4f}"
                f" {time.process_time() - start:>6.1f}  {text}",
                flush=True,
            )
    means = {lmbda: statistics.mean(t["test_cost"] for _, t in rows) for lmbda, rows in found.items()}
    pairs = [(lmbda, t["test_cost"]) for lmbda, rows in found.items() for _, t in rows]
    print("mean cost over the first:", {k: round(v / means[lambdas[0]], 3) for k, v in means.items()})
    print(f"Spearman of lambda and cost: {spearmanr(*zip(*pairs, strict=True)).statistic:.3f}")
    return {lmbda: [paper for paper, _ in rows] for lmbda, rows in found.items()}


def latency(paths: int, repeats: int) -> None:
    """Prints how well the sum over blocks predicts the latency of networks."""
    net = begun(0.0, 0, "flops", 1).net
    tables = {"now": timed_latency(net, repeats=repeats), "for the searches": kept_latency(net)}
    for when, table in tables.items():
        check = check_latency(net, table, [net.space.sample(seed) for seed in range(paths)], repeats)
        ratios = [m / p for m, p in zip(check.measured, check.predicted, strict=True)]
        print(
            f"latency of {paths} networks over that predicted by a table timed {when}: {min(ratios):.2f} to"
            f" {max(ratios):.2f}, mean relative error {check.mean_relative_error:.3f}, bias {check.bias:+.3f},"
            f" Spearman {check.spearman:.3f}"
        )


def trained(paper: SinglePathNAS, path: Architecture, seed: int, epochs: int) -> float:
    """Test accuracy of `path` from scratch: SGD with cosine, the batch and rate of the search."""
    torch.manual_seed(seed)
    task = ImageTask("digits", None, "cpu", "none", torch.Generator().manual_seed(seed))
    module, rate = paper.net.build(path), paper.config["lr"]
    optimiser = torch.optim.SGD(module.parameters(), lr=rate, momentum=0.9, weight_decay=1e-5)
    for epoch in range(epochs):
        module.train()
        for group in optimiser.param_groups:
            group["lr"] = rate * cosine_factor(epoch, epochs)
        for x, y in task.batches(paper.config["batch_size"]):
            optimiser.zero_grad()
            F.cross_entropy(module(x), y).backward()
            optimiser.step()
    return task.evaluate(module, "test")[1]


def against_random(papers: Sequence[tuple[int, SinglePathNAS]], others: int, epochs: int) -> None:
    """Prints test accuracies of what was found and of random networks of equal cost, and their mean difference."""
    gains = []
    for seed, paper in papers:
        path = paper.architecture()
        cost = paper.runtime.of_path(path)
        near = [
            a
            for a in paper.net.space.enumerate()
            if a != path and abs(paper.runtime.of_path(a) / cost - 1) <= 0.05
        ]
        order = np.random.default_rng(seed).permutation(len(near))[:others]
        ours = trained(paper, path, seed, epochs)
        theirs = [trained(paper, near[k], seed, epochs) for k in order]
        mean = f"{statistics.mean(theirs):.4f}" if theirs else "none is so near"
        print(
            f"from scratch, seed {seed}: found {ours:.4f}, {len(theirs)} random of equal cost {mean}",
            flush=True,
        )
        if theirs:
            gains.append(ours - statistics.mean(theirs))
    gain = summary(gains)
    if gain.mean is not None and gain.ci95 is not None:
        print(
            f"found - random: {gain.mean:+.4f} [{gain.ci95[0]:+.4f}, {gain.ci95[1]:+.4f}], {len(gains)} seeds"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lambdas", default="0,0.1,0.3,1")
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cost", default="flops", choices=["flops", "params", "latency"])
    parser.add_argument("--epochs", type=int, default=SinglePathNAS.default_steps)
    parser.add_argument("--paths", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--compare", default="0.3,1")
    parser.add_argument("--random", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(1)
    latency(args.paths, args.repeats)
    seeds = range(args.seed, args.seed + args.seeds)
    papers = front([float(x) for x in args.lambdas.split(",")], seeds, args.cost, args.epochs)
    compared = {float(x) for x in args.compare.split(",")} & papers.keys()
    for lmbda in sorted(compared) if args.random else ():
        print(f"lambda {lmbda:g}")
        against_random(list(zip(seeds, papers[lmbda], strict=True)), args.random, args.epochs)


if __name__ == "__main__":
    main()
