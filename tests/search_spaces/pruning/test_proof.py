"""The proof that a sub-network computes what the full one does: what it must find out, and what must not stop it."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from fairsweep.search_spaces.pruning import SliceError, check_sliceable, partition, slice_module
from fairsweep.search_spaces.pruning.comparing import leaves, strict, unequal
from fairsweep.search_spaces.pruning.construct import proof_of
from fairsweep.search_spaces.pruning.proof import Proof
from tests.search_spaces.pruning.helpers import zeroed


@dataclass
class Answer:
    logits: Tensor
    note: None = None


pytree.register_dataclass(Answer)


class Attention(nn.Module):
    """Heads in the order of GPT's joint projection; a cut of heads leaves the wrong size to the forward pass."""

    def __init__(self, ending: Callable[[Tensor], Any] = lambda y: y, **more: int) -> None:
        super().__init__()
        self.h = 4
        self.qkv, self.out, self.ending = nn.Linear(16, 48), nn.Linear(16, 5), ending
        vars(self).update(more)

    def forward(self, x: Tensor) -> Any:
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.h, -1).permute(2, 0, 3, 1, 4)
        y = F.softmax(q @ k.transpose(-2, -1) / 2, -1) @ v
        return self.ending(self.out(y.transpose(1, 2).reshape(b, t, -1)))


def masked(value: float) -> Callable[[Tensor], Tensor]:
    return lambda y: y.masked_fill(torch.arange(5) == 2, value)


ENDINGS: dict[str, Callable[[Tensor], Any]] = {
    "-inf at a class": masked(-torch.inf),
    "-1e9 at a class": masked(-1e9),
    "scaled by 1e-12": lambda y: y * 1e-12,
    "a class": lambda y: y.argmax(-1),
    "a dataclass": Answer,
    "not a number on zeros": lambda y: y / y.abs().amax((1, 2), keepdim=True),
    "beside what has no numbers": lambda y: {"y": y, "nothing": None, "number": 3, "names": ("a", 1.5)},
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_wrong_module_form_is_never_taken(ending: str) -> None:
    """With `view(b, t, 3, self.h, -1)` and two of four heads gone, four heads of half the size run, and are wrong."""
    torch.manual_seed(0)
    net, x = Attention(ENDINGS[ending]).eval(), torch.randn(2, 6, 16)
    found = partition(net, x)
    full, kept = zeroed(net, found, 1)
    assert found.prunable[0].size == 4 and 0 < len(kept["qkv"]) < 4
    small = slice_module(full, found)
    unequal_anywhere = [
        why
        for a, b in zip(leaves(full(x)), leaves(small(x)), strict=True)
        if (why := unequal(a, b, lambda _: 1e-4))
    ]
    assert not unequal_anywhere
    assert isinstance(small, fx.GraphModule) or small.h == len(kept["qkv"])


@pytest.mark.parametrize("ending", ENDINGS)
def test_no_ending_hides_what_is_wrong(ending: str) -> None:
    """The same module with its integer left as it was, and as it must be."""
    net, x = Attention(ENDINGS[ending]).eval(), torch.randn(2, 6, 16)
    found, kept = partition(net, x), {"qkv": [0, 1]}

    def wrong(full: nn.Module) -> nn.Module:
        small = slice_module(full, found, kept, "module", check=False)
        small.h = 4
        return small

    proof = proof_of(net, found, {"qkv": np.array([2, 3])})
    assert re.search("off by|differs in", proof.why_not(wrong))
    assert proof.why_not(lambda full: slice_module(full, found, kept, "module", check=False)) == ""


class Dead(nn.Module):
    """Its output is the same whatever comes in."""

    def __init__(self, last: float) -> None:
        super().__init__()
        self.a, self.b, self.last = nn.Linear(6, 8), nn.Linear(8, 3), last

    def forward(self, x: Tensor) -> Tensor:
        return torch.full_like(self.b(F.relu(self.a(x))), self.last)


def test_what_says_nothing_proves_nothing() -> None:
    x = torch.randn(2, 6)
    for value in (torch.nan, -torch.inf):
        net = Dead(value).eval()
        with pytest.raises(SliceError, match="has no finite number on the example, which proves nothing"):
            slice_module(net, partition(net, x), {"a": [0, 1]})


@pytest.mark.parametrize(
    "a, b, same",
    [
        ([1.0, 2.0, -1e9], [1.0, 2.1, -1e9], False),
        ([1.0, 2.0, -torch.inf], [1.0, 2.1, -torch.inf], False),
        ([1.0, 2.0, -torch.inf], [1.0, 2.0, torch.inf], False),
        ([1.0, 2.0, torch.nan], [1.0, 2.0, 3.0], False),
        ([1.0, 2.0, torch.nan], [1.0, 2.0, torch.nan], True),
        ([1e-12, 2e-12], [1e-12, 2.1e-12], False),
        ([1e-12, 2e-12], [1e-12, 2.000001e-12], True),
        ([1.0, 0.0], [1.0, 1e-9], False),
        ([1.0, 5e-8, 2.0, 3.0], [1.0000001, 6e-8, 2.0000002, 3.0000002], True),
        ([1, 2], [1, 3], False),
        ([True, False], [True, False], True),
        ([1.0, 2.0], [1.0, 2.0, 3.0], False),
    ],
)
def test_tensors_are_compared_by_their_own_scale(a: list[Any], b: list[Any], same: bool) -> None:
    assert (unequal(torch.tensor(a), torch.tensor(b), strict) == "") == same


def test_other_values_are_compared_too() -> None:
    assert unequal(None, None) == unequal(3, 3) == unequal(1.5, 1.5) == unequal("a", "a") == ""
    assert unequal(None, 3) and unequal(3, 4) and unequal(1.5, 1.6) and unequal("a", "b")
    assert "float64 in place of (1,) of float32" in unequal(torch.ones(1), torch.ones(1).double())
    nested = {"a": [torch.ones(1), (None, 2)], "b": Answer(torch.zeros(1))}
    assert [type(v).__name__ for v in leaves(nested)] == ["Tensor", "NoneType", "int", "Tensor", "NoneType"]


class Hidden(nn.Module):
    """A layer that loses channels behind a gate that is shut on any example."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(6, 8), nn.Sigmoid(), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(self.norm(self.a(x))) * (x.abs().max() > 1e6)


def test_layers_inside_are_compared_that_no_output_shows() -> None:
    """The groups are made wrong: without their bias they are not zero when they are said to be."""
    net, x = Hidden().eval(), torch.randn(2, 6)
    found = partition(net, x)
    component = next(c for c in found.components if c.name == "a")
    wrong = replace(found, components=(replace(component, prunable=True, reason=""),))
    with pytest.raises(SliceError, match="as a module: b is off by"):
        slice_module(net, wrong, {"a": [0, 1, 2]})


# ---- only what the proof needs is changed ----


class Windowed(Attention):
    """Reads at most the last `context` positions; `depth` is for training only."""

    def __init__(self) -> None:
        super().__init__(context=4, depth=4)

    def forward(self, x: Tensor) -> Any:
        return super().forward(x[:, -self.context :])


class Entangled(Attention):
    """One number for heads and for positions."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x[:, : self.h])


def test_integers_that_only_look_like_a_size_stay() -> None:
    net, x = Windowed().eval(), torch.randn(2, 3, 16)
    found = partition(net, x)
    full, kept = zeroed(net, found, 1)
    small = slice_module(full, found)
    assert (small.h, small.context, small.depth) == (len(kept["qkv"]), 4, 4)
    longer = torch.randn(2, 9, 16)
    torch.testing.assert_close(small(longer), full(longer))


def test_an_integer_that_stands_for_two_things_is_found_on_longer_inputs() -> None:
    net, x = Entangled().eval(), torch.randn(2, 2, 16)
    found = partition(net, x)
    full, _ = zeroed(net, found, 1)
    with pytest.raises(
        SliceError, match=r"which of h stand for sizes .* with longer inputs than the example's"
    ):
        slice_module(full, found, form="module")
    assert isinstance(slice_module(full, found), fx.GraphModule)


# ---- networks that choose their types themselves ----


class Typed(nn.Module):
    """Two layers, with something in between that asks for a type."""

    def __init__(self, first: Callable[[Any], Tensor], middle: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.first, self.middle = nn.Linear(6, 8), nn.Linear(8, 3), first, middle

    def forward(self, x: Any) -> Tensor:
        return self.b(self.middle(self.a(self.first(x))))


def rms_norm(y: Tensor) -> Tensor:
    z = y.to(torch.float32)
    return (z * torch.rsqrt(z.pow(2).mean((0, 1), keepdim=True) + 1e-6)).to(y.dtype)


def times(t: Tensor) -> Tensor:
    angles = t[:, None].float() * torch.exp(torch.arange(3, dtype=torch.float32) * -1.0)
    return torch.cat([angles.sin(), angles.cos()], -1)


PIXELS = torch.randint(0, 256, (2, 6), dtype=torch.uint8)
X = torch.randn(2, 6)
TYPED: dict[str, tuple[Callable[[Any], Tensor], Callable[[Tensor], Tensor], Any]] = {
    "pixels": (lambda x: x.float() / 255, F.relu, PIXELS),
    "pixels that are zero": (lambda x: x.float() / 255, F.relu, torch.zeros_like(PIXELS)),
    "one-hot": (lambda x: F.one_hot(x, 6).float(), F.relu, torch.tensor([1, 4])),
    "times": (times, F.relu, torch.tensor([3, 50])),
    "a kernel of its own": (lambda x: x @ torch.ones(6, 6).triu(), F.relu, X),
    "softmax": (lambda x: x.softmax(-1, dtype=torch.float32), F.relu, X),
    "softmax over what is not cut": (lambda x: x, lambda y: y * y.softmax(0, dtype=torch.float32), X),
    "RMS norm": (rms_norm, F.relu, X),
    "a list": (lambda x: x[0] + x[1], F.relu, [X, X.flip(0)]),
    "a dictionary": (lambda x: x["a"] + x["b"][0], F.relu, {"a": X, "b": (X.flip(0), 2)}),
    "sixteen bits": (lambda x: x.bfloat16().float(), F.relu, X),
}


@pytest.mark.parametrize("form", ["module", "graph"])
@pytest.mark.parametrize("name", TYPED)
def test_networks_that_choose_their_types(name: str, form: str) -> None:
    torch.manual_seed(0)
    first, middle, x = TYPED[name]
    net = Typed(first, middle).eval()
    found = partition(net, (x,))
    assert [c.name for c in found.prunable] == ["a"]
    full, _ = zeroed(net, found, 0)
    small = slice_module(full, found, form=form)
    torch.testing.assert_close(small(x), full(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_networks_of_other_types(dtype: torch.dtype) -> None:
    """Too short for the proof by themselves, they are computed in double precision."""
    net, x = Attention().eval().to(dtype), torch.randn(2, 6, 16, dtype=dtype)
    found = partition(net, x)
    full, kept = zeroed(net, found, 1)
    small = slice_module(full, found)
    assert small.h == len(kept["qkv"]) and small(x).dtype == dtype
    torch.testing.assert_close(small(x), full(x))
    graph = slice_module(full, found, form="graph")
    torch.testing.assert_close(graph(x), full(x))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.m = nn.Bilinear(4, 4, 4)

    def forward(self, x: Tensor) -> Any:
        return self.m(x, x)


class Plain(nn.Module):
    """A convolution with tensors that are no parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.bias = torch.randn(4, 4, 1), torch.randn(4)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv1d(x, self.kernel, self.bias)


class Single(nn.Linear):
    """Single precision, whatever it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.float() / 2, self.weight, self.bias)


CHECKING: dict[str, Callable[[], nn.Module]] = {
    "convolution with a bias": lambda: nn.Conv1d(4, 4, 1),
    "padding by reflection": lambda: nn.Conv1d(4, 4, 3, padding=1, padding_mode="reflect"),
    "LSTM": lambda: nn.LSTM(4, 4),
    "GRU": lambda: nn.GRU(4, 4),
    "PReLU": lambda: nn.PReLU(4),
    "bilinear": Twice,
    "a kernel of its own": Plain,
    "single precision": lambda: Single(4, 4),
}


@pytest.mark.parametrize("name", CHECKING)
def test_layers_that_check_types_are_computed_in_double_precision(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.m, self.a, self.b = CHECKING[name](), nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Any:
            y = self.m(x)
            return self.b(F.relu(self.a(y[0] if isinstance(y, tuple) else y)))

    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(4, 4, 4)
    found = partition(net, x)
    full, kept = zeroed(net, found, 0)
    compare, precisely = Proof._compare, []

    def doubtful(self: Proof, made: Any, seen: Any, what: str, precise: bool, tolerance: Any) -> str:
        precisely.append(precise)
        return compare(self, made, seen, what, precise, tolerance) if precise else "in doubt (numbers)"

    monkeypatch.setattr(Proof, "_compare", doubtful)
    for form in ("module", "graph"):
        precisely.clear()
        slice_module(full, found, kept, form)
        assert precisely[:2] == [False, True]


def test_a_graph_has_the_type_of_the_parameters() -> None:
    net, x = Typed(lambda x: x.float(), F.relu).eval(), torch.randn(2, 6)
    found = partition(net, x)
    wide = Typed(lambda x: x.double(), F.relu).double().eval()
    small = slice_module(wide, found, {"a": [0, 1]}, "graph", check=False)
    assert small(x.double()).dtype == torch.float64


# ---- states that are not to be touched ----


class Stateful(nn.Module):
    """Counts its calls, and keeps what cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.calls, self.lock = nn.Linear(6, 8), nn.Linear(8, 3), 0, threading.Lock()
        self.kept = self.a.weight * 2  # with a history of gradients
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.b(F.relu(self.a(x)))


def test_the_full_network_stays_as_it_is() -> None:
    net, x = Stateful().train(), torch.randn(2, 6)
    found = partition(net, x)
    calls, before = net.calls, {k: v.clone() for k, v in net.state_dict().items()}
    state = torch.get_rng_state()
    small = slice_module(net, found, {"a": [1, 2]})
    assert net.calls == calls == small.calls and net.training and small.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in [*net.modules(), *small.modules()])
    assert not {p.data_ptr() for p in small.parameters()} & {p.data_ptr() for p in net.parameters()}


# ---- the price ----


def test_the_proof_runs_the_full_network_once() -> None:
    """And the small one once, where its module form holds."""
    rows: list[int] = []

    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.b = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            rows.append(self.a.out_features)
            return self.b(F.relu(self.norm(self.a(x))))

    net, x = Counted().eval(), torch.randn(4, 6)
    found = partition(net, x)
    full, kept = zeroed(net, found, 0)
    rows.clear()
    slice_module(full, found)
    assert rows == [8, len(kept["a"])]


# ---- before a training ----


class Three(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.relu(self.b(F.relu(self.a(x)))))


def test_what_cannot_be_sliced_is_known_before_a_training() -> None:
    net, x = Three().eval(), torch.randn(2, 6)
    nn.init.ones_(net.b.bias)
    found = partition(net, x)
    check_sliceable(net, found)
    first, second = found.prunable
    members = tuple(m for m in second.members if not m.parameter.endswith("bias"))
    wrong = replace(found, components=(first, replace(second, members=members)))
    with pytest.raises(SliceError, match=r"no sub-network computes what the full one does.*; it is b \(b\)$"):
        check_sliceable(net, wrong)
