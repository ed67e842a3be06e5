"""Paths scored per second: one call a path, paths that begin alike sharing what they compute, and a bare loop.

The bare loop holds the same layers in plain lists and knows nothing of architectures. All three score the same paths
on the same images with the same weights, interleaved round by round; scores are compared bit for bit. Seconds are the
processor's, one thread, so that other work on the machine does not count.

    python -m tests.benchmarks.bench_paths [--rounds 3] [--images 500] [--paper 243]
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence
from statistics import median

import torch
from torch import Tensor

from fairsweep.search_spaces.architectures import Architecture
from fairsweep.search_spaces.supernets import Supernet, build_supernet


def bare_chain(net: Supernet) -> Callable[[Tensor, tuple[int, ...]], Tensor]:
    """The chain without this package: modules in lists, a path as a tuple of numbers."""
    modules = dict(net.named_children())
    stem, head = modules["stem"], modules["head"]
    layers = [list(layer.children()) for layer in modules["layers"].children()]

    def run(x: Tensor, path: tuple[int, ...]) -> Tensor:
        x = stem(x)
        for layer, k in zip(layers, path, strict=True):
            x = layer[k](x)
        return head(x)

    return run


def measure(title: str, net: Supernet, paths: Sequence[Architecture], images: int, rounds: int) -> None:
    x = torch.randn(images, *net.input_shape, generator=torch.Generator().manual_seed(0))
    bare = bare_chain(net)
    ways: dict[str, Callable[[], list[Tensor]]] = {
        "bare loop": lambda: [bare(x, path.indices) for path in paths],
        "not shared": lambda: list(net.forward_paths(x, paths, share=False)),
        "shared": lambda: list(net.forward_paths(x, paths)),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    scores: dict[str, list[Tensor]] = {}
    with torch.inference_mode():
        bare(x, paths[0].indices)
        for _ in range(rounds):
            for name, way in ways.items():
                start = time.process_time()
                scores[name] = way()
                times[name].append(time.process_time() - start)
    same = all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*scores.values(), strict=True))
    print(f"{title}, {images} images, bit-identical: {same}")
    for name, seconds in times.items():
        ratio = median(b / s for b, s in zip(times["bare loop"], seconds, strict=True))
        print(f"  {name:11s} {len(paths) / median(seconds):8.1f} paths/s  {ratio:5.2f} x the bare loop")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument(
        "--paper", type=int, default=243, help="paths of the paper's chain, a run from the middle"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    net = build_supernet("chain")
    chosen = random.Random(0).sample(list(net.space.enumerate()), 200)
    measure("laptop chain, 200 random paths", net, chosen, given.images, given.rounds)
    measure("laptop chain, all 243 paths", net, list(net.space.enumerate()), given.images, given.rounds)
    net = build_supernet("chain", "paper")
    paths = list(net.space.enumerate())
    start = (len(paths) - given.paper) // 2  # the first ones are short: they begin with identities
    paths = paths[start : start + given.paper]
    title = f"paper's chain, {len(paths)} of 6,561 paths in order"
    measure(title, net, paths, max(2, given.images // 100), 1)


if __name__ == "__main__":
    main()
