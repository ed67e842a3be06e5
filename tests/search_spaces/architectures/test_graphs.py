from __future__ import annotations

from search_spaces.architectures.cell import CellSpace
from search_spaces.architectures.chain import ChainSpace
from search_spaces.architectures.graphs import graph_of


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
