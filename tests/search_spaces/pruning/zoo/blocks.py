"""Networks of published blocks of convolutions, and writes into their maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

from tests.search_spaces.pruning.zoo.cases import case, conv, images, linear, pooled, simple

simple(
    "rectified_both_ways", images(),
    lambda s, x: pooled(s.b((lambda y: torch.cat([F.relu(y), F.relu(-y)], 1))(s.a(x)))),
    a=conv(3, 6), b=conv(12, 3),
)  # fmt: skip
simple(
    "maxout", images(),
    lambda s, x: pooled(s.b(s.a(x).view(len(x), 4, 3, *x.shape[2:]).amax(2))),
    a=conv(3, 12), b=conv(4, 3),
)  # fmt: skip
simple(
    "maxout_across", images(),
    lambda s, x: pooled(s.b(s.a(x).view(len(x), 3, 4, *x.shape[2:]).amax(1))),
    a=conv(3, 12), b=conv(4, 3),
)  # fmt: skip
simple(
    "max_of_chunks", images(),
    lambda s, x: pooled(s.b((lambda p, q: torch.maximum(p, q))(*s.a(x).chunk(2, 1)))),
    a=conv(3, 12), b=conv(6, 3),
)  # fmt: skip
simple(
    "local_response", images(),
    lambda s, x: s.d(F.dropout(F.relu(s.c(F.max_pool2d(s.b(F.local_response_norm(F.relu(s.a(x)), 3)), 2).flatten(1))))),
    a=conv(3, 8), b=conv(8, 4), c=linear(64, 10), d=linear(10, 3),
)  # fmt: skip
simple(
    "highway", lambda n: (torch.randn(n, 8),),
    lambda s, x: s.c((lambda h, t: h * t + s.a(x) * (1 - t))(F.relu(s.b(s.a(x))), torch.sigmoid(s.g(s.a(x))))),
    a=linear(8, 8), b=linear(8, 8), g=linear(8, 8), c=linear(8, 3),
)  # fmt: skip
simple(
    "modulated_by_a_condition", lambda n: (torch.randn(n, 3, 6, 6), torch.randn(n, 5)),
    lambda s, x, c: pooled(s.b(F.relu(
        (lambda y, m: y * (1 + m[0][:, :, None, None]) + m[1][:, :, None, None])(s.n(s.a(x)), s.f(c).chunk(2, -1))))),
    a=conv(3, 8), n=lambda: nn.BatchNorm2d(8, affine=False), f=linear(5, 16), b=conv(8, 3),
)  # fmt: skip
simple(
    "style_of_instances", lambda n: (torch.randn(n, 3, 6, 6), torch.randn(n, 5)),
    lambda s, x, c: pooled(s.b(F.instance_norm(s.a(x)) * s.f(c).view(len(x), 8, 1, 1))),
    a=conv(3, 8), f=linear(5, 8), b=conv(8, 3),
)  # fmt: skip
simple(
    "weight_of_a_style", lambda n: (torch.randn(n, 3, 6, 6), torch.randn(n, 8)),
    lambda s, x, c: pooled(
        (lambda y, w: torch.einsum("bchw,boc->bohw", y, w * torch.rsqrt((w * w).sum(2, True) + 1e-4)))(
            F.relu(s.a(x)), s.b.weight[None, :, :, 0, 0] * s.f(c)[:, None])),
    a=conv(3, 8), f=linear(8, 8), b=conv(8, 3, 1),
)  # fmt: skip
simple(
    "coupled_halves", lambda n: (torch.randn(n, 6),),
    lambda s, x: (lambda p, q: torch.cat([q * torch.exp(torch.tanh(s.b(F.relu(s.a(p))))) + s.c(F.relu(s.a(p))), p], 1))(
        *x.chunk(2, 1)),
    a=linear(3, 10), b=linear(10, 3), c=linear(10, 3),
)  # fmt: skip
simple(
    "reversible", images(),
    lambda s, x: (lambda p, q: (lambda u: pooled(s.c(torch.cat([u, q + s.g(F.relu(u))], 1))))(p + s.f(F.relu(q))))(
        *s.a(x).chunk(2, 1)),
    a=conv(3, 12), f=conv(6, 6), g=conv(6, 6), c=conv(12, 3),
)  # fmt: skip
simple(
    "holes_of_many_rates", images(),
    lambda s, x: (lambda y: pooled(s.e(
        torch.cat([s.b(y), s.c(y), s.d(y.mean((2, 3), True)).expand(-1, -1, 8, 8)], 1))))(F.relu(s.a(x))),
    a=conv(3, 6), b=conv(6, 4, 1), c=lambda: nn.Conv2d(6, 5, 3, padding=2, dilation=2),
    d=conv(6, 3, 1), e=conv(12, 2, 1),
)  # fmt: skip
simple(
    "weighted_fusion", images(),
    lambda s, x: (lambda w: pooled(s.d(F.silu(w[0] * s.a(x) + w[1] * s.b(x) + w[2] * s.c(x)))))(
        F.relu(s.w.weight[0]) / (F.relu(s.w.weight[0]).sum() + 1e-4)),
    a=conv(3, 6), b=conv(3, 6, 1), c=conv(3, 6, 5), d=conv(6, 2), w=linear(3, 1),
)  # fmt: skip
simple(
    "interactions_of_pairs", lambda n: (torch.randint(9, (n, 4)),),
    lambda s, i: (lambda e: s.d(F.relu(s.c(e.flatten(1))))
                  + 0.5 * (e.sum(1) ** 2 - (e * e).sum(1)).sum(1, True))(s.a(i)),
    a=lambda: nn.Embedding(9, 6), c=linear(24, 10), d=linear(10, 1),
)  # fmt: skip
simple(
    "dots_of_pairs", lambda n: (torch.randint(9, (n, 4)), torch.randn(n, 3)),
    lambda s, i, x: (lambda e, d: s.d(torch.cat([d, torch.triu(e @ e.mT, 1).flatten(1)], 1)))(
        torch.cat([s.a(i), F.relu(s.b(x))[:, None]], 1), F.relu(s.b(x))),
    a=lambda: nn.Embedding(9, 6), b=linear(3, 6), d=linear(31, 2),
)  # fmt: skip
simple(
    "crossed", lambda n: (torch.randn(n, 6),),
    lambda s, x: s.d(F.relu(s.c(torch.cat([x * s.a(x) + x, F.relu(s.b(x))], 1)))),
    a=linear(6, 6), b=linear(6, 7), c=linear(13, 9), d=linear(9, 1),
)  # fmt: skip
simple(
    "capsules", images(),
    lambda s, x: (lambda u: (u.pow(2).sum(-1) / (1 + u.pow(2).sum(-1))) @ s.c.weight.t())(
        F.relu(s.a(x)).mean((2, 3)).unflatten(1, (4, 3))),
    a=conv(3, 12), c=linear(4, 2),
)  # fmt: skip
simple(
    "points", lambda n: (torch.randn(n, 3, 7),),
    lambda s, x: s.d(F.relu(s.c(F.relu(s.b(torch.bmm(s.t(x.amax(2)).view(-1, 3, 3), x))).amax(2)))),
    t=linear(3, 9), b=lambda: nn.Conv1d(3, 8, 1), c=linear(8, 6), d=linear(6, 2),
)  # fmt: skip
simple(
    "attention_over_neighbours", lambda n: (torch.randn(n, 5, 4), torch.rand(n, 5, 5).round()),
    lambda s, x, m: (lambda h: s.d(F.elu(
        (F.leaky_relu(s.l(h) + s.r(h).mT).masked_fill(m == 0, -1e9)).softmax(-1) @ h)))(s.a(x)),
    a=linear(4, 8), l=linear(8, 1), r=linear(8, 1), d=linear(8, 2),
)  # fmt: skip
simple(
    "gated_in_time", lambda n: (torch.randn(n, 3, 9),),
    lambda s, x: (lambda p, q: s.d(s.a(x) + s.c(torch.tanh(p) * torch.sigmoid(q))))(
        *s.b(F.pad(s.a(x), (2, 0))).chunk(2, 1)),
    a=lambda: nn.Conv1d(3, 6, 1), b=lambda: nn.Conv1d(6, 16, 2, dilation=2), c=lambda: nn.Conv1d(8, 6, 1),
    d=lambda: nn.Conv1d(6, 2, 1),
)  # fmt: skip
simple(
    "straight_through", images(),
    lambda s, x: (lambda y: pooled(s.b(y + (torch.sign(y) - y).detach())))(s.n(s.a(x))),
    a=conv(3, 8), n=lambda: nn.BatchNorm2d(8), b=conv(8, 3),
)  # fmt: skip
simple(
    "written_by_a_mask", images(),
    lambda s, x: (lambda y: pooled(s.b(y.masked_scatter(y < 0, torch.zeros_like(y)))))(s.a(x)),
    a=conv(3, 8), b=conv(8, 3),
)  # fmt: skip
simple(
    "a_group_norm_of_pairs", images(), lambda s, x: pooled(s.b(F.silu(s.n(s.a(x))))),
    a=conv(3, 8), n=lambda: nn.GroupNorm(4, 8), b=conv(8, 3),
)  # fmt: skip
simple(
    "channels_swapped", images(),
    lambda s, x: pooled(s.b(F.relu(s.a(x))[:, [3, 2, 1, 0, 7, 6, 5, 4]]) + s.c(F.relu(s.a(x)))),
    a=conv(3, 8), b=conv(8, 3), c=conv(8, 3),
)  # fmt: skip
simple(
    "channels_rolled", images(), lambda s, x: pooled(s.b(F.relu(s.a(x)).roll(2, 1) + F.relu(s.a(x)))),
    a=conv(3, 8), b=conv(8, 3),
)  # fmt: skip
simple(
    "channels_shifted", images(),
    lambda s, x: (lambda y: pooled(s.b(torch.cat([y[:, 1:], y[:, :1]], 1) * y)))(F.relu(s.a(x))),
    a=conv(3, 8), b=conv(8, 3),
)  # fmt: skip
simple(
    "means_and_strongest", images(),
    lambda s, x: (lambda y: s.b(torch.cat([y.mean((2, 3)), y.amax((2, 3)), y.std((2, 3))], 1)))(F.relu(s.a(x))),
    a=conv(3, 8), b=linear(24, 3),
)  # fmt: skip
simple(
    "no_head", images(), lambda s, x: (s.b(F.relu(s.a(x))), F.relu(s.a(x)).mean()), a=conv(3, 8), b=conv(8, 3),
)  # fmt: skip


def _written(s: nn.Module, x: Tensor) -> Tensor:
    y = torch.zeros(len(x), 8, 8, 8)
    y[:, :5] += s.a(x)  # type: ignore[operator]
    y[:, 3:] += s.b(x)  # type: ignore[operator]
    y[:, ::2].mul_(0.5)
    return pooled(s.c(F.relu(y)))  # type: ignore[operator]


simple("overlapping_writes", images(), _written, a=conv(3, 5), b=conv(3, 5), c=conv(8, 3))


def _copied(s: nn.Module, x: Tensor) -> Tensor:
    y = F.relu(s.a(x))  # type: ignore[operator]
    z = torch.empty_like(y)
    z[:, :4].copy_(y[:, 4:])
    z[:, 4:].copy_(y[:, :4])
    z.index_add_(1, torch.tensor([0, 1]), y[:, 2:4])
    return pooled(s.b(z))  # type: ignore[operator]


simple("copied_in_parts", images(), _copied, a=conv(3, 8), b=conv(8, 3))


def _scanned(s: nn.Module, x: Tensor) -> Tensor:
    """A selective scan by a loop: state of (batch, channels, 2)."""
    u, step = F.silu(s.a(x)), F.softplus(s.dt(x))  # type: ignore[operator]
    b, c = s.bc(x).chunk(2, -1)  # type: ignore[operator]
    h, found = u.new_zeros(len(x), 6, 2), []
    for t in range(x.shape[1]):
        h = h * torch.exp(-step[:, t, :, None]) + step[:, t, :, None] * b[:, t, None] * u[:, t, :, None]
        found.append((h * c[:, t, None]).sum(-1))
    return s.o(torch.stack(found, 1))  # type: ignore[operator]


simple(
    "selective_scan", lambda n: (torch.randn(n, 4, 5),), _scanned,
    a=linear(5, 6), dt=linear(5, 6), bc=linear(5, 4), o=linear(6, 2),
)  # fmt: skip


@case(images())
class Res2(nn.Module):
    """Parts of the channels, each through a layer with the sum of the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.d = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 3, 1)
        self.parts = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        first, *rest = F.relu(self.a(x)).split(4, 1)
        found, y = [first], torch.zeros_like(first)
        for layer, part in zip(self.parts, rest, strict=True):
            y = F.relu(layer(part + y))
            found.append(y)
        return pooled(self.d(torch.cat(found, 1)))


@case(images())
class Dense(nn.Module):
    """Every layer reads all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(15, 3, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(6 + 3 * k) for k in range(3))
        self.layers = nn.ModuleList(nn.Conv2d(6 + 3 * k, 3, 3, padding=1) for k in range(3))

    def forward(self, x: Tensor) -> Tensor:
        found = [self.stem(x)]
        for n, layer in zip(self.norms, self.layers, strict=True):
            found.append(layer(F.relu(n(torch.cat(found, 1)))))
        return pooled(self.last(torch.cat(found, 1)))


@case(images())
class PartsThrough(nn.Module):
    """Half of the channels through a layer and joined with the rest in another order, twice; then gathered."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.e = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(16, 3, 1)
        self.b, self.c = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, groups=4)

    def forward(self, x: Tensor) -> Tensor:
        y = list(F.relu(self.a(x)).chunk(2, 1))
        y.extend(layer(y[-1]) for layer in (self.b, self.c))
        return pooled(self.e(torch.cat([y[k] for k in (1, 0, 3, 2)], 1)))


@case(images())
class Exchange(nn.Module):
    """Two resolutions that are added to each other."""

    def __init__(self) -> None:
        super().__init__()
        self.high, self.low = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 10, 3, 2, 1)
        self.down, self.up = nn.Conv2d(6, 10, 3, 2, 1), nn.Conv2d(10, 6, 1)
        self.a, self.b = nn.Conv2d(6, 3, 1), nn.Conv2d(10, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        high, low = F.relu(self.high(x)), F.relu(self.low(x))
        up = F.interpolate(self.up(low), scale_factor=2, mode="bilinear", align_corners=False)
        return pooled(self.a(F.relu(high + up))) + pooled(self.b(F.relu(low + self.down(high))))


@case(images())
class UNetOfUNets(nn.Module):
    """Nested skips, joined along the channels in different orders, and gates on them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (
            nn.Conv2d(3, 6, 3, padding=1),
            nn.Conv2d(6, 8, 3, padding=1),
            nn.Conv2d(8, 8, 1),
        )
        self.ab, self.bc = nn.Conv2d(14, 6, 3, padding=1), nn.Conv2d(16, 7, 3, padding=1)
        self.gate, self.last = nn.Conv2d(7, 1, 1), nn.Conv2d(19, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        def up(t: Tensor) -> Tensor:
            return F.interpolate(t, scale_factor=2)

        a = F.relu(self.a(x))
        b = F.relu(self.b(F.max_pool2d(a, 2)))
        c = F.relu(self.c(F.max_pool2d(b, 2)))
        ab = F.relu(self.ab(torch.cat([a, up(b)], 1)))
        bc = F.relu(self.bc(torch.cat([up(c), b], 1)))
        return self.last(torch.cat([ab, up(bc), a * torch.sigmoid(up(self.gate(bc)))], 1))


@case(images())
class Patches(nn.Module):
    """Maps unfolded to patches, attention between the same places of all patches, folded again."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.q, self.o = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 24), nn.Linear(8, 8)
        self.last = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        b, c, h, w = y.shape
        t = y.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 2, 4, 1).reshape(b, 4, h * w // 4, c)
        q, k, v = self.q(t).chunk(3, -1)
        t = t + self.o(F.scaled_dot_product_attention(q, k, v))
        z = t.reshape(b, 2, 2, h // 2, w // 2, -1).permute(0, 5, 3, 1, 4, 2).reshape(b, -1, h, w)
        return pooled(self.last(torch.cat([y, z], 1)))


@case(images())
class Masked(nn.Module):
    """Layers whose weights are masked by PyTorch's own pruning."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 3, 1)
        prune.l1_unstructured(self.b, "weight", 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return pooled(self.c(F.relu(self.b(F.relu(self.a(x))))))


@case(lambda n: (torch.randn(n, 3, 8, 8), torch.rand(n)))
class Denoiser(nn.Module):
    """Blocks that add the time, stored skips that are popped, one block called at both resolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.time, self.stem = nn.Sequential(nn.Linear(6, 8), nn.SiLU()), nn.Conv2d(3, 8, 3, padding=1)
        self.n, self.a, self.t = nn.GroupNorm(8, 8), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 8)
        self.last = nn.Conv2d(16, 3, 3, padding=1)

    def block(self, x: Tensor, t: Tensor) -> Tensor:
        return x + self.a(F.silu(self.n(x) + self.t(t)[:, :, None, None]))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angles = t[:, None] * torch.exp(-torch.arange(3, dtype=t.dtype) / 3)
        time = self.time(torch.cat([angles.sin(), angles.cos()], -1))
        skips = [self.block(self.stem(x), time)]
        y = self.block(F.avg_pool2d(skips[-1], 2), time)
        return self.last(torch.cat([F.interpolate(y, scale_factor=2), skips.pop()], 1))
