"""Spaces of architectures: sizes, members, neighbours, encodings, texts and what is refused."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from fairsweep.search_spaces.architectures import (
    Architecture,
    ArchitectureError,
    ArchitectureSpace,
    create_space,
    kinds,
    read_size,
    sizes,
    space_of_id,
)
from fairsweep.search_spaces.architectures.cell import CellSpace
from fairsweep.search_spaces.architectures.chain import ChainSpace
from fairsweep.search_spaces.architectures.mbconv import MBConvSpace

FAST = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
SPACES = [create_space(kind, size) for kind in kinds() for size in sizes(kind)]
SPACES += [
    CellSpace(nodes=5),
    CellSpace(nodes=3, operations=("nor_conv_3x3", "none", "avg_pool_3x3")),
    CellSpace(operations=("nor_conv_1x1", "nor_conv_3x3")),
    MBConvSpace((1, 4, 2)),
    ChainSpace(3),
]
SMALL = [space for space in SPACES if space.size <= 20_000]
spaces, seeds = st.sampled_from(SPACES), st.integers(0, 2**32 - 1)


def names(space: ArchitectureSpace) -> str:
    return space.id


# -- sizes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "space, encodings, members, networks",
    [
        (create_space("cell", "paper"), 15_625, 15_625, 5_260),
        (create_space("cell", "laptop"), 15_625, 15_284, 5_259),
        (CellSpace(operations=("nor_conv_1x1", "nor_conv_3x3")), 64, 64, 64),
        (create_space("chain", "paper"), 3**8, 6_561, 3_969),
        (create_space("chain", "laptop"), 3**5, 243, 9 * 21),
        (ChainSpace(8), 3**8, 6_561, 6_561),
        (create_space("mbconv", "laptop"), 400, 400, 336),
        (MBConvSpace((1, 4)), 4 * 4 * 5**3, 2_000, 4 * 4 * (1 + 4 + 16 + 64)),
    ],
    ids=lambda value: getattr(value, "id", str(value)),
)
def test_spaces_have_their_known_sizes(
    space: ArchitectureSpace, encodings: int, members: int, networks: int
) -> None:
    found = list(space.enumerate())
    assert space.size == encodings
    assert len(found) == len(set(found)) == members
    assert found == sorted(found)
    assert len({space.canonical(a) for a in found}) == networks


def test_the_papers_mbconv_is_single_path_nas() -> None:
    space = create_space("mbconv", "paper")
    assert space.size == (4 * 5**3) ** 5
    for choice in space.choices:
        assert ("skip" in choice.options) == (not choice.name.endswith("block_0"))


def test_the_first_block_of_a_stage_is_never_skipped() -> None:
    space = MBConvSpace((1, 2, 1))
    for architecture in space.enumerate():
        stages = space.format(architecture).split("/")
        assert [stage.count("-") for stage in stages] == [0, 1, 0]
        assert not any(stage.startswith("skip") for stage in stages)


def test_a_cell_is_connected_if_a_path_leads_through_it() -> None:
    space = create_space("cell", "paper")
    assert isinstance(space, CellSpace)
    everything = list(space.enumerate())
    by_paths = []
    for a in everything:
        o = {edge: space.operations[k] != "none" for edge, k in zip(space.edges, a.indices, strict=True)}
        direct, one = o[0, 3], (o[0, 1] and o[1, 3]) or (o[0, 2] and o[2, 3])
        by_paths.append(direct or one or (o[0, 1] and o[1, 2] and o[2, 3]))
    assert [space.connected(a) for a in everything] == by_paths
    assert by_paths.count(False) == 341


# -- members ----------------------------------------------------------------------------------------------


@FAST
@given(spaces, seeds)
def test_what_is_drawn_changed_and_crossed_is_valid(space: ArchitectureSpace, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = space.sample(rng), space.sample(rng)
    for architecture in (a, b, space.mutate(a, rng), space.crossover(a, b, rng), space.canonical(a)):
        assert space.check(architecture) is architecture
        assert hash(pickle.loads(pickle.dumps(architecture))) == hash(architecture)
    assert space.sample(seed) == space.sample(seed)
    assert space.mutate(a, seed) == space.mutate(a, seed)
    assert space.crossover(a, b, seed) == space.crossover(a, b, seed)
    child = space.crossover(a, b, rng)
    assert all(
        c in pair for c, pair in zip(child.indices, zip(a.indices, b.indices, strict=True), strict=True)
    )


@FAST
@given(spaces, seeds)
def test_neighbours_differ_in_one_choice_and_see_each_other(space: ArchitectureSpace, seed: int) -> None:
    a = space.sample(seed)
    near = list(space.neighbours(a))
    assert len(near) == len(set(near)) and a not in near
    for b in near[:20]:
        assert sum(x != y for x, y in zip(a.indices, b.indices, strict=True)) == 1
        assert a in set(space.neighbours(b))
    full = sum(len(c.options) - 1 for c in space.choices)
    assert len(near) <= full and (isinstance(space, CellSpace) or len(near) == full)
    assert space.mutate(a, seed) in near


def test_crossover_takes_from_both_parents_evenly() -> None:
    space = create_space("chain", "paper")
    a, b = space.parse("0" * 8), space.parse("2" * 8)
    children = [space.crossover(a, b, seed) for seed in range(400)]
    share = np.mean([child.indices for child in children], axis=0) / 2
    assert np.all(np.abs(share - 0.5) < 0.1)  # 4 standard deviations of 400 fair draws


def test_draws_are_uniform_or_as_the_probabilities_say() -> None:
    space = ChainSpace(3)
    rng = np.random.default_rng(0)
    drawn = np.array([space.sample(rng, {"layer_1": [0, 0.25, 0.75]}).indices for _ in range(2000)])
    shares = [np.bincount(drawn[:, k], minlength=3) / 2000 for k in range(3)]
    assert np.all(np.abs(shares[0] - 1 / 3) < 0.05) and np.all(np.abs(shares[2] - 1 / 3) < 0.05)
    assert shares[1][0] == 0 and abs(shares[1][2] - 0.75) < 0.05


def test_invalid_draws_are_drawn_anew() -> None:
    space = create_space("cell")
    sparse = {c.name: [0.9, 0.1, 0, 0, 0] for c in space.choices}
    assert all(space.is_valid(space.sample(seed, sparse)) for seed in range(50))
    with pytest.raises(ArchitectureError, match="1000 draws gave no valid"):
        space.sample(0, {c.name: [1, 0, 0, 0, 0] for c in space.choices})


@pytest.mark.parametrize(
    "probabilities, words",
    [
        ({"layer_9": [1, 0, 0]}, "layer_9: no such choice"),
        ({"layer_0": [0.5, 0.5]}, r"layer_0=\[0.5, 0.5\]: must be 3"),
        ({"layer_0": [0.5, 0.5, 0.5]}, "of sum 1"),
        ({"layer_0": [1.5, -0.5, 0]}, "none below 0"),
        ({"layer_0": [float("nan"), 0.5, 0.5]}, "none below 0"),
    ],
)
def test_faulty_probabilities_are_refused(probabilities: Any, words: str) -> None:
    with pytest.raises(ArchitectureError, match=words):
        ChainSpace(3).sample(0, probabilities)


@pytest.mark.parametrize("space", [create_space("cell"), create_space("mbconv", "paper")], ids=names)
def test_distinct_samples_are_different_networks(space: ArchitectureSpace) -> None:
    found = space.sample_distinct(300, seed=1)
    assert len({space.canonical(a) for a in found}) == 300
    assert found == space.sample_distinct(300, seed=1) != space.sample_distinct(300, seed=2)
    assert all(space.is_valid(a) for a in found)


def test_distinct_samples_can_be_the_whole_space_and_no_more() -> None:
    space = create_space("chain")
    found = space.sample_distinct(189, seed=0)
    assert {space.canonical(a) for a in found} == {space.canonical(a) for a in space.enumerate()}
    with pytest.raises(ArchitectureError, match="count=190: only 189 different"):
        space.sample_distinct(190, seed=0)


# -- notations ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", SMALL, ids=names)
def test_texts_of_all_members_read_back(space: ArchitectureSpace) -> None:
    texts = {}
    for architecture in space.enumerate():
        text = space.format(architecture)
        assert space.parse(text) == architecture
        texts[text] = architecture
    assert len(texts) == sum(1 for _ in space.enumerate())


@FAST
@given(spaces, seeds)
def test_texts_codes_and_options_read_back(space: ArchitectureSpace, seed: int) -> None:
    a = space.sample(seed)
    assert space.parse(space.format(a)) == a
    assert space.from_options(space.options(a)) == a
    assert all(space.option(a, name) == option for name, option in space.options(a).items())
    code = space.encode(a)
    assert code.dtype == np.float32 and code.sum() == len(space.choices) and set(code) <= {0.0, 1.0}
    noise = np.random.default_rng(seed).uniform(-0.4, 0.4, code.shape)
    assert space.decode(code) == space.decode(code + noise) == a


def test_texts_are_those_of_the_field() -> None:
    cell, text = (
        create_space("cell"),
        "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|none~2|",
    )
    assert cell.options(cell.parse(text)) == {
        "edge_0_1": "nor_conv_3x3", "edge_0_2": "none", "edge_1_2": "skip_connect",
        "edge_0_3": "avg_pool_3x3", "edge_1_3": "nor_conv_1x1", "edge_2_3": "none",
    }  # fmt: skip
    chain = create_space("chain", "paper")
    assert chain.options(chain.parse("22212220"))["layer_7"] == "identity"
    assert chain.options(chain.parse("22212220"))["layer_3"] == "mb3_k3"
    mbconv = create_space("mbconv")
    assert mbconv.options(mbconv.parse("k3_e3/k5_e6-skip-k3_e6")) == {
        "stage_0_block_0": "k3_e3",
        "stage_1_block_0": "k5_e6", "stage_1_block_1": "skip", "stage_1_block_2": "k3_e6",
    }  # fmt: skip


@pytest.mark.parametrize(
    "kind, text, words",
    [
        ("cell", "|none~0|", "1 nodes, .* has 3"),
        ("cell", "|none~0|+|none~0|none~1|+|none~0|none~2|none~1|", r"node 3 must read"),
        ("cell", "|none~0|+|none~0|none~1|+none~0|none~1|none~2|", r"node 3 must read"),
        ("cell", "|none~0|+|none~0|none~1|+|none~0|none~1|sep_conv~2|", "'sep_conv' must be one of none, "),
        ("cell", "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|", "not a valid network of cell"),
        ("cell", "", "1 nodes"),
        ("chain", "0123", "must be 5 digits, each 0, 1 or 2"),
        ("chain", "01230", "must be 5 digits, each 0, 1 or 2"),
        ("mbconv", "k3_e3-skip", "must have stages of 1, 3 blocks"),
        ("mbconv", "skip/k3_e3-skip-skip", "stage_0_block_0='skip': must be one of k3_e3, "),
        ("mbconv", "k3_e3/k3_e3-k7_e3-skip", "stage_1_block_1='k7_e3': must be one of"),
    ],
)
def test_faulty_texts_are_refused(kind: str, text: str, words: str) -> None:
    with pytest.raises(ArchitectureError, match=words) as caught:
        create_space(kind).parse(text)
    assert len(str(caught.value).splitlines()) == 1


@FAST
@given(spaces, st.text(st.characters(codec="ascii"), max_size=40) | st.text("|~+0123-/_ke5nos", max_size=40))
def test_junk_is_refused_in_one_line_or_is_a_member(space: ArchitectureSpace, text: str) -> None:
    try:
        assert space.format(space.check(space.parse(text))) == text
    except ArchitectureError as error:
        assert str(error)


def faulty() -> Iterator[tuple[Any, str]]:
    chain, cell = create_space("chain"), create_space("cell")
    a = chain.sample(0)
    yield lambda: chain.architecture([0, 1]), "2 options given for 5 choices"
    yield lambda: chain.architecture([0, 0, 3, 0, 0]), "layer_2=3: must be 0 to 2"
    yield lambda: chain.architecture([-1, 0, 0, 0, 0]), "layer_0=-1: must be 0 to 2"
    yield lambda: cell.check(a), "of chain/1.* was given where one of cell/1"
    yield lambda: chain.crossover(a, cell.sample(0), 0), "of cell/1.* was given where one of chain/1"
    yield lambda: cell.check(Architecture(cell.id, (0,) * 6)), "not a valid network"
    yield lambda: chain.decode(np.zeros(3)), r"shape \(15,\), got \(3,\)"
    yield (
        lambda: chain.from_options({"layer_0": "identity", "x": "y"}),
        r"missing: \['layer_1'.*unknown: \['x'\]",
    )
    yield (
        lambda: chain.from_options(dict.fromkeys(chain.positions, "mb9")),
        "layer_0='mb9': must be one of identity",
    )
    only = CellSpace(nodes=2, operations=("skip_connect",))
    yield lambda: only.mutate(only.sample(0), 0), "has no valid neighbour"


@pytest.mark.parametrize("call, words", list(faulty()))
def test_faulty_architectures_are_refused(call: Any, words: str) -> None:
    with pytest.raises(ArchitectureError, match=words):
        call()


# -- by name ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES, ids=names)
def test_the_id_names_the_space(space: ArchitectureSpace) -> None:
    assert space_of_id(space.id) == space
    assert space_of_id(space.sample(0).space).id == space.id


def test_overrides_replace_fields_of_a_size() -> None:
    assert create_space("chain", layers=3, stages=[]) == ChainSpace(3)
    assert create_space("mbconv", "paper", stages=[1, 3]) == MBConvSpace((1, 3))
    cell = create_space("cell", operations=["nor_conv_1x1", "nor_conv_3x3"])
    assert cell.size == 64 and space_of_id(cell.id) == cell
    assert len({space.id for space in SPACES}) == len(SPACES)


def test_every_size_has_both_sections() -> None:
    for kind in kinds():
        assert set(sizes(kind)) >= {"laptop", "paper"}
        for size in sizes(kind):
            assert set(read_size(kind, size)) == {"space", "network"}
    read_size("mbconv")["space"]["stages"].append(9)
    assert create_space("mbconv") == MBConvSpace((1, 3))


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: create_space("cel"), "space=cel: .*did you mean cell?"),
        (lambda: create_space("cell", "huge"), "size=huge: no such size of cell; known: laptop, paper"),
        (lambda: create_space("cell", node=3), "cell.node: no such field .* did you mean nodes?"),
        (lambda: create_space("cell", nodes="3"), "cell.nodes='3': must be of type int"),
        (lambda: create_space("cell", nodes=True), "cell.nodes=True: must be of type int"),
        (lambda: create_space("cell", nodes=1), "nodes=1: a cell has at least 2"),
        (lambda: create_space("cell", operations=[]), r"operations=\[\]: must be different ones of none, "),
        (lambda: create_space("cell", operations=["none", "none"]), "must be different ones"),
        (lambda: create_space("chain", layers=0, stages=[]), "layers=0: must be at least 1"),
        (lambda: create_space("chain", stages=[2, 2]), r"stages=\[2, 2\]: .* 5 together"),
        (lambda: create_space("mbconv", stages=[1, "2"]), r"mbconv.stages=\[1, '2'\]: must be a list of int"),
        (lambda: create_space("mbconv", stages=2), "mbconv.stages=2: must be a list of int"),
        (lambda: create_space("mbconv", stages=[2, 0]), "every stage has at least one block"),
        (lambda: space_of_id("chain/2?layers=4"), "no such space; the one of these sizes is chain/1"),
        (lambda: space_of_id("chain/1?layers=x"), "chain.layers='x': must be of type int"),
        (lambda: space_of_id("chain/1?layer=4"), "chain.layer: no such field"),
        (lambda: space_of_id("cell/1?disconnected=maybe"), "cell.disconnected='maybe': must be of type bool"),
        (lambda: space_of_id("tree"), "space=tree: no such space of architectures"),
    ],
)
def test_faulty_names_are_refused(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1
