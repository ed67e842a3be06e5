"""Cell and chain against the formulas of their papers, written out with functions and the supernet's weights."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fairsweep.search_spaces.supernets import Supernet, build_supernet
from fairsweep.search_spaces.supernets.cell import operation
from fairsweep.search_spaces.supernets.layers import by_batch
from tests.search_spaces.supernets.test_contract import images

torch.set_num_threads(1)


def normalised(x: Tensor) -> Tensor:
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5)


def weights(net: Supernet) -> Any:
    """Weights by name, those of affine normalisation drawn at random so that they say something."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if "norm" in name:
                p.add_(torch.randn_like(p))
    return dict(net.named_parameters())


# ---- the cell ----


def relu_conv_norm(x: Tensor, w: Any, name: str, stride: int = 1) -> Tensor:
    weight = w[f"{name}.conv.weight"]
    return normalised(F.conv2d(x.relu(), weight, w[f"{name}.conv.bias"], stride, weight.shape[-1] // 2))


def edge(x: Tensor, option: str, w: Any, name: str) -> Tensor:
    if option == "none":
        return 0 * x
    if option == "skip_connect":
        return x
    if option == "avg_pool_3x3":
        ones = torch.ones(1, 1, 3, 3)
        total = F.conv2d(x.flatten(0, 1)[:, None], ones, padding=1).view_as(x)
        return total / F.conv2d(
            torch.ones(1, 1, *x.shape[2:]), ones, padding=1
        )  # pixels outside do not count
    return relu_conv_norm(x, w, f"{name}.{option}")


def cell(x: Tensor, ops: dict[str, str], w: Any, name: str) -> Tensor:
    def at(value: Tensor, j: int, i: int) -> Tensor:
        return edge(value, ops[f"edge_{j}_{i}"], w, f"{name}.edge_{j}_{i}")

    one = at(x, 0, 1)
    two = at(x, 0, 2) + at(one, 1, 2)
    return at(x, 0, 3) + at(one, 1, 3) + at(two, 2, 3)


def test_cell_supernet_is_the_formula() -> None:
    # 7 x 7 has an odd side: the residual block rounds it up on both of its ways.
    net = build_supernet("cell", cells=2)
    w, x = weights(net), images(net)
    with torch.no_grad():
        for seed in range(20):
            path = net.space.sample(seed)
            ops = net.space.options(path)
            y = normalised(F.conv2d(x, w["stem.conv.weight"], padding=1))
            y = cell(cell(y, ops, w, "body.0"), ops, w, "body.1")
            deep = relu_conv_norm(relu_conv_norm(y, w, "body.2.conv_a", 2), w, "body.2.conv_b")
            pooled = F.avg_pool2d(F.pad(y, (0, 1, 0, 1)), 2)
            pooled[:, :, -1] *= 2  # windows at the rim have half of their pixels
            pooled[:, :, :, -1] *= 2
            y = F.conv2d(pooled, w["body.2.shortcut.conv.weight"]) + deep
            y = cell(cell(y, ops, w, "body.3"), ops, w, "body.4")
            y = normalised(y).relu().mean((2, 3))
            wanted = F.linear(y, w["head.classifier.weight"], w["head.classifier.bias"])
            # A constant input of a convolution is normalised to its rounding errors, divided by sqrt(1e-5).
            assert torch.allclose(net(x, path), wanted, atol=1e-3)


def test_pool_of_a_cell_leaves_padding_out() -> None:
    pool = operation("avg_pool_3x3", 2, by_batch(False), bias=True)
    assert torch.equal(pool(torch.ones(1, 2, 5, 5)), torch.ones(1, 2, 5, 5))


# ---- the chain ----


def norm(x: Tensor, w: Any, name: str) -> Tensor:
    return normalised(x) * w[f"{name}.weight"].view(-1, 1, 1) + w[f"{name}.bias"].view(-1, 1, 1)


def bottleneck(x: Tensor, w: Any, name: str, stride: int) -> Tensor:
    kernel = w[f"{name}.conv.depthwise.weight"]
    y = norm(F.conv2d(x, w[f"{name}.conv.expand.weight"]), w, f"{name}.conv.expand_norm").relu()
    y = F.conv2d(y, kernel, None, stride, kernel.shape[-1] // 2, groups=len(kernel))
    y = norm(y, w, f"{name}.conv.depthwise_norm").relu()
    y = norm(F.conv2d(y, w[f"{name}.conv.project.weight"]), w, f"{name}.conv.project_norm")
    return x + y if y.shape == x.shape else y


def test_chain_supernet_is_the_formula() -> None:
    net = build_supernet("chain")
    w, x = weights(net), images(net)
    strides = [2, 1, 2, 1, 1]
    assert tuple(w["layers.3.mb6_k5.conv.depthwise.weight"].shape) == (6 * 32, 1, 5, 5)
    assert tuple(w["layers.2.mb3_k3.conv.depthwise.weight"].shape) == (3 * 16, 1, 3, 3)
    with torch.no_grad():
        for seed in range(20):
            path = net.space.sample(seed)
            y = norm(F.conv2d(x, w["stem.conv.weight"], padding=1), w, "stem.norm").relu()
            for k, (option, stride) in enumerate(zip(net.space.options(path).values(), strides, strict=True)):
                name = f"layers.{k}.{option}"
                if option != "identity":
                    y = bottleneck(y, w, name, stride)
                elif stride == 2:
                    y = norm(F.conv2d(y, w[f"{name}.conv.weight"], stride=2), w, f"{name}.norm")
            y = norm(F.conv2d(y, w["head.conv.weight"]), w, "head.norm").relu().mean((2, 3))
            wanted = F.linear(y, w["head.classifier.weight"], w["head.classifier.bias"])
            assert torch.allclose(net(x, path), wanted, atol=1e-4)
