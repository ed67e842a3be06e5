"""Dependency analysis: the axes of every tensor of a traced graph, operator by operator.

A *producer* is a dimension of a parameter whose rows make a channel: all of a channel's producers at zero make the
channel zero. What else is indexed by the channel (the columns of the layers that read it, running statistics) is cut
along with it but takes no part in its being zero (Chen et al. 2023, OTOv2, section 3.1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import fx

from fairsweep.search_spaces.pruning.channels import Axis, Channels
from fairsweep.search_spaces.pruning.effects import draws
from fairsweep.search_spaces.pruning.trace import Graph, kind, scope, shapes

Layout = tuple[Axis, ...]  # the axes of one tensor
Rule = Callable[["Analysis", fx.Node], "Layout | list[Layout] | None"]
RULES: dict[str, Rule] = {}


def rule(*kinds: str) -> Callable[[Rule], Rule]:
    """Registers a function as what these operators do to axes."""

    def register(function: Rule) -> Rule:
        for name in kinds:
            RULES[name] = function
        return function

    return register


@dataclass
class Analysis:
    """Axes of all tensors of `graph`.

    layouts: node -> axes, or a list of them if it makes several tensors. parameters: node -> the parameters of which
    its value is a function, and of nothing else. producers: (parameter, atoms of one of its dimensions).
    sizes: (node, argument) -> the axis whose size the argument states. leaves: name of a tensor -> its axes.
    larger: (a larger batch, the graph for it), once that was needed. free: rank of an input that is a batch -> its
    dimensions whose sizes may be others than the example's, once that was needed.
    """

    graph: Graph
    trainable: frozenset[str]
    batch: int | None
    channels: Channels = field(default_factory=Channels)
    layouts: dict[str, Layout | list[Layout]] = field(default_factory=dict)
    parameters: dict[str, frozenset[str]] = field(default_factory=dict)
    producers: list[tuple[str, np.ndarray]] = field(default_factory=list)
    sizes: dict[tuple[str, str], Axis] = field(default_factory=dict)
    leaves: dict[str, Layout] = field(default_factory=dict)
    larger: tuple[int, Graph] | None = None
    free: Callable[[int], range] | None = None

    # -- reading ---------------------------------------------------------------------------------------

    def layout(self, node: Any) -> Layout:
        """The axes of a node that makes one tensor; none for a number."""
        found = self.layouts.get(node.name, ()) if isinstance(node, fx.Node) else ()
        return found if isinstance(found, tuple) else ()

    def pure(self, node: Any) -> bool:
        """Whether the node is a function of parameters only."""
        return isinstance(node, fx.Node) and node.name in self.parameters

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """The traced shape of the (first) tensor that the node makes."""
        return next(iter(shapes(node)), ())

    def produce(self, node: Any, axes: Iterable[Axis]) -> None:
        """These axes of a function of parameters are producers."""
        for name in self.parameters.get(getattr(node, "name", ""), ()):
            self.producers += [(name, a.atoms) for a in axes if a.atoms is not None and a.size > 1]

    # -- walking ---------------------------------------------------------------------------------------

    def run(self) -> None:
        """Gives every node its axes."""
        for node in self.graph.aten.nodes:
            if node.op == "placeholder":
                self._place(node)
            elif node.op == "call_function":
                self._call(node)
        for nodes, reason in (
            (self.graph.results, "it is the network's output"),
            (self.graph.states, "it is kept in a buffer"),
        ):
            for node in nodes:
                self.stay(node, reason)

    def _place(self, node: fx.Node) -> None:
        name = self.graph.tensors.get(node.name)
        shape = self.shape(node)
        if name is None:
            self.layouts[node.name] = self._input(shape)
            return
        if name not in self.leaves:
            able = name in self.trainable
            self.leaves[name] = tuple(self.channels.fresh(n, able) if n > 1 else Axis(1) for n in shape)
        self.layouts[node.name] = self.leaves[name]
        self.parameters[node.name] = frozenset((name,))

    def _input(self, shape: Sequence[int]) -> Layout:
        if not shape or shape[0] != self.batch:
            return tuple(Axis(n) for n in shape)
        first = self.channels.fresh(shape[0])
        self.channels.block(first, "it is the batch")
        return (Axis(first.size, first.atoms, first.zero, (first.size, 1)), *(Axis(n) for n in shape[1:]))

    def _call(self, node: fx.Node) -> None:
        name = kind(node)
        sources = [n for n in node.all_input_nodes if n.name in self.layouts]
        random = draws(node)
        result = RULES[name](self, node) if name in RULES and not random else None
        found = [tuple(s) for s in shapes(node)]
        if not found:  # an assertion, or a size
            return
        if result is None or not self._fits(result, found):
            what = "draws random numbers" if random else "is not known to keep channels apart"
            for source in sources:
                self.stay(source, f"{name} in {scope(node) or 'the network'} {what}")
            whole = [tuple(Axis(n) for n in s) for s in found]
            result = whole if isinstance(node.meta.get("val"), list | tuple) else (whole or [()])[0]
        self.layouts[node.name] = result
        pure = [self.parameters.get(s.name) for s in sources]
        if pure and all(p is not None for p in pure):
            self.parameters[node.name] = frozenset().union(*(p for p in pure if p is not None))

    def _fits(self, result: Layout | list[Layout], found: list[tuple[int, ...]]) -> bool:
        made = result if isinstance(result, list) else [result]
        return [tuple(a.size for a in layout) for layout in made] == found

    def stay(self, node: fx.Node, reason: str) -> None:
        """No axis of what the node makes can be cut."""
        found = self.layouts.get(node.name, ())
        for layout in [found] if isinstance(found, tuple) else found:
            for axis in layout:
                self.channels.block(axis, reason)

    # -- what many rules do ----------------------------------------------------------------------------

    def broadcast(self, node: fx.Node, operands: Sequence[Any], zero: str) -> Layout | None:
        """Operands of an elementwise operator on common axes.

        zero: "all" if the result is zero where all operands are, "any" where one is, "first" where the first is and
        the others are not, "none" if it never is.
        """
        shape = self.shape(node)
        where = f"{kind(node)} in {scope(node) or 'the network'}"
        tensors = [o for o in operands if isinstance(o, fx.Node)]
        if not all(self.pure(o) for o in tensors):
            for operand in tensors:
                self.produce(operand, self.layout(operand))
        result: list[Axis] = []
        for dim, size in enumerate(shape):
            axes: list[Axis | None] = []
            for operand in operands:
                layout = self.layout(operand)
                k = dim - len(shape) + len(layout)
                axes.append(layout[k] if k >= 0 and layout[k].size == size else None)
            full = [a for a in axes if a is not None]
            known = next((a for a in full if a.atoms is not None), None)
            if known is None or known.atoms is None:
                result.append(Axis(size, batch=next((a.batch for a in full if a.batch), None)))
                continue
            for axis in full:
                if size > 1 or axis.atoms is not None:
                    self.channels.tie(known, axis, f"it meets a tensor in {where} that cannot be cut")
            zeros = [a.zero if a is not None and a.zero is not None else np.zeros(size, bool) for a in axes]
            if zero == "all":
                flag = np.logical_and.reduce(zeros)
            elif zero == "any":
                flag = np.logical_or.reduce(zeros)
            elif zero == "first":
                flag = zeros[0] & ~np.logical_or.reduce([np.zeros(size, bool), *zeros[1:]])
            else:
                flag = np.zeros(size, bool)
            result.append(Axis(size, known.atoms, flag, next((a.batch for a in full if a.batch), None)))
        return tuple(result)

    def mix(self, axis: Axis, node: fx.Node) -> None:
        """Values along `axis` are summed up: those that are cut must be zero."""
        where = scope(node) or "the network"
        if self.pure(node.args[0]):  # the promise holds for producers only, and nothing says that this is one
            self.channels.block(axis, f"{kind(node)} in {where} mixes parameters along it")
        self.channels.need_zero(axis, f"{kind(node)} in {where} reads it where it is not zero")


def argument(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    """An argument of an ATen operator, by position or by keyword."""
    if position < len(node.args):
        return node.args[position]
    return node.kwargs.get(name, default)
