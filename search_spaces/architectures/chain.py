"""The chain space of NAS-Bench-Macro (Su et al., CVPR 2021): one of 3 blocks in each of L layers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from fairsweep.search_spaces.architectures.base import (
    Architecture,
    ArchitectureError,
    ArchitectureSpace,
    Choice,
    last_in_stages,
)

BLOCKS = ("identity", "mb3_k3", "mb6_k5")
IDENTITY = BLOCKS.index("identity")


@dataclass(frozen=True)
class ChainSpace(ArchitectureSpace):
    """`layers` choices of a block: identity, or an inverted bottleneck of expansion 3, kernel 3 or 6, kernel 5.

    The text of an architecture is the table's: a digit a layer, 0 identity, 1 mb3_k3, 2 mb6_k5.

    stages: layers in each stage, of which the first alone changes resolution and width; empty if not known.
    """

    layers: int = 8
    stages: tuple[int, ...] = ()
    kind: ClassVar[str] = "chain"

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise ValueError(f"layers={self.layers}: must be at least 1")
        if self.stages and (min(self.stages) < 1 or sum(self.stages) != self.layers):
            raise ValueError(
                f"stages={list(self.stages)}: must be layers of at least 1 a stage, {self.layers} together"
            )

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        return tuple(Choice(f"layer_{k}", BLOCKS) for k in range(self.layers))

    @cached_property
    def id(self) -> str:
        stages = f"&stages={','.join(map(str, self.stages))}" if self.stages else ""
        return f"chain/1?layers={self.layers}{stages}"

    def canonical(self, architecture: Architecture) -> Architecture:
        """The chain whose identities stand last in their stage: past its first layer they do nothing anywhere.

        So the 6,561 chains of the table are 3,969 networks, and the table has the same values for those alike.
        """
        return Architecture(self.id, last_in_stages(architecture.indices, self.stages, IDENTITY))

    def format(self, architecture: Architecture) -> str:
        return "".join(map(str, architecture.indices))

    def parse(self, text: str) -> Architecture:
        if len(text) != self.layers or any(c not in "012" for c in text):
            raise ArchitectureError(f"{text!r}: must be {self.layers} digits, each 0, 1 or 2")
        return self.architecture([int(c) for c in text])
