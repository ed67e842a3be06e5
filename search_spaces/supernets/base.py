"""A supernet: one module that holds weights for every architecture of a space.

A path through it is an `Architecture`, given with every call: there is no hidden current path, so that two users
of the same weights cannot disturb each other. A network is a sequence of steps; a step names the choices that it
depends on, which is what lets paths that begin alike share what they compute.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fairsweep.search_spaces import costs
from fairsweep.search_spaces.architectures.base import Architecture, ArchitectureSpace
from fairsweep.search_spaces.costs import CostError, CostTable, Operator
from fairsweep.search_spaces.normalisation import StatisticsOf

State = tuple[Tensor, ...]  # what flows from step to step


@dataclass(frozen=True)
class Step:
    """A part of the forward pass. choices: names of those that it looks at, beside what flows in."""

    name: str
    choices: tuple[str, ...] = ()


class Supernet(nn.Module, ABC):
    """Shared weights over `space`.

    input_shape: (channels, height, width) of one example. classes: number of logits.
    """

    kind: ClassVar[str]
    space: ArchitectureSpace
    input_shape: tuple[int, int, int]
    classes: int

    # -- what a supernet gives ------------------------------------------------------------------------

    @property
    @abstractmethod
    def steps(self) -> tuple[Step, ...]:
        """The parts of the forward pass, in their order."""

    @abstractmethod
    def run_step(self, number: int, state: State, path: Architecture) -> State:
        """What step `number` makes of `state`. It may look at the choices that the step names, and at no others."""

    @abstractmethod
    def build(self, path: Architecture) -> nn.Module:
        """An ordinary module for `path`, weights fresh, batch statistics running: what is trained stand-alone."""

    @abstractmethod
    def extract(self, path: Architecture) -> nn.Module:
        """An ordinary module with copies of the path's weights that computes what `forward(x, path)` computes."""

    @abstractmethod
    def option_parameters(self, choice: str, option: str) -> tuple[str, ...]:
        """Names of the parameters that only `option` of `choice` uses."""

    def _names_by_option(
        self, owner: Callable[[Sequence[str]], tuple[str, str] | None]
    ) -> dict[tuple[str, str], tuple[str, ...]]:
        """Names of parameters by choice and option. owner: whose a parameter is, from the parts of its name; None
        if all paths use it."""
        found: dict[tuple[str, str], list[str]] = {
            (choice.name, option): [] for choice in self.space.choices for option in choice.options
        }
        for name, _ in self.named_parameters():
            key = owner(name.split("."))
            if key is not None:
                found[key].append(name)
        return {key: tuple(names) for key, names in found.items()}

    @abstractmethod
    def operators(self) -> Iterator[Operator]:
        """The parts of all networks with the paths that each is in; their costs add up to that of a path."""

    @abstractmethod
    def config(self) -> Mapping[str, Any]:
        """The sizes that `build_supernet` needs to make this supernet again, as JSON."""

    # -- running paths --------------------------------------------------------------------------------

    def forward(self, x: Tensor, path: Architecture) -> Tensor:
        """Logits (batch, classes) of `x` (batch, *input_shape) along `path`.

        ArchitectureError if it is no path of this supernet.
        """
        return self._run(x, self.space.check(path))

    def _run(self, x: Tensor, path: Architecture) -> Tensor:
        state: State = (x,)
        for number in range(len(self.steps)):
            state = self.run_step(number, state, path)
        return state[0]

    def forward_paths(
        self,
        x: Tensor,
        paths: Iterable[Architecture],
        share: bool = True,
        calibration: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """Logits of the same `x` along each path, in the order given. Those ready before their turn are kept.

        share, calibration: as in `walk_paths`. ArchitectureError if one is no path of this supernet.
        """
        results: dict[int, Tensor] = {}
        wanted = 0
        for k, logits in self.walk_paths(x, paths, share, calibration):
            results[k] = logits
            while wanted in results:
                yield results.pop(wanted)
                wanted += 1

    def walk_paths(
        self,
        x: Tensor,
        paths: Iterable[Architecture],
        share: bool = True,
        calibration: Tensor | None = None,
    ) -> Iterator[tuple[int, Tensor]]:
        """(number of the path, logits of `x` along it) for each path, in the order that suits the computation.

        share: paths that begin alike share what they compute up to where they part. Exact, bit for bit: in a batch,
        normalisation by batch statistics depends on the beginning of a path only. At any time one state a step is
        kept, however many paths there are. ArchitectureError if one is no path of this supernet.
        calibration: inputs from which each path takes its statistics in place of `x`, so that the logits of an
        example do not depend on the others; they are those of `recalibrate(extract(path), [calibration])`. The inputs
        run beside `x`, and paths that begin alike share them too: these statistics depend on the beginning as well.
        """
        given = [self.space.check(path) for path in paths]
        first = 0 if calibration is None else len(calibration)
        if calibration is not None:
            x = torch.cat([calibration, x])
        keys = [self._keys(path) for path in given]
        order = sorted(range(len(given)), key=keys.__getitem__) if share else range(len(given))
        states: list[State] = [(x,)]
        before: tuple[tuple[int, ...], ...] = ()
        for k in order:  # a walk of the trie of all paths
            common = 0
            while share and common < len(before) and before[common] == keys[k][common]:
                common += 1
            del states[common + 1 :]
            for number in range(common, len(self.steps)):
                # Around one step, and not around the loop: whoever takes the logits is not to be within it.
                with StatisticsOf(first) if calibration is not None else nullcontext():
                    states.append(self.run_step(number, states[-1], given[k]))
            before = keys[k]
            yield k, states[-1][0][first:]

    def _keys(self, path: Architecture) -> tuple[tuple[int, ...], ...]:
        positions = self.space.positions
        return tuple(tuple(path.indices[positions[c]] for c in step.choices) for step in self.steps)

    # -- costs ----------------------------------------------------------------------------------------

    @cached_property
    def _cost_tables(self) -> dict[str, CostTable]:
        return {}

    def cost_table(self, kind: str, **setting: Any) -> CostTable:
        """Costs of the operators, `kind` in params, flops or latency_ms; made once and kept.

        setting: batch, threads, repeats and device of the measurement, if latency is to be measured anew.
        """
        if kind not in self._cost_tables or setting:
            self._cost_tables[kind] = costs.cost_table(self, kind, **setting)
        return self._cost_tables[kind]

    def adopt_cost_table(self, table: CostTable) -> None:
        """Takes costs from `table` from now on: one measured before, or on the device that the network is for.

        CostError if it is of other networks.
        """
        mine = costs.identity(self)
        if table.supernet != mine:
            raise CostError(f"a cost table of {dict(table.supernet)} was given for {mine}")
        self._cost_tables[table.kind] = table

    def cost(self, path: Architecture, kind: str) -> float:
        """Parameters, FLOPs (multiply-accumulates for one example) or predicted milliseconds of `build(path)`."""
        return self.cost_table(kind).cost(self.space.check(path))

    # -- weights --------------------------------------------------------------------------------------

    def load_arrays(self, arrays: Mapping[str, Any]) -> None:
        """Takes NumPy arrays for weights without a copy; the arrays must outlive the module and stay as they are.

        They may be read-only, as those of an object store are: nothing must then write to the weights, which
        training does. ValueError names an array that is missing, unknown, or of another shape or type.
        """
        own = dict([*self.named_parameters(), *self.named_buffers()])
        for name in (*own, *arrays):
            if name not in own or name not in arrays:
                raise ValueError(
                    f"{name}: {'no such weight' if name in arrays else 'no array was given for it'}"
                )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "not writable": nothing writes
            tensors = {name: torch.from_numpy(arrays[name]) for name in own}
        for name, tensor in own.items():
            if (tensors[name].shape, tensors[name].dtype) != (tensor.shape, tensor.dtype):
                raise ValueError(
                    f"{name}: an array of {tuple(tensors[name].shape)} {tensors[name].dtype} was given, "
                    f"it is {tuple(tensor.shape)} {tensor.dtype}"
                )
        self.load_state_dict(tensors, assign=True)

    def path_parameters(self, path: Architecture) -> Sequence[str]:
        """Names of all parameters that `path` uses."""
        off = {
            name
            for choice in self.space.choices
            for option in choice.options
            if option != self.space.option(path, choice.name)
            for name in self.option_parameters(choice.name, option)
        }
        return [name for name, _ in self.named_parameters() if name not in off]
