"""Recurrent networks, words, graphs, and networks that are odd in how they are written."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import register_dataclass

from tests.search_spaces.pruning.zoo.cases import (
    ZOO,
    Case,
    Simple,
    case,
    conv,
    images,
    linear,
    pooled,
    simple,
    tokens,
    words,
)


@case(lambda n: (torch.randint(1, 11, (n, 6)), torch.arange(6).expand(n, 6) < 4))
class PaddedLSTM(nn.Module):
    """The last state that is no padding, of both directions, and a layer on it."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 8, padding_idx=0)
        self.rnn = nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True)
        self.a, self.b = nn.Linear(12, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y, _ = self.rnn(self.words(x))
        y = y * mask[..., None]
        last = y.gather(1, (mask.sum(1) - 1)[:, None, None].expand(-1, 1, y.shape[-1])).squeeze(1)
        return self.b(F.relu(self.a(last)))


simple(
    "gru_between_layers", tokens(), lambda s, x: s.c(s.b(F.relu(s.a(x)))[0][:, -1]),
    a=linear(8, 12), b=lambda: nn.GRU(12, 6, batch_first=True), c=linear(6, 3),
)  # fmt: skip
simple(
    "convolutions_and_gru", lambda n: (torch.randn(n, 3, 12),),
    lambda s, x: s.c(s.b(F.relu(s.n(s.a(x))).transpose(1, 2))[0].mean(1)),
    a=lambda: nn.Conv1d(3, 8, 3, padding=1), n=lambda: nn.BatchNorm1d(8), b=lambda: nn.GRU(8, 6, batch_first=True),
    c=linear(6, 3),
)  # fmt: skip


@case(tokens(4))
class CellByHand(nn.Module):
    """A gated cell in a loop, its state stacked."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.width = width
        self.i, self.h, self.head = nn.Linear(8, 4 * width), nn.Linear(width, 4 * width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(len(x), self.width)
        states = []
        for t in range(x.shape[1]):
            i, f, g, o = (self.i(x[:, t]) + self.h(h)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            states.append(h)
        return self.head(torch.stack(states, 1))


@case(tokens(4))
class MinimalCell(nn.Module):
    """A cell without sigmoids at zero: its state is written into a tensor row by row."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.i, self.h = nn.Linear(8, width), nn.Linear(width, width, bias=False)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.i(x)
        out = torch.zeros_like(y)
        h = torch.zeros_like(y[:, 0])
        for t in range(x.shape[1]):
            h = torch.tanh(y[:, t] + self.h(h))
            out[:, t] = h
        return self.head(out)


@case(lambda n: (torch.randn(n, 3, 20),))
class Dilated(nn.Module):
    """Causal convolutions, padded on one side and cut, with gates and sums of skips."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv1d(3, 8, 1)
        self.layers = nn.ModuleList(nn.Conv1d(8, 12, 2, dilation=2**k, padding=2**k) for k in range(3))
        self.back = nn.ModuleList(nn.Conv1d(6, 8, 1) for _ in range(3))
        self.skip, self.leave = nn.ModuleList(nn.Conv1d(6, 5, 1) for _ in range(3)), nn.Conv1d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, total = self.enter(x), 0
        for layer, back, skip in zip(self.layers, self.back, self.skip, strict=True):
            a, b = layer(x)[..., : x.shape[-1]].chunk(2, 1)
            y = a.tanh() * b.sigmoid()
            x, total = x + back(y), total + skip(y)
        return self.leave(F.relu(total))


@case(words())
class TiedWords(nn.Module):
    """The table of words is the last layer too, and stands in two lists of parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.place = nn.Embedding(11, 8), nn.Embedding(6, 8)
        self.a, self.b = nn.Linear(8, 12), nn.Linear(12, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        y = self.words(x) * 8**0.5 + self.place(torch.arange(x.shape[1]))
        return self.head(y + self.b(F.relu(self.a(y))))


@case(lambda n: (torch.randint(7, (n, 3)), torch.randn(n, 2)))
class Factorised(nn.Module):
    """Features of a table by fields, products of pairs, numbers beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.dense = nn.Embedding(21, 6), nn.Linear(2, 6)
        self.a, self.b = nn.Linear(24, 10), nn.Linear(10, 1)
        self.register_buffer("offset", torch.tensor([0, 7, 14]))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        e = torch.cat([self.table(x + self.offset), F.relu(self.dense(y))[:, None]], 1)
        pairs = 0.5 * (e.sum(1) ** 2 - (e**2).sum(1)).sum(1, keepdim=True)
        return (pairs + self.b(F.relu(self.a(e.flatten(1))))).squeeze(1)


@case(lambda n: (torch.randn(n, 7, 5), (torch.rand(n, 7, 7) > 0.5).float()))
class Neighbours(nn.Module):
    """Sums over neighbours, normalised by how many there are, and attention by leaky scores of pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 3)
        self.left, self.right = nn.Linear(8, 1), nn.Linear(8, 1)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        edges = edges + torch.eye(7)
        rate = edges.sum(-1).pow(-0.5)
        h = F.relu(rate[..., None] * (edges @ self.a(x)) * rate[..., None])
        scores = F.leaky_relu(self.left(h) + self.right(h).transpose(1, 2)).masked_fill(edges == 0, -1e9)
        return self.head(F.elu(scores.softmax(-1) @ self.b(h)).amax(1))


@case(tokens())
class NotesItsInput(nn.Module):
    """Keeps what it saw, a lock, a count in a buffer; nothing of that is an output."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.lock, self.last = nn.Linear(8, 12), nn.Linear(12, 3), threading.Lock(), None
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            self.last = F.relu(self.a(x))
        self.seen += 1
        return self.b(self.last)


@case(lambda n: ({"x": torch.randn(n, 8), "extra": [torch.randn(n, 4), None]},))
class Mappings(nn.Module):
    """A mapping with a list goes in, a mapping with None and a number comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 12), nn.Linear(4, 12), nn.Linear(12, 3)

    def forward(self, given: dict[str, Any]) -> dict[str, Any]:
        h = F.relu(self.a(given["x"]) + self.b(given["extra"][0]))
        return {"logits": self.c(h), "loss": None, "scale": 2.0}


@dataclass
class Output:
    logits: Tensor
    features: Tensor


register_dataclass(Output)


@case(tokens())
class GivesDataclass(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Output:
        h = F.relu(self.a(x))
        return Output(self.b(h), h.mean(1))


@case(images())
class Switches(nn.Module):
    """A part without gradients, a part in half precision, a branch by a setting, dropout that is off."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Conv2d(8, 3, 1),
        )
        self.residual = True

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = (x - x.mean()) / (x.std() + 1e-6)
        y = F.relu(self.a(x))
        y = y + self.b(y) if self.residual else self.b(y)
        return pooled(self.c(F.dropout2d(y, 0.2, self.training)))


simple(
    "half_precision", images(), lambda s, x: _half(s, x), a=conv(3, 8), b=conv(8, 8), c=conv(8, 3),
)  # fmt: skip
simple(
    "noise_in_eval", tokens(), lambda s, x: s.b(F.relu(s.a(x)) + torch.randn(x.shape[0], 6, 12)), a=linear(8, 12),
    b=linear(12, 3),
)  # fmt: skip
simple(
    "noise_like_maps", tokens(), lambda s, x: s.c(F.relu(s.b((lambda y: y + torch.randn_like(y))(s.a(x))))),
    a=linear(8, 12), b=linear(12, 10), c=linear(10, 3),
)  # fmt: skip
simple(
    "dropout_left_on", tokens(), lambda s, x: s.b(F.dropout(F.relu(s.a(x)), 0.5)), a=linear(8, 12), b=linear(12, 3),
)  # fmt: skip
simple(
    "integers_out", tokens(),
    lambda s, x: (s.b(F.relu(s.a(x))).argmax(-1), x.shape[1]), a=linear(8, 12), b=linear(12, 3),
)  # fmt: skip
simple(
    "tiny_output", tokens(), lambda s, x: s.b(F.relu(s.a(x))) * 1e-12, a=linear(8, 12), b=linear(12, 3),
)  # fmt: skip
simple(
    "triangle_of_channels", tokens(8), lambda s, x: s.b(F.relu(s.a(x)).tril()), a=linear(8, 12), b=linear(12, 3),
)  # fmt: skip
simple(
    "clamped_through_a_view", tokens(), lambda s, x: s.b(_clamped(s.a(x))), a=linear(8, 12), b=linear(12, 3),
)  # fmt: skip
simple(
    "a_pole_at_zero", tokens(), lambda s, x: s.b((F.relu(s.a(x)) + 0.0).pow(-0.5).clamp(max=9.0)), a=linear(8, 12),
    b=linear(12, 3),
)  # fmt: skip
simple(
    "half_overwritten", images(), lambda s, x: pooled(s.b(_overwritten(F.relu(s.a(x))))), a=conv(3, 8), b=conv(8, 3),
)  # fmt: skip
simple(
    "empty_list_joined", images(),
    lambda s, x: pooled(s.b(torch.cat([torch.zeros(0), F.relu(s.a(x))], 1))), a=conv(3, 8),
    b=conv(8, 3),
)  # fmt: skip
simple(
    "one_hot_in", lambda n: (torch.randint(5, (n, 4)),),
    lambda s, x: s.b(F.relu(s.a(F.one_hot(x, 5).float().flatten(1)))), a=linear(20, 12), b=linear(12, 3),
)  # fmt: skip
simple(
    "siamese", lambda n: (torch.randn(n, 8), torch.randn(n, 8)),
    lambda s, x, y: (lambda a, b: torch.cat([(a - b).abs(), F.cosine_similarity(a, b)[:, None]], 1))(
        *(s.b(F.relu(s.a(t))) for t in (x, y))),
    a=linear(8, 12), b=linear(12, 6),
)  # fmt: skip
simple(
    "sampled_latent", tokens(),
    lambda s, x: (lambda m, v: (s.d(F.relu(s.c(m + torch.exp(0.5 * v) * 0.1))), m, v))(
        *s.b(F.relu(s.a(x))).chunk(2, -1)),
    a=linear(8, 12), b=linear(12, 8), c=linear(4, 10), d=linear(10, 8),
)  # fmt: skip
simple(
    "nearest_codes", tokens(),
    lambda s, x: (lambda z: s.b(s.codes(torch.cdist(z, s.codes.weight[None]).argmin(-1))))(s.a(x)),
    a=linear(8, 4), codes=lambda: nn.Embedding(7, 4), b=linear(4, 8),
)  # fmt: skip
ZOO["data_parallel"] = Case(
    lambda: nn.DataParallel(Simple(lambda s, x: pooled(s.b(F.relu(s.a(x)))), a=conv(3, 8)(), b=conv(8, 3)())),
    images(),
)
ZOO["compiled"] = Case(
    lambda: torch.compile(
        Simple(lambda s, x: pooled(s.b(F.relu(s.a(x)))), a=conv(3, 8)(), b=conv(8, 3)()), backend="eager"
    ),
    images(),
)
ZOO["shared_layer_of_two_sizes"] = Case(
    lambda: Simple(
        lambda s, x: pooled(s.c(
            F.relu(s.b(F.relu(s.a(x)))) + s.b(F.relu(s.a(F.avg_pool2d(x, 2)))).mean((2, 3), keepdim=True))),
        a=conv(3, 8)(), b=conv(8, 8)(), c=conv(8, 3)(),
    ),
    images(),
)  # fmt: skip


def _half(s: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        y = s.b(F.relu(s.a(x)))
    return pooled(s.c(F.relu(y.float())))


def _clamped(y: Tensor) -> Tensor:
    y = y * 1.0
    F.hardtanh_(y[:, 1:], 0.2, 1.0)
    return y


def _overwritten(y: Tensor) -> Tensor:
    y = y.clone()
    y[:, :4] = y[:, 4:] * 2
    return y


@case(tokens())
class FixedContext(nn.Module):
    """A number of its own that is a layer's size too, and not to be changed."""

    def __init__(self) -> None:
        super().__init__()
        self.context, self.a, self.b = 4, nn.Linear(8, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.a(x))[:, : self.context]).mean(1)


@case(images())
class OfTheBatch(nn.Module):
    """Sizes of the batch written out: ranges, expansions and divisions by it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.token = nn.Conv2d(3, 8, 3), nn.Linear(8, 3), nn.Parameter(torch.randn(1, 8))

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        y = F.relu(pooled(self.a(x))) + self.token.repeat(n, 1)
        y = y[torch.arange(n)] + torch.zeros(n, 8)
        return self.b(y) + y.sum() / n


simple(
    "loss_inside", lambda n: (torch.randn(n, 8), torch.randint(3, (n,))),
    lambda s, x, t: {"loss": F.cross_entropy(s.b(F.relu(s.a(x))), t), "logits": s.b(F.relu(s.a(x)))},
    a=linear(8, 12), b=linear(12, 3),
)  # fmt: skip
simple(
    "named_views", tokens(),
    lambda s, x: s.b(F.relu(s.a(x)).view(-1, 3, 4).transpose(1, 2).contiguous().view(x.shape[0], 6, 12)),
    a=linear(8, 12), b=linear(12, 3),
)  # fmt: skip
