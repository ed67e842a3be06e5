"""What every supernet promises. A new kind is added to KINDS and must keep all of it."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fairsweep.search_spaces.architectures import Architecture, ArchitectureError
from fairsweep.search_spaces.costs import CostError, count_flops, count_parameters
from fairsweep.search_spaces.supernets import Supernet, build_supernet

torch.set_num_threads(1)

# kind -> sha256 of the names in its state_dict: weights that were stored must be found again under them.
KINDS = {"cell": "514fea4a", "chain": "bb594ab1", "mbconv": "9485c672", "nasnet": "02b8f72d"}
NESTED = {"mbconv"}  # options are parts of the same weights


@pytest.fixture(params=KINDS)
def net(request: pytest.FixtureRequest) -> Supernet:
    return build_supernet(request.param)


def paths(net: Supernet, n: int) -> list[Architecture]:
    return [net.space.sample(seed) for seed in range(n)]


def images(net: Supernet, n: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, *net.input_shape, generator=torch.Generator().manual_seed(seed))


def one_hot(net: Supernet, path: Architecture) -> dict[str, torch.Tensor]:
    return {
        c.name: F.one_hot(torch.tensor(i), len(c.options)).float()
        for c, i in zip(net.space.choices, path.indices, strict=True)
    }


# ---- the module ----


def test_logits_depend_on_the_path_and_not_on_the_mode(net: Supernet) -> None:
    x, (a, b) = images(net), paths(net, 2)
    with torch.no_grad():
        assert net(x, a).shape == (8, net.classes)
        assert not torch.equal(net(x, a), net(x, b))
        assert torch.equal(net.train()(x, a), net.eval()(x, a))


def test_seed_and_config_make_the_same_supernet_again(net: Supernet) -> None:
    before = torch.get_rng_state()
    again = build_supernet(net.kind, seed=0, **json.loads(json.dumps(dict(net.config()))))
    other = build_supernet(net.kind, seed=1)
    assert torch.equal(before, torch.get_rng_state())  # weights come from the seed, and only from it
    assert again.config() == net.config() and again.space == net.space
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(p, q) for p, q in zip(net.parameters(), other.parameters(), strict=True))


def test_names_of_weights_are_stable(net: Supernet) -> None:
    names = list(net.state_dict())
    path = paths(net, 1)[0]
    net(images(net), path)
    net.extract(path)
    net.cost(path, "params")
    assert list(net.state_dict()) == names
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
    assert digest.startswith(KINDS[net.kind]), f"{digest}: names changed, and stored weights are lost"


def test_sizes_that_are_unknown_or_wrong_are_named() -> None:
    with pytest.raises(ValueError, match=r"supernet=chian: .*chain"):
        build_supernet("chian")
    with pytest.raises(ValueError, match=r"size=huge"):
        build_supernet("chain", "huge")
    with pytest.raises(ValueError, match=r"chain\.chanels=8: no such size.*channels"):
        build_supernet("chain", chanels=8)
    with pytest.raises(ValueError, match=r"channels=0: must be a whole number of at least 1"):
        build_supernet("cell", channels=0)
    with pytest.raises(ValueError, match=r"input_shape=\[7, 7\]: must be \[channels, height, width\]"):
        build_supernet("cell", input_shape=[7, 7])
    with pytest.raises(ValueError, match=r"stages=\[2, 2\]"):
        build_supernet("chain", stages=[2, 2])
    with pytest.raises(ValueError, match=r"stages=\[\]: .* how many layers"):
        build_supernet("chain", stages=[])


def test_architectures_of_elsewhere_are_refused(net: Supernet) -> None:
    x = images(net)
    wrong = [
        build_supernet("chain" if net.kind == "cell" else "cell").space.sample(0),
        replace(paths(net, 1)[0], indices=(99,) * len(net.space.choices)),
    ]
    if net.kind == "cell":
        wrong.append(net.space.architecture([0] * 6))  # not connected
    for path in wrong:
        for use in (net.extract, net.build, lambda p: net.cost(p, "params"), lambda p: net(x, p)):
            with pytest.raises(ArchitectureError):
                use(path)
        for share in (True, False):
            with pytest.raises(ArchitectureError):
                list(net.forward_paths(x, [path], share))


# ---- networks in it ----


def test_what_is_extracted_computes_what_the_path_computes(net: Supernet) -> None:
    x = images(net)
    with torch.no_grad():
        for path in paths(net, 100):
            module = net.extract(path)
            for mode in (True, False):
                assert (module.train(mode)(x) - net(x, path)).abs().max() <= 1e-5
    parts = {type(m).__module__.removeprefix("fairsweep.").partition(".")[0] for m in module.modules()}
    assert parts <= {"torch", "search_spaces"} and not any(isinstance(m, Supernet) for m in module.modules())


def test_extracted_network_and_supernet_do_not_share_anything(net: Supernet) -> None:
    x, path = images(net), paths(net, 1)[0]
    module, other = net.extract(path), net.extract(path)
    before = net(x, path).detach()
    with torch.no_grad():
        for p in module.parameters():
            p.add_(1.0)
    assert torch.equal(net(x, path), before) and torch.equal(other(x), before)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(2.0).add_(1.0)
    assert not torch.equal(net(x, path), before) and torch.equal(other(x), before)


def test_built_network_has_the_costs_of_the_tables_and_trains(net: Supernet) -> None:
    for path in paths(net, 10):
        module = net.build(path)
        assert net.cost(path, "params") == count_parameters(module)
        assert net.cost(path, "flops") == count_flops(module, net.input_shape)
        assert net.cost(path, "flops") == count_flops(net.extract(path), net.input_shape)
    logits = module.train()(images(net))
    assert logits.shape == (8, net.classes)
    logits.square().sum().backward()
    # It is deployed with running statistics: the logits of an image do not depend on the others.
    module.eval()
    assert torch.allclose(module(images(net))[:1], module(images(net)[:1]), atol=1e-6)


def test_gradient_reaches_active_options_only(net: Supernet) -> None:
    active_of_all = 0
    for path in paths(net, 10):
        net.zero_grad(set_to_none=True)
        F.cross_entropy(net(images(net), path), torch.arange(8) % net.classes).backward()
        allowed = set(net.path_parameters(path))
        reached = {name for name, p in net.named_parameters() if p.grad is not None}
        assert reached and reached <= allowed
        active_of_all += len(allowed)
        # What the path may use is what its network has; of nested weights it is the part that moves.
        size, whole = count_parameters(net.extract(path)), sum(net.get_parameter(n).numel() for n in allowed)
        moved = sum(int(net.get_parameter(n).grad.count_nonzero()) for n in reached)  # type: ignore[union-attr]
        assert moved <= size <= whole if net.kind in NESTED else size == whole
        assert moved > 0.5 * size
    assert active_of_all < 10 * len(list(net.parameters()))


def test_parameters_of_options_are_disjoint(net: Supernet) -> None:
    seen: list[str] = []
    for choice in net.space.choices:
        for option in choice.options:
            seen += net.option_parameters(choice.name, option)
    assert len(seen) == len(set(seen)) and set(seen) < {name for name, _ in net.named_parameters()}


# ---- many paths ----


def test_paths_scored_together_have_the_bits_of_each_alone(net: Supernet) -> None:
    x, given = images(net), paths(net, 40)
    given += given[:3]
    with torch.no_grad():
        alone = {path: net(x, path) for path in given}
        for seed in range(3):
            random.Random(seed).shuffle(given)
            for share in (True, False):
                found = list(net.forward_paths(x, given, share))
                assert len(found) == len(given)
                assert all(torch.equal(y, alone[path]) for path, y in zip(given, found, strict=True))


def test_what_paths_share_is_computed_once_and_dropped_when_it_is_done(net: Supernet) -> None:
    given = paths(net, 60)
    keys = {net._keys(path) for path in given}
    wanted = len({key[: n + 1] for key in keys for n in range(len(key))})
    steps, inner = [], type(net).run_step

    def counted(self: Any, number: int, state: Any, path: Architecture) -> Any:
        steps.append(number)
        return inner(self, number, state, path)

    net.run_step = counted.__get__(net)  # type: ignore[method-assign]
    walk = net.walk_paths(images(net), given)
    with torch.no_grad():
        for _ in walk:
            frame = walk.gi_frame  # type: ignore[attr-defined]
            assert len(frame.f_locals["states"]) == len(net.steps) + 1
    assert len(steps) == wanted < len(given) * len(net.steps)


def test_steps_look_at_the_choices_that_they_name_and_no_others(net: Supernet) -> None:
    rng = np.random.default_rng(0)
    x = images(net)
    named = {c for step in net.steps for c in step.choices}
    assert named == {c.name for c in net.space.choices}
    with torch.no_grad():
        for path in paths(net, 5):
            state: Any = (x,)
            for number, step in enumerate(net.steps):
                indices = [
                    i if c.name in step.choices else int(rng.integers(len(c.options)))
                    for c, i in zip(net.space.choices, path.indices, strict=True)
                ]
                other = net.run_step(number, state, net.space.architecture(indices))
                state = net.run_step(number, state, path)
                assert all(torch.equal(a, b) for a, b in zip(state, other, strict=True)), step


# ---- weights from elsewhere ----


@pytest.fixture
def arrays(net: Supernet) -> dict[str, np.ndarray]:
    """Weights of another seed, read-only as they come from an object store."""
    other = build_supernet(net.kind, seed=7)
    found = {name: value.numpy().copy() for name, value in other.state_dict().items()}
    for array in found.values():
        array.flags.writeable = False
    return found


@pytest.mark.filterwarnings("error")
def test_arrays_become_weights_without_a_copy(net: Supernet, arrays: dict[str, np.ndarray]) -> None:
    net.load_arrays(arrays)
    for name, value in net.state_dict().items():
        assert value.data_ptr() == arrays[name].__array_interface__["data"][0]
    x, path = images(net), paths(net, 1)[0]
    with torch.no_grad():
        assert torch.equal(net(x, path), build_supernet(net.kind, seed=7)(x, path))
        for p in net.extract(path).parameters():
            p.add_(1.0)  # memory of its own, which can be written to


def test_arrays_that_do_not_fit_are_named(net: Supernet, arrays: dict[str, np.ndarray]) -> None:
    name = next(iter(arrays))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    for changed, message in [
        ({k: v for k, v in arrays.items() if k != name}, f"{name}: no array was given"),
        ({**arrays, "spare": arrays[name]}, "spare: no such weight"),
        ({**arrays, name: arrays[name][:1]}, f"{name}: an array of .* it is"),
        ({**arrays, name: arrays[name].astype(np.float64)}, f"{name}: an array of .*float64"),
    ]:
        with pytest.raises(ValueError, match=message):
            net.load_arrays(changed)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


# ---- costs of paths ----


def test_expected_cost_is_the_cost_at_one_hot_gates_and_its_slope_a_difference(net: Supernet) -> None:
    for kind in ("params", "flops"):
        table = net.cost_table(kind)
        for path in paths(net, 10):
            assert table.expected_cost(one_hot(net, path)).item() == net.cost(path, kind)
        gates = {c.name: torch.rand(len(c.options), requires_grad=True) for c in net.space.choices}
        first = net.space.choices[0]
        (slope,) = torch.autograd.grad(table.expected_cost(gates), gates[first.name])

        def at(k: int) -> float:
            chosen = {**gates, first.name: F.one_hot(torch.tensor(k), len(first.options))}  # noqa: B023
            return table.expected_cost(chosen).item()  # noqa: B023

        for k in range(1, len(first.options)):
            assert (slope[k] - slope[0]).item() == pytest.approx(at(k) - at(0), rel=1e-4, abs=1e-2)


def test_costs_are_kept_and_can_come_from_another_table(net: Supernet) -> None:
    table = net.cost_table("flops")
    assert net.cost_table("flops") is table
    doubled = replace(table, entries=tuple(replace(e, value=2 * e.value) for e in table.entries))
    net.adopt_cost_table(doubled)
    path = paths(net, 1)[0]
    assert net.cost(path, "flops") == 2 * table.cost(path)
    other = build_supernet(net.kind, classes=4)
    with pytest.raises(CostError, match=r"a cost table of .* was given for"):
        other.adopt_cost_table(table)


def every(net: Supernet) -> Iterator[Architecture]:
    return net.space.enumerate() if net.space.size < 1e6 else iter(paths(net, 5000))


@pytest.mark.slow
def test_all_members_score_alike_with_and_without_sharing(net: Supernet) -> None:
    given = [path for k, path in enumerate(every(net)) if k % 5 == 0 or net.space.size < 1000]
    x = images(net, 4)
    with torch.no_grad():
        for k, logits in net.walk_paths(x, given):
            assert torch.equal(logits, net(x, given[k]))
