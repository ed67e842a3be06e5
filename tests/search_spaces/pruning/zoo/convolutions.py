"""Networks of convolutions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.search_spaces.pruning.zoo.cases import conv, images, linear, pooled, simple


def norm(n: int) -> Any:
    return lambda: nn.BatchNorm2d(n)


simple(
    "concat_with_itself", images(), lambda s, x: pooled(s.b(torch.cat([F.gelu(s.n(s.a(x)))] * 2, 1))),
    a=conv(3, 8), n=norm(8), b=conv(16, 4),
)  # fmt: skip
simple(
    "concat_of_three_scales", images(),
    lambda s, x: pooled(s.d(torch.cat(
        [F.relu(s.a(x)), F.relu(s.b(x)), F.interpolate(s.c(F.max_pool2d(x, 2)), x.shape[2:])], 1))),
    a=conv(3, 6), b=conv(3, 4, 1), c=conv(3, 5), d=conv(15, 4),
)  # fmt: skip
simple(
    "split_into_uneven_parts", images(),
    lambda s, x: tuple(f(p) for f, p in zip((s.b, s.b, s.c), F.gelu(s.n(s.a(x))).split([4, 4, 8], 1), strict=True)),
    a=conv(3, 16), n=norm(16), b=conv(4, 3), c=conv(8, 3),
)  # fmt: skip
simple(
    "concat_then_split", images(),
    lambda s, x: pooled(s.d(s.c(torch.cat([s.a(x), s.b(x)], 1)[:, 2:9]).relu())),
    a=conv(3, 6), b=conv(3, 6), c=conv(7, 5), d=conv(5, 2),
)  # fmt: skip
simple(
    "simple_gate", images(),
    lambda s, x: pooled(s.c((lambda a, b: a * b)(*s.b(F.relu(s.a(x))).chunk(2, 1)))),
    a=conv(3, 8), b=conv(8, 12), c=conv(6, 3),
)  # fmt: skip
simple(
    "unbind_of_scales", images(),
    lambda s, x: pooled(s.b(sum(p * (k + 1) for k, p in enumerate(s.a(x).unflatten(1, (3, 4)).unbind(1))))),
    a=conv(3, 12), b=conv(4, 3),
)  # fmt: skip
simple(
    "flattened_linear_to_maps", lambda n: (torch.randn(n, 5),),
    lambda s, x: s.t2(F.relu(s.t1(F.relu(s.a(x)).view(-1, s.t1.in_channels, 2, 2)))),
    a=linear(5, 32), t1=lambda: nn.ConvTranspose2d(8, 6, 4, 2, 1), t2=lambda: nn.ConvTranspose2d(6, 3, 4, 2, 1),
)  # fmt: skip
simple(
    "grouped_transposed", images(),
    lambda s, x: pooled(s.d(F.relu(s.c(F.relu(s.a(x)))))),
    a=conv(3, 8), c=lambda: nn.ConvTranspose2d(8, 12, 2, 2, groups=4), d=conv(12, 3),
)  # fmt: skip
simple(
    "depthwise_transposed", images(),
    lambda s, x: pooled(s.d(F.relu(s.c(F.relu(s.a(x)))))),
    a=conv(3, 8), c=lambda: nn.ConvTranspose2d(8, 8, 2, 2, groups=8), d=conv(8, 3),
)  # fmt: skip
simple(
    "grouped_with_multiplier", images(), lambda s, x: pooled(s.c(F.relu(s.b(F.relu(s.a(x)))))),
    a=conv(3, 6), b=conv(6, 12, groups=6), c=conv(12, 3),
)  # fmt: skip
simple(
    "pixel_shuffle_head", images(), lambda s, x: s.c(F.pixel_shuffle(F.leaky_relu(s.b(F.relu(s.a(x)))), 2)),
    a=conv(3, 8), b=conv(8, 16), c=conv(4, 3),
)  # fmt: skip
simple(
    "focus_stem", images(),
    lambda s, x: pooled(s.b(F.silu(s.a(torch.cat([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], 1))))),
    a=conv(12, 8), b=conv(8, 4),
)  # fmt: skip
simple(
    "squeeze_excite", images(),
    lambda s, x: (lambda y: pooled(s.d(y * torch.sigmoid(s.c(F.relu(s.b(F.adaptive_avg_pool2d(y, 1))))))))(
        F.relu(s.n(s.a(x)))),
    a=conv(3, 8), n=norm(8), b=conv(8, 4, 1), c=conv(4, 8, 1), d=conv(8, 3),
)  # fmt: skip
simple(
    "layer_scale_channels_last", images(),
    lambda s, x: (lambda y: s.e((y + (s.g * s.d(F.gelu(
        s.c(s.n(s.b(y).permute(0, 2, 3, 1)))))).permute(0, 3, 1, 2)).mean((-2, -1))))(s.a(x)),
    a=conv(3, 6), b=conv(6, 6, groups=6), n=lambda: nn.LayerNorm(6), c=linear(6, 24), d=linear(24, 6), e=linear(6, 3),
    g=lambda: Scale(6),
)  # fmt: skip
simple(
    "shuffled_channels", images(),
    lambda s, x: pooled(s.c(s.b(F.relu(s.a(x)).view(-1, 2, 4, 8, 8).transpose(1, 2).reshape(-1, 8, 8, 8)))),
    a=conv(3, 8), b=conv(8, 8, groups=2), c=conv(8, 3),
)  # fmt: skip
simple(
    "fft_filter", images(),
    lambda s, x: pooled(s.b(torch.fft.irfft2(torch.fft.rfft2(F.relu(s.a(x))) * 0.5, s=x.shape[-2:]))),
    a=conv(3, 8), b=conv(8, 3),
)  # fmt: skip
simple(
    "coordinates_joined", images(),
    lambda s, x: pooled(s.b(torch.cat([F.relu(s.a(x)), _grid(x).expand(len(x), -1, -1, -1)], 1))),
    a=conv(3, 8), b=conv(10, 3),
)  # fmt: skip
simple(
    "weights_of_experts", images(),
    lambda s, x: (lambda w, y: pooled(s.d(
        (torch.stack([f(y) for f in (s.a, s.b, s.c)], 1) * w[:, :, None, None, None]).sum(1))))(
        s.g(pooled(x)).softmax(-1), x),
    a=conv(3, 6), b=conv(3, 6), c=conv(3, 6), g=linear(3, 3), d=conv(6, 3),
)  # fmt: skip
simple(
    "spectral_and_weight_norm", images(),
    lambda s, x: pooled(s.c(F.relu(s.b(F.relu(s.a(x)))))),
    a=lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3)),
    b=lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(8, 6, 3)), c=conv(6, 3),
)  # fmt: skip
simple(
    "old_weight_norm", images(), lambda s, x: pooled(s.c(F.relu(s.b(F.relu(s.a(x)))))),
    a=conv(3, 8), b=lambda: nn.utils.weight_norm(nn.Conv2d(8, 6, 3)), c=conv(6, 3),
)  # fmt: skip
simple(
    "one_dimension", lambda n: (torch.randn(n, 2, 20),),
    lambda s, x: s.c(F.max_pool1d(F.relu(s.n(s.b(F.relu(s.a(x))))), 2).flatten(1)),
    a=lambda: nn.Conv1d(2, 6, 3), b=lambda: nn.Conv1d(6, 8, 3, groups=2), n=lambda: nn.BatchNorm1d(8),
    c=linear(64, 3),
)  # fmt: skip
simple(
    "three_dimensions", lambda n: (torch.randn(n, 2, 4, 6, 6),),
    lambda s, x: s.c(F.relu(s.n(s.b(F.relu(s.a(x))))).mean((2, 3, 4))),
    a=lambda: nn.Conv3d(2, 6, 3, padding=1), b=lambda: nn.Conv3d(6, 8, 3), n=lambda: nn.GroupNorm(4, 8), c=linear(8, 3),
)  # fmt: skip
simple(
    "bilinear_pooling", images(),
    lambda s, x: (lambda a, b: s.c((a @ b.mT / a.shape[-1]).flatten(1)))(
        F.relu(s.a(x)).flatten(2), F.relu(s.b(x)).flatten(2)),
    a=conv(3, 4), b=conv(3, 5), c=linear(20, 3),
)  # fmt: skip
simple(
    "bilinear_layer", lambda n: (torch.randn(n, 4), torch.randn(n, 5)),
    lambda s, x, y: s.d(s.c(F.relu(s.a(x)), F.relu(s.b(y)))),
    a=linear(4, 6), b=linear(5, 7), c=lambda: nn.Bilinear(6, 7, 8), d=linear(8, 3),
)  # fmt: skip
simple(
    "wide_and_deep", lambda n: (torch.randn(n, 2, 4),),
    lambda s, x: torch.sigmoid(s.d(torch.cat(
        [s.a(x.reshape(x.shape[0], -1)), F.relu(s.n(s.b(x.reshape(x.shape[0], -1))))], -1))),
    a=linear(8, 3), b=linear(8, 6), n=lambda: nn.BatchNorm1d(6), d=linear(9, 1),
)  # fmt: skip
simple(
    "prelu_of_each", images(), lambda s, x: pooled(s.b(s.p(s.n(s.a(x))))),
    a=conv(3, 8), n=lambda: nn.InstanceNorm2d(8, affine=True), p=lambda: nn.PReLU(8), b=conv(8, 3),
)  # fmt: skip
simple(
    "coordinate_attention", images(),
    lambda s, x: (lambda y: pooled(s.e(y * _along(s, y))))(F.relu(s.a(x))),
    a=conv(3, 8), b=conv(8, 4, 1), n=norm(4), c=conv(4, 8, 1), d=conv(4, 8, 1), e=conv(8, 3),
)  # fmt: skip
simple(
    "spatial_attention", images(),
    lambda s, x: (lambda y: pooled(s.c(y * s.b(torch.cat(
        [y.mean(1, keepdim=True), y.amax(1, keepdim=True)], 1)).sigmoid())))(
        F.relu(s.a(x))),
    a=conv(3, 8), b=conv(2, 1, 7), c=conv(8, 3),
)  # fmt: skip
simple(
    "reduced_by_mean_of_groups", images(),
    lambda s, x: pooled(s.b(F.relu(s.a(x)).unflatten(1, (4, 2)).mean(2))),
    a=conv(3, 8), b=conv(4, 3),
)  # fmt: skip
simple(
    "drift_of_a_running_mean", images(), lambda s, x: pooled(s.b(F.relu(s.n(s.a(x))))),
    a=conv(3, 8), n=lambda: nn.BatchNorm2d(8, track_running_stats=False), b=conv(8, 3),
)  # fmt: skip
simple(
    "grouped_normalised", images(),
    lambda s, x: pooled(s.c(F.relu(s.n(s.b(F.relu(s.a(x))))))),
    a=conv(3, 8), b=conv(8, 12, groups=4), n=lambda: nn.GroupNorm(4, 12), c=conv(12, 3),
)  # fmt: skip


class Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        return self.gamma * x

    __rmul__ = forward

    def __mul__(self, x: Tensor) -> Tensor:
        return self(x)


def _grid(x: Tensor) -> Tensor:
    line = torch.linspace(-1, 1, x.shape[-1])
    return torch.stack(torch.meshgrid(line, line, indexing="ij"))[None]


def _along(s: Any, y: Tensor) -> Tensor:
    h, w = y.shape[2:]
    lines = torch.cat([y.mean(3, keepdim=True), y.mean(2, keepdim=True).transpose(2, 3)], 2)
    a, b = F.hardswish(s.n(s.b(lines))).split([h, w], 2)
    return s.c(a).sigmoid() * s.d(b.transpose(2, 3)).sigmoid()
