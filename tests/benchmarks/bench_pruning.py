"""Pruning beside Torch-Pruning, in one run: which networks each handles, and the time to build a graph and to slice.

A network is handled if, for every one of `--subsets` random subsets, what is left computes what the full network
computes with the removed channels at zero. Torch-Pruning cuts what its own `BasePruner` chooses at random, half of each
layer and whole heads; in the full network the rows of the producing layers that it names are zero. It does not promise
that nothing changes (it cuts through layer norms, and sigmoids of zero are not zero): "another function" says that
it runs and needs training to make good for it, "fails" that it does not run.

    python -m tests.benchmarks.bench_pruning [--subsets 3] [--repeats 3] [--full]

`--full` times ResNet-50 and ViT-B/16 as such; without it, networks of a quarter of their widths. Examples are two
images of 64 pixels a side, and of 224 as these networks are made for: a peer that runs the network to see what it does
pays for them, a trace of shapes does not.
"""

from __future__ import annotations

import argparse
import copy
import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from fairsweep.search_spaces.pruning import partition, slice_module
from fairsweep.search_spaces.pruning.trace import trace
from tests.search_spaces.pruning.helpers import difference, disturb, zeroed
from tests.search_spaces.pruning.networks import NETWORKS, ResNet, ViT


def ours(net: nn.Module, x: Tensor, seed: int) -> float:
    """Largest difference for a random subset."""
    found = partition(net, x)
    full, _ = zeroed(net, found, seed)
    return difference(full, slice_module(full, found), x)


def theirs(net: nn.Module, x: Tensor, seed: int) -> float:
    """The same for Torch-Pruning, a layer at a time."""
    import torch_pruning as tp

    torch.manual_seed(seed)
    full, small = copy.deepcopy(net), copy.deepcopy(net)
    outputs = [m for m in small.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1:]
    pruner = tp.pruner.BasePruner(
        small, x, importance=tp.importance.RandomImportance(), pruning_ratio=0.5, ignored_layers=outputs,
        num_heads=heads(small), prune_num_heads=True,
    )  # fmt: skip
    names = {module: name for name, module in small.named_modules()}
    parts = dict(full.named_modules())
    cut = 0
    places = {name: list(range(rows(m))) for name, m in parts.items() if rows(m)}
    for group in pruner.step(interactive=True):
        chosen: list[tuple[str, list[int]]] = []
        for dependency, indices in group:
            name = names.get(dependency.target.module)
            if name in places and "out_channels" in dependency.handler.__name__:
                chosen.append((name, list(indices)))
        group.prune()
        for name, indices in chosen:
            gone = set(indices)
            zero(parts[name], [p for i, p in enumerate(places[name]) if i in gone])
            places[name] = [p for i, p in enumerate(places[name]) if i not in gone]
            cut += len(gone)
    for module in small.modules():
        if hasattr(module, "qkv"):
            module.heads = module.qkv.out_features // (3 * module.size)
    if not cut:
        raise RuntimeError("nothing was cut")
    return difference(full, small.eval(), x)


def heads(net: nn.Module) -> dict[nn.Module, int]:
    """What Torch-Pruning must be told of attention: the joint projections and their heads."""
    found = {m.qkv: m.heads for m in net.modules() if hasattr(m, "qkv") and hasattr(m, "heads")}
    return found | {m: m.num_heads for m in net.modules() if isinstance(m, nn.MultiheadAttention)}


def rows(module: nn.Module) -> int:
    """Output channels of a layer with weights of its own."""
    weight = getattr(module, "weight", None)
    transposed = isinstance(module, nn.ConvTranspose2d)
    return weight.shape[1 if transposed else 0] if isinstance(weight, Tensor) and weight.dim() else 0


def zero(module: nn.Module, places: list[int]) -> None:
    with torch.no_grad():
        weight: Any = module.weight
        (weight.movedim(1, 0) if isinstance(module, nn.ConvTranspose2d) else weight)[places] = 0
        bias: Any = getattr(module, "bias", None)
        if isinstance(bias, Tensor):
            bias[places] = 0


def verdict(function: Callable[[nn.Module, Tensor, int], float], name: str, subsets: int) -> str:
    """The largest difference, or what went wrong."""
    worst = 0.0
    for seed in range(subsets):
        torch.manual_seed(seed)
        case = NETWORKS[name]
        x = case.inputs()
        net = disturb(case.small(), x, seed)
        try:
            worst = max(worst, function(net, x, seed))
        except Exception as error:  # a peer may raise anything; the table says what
            return f"fails: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:70]}"
    return f"{'correct' if worst <= 1e-4 else 'another function'}: {worst:.1e}"


def beside(repeats: int, *functions: Callable[[], Any]) -> list[float]:
    """Medians of CPU time, of runs in turn: what else a machine does is then shared by all."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        for own, function in zip(times, functions, strict=True):
            began = time.process_time()
            function()
            own.append(time.process_time() - began)
    return [median(own) for own in times]


def passes(net: nn.Module, function: Callable[[], Any]) -> list[int]:
    """How many forward passes `function` makes of `net` or of modules that are copied from it, each as examples."""
    counted: list[int] = []
    # Copies of a module have its hooks as well.
    handle = net.register_forward_pre_hook(lambda module, args: counted.append(len(args[0])))
    try:
        function()
    finally:
        handle.remove()
    return counted


def speed(name: str, net: nn.Module, x: Tensor, repeats: int) -> None:
    """Prints CPU seconds of both, and ratios; then what the proof takes, in forward passes."""
    import torch_pruning as tp

    net.eval()
    found = partition(net, x)
    full, kept = zeroed(net, found, 0)

    def pruner(module: nn.Module) -> Any:
        return tp.pruner.BasePruner(
            module, x, importance=tp.importance.RandomImportance(), pruning_ratio=0.5,
            ignored_layers=[m for m in module.modules() if isinstance(m, nn.Linear)][-1:],
            num_heads=heads(module), prune_num_heads=True,
        )  # fmt: skip

    @torch.no_grad()
    def forward() -> None:
        full(x)

    pruner(net)  # what is made once is ready, as for ours
    build, other, export = beside(
        repeats, lambda: partition(net, x), lambda: pruner(net), lambda: trace(net, x)
    )
    copies = [pruner(copy.deepcopy(net)) for _ in range(repeats)]
    bare, cut, checked, passing = beside(
        repeats,
        lambda: slice_module(full, found, kept, "module", check=False),
        lambda: copies.pop().step(),
        lambda: slice_module(full, found),
        forward,
    )
    for what, a, b in (
        ("graph", build, other),
        ("slice", bare, cut),
        ("both", build + bare, other + cut),
    ):
        print(f"{name:16} {what:6} ours {a:7.3f} s   Torch-Pruning {b:7.3f} s   ratio {a / b:5.2f}")
    print(f"{name:16} of the graph, torch.export alone is {export:.3f} s")
    counted = passes(full, lambda: slice_module(full, found))
    proof = checked - bare
    print(
        f"{name:16} the proof: {proof:.3f} s, {proof / passing:.2f} forward passes of {passing:.3f} s;"
        f" it made {len(counted)}, of {', '.join(map(str, counted))} examples where one has {len(x)}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--subsets", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", choices=["correct", "speed"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if options.only != "speed":
        count = {"ours": 0, "theirs": 0}
        for name in NETWORKS:
            a, b = (verdict(f, name, options.subsets) for f in (ours, theirs))
            count["ours"] += a.startswith("correct")
            count["theirs"] += b.startswith("correct")
            print(f"{name:14} ours {a:20} Torch-Pruning {b}", flush=True)
        print(f"correct: ours {count['ours']}, Torch-Pruning {count['theirs']} of {len(NETWORKS)}")
    if options.only != "correct":
        wide = 1 if options.full else 4
        resnet = ResNet(64 // wide, (3, 4, 6, 3), True)
        for side in (64, 224):
            x = torch.randn(2, 3, side, side)
            speed(f"ResNet-50, {side}", resnet, x, options.repeats)
            speed(f"ViT-B, {side}", ViT(768 // wide, 12, 12, 16, side), x, options.repeats)


if __name__ == "__main__":
    main()
