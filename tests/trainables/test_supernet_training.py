"""Training a supernet: SPOS bit for bit, no stale gradients, equal indicators for one worker and for two."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from fairsweep.search_spaces.supernets import build_supernet
from fairsweep.search_spaces.supernets.base import Supernet
from fairsweep.trainables.tasks.data_sampling import ImportanceData, UniformData
from fairsweep.trainables.tasks.path_sampling import (
    FairPaths,
    ImportancePaths,
    PathRule,
    SandwichPaths,
    UniformPaths,
)
from fairsweep.trainables.tasks.small_images import Reduction, SmallImageTask
from fairsweep.trainables.tasks.supernet_training import GradientMoments, SupernetTraining
from fairsweep.trainables.tasks.workers import ProcessGroup, Workers, workers
from tests.trainables.toy_supernet import ToySupernet

torch.set_num_threads(1)


def task(train: int = 200) -> SmallImageTask:
    return SmallImageTask("digits", None, "cpu", reduction=Reduction(train=train, validation=200, test=100))


def training(
    net: Supernet, paths: PathRule | None = None, examples: UniformData | None = None, **given: Any
) -> SupernetTraining:
    optimiser = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9, weight_decay=2.5e-4)
    data = task()
    return SupernetTraining(
        net,
        optimiser,
        data,
        paths or UniformPaths(net),
        examples or UniformData(data.images),
        np.random.default_rng(0),
        **given,
    )


def weights(net: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


# ---- uniform sampling is SPOS ----


def test_uniform_training_is_spos_bit_for_bit() -> None:
    net, reference = (build_supernet("cell", input_shape=(1, 8, 8), classes=10, seed=4) for _ in range(2))
    torch.manual_seed(1)
    made = training(net)
    losses = [made.epoch(64)["train_loss"] for _ in range(2)]

    torch.manual_seed(1)
    data, rng = task(), np.random.default_rng(0)
    uniform = {c.name: [0.2] * 5 for c in reference.space.choices}
    optimiser = torch.optim.SGD(reference.parameters(), 0.05, momentum=0.9, weight_decay=2.5e-4)
    for _ in range(2):
        for x, y in data.batches(64):
            path = reference.space.sample(rng, uniform)
            optimiser.zero_grad()
            F.cross_entropy(reference(x, path), y).backward()
            nn.utils.clip_grad_norm_(reference.parameters(), 5.0)
            optimiser.step()
    assert torch.equal(weights(net), weights(reference))
    assert losses[1] < losses[0]


def test_importance_with_no_share_is_spos_in_paths_and_first_epoch() -> None:
    found = []
    for importance in (False, True):
        net = ToySupernet()
        torch.manual_seed(1)
        rules = (ImportancePaths(net), ImportanceData(200)) if importance else (None, None)
        training(net, *rules).epoch(50)
        found.append(weights(net))
    assert torch.equal(*found)


def test_reweighting_by_uniform_probabilities_changes_nothing() -> None:
    found = []
    for reweight in (False, True):
        net = ToySupernet(operations=("skip_connect", "nor_conv_1x1"))
        torch.manual_seed(1)
        training(net, ImportancePaths(net), ImportanceData(200), reweight=reweight).epoch(50)
        found.append(weights(net))
    torch.testing.assert_close(*found)


def test_reweighting_multiplies_each_loss() -> None:
    net = ToySupernet(operations=("skip_connect", "nor_conv_1x1"))
    paths, examples = ImportancePaths(net), ImportanceData(200)
    examples.probabilities = np.arange(1, 201) / np.arange(1, 201).sum()
    for name in paths.probabilities:
        paths.probabilities[name] = np.array([0.25, 0.75])
    made = training(net, paths, examples, reweight=True, clip=1e9)
    path, chosen = net.space.architecture((0, 1, 1)), torch.tensor([3, 50, 199])
    x, y = made.data.batch(chosen)
    made._sum([path], x, y, examples.weights(chosen), 1.0)
    got = [None if p.grad is None else p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    w = torch.tensor([1 / (200 * examples.probabilities[i]) for i in chosen], dtype=torch.float32)
    inverse = 1 / (8 * 0.25 * 0.75 * 0.75)
    ((w * F.cross_entropy(net(x, path), y, reduction="none")).mean() * inverse).backward()
    for g, p in zip(got, net.parameters(), strict=True):
        assert (g is None) == (p.grad is None)
        if g is not None and p.grad is not None:
            torch.testing.assert_close(g, p.grad)


# ---- gradients ----


def test_rules_see_the_gradients_of_the_path_alone_after_clipping() -> None:
    net = ToySupernet()
    made = training(net, clip=0.01)
    seen = []

    class Watching(UniformPaths):
        def after_backward(self, path: Any) -> None:
            there = {n: p.grad for n, p in net.named_parameters() if p.grad is not None}
            norm = torch.stack([g.norm() for g in there.values()]).norm().item()
            seen.append(set(there) <= set(net.path_parameters(path)) and norm <= 0.0101)

    made.paths = Watching(net)
    made.epoch(20)
    assert len(seen) == 10 and all(seen)


def test_moments_are_those_of_the_gradients() -> None:
    net = nn.Linear(3, 2)
    moments = GradientMoments(list(net.parameters()))
    assert moments.variance == 0
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(7, 8, generator=generator)
    for row in rows:
        net.weight.grad, net.bias.grad = row[:6].reshape(2, 3).clone(), row[6:].clone()
        moments.add()
    assert moments.variance == pytest.approx(rows.var(0).sum().item(), rel=1e-5)
    net.bias.grad = None
    moments.add()
    rows = torch.cat([rows, rows[-1:] * torch.tensor([1.0] * 6 + [0.0] * 2)])
    assert moments.variance == pytest.approx(rows.var(0).sum().item(), rel=1e-5)


def test_fair_update_is_the_sum_over_its_paths() -> None:
    net = ToySupernet()
    made = training(net, FairPaths(net))
    x, y = made.data.batch(torch.arange(30))
    paths = made.paths.sample_paths(made.rng)
    made._sum(paths, x, y, None, 1.0)
    got = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    assert len(got) == len(list(net.parameters())), "every option is on one of the paths"
    net.zero_grad()
    torch.stack([F.cross_entropy(net(x, p), y) for p in paths]).sum().backward()
    for g, p in zip(got, net.parameters(), strict=True):
        torch.testing.assert_close(g, p.grad)


def test_sandwich_teaches_with_the_largest_path() -> None:
    net = ToySupernet()
    made = training(net, SandwichPaths(net), update="distil")
    x, y = made.data.batch(torch.arange(30))
    paths = made.paths.sample_paths(made.rng)
    made._distil(paths, x, y, None, 1.0)
    got = [None if p.grad is None else p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    teacher = net(x, paths[0])
    soft = teacher.detach().softmax(1)
    loss = F.cross_entropy(teacher, y)
    for path in paths[1:]:
        loss = loss - (soft * net(x, path).log_softmax(1)).sum(1).mean()
    loss.backward()
    for g, p in zip(got, net.parameters(), strict=True):
        if g is not None:
            torch.testing.assert_close(g, p.grad)


def test_reptile_moves_by_the_mean_way_of_its_paths() -> None:
    net, alone = ToySupernet(), ToySupernet()
    made = training(net, FairPaths(net), update="reptile")
    x, y = made.data.batch(torch.arange(30))
    paths = made.paths.sample_paths(made.rng)
    start = weights(net)
    made._reptile(paths, x, y, None, 1.0)
    assert torch.equal(weights(net), start), "the optimiser moves, not the inner steps"
    ends = []
    for path in paths:
        alone.load_state_dict(net.state_dict())
        inner = torch.optim.SGD(alone.parameters(), lr=0.05, momentum=0.9)
        for _ in range(2):
            inner.zero_grad()
            F.cross_entropy(alone(x, path), y).backward()
            nn.utils.clip_grad_norm_(alone.parameters(), 5.0)
            inner.step()
        ends.append(weights(alone))
    found = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
    torch.testing.assert_close(start - found, torch.stack(ends).mean(0), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("update", ["sum", "distil", "reptile"])
def test_each_update_learns(update: str) -> None:
    net = ToySupernet()
    rule = {"sum": UniformPaths, "distil": SandwichPaths, "reptile": FairPaths}[update](net)
    made = training(net, rule, update=update)
    if update == "reptile":
        made.optimiser = torch.optim.SGD(net.parameters(), 1.0)
    torch.manual_seed(0)
    losses = [made.epoch(20)["train_loss"] for _ in range(12)]
    assert losses[-1] < 0.95 * losses[0]


def test_unknown_update_is_named() -> None:
    with pytest.raises(ValueError, match="update=mean: known are sum, distil, reptile"):
        training(ToySupernet(), update="mean")


# ---- data ----


def test_reduction_averages_pixels_and_keeps_a_stratified_part() -> None:
    full, small = (
        SmallImageTask("digits", None, "cpu"),
        SmallImageTask("digits", None, "cpu", reduction=Reduction(side=4, train=100, validation=50)),
    )
    assert {p: tuple(x.shape) for p, (x, _) in small.parts.items()} == {
        "train": (100, 1, 4, 4), "validation": (50, 1, 4, 4), "test": (600, 1, 4, 4)
    }  # fmt: skip
    assert torch.bincount(small.parts["train"][1]).tolist() == [10] * 10
    blocks = full.parts["test"][0].float().unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
    torch.testing.assert_close(small.parts["test"][0], blocks)
    x, _ = small.whole("train")
    assert x.mean().item() == pytest.approx(0, abs=1e-5) and x.std().item() == pytest.approx(1, abs=1e-2)


def test_named_sets_are_reduced_as_usual_or_as_asked() -> None:
    assert Reduction(train=7).over(Reduction(side=3, train=9)) == Reduction(side=3, train=7)
    with pytest.raises(ValueError, match="side=9: the images of digits have 8 pixels"):
        SmallImageTask("digits", None, "cpu", reduction=Reduction(side=9))
    with pytest.raises(ValueError, match="train=601: digits has 600 images"):
        SmallImageTask("digits", None, "cpu", reduction=Reduction(train=601))
    with pytest.raises(ValueError, match="side=-1: must be positive, or 0"):
        Reduction(side=-1)


@pytest.mark.slow
def test_cifar10_copy_at_16_pixels(data_dir: Path) -> None:
    pytest.importorskip("PIL")
    data = SmallImageTask("cifar10_16x16", data_dir, "cpu", reduction=Reduction(train=500))
    assert data.parts["train"][0].shape == (500, 3, 16, 16)
    assert data.parts["test"][0].shape == (5000, 3, 16, 16)
    assert data.augmentation == "crop_flip"


# ---- workers ----


def trained(group: Workers) -> dict[str, Any]:
    """Two epochs of path and data importance on a network without statistics of the batch."""
    net = ToySupernet()
    paths, examples = ImportancePaths(net), ImportanceData(200)
    torch.manual_seed(3)
    made = training(net, paths, examples, workers=group)
    for share in (0.5, 0.9):
        made.epoch(40, share, share)
    return {
        "p": paths.probabilities["edge_0_1"].tolist(),
        "q": examples.probabilities.tolist(),
        "weights": weights(net).tolist(),
    }


def _worker(rank: int, store: str, results: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    group = workers()
    assert isinstance(group, ProcessGroup) and (group.rank, group.size) == (rank, 2)
    results.put((rank, trained(group)))
    dist.destroy_process_group()


def test_two_workers_measure_what_one_does(tmp_path: Path) -> None:
    alone = workers()
    assert type(alone) is Workers
    expected = trained(alone)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_worker, args=(r, str(tmp_path / "store"), results)) for r in (0, 1)]
    for process in processes:
        process.start()
    found = dict(results.get(timeout=120) for _ in processes)
    for process in processes:
        process.join(timeout=30)
        assert process.exitcode == 0
    for name in ("p", "q", "weights"):
        assert found[0][name] == found[1][name], f"{name}: both workers go the same way"
        assert found[0][name] == pytest.approx(expected[name], abs=1e-5)
    assert np.std(expected["q"]) > 1e-4 and np.std(expected["p"]) > 0.01
