"""The operations of NASNet's cells (Zoph et al., CVPR 2018, section 3, and the authors' code of the found networks).

Every convolution stands between a ReLU before it and a batch normalisation after it, without a bias; padding is
"same": outputs have ceil(size / stride) pixels, an odd pixel of padding is added at the bottom and on the right.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairsweep.search_spaces.supernets.layers import Normalisation, running


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Pixels before and after a side of `size` pixels so that ceil(size / stride) windows of `kernel` fit."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class SameConv2d(nn.Conv2d):
    """A convolution without bias and with "same" padding."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, dilation=dilation, groups=groups, bias=False)
        height, width = self.kernel_size
        self.reach = (dilation * (height - 1) + 1, dilation * (width - 1) + 1)

    def forward(self, x: Tensor) -> Tensor:
        top, bottom = same_padding(x.shape[2], self.reach[0], self.stride[0])
        left, right = same_padding(x.shape[3], self.reach[1], self.stride[1])
        if (top, left) != (bottom, right):
            x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
        return F.conv2d(x, self.weight, None, self.stride, (top, left), self.dilation, self.groups)


class Pool(nn.Module):
    """The largest or the mean of a window; padding is neither a candidate nor counted. kind: "max" or "avg"."""

    def __init__(self, kind: str, kernel: int, stride: int) -> None:
        super().__init__()
        self.kind, self.kernel, self.stride = kind, kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        padding = [same_padding(size, self.kernel, self.stride)[0] for size in x.shape[2:]]
        # ceil_mode adds what is missing at the bottom and on the right.
        if self.kind == "max":
            return F.max_pool2d(x, self.kernel, self.stride, padding, ceil_mode=True)
        return F.avg_pool2d(x, self.kernel, self.stride, padding, ceil_mode=True, count_include_pad=False)

    def extra_repr(self) -> str:
        return f"{self.kind}, kernel={self.kernel}, stride={self.stride}"


def relu_conv(
    inputs: int,
    outputs: int,
    kernel: int | tuple[int, int] = 1,
    stride: int | tuple[int, int] = 1,
    dilation: int = 1,
    norm: Normalisation = running,
) -> list[nn.Module]:
    """ReLU, convolution, normalisation."""
    return [nn.ReLU(), SameConv2d(inputs, outputs, kernel, stride, dilation), norm(outputs)]


def separable(
    inputs: int, outputs: int, kernel: int, stride: int, norm: Normalisation = running
) -> nn.Sequential:
    """Twice: ReLU, depthwise convolution, pointwise convolution, normalisation; the first has the stride."""
    layers: list[nn.Module] = []
    for channels, step in ((inputs, stride), (outputs, 1)):
        layers += [
            nn.ReLU(),
            SameConv2d(channels, channels, kernel, step, groups=channels),
            SameConv2d(channels, outputs, 1),
            norm(outputs),
        ]
    return nn.Sequential(*layers)


class FactorisedReduction(nn.Module):
    """Halves height and width: one half of the channels from the even pixels, the other from the odd ones.

    Both halves are 1 x 1 convolutions, of the image and of the image moved by one pixel (zeros come in), under
    one batch normalisation. outputs: an even number.
    """

    def __init__(self, inputs: int, outputs: int, norm: Normalisation = running) -> None:
        super().__init__()
        if outputs % 2:
            raise ValueError(f"filters={outputs}: a factorised reduction needs an even number")
        self.even = nn.Conv2d(inputs, outputs // 2, 1, bias=False)
        self.odd = nn.Conv2d(inputs, outputs // 2, 1, bias=False)
        self.norm = norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(reduced_pixels(x, self.even.weight, self.odd.weight))


def reduced_pixels(x: Tensor, even: Tensor, odd: Tensor) -> Tensor:
    """The 1 x 1 convolutions `even` of the pixels at even places of `x`, and `odd` of those at odd places."""
    moved = F.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]
    return torch.cat([F.conv2d(x[:, :, ::2, ::2], even), F.conv2d(moved[:, :, ::2, ::2], odd)], 1)


def match(inputs: int, outputs: int, reduce: bool, norm: Normalisation = running) -> nn.Module:
    """What gives a state `outputs` channels, and half the height and width with `reduce`; nothing if it fits."""
    if reduce:
        return FactorisedReduction(inputs, outputs, norm)
    if inputs != outputs:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), norm(outputs))
    return nn.Identity()


def operation(name: str, inputs: int, outputs: int, stride: int, norm: Normalisation = running) -> nn.Module:
    """The operation `name` from `inputs` to `outputs` channels. KeyError if there is no such operation.

    An identity that cannot be one, because of the stride or the channels, is a 1 x 1 convolution; a pooling that
    cannot keep its channels is followed by one.
    """
    if name == "identity":
        fits = stride == 1 and inputs == outputs
        return nn.Identity() if fits else nn.Sequential(*relu_conv(inputs, outputs, stride=stride, norm=norm))
    kind, kernels = name.split("_", 1)
    if kind in ("avg", "max"):
        pool = Pool(kind, int(kernels[0]), stride)
        return nn.Sequential(pool, match(inputs, outputs, False, norm)) if inputs != outputs else pool
    if kind == "sep":
        return separable(inputs, outputs, int(kernels[0]), stride, norm)
    if kind == "dil":
        return nn.Sequential(*relu_conv(inputs, outputs, int(kernels[0]), stride, 2, norm))
    if name in ("conv_1x3_3x1", "conv_1x7_7x1"):
        k = int(kernels[2])
        row = relu_conv(inputs, outputs, (1, k), (1, stride), norm=norm)
        return nn.Sequential(*row, *relu_conv(outputs, outputs, (k, 1), (stride, 1), norm=norm))
    if name in ("conv_1x1", "conv_3x3"):
        return nn.Sequential(*relu_conv(inputs, outputs, int(kernels[0]), stride, norm=norm))
    raise KeyError(name)


def initialise(modules: Iterable[nn.Module]) -> None:
    """Normal weights of variance 2 / fan-out for convolutions and linear layers, biases zero, as the authors' code.

    The fan-out of a grouped convolution counts the outputs of one group.
    """
    for module in modules:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            groups = module.groups if isinstance(module, nn.Conv2d) else 1
            fan_out = module.weight.shape[0] // groups * module.weight[0, 0].numel()
            nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
