"""What a step of DHSPG costs beside a step of its base optimiser: python -m tests.benchmarks.bench_dhspg.

ResNet-18 for CIFAR, momentum SGD, one thread; gradients are there, so that only the steps are timed. Three rounds, the
two side by side in each, and the median of each.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch

from fairsweep.search_spaces.pruning.dhspg import DHSPG
from fairsweep.trainables.vision._residual import resnet18
from fairsweep.trainables.vision.oto_v2 import groups_of


def timed(step: Callable[[], object], calls: int = 5) -> float:
    """Median seconds of CPU time of `calls` calls."""
    taken = []
    for _ in range(calls):
        start = time.process_time()
        step()
        taken.append(time.process_time() - start)
    return median(taken)


def main() -> None:
    torch.set_num_threads(1)
    groups = groups_of("resnet18", 3, 32, 10)
    net = resnet18(3, 10)
    generator = torch.Generator().manual_seed(0)
    for p in net.parameters():
        p.grad = 1e-3 * torch.randn(p.shape, generator=generator)
    plain = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9)
    arms: dict[str, Callable[[], object]] = {"SGD": plain.step}
    for name, options in (
        ("DHSPG, before the target", {"half_space": False}),
        ("DHSPG, target reached", {"lmbda": 1e9, "lambda_adjust": False}),
    ):
        base = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9)
        optim = DHSPG(base, net.named_parameters(), groups, 0.7, 0, **options)  # type: ignore[arg-type]
        optim.step()
        arms[name] = optim.step
    rounds = [{name: timed(step) for name, step in arms.items()} for _ in range(3)]
    for name in arms:
        seconds = median(r[name] for r in rounds)
        ratio = median(r[name] / r["SGD"] for r in rounds)
        print(f"{name:28} {1e3 * seconds:8.1f} ms   {ratio:5.2f} x SGD")


if __name__ == "__main__":
    main()
