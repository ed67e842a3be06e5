"""NASNet's cells, stacking and drop path, against the rules of the authors' code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairsweep.search_spaces.architectures.nasnet import NASNetSpace, loose_ends
from fairsweep.search_spaces.supernets.nasnet_network import (
    NASNET_A_CONCAT_USED,
    AuxiliaryHead,
    Combine,
    DropPath,
    Entry,
    NASNet,
    keep_probability,
    places,
)
from fairsweep.search_spaces.supernets.nasnet_operations import (
    FactorisedReduction,
)

torch.set_num_threads(1)
PAPER = NASNetSpace()


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def nasnet_a(shape: tuple[int, int, int], classes: int, repeats: int, filters: int, **options: Any) -> NASNet:
    with torch.device("meta"):
        return NASNet(
            PAPER,
            PAPER.nasnet_a(),
            shape,
            classes,
            repeats,
            filters,
            concat_used=NASNET_A_CONCAT_USED,
            **options,
        )


def network(text: str, shape: tuple[int, int, int] = (1, 8, 8), **options: Any) -> NASNet:
    space = NASNetSpace(text.split("/")[0].count("-") + 1)
    sizes: dict[str, Any] = {"classes": 3, "repeats": 1, "filters": 4, **options}
    return NASNet(space, space.parse(text), shape, **sizes)


# ---- published numbers ----


def test_nasnet_a_has_the_known_numbers_of_parameters() -> None:
    cifar = nasnet_a((3, 32, 32), 10, 6, 32)
    assert (parameters(cifar), cifar.classifier.in_features) == (3_328_234, 768)
    assert parameters(nasnet_a((3, 32, 32), 10, 6, 32, match_stem=False)) == 3_346_538


@pytest.mark.parametrize(
    ("side", "repeats", "filters", "stem_filters", "skip", "channels", "count"),
    [(224, 4, 44, 32, False, 1056, 5_289_978), (331, 6, 168, 96, True, 4032, 88_753_150)],
)
def test_nasnet_a_for_imagenet_has_the_known_numbers_of_parameters(
    side: int, repeats: int, filters: int, stem_filters: int, skip: bool, channels: int, count: int
) -> None:
    net = nasnet_a(
        (3, side, side), 1000, repeats, filters,
        stem="imagenet", stem_filters=stem_filters, skip_reduction=skip, match_stem=False,
    )  # fmt: skip
    assert (parameters(net), net.classifier.in_features) == (count, channels)
    assert {(m.eps, m.momentum) for m in net.modules() if isinstance(m, nn.BatchNorm2d)} == {(1e-3, 3e-4)}


# ---- drop path ----


def test_the_schedule_of_drop_path() -> None:
    cells, final = 20, 0.6
    for cell in range(cells):
        at_end = 1 - (cell + 1) / cells * (1 - final)
        assert keep_probability(final, cell, cells, 0.0) == 1
        assert keep_probability(final, cell, cells, 1.0) == pytest.approx(at_end)
        assert keep_probability(final, cell, cells, 0.25) == pytest.approx(1 - 0.25 * (1 - at_end))
        assert keep_probability(final, cell, cells, 0.25, "v1") == pytest.approx(0.9)
        assert keep_probability(final, cell, cells, 0.25, "v2") == pytest.approx(at_end)
        assert keep_probability(final, cell, cells, 0.0, None) == pytest.approx(final)
    assert keep_probability(final, 19, cells, 7.0) == pytest.approx(final)
    with pytest.raises(ValueError, match="version=v4: must be None or one of v1, v2, v3"):
        keep_probability(final, 0, cells, 0.0, "v4")


def test_drop_path_drops_examples_and_keeps_the_mean() -> None:
    drop, x = DropPath(), 1 + images(4000, 2, 2, 2).abs()
    drop.keep = 0.6
    torch.manual_seed(0)
    out = drop(x)
    factors = (out / x).flatten(1).round(decimals=4)
    assert (factors == factors[:, :1]).all()  # all of an example or nothing
    assert factors.unique().tolist() == pytest.approx([0, 1 / 0.6], abs=1e-4)
    assert factors[:, 0].mean().item() == pytest.approx(1, abs=0.04)
    assert torch.equal(drop.eval()(x), x)


def test_drop_path_follows_every_operation_except_identity() -> None:
    text = "0:identity+1:sep_3x3-2:max_3x3+1:identity"
    net = network(f"{text}/{text}")
    for cell in net.cells:
        assert [type(d) for d in cell.drops] == [nn.Identity, DropPath, DropPath, nn.Identity]
    net.schedule_drop_path(0.5, 0.5)
    keeps = [cell.drops[1].keep for cell in net.cells]
    assert keeps == pytest.approx([1 - 0.5 * 0.5 * (k + 1) / 5 for k in range(5)])
    net.schedule_drop_path(0.5, 0.0)
    assert {d.keep for cell in net.cells for d in cell.drops if isinstance(d, DropPath)} == {1.0}


def test_a_network_drops_paths_in_training_only() -> None:
    net, x = network("0:sep_3x3+1:sep_3x3/0:max_3x3+1:sep_3x3"), images(4, 1, 8, 8)
    net(x)
    net.schedule_drop_path(0.5, 1.0)
    torch.manual_seed(0)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))


# ---- stacking ----


def test_the_stack_doubles_its_filters_at_each_of_two_reductions() -> None:
    stack = places(2, 8)
    assert "".join(p.kind[0] for p in stack) == "nnrnnrnn"
    assert [p.filters for p in stack] == [8, 8, 16, 16, 16, 32, 32, 32]
    assert [(p.current, p.previous) for p in stack] == [(k, max(k - 1, 0)) for k in range(8)]
    assert [p.halvings for p in stack] == [0, 0, 0, 1, 1, 1, 2, 2]
    assert [p.previous_halvings for p in stack] == [0, 0, 0, 0, 1, 1, 1, 2]


def test_the_stack_for_imagenet_begins_with_two_reductions() -> None:
    stack = places(1, 8, "imagenet")
    assert "".join(p.kind[0] for p in stack) == "rrnrnrn"
    assert [p.filters for p in stack] == [2, 4, 8, 16, 16, 32, 32]
    skipped = places(1, 8, "imagenet", skip_reduction=True)
    assert [p.previous for p in stack] == [0, 0, 1, 2, 3, 4, 5]
    assert [p.previous for p in skipped] == [0, 0, 1, 2, 2, 4, 4]
    assert [p.halvings - p.previous_halvings for p in skipped] == [0, 1, 1, 0, 1, 0, 1]


@pytest.mark.parametrize("seed", range(12))
def test_normal_cells_keep_the_size_and_reductions_halve_it(seed: int) -> None:
    space = NASNetSpace(3)
    architecture = space.sample(seed)
    net = NASNet(space, architecture, (2, 9, 6), 5, repeats=1, filters=4)
    outputs = net._outputs(images(2, 2, 9, 6))
    assert outputs[0].shape == (2, 12, 9, 6)
    sizes = [(9, 6), (5, 3), (5, 3), (3, 2), (3, 2)]
    for place, cell, output, size in zip(net.places, net.cells, outputs[1:], sizes, strict=True):
        loose = loose_ends(space.cell(architecture, place.kind))
        assert cell.concat == loose and cell.outputs == len(loose) * place.filters
        assert output.shape == (2, len(loose) * place.filters, *size)
    assert net(images(2, 2, 9, 6)).shape == (2, 5)


def test_only_operations_on_the_inputs_of_a_reduction_stride() -> None:
    text = "0:max_3x3+1:sep_3x3-2:sep_3x3+2:max_3x3"
    net = network(f"{text}/{text}")
    for place, cell in zip(net.places, net.cells, strict=True):
        first = 2 if place.kind == "reduction" else 1
        pool, conv, later_conv, later_pool = cell.operations
        assert (pool.stride, conv[1].stride[0]) == (first, first)
        assert (later_conv[1].stride[0], later_pool.stride) == (1, 1)


def test_state_zero_is_the_output_of_the_cell_before() -> None:
    net = network("0:identity+0:identity/0:identity+0:identity").eval()
    stem, first, second = (net._outputs(images(2, 1, 8, 8))[k] for k in (0, 1, 2))
    cell: Any = net.cells[1]
    zero, one = cell.entry(first, stem)
    torch.testing.assert_close(zero, cell.entry.current(first))
    torch.testing.assert_close(one, cell.entry.previous(stem))
    # The identity of a reduction is a convolution; the loose state 1 is matched by a factorised reduction.
    torch.testing.assert_close(
        second, torch.cat([cell.matches["1"](one), cell.operations[0](zero) + cell.operations[1](zero)], 1)
    )
    assert isinstance(cell.matches["1"], FactorisedReduction)


def test_the_previous_output_is_matched_only_where_it_does_not_fit() -> None:
    assert Entry((12, 4), 4, reduce=False).previous is None
    widened, reduced = (Entry((12, 8), 4, reduce).previous for reduce in (False, True))
    assert widened is not None and [type(m) for m in widened] == [nn.ReLU, nn.Sequential]
    assert reduced is not None and [type(m) for m in reduced] == [nn.ReLU, FactorisedReduction]
    assert Entry((12, 12), 4, reduce=False, matched=False).previous is None


def test_blocks_add_or_concatenate() -> None:
    a, b = images(2, 4, 3, 3), images(2, 4, 3, 3, seed=1)
    assert torch.equal(Combine("add", 4)(a, b), a + b)
    concat = Combine("concat", 4).eval()
    assert concat.convolution is not None
    expected = F.conv2d(F.relu(torch.cat([a, b], 1)), concat.convolution[1].weight) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(concat(a, b), expected)
    assert parameters(concat) == 8 * 4 + 8


def test_used_states_are_concatenated_on_demand() -> None:
    text = "0:sep_3x3+1:sep_3x3-2:max_3x3+1:identity"
    net = network(f"{text}/{text}", concat_used=((1,), (2,)))
    assert [cell.concat for cell in net.cells] == [(1, 3), (2, 3), (1, 3), (2, 3), (1, 3)]
    assert net(images(2, 1, 8, 8)).shape == (2, 3)
    with pytest.raises(ValueError, match=r"concat_used=.*states are 0 to 3"):
        network(f"{text}/{text}", concat_used=((4,), ()))


# ---- heads ----


def test_the_auxiliary_head_stands_before_the_second_reduction_and_serves_training_only() -> None:
    text, x = "0:sep_3x3+1:sep_3x3/0:max_3x3+1:sep_3x3", images(4, 1, 32, 32)
    net, plain = network(text, (1, 32, 32), repeats=2, auxiliary=True), network(text, (1, 32, 32), repeats=2)
    assert net.auxiliary is not None and net.places[net.auxiliary_cell + 1].kind == "reduction"
    assert net.auxiliary_cell == 4
    assert parameters(net.auxiliary) == 8 * 128 + 256 + 128 * 768 * 4 * 4 + 2 * 768 + 768 * 3 + 3
    logits, auxiliary = net.both_logits(x)
    assert auxiliary is not None and logits.shape == auxiliary.shape == (4, 3)
    assert plain.both_logits(x)[1] is None
    net.eval()
    with torch.no_grad():
        assert torch.equal(net(x), net.both_logits(x)[0])
    assert parameters(net) - parameters(net.auxiliary) == parameters(plain)
    layers = [type(m) for m in net.auxiliary]
    assert layers[:5] == [nn.ReLU, nn.AvgPool2d, nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert AuxiliaryHead(8, 2, 3)(images(4, 8, 2, 2)).shape == (4, 3)


def test_the_auxiliary_head_of_imagenet_fits() -> None:
    net = nasnet_a((3, 224, 224), 1000, 1, 44, stem="imagenet", stem_filters=32, auxiliary=True)
    with torch.device("meta"):
        assert net.both_logits(torch.empty(2, 3, 224, 224))[1].shape == (2, 1000)  # type: ignore[union-attr]  # built


def test_the_classifier_sees_the_mean_of_what_is_positive() -> None:
    net = network("0:sep_3x3+1:sep_3x3/0:max_3x3+1:sep_3x3", dropout=0.5).eval()
    output = net._outputs(images(2, 1, 8, 8))[-1]
    torch.testing.assert_close(net(images(2, 1, 8, 8)), net.classifier(output.relu().mean((2, 3))))
    assert net.dropout.p == 0.5


def test_weights_begin_with_the_variance_of_their_fan_out() -> None:
    net = network("0:sep_7x7+1:conv_3x3/0:max_3x3+1:sep_3x3", filters=64)
    depthwise, pointwise = net.cells[0].operations[0][1], net.cells[0].operations[0][2]
    assert depthwise.weight.std().item() == pytest.approx((2 / 49) ** 0.5, rel=0.05)
    assert pointwise.weight.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.05)
    assert net.cells[0].operations[1][1].weight.std().item() == pytest.approx((2 / 576) ** 0.5, rel=0.05)
    assert net.classifier.bias.abs().max() == 0


def test_other_architectures_and_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"an architecture of nasnet/1.blocks=1.* was given where one of"):
        NASNet(NASNetSpace(2), NASNetSpace(1).sample(0), (1, 8, 8), 3, 1, 4)
    with pytest.raises(ValueError, match="repeats=0: must be a whole number of at least 1"):
        network("0:identity+1:identity/0:identity+1:identity", repeats=0)
