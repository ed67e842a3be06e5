"""Scores of paths with shared weights: no copy, the same with and without sharing, in one batch or in several."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from search_spaces.supernets import Supernet, build_supernet
from trainables.tasks import shared_weights
from trainables.tasks.path_scoring import accuracies, supernet_with


@pytest.fixture(autouse=True)
def nothing_provided() -> Iterator[None]:
    shared_weights.provide(lambda key: None)
    supernet_with.cache_clear()
    yield
    shared_weights.provide(lambda key: None)
    supernet_with.cache_clear()


def provided(kind: str, key: str = "k") -> tuple[Supernet, dict[str, np.ndarray]]:
    net = build_supernet(kind).eval()
    arrays = {name: value.numpy().copy() for name, value in net.state_dict().items()}
    for array in arrays.values():
        array.flags.writeable = False
    shared_weights.provide({key: arrays}.get)
    return net, arrays


@pytest.mark.parametrize("kind", ["cell", "chain"])
def test_weights_are_used_where_they_lie(kind: str) -> None:
    net, arrays = provided(kind)
    scored = supernet_with("k", kind, json.dumps(dict(net.config())), "cpu")
    for name, value in scored.state_dict().items():
        assert value.data_ptr() == arrays[name].ctypes.data
    assert not any(p.requires_grad for p in scored.parameters())
    x = torch.randn(40, *net.input_shape)
    path = net.space.sample(0)
    assert torch.equal(scored(x, path), net(x, path))


def test_accuracies_are_those_of_each_path_alone() -> None:
    net, _ = provided("chain")
    x, y = torch.randn(60, *net.input_shape), torch.randint(10, (60,))
    paths = [net.space.sample(k) for k in range(12)]
    alone = [(net(x, path).argmax(1) == y).float().mean().item() for path in paths]
    assert list(accuracies(net, paths, x, y, 60)) == alone
    assert list(accuracies(net, paths, x, y, 1000, share=False)) == alone
    halves = [
        sum(int((net(a, path).argmax(1) == b).sum()) for a, b in zip(x.split(25), y.split(25), strict=True))
        / 60
        for path in paths
    ]
    assert list(accuracies(net, paths, x, y, 25)) == halves


def test_weights_that_nobody_provides_are_asked_for_by_name() -> None:
    with pytest.raises(LookupError, match="supernet=abc"):
        shared_weights.arrays("abc")


def test_the_last_weights_are_held_and_asked_for_once() -> None:
    asked: list[str] = []

    def source(key: str) -> dict[str, np.ndarray]:
        asked.append(key)
        return {"w": np.zeros(1)}

    shared_weights.provide(source)
    assert shared_weights.arrays("a") is shared_weights.arrays("a")
    shared_weights.arrays("b")
    assert asked == ["a", "b"]
