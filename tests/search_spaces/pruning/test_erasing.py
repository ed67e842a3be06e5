"""Removal structures of networks whose structure is known, and the exactness of what is extracted."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD

from fairsweep.search_spaces.pruning.erasing import ErasingError, ErasingGraph
from fairsweep.search_spaces.pruning.h2spg import H2SPG, hierarchical_search
from tests.search_spaces.pruning import dag
from tests.search_spaces.pruning.digits_cnn import train

torch.set_num_threads(1)


def unit(a: int, b: int, k: int = 3, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(a, b, k, stride, padding=k // 2, bias=False)
    return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(b))


class Net(nn.Module):
    """Layers by name, and a forward pass that a test writes down."""

    def __init__(self, forward: object, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.run = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)  # type: ignore[operator]  # a function of the test


class Scaled(nn.Module):
    """A layer whose result is scaled channel by channel, divided and padded, the sides kept."""

    def __init__(self, layer: nn.Module, value: float = 0.0) -> None:
        super().__init__()
        self.layer, self.scale, self.value = layer, nn.Parameter(torch.randn(3, 1, 1)), value

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(self.layer(x) * self.scale / 2, (1, 1, 1, 1), value=self.value)


def disturbed(net: nn.Module) -> nn.Module:
    """With normalisation that is no identity, so that a constant that is left over shows."""
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d) and m.affine and m.track_running_stats:
            m.weight.data.uniform_(0.5, 2)
            m.bias.data.normal_()
            m.running_mean.normal_()  # type: ignore[union-attr,operator]  # a tensor in these layers
            m.running_var.uniform_(0.5, 2)  # type: ignore[union-attr,operator]
    return net.eval()


def graph(net: nn.Module, channels: int = 3) -> ErasingGraph:
    return ErasingGraph(net, torch.zeros(2, channels, 8, 8))


def zeroed(net: nn.Module, g: ErasingGraph, erased: frozenset[str]) -> nn.Module:
    net = copy.deepcopy(net)
    for component in g.partition.prunable:
        if component.name in erased:
            g.partition.zero(component, [0], dict(net.named_parameters()))
    return net


def difference(net: nn.Module, g: ErasingGraph, erased: frozenset[str], channels: int = 3) -> float:
    x = torch.randn(5, channels, 8, 8, generator=torch.Generator().manual_seed(1))
    full = zeroed(net, g, erased)
    # Without the proof: it is compared here.
    out, small = full(x), g.extract(full, erased, open_batch=False)(x)
    pairs = zip(out, small, strict=True) if isinstance(out, tuple) else [(out, small)]
    return max((a - b).abs().max().item() for a, b in pairs)


def check_exact(net: nn.Module, channels: int, tries: int) -> int:
    """Extraction equals zeroing for random valid sets of `net`; returns how many there were."""
    disturbed(net)
    g = graph(net, channels)
    rng, valid = np.random.default_rng(0), 0
    names = list(g.erasable)
    for _ in range(tries):
        erased = frozenset(rng.choice(names, rng.integers(1, len(names) + 1), replace=False).tolist())
        if g.is_valid(erased):
            erased |= g.orphans(erased)
            assert difference(net, g, erased, channels) <= 1e-5
            valid += 1
        else:
            with pytest.raises(ErasingError, match="the network is not connected"):
                g.extract(net, erased)
    return valid


# ---- what can go ----


def test_a_sequential_network_has_no_removal_structure() -> None:
    g = graph(nn.Sequential(unit(3, 4), unit(4, 4), nn.Flatten(), nn.Linear(256, 2)))
    assert g.erasable == () and len(g.segments) == 1
    assert g.partition.size == 0 and set(g.partition.untouched) == set(g.trainable)


def test_a_residual_block_has_its_branch() -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)  # type: ignore[operator]  # layers by name
        return s.head(x + s.b(x)).mean((2, 3))  # type: ignore[operator]

    g = graph(Net(forward, a=unit(3, 4), b=unit(4, 4), head=unit(4, 2)))
    assert g.erasable == ("b",)
    assert g.partition.components[0].members[0].parameter == "b.1.weight"
    assert g.partition.untouched["a.1.weight"] == "its result is used more than once, or is an output"


def test_of_two_branches_at_most_one_goes() -> None:
    net = Net(lambda s, x: (s.left(x) + s.right(x)).mean((2, 3)), left=unit(3, 4), right=unit(3, 4, 1))
    g = graph(net)
    assert g.erasable == ("left", "right")
    assert g.is_valid({"left"}) and g.is_valid({"right"}) and not g.is_valid({"left", "right"})
    assert hierarchical_search(g.erasable, [1.0, 2.0], 2, g.is_valid, g.orphans) == {"right"}
    disturbed(net)
    assert difference(net, g, frozenset({"left"})) == 0
    assert not any("left" in name for name, _ in g.extract(net, {"left"}).named_parameters())


@pytest.mark.parametrize(
    ("branch", "reason"),
    [
        (nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, 1, 1)), "it has no variables"),
        (nn.Sequential(unit(3, 3), nn.Sigmoid()), "it is not zero when its variables are"),
        (nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, affine=False)), "it is not zero when its"),
        (nn.Sequential(nn.Conv2d(3, 3, 1), nn.Softplus()), "it is not zero when its variables are"),
        (Scaled(nn.Conv2d(3, 3, 3), value=1.0), "it is not zero when its variables are"),
    ],
)
def test_what_is_not_proved_zero_stays(branch: nn.Module, reason: str) -> None:
    g = graph(Net(lambda s, x: x + s.branch(x), branch=branch))
    assert g.erasable == ()
    assert any(s.reason.startswith(reason) for s in g.segments)


@pytest.mark.parametrize(
    "branch",
    [
        nn.Conv2d(3, 3, 3, padding=1),
        nn.Sequential(nn.MaxPool2d(2), unit(3, 3), nn.Upsample(scale_factor=2), nn.GELU()),
        nn.Sequential(unit(3, 6), nn.Hardswish(), unit(6, 3)),
        Scaled(nn.Sequential(nn.Conv2d(3, 3, 3), nn.Sigmoid())),
        nn.Sequential(nn.GroupNorm(3, 3), nn.AvgPool2d(3, 1, 1)),
        nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, affine=False, track_running_stats=False)),
        nn.Sequential(nn.Conv2d(3, 12, 3, 2, 1), nn.PixelShuffle(2), nn.Dropout(0.2), nn.Tanh()),
    ],
)
def test_what_ends_in_zeros_can_go(branch: nn.Module) -> None:
    net = disturbed(Net(lambda s, x: x + s.branch(x), branch=branch))
    g = graph(net)
    assert len(g.erasable) == 1
    assert difference(net, g, frozenset(g.erasable)) == 0


def test_branches_that_change_more_than_a_sum_stay() -> None:
    wide = Net(lambda s, x: x + s.gate(x).mean((2, 3), keepdim=True), gate=unit(3, 3))
    assert graph(wide).erasable == ()
    scaled = Net(lambda s, x: torch.add(x, s.b(x), alpha=2), b=unit(3, 3))
    assert graph(scaled).erasable == ()
    product = Net(lambda s, x: x * s.b(x), b=unit(3, 3))
    assert graph(product).erasable == ()
    joined = Net(lambda s, x: torch.cat([x, s.b(x)], 1), b=unit(3, 3))
    assert graph(joined).erasable == ()


def test_shared_and_frozen_variables_are_not_erased() -> None:
    # The second call of b and c are one chain, of which b is used in another one as well.
    shared = Net(lambda s, x: x + s.b(x) + s.c(s.b(x)) + s.d(x), b=unit(3, 3), c=unit(3, 3), d=unit(3, 3))
    g = graph(shared)
    assert g.erasable == ("d",)
    assert [s.reason for s in g.segments].count("b.1.weight is used elsewhere too") == 2
    frozen = Net(lambda s, x: x + s.b(x), b=unit(3, 3))
    frozen.b[2].bias.requires_grad_(False)  # type: ignore[index,union-attr]  # layers by name
    assert graph(frozen).erasable == ()


def test_an_in_place_operator_does_not_change_what_others_read() -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)  # type: ignore[operator]  # layers by name
        y = F.relu(x + s.b(x), inplace=True)  # type: ignore[operator]
        return y - x

    net = disturbed(Net(forward, a=unit(3, 3), b=unit(3, 3)))
    g = graph(net)
    assert g.erasable == ("b",)
    assert difference(net, g, frozenset({"b"})) == 0


# ---- what follows ----


def chains() -> tuple[nn.Module, ErasingGraph]:
    class Summed(dag.Dag):
        def forward(self, x: Tensor) -> Tensor:
            nodes = [self.stem(x)]
            for j in range(1, 4):
                nodes.append(sum(c(nodes[int(n[0])]) for n, c in self.chains.items() if int(n[1]) == j))
            return self.head(nodes[-1].relu().mean((2, 3)))

    torch.manual_seed(0)
    net = Summed()
    return net, graph(net, 1)


def test_twelve_chains_and_the_validity_written_by_hand() -> None:
    net, g = chains()
    assert len(g.erasable) == 12 and len(g.partition.prunable) == 12
    held = {m.parameter for c in g.partition.prunable for m in c.members}
    assert held == {n for n, _ in net.named_parameters() if n.startswith("chains")}
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        short = frozenset(n for n in dag.Dag().chains if rng.random() < 0.7)
        erased = frozenset(f"chains.{n}" for n in short)
        assert g.is_valid(erased) == dag.is_valid(short)
        assert g.orphans(erased) == frozenset(f"chains.{n}" for n in dag.orphans(short) - short)
        seen.add(g.is_valid(erased))
    assert seen == {True, False}
    # Global: every addition but the first keeps an input, and nothing of the network's input arrives.
    assert not g.is_valid(frozenset(f"chains.0{j}k{k}" for j in (1, 2, 3) for k in (1, 3)))


def test_extraction_is_exact_for_random_sets() -> None:
    assert check_exact(chains()[0], 1, 40) >= 20


def test_without_the_orphans_the_constants_of_their_norms_are_lost() -> None:
    net, g = chains()
    disturbed(net)
    erased = frozenset({"chains.01k3", "chains.01k1"})
    orphans = g.orphans(erased)
    assert orphans == {"chains.12k3", "chains.12k1", "chains.13k3", "chains.13k1"}
    assert difference(net, g, erased, 1) > 0.01
    assert difference(net, g, erased | orphans, 1) <= 1e-6


def test_every_output_must_be_reached() -> None:
    def forward(s: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        x = s.stem(x)  # type: ignore[operator]  # layers by name
        first = s.a(x) + s.b(x)  # type: ignore[operator]
        second = s.c(first) + s.d(first)  # type: ignore[operator]
        return first.mean((2, 3)), second.mean((2, 3))

    net = Net(forward, stem=unit(3, 4), **{n: unit(4, 4) for n in "abcd"})
    g = graph(net)
    assert g.erasable == ("a", "b", "c", "d")
    assert g.is_valid({"a", "c"}) and not g.is_valid({"c", "d"}) and not g.is_valid({"a", "b"})
    assert check_exact(net, 3, 12) >= 4


def test_a_trunk_that_would_read_zeros_makes_the_network_invalid() -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.stem(x)  # type: ignore[operator]  # layers by name
        trunk = s.trunk(s.a(x) + s.b(x))  # type: ignore[operator]
        return x + s.c(trunk) + s.d(trunk)  # type: ignore[operator]

    net = Net(forward, stem=unit(3, 4), trunk=unit(4, 4), **{n: unit(4, 4) for n in "abcd"})
    g = graph(net)
    assert g.erasable == ("a", "b", "c", "d")
    # Without a and b the trunk emits the constant of its norm, which c and d would hand on.
    assert not g.is_valid({"a", "b"}) and g.is_valid({"a", "b", "c", "d"}) and g.is_valid({"a", "c", "d"})
    assert check_exact(net, 3, 15) >= 5


def test_zeros_are_carried_through_products_and_joints() -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.stem(x)  # type: ignore[operator]  # layers by name
        y = s.a(x) + s.b(x)  # type: ignore[operator]
        return x + s.c(torch.cat([y * x, F.relu(y)], 1)) + s.d(x)  # type: ignore[operator]

    net = Net(forward, stem=unit(3, 4), c=unit(8, 4), **{n: unit(4, 4) for n in "abd"})
    g = graph(net)
    assert set(g.erasable) == {"a", "b", "c", "d"}
    assert g.orphans({"a", "b"}) == {"c"} and g.is_valid({"a", "b"})
    assert check_exact(net, 3, 12) == 12


def test_chains_of_another_resolution_behind_a_skip() -> None:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.stem(x)  # type: ignore[operator]  # layers by name
        down = s.down(x)  # type: ignore[operator]
        up = s.up(F.interpolate(s.deep(down) + down, scale_factor=2))  # type: ignore[operator]
        return s.head(torch.cat([x + up, x], 1))  # type: ignore[operator]

    net = Net(
        forward, stem=unit(3, 4), down=unit(4, 4, 3, 2), deep=unit(4, 4), up=unit(4, 4), head=unit(8, 2)
    )
    g = graph(net)
    assert g.erasable == ("deep", "up")
    assert check_exact(net, 3, 8) == 8
    small = g.extract(net, {"up", "deep"})
    assert {n.split(".")[0] for n, _ in small.named_parameters()} == {"stem", "head"}


def test_with_target_one_a_single_path_is_left() -> None:
    _, g = chains()
    for seed in range(5):
        scores = np.random.default_rng(seed).random(12).tolist()
        erased = hierarchical_search(g.erasable, scores, 12, g.is_valid, g.orphans)
        left = sorted(name.split(".")[1] for name in set(g.erasable) - erased)
        path = [name[:2] for name in left]
        assert path in (["03"], ["01", "13"], ["02", "23"], ["01", "12", "23"])


def test_unknown_segments_are_refused_by_name() -> None:
    _, g = chains()
    with pytest.raises(ErasingError, match=r"stem: no removal structure; there are chains\.01k3, "):
        g.is_valid({"stem"})


# ---- with the optimiser ----


def test_trained_and_extracted_it_computes_the_same() -> None:
    net, g = chains()
    optim = H2SPG(
        SGD(net.parameters(), lr=0.05, momentum=0.9),
        net.named_parameters(),
        g.partition,
        0.75,
        4,
        is_valid=g.is_valid,
        orphans=g.orphans,
    )
    train(net, optim, range(30))
    assert optim.reached and len(optim.erased()) >= 9
    net.eval()
    x = torch.randn(7, 1, 6, 6)
    small = g.extract(net, optim.erased())
    torch.testing.assert_close(small(x), net(x), atol=1e-6, rtol=0)
    assert sum(p.numel() for p in small.parameters()) < 0.5 * sum(p.numel() for p in net.parameters())
