"""The space of Single-Path NAS (Stamoulis et al., 2019): kernel and expansion of inverted bottlenecks, or no block."""

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

BLOCKS = ("k3_e3", "k3_e6", "k5_e3", "k5_e6")


@dataclass(frozen=True)
class MBConvSpace(ArchitectureSpace):
    """Stages of inverted bottlenecks; each is one of `BLOCKS` or skipped, the first of a stage never skipped.

    stages: blocks in each stage. The text joins blocks by "-" and stages by "/": k3_e3-skip/k5_e6-k3_e6.
    """

    stages: tuple[int, ...] = (4, 4, 4, 4, 4)
    kind: ClassVar[str] = "mbconv"

    def __post_init__(self) -> None:
        if not self.stages or any(n < 1 for n in self.stages):
            raise ValueError(f"stages={list(self.stages)}: every stage has at least one block")

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        return tuple(
            Choice(f"stage_{s}_block_{b}", BLOCKS if b == 0 else (*BLOCKS, "skip"))
            for s, n in enumerate(self.stages)
            for b in range(n)
        )

    @cached_property
    def id(self) -> str:
        return f"mbconv/1?stages={','.join(map(str, self.stages))}"

    def canonical(self, architecture: Architecture) -> Architecture:
        """The network whose skips stand last in their stage: blocks after its first all have the same shape."""
        return Architecture(self.id, last_in_stages(architecture.indices, self.stages, len(BLOCKS)))

    def format(self, architecture: Architecture) -> str:
        names = iter(c.options[i] for c, i in zip(self.choices, architecture.indices, strict=True))
        return "/".join("-".join(next(names) for _ in range(n)) for n in self.stages)

    def parse(self, text: str) -> Architecture:
        stages = [stage.split("-") for stage in text.split("/")]
        if tuple(map(len, stages)) != self.stages:
            raise ArchitectureError(
                f"{text!r}: must have stages of {', '.join(map(str, self.stages))} blocks"
            )
        names = [name for stage in stages for name in stage]
        return self.from_options({c.name: name for c, name in zip(self.choices, names, strict=True)})
