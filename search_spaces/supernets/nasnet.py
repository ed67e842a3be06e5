"""The supernet of NASNet's space: weights shared over cells as in ENAS (Pham et al., ICML 2018, section 2.3).

In each cell of the stack, each half of a block has an operation of its own for every state it can take and every
operation it can be. How many states a cell gives out depends on the path; all that takes them is linear in their
concatenation (a 1 x 1 convolution of the next two cells, or the classifier), so each of these layers has a piece of
its weights for every state that there can be, and a path takes the pieces of its loose ends. What is extracted has
the pieces side by side in one ordinary layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairsweep.search_spaces.architectures.base import Architecture
from fairsweep.search_spaces.architectures.nasnet import NASNetSpace, loose_ends
from fairsweep.search_spaces.costs import Operator
from fairsweep.search_spaces.supernets.base import State, Step, Supernet
from fairsweep.search_spaces.supernets.layers import Normalisation, by_batch, image_shape, positive, running
from fairsweep.search_spaces.supernets.nasnet_costs import operators
from fairsweep.search_spaces.supernets.nasnet_network import NASNet, Place, places
from fairsweep.search_spaces.supernets.nasnet_operations import SameConv2d, initialise
from fairsweep.search_spaces.supernets.nasnet_shared import Pieces, SharedCell, named_weights

STEM = (0,)  # the one state of the stem's output


class NASNetSupernet(Supernet):
    """Every architecture of a NASNet space, stacked as `NASNet` with its small stem.

    repeats: N, normal cells in each of the three stages. filters: F, of the first stage.
    affine: scale and shift after normalising. Of the operations each has its own; those where a cell begins serve
        all its inputs.
    """

    kind: ClassVar[str] = "nasnet"
    space: NASNetSpace

    def __init__(
        self,
        space: NASNetSpace,
        input_shape: Sequence[int],
        classes: int,
        repeats: int,
        filters: int,
        affine: bool = True,
    ) -> None:
        super().__init__()
        self.space, self.input_shape = space, image_shape(input_shape)
        self.classes, self.repeats, self.filters = positive("classes", classes), repeats, filters
        self.affine, self.places = affine, places(repeats, filters)
        norm = by_batch(affine)
        self.stem = nn.Sequential(SameConv2d(self.input_shape[0], 3 * filters, 3), norm(3 * filters))
        inputs = [(1, 3 * filters), *((space.blocks + 2, p.filters) for p in self.places)]
        self.cells = nn.ModuleList(
            SharedCell(space, p, (inputs[p.current], inputs[p.previous]), norm) for p in self.places
        )
        initialise(self.modules())
        self.classifier = Pieces(*inputs[-1], classes, convolution=False)
        self.bias = nn.Parameter(torch.zeros(classes))
        self._parts = tuple(self._all_parts())
        self._steps = tuple(step for step, _, _ in self._parts)

    def config(self) -> dict[str, Any]:
        space = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self.space).items()}
        return {
            **space,
            "input_shape": list(self.input_shape),
            "classes": self.classes,
            "repeats": self.repeats,
            "filters": self.filters,
            "affine": self.affine,
        }

    # -- a path ---------------------------------------------------------------------------------------

    def _all_parts(self) -> Iterator[tuple[Step, int, int]]:
        """Step, number of the cell, and block in it; -1 for its entry, `blocks` for its output."""
        taken = {
            kind: tuple(f"{kind}.b{b}.in{side}" for b in range(self.space.blocks) for side in (1, 2))
            for kind in ("normal", "reduction")
        }
        of_output = [(), *(taken[p.kind] for p in self.places)]
        yield Step("stem"), -1, 0
        for p in self.places:
            before = tuple(dict.fromkeys((*of_output[p.current], *of_output[p.previous])))
            yield Step(f"cell_{p.number}.entry", before), p.number, -1
            for b in range(self.space.blocks):
                names = (c.name for c in self.space.choices if c.name.startswith(f"{p.kind}.b{b}."))
                yield Step(f"cell_{p.number}.b{b}", tuple(names)), p.number, b
            yield Step(f"cell_{p.number}.output", taken[p.kind]), p.number, self.space.blocks
        yield Step("classifier", of_output[-1]), len(self.places), 0

    @property
    def steps(self) -> tuple[Step, ...]:
        """Entry, each block and output of one cell after the other."""
        return self._steps

    def _states(self, path: Architecture, output: int) -> tuple[int, ...]:
        """The states that output number `output` consists of: 0 is the stem's, k + 1 that of cell k."""
        return loose_ends(self.space.cell(path, self.places[output - 1].kind)) if output else STEM

    def _inputs(self, path: Architecture, place: Place) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return self._states(path, place.current), self._states(path, place.previous)

    def run_step(self, number: int, state: State, path: Architecture) -> State:
        """Between cells the state is the last two outputs; in a cell, the current output and the states so far."""
        _, k, b = self._parts[number]
        if k < 0:
            return (self.stem(state[0]),) * 2
        if k == len(self.places):
            features = F.relu(state[0]).mean((2, 3))
            return (F.linear(features, self.classifier(self._states(path, k)), self.bias),)
        cell: Any = self.cells[k]
        if b < 0:
            return (state[0], *cell.entry(*state, self._inputs(path, self.places[k])))
        blocks = self.space.cell(path, self.places[k].kind)
        if b < self.space.blocks:
            return (*state, cell.block(b, blocks[b], state[1:]))
        return cell.output(blocks, state[1:]), state[0]

    def build(self, path: Architecture) -> nn.Module:
        return self._network(path, running)

    def _network(self, path: Architecture, norm: Normalisation) -> NASNet:
        return NASNet(self.space, path, self.input_shape, self.classes, self.repeats, self.filters, norm=norm)

    def extract(self, path: Architecture) -> nn.Module:
        with torch.random.fork_rng(devices=[]):  # weights are drawn, to be replaced
            network = self._network(path, by_batch(self.affine))
        weights = {name: weight.detach().clone() for name, weight in self._weights(path)}
        network.load_state_dict(weights, assign=True)
        return network.train(self.training)

    def _weights(self, path: Architecture) -> Iterator[tuple[str, Tensor]]:
        yield from named_weights("stem.", self.stem)
        for place, cell in zip(self.places, self.cells, strict=True):
            shared: Any = cell
            blocks = self.space.cell(path, place.kind)
            for name, weight in shared.weights(blocks, self._inputs(path, place)):
                yield f"cells.{place.number}.{name}", weight
        yield "classifier.weight", self.classifier(self._states(path, len(self.places)))
        yield "classifier.bias", self.bias

    # -- weights of a path ----------------------------------------------------------------------------

    def option_parameters(self, choice: str, option: str) -> tuple[str, ...]:
        """Those of an operation belong to the option of `op1` or `op2`, whatever its input; inputs have none."""
        return self._option_names[choice, option]

    @cached_property
    def _option_names(self) -> Mapping[tuple[str, str], tuple[str, ...]]:
        def owner(parts: Sequence[str]) -> tuple[str, str] | None:
            # cells.<k>.halves.<b>.<side>.<state>.<operation>..., cells.<k>.combine.<b>.<combine>...
            if parts[0] != "cells" or parts[2] not in ("halves", "combine"):
                return None
            block = f"{self.places[int(parts[1])].kind}.b{parts[3]}"
            if parts[2] == "halves":
                return f"{block}.op{int(parts[4]) + 1}", parts[6]
            return f"{block}.combine", parts[4]

        return self._names_by_option(owner)

    def path_parameters(self, path: Architecture) -> Sequence[str]:
        idle = tuple(self._idle(path))
        return [name for name in super().path_parameters(path) if not f"{name}.".startswith(idle)]

    def _idle(self, path: Architecture) -> Iterator[str]:
        """Beginnings of the names of what serves other inputs or other loose ends than those of the path."""

        def pieces(name: str, states: Sequence[int]) -> Iterator[str]:
            return (f"{name}.pieces.{s}." for s in range(self.space.blocks + 2) if s not in states)

        for place, module in zip(self.places, self.cells, strict=True):
            cell: Any = module
            name, states = f"cells.{place.number}", self._inputs(path, place)
            yield from pieces(f"{name}.entry.current", states[0])
            for half in range(len(cell.entry.previous)):
                yield from pieces(f"{name}.entry.previous.{half}", states[1])
            if cell.entry.fits(states[1]):
                yield from (f"{name}.entry.previous.", f"{name}.entry.previous_norm.")
            for b, block in enumerate(self.space.cell(path, place.kind)):
                for side, taken in enumerate(block.inputs):
                    others = (state for state in range(b + 2) if state != taken)
                    yield from (f"{name}.halves.{b}.{side}.{state}." for state in others)
            loose = self._states(path, place.number + 1)
            yield from (f"{name}.matches.{state}." for state in (0, 1) if state not in loose)
        yield from pieces("classifier", self._states(path, len(self.places)))

    def operators(self) -> Iterator[Operator]:
        """What depends on the loose ends is listed for every way in which the blocks can choose their inputs.

        CostError for cells of so many blocks that these are too many.
        """
        return operators(self.space, self.places, self.input_shape, self.classes)
