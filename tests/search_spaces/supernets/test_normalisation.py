"""Recalibration: running statistics that were measured, and what they leave alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairsweep.search_spaces.normalisation import normalisation, recalibrate
from fairsweep.search_spaces.supernets import build_supernet
from tests.search_spaces.supernets.test_contract import KINDS

torch.set_num_threads(1)


def batches(shape: tuple[int, ...], count: int = 4, size: int = 16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, *shape, generator=generator) + k for k in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_are_the_means_over_the_batches(kind: str) -> None:
    net = build_supernet(kind)
    module = net.extract(net.space.sample(0))
    given = batches(net.input_shape)
    inputs: dict[str, list[Tensor]] = {}

    def note(name: str) -> Any:
        return lambda _, args: inputs.setdefault(name, []).append(args[0])

    for name, m in module.named_modules():
        if isinstance(m, nn.BatchNorm2d):
            m.register_forward_pre_hook(note(name))
    with torch.no_grad():
        for x in given:
            module(x)
    for m in module.modules():
        m._forward_pre_hooks.clear()
    found = recalibrate(module, [(x, "label") for x in given])
    assert inputs and len(inputs) == len([m for m in found.modules() if isinstance(m, nn.BatchNorm2d)])
    for name, seen in inputs.items():
        norm = found.get_submodule(name)
        mean = torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
        variance = torch.stack([x.var((0, 2, 3)) for x in seen]).mean(0)
        torch.testing.assert_close(norm.running_mean, mean, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(norm.running_var, variance, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_recalibrated_network_takes_any_batch(kind: str) -> None:
    net = build_supernet(kind)
    module = net.extract(net.space.sample(0))
    x = batches(net.input_shape, size=64)
    before = module(x[0])
    found = recalibrate(module, x[:1])
    assert normalisation(module) == "batch" and normalisation(found) == "running"
    assert not found.training
    assert torch.equal(module(x[0]), before)  # a copy was recalibrated
    with torch.no_grad():
        together = found(x[0])
        assert torch.allclose(torch.cat([found(row[None]) for row in x[0]]), together, atol=1e-5)
        # On the batch that was measured it computes what the path computes, but for n/(n-1) in the variance.
        assert (together - before).abs().max() < 0.05 * before.abs().max()
        assert not torch.allclose(found(x[3]), module(x[3]), atol=1e-2)


def test_built_network_is_measured_anew() -> None:
    net = build_supernet("chain")
    module = net.build(net.space.sample(0))
    (x,) = batches(net.input_shape, count=1)
    found = recalibrate(module, [x])
    stem: Any = found
    assert torch.allclose(stem.stem.norm.running_mean, stem.stem.conv(x).mean((0, 2, 3)), atol=1e-6)
    assert all(m.momentum == 0.1 for m in found.modules() if isinstance(m, nn.BatchNorm2d))


def test_nothing_to_measure_and_mixtures_are_refused() -> None:
    net = build_supernet("cell")
    with pytest.raises(ValueError, match=r"batches: there is none"):
        recalibrate(net.extract(net.space.sample(0)), [])
    assert normalisation(nn.Linear(2, 2)) == "none"
    with pytest.raises(ValueError, match="recalibrate the module"):
        normalisation(nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2, track_running_stats=False)))
