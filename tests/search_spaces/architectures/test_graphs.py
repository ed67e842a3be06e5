from __future__ import annotations

from fairsweep.search_spaces.architectures.cell import CellSpace
from fairsweep.search_spaces.architectures.chain import ChainSpace
from fairsweep.search_spaces.architectures.graphs import graph_of
from fairsweep.search_spaces.architectures.nasnet import NASNetSpace


def test_a_cell_is_drawn_without_what_its_input_does_not_reach() -> None:
    space = CellSpace()
    text = "|none~0|+|nor_conv_3x3~0|nor_conv_1x1~1|+|skip_connect~0|avg_pool_3x3~1|none~2|"
    graph = graph_of(space, space.parse(text))
    assert graph.nodes == {"0": "input", "2": "node 2", "3": "output"}
    assert graph.edges == (("0", "2", "nor_conv_3x3"), ("0", "3", "skip_connect"))


def test_a_chain_is_drawn_in_a_row() -> None:
    space = ChainSpace(2)
    graph = graph_of(space, space.parse("02"))
    assert list(graph.nodes.values()) == ["input", "layer_0: identity", "layer_1: mb6_k5", "output"]
    assert [(a, b) for a, b, _ in graph.edges] == [
        ("input", "layer_0"), ("layer_0", "layer_1"), ("layer_1", "output"),
    ]  # fmt: skip


def test_both_cells_of_nasnet_are_drawn_with_their_loose_ends() -> None:
    space = NASNetSpace(2)
    graph = graph_of(
        space,
        space.parse("1:sep_3x3+1:identity-2:avg_3x3++0:sep_5x5/0:conv_1x1+0:max_3x3-0:sep_3x3+1:sep_3x3"),
    )
    assert graph.nodes["normal.b0.op1"] == "sep_3x3" and graph.nodes["normal.b1"] == "concat"
    pairs = [(a, b) for a, b, _ in graph.edges]
    assert len(graph.nodes) == 2 * 9 and len(pairs) == 2 * 8 + 1 + 2
    assert {
        ("normal.before", "normal.b0.op1"),
        ("normal.before", "normal.b0.op2"),
        ("normal.b0.op2", "normal.b0"),
    } <= {*pairs}
    assert ("normal.b0", "normal.b1.op1") in pairs and ("normal.last", "normal.b1.op2") in pairs
    assert [a for a, b in pairs if b == "normal.output"] == ["normal.b1"]
    assert [a for a, b in pairs if b == "reduction.output"] == ["reduction.b0", "reduction.b1"]
