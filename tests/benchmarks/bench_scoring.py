"""Paths scored per second on Ray, against one Tune trial a path and against bare PyTorch; memory of the workers.

All in one run on the same machine, over `--supernet` at laptop size and the validation part of the digits:

1. `fairsweep nas`: batches of paths in jobs on warm workers, weights read from the object store;
2. stock Ray Tune: one function trial a path, which gets the weights from the object store and builds the supernet;
3. bare PyTorch: as many processes as there are cores, each with the supernet in memory and a loop over its paths;
4. all paths of the chain, with and without prefix sharing, in one process: are the scores the same, bit for bit?
5. private memory of two workers before and after they have got a supernet of 200 MB.

    python -m tests.benchmarks.bench_scoring [--supernet cell] [--paths 2000] [--trials 30] [--layers 5]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from typing import Any

import numpy as np


def through_fairsweep(kind: str, paths: int, share: bool, batch: int) -> float:
    """Paths a second between the first and the last report of the scoring phase."""
    from fairsweep.analysis.store import Store
    from fairsweep.cluster.jobs.nas import config as nas_config
    from fairsweep.cluster.jobs.nas import search as nas

    with tempfile.TemporaryDirectory() as storage:
        words = {
            "algorithm": "random", "supernet": kind, "storage": storage, "name": "s",
            "train.steps": 1, "train.config.measured_paths": 2, "search.evaluations": paths, "search.batch": batch,
            "search.share": str(share).lower(), "retrain.top": 0, "budget.report_seconds": 1,
        }  # fmt: skip
        settings = nas_config.load([f"{key}={value}" for key, value in words.items()])
        nas.run(settings)
        store = Store(storage)
        phases = {t["trial"]: t["config.phase"] for t in store.table("trials", "s").to_pylist()}
        times = sorted(
            row["time"].timestamp()
            for row in store.table("results", "s").to_pylist()
            if phases[row["trial"]] == "score"
        )
        assert len(times) == paths
        return (paths - 1) / (times[-1] - times[0])


def _prepared(kind: str) -> tuple[Any, Any, Any]:
    import torch

    from fairsweep.search_spaces.supernets import build_supernet
    from fairsweep.trainables.tasks.small_images import SmallImageTask

    torch.set_num_threads(1)
    data = SmallImageTask("digits", None, "cpu", "none")
    net = build_supernet(kind, input_shape=data.shape, classes=data.classes)
    return net.eval().requires_grad_(False), *data.whole("validation")


def one_trial_a_path(kind: str, trials: int) -> float:
    """Paths a second with a stock function trial for each."""
    import ray
    from ray import tune

    net, _, _ = _prepared(kind)
    ref = ray.put({name: value.numpy() for name, value in net.state_dict().items()})

    def trial(config: dict[str, Any]) -> dict[str, float]:
        scored, x, y = _prepared(kind)
        scored.load_arrays({k: v.copy() for k, v in ray.get(ref).items()})
        path = scored.space.sample(config["seed"])
        return {"accuracy": float((scored(x, path).argmax(1) == y).float().mean())}

    with tempfile.TemporaryDirectory() as folder:
        tuner = tune.Tuner(
            trial,
            param_space={"seed": tune.grid_search(list(range(trials)))},
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        )
        began = time.perf_counter()
        results = tuner.fit()
        assert len(results) == trials and results.num_errors == 0
        return trials / (time.perf_counter() - began)


def _loop(job: tuple[str, int, int]) -> tuple[float, float]:
    kind, first, count = job
    net, x, y = _prepared(kind)
    paths = [net.space.sample(first + k) for k in range(count)]
    for path in paths[:5]:
        net(x, path)
    began = time.time()
    for path in paths:
        (net(x, path).argmax(1) == y).float().mean().item()
    return began, time.time()


def bare_pytorch(kind: str, paths: int, processes: int) -> float:
    """Paths a second of plain loops in `processes` processes."""
    share = paths // processes
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        found = pool.map(_loop, [(kind, k * share, share) for k in range(processes)], chunksize=1)
    return sum(share / (end - began) for began, end in found)


def exhaustive(layers: int) -> tuple[float, float, bool]:
    """Seconds for all 3^layers paths of a chain, without and with sharing; whether all scores are the same."""
    import torch

    from fairsweep.search_spaces.supernets import build_supernet
    from fairsweep.trainables.tasks.path_scoring import path_scores
    from fairsweep.trainables.tasks.small_images import SmallImageTask

    torch.set_num_threads(1)
    data = SmallImageTask("digits", None, "cpu", "none")
    x, y = data.whole("validation")
    stages = [2, 3, layers - 5] if layers > 5 else [2, layers - 2]
    net = build_supernet("chain", layers=layers, stages=stages, input_shape=data.shape, classes=data.classes)
    net.eval().requires_grad_(False)
    paths = list(net.space.enumerate())
    seconds, scores = [], []
    for share in (False, True):
        began = time.perf_counter()
        scores.append(list(path_scores(net, paths, x, y, len(y), share)))
        seconds.append(time.perf_counter() - began)
    return seconds[0], seconds[1], scores[0] == scores[1]


def memory(megabytes: int) -> list[tuple[float, float]]:
    """Private memory (USS, MB) of two workers before and after each holds the weights and has read all of them."""
    import ray

    @ray.remote(num_cpus=1)
    class Worker:
        def __init__(self) -> None:
            import torch  # noqa: F401  # it is in memory before the first measurement

        def private(self) -> float:
            import psutil

            return psutil.Process(os.getpid()).memory_full_info().uss / 2**20

        def read(self, refs: list[Any]) -> float:
            import torch

            arrays = ray.get(refs[0])
            self.tensors = [torch.from_numpy(a) for a in arrays.values()]
            sum(float(t.sum()) for t in self.tensors)
            return self.private()

    count = megabytes * 2**20 // 4 // 50
    ref = ray.put({f"w{k}": np.random.default_rng(k).standard_normal(count, np.float32) for k in range(50)})
    workers = [Worker.remote() for _ in range(2)]
    before = ray.get([w.private.remote() for w in workers])
    after = ray.get([w.read.remote([ref]) for w in workers])
    return list(zip(before, after, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--supernet", default="cell", choices=["cell", "mbconv", "nasnet"])
    parser.add_argument("--paths", type=int, default=2000)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--layers", type=int, default=5, help="of the chain that is scored exhaustively")
    args = parser.parse_args()
    from fairsweep.cluster.engine.local import connected

    with connected({"cpus": None, "address": None}):
        import ray

        processes = int(ray.cluster_resources()["CPU"])
        stock = one_trial_a_path(args.supernet, args.trials)
        ours = {
            share: through_fairsweep(args.supernet, args.paths, share, args.paths // 8)
            for share in (False, True)
        }
        bare = bare_pytorch(args.supernet, args.paths, processes)
        held = memory(200)
    alone, shared, same = exhaustive(args.layers)
    answer = {
        "paths_per_second": {
            "one Tune trial a path": stock,
            "bare PyTorch": bare,
            "fairsweep": ours[False],
            "fairsweep, prefixes shared": ours[True],
        },
        "against_one_trial_a_path": ours[True] / stock,
        "against_bare_without_sharing": ours[False] / bare,
        "exhaustive_speedup": alone / shared,
        "scores_identical": same,
        "private_MB_before_after_200MB": held,
    }
    print(json.dumps(answer, indent=2))


if __name__ == "__main__":
    main()
