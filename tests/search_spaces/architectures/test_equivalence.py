"""Which cells are the same network: by what they compute, and by the count that NAS-Bench-201 publishes."""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import islice, permutations

import pytest

from fairsweep.search_spaces.architectures import Architecture
from fairsweep.search_spaces.architectures.cell import WEIGHTS, CellSpace
from fairsweep.search_spaces.architectures.chain import ChainSpace
from fairsweep.search_spaces.architectures.mbconv import MBConvSpace

CELLS = CellSpace(disconnected=True)


def live(space: CellSpace, cell: Architecture) -> list[int]:
    """Edges on a path from the input to the output."""
    edges = [e for e, k in enumerate(cell.indices) if space.operations[k] != "none"]
    forth, back = {0}, {space.nodes - 1}
    for _ in edges:
        forth |= {space.edges[e][1] for e in edges if space.edges[e][0] in forth}
        back |= {space.edges[e][0] for e in edges if space.edges[e][1] in back}
    return [e for e in edges if space.edges[e][0] in forth and space.edges[e][1] in back]


def computed(space: CellSpace, cell: Architecture, weights: dict[int, float], x: float = 0.7) -> float:
    """The output of the cell on a number, with a nonlinear function that keeps 0 for every operation."""
    nodes = [x] + [0.0] * (space.nodes - 1)
    for e, ((j, i), k) in enumerate(zip(space.edges, cell.indices, strict=True)):
        w = weights.get(e, 1.0)
        nodes[i] += {
            "none": 0.0,
            "skip_connect": nodes[j],
            "avg_pool_3x3": math.sin(0.9 * nodes[j]),
            "nor_conv_1x1": math.atan(w * nodes[j]),
            "nor_conv_3x3": math.tanh(w * nodes[j]),
        }[space.operations[k]]
    return nodes[-1]


def outputs(space: CellSpace, cell: Architecture) -> tuple[float, ...]:
    """All that the cell computes when the same weights are given to its operations in any order."""
    weighted = [e for e in live(space, cell) if WEIGHTS[space.operations[cell.indices[e]]]]
    values = [0.31, 0.83, 1.57][: len(weighted)]
    found = [computed(space, cell, dict(zip(weighted, order, strict=True))) for order in permutations(values)]
    return tuple(round(v, 10) for v in sorted(found))


@pytest.mark.parametrize("convolution", ["nor_conv_1x1", "nor_conv_3x3"])
def test_functions_are_equal_exactly_when_cells_compute_the_same(convolution: str) -> None:
    space = CellSpace(operations=("none", "skip_connect", convolution, "avg_pool_3x3"), disconnected=True)
    cells = [a for a in space.enumerate() if sum(space.operations[k] == convolution for k in a.indices) <= 3]
    assert len(cells) == 3942
    by_function, by_output = defaultdict(set), defaultdict(set)
    for cell in cells:
        function, output = space.function(cell), outputs(space, cell)
        by_function[function].add(output)
        by_output[output].add(function)
    split = [name for name, found in by_function.items() if len(found) > 1]
    joined = [found for found in by_output.values() if len(found) > 1]
    assert not split[:3] and not joined[:3]
    networks = len(by_output)
    assert networks == 839


def test_the_representative_computes_the_same_with_the_fewest_weights() -> None:
    def weights(cell: Architecture) -> int:
        return sum(WEIGHTS[CELLS.operations[k]] for k in cell.indices)

    for cell in islice(CELLS.enumerate(), 0, None, 5):
        found = CELLS.canonical(cell)
        assert CELLS.function(found) == CELLS.function(cell)
        assert CELLS.canonical(found) == found
        assert weights(found) <= weights(cell)
        assert weights(found) == sum(WEIGHTS[CELLS.operations[cell.indices[e]]] for e in live(CELLS, cell))


def test_the_published_count_of_different_cells() -> None:
    different = len({CELLS.published_name(cell) for cell in CELLS.enumerate()})
    assert different == 6466


def test_a_node_used_twice_is_not_two_nodes_alike() -> None:
    once = CELLS.parse("|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|nor_conv_3x3~1|nor_conv_3x3~2|")
    twice = CELLS.parse("|nor_conv_3x3~0|+|nor_conv_3x3~0|none~1|+|none~0|nor_conv_3x3~1|nor_conv_3x3~2|")
    assert CELLS.function(once) == "nor_conv_3x3(nor_conv_3x31(x()))+nor_conv_3x3(nor_conv_3x31(x()))"
    assert CELLS.canonical(once) != CELLS.canonical(twice)
    assert CELLS.published_name(once) == CELLS.published_name(twice)


def test_zeros_and_dead_operations_are_nothing() -> None:
    plain = CELLS.parse("|none~0|+|none~0|none~1|+|nor_conv_1x1~0|none~1|none~2|")
    dead = CELLS.parse("|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|nor_conv_1x1~0|none~1|none~2|")
    assert CELLS.canonical(dead) == plain
    zero = CELLS.parse("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|")
    cut = CELLS.parse("|none~0|+|nor_conv_3x3~0|none~1|+|none~0|nor_conv_3x3~1|none~2|")
    assert CELLS.canonical(cut) == zero and CELLS.function(zero) == ""


def test_cells_of_many_nodes_stand_for_themselves() -> None:
    space = CellSpace(nodes=5)
    cell = space.sample(3)
    assert space.canonical(cell) == cell and space.function(cell)


def test_idle_blocks_move_to_the_end_of_their_stage() -> None:
    chain = ChainSpace(8, (2, 3, 3))
    for text, canonical in [("00001002", "00010020"), ("01202010", "01220010"), ("22212202", "22212220")]:
        found = chain.format(chain.canonical(chain.parse(text)))
        assert found == canonical
    mbconv = MBConvSpace((1, 4))
    found = mbconv.canonical(mbconv.parse("k3_e3/k5_e3-skip-k3_e6-k3_e3"))
    assert mbconv.format(found) == "k3_e3/k5_e3-k3_e6-k3_e3-skip"
    assert mbconv.canonical(found) == found
