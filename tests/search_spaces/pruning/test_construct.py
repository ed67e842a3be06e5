"""Sub-networks as ordinary modules: layers, states, round trips; recipes; what is refused."""

from __future__ import annotations

import copy
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from fairsweep.search_spaces.pruning import (
    RecipeError,
    SliceError,
    apply_recipe,
    explain,
    kept_groups,
    partition,
    recipe,
    slice_module,
    zero_groups,
)
from tests.search_spaces.pruning.helpers import difference, network, zeroed
from tests.search_spaces.pruning.networks import NETWORKS, conv


def test_layers_know_their_new_sizes() -> None:
    net, found, _ = network("mobilenet_v2")
    full, kept = zeroed(net, found, 0)
    small = slice_module(full, found)
    depthwise = small.body[2].body[2][0]
    width = len(kept["body.2.body.0.0"])
    assert (depthwise.groups, depthwise.in_channels, depthwise.out_channels) == (width, width, width)
    assert small.body[2].body[2][1].num_features == width == len(small.body[2].body[2][1].running_mean)
    assert small.head[1].in_features == small.head[1].weight.shape[1] == len(kept["body.6.0"])
    assert type(small) is type(net) and small.head[1].out_features == 10


def test_the_small_network_owns_its_tensors_and_trains() -> None:
    net, found, x = network("resnet18")
    full, _ = zeroed(net, found, 0)
    before = copy.deepcopy(full.state_dict())
    small = slice_module(full.train(), found)
    assert small.training and all(p.requires_grad for p in small.parameters())
    optimiser = torch.optim.SGD(small.parameters(), 0.1)
    small(x).square().mean().backward()
    optimiser.step()
    assert all(torch.equal(v, before[k]) for k, v in full.state_dict().items())
    assert list(small.state_dict()) == list(full.state_dict())


def test_weights_that_are_tied_stay_tied() -> None:
    net, found, _ = network("gpt")
    tied = slice_module(zeroed(net, found, 0)[0], found)
    assert "head.weight" not in dict(tied.named_parameters()) and tied.tokens.weight.shape == (20, 16)
    net, found, _ = network("shared")
    small = slice_module(zeroed(net, found, 0)[0], found)
    assert small.shared.weight.shape[0] == small.shared.weight.shape[1] == small.stem.weight.shape[0]


def test_zero_groups_are_found_and_a_component_is_never_empty() -> None:
    net, found, _ = network("resnet18")
    full, kept = zeroed(net, found, 0)
    assert kept_groups(full, found) == kept
    lost = zero_groups(full, found)
    assert all(sorted(lost[c.name] + kept[c.name]) == list(range(c.size)) for c in found.prunable)
    found.zero(found.prunable[0], range(found.prunable[0].size), dict(full.named_parameters()))
    with pytest.raises(SliceError, match=r"body\.0\.0: no group is kept"):
        slice_module(full, found)


def test_what_cannot_be_cut_is_refused() -> None:
    net, found, _ = network("gpt")
    with pytest.raises(SliceError, match="kept: no component nothing; there are tokens"):
        slice_module(net, found, {"nothing": [0]})
    with pytest.raises(SliceError, match=r"tokens#1: all 16 groups must stay: .* normalises over it"):
        slice_module(net, found, {"tokens#1": [0, 1]})
    with pytest.raises(SliceError, match=r"blocks\.0\.mlp\.0: groups 0 to 64; there are 64"):
        slice_module(net, found, {"blocks.0.mlp.0": [0, 64]})
    with pytest.raises(SliceError, match="must be one of auto, module, graph"):
        slice_module(net, found, {}, form="onnx")
    with pytest.raises(SliceError, match="auto only with a check"):
        slice_module(net, found, {}, check=False)
    with pytest.raises(
        SliceError, match="the forward pass of GPT does not run with smaller sizes; take 'graph'"
    ):
        slice_module(net, found, {"blocks.0.attention.qkv": [1]}, form="module")


def test_a_wrong_partition_gives_no_network() -> None:
    """Groups that are not zero-invariant after all are found out before anything is returned."""
    net, found, _ = network("resnet18")
    members = tuple(m for m in found.components[0].members if not m.parameter.endswith("bias"))
    first = replace(found.components[0], members=members)
    wrong = replace(found, components=(first, *found.components[1:]))
    with pytest.raises(SliceError, match="no sub-network computes what the full one does"):
        slice_module(net, wrong, {first.name: [0, 1, 2]})


def test_without_a_check_the_result_is_the_same() -> None:
    net, found, _ = network("densenet")
    full, kept = zeroed(net, found, 0)
    checked, unchecked = slice_module(full, found), slice_module(full, found, kept, "module", check=False)
    assert all(torch.equal(v, unchecked.state_dict()[k]) for k, v in checked.state_dict().items())


class Several(nn.Module):
    """Several inputs and outputs, a list among them, and constants in the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 8), conv(2, 8), conv(8, 2)
        self.register_buffer("scale", torch.rand(8, 1, 1))

    def forward(self, x: Tensor, y: Tensor, weight: float) -> dict[str, Tensor | list[Tensor]]:
        z = torch.relu(self.a(x) * weight + self.b(y)) * self.scale
        return {"maps": [self.c(z)], "mean": z.mean((1, 2, 3)) if weight < 0 else self.c(z).mean((1, 2, 3))}


@pytest.mark.parametrize("form", ["module", "graph"])
def test_several_inputs_and_outputs(form: str) -> None:
    net, inputs = Several().eval(), (torch.randn(2, 3, 5, 5), torch.randn(2, 2, 5, 5), 0.5)
    found = partition(net, inputs)
    full, kept = zeroed(net, found, 0)
    small = slice_module(full, found, form=form)
    assert small.scale.shape == (len(kept["a"]), 1, 1)
    with torch.no_grad():
        a, b = full(*inputs), small(*inputs)
    torch.testing.assert_close(b["maps"][0], a["maps"][0], atol=1e-6, rtol=0)
    torch.testing.assert_close(b["mean"], a["mean"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["mobilenet_v2", "encoder"])
def test_torch_export_round_trip(name: str) -> None:
    net, found, x = network(name)
    small = slice_module(zeroed(net, found, 0)[0], found)
    program = torch.export.export(small, (x,))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    torch.testing.assert_close(torch.export.load(buffer).module()(x), small(x), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["resnet18", "encoder"])
def test_onnx_round_trip(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    net, found, x = network(name)
    small = slice_module(zeroed(net, found, 0)[0], found)
    torch.onnx.export(small, (x,), str(tmp_path / "small.onnx"), dynamo=True, verbose=False)
    session = runtime.InferenceSession(str(tmp_path / "small.onnx"))
    (made,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(made), small(x), atol=1e-5, rtol=0)


# ---- recipes ----


@pytest.mark.parametrize("name", ["resnet18", "vit", "gpt", "encoder"])
def test_a_recipe_and_a_state_give_the_small_network_from_a_fresh_one(name: str) -> None:
    net, found, x = network(name)
    full, kept = zeroed(net, found, 0)
    small = slice_module(full, found)
    text = json.dumps(recipe(full, found, kept, small))
    torch.manual_seed(9)
    again = apply_recipe(NETWORKS[name].small(), json.loads(text)).eval()
    assert difference(again, small, x) > 1e-3 and type(again).__name__ == type(small).__name__
    again.load_state_dict(small.state_dict())
    assert difference(again, small, x) == 0


def test_recipes_of_other_networks_are_refused() -> None:
    net, found, _ = network("resnet18")
    made = recipe(net, found, {found.prunable[0].name: [0, 1]}, net)
    assert made["kept"] == {found.prunable[0].name: [0, 1]} and made["inputs"] == [
        {"shape": [2, 3, 16, 16], "dtype": "float32"}
    ]
    with pytest.raises(RecipeError, match="its tensors are others"):
        apply_recipe(NETWORKS["vit"].small(), made)
    with pytest.raises(RecipeError, match="version=3: this reads versions 1 to 2"):
        apply_recipe(net, {**made, "version": 3})
    with pytest.raises(RecipeError, match="not a recipe of pruning: kept is missing"):
        apply_recipe(net, {k: v for k, v in made.items() if k != "kept"})
    with pytest.raises(RecipeError, match="dtype=float33"):
        apply_recipe(net, {**made, "inputs": [{"shape": [1], "dtype": "float33"}]})


def test_frozen_parameters_are_in_the_recipe() -> None:
    net = copy.deepcopy(network("vgg_bn")[0])
    net.features[0].weight.requires_grad_(False)
    x = NETWORKS["vgg_bn"].inputs()
    found = partition(net, x)
    full, kept = zeroed(net, found, 0)
    small = slice_module(full, found)
    again = apply_recipe(NETWORKS["vgg_bn"].small(), recipe(full, found, kept, small))
    assert [p.shape for p in again.parameters()] == [p.shape for p in small.parameters()]


# ---- the table for a reader ----


def test_explain_lists_components_and_reasons() -> None:
    net, found, _ = network("vit")
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(explain(found, net))
    text = console.export_text()
    assert "ViT: 132 groups in 4 components" in text
    row = next(line for line in text.splitlines() if line.lstrip("│ ").startswith("blocks.0.attention.qkv"))
    assert "816" in row and "yes" in row  # three times (16 + 1) * 16
    assert "blocks.0.norm1 normalises over it" in text and "it is the network's output" in text
    held = 2 * (3 * 17 * 16 + 64 * 17)
    assert f"{held:,} of {sum(p.numel() for p in net.parameters()):,} parameters" in text
