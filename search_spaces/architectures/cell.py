"""The cell space of NAS-Bench-201 (Dong and Yang, ICLR 2020): 4 nodes, 6 edges, one of 5 operations on each edge."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from search_spaces.architectures.base import Architecture, ArchitectureError, ArchitectureSpace, Choice

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")


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
            found = re.findall(r"([^|~]+)~(\d+)\|", node)
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
        return self.architecture(indices)
