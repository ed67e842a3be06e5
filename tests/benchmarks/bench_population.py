"""Does population based training pay? Beside random search, ASHA and Hyperband with the same number of training steps.

Two tasks whose learning rate should fall in training: `noise`, the expected loss of stochastic gradient descent
on quadratic bowls with noisy gradients (exact, no data), and `digits`, a perceptron on scikit-learn's digits. Each rule
runs in the conductor of real sweeps with one place and random draws, until it has spent as many steps as that many
members take; no rule has a schedule of its own. Reported: the loss at the end of the best trial that was complete, as a
ratio to that of random search: geometric mean over seeds with its 95 % interval; below 1 the rule is better.

    python -m tests.benchmarks.bench_population [--members 12] [--seeds 10] [--tasks noise,digits] [--rules pbt,asha]
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.benchmarks.bench_early_stopping import LR, Unwritten, number

LENGTH = 27  # steps of a whole trial; with eta = 3 the rungs are 1, 3 and 9
INTERVAL = 3  # of pbt: eight generations


class Noise:
    """Quadratic bowls of curvature 0.01 to 1 with gradient noise; a step is 40 updates."""

    declared = {"lr": LR, "momentum": number(0.0, 0.95)}

    def __init__(self, config: Mapping[str, Any], seed: int) -> None:
        self.curvature = np.geomspace(0.01, 1.0, 20)
        rng = np.random.default_rng(seed)
        self.error = rng.exponential(1.0, 20)  # expected squares of the distance to the optimum
        self.noise = rng.exponential(1.0, 20)
        self.set(config)

    def set(self, config: Mapping[str, Any]) -> None:
        # Momentum in the usual approximation: a learning rate that is 1 / (1 - momentum) times as large.
        self.lr = min(config["lr"] / (1 - config["momentum"]), 1.9)

    def step(self) -> float:
        for _ in range(40):
            shrunk = (1 - self.lr * self.curvature) ** 2
            self.error = shrunk * self.error + self.lr**2 * self.curvature**2 * self.noise
        return float((self.curvature * self.error).mean())


class Digits:
    """A perceptron of 32 hidden units on 600 digits, by SGD; the loss is that of 600 others. A step is an epoch."""

    declared = {
        "lr": LR, "momentum": number(0.0, 0.95), "decay": number(1e-6, 1e-1, log=True),
    }  # fmt: skip

    def __init__(self, config: Mapping[str, Any], seed: int) -> None:
        import torch
        from sklearn.datasets import load_digits

        data = load_digits()
        order = np.random.default_rng(seed).permutation(len(data.target))
        self.x = torch.tensor(data.data[order] / 16.0, dtype=torch.float32)
        self.y = torch.tensor(data.target[order])
        self.generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        self.net = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
        self.optimiser = torch.optim.SGD(self.net.parameters(), lr=0.1, momentum=0.9)
        self.set(config)

    def set(self, config: Mapping[str, Any]) -> None:
        for group in self.optimiser.param_groups:
            group.update(lr=config["lr"], momentum=config["momentum"], weight_decay=config["decay"])

    def step(self) -> float:
        import torch

        for batch in torch.randperm(600, generator=self.generator).split(60):
            self.optimiser.zero_grad()
            torch.nn.functional.cross_entropy(self.net(self.x[batch]), self.y[batch]).backward()
            self.optimiser.step()
        with torch.no_grad():
            loss = torch.nn.functional.cross_entropy(self.net(self.x[600:1200]), self.y[600:1200]).item()
        return loss if np.isfinite(loss) else 1e9


TASKS: dict[str, Any] = {"noise": Noise, "digits": Digits}


class Models:
    """What trials have come to, in the place of their checkpoints."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[int, Any]] = {}

    def copy(self, source: str, target: str, step: int) -> bool:
        at, model = self.kept[source]
        self.kept[target] = (at, copy.deepcopy(model))
        return at == step


def sweep(rule: str, task: str, members: int, seed: int) -> tuple[float, int]:
    """(loss at the end of the best trial that is complete, steps that were spent)."""
    from fairsweep.cluster.engine.breeding import Breeder
    from fairsweep.cluster.engine.conductor import Conductor, Rules
    from fairsweep.search_spaces.algorithms import create_scheduler, create_search
    from fairsweep.search_spaces.space import Space

    kind = TASKS[task]
    space = Space.from_mapping(kind.declared, source=task)
    early = "none" if rule == "random" else rule
    rules = Rules(
        "loss", "min", members if rule in ("random", "pbt") else None, (0,), 1,
        fidelity=lambda config: (1, LENGTH),
    )  # fmt: skip
    options = {"interval": INTERVAL} if rule == "pbt" else {}
    scheduler = create_scheduler(early, "min", 1, LENGTH, space, seed, **options)
    writer, models = Unwritten(), Models()
    conductor = Conductor(rules, space, create_search("random", space, "min", seed), scheduler, writer)  # type: ignore[arg-type]
    if rule == "pbt":
        conductor.nursery = Breeder(conductor, models)  # type: ignore[arg-type]
    spent, best = 0, float("inf")
    while (leg := conductor.next_leg()) is not None:
        _, model = models.kept.get(leg.trial, (0, None))
        model = kind(leg.config, seed) if model is None else model
        model.set(leg.config)
        for step in range(leg.done + 1, leg.maximum + 1):
            if spent == members * LENGTH:
                return best, spent
            spent += 1
            loss = model.step()
            row = {"step": step, "wall_s": 0.0, "time": 0.0, "metrics": {"loss": loss}}
            models.kept[leg.trial] = (step, model)
            done = step == leg.maximum
            best = min(best, loss) if done else best
            if not conductor.report(leg.trial, {"rows": [row], "status": "complete" if done else "running"}):
                break
    return best, spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--rules", default="pbt,asha,hyperband")
    args = parser.parse_args()
    import torch
    from scipy import stats

    torch.set_num_threads(1)
    print(
        f"{args.members} x {LENGTH} steps, {args.seeds} seeds: loss of the best beside that of random search"
    )
    for task in args.tasks.split(","):
        base = [sweep("random", task, args.members, seed) for seed in range(args.seeds)]
        print(f"{task:7} random     1      loss {np.median([loss for loss, _ in base]):.4g} (median)")
        for rule in args.rules.split(","):
            began = time.process_time()
            found = [sweep(rule, task, args.members, seed) for seed in range(args.seeds)]
            logs = np.log([a / b for (a, _), (b, _) in zip(found, base, strict=True)])
            half = stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / len(logs) ** 0.5
            low, mean, high = np.exp([logs.mean() - half, logs.mean(), logs.mean() + half])
            steps = np.mean([spent for _, spent in found])
            print(
                f"{task:7} {rule:10} {mean:.3f} [{low:.3f}, {high:.3f}]  loss {np.median([x for x, _ in found]):.4g},"
                f" {steps:.0f} steps, {time.process_time() - began:.1f} s"
            )


if __name__ == "__main__":
    main()
