"""The chain space of NAS-Bench-Macro (Su et al., CVPR 2021): one of 3 blocks in each of L layers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from search_spaces.architectures.base import Architecture, ArchitectureError, ArchitectureSpace, Choice

BLOCKS = ("identity", "mb3_k3", "mb6_k5")


@dataclass(frozen=True)
class ChainSpace(ArchitectureSpace):
    """`layers` choices of a block: identity, or an inverted bottleneck of expansion 3, kernel 3 or 6, kernel 5.

    The text of an architecture is the table's: a digit a layer, 0 identity, 1 mb3_k3, 2 mb6_k5.
    """

    layers: int = 8
    kind: ClassVar[str] = "chain"

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise ValueError(f"layers={self.layers}: must be at least 1")

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        return tuple(Choice(f"layer_{k}", BLOCKS) for k in range(self.layers))

    @cached_property
    def id(self) -> str:
        return f"chain/1?layers={self.layers}"

    def format(self, architecture: Architecture) -> str:
        return "".join(map(str, architecture.indices))

    def parse(self, text: str) -> Architecture:
        if len(text) != self.layers or any(c not in "012" for c in text):
            raise ArchitectureError(f"{text!r}: must be {self.layers} digits, each 0, 1 or 2")
        return self.architecture([int(c) for c in text])
