"""Transformers and their relatives."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.search_spaces.pruning.zoo.cases import case, images, linear, simple, tokens, words


class Heads(nn.Module):
    """What self-attentions share: three layers in, one out, some heads."""

    def __init__(self, width: int = 8, heads: int = 2, size: int = 4, groups: int | None = None) -> None:
        super().__init__()
        self.heads, self.size, self.groups = heads, size, groups or heads
        self.q, self.o = nn.Linear(width, heads * size), nn.Linear(heads * size, width)
        self.k, self.v = nn.Linear(width, self.groups * size), nn.Linear(width, self.groups * size)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        n, length, _ = x.shape
        q, k, v = (f(x).view(n, length, -1, self.size).transpose(1, 2) for f in (self.q, self.k, self.v))
        return q, k, v

    def join(self, x: Tensor) -> Tensor:
        return self.o(x.transpose(1, 2).flatten(2))


@case(tokens())
class GroupedQueries(Heads):
    """Keys and values of half as many heads, expanded and reshaped."""

    def __init__(self) -> None:
        super().__init__(heads=4, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        n, g, length, size = k.shape
        k, v = (
            t[:, :, None].expand(n, g, self.heads // g, length, size).reshape(n, -1, length, size)
            for t in (k, v)
        )
        return x + self.join(F.scaled_dot_product_attention(q, k, v))


@case(tokens())
class InterleavedQueries(GroupedQueries):
    """The same by `repeat_interleave`, and by an argument of the operator."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        a = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        k, v = (t.repeat_interleave(2, 1) for t in (k, v))
        return x + self.join(a + (q @ k.mT / self.size**0.5).softmax(-1) @ v)


@case(tokens())
class SingleKey(Heads):
    """All queries on one head of keys and values."""

    def __init__(self) -> None:
        super().__init__(heads=4, groups=1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        return x + self.join((q @ k.mT * self.size**-0.5).softmax(-1) @ v)


def rotated(x: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat([-b, a], -1)


@case(tokens())
class Rotary(Heads):
    """Queries and keys turned by their position, with a gated layer after it and root mean squares as norms."""

    def __init__(self) -> None:
        super().__init__(heads=3)
        self.gate, self.up, self.down = (nn.Linear(*s, bias=False) for s in ((8, 12), (8, 12), (12, 8)))
        self.weight = nn.Parameter(torch.ones(8))
        self.register_buffer("rates", 1 / 10.0 ** (torch.arange(0, 4, 2) / 4), persistent=False)

    def norm(self, x: Tensor) -> Tensor:
        kept = x.dtype
        x = x.to(torch.float32)
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)).to(kept)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(self.norm(x))
        angles = torch.outer(torch.arange(x.shape[1]).float(), self.rates)
        cos, sin = (torch.cat([f(angles)] * 2, -1).to(x.dtype) for f in (torch.cos, torch.sin))
        q, k = (t * cos + rotated(t) * sin for t in (q, k))
        x = x + self.join(F.scaled_dot_product_attention(q, k, v, is_causal=True))
        y = self.norm(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


@case(words())
class RelativeBias(Heads):
    """A learned bias by bucketed distance, shared by two layers; no scale; the table of words tied to the output."""

    def __init__(self) -> None:
        super().__init__(heads=2)
        self.words, self.bias = nn.Embedding(11, 8), nn.Embedding(5, 2)
        self.a, self.b = nn.Linear(8, 16, bias=False), nn.Linear(16, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.words(x)
        place = torch.arange(x.shape[1])
        bias = self.bias((place[None] - place[:, None]).clamp(-2, 2) + 2).permute(2, 0, 1)[None]
        for _ in (0, 1):
            q, k, v = self.split(y)
            y = y + self.join((q @ k.transpose(-1, -2) + bias).float().softmax(-1).type_as(q) @ v)
            y = y + self.b(F.relu(self.a(y)))
        return y @ self.words.weight.t()


@case(tokens())
class RelativeShift(Heads):
    """Scores by content and by distance, the second moved into place by padding and views."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Linear(8, 8, bias=False)
        self.u, self.w = nn.Parameter(torch.randn(2, 4)), nn.Parameter(torch.randn(2, 4))
        self.register_buffer("table", torch.randn(6, 8))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        r = self.place(self.table).view(-1, self.heads, self.size).permute(1, 2, 0)
        content = (q + self.u[:, None]) @ k.mT
        place = (q + self.w[:, None]) @ r
        n, h, a, b = place.shape
        place = F.pad(place, (1, 0)).view(n, h, b + 1, a)[:, :, 1:].view(n, h, a, b)
        return x + self.join(((content + place) / 2).softmax(-1) @ v)


@case(lambda n: (torch.randn(n, 6, 8), torch.arange(6).expand(n, 6) < 4))
class Padded(Heads):
    """Keys that are padding get minus infinity, scores are an output."""

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = self.split(x)
        scores = (q @ k.mT).masked_fill(~mask[:, None, None, :], -torch.inf)
        return x + self.join(scores.softmax(-1) @ v), scores


@case(lambda n: (torch.randn(n, 6, 8), torch.rand(n, 6) > 0.3))
class Policy(nn.Module):
    """Two heads on a trunk; the logits of what is not allowed are -1e9."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 10), nn.Tanh())
        self.policy, self.value = nn.Linear(10, 6), nn.Linear(10, 1)

    def forward(self, x: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
        y = self.trunk(x)
        return self.policy(y).masked_fill(~allowed, -1e9), self.value(y).squeeze(-1)


@case(tokens())
class Fused(nn.Module):
    """Queries, keys and values in one layer, by the numbers of heads; masked scores are returned."""

    def __init__(self, heads: int = 4) -> None:
        super().__init__()
        self.h, self.qkv, self.o = heads, nn.Linear(8, 48), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        n, length, _ = x.shape
        q, k, v = self.qkv(x).view(n, length, 3, self.h, -1).permute(2, 0, 3, 1, 4)
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        scores = (q @ k.mT).masked_fill(~causal, -torch.inf)
        return self.o((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, length, -1)), scores.sum(1)


@case(tokens())
class Cosine(nn.Module):
    """Directions of queries and keys, a learned temperature of each head that is bounded."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.o = nn.Linear(8, 24, bias=False), nn.Linear(8, 8)
        self.scale, self.shift = nn.Parameter(torch.ones(2, 1, 1)), nn.Parameter(torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        bias = torch.cat([self.shift, torch.zeros_like(self.shift), self.shift])
        q, k, v = F.linear(x, self.qkv.weight, bias).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        scores = scores * self.scale.clamp(max=4.6).exp()
        return x + self.o((scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape))


@case(images())
class ChannelAttention(nn.Module):
    """Attention between channels, and a gated feed-forward of depthwise convolutions."""

    def __init__(self, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.stem = heads, nn.Conv2d(3, width, 3, padding=1)
        self.qkv, self.deep = (
            nn.Conv2d(width, 3 * width, 1),
            nn.Conv2d(3 * width, 3 * width, 3, padding=1, groups=3 * width),
        )
        self.temperature, self.o = nn.Parameter(torch.ones(heads, 1, 1)), nn.Conv2d(width, width, 1)
        self.enter, self.mix = nn.Conv2d(width, 12, 1), nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.leave, self.head = nn.Conv2d(6, width, 1), nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        n, c, h, w = y.shape
        q, k, v = (
            t.reshape(n, self.heads, c // self.heads, h * w) for t in self.deep(self.qkv(y)).chunk(3, dim=1)
        )
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        out = ((q @ k.transpose(-2, -1)) * self.temperature).softmax(-1) @ v
        y = y + self.o(out.reshape(n, -1, h, w))
        a, b = self.mix(self.enter(y)).chunk(2, 1)
        return x + self.head(y + self.leave(F.gelu(a) * b))


@case(images())
class Windows(nn.Module):
    """Windows that are shifted and rolled back, with the mask made in the forward pass by ranges."""

    def __init__(self, width: int = 8, heads: int = 2, window: int = 4) -> None:
        super().__init__()
        self.width, self.heads, self.window = width, heads, window
        self.stem, self.norm = nn.Conv2d(3, width, 1), nn.LayerNorm(width)
        self.qkv, self.o = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.bias = nn.Parameter(torch.randn(heads, window**2, window**2) * 0.1)
        self.mlp, self.head = (
            nn.Sequential(nn.Linear(width, 16), nn.GELU(), nn.Linear(16, width)),
            nn.Linear(width, 3),
        )

    def cut(self, x: Tensor) -> Tensor:
        n, h, w, c = x.shape
        s = self.window
        return x.view(n, h // s, s, w // s, s, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, s * s, c)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).permute(0, 2, 3, 1)
        n, h, w, c = y.shape
        s, half = self.window, self.window // 2
        regions, count = torch.zeros(1, h, w, 1), 0
        for rows in (slice(0, -s), slice(-s, -half), slice(-half, None)):
            for columns in (slice(0, -s), slice(-s, -half), slice(-half, None)):
                regions[:, rows, columns] = count
                count += 1
        parts = self.cut(regions).squeeze(-1)
        mask = (parts[:, None] != parts[:, :, None]).float() * -100.0
        z = self.cut(torch.roll(self.norm(y), (-half, -half), (1, 2)))
        q, k, v = self.qkv(z).reshape(len(z), s * s, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) + self.bias
        scores = (scores.view(n, -1, self.heads, s * s, s * s) + mask[None, :, None]).view(
            -1, self.heads, s * s, s * s
        )
        z = self.o((scores.softmax(-1) @ v).transpose(1, 2).reshape(-1, s * s, c))
        z = z.view(n, h // s, w // s, s, s, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
        y = y + torch.roll(z, (half, half), (1, 2))
        return self.head((y + self.mlp(y)).mean((1, 2)))


@case(tokens())
class Experts(nn.Module):
    """The two best of four experts for each token, by masks; all are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(8, 4)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8)) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        best, which = self.gate(x).topk(2, -1)
        weights = torch.zeros_like(self.gate(x)).scatter(-1, which, best.softmax(-1))
        out = torch.zeros_like(x)
        for k, expert in enumerate(self.experts):
            out += weights[..., k : k + 1] * expert(x)
        return x + out


@case(tokens())
class PackedExperts(nn.Module):
    """Experts as one parameter for all, by einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.a, self.b = (
            nn.Linear(8, 3),
            nn.Parameter(torch.randn(3, 8, 12) * 0.3),
            nn.Parameter(torch.randn(3, 12, 8) * 0.3),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(torch.einsum("nld,edf->nelf", x, self.a))
        return torch.einsum("nelf,efd,nle->nld", h, self.b, self.gate(x).softmax(-1))


@case(lambda n: (torch.randn(n, 6, 8), torch.randn(n, 4, 8)))
class Decoder(nn.Module):
    """PyTorch's own layers: an encoder, and a decoder with a causal mask on what the encoder gives."""

    def __init__(self) -> None:
        super().__init__()
        common = {"dim_feedforward": 16, "batch_first": True, "dropout": 0.0}
        self.encoder = nn.TransformerEncoderLayer(8, 2, **common)
        self.decoder = nn.TransformerDecoderLayer(8, 2, norm_first=True, **common)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(y.shape[1])
        return self.decoder(y, self.encoder(x), tgt_mask=mask)


@case(images())
class ClassToken(nn.Module):
    """A class token that is expanded to the batch, positions that are added, a norm before all."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.token = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.randn(1, 1, 8))
        self.place, self.norm = nn.Parameter(torch.randn(1, 5, 8)), nn.LayerNorm(8)
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)
        self.a, self.b, self.g = nn.Linear(8, 16), nn.Linear(16, 8), nn.Parameter(torch.ones(8) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.patch(x).flatten(2).transpose(1, 2)
        y = torch.cat([self.token.repeat(len(x), 1, 1), y], 1) + self.place
        z = self.norm(y)
        y = y + self.attention(z, z, z, need_weights=False)[0]
        y = y + self.g * self.b(F.gelu(self.a(self.norm(y))))
        return self.head(y[:, 0])


@case(tokens())
class Linearised(Heads):
    """Attention without a softmax: features of keys summed with values, normalised by sums of keys."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        q, k = F.elu(q) + 1, F.elu(k) + 1
        state = torch.einsum("nhld,nhle->nhde", k, v)
        weight = 1 / (torch.einsum("nhld,nhd->nhl", q, k.sum(2)) + 1e-6)
        return x + self.join(torch.einsum("nhld,nhde,nhl->nhle", q, state, weight))


@case(images())
class Mixer(nn.Module):
    """Layers over tokens and over channels in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.n1, self.n2 = nn.Conv2d(3, 8, 2, 2), nn.LayerNorm(8), nn.LayerNorm(8)
        self.over = nn.Sequential(nn.Linear(16, 10), nn.GELU(), nn.Linear(10, 16))
        self.within, self.head = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.patch(x).flatten(2).transpose(1, 2)
        y = y + self.over(self.n1(y).transpose(1, 2)).transpose(1, 2)
        return self.head((y + self.within(self.n2(y))).mean(1))


simple(
    "low_rank_adapters", tokens(),
    lambda s, x: s.d(F.relu(s.a(x) + 2.0 * s.c(s.b(x)))),
    a=linear(8, 12), b=linear(8, 2, False), c=linear(2, 12, False), d=linear(12, 3),
)  # fmt: skip
simple(
    "pooled_by_a_query", tokens(),
    lambda s, x: (lambda y: s.c((s.b(y).softmax(1) * y).sum(1)))(torch.tanh(s.a(x))),
    a=linear(8, 12), b=linear(12, 1), c=linear(12, 3),
)  # fmt: skip
simple(
    "gated_and_latent", tokens(),
    lambda s, x: (lambda z: _latent(s, z))(s.down(x)),
    down=linear(8, 4, False), k=linear(4, 12), v=linear(4, 12), q=linear(4, 12), o=linear(12, 8),
)  # fmt: skip


def _latent(s: Any, z: Tensor) -> Tensor:
    q, k, v = (f(z).unflatten(-1, (3, 4)).transpose(1, 2) for f in (s.q, s.k, s.v))
    return s.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
