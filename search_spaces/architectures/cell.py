"""The cell space of NAS-Bench-201 (Dong and Yang, ICLR 2020): 4 nodes, 6 edges, one of 5 operations on each edge."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import permutations
from math import prod
from typing import Any, ClassVar

from fairsweep.search_spaces.architectures.base import (
    Architecture,
    ArchitectureError,
    ArchitectureSpace,
    Choice,
)

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
WEIGHTS = {
    "none": 0,
    "skip_connect": 0,
    "avg_pool_3x3": 0,
    "nor_conv_1x1": 1,
    "nor_conv_3x3": 9,
}  # a pair of channels
COMPARED = len(OPERATIONS) ** 6  # encodings among which equivalent ones are looked for

Term = tuple[str, int | None, tuple[Any, ...]]  # operation, its edge if it has weights, terms of its input


@dataclass(frozen=True)
class CellSpace(ArchitectureSpace):
    """One operation an edge j -> i (j < i) of a cell whose node i is the sum of its edges.

    Choices stand in the order of the table's text: (0,1), (0,2), (1,2), (0,3), (1,3), (2,3).

    nodes: nodes of the cell, its input node included.
    operations: what an edge may be.
    disconnected: whether cells whose output does not depend on their input are members (341 of 15,625).
    """

    nodes: int = 4
    operations: tuple[str, ...] = OPERATIONS
    disconnected: bool = False
    kind: ClassVar[str] = "cell"

    def __post_init__(self) -> None:
        if self.nodes < 2:
            raise ValueError(f"nodes={self.nodes}: a cell has at least 2")
        unknown = [o for o in self.operations if o not in OPERATIONS]
        if unknown or not self.operations or len(set(self.operations)) < len(self.operations):
            raise ValueError(
                f"operations={list(self.operations)}: must be different ones of {', '.join(OPERATIONS)}"
            )

    @cached_property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """Pairs (from, to)."""
        return tuple((j, i) for i in range(1, self.nodes) for j in range(i))

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        return tuple(Choice(f"edge_{j}_{i}", self.operations) for j, i in self.edges)

    @cached_property
    def id(self) -> str:
        operations = "all" if self.operations == OPERATIONS else ",".join(self.operations)
        return (
            f"cell/1?nodes={self.nodes}&operations={operations}&disconnected={str(self.disconnected).lower()}"
        )

    def is_valid(self, architecture: Architecture) -> bool:
        return self.disconnected or self.connected(architecture)

    def connected(self, architecture: Architecture) -> bool:
        """Whether the output node depends on the input node."""
        reached = {0}
        for (j, i), k in zip(self.edges, architecture.indices, strict=True):
            if j in reached and self.operations[k] != "none":
                reached.add(i)
        return self.nodes - 1 in reached

    def acceptance(self, probabilities: Mapping[str, Sequence[float]] | None = None) -> float:
        """As of all spaces: the probability that the output is reached, node by node over the sets of those reached."""
        if self.disconnected or "none" not in self.operations:
            return 1.0
        given, none = self._distributions(probabilities or {}), self.operations.index("none")
        closed = {
            edge: float(given[c.name][none]) if c.name in given else 1 / len(self.operations)
            for edge, c in zip(self.edges, self.choices, strict=True)
        }
        sets: dict[frozenset[int], float] = {frozenset({0}): 1.0}
        for node in range(1, self.nodes):
            after: defaultdict[frozenset[int], float] = defaultdict(float)
            for reached, p in sets.items():
                missed = prod(closed[j, node] for j in reached)
                after[reached] += p * missed
                after[reached | {node}] += p * (1 - missed)
            sets = dict(after)
        return sum(p for reached, p in sets.items() if self.nodes - 1 in reached)

    def canonical(self, architecture: Architecture) -> Architecture:
        """Of all cells with the same `function`, the one with the fewest weights, then the lowest indices.

        5,260 of the 15,625 cells are canonical, one of them for all 341 disconnected ones. A space of more than 4
        nodes has too many cells to compare: there each cell stands for itself.
        """
        if self.size > COMPARED:
            return architecture
        return _representatives(self)[self.function(architecture)]

    def function(self, architecture: Architecture) -> str:
        """What the output computes, as text: equal for two cells if and only if they are the same function of their
        input once the weights of one are given to the other.

        A sum drops its zeros and takes in the terms that skip_connect brings, and operations on a zero are zero, as
        the table has it (a bias of their normalisation is not counted). That a pool of a sum is a sum of pools is
        not used. A convolution whose output is used more than once has a number, so that it is told from several
        alike with weights of their own.
        """
        nodes: list[list[Term]] = [[("x", None, ())], *([] for _ in range(1, self.nodes))]
        for edge, ((j, i), k) in enumerate(zip(self.edges, architecture.indices, strict=True)):
            operation = self.operations[k]
            if operation == "skip_connect":
                nodes[i] += nodes[j]
            elif operation != "none" and nodes[j]:
                nodes[i].append((operation, edge if WEIGHTS[operation] else None, tuple(nodes[j])))
        uses = Counter(_edges(nodes[-1]))
        shared = [edge for edge, count in uses.items() if count > 1]
        return min(
            _text(nodes[-1], dict(zip(order, range(1, len(order) + 1), strict=True)))
            for order in permutations(shared)
        )

    def published_name(self, architecture: Architecture) -> str:
        """The text by which the authors of NAS-Bench-201 count 6,466 different cells of the 15,625.

        By the published code (`to_unique_str` with zeros considered), which is coarser and finer than `function`: a
        node used twice is not told from two nodes alike, though the weights differ in number; zeros stay in sums of
        other terms; and a sum that comes through skip_connect is spliced in as it is, so that equal sums may be
        written in two orders. The count depends on that order, thus on the notation, which is kept here.
        """
        nodes = ["0"] + ["#"] * (self.nodes - 1)
        terms: list[list[str]] = [[] for _ in nodes]
        for (j, i), k in zip(self.edges, architecture.indices, strict=True):
            operation = self.operations[k]
            if operation == "none" or nodes[j] == "#":
                terms[i].append("#")
            else:
                terms[i].append(nodes[j] if operation == "skip_connect" else f"({nodes[j]})@{operation}")
            nodes[i] = "+".join(sorted(terms[i]))
        return nodes[-1]

    def format(self, architecture: Architecture) -> str:
        """As the table has it: |nor_conv_3x3~0|+|none~0|skip_connect~1|+|..."""
        names = iter(self.operations[k] for k in architecture.indices)
        return "+".join("|" + "".join(f"{next(names)}~{j}|" for j in range(i)) for i in range(1, self.nodes))

    def parse(self, text: str) -> Architecture:
        nodes = text.split("+")
        if len(nodes) != self.nodes - 1:
            raise ArchitectureError(f"{text!r}: {len(nodes)} nodes, {self.id} has {self.nodes - 1}")
        indices = []
        for i, node in enumerate(nodes, start=1):
            found = re.findall(r"([^|~]+)~([0-9]+)\|", node)
            if [int(j) for _, j in found] != list(range(i)) or node != "|" + "".join(
                f"{o}~{j}|" for o, j in found
            ):
                raise ArchitectureError(
                    f"{text!r}: node {i} must read |operation~0|...|operation~{i - 1}|, is {node!r}"
                )
            for operation, _ in found:
                if operation not in self.operations:
                    raise ArchitectureError(
                        f"{text!r}: {operation!r} must be one of {', '.join(self.operations)}"
                    )
                indices.append(self.operations.index(operation))
        return self.check(self.architecture(indices))


@lru_cache(maxsize=8)
def _representatives(space: CellSpace) -> dict[str, Architecture]:
    def weights(architecture: Architecture) -> int:
        return sum(WEIGHTS[space.operations[k]] for k in architecture.indices)

    order = sorted(space.enumerate(), key=lambda a: (weights(a), a))
    return {space.function(a): a for a in reversed(order)}


def _edges(terms: Sequence[Term]) -> Iterator[int]:
    """The edge of every convolution, as often as it is written when all sums are written out."""
    for _, edge, source in terms:
        if edge is not None:
            yield edge
        yield from _edges(source)


def _text(terms: Sequence[Term], numbers: Mapping[int | None, int]) -> str:
    return "+".join(
        sorted(
            f"{operation}{numbers.get(edge, '')}({_text(source, numbers)})"
            for operation, edge, source in terms
        )
    )
