"""The supernet of superkernels: what gates compute, what is extracted, and whose parameters it has."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from fairsweep.search_spaces.architectures import Architecture
from fairsweep.search_spaces.architectures.mbconv import BLOCKS
from fairsweep.search_spaces.costs import count_parameters
from fairsweep.search_spaces.normalisation import keep_running_statistics, recalibrate
from fairsweep.search_spaces.supernets import build_supernet
from fairsweep.search_spaces.supernets.layers import InvertedBottleneck
from fairsweep.search_spaces.supernets.mbconv import MBConvSupernet
from fairsweep.search_spaces.supernets.mbconv_branches import BranchSupernet
from fairsweep.search_spaces.supernets.superkernels import (
    GATE_SITES,
    BlockGates,
    Shift,
    SuperkernelBlock,
    option_gates,
)

torch.set_num_threads(1)


def supernet(**overrides: Any) -> MBConvSupernet:
    """In double precision, its normalisations no longer scale 1 and shift 0."""
    net = build_supernet("mbconv", **overrides)
    assert isinstance(net, MBConvSupernet)
    generator = torch.Generator().manual_seed(1)
    for name, p in net.named_parameters():
        if p.dim() == 1 and not name.endswith("thresholds"):
            p.data += 0.3 * torch.randn(p.shape, generator=generator)
    return net.double()


def images(n: int = 8) -> Tensor:
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def forced(net: MBConvSupernet, path: Architecture) -> list[BlockGates]:
    return [option_gates(option, images()) for option in net.space.options(path).values()]


def with_statistics(net: MBConvSupernet) -> MBConvSupernet:
    """The same with running statistics that are not those of any batch."""
    keep_running_statistics(net)
    generator = torch.Generator().manual_seed(2)
    for name, buffer in net.double().named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(torch.randn(buffer.shape, generator=generator))
        elif name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return net


def a_block(net: MBConvSupernet, number: int = 2) -> SuperkernelBlock:
    return net._blocks()[number]


# ---- what gates compute ----


def plain(block: SuperkernelBlock, option: str) -> InvertedBottleneck:
    """An ordinary block filled by hand from the superkernel."""
    kernel, expansion = int(option[1]), int(option[4])
    c = block.sizes[0] * expansion
    made = InvertedBottleneck(*block.sizes, expansion, kernel, torch.nn.BatchNorm2d).double()
    ours, theirs = made.conv, block.largest.conv
    cut = slice(1, 4) if kernel == 3 else slice(0, 5)
    with torch.no_grad():
        ours.expand.weight.copy_(theirs.expand.weight[:c])
        ours.depthwise.weight.copy_(theirs.depthwise.weight[:c, :, cut, cut])
        ours.project.weight.copy_(theirs.project.weight[:, :c])
        for name, n in (("expand_norm", c), ("depthwise_norm", c), ("project_norm", block.sizes[1])):
            ours.get_submodule(name).weight.copy_(theirs.get_submodule(name).weight[:n])
            ours.get_submodule(name).bias.copy_(theirs.get_submodule(name).bias[:n])
    assert ours.depthwise.padding == (kernel // 2,) * 2
    return made.train()


@pytest.mark.parametrize("site", GATE_SITES)
@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("option", BLOCKS)
def test_gated_superkernel_is_the_plain_block_of_the_same_weights(
    option: str, number: int, site: str
) -> None:
    block = a_block(supernet(gate_site=site), number)
    inputs = block.sizes[0]
    x = torch.randn(4, inputs, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(block.gated(x, option_gates(option, x)), plain(block, option)(x))
    torch.testing.assert_close(block.run(x, option), plain(block, option)(x))


def test_a_skipped_block_is_the_identity_and_at_the_kernel_a_constant() -> None:
    x = torch.randn(4, 16, 4, 4, dtype=torch.float64)
    block = a_block(supernet())
    assert torch.equal(block.run(x, "skip"), x) and torch.equal(block.gated(x, option_gates("skip", x)), x)
    block = a_block(supernet(gate_site="kernel"))
    bias = block.largest.conv.project_norm.bias.detach()
    assert bias.abs().min() > 1e-3
    torch.testing.assert_close(block.run(x, "skip"), x + bias.view(1, -1, 1, 1), atol=1e-7, rtol=0)


def test_path_equals_gates_forced_to_it() -> None:
    for site in GATE_SITES:
        net, x = supernet(gate_site=site), images()
        with torch.no_grad():
            for seed in range(20):
                path = net.space.sample(seed)
                torch.testing.assert_close(net(x, path), net.gated(x, forced(net, path)))


@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_extracted_network_equals_the_path_gated_after_normalisation(statistics: str) -> None:
    net, x = supernet(), images()
    if statistics == "running":
        net = with_statistics(net)
    with torch.no_grad():
        for training in (False, True):
            net.train(training)
            for seed in range(8):
                path = net.space.sample(seed)
                first, second = copy.deepcopy(net), copy.deepcopy(net)
                module = net.extract(path)
                assert module.training is training
                expected = first(x, path)
                assert (module(x) - expected).abs().max() < 1e-10
                assert (second.gated(x, forced(net, path)) - expected).abs().max() < 1e-10
    if statistics == "running":  # in training the statistics of both go on alike
        name = "conv.expand_norm.running_mean"
        small = module.get_submodule("stage_0_block_0").get_buffer(name)
        after, before = (n._blocks()[0].largest.get_buffer(name)[: len(small)] for n in (first, net))
        torch.testing.assert_close(small, after)
        assert (after != before).all()


@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_constants_of_kernels_that_are_gone_are_folded(statistics: str) -> None:
    net, x = supernet(gate_site="kernel").eval(), images()
    if statistics == "running":
        net = with_statistics(net)
    seen = set()
    with torch.no_grad():
        for seed in range(20):
            path = net.space.sample(seed)
            module = net.extract(path)
            seen |= {type(m) for m in module.modules()}
            assert (module(x) - net.gated(x, forced(net, path))).abs().max() < 1e-6
    assert Shift in seen


def test_trained_gates_are_extracted_and_recalibrated_as_decided() -> None:
    net, x = supernet(), images()
    a_block(net, 1).thresholds.data[0] = 10.0
    a_block(net, 2).thresholds.data[2] = 10.0
    a_block(net, 3).thresholds.data[1] = 10.0
    assert net.space.format(net.derive()) == "k5_e6/k3_e6-k5_e3-skip"
    module = net.extract(net.derive())
    torch.testing.assert_close(module(x), net.gated(x, net.gates()))
    module, x = module.float(), x.float()
    settled = recalibrate(module, [x])
    # Variances in use are biased, those kept are not: a batch of 8 images is enough to tell.
    assert (settled(x) - module(x)).abs().max() < 0.05
    torch.testing.assert_close(settled(x)[:1], settled(x[:1]), atol=1e-4, rtol=0)


# ---- parameters ----


def test_parameters_are_those_of_the_largest_network_and_three_scalars_a_block() -> None:
    for size in ("laptop", "paper"):
        net = build_supernet("mbconv", size)
        largest = net.space.architecture([BLOCKS.index("k5_e6")] * len(net.space.choices))
        assert count_parameters(net) == net.cost(largest, "params") + 3 * len(net.space.choices)
    assert len(net.space.choices) == 20


def test_branches_have_weights_for_every_option() -> None:
    net = build_supernet("mbconv")
    assert isinstance(net, MBConvSupernet)
    sizes = {k: v for k, v in net.config().items() if k not in ("stages", "norm", "gate_site")}
    branches = BranchSupernet(net.space, **sizes)
    largest = net.space.architecture([BLOCKS.index("k5_e6")] * 4)
    fixed = net.cost_table("params").constant
    ratio = (count_parameters(branches) - fixed) / (net.cost(largest, "params") - fixed)
    assert 2.5 < ratio < 4
    x = images().float()
    path = net.space.parse("k3_e6/k5_e3-skip-k5_e6")
    one_hot = [torch.eye(len(c.options))[i] for c, i in zip(net.space.choices, path.indices, strict=True)]
    with torch.no_grad():
        torch.testing.assert_close(branches.gated(x, one_hot), branches(x, path))
        torch.testing.assert_close(branches.extract(path)(x), branches(x, path))
        branches.alphas[1][2] = 5.0
        branches.alphas[2][4] = 5.0
    assert branches.space.format(branches.derive()) == "k3_e3/k5_e3-skip-k3_e3"
    names = set(branches.path_parameters(path))
    assert "branches.0.k3_e6.conv.expand.weight" in names
    assert not any(n.startswith(("alphas", "branches.0.k5", "branches.2")) for n in names)
    assert len(set(branches.option_parameters("stage_1_block_1", "k3_e3"))) == 9
    assert branches.dead_gates() < 0.5


def test_a_path_uses_no_thresholds_and_nothing_of_skipped_blocks() -> None:
    net = supernet()
    path = net.space.parse("k3_e6/k5_e3-skip-k5_e6")
    names = net.path_parameters(path)
    assert not any("thresholds" in n or n.startswith("blocks.2.") for n in names)
    assert any(n.startswith("blocks.3.") for n in names)
    assert any(n.startswith("blocks.2.") for n in supernet(gate_site="kernel").path_parameters(path))
    assert net.option_parameters("stage_1_block_1", "skip") == ()
    with pytest.raises(KeyError):
        net.option_parameters("stage_9_block_1", "skip")
    net(images(), path).sum().backward()
    assert all(t.grad is None for t in net.structure_parameters())
    kernel = a_block(net, 1).kernel.grad
    assert kernel is not None and kernel[: a_block(net, 1).narrow].abs().min() > 0
    assert kernel[a_block(net, 1).narrow :].abs().max() == 0


# ---- sizes ----


def test_paper_network() -> None:
    net = build_supernet("mbconv", "paper")
    assert net.input_shape == (3, 224, 224) and net.classes == 1000
    sizes = net.layers
    assert [s[1] for s in sizes] == [24] * 4 + [40] * 4 + [80] * 4 + [96] * 4 + [192] * 4  # type: ignore[index]
    assert [s[2] for s in sizes] == [2, 1, 1, 1] * 3 + [1] * 4 + [2, 1, 1, 1]  # type: ignore[index]
    assert [m.p for m in net.modules() if isinstance(m, torch.nn.Dropout)] == [0.2]
    assert {m.eps for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {1e-3}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "l1"}, r"norm=l1: must be one of rms, l2, l2sq"),
        ({"gate_site": "pre"}, r"gate_site=pre: must be one of post_bn, kernel"),
        ({"widths": [8]}, r"widths=\[8\]: must be one for each of the 2 stages"),
        ({"strides": [1, 3]}, r"strides=3: must be 1 or 2"),
        ({"widths": [8, 0]}, r"widths=0: must be a whole number"),
        ({"dropout": 1.0}, r"dropout=1.0: must be in \[0, 1\)"),
        ({"eps": 0.0}, r"eps=0.0: must be positive"),
        ({"head": -1}, r"head=-1: must be a whole number"),
    ],
)
def test_wrong_sizes_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_supernet("mbconv", **changes)
