"""The side of `bench_oto_package` that runs with only-train-once, under the PyTorch that it was written for.

Takes a job as JSON, its only argument, and prints a line of JSON for each answer. Weights and inputs come in a file, so
that both sides look at the same network, and of fairsweep only the networks' own code is imported here.
"""

from __future__ import annotations

import contextlib
import copy
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

TIMED = ("ResNet-50", "ViT-B")


def names() -> tuple[list[str], list[str]]:
    """The architectures on which slicing is promised to be exact, and the other small networks of the tests."""
    from tests.search_spaces.pruning.networks import NETWORKS
    from tests.search_spaces.pruning.twelve import TWELVE

    return list(TWELVE), [name for name in NETWORKS if name not in TWELVE]


def build(name: str, wide: int = 1) -> tuple[nn.Module, Tensor]:
    """A network and inputs; `wide` divides the widths of those that are timed."""
    from tests.search_spaces.pruning.networks import NETWORKS, ResNet, ViT
    from tests.search_spaces.pruning.twelve import TWELVE

    if name in TIMED:
        resnet = name == TIMED[0]
        net = ResNet(64 // wide, (3, 4, 6, 3), True) if resnet else ViT(768 // wide, 12, 12, 16, 64)
        return net, torch.randn(2, 3, 64, 64)
    make, inputs = TWELVE[name] if name in TWELVE else (NETWORKS[name].small, NETWORKS[name].inputs)
    return make(), inputs()


def size(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@torch.no_grad()
def compare(full: nn.Module, small: nn.Module, x: Tensor) -> dict[str, Any]:
    """Largest difference of the outputs, also as a share of the largest output, and the share of parameters gone."""
    a, b = full.eval()(x), small.eval()(x)
    if a.shape != b.shape or not bool(a.isfinite().all()):
        raise ValueError(f"outputs {tuple(a.shape)} and {tuple(b.shape)}, or not finite")
    absolute = float((a - b).abs().max())
    relative = absolute / max(float(a.abs().max()), 1e-30)
    return {"absolute": absolute, "relative": relative, "gone": 1 - size(small) / size(full)}


def exact(found: dict[str, Any]) -> bool:
    """Whether a result of `compare` counts as the same function."""
    return bool(found["absolute"] <= 1e-5 or found["relative"] <= 1e-4)


def worst(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Over all subsets; `gone` is the largest share, since a subset may be empty by chance."""
    return {key: max(r[key] for r in results) for key in ("absolute", "relative", "gone")}


def first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def seconds(functions: Sequence[Callable[[], Any]]) -> float:
    """Median of CPU time."""
    times = []
    for function in functions:
        began = time.process_time()
        function()
        times.append(time.process_time() - began)
    return median(times)


# ---- with only-train-once ----


def prunable(oto: Any) -> list[Any]:
    return [g for g in oto._graph.node_groups.values() if g.is_prunable and not g.is_auxiliary]


def mark(oto: Any, bad: set[str]) -> Any:
    """Groups that stay, as its sanity checks mark them."""
    for group in prunable(oto):
        group.is_prunable = group.id not in bad
    return oto


def check(oto: Any, x: Tensor, seed: int, sparsity: float | None = None) -> dict[str, Any]:
    """Its sanity check: random groups at zero, and what it saves with and without them."""
    np.random.seed(seed)
    oto.random_set_zero_groups(target_group_sparsity=sparsity)
    with tempfile.TemporaryDirectory() as folder:
        oto.construct_subnet(out_dir=folder)
        full, small = (
            torch.load(p, weights_only=False)
            for p in (oto.full_group_sparse_model_path, oto.compressed_model_path)
        )
    return compare(full, small, x)


@contextlib.contextmanager
def answering(kind: str, say: Callable[..., None]) -> Iterator[dict[str, Any]]:
    """Says what is put into the answer, or what went wrong."""
    answer: dict[str, Any] = {}
    try:
        yield answer
    except Exception as error:  # it may raise anything; the table says what
        answer["error"] = first_line(error)
    say(kind=kind, **answer)


def fine(oto: Any, x: Tensor) -> bool:
    """Whether the groups that may go do so without a change of the function, few and many of them."""
    try:
        return all(exact(check(copy.deepcopy(oto), x, 0, share)) for share in (0.3, 0.5, 0.7))
    except Exception:
        return False


def fails_alone(oto: Any, x: Tensor) -> set[str]:
    """Node groups that do not pass the sanity check although no other one may go."""
    ids = [g.id for g in prunable(oto)]
    return {i for i in ids if not fine(mark(copy.deepcopy(oto), {*ids} - {i}), x)}


def correct(oto: Callable[[], Any], x: Tensor, seeds: list[int], say: Callable[..., None]) -> None:
    """Its sanity check as it comes, and if that fails, with the groups marked that do not pass it alone."""
    with answering("plain", say) as answer:
        answer["groups"] = sum(g.get_num_groups() for g in prunable(oto()))
        answer |= worst([check(oto(), x, seed) for seed in seeds])
        if exact(answer):
            return
    with answering("marked", say) as answer:
        built = oto()  # copied from here on: another one may name its groups otherwise
        bad = fails_alone(built, x)
        left = [g for g in prunable(built) if g.id not in bad]
        answer["groups"] = sum(g.get_num_groups() for g in left)
        answer |= worst([check(mark(copy.deepcopy(built), bad), x, seed) for seed in seeds])


def speed(oto: Callable[[], Any], x: Tensor, repeats: int, say: Callable[..., None]) -> None:
    """CPU seconds to build a graph, and to construct and save what is left with half of each group at zero."""
    with answering("build", say) as answer:
        answer["seconds"] = seconds([oto] * repeats)
    with answering("construct", say) as answer, tempfile.TemporaryDirectory() as folder:
        built = oto()
        bad = set() if fine(built, x) else fails_alone(built, x)
        answer["groups"] = sum(g.get_num_groups() for g in prunable(built) if g.id not in bad)
        ready = [mark(copy.deepcopy(built), bad) for _ in range(repeats)]
        for copied in ready:
            copied.random_set_zero_groups(target_group_sparsity=0.5)
        calls = [
            partial(o.construct_subnet, out_dir=folder, save_full_group_sparse_model=False) for o in ready
        ]
        answer["seconds"] = seconds(calls)


def modes(package: Callable[..., Any], net: nn.Module, x: Tensor, say: Callable[..., None]) -> None:
    """What of its modes and optimisers runs, three steps on a squared output; on a GPU if there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net, x = net.to(device), x.to(device)
    oto = partial(package, model=net, dummy_input=x)

    def steps(name: str, **settings: Any) -> None:
        optimizer = getattr(oto(), name)(**settings)
        for _ in range(3):
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()

    calls: dict[str, Callable[[], Any]] = {
        "mode erase": lambda: oto(compress_mode="erase"),
        "h2spg()": lambda: steps("h2spg"),
        "dhspg()": lambda: steps("dhspg", device=device),
        "hesso()": lambda: steps("hesso"),
    }
    for name, call in calls.items():
        with answering(name, say):
            call()


def main() -> None:
    job = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")

    def say(**answer: Any) -> None:
        print(json.dumps(answer), file=sys.__stdout__, flush=True)

    with contextlib.redirect_stdout(sys.stderr):  # the package prints
        try:
            from only_train_once import OTO

            stored = torch.load(job["file"], weights_only=False)
            net, _ = build(job["name"], job["wide"])
            net.load_state_dict(stored["state"])
        except Exception as error:
            return say(kind="load", error=first_line(error))
        x = stored["x"]

        def fresh() -> Any:
            return OTO(model=copy.deepcopy(net).eval(), dummy_input=x)

        if job["task"] == "modes":
            modes(OTO, net, x, say)
        elif job["task"] == "speed":
            speed(partial(OTO, model=net.eval(), dummy_input=x), x, job["repeats"], say)
        else:
            correct(fresh, x, job["seeds"], say)
    return None


if __name__ == "__main__":
    main()
