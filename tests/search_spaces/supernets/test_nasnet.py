"""NASNet's supernet: what is extracted, which weights a path takes, and what it costs."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from fairsweep.search_spaces.architectures import ArchitectureError
from fairsweep.search_spaces.costs import CostError, count_flops, count_parameters
from fairsweep.search_spaces.supernets import Supernet, build_supernet

torch.set_num_threads(1)
SIZES: dict[str, dict[str, Any]] = {
    "laptop": {},
    "concat": {
        "combine": ["add", "concat"], "repeats": 2, "filters": 4, "input_shape": [2, 7, 9],
        "operations": ["identity", "conv_1x1", "dil_3x3", "max_5x5"],
    },
    "three": {"blocks": 3, "filters": 4, "operations": ["identity", "conv_1x7_7x1"], "affine": False},
}  # fmt: skip
CHAIN = "0:sep_3x3+1:sep_3x3-2:sep_3x3+2:identity"  # one loose end
WIDE = "0:sep_3x3+0:identity-0:avg_3x3+0:sep_5x5"  # three, the unused input among them


def made(name: str, seed: int = 0) -> Any:
    return build_supernet("nasnet", seed=seed, **SIZES[name])


def batch(net: Supernet, n: int = 8) -> torch.Tensor:
    return torch.randn(n, *net.input_shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", SIZES)
def test_what_is_extracted_computes_the_same(name: str) -> None:
    net = made(name).eval()
    x = batch(net)
    with torch.no_grad():
        for seed in range(25):
            path = net.space.sample(seed)
            assert (net.extract(path)(x) - net(x, path)).abs().max() <= 1e-5


def test_cells_of_one_loose_end_hand_it_on_as_it_is() -> None:
    net = made("laptop").eval()
    x = batch(net)
    for text in (f"{CHAIN}/{CHAIN}", f"{CHAIN}/{WIDE}", f"{WIDE}/{CHAIN}"):
        path = net.space.parse(text)
        with torch.no_grad():
            assert (net.extract(path)(x) - net(x, path)).abs().max() <= 1e-5
    deep = build_supernet("nasnet", repeats=2)
    path = deep.space.parse(f"{WIDE}/{CHAIN}")
    network: Any = deep.build(path)
    # The second cell after a reduction takes that one's output unchanged: no convolution, and no weights for it.
    fitting = [cell.entry.previous is None for cell in network.cells]
    assert fitting == [False, False, False, False, True, False, False, True]
    taken = deep.path_parameters(path)
    assert not any(name.startswith("cells.4.entry.previous") for name in taken)
    assert sum(deep.get_parameter(name).numel() for name in taken) == count_parameters(network)


def test_extracted_weights_are_copies() -> None:
    net = made("laptop")
    path, before = net.space.sample(3), {k: v.clone() for k, v in net.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    child = net.extract(path)
    assert torch.equal(torch.rand(2), expected)  # nobody's random stream is disturbed
    with torch.no_grad():
        for parameter in child.parameters():
            parameter.zero_()
    assert all(parameter.requires_grad for parameter in child.parameters())
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


@pytest.mark.parametrize("name", SIZES)
def test_a_path_trains_its_own_parameters_and_no_others(name: str) -> None:
    net = made(name)
    x = batch(net)
    for seed in range(15):
        path = net.space.sample(seed)
        net.zero_grad()
        net(x, path).square().sum().backward()
        trained = [n for n, p in net.named_parameters() if p.grad is not None]
        assert trained == net.path_parameters(path)


@pytest.mark.parametrize("name", ["laptop", "concat"])
def test_paths_share_their_beginnings_exactly(name: str) -> None:
    net = made(name)
    x = batch(net, 4)
    base = net.space.sample(0)
    paths = [base, *(net.space.mutate(base, seed) for seed in range(6)), net.space.sample(1), base]
    with torch.no_grad():
        shared = list(net.forward_paths(x, paths))
        assert all(torch.equal(a, net(x, path)) for a, path in zip(shared, paths, strict=True))


def test_a_step_looks_only_at_the_choices_that_it_names() -> None:
    net = made("concat")
    x = batch(net, 4)
    space, positions = net.space, net.space.positions
    with torch.no_grad():
        for seed in range(4):
            path, other, state = space.sample(seed), space.sample(seed + 100), (x,)
            for number, step in enumerate(net.steps):
                kept = [positions[c] for c in step.choices]
                mixed = list(other.indices)
                for k in kept:
                    mixed[k] = path.indices[k]
                after = net.run_step(number, state, path)
                again = net.run_step(number, state, space.architecture(mixed))
                assert len(after) == len(again) and all(map(torch.equal, after, again)), step
                state = after
            assert torch.equal(state[0], net(x, path))
    assert {c for step in net.steps for c in step.choices} == set(positions)


def test_options_have_the_weights_of_their_half_of_their_block() -> None:
    net = made("laptop")
    sep = set(net.option_parameters("normal.b1.op2", "sep_3x3"))
    assert {name.split(".")[3:7:3][0] for name in sep} == {"1"}
    cells = {int(name.split(".")[1]) for name in sep}
    assert cells == {p.number for p in net.places if p.kind == "normal"}
    assert {name.split(".")[5] for name in sep} == {"0", "1", "2"}
    assert not sep & set(net.option_parameters("normal.b1.op1", "sep_3x3"))
    assert net.option_parameters("normal.b1.in2", "2") == ()
    assert net.option_parameters("normal.b1.op2", "avg_3x3") == ()
    assert net.option_parameters("reduction.b0.op1", "identity") != ()  # a strided convolution
    assert net.option_parameters("normal.b0.combine", "add") == ()
    joined = made("concat").option_parameters("normal.b0.combine", "concat")
    assert joined and all(".combine.0.concat." in name for name in joined)


@pytest.mark.parametrize("name", ["laptop", "concat"])
def test_costs_are_those_of_the_network(name: str) -> None:
    net = made(name)
    for seed in range(5):
        path = net.space.sample(seed)
        network = net.build(path)
        assert net.cost(path, "params") == count_parameters(network)
        assert net.cost(path, "flops") == count_flops(network, net.input_shape)


def test_costs_of_many_blocks_are_refused() -> None:
    net = build_supernet("nasnet", blocks=4, filters=2, operations=["identity"])
    with pytest.raises(CostError, match="blocks=4: costs are tabulated for up to 3"):
        net.cost(net.space.sample(0), "params")


@pytest.mark.parametrize("name", SIZES)
def test_the_configuration_makes_it_again(name: str) -> None:
    net = made(name)
    again = build_supernet("nasnet", **json.loads(json.dumps(net.config())))
    assert again.config() == net.config() and again.space == net.space
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))


def test_pieces_begin_like_the_layers_that_they_make() -> None:
    net = build_supernet("nasnet", filters=64)
    path = net.space.parse(f"{WIDE}/{WIDE}")
    ours: Any = net.extract(path)
    built: Any = net.build(path)
    for pick in (lambda n: n.cells[1].entry.current[1], lambda n: n.cells[2].entry.previous[1].even):
        assert pick(ours).weight.shape == pick(built).weight.shape
        assert pick(ours).weight.std().item() == pytest.approx(pick(built).weight.std().item(), rel=0.1)


def test_foreign_paths_are_refused() -> None:
    net, other = made("laptop"), made("three")
    for call in (net.extract, net.build, lambda p: net(batch(net), p)):
        with pytest.raises(ArchitectureError, match=r"was given where one of nasnet"):
            call(other.space.sample(0))
