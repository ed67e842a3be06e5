"""Traced graphs take other batches than the example's, or are refused; recipes name how a network was made."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fairsweep.search_spaces.pruning import (
    RecipeError,
    SliceError,
    apply_recipe,
    partition,
    recipe,
    slice_module,
)
from fairsweep.search_spaces.pruning.construct import How, how_made
from tests.search_spaces.pruning.helpers import difference, zeroed
from tests.search_spaces.pruning.networks import NETWORKS
from tests.search_spaces.pruning.test_proof import Attention, Windowed


class Fixed(nn.Module):
    """Its forward pass has the width of a layer written into it, so that only a graph can be cut."""

    def __init__(self, middle: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.middle = nn.Linear(6, 8), nn.Linear(8, 3), middle
        self.cls = nn.Parameter(torch.randn(1, 1, 6))

    def forward(self, x: Tensor) -> Tensor:  # (b, 3, 6)
        y = F.relu(self.a(self.middle(self, x)))
        return self.b(y.view(*y.shape[:-1], 8))


FOLLOWS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "arange": lambda n, x: x[torch.arange(len(x)), torch.arange(len(x)) % 2],
    "divided by it": lambda n, x: x / x.shape[0],
    "times a share of it": lambda n, x: x * (x.shape[0] / 4),
    "repeat": lambda n, x: torch.cat([n.cls.repeat(len(x), 1, 1), x], 1),
    "zeros": lambda n, x: torch.cat([torch.zeros(len(x), 1, 6), x], 1),
    "zeros of twice its size": lambda n, x: torch.cat(
        [torch.zeros(2 * len(x), 1, 6).view(len(x), 2, 6), x], 1
    ),
    "all pairs": lambda n, x: (
        (x.flatten(1) @ x.flatten(1).T).view(len(x), len(x), 1).mean(1, keepdim=True) + x
    ),
    "as one row": lambda n, x: x.reshape(1, len(x) * 3, 6).cumsum(1).reshape(len(x), 3, 6),
    "the last": lambda n, x: x - x[len(x) - 1 :],
    "expanded": lambda n, x: n.cls.expand(len(x), 3, 6) * x,
    "a mask": lambda n, x: x.masked_fill((torch.arange(3) < len(x))[:, None].expand(len(x), 3, 6), 1.0),
}


@pytest.mark.parametrize("name", FOLLOWS)
def test_numbers_that_follow_the_batch_are_computed_from_it(name: str) -> None:
    torch.manual_seed(0)
    net = Fixed(FOLLOWS[name]).eval()
    found = partition(net, torch.randn(2, 3, 6))
    assert [c.name for c in found.prunable] == ["a"]
    full, _ = zeroed(net, found, 0)
    small = slice_module(full, found)
    assert isinstance(small, fx.GraphModule)
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3, 6)
        assert difference(full, small, x) <= 1e-6
    again = apply_recipe(Fixed(FOLLOWS[name]), json.loads(json.dumps(recipe(full, found, {"a": [0]}, small))))
    again.load_state_dict(slice_module(full, found, {"a": [0]}).state_dict())
    assert again(torch.randn(5, 3, 6)).shape == small(torch.randn(5, 3, 6)).shape


REFUSED: dict[str, tuple[Callable[[Any, Tensor], Tensor], str]] = {
    "a loop": (
        lambda n, x: torch.cat([part * 2 for part in x.split(1, 0)]),
        "is another operator for a batch of 5",
    ),
    "its inverse": (lambda n, x: x * (1 / len(x)), "is off by .*, for a batch of 1"),
    "a table": (lambda n, x: x * torch.tensor([[[float(len(x))]]]), "written into its forward pass"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_another_network_for_another_batch_is_refused(name: str) -> None:
    middle, said = REFUSED[name]
    net = Fixed(middle).eval()
    found = partition(net, torch.randn(2, 3, 6))
    with pytest.raises(SliceError, match=f"Fixed: no sub-network computes .* as a graph: .*{said}"):
        slice_module(net, found, {"a": [0, 1]})


# ---- recipes ----


class Halves(nn.Module):
    """Sizes of halves are written into it; what follows is a function of the maps."""

    def __init__(self, end: Callable[[Tensor, float], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.end = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 1), end

    def forward(self, x: Tensor, scale: float) -> Tensor:
        return self.end(self.b(torch.cat(F.relu(self.a(x)).split([4, 4], 1), 1)), scale)


def halves(end: Callable[[Tensor, float], Tensor]) -> tuple[nn.Module, nn.Module, Tensor]:
    torch.manual_seed(0)
    net, x = Halves(end).eval(), torch.randn(2, 3, 8, 8)
    found = partition(net, (x, 2.0))
    full, _ = zeroed(net, found, 0)
    small = slice_module(full, found)
    assert isinstance(small, fx.GraphModule)
    return full, small, torch.randn(3, 3, 10, 6)


def test_a_graph_takes_other_sizes_where_none_of_its_numbers_follows_them() -> None:
    full, small, x = halves(lambda y, scale: y.mean((2, 3)) * scale)
    torch.testing.assert_close(small(x, 2.0), full(x, 2.0))


def test_a_graph_that_holds_sizes_of_its_example_refuses_others() -> None:
    """It would go on with 64 positions, and nothing would tell."""
    full, small, x = halves(lambda y, scale: y.sum((2, 3)) / (y.shape[2] * y.shape[3]) * scale)
    torch.testing.assert_close(small(torch.ones(5, 3, 8, 8), 2.0), full(torch.ones(5, 3, 8, 8), 2.0))
    with pytest.raises(AssertionError, match="x: its size along dimension 2 must be 8, as in the example"):
        small(x, 2.0)


def test_a_graph_whose_reshapes_are_of_sizes_refuses_others() -> None:
    """-1 in a reshape is a number in the graph, where the batch takes the place of -1."""
    _, small, _ = halves(lambda y, scale: y.reshape(len(y), 3, -1).sum(1) * scale)
    with pytest.raises(AssertionError, match="x: its size along dimension 2 must be 8, as in the example"):
        small(torch.randn(2, 3, 16, 16), 2.0)


def test_a_graph_refuses_other_numbers_than_its_example() -> None:
    _, small, x = halves(lambda y, scale: y.mean((2, 3)) * scale)
    with pytest.raises(AssertionError, match=r"scale: must be 2\.0, as in the example"):
        small(x, 3.0)


def test_sequences_whose_channels_come_first_are_of_any_length(caplog: pytest.LogCaptureFixture) -> None:
    net = nn.Sequential(nn.Conv1d(3, 8, 3), nn.ReLU(), nn.Conv1d(8, 3, 1)).eval()
    full, _ = zeroed(net, found := partition(net, torch.randn(2, 3, 9)), 0)
    small, x = slice_module(full, found, form="graph"), torch.randn(2, 3, 13)
    torch.testing.assert_close(small(x), full(x))
    assert not [
        r for r in caplog.records if r.levelname == "ERROR"
    ]  # of the trace that was tried with twice the channels


def test_a_recipe_names_how_the_network_was_made() -> None:
    net, x = Windowed().eval(), torch.randn(2, 3, 16)
    found = partition(net, x)
    full, kept = zeroed(net, found, 1)
    small, heads = slice_module(full, found), len(kept["qkv"])
    made = json.loads(json.dumps(recipe(full, found, kept, small)))
    assert made["version"] == 2 and made["form"] == "module" and made["open_batch"] is False
    assert made["integers"] == {
        "": {"h": [4, heads]},
        "qkv": {"out_features": [48, 12 * heads]},
        "out": {"in_features": [16, 4 * heads]},
    }
    graph = slice_module(full, found, form="graph")
    for other in (graph, copy.deepcopy(graph), pickle.loads(pickle.dumps(graph))):
        assert how_made(full, other) == How("graph")
        assert recipe(full, found, kept, other)["form"] == "graph"


def test_a_module_of_a_graph_is_told_from_a_graph_of_it() -> None:
    net, x = NETWORKS["vgg_bn"].small().eval(), NETWORKS["vgg_bn"].inputs()
    whole = slice_module(net, partition(net, x), {}, "graph")
    found = partition(whole, x)
    full, _ = zeroed(whole, found, 0)
    assert how_made(full, slice_module(full, found)).form == "module"
    assert how_made(full, slice_module(full, found, form="graph")).form == "graph"


def test_a_recipe_is_applied_without_a_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens that are all zero would prove a form that is wrong on others."""
    net, found, kept, small, x = _tokens()
    made = recipe(net, found, kept, small)

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("asked for a proof")

    monkeypatch.setattr("fairsweep.search_spaces.pruning.construct.choose", never)
    again = apply_recipe(NETWORKS["gpt"].small(), made).eval()
    again.load_state_dict(small.state_dict())
    assert torch.equal(again(x), small(x))
    with pytest.raises(RecipeError, match=r"GPT.h: must be 7 for a sub-network to be made of it"):
        apply_recipe(NETWORKS["gpt"].small(), {**made, "form": "module", "integers": {"": {"h": [7, 1]}}})


def test_recipes_of_version_1_are_read() -> None:
    net, x = Attention().eval(), torch.randn(2, 6, 16)
    found = partition(net, x)
    full, kept = zeroed(net, found, 1)
    small = slice_module(full, found)
    made = recipe(full, found, kept, small)
    old = {k: v for k, v in made.items() if k not in ("integers", "open_batch")} | {"version": 1}
    again = apply_recipe(Attention(), old)
    again.load_state_dict(small.state_dict())
    assert difference(again, small, x) == 0


def test_inputs_in_lists_and_dictionaries_are_in_the_recipe() -> None:
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Any, scale: Any) -> Tensor:
            return self.b(F.relu(self.a(x["images"][0] + x["images"][1]))) * scale[0]

    net, inputs = Several().eval(), ({"images": [torch.randn(2, 6), torch.randn(2, 6)]}, (2.0,))
    found = partition(net, inputs)
    for form in ("module", "graph"):
        small = slice_module(net, found, {"a": [0, 1]}, form, check=False)
        made = recipe(net, found, {"a": [0, 1]}, small)
        again = apply_recipe(Several(), json.loads(json.dumps(made)))
        again.load_state_dict(small.state_dict())
        assert torch.equal(again(*inputs), small(*inputs))


def _tokens() -> tuple[nn.Module, Any, dict[str, list[int]], nn.Module, Tensor]:
    torch.manual_seed(0)
    net, x = NETWORKS["gpt"].small().eval(), NETWORKS["gpt"].inputs()
    found = partition(net, x)
    full, kept = zeroed(net, found, 0)
    return full, found, kept, slice_module(full, found), x


FRESH = """
import json, sys, torch
from fairsweep.search_spaces.pruning import apply_recipe
from tests.search_spaces.pruning.networks import NETWORKS
made, state, x, y = torch.load(sys.argv[1])
net = apply_recipe(NETWORKS["gpt"].small(), json.loads(made)).eval()
net.load_state_dict(state)
print(float((net(x) - y).abs().max()))
"""


@pytest.mark.slow
def test_a_recipe_in_a_fresh_process(tmp_path: Path) -> None:
    """The zeros that stand for the example prove nothing of a network on numbers of tokens, and need not."""
    full, found, kept, small, x = _tokens()
    made = json.dumps(recipe(full, found, kept, small))
    torch.save((made, small.state_dict(), x, full(x).detach()), tmp_path / "made")
    run = [sys.executable, "-c", FRESH, str(tmp_path / "made")]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) <= 1e-5
