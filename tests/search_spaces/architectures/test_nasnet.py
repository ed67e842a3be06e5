"""NASNet's space: sizes, decisions, text, loose ends, and which encodings are one network."""

from __future__ import annotations

from itertools import permutations, product
from math import prod

import numpy as np
import pytest

from fairsweep.search_spaces.architectures import ArchitectureError, create_space
from fairsweep.search_spaces.architectures.nasnet import (
    CELLS,
    NASNET_A,
    OPERATIONS,
    Block,
    NASNetSpace,
    loose_ends,
)

PAPER, LAPTOP = NASNetSpace(), create_space("nasnet")
THREE = NASNetSpace(3, ("identity", "sep_3x3"))
EXAMPLE = "0:sep_5x5+1:sep_3x3-2:avg_3x3+0:identity/0:max_3x3+1:sep_3x3-1:sep_3x3+2:identity"


def test_sizes_are_those_of_the_paper_and_of_the_laptop() -> None:
    assert PAPER.size == 2_286_906_949_584_691_200**2
    assert create_space("nasnet", "paper") == PAPER
    assert LAPTOP.size == 22_500**2


@pytest.mark.parametrize("blocks", [1, 2, 4])
@pytest.mark.parametrize("operations", [OPERATIONS, ("identity", "max_7x7")])
@pytest.mark.parametrize("combine", [("add",), ("add", "concat")])
def test_the_size_formula(blocks: int, operations: tuple[str, ...], combine: tuple[str, ...]) -> None:
    space = NASNetSpace(blocks, operations, combine)
    cell = prod((b + 2) ** 2 * len(operations) ** 2 * len(combine) for b in range(blocks))
    assert space.size == cell**2


def test_decisions_come_in_the_controllers_order() -> None:
    names = [choice.name for choice in PAPER.choices]
    assert len(names) == 10 * 5
    assert names[:6] == [
        "normal.b0.in1", "normal.b0.in2", "normal.b0.op1", "normal.b0.op2", "normal.b0.combine", "normal.b1.in1",
    ]  # fmt: skip
    assert names[25:] == [name.replace("normal", "reduction") for name in names[:25]]


def test_a_block_takes_only_states_before_it() -> None:
    for space in (PAPER, LAPTOP):
        for cell, b, side in product(CELLS, range(space.blocks), (1, 2)):
            choice = space.choices[space.positions[f"{cell}.b{b}.in{side}"]]
            assert choice.options == tuple(map(str, range(b + 2)))


def test_the_text_says_what_each_block_does() -> None:
    architecture = LAPTOP.parse(EXAMPLE)
    assert LAPTOP.format(architecture) == EXAMPLE
    assert LAPTOP.cell(architecture, "normal") == (
        Block((0, 1), ("sep_5x5", "sep_3x3"), "add"),
        Block((2, 0), ("avg_3x3", "identity"), "add"),
    )
    assert LAPTOP.cell(architecture, "reduction")[1] == Block((1, 2), ("sep_3x3", "identity"), "add")
    assert LAPTOP.option(architecture, "normal.b1.in1") == "2"
    assert LAPTOP.option(architecture, "reduction.b0.op1") == "max_3x3"
    joined = NASNetSpace(1).parse("0:conv_1x1++1:conv_3x3/0:conv_1x1+1:conv_3x3")
    assert [NASNetSpace(1).cell(joined, cell)[0].combine for cell in CELLS] == ["concat", "add"]


def test_texts_of_random_architectures_are_read_back() -> None:
    rng = np.random.default_rng(0)
    for space in (PAPER, LAPTOP, THREE, NASNetSpace(1)):
        for _ in range(50):
            architecture = space.sample(rng)
            assert space.parse(space.format(architecture)) == architecture
            assert space.from_options(space.options(architecture)) == architecture


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (EXAMPLE.split("/")[0], "two cells joined by / of 2 blocks"),
        (EXAMPLE + "-0:identity+0:identity", "two cells joined by / of 2 blocks"),
        (EXAMPLE.replace("2:avg_3x3", "3:avg_3x3"), r"normal.b1.in1='3': must be one of 0, 1, 2"),
        (EXAMPLE.replace("max_3x3", "max_5x5"), "reduction.b0.op1='max_5x5': must be one of identity"),
        (EXAMPLE.replace("+0:", "++0:"), "normal.b1.combine='concat': must be one of add"),
        (EXAMPLE.replace("+0:", "*0:"), r"normal.b1 must read input:operation\+input:operation"),
    ],
)
def test_what_is_no_architecture_is_refused_by_its_part(text: str, said: str) -> None:
    with pytest.raises(ArchitectureError, match=said):
        LAPTOP.parse(text)


def test_what_is_no_space_is_refused_by_field() -> None:
    with pytest.raises(ValueError, match="blocks=0: a cell has at least 1"):
        NASNetSpace(0)
    with pytest.raises(ValueError, match=r"operations=\['sep_9x9'\]: must be different ones of identity"):
        NASNetSpace(operations=("sep_9x9",))
    with pytest.raises(ValueError, match=r"combine=\[\]: must be different ones of add, concat"):
        NASNetSpace(combine=())


# ---- loose ends ----


def cells(space: NASNetSpace, text: str) -> list[tuple[Block, ...]]:
    architecture = space.parse(text)
    return [space.cell(architecture, cell) for cell in CELLS]


def test_loose_ends_are_the_states_that_no_block_takes() -> None:
    normal, reduction = cells(LAPTOP, EXAMPLE)
    assert loose_ends(normal) == loose_ends(reduction) == (3,)
    unused_input, chain = cells(
        NASNetSpace(2),
        "0:identity+0:identity-0:identity+0:identity/1:identity+0:identity-2:identity+2:identity",
    )
    assert loose_ends(unused_input) == (1, 2, 3)  # an input that feeds nothing belongs to the output
    assert loose_ends(chain) == (3,)


def test_blocks_that_take_only_the_inputs_are_all_loose() -> None:
    for blocks in range(1, 6):
        cell = [Block((0, 1), ("identity", "identity"), "add")] * blocks
        assert loose_ends(cell) == tuple(range(2, blocks + 2))


def test_every_state_is_taken_or_loose() -> None:
    for seed in range(50):
        architecture = PAPER.sample(seed)
        for cell in CELLS:
            blocks = PAPER.cell(architecture, cell)
            taken = {state for block in blocks for state in block.inputs}
            assert sorted([*taken, *loose_ends(blocks)]) == list(range(7))


# ---- NASNet-A ----


def test_nasnet_a_is_the_published_network() -> None:
    architecture = PAPER.nasnet_a()
    assert PAPER.format(architecture) == NASNET_A
    normal, reduction = (PAPER.cell(architecture, cell) for cell in CELLS)
    assert [b.inputs for b in normal] == [(0, 1), (1, 1), (0, 1), (1, 1), (0, 0)]
    assert [b.inputs for b in reduction] == [(0, 1), (0, 1), (0, 1), (3, 2), (2, 0)]
    assert (loose_ends(normal), loose_ends(reduction)) == ((2, 3, 4, 5, 6), (4, 5, 6))
    assert {b.combine for b in (*normal, *reduction)} == {"add"}
    assert NASNetSpace(2).cell(NASNetSpace(2).nasnet_a(), "reduction") == reduction[:2]


def test_spaces_without_nasnet_a_say_so() -> None:
    with pytest.raises(ArchitectureError, match="NASNet-A has 5 blocks"):
        NASNetSpace(6).nasnet_a()
    with pytest.raises(ArchitectureError, match="'sep_7x7': must be one of"):
        LAPTOP.nasnet_a()


# ---- equal networks ----


@pytest.mark.parametrize("sign", ["+", "++"])
def test_the_halves_of_a_block_may_change_places(sign: str) -> None:
    space = NASNetSpace(1)
    a, b = (
        space.parse(f"{block}/{block}")
        for block in (f"1:sep_3x3{sign}0:identity", f"0:identity{sign}1:sep_3x3")
    )
    assert a != b and space.canonical(a) == space.canonical(b)
    other = space.parse(f"0:sep_3x3{sign}1:identity/0:identity{sign}1:sep_3x3")
    assert space.canonical(other) != space.canonical(a)


def test_one_block_has_as_many_networks_as_pairs_of_halves() -> None:
    space = NASNetSpace(1, ("identity", "sep_3x3"), ("add",))
    assert len({space.canonical(a) for a in space.enumerate()}) == 10**2  # multisets of two out of 2 x 2


def renumbered(space: NASNetSpace, blocks: tuple[Block, ...], order: tuple[int, ...]) -> list[str] | None:
    """The blocks written down in another order; None if one would come before what it takes."""
    place = {0: 0, 1: 1, **{old + 2: new + 2 for new, old in enumerate(order)}}
    texts = []
    for new, old in enumerate(order):
        states = [place[s] for s in blocks[old].inputs]
        if max(states) > new + 1:
            return None
        halves = [f"{s}:{o}" for s, o in zip(states, blocks[old].operations, strict=True)]
        texts.append(("+" if blocks[old].combine == "add" else "++").join(halves))
    return texts


def test_independent_blocks_may_change_places() -> None:
    seen = 0
    for seed in range(40):
        architecture = THREE.sample(seed)
        representative = THREE.canonical(architecture)
        assert THREE.canonical(representative) == representative
        normal = THREE.cell(architecture, "normal")
        rest = THREE.format(architecture).split("/")[1]
        for order in permutations(range(3)):
            texts = renumbered(THREE, normal, order)
            if texts is not None:
                other = THREE.parse("-".join(texts) + "/" + rest)
                seen += other != architecture
                assert THREE.canonical(other) == representative
                assert len(loose_ends(THREE.cell(other, "normal"))) == len(loose_ends(normal))
    assert seen > 20


def test_the_space_is_searched_like_any_other() -> None:
    space = LAPTOP.to_space()
    assert list(space.parameters) == [choice.name for choice in LAPTOP.choices]
    config = space.sample(np.random.default_rng(0))
    assert LAPTOP.options(LAPTOP.from_options(config)) == config
    assert set(space.to_mapping()) == set(CELLS)
