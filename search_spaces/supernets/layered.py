"""What supernets share that are a stem, one block for each choice, and a head."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property

from torch import Tensor, nn

from fairsweep.search_spaces.architectures.base import Architecture
from fairsweep.search_spaces.supernets.base import State, Step, Supernet


class LayeredSupernet(Supernet):
    """`stem`, then block k as choice k of the space has it, then `head`."""

    stem: nn.Module
    head: nn.Module

    @abstractmethod
    def run_block(self, number: int, x: Tensor, option: str) -> Tensor:
        """What block `number` makes of `x` when it is `option`."""

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """A block a step, between the stem and the head."""
        blocks = (Step(choice.name, (choice.name,)) for choice in self.space.choices)
        return (Step("stem"), *blocks, Step("head"))

    def run_step(self, number: int, state: State, path: Architecture) -> State:
        (x,) = state
        if number == 0:
            return (self.stem(x),)
        if number == len(self.steps) - 1:
            return (self.head(x),)
        choice = self.space.choices[number - 1]
        return (self.run_block(number - 1, x, choice.options[path.indices[number - 1]]),)
