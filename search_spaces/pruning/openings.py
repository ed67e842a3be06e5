"""Which numbers in a traced graph follow the size of the batch or of what it takes, found by a second trace."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from fairsweep.search_spaces.pruning.dependencies import Analysis
from fairsweep.search_spaces.pruning.disturbing import Dims, lengths, longer, sides, varied
from fairsweep.search_spaces.pruning.groups import Partition
from fairsweep.search_spaces.pruning.trace import Graph, TraceError, kind, scope, shapes, trace

STATED = {  # -1 among their arguments becomes a number
    "view", "reshape", "_unsafe_view", "view_as", "reshape_as", "expand", "expand_as", "broadcast_to", "unflatten",
}  # fmt: skip
Follow = Callable[[float | Fraction, float], Any]  # (slope, offset) -> what stands for slope * batch + offset


class OpeningError(ValueError):
    """A graph that is another one for another batch; says where."""


class Openings:
    """What differs between the graph of `partition` and that of the same `module` for a larger batch."""

    def __init__(self, module: nn.Module, partition: Partition) -> None:
        analysis, inputs = partition.origin.analysis, partition.origin.inputs
        if analysis.batch is None:
            raise OpeningError("none of its inputs is a batch")
        if analysis.larger is None:
            analysis.larger = self._larger(module, inputs, analysis.batch)
        self.first = analysis.batch
        self.second, larger = analysis.larger
        here, there = (_operators(g) for g in (analysis.graph, larger))
        for a, b in zip(here, there, strict=False):
            if (a.op, a.target if a.op == "call_function" else 0) != (
                b.op,
                b.target if b.op == "call_function" else 0,
            ):
                raise OpeningError(
                    f"{kind(a)} in {scope(a) or 'the network'} is another operator for a batch of {self.second}"
                )
        if len(here) != len(there):
            raise OpeningError(
                f"for a batch of {self.second} it has {len(there)} operators in place of {len(here)}"
            )
        self.other = {a.name: b for a, b in zip(here, there, strict=True)}
        if not _same_constants(analysis.graph, larger):
            raise OpeningError("a tensor that is written into its forward pass depends on the batch")

    def _larger(self, module: nn.Module, inputs: tuple[Any, ...], batch: int) -> tuple[int, Graph]:
        """Another batch and the graph for it; three times the first where it must be a multiple of something."""
        said = ""
        for second in (2 * batch + 1, 3 * batch):
            try:
                return second, trace(module, varied(inputs, batch, second))
            except TraceError as error:
                said = said or f"for a batch of {second}, {error}"
        raise OpeningError(said)

    def opened(self, node: fx.Node, where: str, follow: Follow) -> Any:
        """The "args" or "kwargs" of a node, with what `follow` makes in place of numbers that follow the batch."""

        def walk(a: Any, b: Any) -> Any:
            if type(a) in (int, float) and type(b) in (int, float) and a != b:
                return follow(*self._line(a, b, node))
            if isinstance(a, dict):
                return {key: walk(value, b[key]) for key, value in a.items()}
            if isinstance(a, list | tuple):
                if len(a) != len(b):
                    raise OpeningError(f"{node.name} has other arguments for a batch of {self.second}")
                return type(a)([walk(x, y) for x, y in zip(a, b, strict=True)])
            return a

        return walk(getattr(node, where), getattr(self.other[node.name], where))

    def follows(self, node: fx.Node, dim: int) -> tuple[Fraction, int]:
        """(slope, offset) of the size of an axis of what the node makes."""
        a, b = (next(iter(shapes(n)))[dim] for n in (node, self.other[node.name]))
        slope, offset = self._line(a, b, node)
        return Fraction(slope), int(offset)

    def _line(self, a: float, b: float, node: fx.Node) -> tuple[float | Fraction, float]:
        """(slope, offset); of whole numbers the slope may be a share, as where clips of 4 frames are a batch."""
        if type(a) is int and type(b) is int:
            share = Fraction(b - a, self.second - self.first)
            offset = a - share * self.first
            if offset.denominator > 1 or (share.denominator > 1 and offset):
                raise OpeningError(f"{node.name} does not follow the batch on a straight line")
            return share, int(offset)
        slope = (b - a) / (self.second - self.first)
        return slope, a - slope * self.first


def free_dims(module: nn.Module, partition: Partition) -> Dims:
    """Rank of an input that is a batch -> its dimensions whose sizes may be others than the example's.

    They may if the graph for inputs twice as long is the same one: then none of its numbers is of a length.
    """
    analysis, inputs = partition.origin.analysis, partition.origin.inputs
    if analysis.free is None:
        ranks = {value.dim() for value in pytree.tree_leaves(inputs) if isinstance(value, torch.Tensor)}
        tried = (sides, lengths) if 3 in ranks else (sides,)
        analysis.free = next((d for d in tried if _same(module, analysis, inputs, d)), nothing)
    return analysis.free


def nothing(rank: int) -> range:
    return range(0)


def _same(module: nn.Module, analysis: Analysis, inputs: tuple[Any, ...], dims: Dims) -> bool:
    """Whether the graph is the same for inputs that are twice as long along these dimensions."""
    try:
        other = trace(module, longer(varied(inputs, None, None), analysis.batch, dims))
    except TraceError:
        return False
    here, there = _operators(analysis.graph), _operators(other)
    same = len(here) == len(there) and _same_constants(analysis.graph, other)
    return same and all(_numbers(a) == _numbers(b) for a, b in zip(here, there, strict=True))


def _numbers(node: fx.Node) -> tuple[Any, ...]:
    """The operator and all that it is given beside tensors; and the sizes that a rebuilt graph states for it."""
    given = fx.node.map_aggregate(
        (node.args, node.kwargs), lambda a: None if isinstance(a, fx.Node) else repr(a)
    )
    stated = tuple(shapes(node)) if kind(node) in STATED else ()
    return node.op, node.target if node.op == "call_function" else 0, given, stated


def _operators(graph: Graph) -> list[fx.Node]:
    return [n for n in graph.aten.nodes if not kind(n).startswith("_assert")]


def _same_constants(graph: Graph, other: Graph) -> bool:
    for name, value in graph.constants.items():
        again = other.constants.get(name)
        if isinstance(value, torch.Tensor) and not (
            isinstance(again, torch.Tensor) and value.shape == again.shape and torch.equal(value, again)
        ):
            return False
    return True
