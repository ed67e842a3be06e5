"""The methods that DHSPG is compared with, and the choice that several workers share."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD

from fairsweep.search_spaces.pruning.dhspg import DHSPG, HSPG, ProxSGD, prune_smallest
from fairsweep.search_spaces.pruning.groups import Component, Member, Partition
from tests.search_spaces.pruning.digits_cnn import made, partition, train

torch.set_num_threads(1)


def single(method: Any, x: list[list[float]], lr: float = 0.1, **options: Any) -> tuple[nn.Parameter, Any]:
    w = nn.Parameter(torch.tensor(x))
    groups = Partition((Component("c", len(x), (Member("w", 0, torch.arange(len(x))[:, None]),)),))
    return w, method(SGD([w], lr=lr), [("w", w)], groups, **options)


def test_hspg_penalises_every_group_with_the_same_lambda() -> None:
    w, optim = single(HSPG, [[3.0, 4.0], [-30.0, 40.0], [0.0, 1.0]], start=0, lmbda=2.0)
    w.grad = torch.zeros_like(w)
    optim.step()
    # By .2 each; the last one loses a fifth of its norm and is projected.
    torch.testing.assert_close(w.detach(), torch.tensor([[2.88, 3.84], [-29.88, 39.84], [0.0, 0.0]]))
    assert optim.zero.tolist() == [False, False, True] and optim.redundant.all()


def test_hspg_does_not_stop_at_a_target_and_keeps_the_largest_group() -> None:
    net = made()
    optim = HSPG(SGD(net.parameters(), lr=0.05), net.named_parameters(), partition(net), 2, lmbda=10.0)
    train(net, optim, range(12))
    assert optim.sparsity == (optim.numbers - 4) / optim.numbers
    assert all(len(k) == 1 for k in optim.kept().values())
    w, optim = single(HSPG, [[1.0], [3.0], [2.0]], start=0, lmbda=100.0)
    w.grad = torch.full_like(w, 0.5)
    optim.step()
    assert w.flatten().tolist() == pytest.approx([0, 2.95, 0])


def test_hspg_leaves_groups_at_zero() -> None:
    w, optim = single(HSPG, [[1.0], [30.0]], start=0, lmbda=1.0)
    for _ in range(3):
        w.grad = torch.tensor([[-5.0], [0.0]]) if optim.zero.any() else torch.zeros_like(w)
        optim.step()
        assert w[0] == 0 and optim.zero.tolist() == [True, False]


def test_proximal_step_is_the_minimiser() -> None:
    w, optim = single(ProxSGD, [[3.0, 4.0], [0.1, 0.1], [0.6, 0.8]], start=0, lmbda=2.0)
    w.grad = torch.tensor([[10.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    optim.step()
    z = torch.tensor([2.0, 4.0])
    expected = z * (1 - 0.2 / z.norm())
    torch.testing.assert_close(w[0].detach(), expected)
    assert w[1].tolist() == [0, 0] and w[2].tolist() == pytest.approx([0.48, 0.64])
    # 0 is in the subdifferential of 1/2 ||y - z||^2 + lr lambda ||y||.
    torch.testing.assert_close(expected - z + 0.2 * expected / expected.norm(), torch.zeros(2))
    assert optim.zero.tolist() == [False, True, False]


def test_a_group_may_come_back_from_zero_in_proximal_sgd() -> None:
    w, optim = single(ProxSGD, [[0.1], [5.0]], start=0, lmbda=2.0)
    w.grad = torch.zeros_like(w)
    optim.step()
    assert optim.zero.tolist() == [True, False]
    w.grad = torch.tensor([[-10.0], [0.0]])
    optim.step()
    assert optim.zero.tolist() == [False, False] and w[0].item() == pytest.approx(0.8)
    assert optim.sparsity == 0


def test_one_shot_pruning_zeroes_the_smallest_averages() -> None:
    a, b = torch.tensor([[1.0, 1.0], [5.0, 5.0], [4.0, 4.0]]), torch.tensor([[1.5], [0.5]])
    groups = Partition(
        (
            Component("a", 3, (Member("a", 0, torch.arange(3)[:, None]),)),
            Component("b", 2, (Member("b", 0, torch.arange(2)[:, None]),)),
        )
    )
    # Averages: sqrt(2)/2, 3.5, 2.8 and 1.5, .5: .5 goes first, then .7; 1.5 is the last of its component.
    kept = prune_smallest(groups, [("a", a), ("b", b)], 0.6)
    assert kept == {"a": [1], "b": [0]}
    assert a.tolist() == [[0, 0], [5, 5], [0, 0]] and b.tolist() == [[1.5], [0]]
    with pytest.raises(ValueError, match=r"target=1\.5: must be between 0 and 1"):
        prune_smallest(groups, [("a", a), ("b", b)], 1.5)


@pytest.mark.parametrize("target", [0.5, 0.7])
def test_one_shot_pruning_reaches_the_target_exactly(target: float) -> None:
    net = made()
    kept = prune_smallest(partition(net), net.named_parameters(), target)
    left = sum(len(k) for k in kept.values())
    assert left == int(26 * (1 - target))
    for name in ("trunk", "inner", "third", "fourth"):
        assert kept[name]


def test_random_groups_reach_the_target_with_other_groups() -> None:
    chosen = []
    for seed in range(2):
        net = made()
        optim = DHSPG(
            SGD(net.parameters(), lr=0.05), net.named_parameters(), partition(net), 0.5, 2, salience="random"
        )
        torch.manual_seed(seed)
        train(net, optim, range(25))
        assert 0.5 <= optim.sparsity <= 0.55
        chosen.append(optim.redundant)
    assert not torch.equal(*chosen)


# ---- several workers ----


def test_what_the_workers_agree_on_is_what_is_penalised() -> None:
    told = torch.tensor([False, True, False])
    asked = []

    def agree(value: torch.Tensor) -> torch.Tensor:
        asked.append(value.clone())
        return told.to(value.dtype) if len(value) == 3 else torch.tensor([0.25])

    w, optim = single(
        DHSPG, [[1.0], [2.0], [30.0]], target=1 / 3, start=0, salience="magnitude", tolerance=0.0, agree=agree
    )
    w.grad = torch.zeros_like(w)
    optim.step()
    assert asked[0].tolist() == [1, 0, 0] and asked[1].item() == pytest.approx(0.075 * 2.0 / 0.1)
    assert optim.redundant.tolist() == told.tolist() and optim.weight == 0.25
    assert w.flatten().tolist() == pytest.approx([1.0, 1.975, 30.0])


def worker(rank: int, port: int, folder: str) -> None:
    """Each worker has other gradients; the choice must still be that of the first."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    net = made()
    shared = DHSPG(SGD(net.parameters(), lr=0.05), net.named_parameters(), partition(net), 0.5, 0)
    other = made()
    alone = DHSPG(
        SGD(other.parameters(), lr=0.05),
        other.named_parameters(),
        partition(other),
        0.5,
        0,
        agree=lambda x: x,
    )
    train(net, shared, range(rank, rank + 1))
    train(other, alone, range(rank, rank + 1))
    found = {"shared": shared.redundant, "alone": alone.redundant, "weight": shared.weight}
    torch.save(found, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_workers_agree_on_the_first_ones_choice(tmp_path: Path) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    torch.multiprocessing.spawn(worker, (port, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert not torch.equal(first["alone"], second["alone"])
    assert torch.equal(first["shared"], first["alone"])
    assert torch.equal(second["shared"], first["shared"])
    assert first["weight"] == second["weight"]
