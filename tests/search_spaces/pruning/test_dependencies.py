"""What each kind of operator does to channels: who is tied to whom, and what stays with which reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairsweep.search_spaces.pruning import TraceError, partition, slice_module
from fairsweep.search_spaces.pruning.rules_shapes import factor
from tests.search_spaces.pruning.helpers import difference, disturb, network, zeroed
from tests.search_spaces.pruning.networks import NETWORKS, ShuffleNet, conv


class Net(nn.Module):
    """A convolution to 8 channels, a function of its maps, and a layer that reads them."""

    def __init__(self, middle: Callable[..., Tensor], out: int = 8, **parts: nn.Module) -> None:
        super().__init__()
        self.first, self.middle, self.last = conv(3, 8, bias=True), middle, conv(out, 2)
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self, self.first(x)))


X = torch.randn(2, 3, 6, 6)


def first(middle: Callable[..., Tensor], out: int = 8, **parts: nn.Module) -> tuple[bool, str]:
    """Whether the first convolution can be pruned, and why not."""
    found = partition(Net(middle, out, **parts), X)
    component = next(c for c in found.components if any(m.parameter == "first.weight" for m in c.members))
    return component.prunable, component.reason


STAYS = {
    "sigmoid": (lambda n, y: torch.sigmoid(y), "reads it where it is not zero"),
    "a number is added": (lambda n, y: F.relu(y) + 1, "reads it where it is not zero"),
    "exponential": (lambda n, y: y.exp(), "not zero"),
    "clamped by a tensor": (lambda n, y: y.clamp(max=torch.tensor(1.0)), "not zero"),
    "clamped above zero": (lambda n, y: y.clamp(min=0.1), "not zero"),
    "logarithm": (lambda n, y: F.relu(y).log() * y, "not finite at zero"),
    "divides": (lambda n, y: 1 / y, "not finite at zero"),
    "softmax over channels": (lambda n, y: y.softmax(1), "softmax"),
    "mean over channels": (lambda n, y: y * y.mean(1, keepdim=True), "depends on how many"),
    "maximum over channels": (lambda n, y: y - y.amax(1, keepdim=True), "depends on how many"),
    "batch norm without scale": (lambda n, y: n.part(y), "not zero", nn.BatchNorm2d(8, affine=False)),
    "group norm over all": (lambda n, y: n.part(y), "over all channels", nn.GroupNorm(1, 8)),
    "layer norm": (lambda n, y: n.part(y), "normalises", nn.LayerNorm([8, 6, 6])),
    "local response norm": (lambda n, y: n.part(y), "", nn.LocalResponseNorm(3)),
    "one channel picked": (lambda n, y: y * y[:, 0].unsqueeze(1), "picks"),
    "every second channel": (lambda n, y: torch.cat([y[:, ::2], y[:, 1::2]], 1), "every 2th"),
    "lower triangle": (lambda n, y: y.transpose(1, 2).tril().transpose(1, 2), "goes by its positions"),
    "upper triangle": (lambda n, y: y.permute(0, 2, 3, 1).triu(1).permute(0, 3, 1, 2), "goes by its positions"),
    "clamped above zero through a view": (
        lambda n, y: _clamped(y), "where it is not zero"),
    "a negative power": (lambda n, y: F.relu(y).pow(-0.5) * y, "not finite at zero"),
    "a power that is data": (lambda n, y: F.relu(y).pow(y[:, :1].mean()), "not finite at zero"),
    "times infinity": (lambda n, y: (y * float("inf")).clamp(-1, 1), "where it is not zero"),
    "noise": (lambda n, y: y + torch.randn_like(y), "draws random numbers"),
    "dropout that is left on": (lambda n, y: F.dropout(y), "draws random numbers"),
    "where the maximum is": (lambda n, y: y.max(2, keepdim=True)[1] * 1.0 + 0 * y, "where it is not zero"),
    "kept in a buffer": (lambda n, y: _kept(n.part, y), "kept in a buffer", nn.BatchNorm2d(8)),
    "flipped": (lambda n, y: y.flip(1), "moves its positions"),
    "unknown": (lambda n, y: torch.fft.fft2(y).real, "not known to keep channels apart"),
    "sorted": (lambda n, y: y.sort(1)[0], "not known to keep channels apart"),
    "cumulated": (lambda n, y: y.cumsum(1), "summed up along it"),
    "padded with ones": (lambda n, y: F.pad(y, (1, 1), value=1.0), "not zero"),
    "looked up": (lambda n, y: y[:, torch.tensor([7, 6, 5, 4, 3, 2, 1, 0])], "looks up"),
    "written into": (lambda n, y: _written(y), "where it is not zero"),
    "a constant": (lambda n, y: y + torch.arange(8.0).view(8, 1, 1), "cannot be cut"),
    "recurrent": (lambda n, y: n.part(y.flatten(2).transpose(1, 2))[0].transpose(1, 2).unflatten(2, (6, 6)),
                  "not known", nn.GRU(8, 8, batch_first=True)),
}  # fmt: skip


def _clamped(y: Tensor) -> Tensor:
    y = y * 1.0
    F.hardtanh_(y.view(2, 8, 36), 0.2, 1.0)
    return y


def _kept(norm: nn.BatchNorm2d, y: Tensor) -> Tensor:
    assert norm.running_mean is not None
    norm.running_mean.copy_(y.detach().mean((0, 2, 3)))
    return norm(y)


def _written(y: Tensor) -> Tensor:
    y = y * 1.0
    y[:, :8] += 1.0
    return y


@pytest.mark.parametrize("name", STAYS)
def test_what_stays_says_why(name: str) -> None:
    middle, reason, *parts = STAYS[name]
    prunable, why = first(middle, 8, **({"part": parts[0]} if parts else {}))
    assert not prunable and reason in why and why


GOES = {
    "gate": lambda n, y: y * torch.sigmoid(y),
    "sum over channels": lambda n, y: y * torch.sigmoid(y.sum(1, keepdim=True)),
    "norm of channels": lambda n, y: F.normalize(y, dim=1),
    "softmax over space": lambda n, y: y * y.flatten(2).softmax(-1).view_as(y),
    "clamped around zero": lambda n, y: y.clamp(-1, 1),
    "power": lambda n, y: y**2,
    "masked with zero": lambda n, y: y.masked_fill(y > 1, 0.0),
    "where": lambda n, y: torch.where(y > 0, y, 0.1 * y),
    "padded with zeros": lambda n, y: F.pad(y, (1, 1, 1, 1)),
    "resized": lambda n, y: F.interpolate(F.max_pool2d(y, 2, padding=1), scale_factor=2, mode="bilinear"),
    "halves swapped": lambda n, y: torch.cat([y[:, 4:], y[:, :4]], 1),
    "stacked": lambda n, y: torch.stack([y, -y]).sum(0) + y,
    "scaled by its own mean over space": lambda n, y: y / (1 + y.abs().mean((2, 3), keepdim=True)),
    "in place": lambda n, y: y.mul_(2).add_(y).relu_(),
    "unfolded": lambda n, y: F.unfold(y, 1).view(2, 8, 6, 6),
    "axes moved": lambda n, y: y.movedim(1, -1).movedim((-1, 1), (1, 2)),
    "space to channels and back": lambda n, y: F.pixel_shuffle(F.pixel_unshuffle(y, 2), 2),
    "channels repeated": lambda n, y: y.repeat_interleave(2, 1).unflatten(1, (8, 2)).sum(2),
    "repeated in space": lambda n, y: y.repeat(1, 1, 2, 1),
    "the larger": lambda n, y: torch.maximum(y, -y),
    "standardised over space": lambda n, y: y / (y.std((2, 3), keepdim=True) + 1),
    "extremes over space": lambda n, y: y * (y.flatten(2).max(-1)[0] - y.amin((2, 3)))[..., None, None],
    "instance norm without scale": (lambda n, y: n.part(y), nn.InstanceNorm2d(8)),
    "batch norm by the batch": (
        lambda n, y: n.part(y),
        nn.BatchNorm2d(8, affine=False, track_running_stats=False),
    ),
    "slopes": (lambda n, y: n.part(y), nn.PReLU(8)),
    "grouped transposed": (lambda n, y: n.part(y), nn.ConvTranspose2d(8, 8, 1, groups=2)),
    "threshold": lambda n, y: F.threshold(y, 0.1, 0.0),
    "zeros like it": lambda n, y: y + torch.zeros_like(y) + 0,
    "comparison": lambda n, y: y * (y > 0.1) * torch.ones_like(y),
    "matrix transposed": lambda n, y: torch.stack([m.flatten(1).t().t().view(-1, 6, 6) for m in y.unbind(0)]),
    "shifted in space": lambda n, y: y.roll(1, 2).flip(3).narrow(1, 0, 8),
    "einsum": lambda n, y: torch.einsum("bchw,bdhw->bcd", y, y).matmul(y.flatten(2)).view(2, 8, 6, 6),
}


@pytest.mark.parametrize("name", GOES)
def test_what_can_go_does(name: str) -> None:
    middle, *parts = GOES[name] if isinstance(GOES[name], tuple) else (GOES[name],)
    net = disturb(Net(middle, 8, **({"part": parts[0]} if parts else {})), X)
    found = partition(net, X)
    owner = next(c for c in found.components if any(m.parameter == "first.weight" for m in c.members))
    assert (owner.prunable, owner.reason) == (True, "")
    full, _ = zeroed(net, found, 0)
    assert difference(full, slice_module(full, found), X) <= 1e-5


def test_a_residual_addition_ties_and_a_concatenation_does_not() -> None:
    net = Net(lambda n, y: torch.cat([F.relu(y + n.a(y)), n.b(y)], 1), 14, a=conv(8, 8), b=conv(8, 6))
    found = partition(net, X)
    tied, own = found.prunable
    assert tied.operators == ("first", "a") and tied.size == 8
    assert own.operators == ("b",) and own.size == 6
    # b comes behind the eight channels of the sum in what the last layer reads.
    (reader,) = [m for m in own.followers if m.parameter == "last.weight"]
    assert reader.dim == 1 and reader.index[:, 0].tolist() == list(range(8, 14))


def test_batch_norm_behind_a_concatenation_is_shared_out_by_its_producers() -> None:
    net = Net(
        lambda n, y: n.norm(torch.cat([n.a(y), n.b(y)], 1)),
        10,
        a=conv(8, 4),
        b=conv(8, 6),
        norm=nn.BatchNorm2d(10),
    )
    found = {c.name: c for c in partition(net, X).prunable}
    rows = {m.parameter: m.index[:, 0].tolist() for m in found["b"].members}
    assert rows["b.weight"] == list(range(6)) and rows["norm.weight"] == rows["norm.bias"] == list(
        range(4, 10)
    )
    assert {m.parameter for m in found["b"].followers} == {
        "norm.running_mean",
        "norm.running_var",
        "last.weight",
    }


def test_depthwise_channels_go_with_what_feeds_them() -> None:
    net = Net(lambda n, y: n.part(y), 16, part=nn.Conv2d(8, 16, 3, padding=1, groups=8))
    (component,) = partition(net, X).prunable
    rows = {m.parameter: m.index.tolist() for m in component.members}
    assert rows["part.weight"] == rows["part.bias"] == [[2 * i, 2 * i + 1] for i in range(8)]
    assert rows["first.weight"] == [[i] for i in range(8)]


def test_grouped_convolutions_lose_the_same_from_every_group() -> None:
    net = Net(lambda n, y: n.part(y), 12, part=nn.Conv2d(8, 12, 1, groups=2))
    found = partition(net, X)
    before, after = found.prunable
    assert (before.size, after.size) == (4, 6)
    assert before.members[0].index.tolist() == [[i, i + 4] for i in range(4)]
    assert after.members[0].index.tolist() == [[i, i + 6] for i in range(6)]


def test_heads_of_attention_hold_queries_keys_and_values() -> None:
    _, found, _ = network("vit")
    heads = next(c for c in found.prunable if c.name == "blocks.0.attention.qkv")
    assert heads.size == 2 and [m.parameter for m in heads.members] == [
        "blocks.0.attention.qkv.weight", "blocks.0.attention.qkv.bias",
    ]  # fmt: skip
    assert heads.members[0].index[1].tolist() == [*range(8, 16), *range(24, 32), *range(40, 48)]
    assert [(m.parameter, m.dim) for m in heads.followers] == [("blocks.0.attention.proj.weight", 1)]
    residual = next(c for c in found.components if "blocks.0.norm1" in c.operators)
    assert not residual.prunable and "norm" in residual.reason


def test_flattened_maps_are_read_position_by_position() -> None:
    _, found, _ = network("vgg_bn")
    last = next(c for c in found.prunable if c.name == "features.8")
    (reader,) = [m for m in last.followers if m.parameter == "head.0.weight"]
    assert reader.index[3].tolist() == [12, 13, 14, 15]


def test_a_shared_convolution_is_one_group_with_its_columns_behind() -> None:
    _, found, _ = network("shared")
    (component,) = found.prunable
    assert [(m.parameter, m.dim) for m in component.members if "shared" in m.parameter] == [
        ("shared.weight", 0)
    ]
    assert ("shared.weight", 1) in [(m.parameter, m.dim) for m in component.followers]


def test_group_norm_goes_by_whole_groups() -> None:
    _, found, _ = network("group_norm")
    tied = next(c for c in found.prunable if c.name == "stem")
    assert tied.size == 4 and tied.members[0].index[1].tolist() == [4, 5, 6, 7]


def test_channels_behind_a_shuffle_between_groups_are_all_tied() -> None:
    found = partition(ShuffleNet(last_groups=3), NETWORKS["shufflenet"].inputs())
    reasons = {c.name: c.reason for c in found.components}
    assert reasons == {
        "body.0.0": "",
        "body.2.first.0": "it is a single group",
        "body.3.first.0": "it is a single group",
        "head": "it is the network's output",
    }


def test_grouped_queries_go_with_their_keys() -> None:
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.o = (nn.Linear(12, n) for n in (16, 8, 8, 12))
            self.o = nn.Linear(16, 12)

        def forward(self, x: Tensor) -> Tensor:
            b, t, _ = x.shape
            q = self.q(x).view(b, t, 4, 4).transpose(1, 2)
            k, v = (
                f(x).view(b, t, 2, 4).transpose(1, 2)[:, :, None].expand(b, 2, 2, t, 4).reshape(b, 4, t, 4)
                for f in (self.k, self.v)
            )
            return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    (heads,) = partition(Grouped(), torch.randn(2, 5, 12)).prunable
    rows = {m.parameter: m.index.tolist() for m in heads.members}
    assert (
        heads.size == 2 and rows["q.weight"][1] == list(range(8, 16)) and rows["v.weight"][1] == [4, 5, 6, 7]
    )


def test_a_bias_of_positions_goes_with_its_heads() -> None:
    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(12, 48), nn.Linear(16, 12)
            self.table = nn.Parameter(torch.randn(9, 4))
            self.register_buffer("place", torch.arange(25).view(5, 5) % 9, persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).unflatten(2, (3, 4, 4)).permute(2, 0, 3, 1, 4)
            bias = self.table[self.place].permute(2, 0, 1)[None]
            return self.out(F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2).flatten(2))

    x = torch.randn(2, 5, 12)
    net = disturb(Biased(), x)
    (heads,) = (found := partition(net, x)).prunable
    assert heads.size == 4 and ("table", 1) in [(m.parameter, m.dim) for m in heads.members]
    full, kept = zeroed(net, found, 0)
    small = slice_module(full, found)
    assert small.table.shape == (9, len(kept[heads.name])) and difference(full, small, x) <= 1e-5


def test_weights_standardised_by_their_own_statistics_keep_their_columns() -> None:
    """Fewer columns would have another mean; the rows, with their gain, can go."""

    class Standardised(nn.Conv2d):
        def __init__(self) -> None:
            super().__init__(8, 8, 1)
            self.gain = nn.Parameter(torch.ones(8))

        def forward(self, x: Tensor) -> Tensor:
            w = F.batch_norm(
                self.weight.reshape(1, 8, -1), None, None, self.gain, training=True, momentum=0.0
            )
            return F.conv2d(x, w.reshape_as(self.weight), self.bias)

    net = disturb(Net(lambda n, y: n.part(y), 8, part=Standardised()), X)
    found = partition(net, X)
    reasons = {c.name: c.reason for c in found.components}
    assert reasons == {"first": "part normalises over it", "part": "", "last": "it is the network's output"}
    (rows,) = found.prunable
    assert {m.parameter for m in rows.members} == {"part.weight", "part.bias", "part.gain"}
    full, _ = zeroed(net, found, 0)
    assert difference(full, slice_module(full, found), X) <= 1e-5


def test_the_gate_of_squeeze_and_excite_goes_with_its_channels() -> None:
    _, found, _ = network("efficientnet")
    gated = next(c for c in found.prunable if "body.2.body.4.expand" in c.operators)
    assert gated.operators[0] == "body.2.body.0.0" and gated.size == 24
    assert any(c.operators == ("body.2.body.4.reduce",) for c in found.prunable)


def test_frozen_parameters_stay() -> None:
    net = Net(lambda n, y: y)
    net.first.bias.requires_grad_(False)
    found = partition(net, X)
    assert not found.prunable and found.untouched["first.bias"] == "it is frozen"
    assert partition(net, X, frozen=()).size == 8
    with pytest.raises(ValueError, match=r"frozen: Net has no parameter third\.weight"):
        partition(net, X, frozen=["third.weight"])


def test_tracing_leaves_the_mode_alone_and_says_what_fails() -> None:
    net = Net(lambda n, y: y)
    net.last.eval()
    partition(net, X)
    assert net.training and net.first.training and not net.last.training
    with pytest.raises(TraceError, match=r"Net: torch\.export cannot trace it"):
        partition(Net(lambda n, y: y if y.sum() > 0 else -y), X)


def test_the_graph_lists_operators_and_edges() -> None:
    net = Net(lambda n, y: F.relu(y))
    graph = partition(net, X).origin.analysis.graph
    a, b, c = graph.operators
    assert [o.kind for o in (a, b, c)] == ["conv2d", "relu", "conv2d"]
    assert (a.scope, b.scope, c.scope) == ("first", "", "last")
    assert a.parameters == ("first.weight", "first.bias") and a.attributes["4"] == [1, 1]
    assert list(graph.edges) == [(a.name, b.name, (2, 8, 6, 6)), (b.name, c.name, (2, 8, 6, 6))]


@pytest.mark.parametrize(
    "before, after, expected",
    [
        ((2, 12), (2, 3, 4), [(0, 0, 2), (1, 1, 3), (1, 2, 4)]),
        ((2, 3, 4), (6, 4), [(0, 0, 2), (1, 0, 3), (2, 1, 4)]),
        ((5, 2, 12), (5, 6, 4), [(0, 0, 5), (1, 1, 2), (2, 1, 3), (2, 2, 4)]),
        ((4, 1, 3), (1, 4, 3), [(0, 1, 4), (2, 2, 3)]),
        ((4, 3), (6, 2), None),
    ],
)
def test_common_refinement_of_two_shapes(before: tuple, after: tuple, expected: list | None) -> None:
    assert factor(before, after) == expected
