"""Indicators, gates and what they decide, against the statements of Single-Path NAS."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fairsweep.search_spaces.supernets import build_supernet
from fairsweep.search_spaces.supernets.mbconv import MBConvSupernet
from fairsweep.search_spaces.supernets.superkernels import NORMS, BlockGates, indicator, weight_norm
from tests.search_spaces.supernets.test_mbconv import a_block, images, supernet

torch.set_num_threads(1)


# ---- the indicator ----


def test_indicator_is_exactly_0_or_1_with_the_slope_of_the_sigmoid() -> None:
    x = torch.linspace(-6, 6, 1001).requires_grad_()
    y = indicator(x)
    assert set(y.tolist()) == {0.0, 1.0} and torch.equal(y, (x >= 0).float())
    assert indicator(torch.zeros(())) == 1
    (slope,) = torch.autograd.grad(y.sum(), x)
    step = 1e-6
    at = x.detach().double()
    numerical = (torch.sigmoid(at + step) - torch.sigmoid(at - step)) / (2 * step)
    torch.testing.assert_close(slope.double(), numerical, atol=1e-6, rtol=1e-5)


def test_norms() -> None:
    w = torch.tensor([3.0, 4.0, 0.0, 0.0])
    assert (
        weight_norm(w, 4, "l2") == 5 and weight_norm(w, 4, "l2sq") == 25 and weight_norm(w, 4, "rms") == 2.5
    )


@pytest.mark.parametrize("norm", NORMS)
def test_gates_compare_the_norms_of_what_they_would_remove(norm: str) -> None:
    net = supernet(norm=norm)
    block = a_block(net)
    w, half = block.kernel.detach(), block.width // 2
    ring = w.clone()
    ring[..., 1:4, 1:4] = 0
    count = {"k5": 16 * block.width, "e3": 25 * half, "e6": 25 * (block.width - half)}

    def sizes(kernel: Tensor) -> dict[str, float]:
        parts = {"k5": ring, "e3": kernel[:half], "e6": kernel[half:]}
        squares = {name: part.square().sum().item() for name, part in parts.items()}
        if norm == "l2sq":
            return squares
        return {n: (s / count[n]) ** 0.5 if norm == "rms" else s**0.5 for n, s in squares.items()}

    block.thresholds.data = torch.tensor([0.1, 0.02, 0.03], dtype=torch.float64)
    for t5, kernel in (
        (0.1, w),
        (1e9, w - ring),
    ):  # without its ring the kernel is smaller for e3 and e6 as well
        block.thresholds.data[0] = t5
        _, margins = block.decide()
        expected = sizes(kernel)
        assert margins["k5"].item() == pytest.approx(expected["k5"] - t5)
        assert margins["e3"].item() == pytest.approx(expected["e3"] - 0.02)
        assert margins["e6"].item() == pytest.approx(expected["e6"] - 0.03)


def test_gradient_of_a_threshold_is_minus_the_slope_times_what_the_gate_changes() -> None:
    """The numerical gradient of the loss in the gates, with the sigmoid's slope in between."""
    net = supernet()
    x, y = images(), torch.arange(8)
    for t in net.structure_parameters():
        t.data = torch.tensor([0.1, 0.05, 0.2], dtype=torch.float64)
    loss = F.cross_entropy(net.gated(x, net.gates()), y)
    found = torch.autograd.grad(loss, net.structure_parameters())
    step = 1e-6
    for k, block in enumerate(net._blocks()):
        margins = block.decide()[1]
        for position, name in enumerate(("k5", "e3", "e6")):
            if name not in margins:
                assert found[k][position] == 0
                continue

            def at(shift: float, k: int = k, name: str = name) -> float:
                gates = [BlockGates(*(g.detach() for g in gate)) for gate in net.gates()]
                gates[k] = gates[k]._replace(**{name: getattr(gates[k], name) + shift})
                with torch.no_grad():
                    return F.cross_entropy(net.gated(x, gates), y).item()

            s = torch.sigmoid(margins[name]).item()
            path = (at(step) - at(-step)) / (2 * step)
            if name == "k5":  # it also changes what the gates of the channels look at
                path += through_the_norms(net, k, at, step)
            assert found[k][position].item() == pytest.approx(-s * (1 - s) * path, rel=1e-4, abs=1e-9)


def through_the_norms(net: MBConvSupernet, k: int, at: Any, step: float) -> float:
    block = net._blocks()[k]
    w = block.kernel.detach()
    ring = w.clone()
    ring[..., 1:4, 1:4] = 0
    total = 0.0
    for name, part in (("e3", slice(0, block.narrow)), ("e6", slice(block.narrow, None))):
        margins = block.decide()[1]
        if name not in margins:
            continue

        def size(d: float, part: slice = part) -> float:
            return weight_norm((w - ring + d * ring)[part], w[part].numel(), net.weight_norm).item()

        s = torch.sigmoid(margins[name]).item()
        slope = (size(1 + step) - size(1 - step)) / (2 * step)
        total += s * (1 - s) * slope * (at(step, k, name) - at(-step, k, name)) / (2 * step)
    return total


def test_raising_t5_over_the_norm_removes_exactly_the_ring() -> None:
    net = supernet()
    block = a_block(net)
    margin = block.decide()[1]["k5"].item()
    with torch.no_grad():
        for t5, option in ((margin - 1e-9, "k5_e6"), (margin + 1e-9, "k3_e6")):
            block.thresholds[0] = t5
            assert block.decide()[0].option() == option
        block.largest.conv.depthwise.weight[..., 1:4, 1:4] = 7.0  # which is not part of the ring
        assert block.decide()[1]["k5"].item() == pytest.approx(-1e-9, abs=1e-12)


# ---- derivation ----


@pytest.mark.parametrize(("k5", "e3", "e6"), itertools.product((0, 1), repeat=3))
def test_derivation_table(k5: int, e3: int, e6: int) -> None:
    net = supernet()
    block = a_block(net)
    margins = {k: v.item() for k, v in block.decide()[1].items()}
    # Far on either side of every norm that is possible.
    values = {k: (-1.0 if on else margins[k] + 10) for k, on in (("k5", k5), ("e3", e3), ("e6", e6))}
    block.thresholds.data = torch.tensor([values["k5"], values["e3"], values["e6"]], dtype=torch.float64)
    expected = f"k{5 if k5 else 3}_e{6 if e6 else 3}" if e3 else "skip"
    assert net.space.options(net.derive())["stage_1_block_1"] == expected


def test_the_first_of_a_stage_is_never_skipped() -> None:
    net = supernet()
    for t in net.structure_parameters():
        t.data = torch.full((3,), 1e9, dtype=torch.float64)
    assert net.space.format(net.derive()) == "k3_e3/k3_e3-skip-skip"
    gates = net.gates(keep=0.01)
    assert gates[0].e3 == gates[1].e3 == 1


def test_dropout_keeps_gates_with_the_probability_given_and_scales_them() -> None:
    net = supernet()
    torch.manual_seed(0)
    drawn = [torch.stack(a_block(net).decide(keep=0.6)[0]).detach() for _ in range(1000)]
    values = torch.stack(drawn)
    assert {round(v, 6) for v in values.unique().tolist()} == {0.0, round(1 / 0.6, 6)}
    assert (values > 0).double().mean(0).tolist() == pytest.approx([0.6] * 3, abs=0.05)
    pairs = (values > 0).double().T.corrcoef()
    assert pairs.fill_diagonal_(0).abs().max() < 0.12  # drawn one by one
    assert net.space.format(net.derive()) == "k5_e6/k5_e6-k5_e6-k5_e6"  # decisions are read without dropout
    assert all(torch.stack(gate).eq(1).all() for gate in net.gates())


def test_norms_that_are_far_from_the_threshold_make_dead_gates() -> None:
    assert build_supernet("mbconv", norm="rms").dead_gates() == 0  # type: ignore[operator]
    assert build_supernet("mbconv", norm="l2sq").dead_gates() == 1  # type: ignore[operator]
    net = build_supernet("mbconv", norm="l2")
    assert isinstance(net, MBConvSupernet) and 0.5 < net.dead_gates() <= 1
    assert net.gates()[0].k5 == 1
