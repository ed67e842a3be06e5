"""NASNet's operations: shapes, weights, order of layers, padding and strides, against the authors' code."""

from __future__ import annotations

from math import ceil

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairsweep.search_spaces.architectures.nasnet import OPERATIONS
from fairsweep.search_spaces.supernets.nasnet_network import places
from fairsweep.search_spaces.supernets.nasnet_operations import (
    FactorisedReduction,
    SameConv2d,
    operation,
    same_padding,
)

torch.set_num_threads(1)


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("inputs", [4, 6])
def test_operations_keep_or_halve_and_end_with_their_channels(name: str, stride: int, inputs: int) -> None:
    op = operation(name, inputs, 4, stride)
    for height, width in ((8, 7), (1, 2)):
        out = op(images(2, inputs, height, width))
        assert out.shape == (2, 4, ceil(height / stride), ceil(width / stride))
    bare = name == "identity" or name.startswith(("avg", "max"))
    assert (parameters(op) == 0) == (bare and inputs == 4 and (stride == 1 or name != "identity"))


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("conv_1x1", 6 * 4), ("conv_3x3", 6 * 4 * 9), ("dil_3x3", 6 * 4 * 9),
        ("conv_1x3_3x1", 6 * 4 * 3 + 4 * 4 * 3), ("conv_1x7_7x1", 6 * 4 * 7 + 4 * 4 * 7),
        ("sep_3x3", 6 * 9 + 6 * 4 + 4 * 9 + 4 * 4), ("sep_5x5", 6 * 25 + 6 * 4 + 4 * 25 + 4 * 4),
        ("sep_7x7", 6 * 49 + 6 * 4 + 4 * 49 + 4 * 4),
    ],
)  # fmt: skip
def test_convolutions_have_their_weights_and_no_bias(name: str, weights: int) -> None:
    op = operation(name, 6, 4, 2)
    assert sum(p.numel() for p in op.parameters() if p.ndim == 4) == weights
    norms = [m for m in op.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == (2 if name.startswith("sep") or "_1x3_" in name or "_1x7_" in name else 1)
    assert parameters(op) == weights + 8 * len(norms)


@pytest.mark.parametrize("name", [name for name in OPERATIONS if not name.startswith(("avg", "max"))])
def test_a_relu_comes_before_every_convolution_and_a_norm_after(name: str) -> None:
    layers = [type(m) for m in operation(name, 4, 4, 2)]
    part = [nn.ReLU, SameConv2d, SameConv2d, nn.BatchNorm2d] if name.startswith("sep") else None
    assert layers == (part or [nn.ReLU, SameConv2d, nn.BatchNorm2d]) * (len(layers) // (4 if part else 3))
    assert len(layers) // (4 if part else 3) == (
        1 if name in ("identity", "conv_1x1", "conv_3x3", "dil_3x3") else 2
    )


def test_a_separable_convolution_is_applied_twice_and_strides_once() -> None:
    op = operation("sep_5x5", 6, 4, 2)
    convolutions = [m for m in op if isinstance(m, SameConv2d)]
    assert [(c.in_channels, c.out_channels, c.groups, c.kernel_size[0], c.stride[0]) for c in convolutions] == [
        (6, 6, 6, 5, 2), (6, 4, 1, 1, 1), (4, 4, 4, 5, 1), (4, 4, 1, 1, 1),
    ]  # fmt: skip


def test_the_factorised_convolutions_stride_one_side_each() -> None:
    convolutions = [m for m in operation("conv_1x7_7x1", 4, 4, 2) if isinstance(m, SameConv2d)]
    assert [(c.kernel_size, c.stride) for c in convolutions] == [((1, 7), (1, 2)), ((7, 1), (2, 1))]
    (dilated,) = (m for m in operation("dil_3x3", 4, 4, 1) if isinstance(m, SameConv2d))
    assert dilated.dilation == (2, 2)


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_same_padding_is_odd_at_the_end(kernel: int, stride: int) -> None:
    for size in range(1, 12):
        before, after = same_padding(size, kernel, stride)
        assert after - before in (0, 1)
        assert (size + before + after - kernel) // stride + 1 == ceil(size / stride)
    assert same_padding(8, 3, 2) == (0, 1) and same_padding(7, 3, 2) == (1, 1)


@pytest.mark.parametrize("name", ["avg_3x3", "max_3x3", "max_5x5", "max_7x7"])
@pytest.mark.parametrize("stride", [1, 2])
def test_pooling_leaves_the_padding_out(name: str, stride: int) -> None:
    x = images(1, 1, 8, 5) - 3  # mostly negative: a zero from the padding would be the largest
    out, k = operation(name, 1, 1, stride)(x), int(name[4])
    for i in range(out.shape[2]):
        for j in range(out.shape[3]):
            top, left = (n * stride - same_padding(size, k, stride)[0] for n, size in ((i, 8), (j, 5)))
            window = x[0, 0, max(top, 0) : top + k, max(left, 0) : left + k]
            torch.testing.assert_close(out[0, 0, i, j], window.mean() if name == "avg_3x3" else window.max())


@pytest.mark.parametrize(("kernel", "dilation"), [(3, 1), (5, 1), (3, 2)])
def test_strided_convolutions_begin_at_the_first_pixel_of_even_images(kernel: int, dilation: int) -> None:
    conv, x = SameConv2d(2, 3, kernel, 2, dilation), images(2, 2, 8, 7)
    reach = dilation * (kernel - 1) + 1
    (top, bottom), (left, right) = same_padding(8, reach, 2), same_padding(7, reach, 2)
    assert (top, bottom) == ((reach - 2) // 2, (reach - 1) // 2) and left == right == reach // 2
    expected = F.conv2d(F.pad(x, (left, right, top, bottom)), conv.weight, stride=2, dilation=dilation)
    torch.testing.assert_close(conv(x), expected)


@pytest.mark.parametrize("side", [6, 7])
def test_the_factorised_reduction_takes_even_and_odd_pixels(side: int) -> None:
    layer, x = FactorisedReduction(3, 4).eval(), images(2, 3, side, side)
    out = layer(x) * (1 + 1e-5) ** 0.5
    even = torch.einsum("oc,nchw->nohw", layer.even.weight[:, :, 0, 0], x[:, :, ::2, ::2])
    torch.testing.assert_close(out[:, :2], even)
    odd = torch.einsum("oc,nchw->nohw", layer.odd.weight[:, :, 0, 0], x[:, :, 1::2, 1::2])
    expected = torch.zeros_like(even)  # an odd side has no odd pixel at its end, but a zero
    expected[:, :, : side // 2, : side // 2] = odd
    torch.testing.assert_close(out[:, 2:], expected)


def test_a_factorised_reduction_needs_an_even_number() -> None:
    with pytest.raises(ValueError, match="filters=5: a factorised reduction needs an even number"):
        FactorisedReduction(3, 5)
    with pytest.raises(ValueError, match="filters=5: must be even"):
        places(1, 5)
