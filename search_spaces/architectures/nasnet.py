"""The space of NASNet (Zoph et al., CVPR 2018, section 3): a normal and a reduction cell of B blocks each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from fairsweep.search_spaces.architectures.base import (
    Architecture,
    ArchitectureError,
    ArchitectureSpace,
    Choice,
)

OPERATIONS = (
    "identity", "conv_1x3_3x1", "conv_1x7_7x1", "dil_3x3", "avg_3x3", "max_3x3", "max_5x5", "max_7x7",
    "conv_1x1", "conv_3x3", "sep_3x3", "sep_5x5", "sep_7x7",
)  # fmt: skip
COMBINE = ("add", "concat")
CELLS = ("normal", "reduction")
DECISIONS = ("in1", "in2", "op1", "op2", "combine")  # of a block, in the controller's order
NASNET_A = (
    "0:sep_5x5+1:sep_3x3-1:sep_5x5+1:sep_3x3-0:avg_3x3+1:identity-1:avg_3x3+1:avg_3x3-0:sep_3x3+0:identity"
    "/0:sep_5x5+1:sep_7x7-0:max_3x3+1:sep_7x7-0:avg_3x3+1:sep_5x5-3:identity+2:avg_3x3-2:sep_3x3+0:max_3x3"
)
_SIGNS = {"+": "add", "++": "concat"}
_BLOCK = re.compile(r"(\d+):(\w+)(\+\+?)(\d+):(\w+)", re.ASCII)


@dataclass(frozen=True)
class Block:
    """Two states of a cell, an operation on each, and how the results are combined to the next state."""

    inputs: tuple[int, int]
    operations: tuple[str, str]
    combine: str


def loose_ends(cell: Sequence[Block]) -> tuple[int, ...]:
    """The states of a cell that none of its blocks takes, in order: its output is their concatenation."""
    used = {state for block in cell for state in block.inputs}
    return tuple(state for state in range(len(cell) + 2) if state not in used)


@dataclass(frozen=True)
class NASNetSpace(ArchitectureSpace):
    """Two cells of `blocks` blocks; a block decides two inputs, an operation on each, and how to combine them.

    States of a cell: 0 the output of the cell before it, 1 that of the cell before that one (many implementations
    count these two the other way round), b + 2 the result of block b. There are
    (prod_b (b+2)^2 * O^2 * C)^2 encodings with O operations and C ways to combine.

    The text has the normal cell, "/", the reduction cell; blocks are joined by "-"; a block is
    input:operation, "+" to add or "++" to concatenate, input:operation::

        0:sep_5x5+1:sep_3x3-2:avg_3x3++0:identity/0:max_3x3+1:sep_3x3-1:sep_3x3+2:identity

    `canonical` takes encodings for one that become the same network by renaming its weights and channels: the halves
    of a block change places (also of one that concatenates: a convolution follows), or the blocks of a cell do in
    any order in which each comes after its inputs. Trained alone such networks are the same; the shared weights of
    a supernet belong to places, so there they are not.

    operations, combine: the options of `op1`, `op2` and of `combine`.
    """

    blocks: int = 5
    operations: tuple[str, ...] = OPERATIONS
    combine: tuple[str, ...] = COMBINE
    kind: ClassVar[str] = "nasnet"

    def __post_init__(self) -> None:
        if self.blocks < 1:
            raise ValueError(f"blocks={self.blocks}: a cell has at least 1")
        for name, given, known in (
            ("operations", self.operations, OPERATIONS),
            ("combine", self.combine, COMBINE),
        ):
            if not given or len(set(given)) < len(given) or not set(given) <= set(known):
                raise ValueError(f"{name}={list(given)}: must be different ones of {', '.join(known)}")

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        found = []
        for cell in CELLS:
            for b in range(self.blocks):
                states = tuple(map(str, range(b + 2)))
                options = (states, states, self.operations, self.operations, self.combine)
                names = (f"{cell}.b{b}.{decision}" for decision in DECISIONS)
                found += [Choice(name, o) for name, o in zip(names, options, strict=True)]
        return tuple(found)

    @cached_property
    def id(self) -> str:
        operations = "all" if self.operations == OPERATIONS else ",".join(self.operations)
        combine = "all" if self.combine == COMBINE else ",".join(self.combine)
        return f"nasnet/1?blocks={self.blocks}&operations={operations}&combine={combine}"

    def cell(self, architecture: Architecture, name: str) -> tuple[Block, ...]:
        """The blocks of the cell `name`, "normal" or "reduction"."""
        return tuple(
            Block((in1, in2), (self.operations[op1], self.operations[op2]), self.combine[combine])
            for in1, in2, op1, op2, combine in self._decisions(architecture, name)
        )

    def _decisions(self, architecture: Architecture, cell: str) -> list[tuple[int, ...]]:
        start = CELLS.index(cell) * 5 * self.blocks
        return [architecture.indices[start + 5 * b :][:5] for b in range(self.blocks)]

    def canonical(self, architecture: Architecture) -> Architecture:
        cells = (_first_order(self._decisions(architecture, cell)) for cell in CELLS)
        return self.architecture([index for cell in cells for index in cell])

    def nasnet_a(self) -> Architecture:
        """The cells of NASNet-A, or the first `blocks` blocks of them. ArchitectureError if they are not members.

        NASNet-A's output also has states that are used: `NASNet(concat_used=NASNET_A_CONCAT_USED)`.
        """
        cells = [cell.split("-") for cell in NASNET_A.split("/")]
        if self.blocks > len(cells[0]):
            raise ArchitectureError(f"{self.id}: NASNet-A has {len(cells[0])} blocks")
        return self.parse("/".join("-".join(cell[: self.blocks]) for cell in cells))

    def format(self, architecture: Architecture) -> str:
        signs = {combine: sign for sign, combine in _SIGNS.items()}

        def block(b: Block) -> str:
            halves = [f"{i}:{o}" for i, o in zip(b.inputs, b.operations, strict=True)]
            return signs[b.combine].join(halves)

        return "/".join("-".join(map(block, self.cell(architecture, cell))) for cell in CELLS)

    def parse(self, text: str) -> Architecture:
        cells = [cell.split("-") for cell in text.split("/")]
        if list(map(len, cells)) != [self.blocks] * 2:
            raise ArchitectureError(
                f"{text!r}: must be two cells joined by / of {self.blocks} blocks each joined by -"
            )
        options: dict[str, str] = {}
        for name, cell in zip(CELLS, cells, strict=True):
            for b, block in enumerate(cell):
                found = _BLOCK.fullmatch(block)
                if found is None:
                    raise ArchitectureError(
                        f"{text!r}: {name}.b{b} must read input:operation+input:operation (++ concatenates),"
                        f" is {block!r}"
                    )
                in1, op1, sign, in2, op2 = found.groups()
                values = (in1, in2, op1, op2, _SIGNS[sign])
                options |= {f"{name}.b{b}.{d}": v for d, v in zip(DECISIONS, values, strict=True)}
        return self.from_options(options)


def _first_order(blocks: list[tuple[int, ...]]) -> tuple[int, ...]:
    """Of all ways to write the decisions of a cell down, the first in the order of tuples."""

    def extend(states: dict[int, int], left: frozenset[int]) -> tuple[int, ...]:
        codes = {}
        for b in left:
            in1, in2, op1, op2, combine = blocks[b]
            if in1 in states and in2 in states:
                (in1, op1), (in2, op2) = sorted(((states[in1], op1), (states[in2], op2)))
                codes[b] = (in1, in2, op1, op2, combine)
        if not codes:
            return ()
        # Blocks that read alike differ only in who takes them: each is tried.
        first = min(codes.values())
        rest = (
            extend(states | {b + 2: len(states)}, left - {b}) for b, code in codes.items() if code == first
        )
        return first + min(rest)

    return extend({0: 0, 1: 1}, frozenset(range(len(blocks))))
