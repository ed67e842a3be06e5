"""Networks that write in place, switch modes, keep state or take and give structures: traced, cut and erased."""

from __future__ import annotations

import threading
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairsweep.search_spaces.pruning import TraceError, partition, slice_module
from fairsweep.search_spaces.pruning.copies import unchanged
from fairsweep.search_spaces.pruning.erasing import ErasingError, ErasingGraph
from fairsweep.search_spaces.pruning.trace import trace
from tests.search_spaces.pruning.helpers import zeroed
from tests.search_spaces.pruning.networks import conv

torch.set_num_threads(1)
Pair = namedtuple("Pair", "image scale")


class Net(nn.Module):
    """Two convolutions of 8 channels, the second with a way around it, and a function of the maps between them."""

    def __init__(self, middle: Callable[..., Tensor]) -> None:
        super().__init__()
        self.first, self.branch, self.last, self.middle = (
            conv(3, 8, bias=True),
            conv(8, 8),
            conv(8, 2),
            middle,
        )
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        y = self.middle(self, self.first(x))
        return self.last(y + self.branch(F.relu(y)))


def _doubled(n: Net, y: Tensor) -> Tensor:
    y = y.clone()
    y[:, :4] = y[:, 4:] * 2
    return y


def _part_rectified(n: Net, y: Tensor) -> Tensor:
    F.relu_(y[:, :, 2:])
    return y


def _masked(n: Net, y: Tensor) -> Tensor:
    mask = torch.ones(6, 6)
    for rows in (slice(0, 2), slice(4, 6)):
        for columns in (slice(0, 2), slice(4, 6)):
            mask[rows, columns] = 0.5
    return y * mask


def _shifted(n: Net, y: Tensor) -> Tensor:
    out = torch.zeros_like(y)
    out[:, :2, :, 1:] = y[:, :2, :, :-1]
    out[:, 2:4, :, :-1] = y[:, 2:4, :, 1:]
    out[:, 4:] = y[:, 4:]
    return out


def _filled(n: Net, y: Tensor) -> Tensor:
    out = torch.empty(2, 8, 6, 6)
    for k in range(6):
        out[:, :, k] = y[:, :, k] * (k + 1)
    return out


def _counted(n: Net, y: Tensor) -> Tensor:
    n.calls += 1
    return y * n.calls


def _view_before(n: Net, y: Tensor) -> Tensor:
    before = y.flatten(2)
    y.mul_(2)
    return before.unflatten(2, (6, 6)) + y


def _without_gradients(n: Net, y: Tensor) -> Tensor:
    with torch.no_grad():
        scale = F.relu(y).amax((2, 3), keepdim=True)
        scale[:, :, 0] *= 2
    return y * scale


def _half(n: Net, y: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        y = n.branch(y)
    return y.float()


WRITES: dict[str, Callable[..., Tensor]] = {
    "item assignment": _doubled,
    "relu_ on a slice": _part_rectified,
    "a mask by ranges": _masked,
    "shifted channels": _shifted,
    "filled row by row": _filled,
    "a counter": _counted,
    "a view made before": _view_before,
    "without gradients": _without_gradients,
    "half precision": _half,
}


@pytest.mark.parametrize("name", WRITES)
def test_nothing_that_is_written_is_lost(name: str) -> None:
    torch.manual_seed(0)
    net, x = Net(WRITES[name]).eval(), torch.randn(2, 3, 6, 6)
    calls = net.calls.clone()
    graph = ErasingGraph(net, x)
    whole = graph.extract(net, [])
    other = torch.randn(2, 3, 6, 6)
    for given in (x, other):  # twice, so that what is kept in a buffer counts
        made, full = whole(given), net(given)
        assert torch.allclose(made, full, atol=1e-5 if name != "half precision" else 1e-2)
    assert torch.equal(net.calls, dict(whole.named_buffers()).get("calls", net.calls))
    net.calls.copy_(calls)
    # What is cut computes the same, and so does what is erased.
    found = partition(net, x)
    full, _ = zeroed(net, found, 0)
    small = slice_module(full, found, form="graph", check=False)
    assert torch.allclose(small(other), full(other), atol=1e-5 if name != "half precision" else 1e-2)
    checked = slice_module(full, found)
    assert torch.allclose(checked(other), full(other), atol=1e-5 if name != "half precision" else 1e-2)
    if "branch" in graph.erasable:
        with torch.no_grad():
            net.branch.weight.zero_()
        assert torch.allclose(graph.extract(net, ["branch"])(other), net(other), atol=1e-5)


def test_channels_that_are_shifted_can_still_be_cut() -> None:
    found = partition(Net(_shifted), torch.randn(2, 3, 6, 6))
    assert sum(c.size for c in found.prunable if "first.weight" in {m.parameter for m in c.members}) == 8


def test_only_what_writes_through_a_view_is_traced_anew() -> None:
    """In place on a tensor of its own is an operator that makes a new one; names and scopes stay."""

    def middle(n: Net, y: Tensor) -> Tensor:
        return F.relu_(y).add_(1).clamp_(0, 2)

    graph = trace(Net(middle), torch.randn(2, 3, 6, 6))
    assert [o.kind for o in graph.operators][1:4] == ["relu", "add", "clamp"]
    assert [o.name for o in graph.operators][1:4] == ["relu_", "add_", "clamp_"]


def test_noise_makes_no_chain_removable() -> None:
    def run(s: Any, x: Tensor) -> Tensor:
        x = s.a(x)
        return s.b(x + F.dropout(s.c(x)))

    net = Takes(run)
    net.c = nn.Linear(6, 6)
    graph = ErasingGraph(net, torch.randn(2, 4))
    assert {s.name: s.reason for s in graph.segments}["c"] == "dropout draws random numbers"
    assert not graph.erasable


# ---- arguments and results ----


class Takes(nn.Module):
    def __init__(self, run: Callable[..., Any]) -> None:
        super().__init__()
        self.a, self.b, self.run = nn.Linear(4, 6), nn.Linear(6, 3), run

    def forward(self, *given: Any) -> Any:
        return self.run(self, *given)


def _x(seed: int, n: int = 2) -> Tensor:
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))


STRUCTURES: dict[str, tuple[Callable[..., Any], Callable[[int], tuple[Any, ...]]]] = {
    "a mapping with a list": (
        lambda s, d: {"logits": s.b(F.relu(s.a(d["x"]) + s.a(d["more"][0]))), "none": None, "number": 3},
        lambda n: ({"x": _x(0, n), "more": [_x(1, n)]},),
    ),
    "a named tuple beside a tensor": (
        lambda s, y, p: [s.b(F.relu(s.a(p.image * p.scale) + s.a(y)))],
        lambda n: (_x(0, n), Pair(_x(1, n), _x(2, n))),
    ),
    "none and numbers": (
        lambda s, y, scale, none: (None, s.b(F.relu(s.a(y))) * scale, 0.5),
        lambda n: (_x(0, n), 2.0, None),
    ),
}


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("form", ["module", "graph"])
def test_structures_go_in_and_come_out(name: str, form: str) -> None:
    run, given = STRUCTURES[name]
    net = Takes(run).eval()
    found = partition(net, given(2))
    full, _ = zeroed(net, found, 0)
    small = slice_module(full, found, form=form, check=False)
    for n in (2, 1, 5):
        out, made = full(*given(n)), small(*given(n))
        assert type(out) is type(made)
        a, b = (v if isinstance(v, list | tuple) else list(v.values()) for v in (out, made))
        for left, right in zip(a, b, strict=True):
            assert torch.allclose(left, right, atol=1e-5) if isinstance(left, Tensor) else left == right
    whole = ErasingGraph(net, given(2)).extract(net, [])
    assert str(whole(*given(2))) == str(net(*given(2)))


def test_a_tensor_that_is_given_twice_is_two_inputs() -> None:
    net = Takes(lambda s, x, y: s.b(F.relu(s.a(x) - s.a(y)))).eval()
    x = _x(0)
    found = partition(net, (x, x))
    full, _ = zeroed(net, found, 0)
    small = slice_module(full, found, form="graph")
    assert len(found.origin.analysis.graph.inputs) == 2
    assert torch.allclose(small(_x(1), _x(2)), full(_x(1), _x(2)), atol=1e-6)


def test_an_empty_tensor_is_joined_to_anything() -> None:
    net = Takes(lambda s, x: s.b(torch.cat([torch.zeros(0), F.relu(s.a(x))], 1))).eval()
    found = partition(net, _x(0))
    assert [c.name for c in found.prunable] == ["a"]
    full, _ = zeroed(net, found, 0)
    assert torch.allclose(slice_module(full, found, form="graph")(_x(1)), full(_x(1)), atol=1e-6)


def test_a_branch_of_tensors_is_refused() -> None:
    net = Takes(lambda s, x: s.b(torch.cond(x.sum() > 0, lambda y: s.a(y), lambda y: s.a(-y), (x,))))
    with pytest.raises(TraceError, match=r"torch\.cond chooses what is run"):
        partition(net, _x(0))


def test_what_a_network_keeps_beside_its_tensors_is_no_matter() -> None:
    def run(s: Any, x: Tensor) -> Tensor:
        with s.lock:
            s.last = s.a(x)
        return s.b(F.relu(s.last))

    net = Takes(run)
    net.lock, net.last = threading.Lock(), None
    net(_x(0))  # keeps a tensor that is no leaf
    found = partition(net, _x(0))
    assert [c.name for c in found.prunable] == ["a"]
    net.eval()
    small = slice_module(net, found, {"a": [0, 1, 2, 4, 5]})  # the proof makes group 3 zero by itself
    with torch.no_grad():
        found.zero(found.prunable[0], [3], dict(net.named_parameters()))
    assert torch.allclose(small(_x(1)), net(_x(1)), atol=1e-6)


def test_extraction_is_held_against_the_full_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the graph believes: here that a sigmoid emits zero where its layer is."""

    class Gated(Net):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            return self.last(y + self.branch(y).sigmoid())

    monkeypatch.setattr("fairsweep.search_spaces.pruning.erasing.emits_zero", lambda *args, **more: True)
    net = Gated(_doubled).eval()
    graph = ErasingGraph(net, torch.randn(2, 3, 6, 6))
    assert "branch" in graph.erasable
    with pytest.raises(
        ErasingError, match=r"^Gated without branch: .* does not compute the same; .* is off by"
    ):
        graph.check(net)


def test_a_proof_leaves_no_trace_in_what_it_runs() -> None:
    net = Net(_counted).eval()
    given = net.calls
    with unchanged(net):
        net(torch.randn(2, 3, 6, 6))
        net.calls, net.seen = torch.tensor(7), 1
    assert net.calls is given and int(given) == 0 and not hasattr(net, "seen")
