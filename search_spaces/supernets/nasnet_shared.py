"""Parts of NASNet's supernet: layers and cells that hold weights for every architecture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairsweep.search_spaces.architectures.nasnet import Block, NASNetSpace, loose_ends
from fairsweep.search_spaces.supernets.layers import Normalisation
from fairsweep.search_spaces.supernets.nasnet_network import Combine, Place
from fairsweep.search_spaces.supernets.nasnet_operations import match, operation, reduced_pixels


def named_weights(prefix: str, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The state of `module`, its names after `prefix`."""
    return ((prefix + name, tensor) for name, tensor in module.state_dict(keep_vars=True).items())


class Pieces(nn.Module):
    """The weights (outputs, inputs, ...) of a linear layer over a concatenation of states, a piece a state.

    states: how many there can be. channels: of each. outputs: of the layer.
    """

    def __init__(self, states: int, channels: int, outputs: int, convolution: bool = True) -> None:
        super().__init__()
        shape = (outputs, channels, 1, 1) if convolution else (outputs, channels)
        # As `initialise`: the variance is 2 / fan-out, whatever the number of inputs.
        std = (2 / outputs) ** 0.5
        self.pieces = nn.ParameterList(nn.Parameter(torch.randn(shape) * std) for _ in range(states))

    def forward(self, states: Sequence[int]) -> Tensor:
        """The weights of the layer over these states."""
        return torch.cat([self.pieces[s] for s in states], 1)


class SharedEntry(nn.Module):
    """`Entry` of a cell for all that its two inputs may consist of.

    inputs: (states, channels of each) of the current and of the previous output.
    """

    def __init__(
        self, inputs: Sequence[tuple[int, int]], filters: int, reduce: bool, norm: Normalisation
    ) -> None:
        super().__init__()
        self.filters, self.reduce, self.channels = filters, reduce, inputs[1][1]
        self.current, self.current_norm = Pieces(*inputs[0], filters), norm(filters)
        halves = 2 if reduce else 1
        self.previous = nn.ModuleList(Pieces(*inputs[1], filters // halves) for _ in range(halves))
        self.previous_norm = norm(filters)

    def fits(self, states: Sequence[int]) -> bool:
        """Whether the previous output is state 1 as it is."""
        return not self.reduce and self.channels * len(states) == self.filters

    def forward(
        self, current: Tensor, previous: Tensor, states: tuple[Sequence[int], Sequence[int]]
    ) -> tuple[Tensor, Tensor]:
        found = self.current_norm(F.conv2d(F.relu(current), self.current(states[0])))
        if self.fits(states[1]):
            return found, previous
        weights = [pieces(states[1]) for pieces in self.previous]
        x = F.relu(previous)
        x = reduced_pixels(x, *weights) if self.reduce else F.conv2d(x, weights[0])
        return found, self.previous_norm(x)

    def weights(self, states: tuple[Sequence[int], Sequence[int]]) -> Iterator[tuple[str, Tensor]]:
        """The weights of the `Entry` for these states, by their names in it."""
        yield "current.1.weight", self.current(states[0])
        yield from named_weights("current.2.", self.current_norm)
        if not self.fits(states[1]):
            convolutions, norm = (("1.even", "1.odd"), "1.norm.") if self.reduce else (("1.0",), "1.1.")
            for name, pieces in zip(convolutions, self.previous, strict=True):
                yield f"previous.{name}.weight", pieces(states[1])
            yield from named_weights(f"previous.{norm}", self.previous_norm)


class SharedCell(nn.Module):
    """A cell with weights for every architecture: halves[b][side][state][operation], and what combines them."""

    def __init__(
        self, space: NASNetSpace, place: Place, inputs: Sequence[tuple[int, int]], norm: Normalisation
    ) -> None:
        super().__init__()
        filters = place.filters
        self.entry = SharedEntry(inputs, filters, place.previous_halvings < place.halvings, norm)

        def half(b: int) -> nn.ModuleList:
            strides = [place.stride if state < 2 else 1 for state in range(b + 2)]
            return nn.ModuleList(
                nn.ModuleDict({o: operation(o, filters, filters, s, norm) for o in space.operations})
                for s in strides
            )

        self.halves = nn.ModuleList(nn.ModuleList(half(b) for _ in range(2)) for b in range(space.blocks))
        self.combine = nn.ModuleList(
            nn.ModuleDict({c: Combine(c, filters, norm) for c in space.combine}) for _ in range(space.blocks)
        )
        self.matches = nn.ModuleList(match(filters, filters, place.stride == 2, norm) for _ in range(2))

    def operation(self, b: int, side: int, block: Block) -> nn.Module:
        """What one half of block b does."""
        halves: Any = self.halves
        return halves[b][side][block.inputs[side]][block.operations[side]]

    def block(self, b: int, block: Block, states: Sequence[Tensor]) -> Tensor:
        """The state that block b makes of those before it."""
        combine: Any = self.combine[b]
        made = (self.operation(b, side, block)(states[block.inputs[side]]) for side in range(2))
        return combine[block.combine](*made)

    def output(self, blocks: Sequence[Block], states: Sequence[Tensor]) -> Tensor:
        """The loose ends side by side."""
        return torch.cat([self.matches[s](states[s]) if s < 2 else states[s] for s in loose_ends(blocks)], 1)

    def weights(
        self, blocks: Sequence[Block], states: tuple[Sequence[int], Sequence[int]]
    ) -> Iterator[tuple[str, Tensor]]:
        """The weights of the `Cell` of `blocks`, by their names in it."""
        for name, weight in self.entry.weights(states):
            yield f"entry.{name}", weight
        combine: Any = self.combine
        for b, block in enumerate(blocks):
            for side in range(2):
                yield from named_weights(f"operations.{2 * b + side}.", self.operation(b, side, block))
            yield from named_weights(f"combine.{b}.", combine[b][block.combine])
        for state in loose_ends(blocks):
            if state < 2:
                yield from named_weights(f"matches.{state}.", self.matches[state])
