"""Every family of networks: zero groups change nothing when they go, and nobody reads them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import fx

from fairsweep.search_spaces.pruning import partition, slice_module
from fairsweep.search_spaces.pruning.report import numbers
from tests.search_spaces.pruning.helpers import difference, disturb, network, zeroed
from tests.search_spaces.pruning.networks import NETWORKS

EXPECTED = {  # prunable components, groups, form of the sub-network
    "vgg_bn": (4, 56, "module"),
    "resnet18": (6, 72, "module"),
    "resnet50": (11, 100, "module"),
    "resnext": (5, 224, "module"),
    "resnet_padded": (3, 24, "graph"),
    "densenet": (13, 127, "module"),
    "mobilenet_v2": (8, 300, "module"),
    "efficientnet": (12, 348, "module"),
    "convnext": (3, 128, "module"),
    "shufflenet": (3, 12, "module"),
    "carn": (12, 120, "module"),
    "stacked_unets": (11, 90, "module"),
    "vit": (4, 132, "module"),
    "gpt": (4, 136, "graph"),
    "encoder": (2, 36, "graph"),
    "autoencoder": (5, 54, "module"),
    "shared": (1, 8, "module"),
    "group_norm": (2, 20, "module"),
    "non_local": (6, 48, "graph"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_sub_network_computes_the_same(name: str) -> None:
    net, found, x = network(name)
    components, groups, form = EXPECTED[name]
    assert (len(found.prunable), found.size) == (components, groups)
    for seed in range(2):
        full, kept = zeroed(net, found, seed)
        small = slice_module(full, found)
        assert difference(full, small, x) <= 1e-5
        with torch.no_grad():
            y = small(x)
            assert (y[0] - y[1]).abs().max() > 1e-4  # what is left still looks at its input
        assert isinstance(small, fx.GraphModule) == (form == "graph")
        counts, lost = numbers(found, net), 0
        for c in found.prunable:
            lost += counts[c.name] // c.size * (c.size - len(kept[c.name]))
        # What reads a channel goes as well, so more than the groups' own variables is gone.
        assert (
            sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in full.parameters()) - lost // 2
        )


@pytest.mark.parametrize("name", NETWORKS)
def test_nobody_reads_a_zero_group(name: str) -> None:
    """Other values where zero groups are read, or statistics are kept of them, change no output."""
    net, found, x = network(name)
    full, kept = zeroed(net, found, 3)
    other = copy.deepcopy(full)
    tensors = dict(other.named_parameters()) | dict(other.named_buffers())
    with torch.no_grad():
        for component in found.prunable:
            rest = torch.tensor(sorted(set(range(component.size)) - set(kept[component.name])))
            for member in component.followers:
                value = tensors.get(member.parameter)
                if value is not None and value.is_floating_point():
                    rows = member.slices(value)[rest]
                    member.put(value, rows + 1 + torch.rand_like(rows), rest)
            found.zero(component, rest, dict(other.named_parameters()))
    assert any(
        not torch.equal(a, b) for a, b in zip(full.state_dict().values(), tensors.values(), strict=False)
    )
    assert difference(full, other, x) <= 1e-5


@pytest.mark.parametrize("name", NETWORKS)
def test_every_entry_is_in_one_group_or_has_a_reason(name: str) -> None:
    net, found, _ = network(name)
    owners = {key: torch.zeros_like(p) for key, p in net.named_parameters()}
    for component in found.prunable:
        for member in component.members:
            value = owners[member.parameter]
            rows = member.slices(value)
            member.put(value, rows + 1, torch.arange(component.size))
            assert member.index.shape[0] == component.size
    assert all(o.max() <= 1 for o in owners.values())
    for key, owner in owners.items():
        assert bool(owner.any()) != bool(found.untouched.get(key))


@pytest.mark.parametrize("name", [n for n, e in EXPECTED.items() if e[2] == "graph"])
def test_a_rebuilt_graph_takes_any_batch(name: str) -> None:
    net, found, _ = network(name)
    full, _ = zeroed(net, found, 0)
    small = slice_module(full, found)
    for batch in (1, 5):
        x = NETWORKS[name].inputs(batch=batch)
        assert difference(full, small, x) <= 1e-5


@pytest.mark.parametrize("name", NETWORKS)
def test_the_graph_form_computes_the_same(name: str) -> None:
    net, found, x = network(name)
    full, _ = zeroed(net, found, 1)
    small = slice_module(full, found, form="graph")
    assert difference(full, small, x) <= 1e-5
    assert {k.replace("code_.", "code.") for k in small.state_dict()} <= set(full.state_dict())


@pytest.mark.parametrize(
    "skip, inject", [("reuse_cross", "replace"), ("reuse_cross", "prepend"), ("xca", "add")]
)
def test_att_swin_unet(skip: str, inject: str) -> None:
    from fairsweep.trainables.vision.att_swin_unet import build

    config = {
        "model": "att_swin_unet", "patch": 2, "levels": 2, "embed_dim": 8, "heads": 2, "depth": 1, "window": 4,
        "drop_path": 0.0, "skip": skip, "skip_num": 1, "cross_heads": 2, "cross_head_dim": 4, "cross_layers": 1,
        "inject": inject, "op": "add", "renormalise": False,
    }  # fmt: skip
    x = torch.randn(2, 3, 16, 16)
    net = disturb(build(3, 16, config), x)
    found = partition(net, x)
    prunable = {c.name: c for c in found.prunable}
    assert prunable["down.0.blocks.0.mlp.0"].size == 32
    heads = prunable["down.0.blocks.0.attention"]
    assert heads.size == 2
    # Attention that is handed over to the decoder ties its heads to the encoder's.
    assert ("up.0.blocks.0.attention.qkv" in heads.operators) == (skip == "reuse_cross")
    full, _ = zeroed(net, found, 0)
    assert difference(full, slice_module(full, found), x) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_full_networks(name: str) -> None:
    case = NETWORKS[name]
    torch.manual_seed(0)
    x = case.inputs(full=True)
    net = disturb(case.full(), x)
    found = partition(net, x)
    for seed in range(20):
        full, _ = zeroed(net, found, seed)
        assert difference(full, slice_module(full, found), x) <= 1e-4
