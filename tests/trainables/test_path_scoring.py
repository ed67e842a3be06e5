"""Scores of paths with shared weights: no copy, the same with and without sharing, in one batch or in several."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fairsweep.search_spaces.normalisation import recalibrate
from fairsweep.search_spaces.supernets import Supernet, build_supernet
from fairsweep.trainables.tasks import shared_weights
from fairsweep.trainables.tasks.path_scoring import path_accuracies, path_scores, supernet_with
from fairsweep.trainables.tasks.small_images import Reduction, SmallImageTask

KINDS = ("cell", "chain", "mbconv", "nasnet")


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


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_used_where_they_lie(kind: str) -> None:
    net, arrays = provided(kind)
    scored = supernet_with("k", kind, json.dumps(dict(net.config())), "cpu")
    for name, value in scored.state_dict().items():
        assert value.data_ptr() == arrays[name].ctypes.data
    assert not any(p.requires_grad for p in scored.parameters())
    x = torch.randn(40, *net.input_shape)
    path = net.space.sample(0)
    assert torch.equal(scored(x, path), net(x, path))


def test_scores_are_those_of_each_path_alone() -> None:
    net, _ = provided("chain")
    x, y = torch.randn(60, *net.input_shape), torch.randint(10, (60,))
    paths = [net.space.sample(k) for k in range(12)]

    @torch.no_grad()
    def alone(batches: int) -> tuple[list[float], list[float]]:
        made = [torch.cat([net(part, path) for part in x.tensor_split(batches)]) for path in paths]
        accuracies = [int((logits.argmax(1) == y).sum()) / 60 for logits in made]
        return accuracies, [float(F.cross_entropy(logits, y)) for logits in made]

    for batch_size, batches in ((60, 1), (1000, 1), (30, 2), (25, 3)):  # batches are of one size
        for share in (True, False):
            scores = list(path_scores(net, paths, x, y, batch_size, share))
            accuracies, losses = alone(batches)
            assert [score.accuracy for score in scores] == accuracies
            assert [score.loss for score in scores] == pytest.approx(losses, rel=1e-5)


def test_scores_come_one_by_one_and_leave_the_mode_of_gradients_to_who_takes_them() -> None:
    net, _ = provided("chain")
    net.train()
    x, y = torch.randn(20, *net.input_shape), torch.randint(10, (20,))
    paths = [net.space.sample(k) for k in range(3)]
    tracked: list[bool] = []
    hook = net.get_submodule("stem").register_forward_hook(lambda m, i, o: tracked.append(o.requires_grad))
    found = path_scores(net, paths, x, y, 20, calibration=x)
    for _ in paths:
        next(found)
        assert torch.is_grad_enabled() and not net.training
        batch_norm = torch.nn.BatchNorm1d(2, track_running_stats=False)
        assert batch_norm(torch.eye(30, 2)).std() > 0.9  # statistics of all 30, not of the first 20
    hook.remove()
    assert tracked == [False] and net(x, paths[0]).requires_grad


@pytest.mark.parametrize(
    "kind", [k if k != "nasnet" else pytest.param(k, marks=pytest.mark.slow) for k in KINDS]
)
def test_recalibrated_paths_score_as_their_recalibrated_networks(kind: str) -> None:
    net, arrays = provided(kind)
    draws = torch.Generator().manual_seed(0)
    x, y = torch.randn(50, *net.input_shape, generator=draws), torch.arange(50) % 10
    images = torch.randn(30, *net.input_shape, generator=draws) + 0.5
    paths = [net.space.sample(k) for k in range(8)]
    paths.append(paths[0])
    before = {name: value.copy() for name, value in arrays.items()}
    scored = supernet_with("k", kind, json.dumps(dict(net.config())), "cpu")
    found = list(path_scores(scored, paths, x, y, 50, calibration=images))
    assert found == list(path_scores(scored, paths, x, y, 50, share=False, calibration=images))
    assert all(np.array_equal(arrays[name], value) for name, value in before.items())
    for path, score in zip(paths, found, strict=True):
        logits = recalibrate(net.extract(path), [images])(x)
        assert score.accuracy == int((logits.argmax(1) == y).sum()) / 50
        assert score.loss == pytest.approx(float(F.cross_entropy(logits, y)), rel=1e-5)
    # Neither the other paths, nor their order, nor the batches make a difference; what is measured does.
    assert list(path_scores(scored, paths[::-1], x, y, 50, calibration=images)) == found[::-1]
    assert list(path_scores(scored, paths[3:4], x, y, 50, calibration=images)) == found[3:4]
    for batch_size in (1, 20):
        again = list(path_scores(scored, paths[:2], x, y, batch_size, calibration=images))
        assert [score.accuracy for score in again] == [score.accuracy for score in found[:2]]
        assert [s.loss for s in again] == pytest.approx([s.loss for s in found[:2]], rel=1e-5)
    for other in (None, images[:15]):
        differ = list(path_scores(scored, paths, x, y, 50, calibration=other))
        assert all(a.loss != pytest.approx(b.loss, rel=1e-5) for a, b in zip(differ, found, strict=True))


def test_images_of_a_calibration_are_the_first_of_a_fixed_order_as_they_are() -> None:
    torch.manual_seed(0)
    data = SmallImageTask("digits", None, "cpu", "crop", Reduction(0, 100, 60))
    few, more = data.calibration(10), data.calibration(100)
    assert torch.equal(few, data.calibration(10)) and torch.equal(few, more[:10])
    x, _ = data.whole("train")
    assert sorted(more.flatten(1).tolist()) == sorted(x.flatten(1).tolist())
    assert not torch.equal(more, x)  # the set may be sorted by its labels
    with pytest.raises(ValueError, match="101 training images: digits has 100 here"):
        data.calibration(101)


def test_parts_are_measured_in_equal_batches() -> None:
    net = build_supernet("cell", input_shape=(1, 8, 8), classes=10)
    data = SmallImageTask("digits", None, "cpu", "none", Reduction(0, 100, 150))
    paths = [net.space.sample(seed) for seed in range(4)]
    accuracy, loss = path_accuracies(net, paths, data, "validation", batch_size=100)
    x, y = data.whole("validation")
    for k, path in enumerate(paths):
        with torch.no_grad():
            logits = torch.cat([net(part, path) for part in x.tensor_split(2)])
        assert accuracy[k] == (logits.argmax(1) == y).double().mean().item()
        assert loss[k] == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-5)


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
