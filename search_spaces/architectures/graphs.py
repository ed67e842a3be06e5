"""An architecture as a graph that can be drawn: nodes with labels, edges with what happens on them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from fairsweep.search_spaces.architectures.base import Architecture, ArchitectureSpace
from fairsweep.search_spaces.architectures.cell import CellSpace
from fairsweep.search_spaces.architectures.nasnet import CELLS, NASNetSpace, loose_ends


@dataclass(frozen=True)
class Graph:
    """nodes: name -> label. edges: (from, to, label); acyclic."""

    nodes: dict[str, str]
    edges: tuple[tuple[str, str, str], ...]


def graph_of(space: ArchitectureSpace, architecture: Architecture) -> Graph:
    """The graph of one cell, of NASNet's two, or of the chain of blocks; any other is drawn as its choices in a row."""
    space.check(architecture)
    if isinstance(space, CellSpace):
        return _cell(space, architecture)
    if isinstance(space, NASNetSpace):
        return _nasnet(space, architecture)
    names = [(c.name, c.options[i]) for c, i in zip(space.choices, architecture.indices, strict=True)]
    nodes = {"input": "input", **{name: f"{name}: {option}" for name, option in names}, "output": "output"}
    return Graph(nodes, tuple((a, b, "") for a, b in pairwise(nodes)))


def _cell(space: CellSpace, architecture: Architecture) -> Graph:
    """The nodes that depend on the input."""
    last, reached, edges = space.nodes - 1, {0}, []
    for (j, i), k in zip(space.edges, architecture.indices, strict=True):
        if j in reached and space.operations[k] != "none":
            reached.add(i)
            edges.append((str(j), str(i), space.operations[k]))
    labels = {k: "input" if k == 0 else "output" if k == last else f"node {k}" for k in sorted(reached)}
    return Graph({str(k): label for k, label in labels.items()}, tuple(edges))


def _nasnet(space: NASNetSpace, architecture: Architecture) -> Graph:
    """The normal cell and the reduction cell, each operation a node: both halves of a block may take the same state."""
    nodes: dict[str, str] = {}
    edges: list[tuple[str, str, str]] = []
    for cell in CELLS:
        states = [f"{cell}.last", f"{cell}.before"]
        nodes |= {states[0]: f"{cell}: last output", states[1]: f"{cell}: output before it"}
        blocks = space.cell(architecture, cell)
        for b, block in enumerate(blocks):
            name = f"{cell}.b{b}"
            for side, (state, operation) in enumerate(zip(block.inputs, block.operations, strict=True), 1):
                nodes[f"{name}.op{side}"] = operation
                edges += [(states[state], f"{name}.op{side}", ""), (f"{name}.op{side}", name, "")]
            nodes[name] = block.combine
            states.append(name)
        nodes[f"{cell}.output"] = f"{cell}: output"
        edges += [(states[state], f"{cell}.output", "") for state in loose_ends(blocks)]
    return Graph(nodes, tuple(edges))
