"""Accuracy at equal FLOPs without fine-tuning, beside Torch-Pruning, in one run: Fashion-MNIST made small.

The same network from the same seeds, all trained for the same epochs by the same SGD:

- dense, and cut by Torch-Pruning's magnitude importance over all layers in one step;
- with Torch-Pruning's group-sparsity regulariser (DepGraph, Fang et al., CVPR 2023), and cut by its group norms. Its
  strength is the one of `--regs` with the best validation accuracy after the cut, chosen anew for each cut;
- with our DHSPG at each target and lambda=auto, and cut at its zero groups.

Torch-Pruning cuts to the FLOPs of our network of the same seed and target, as near as whole channels allow. Every
accuracy is that of a network after it was cut, on the test part; latency is that of one image, the median of repeats.

    python -m tests.benchmarks.bench_pruning_accuracy --data-dir FOLDER [--seeds 3] [--epochs 12] [--network residual]
"""

from __future__ import annotations

import argparse
import copy
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fairsweep.search_spaces.costs import count_flops, measure_latency
from fairsweep.search_spaces.pruning import partition, slice_module
from fairsweep.search_spaces.pruning.dhspg import DHSPG
from fairsweep.trainables.tasks.small_images import Reduction, SmallImageTask
from fairsweep.trainables.tasks.training import cosine_factor
from fairsweep.trainables.vision._residual import small_residual

TARGETS = (0.5, 0.7)
LR, BATCH, WARMUP = 0.1, 64, 0.2  # WARMUP: share of the training before the penalty


def small_vgg(channels: int, classes: int) -> nn.Sequential:
    """Six convolutions of 16, 32 and 64 channels with batch normalisation, halved twice."""
    layers: list[nn.Module] = []
    last = channels
    for width, pool in ((16, False), (16, True), (32, False), (32, True), (64, False), (64, False)):
        layers += [nn.Conv2d(last, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if pool else []
        last = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, classes))


NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {"residual": small_residual, "vgg": small_vgg}


@dataclass(frozen=True)
class Experiment:
    data: SmallImageTask
    network: str
    epochs: int

    def train(self, seed: int, how: Callable[[nn.Module, Any], Any]) -> nn.Module:
        """A trained network. how: (network, SGD) -> what makes a step after the gradient is there."""
        torch.manual_seed(seed)
        net = NETWORKS[self.network](self.data.channels, self.data.classes)
        base = torch.optim.SGD(net.parameters(), LR, momentum=0.9, weight_decay=1e-4)
        step = how(net, base)
        for epoch in range(self.epochs):
            for group in base.param_groups:
                group["lr"] = LR * cosine_factor(epoch, self.epochs)
            net.train()
            for x, y in self.data.batches(BATCH):
                base.zero_grad()
                F.cross_entropy(net(x), y).backward()
                step(epoch)
        return net.eval()

    def flops(self, net: nn.Module) -> int:
        return count_flops(net, self.data.shape)

    def accuracy(self, net: nn.Module, part: str = "test") -> float:
        return self.data.evaluate(net, part)[1]

    @property
    def example(self) -> torch.Tensor:
        return torch.zeros(2, *self.data.shape)

    # -- ours ---------------------------------------------------------------------------------------------

    def ours(self, seed: int, target: float) -> tuple[nn.Module, float]:
        """The network after the cut, and the share of groups that were zero."""
        made: list[Any] = []

        def how(net: nn.Module, base: Any) -> Any:
            groups = partition(net, self.example)
            batches = -(-self.data.images // BATCH)
            start = round(WARMUP * self.epochs * batches)
            made[:] = [groups, DHSPG(base, net.named_parameters(), groups, target, start)]
            return lambda epoch: made[1].step()

        net = self.train(seed, how)
        return slice_module(net, made[0]).eval(), made[1].sparsity

    # -- Torch-Pruning ------------------------------------------------------------------------------------

    def pruner(self, net: nn.Module, ratio: float, kind: str, reg: float = 0.0) -> Any:
        import torch_pruning as tp

        last = [m for m in net.modules() if isinstance(m, nn.Linear)][-1:]
        common: dict[str, Any] = {
            "pruning_ratio": ratio, "global_pruning": True, "max_pruning_ratio": 0.95, "ignored_layers": last,
        }  # fmt: skip
        importance = tp.importance.GroupMagnitudeImportance(p=2)
        if kind == "group_norm":
            return tp.pruner.GroupNormPruner(net, self.example, importance, reg=reg, **common)
        return tp.pruner.BasePruner(net, self.example, importance, **common)

    def regularised(self, seed: int, reg: float) -> nn.Module:
        def how(net: nn.Module, base: Any) -> Any:
            pruner = self.pruner(net, 0.5, "group_norm", reg)
            pruner.update_regularizer()

            def step(epoch: int) -> None:
                if epoch >= WARMUP * self.epochs:
                    pruner.regularize(net)
                base.step()

            return step

        return self.train(seed, how)

    def cut(self, net: nn.Module, flops: int, kind: str) -> nn.Module:
        """`net` cut in one step to about `flops`: the ratio is found by halving intervals."""
        best, low, high = copy.deepcopy(net), 0.0, 0.95
        for _ in range(10):
            ratio = (low + high) / 2
            small = copy.deepcopy(net)
            self.pruner(small, ratio, kind).step()
            found = self.flops(small)
            if abs(found - flops) < abs(self.flops(best) - flops):
                best = small
            low, high = (ratio, high) if found > flops else (low, ratio)
        return best.eval()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--network", choices=list(NETWORKS), default="residual")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--side", type=int, default=14)
    parser.add_argument("--regs", type=float, nargs="+", default=[5e-4, 5e-3, 5e-2, 2e-1])
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    reduction = Reduction(options.side, options.images, 1500, 4000)
    data = SmallImageTask("fashion_mnist", options.data_dir, "cpu", "none", reduction)
    work = Experiment(data, options.network, options.epochs)
    rows: dict[tuple[str, str], list[tuple[float, float, float]]] = defaultdict(list)
    began = time.process_time()
    for seed in range(options.seeds):
        dense = work.train(seed, lambda net, base: lambda epoch: base.step())
        whole = work.flops(dense)
        sparse = [work.regularised(seed, reg) for reg in options.regs]

        def add(
            method: str,
            target: float | None,
            net: nn.Module,
            note: str = "",
            seed: int = seed,
            whole: int = whole,
        ) -> None:
            row = work.flops(net) / whole, work.accuracy(net), measure_latency(net, data.shape, repeats=200)
            rows[method, "" if target is None else f"{target:g}"].append(row)
            print(
                f"seed {seed}  {method:32} {target or '':4}  FLOPs {row[0]:6.1%}  accuracy {row[1]:6.1%}"
                f"  {row[2]:.3f} ms  {note}",
                flush=True,
            )

        add("dense", None, dense, f"{whole:,} multiply-accumulates")
        for target in TARGETS:
            mine, sparsity = work.ours(seed, target)
            flops = work.flops(mine)
            add("DHSPG", target, mine, f"group sparsity {sparsity:.3f}")
            add("Torch-Pruning magnitude", target, work.cut(dense, flops, "magnitude"))
            cuts = [work.cut(net, flops, "group_norm") for net in sparse]
            values = [work.accuracy(net, "validation") for net in cuts]
            k = values.index(max(values))
            add("Torch-Pruning group regulariser", target, cuts[k], f"reg {options.regs[k]:g}")
    print(f"\n{options.network}, {options.seeds} seeds, mean (standard deviation)")
    for (method, goal), found in rows.items():
        shares, accuracies, times = zip(*found, strict=True)
        spread = stdev(accuracies) if len(accuracies) > 1 else 0.0
        print(
            f"{method:32} {goal:4}  FLOPs {mean(shares):6.1%}  accuracy {mean(accuracies):6.1%} ({spread:.1%})"
            f"  {mean(times):.3f} ms"
        )
    print(f"{time.process_time() - began:.0f} s of processor time")


if __name__ == "__main__":
    main()
