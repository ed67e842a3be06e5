"""Which numbers in a traced graph follow the size of the batch, found by a second trace with another batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from search_spaces.pruning.groups import Partition
from search_spaces.pruning.proof import varied
from search_spaces.pruning.trace import TraceError, kind, scope, shapes, trace

Follow = Callable[[float, float], Any]  # (slope, offset) -> what stands for slope * batch + offset


class OpeningError(ValueError):
    """A graph that is another one for another batch; says where."""


class Openings:
    """What differs between the graph of `partition` and that of the same `module` for a larger batch."""

    def __init__(self, module: nn.Module, partition: Partition) -> None:
        analysis, inputs = partition.origin.analysis, partition.origin.inputs
        if analysis.batch is None:
            raise OpeningError("none of its inputs is a batch")
        self.first, self.second = analysis.batch, 2 * analysis.batch + 1
        if analysis.larger is None:
            try:
                analysis.larger = trace(module, varied(inputs, self.first, self.second))
            except TraceError as error:
                raise OpeningError(f"for a batch of {self.second}, {error}") from None
        here, there = (
            [n for n in g.aten.nodes if not kind(n).startswith("_assert")]
            for g in (analysis.graph, analysis.larger)
        )
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
        for name, value in analysis.graph.constants.items():
            again = analysis.larger.constants.get(name)
            if isinstance(value, torch.Tensor) and not (
                isinstance(again, torch.Tensor) and value.shape == again.shape and torch.equal(value, again)
            ):
                raise OpeningError("a tensor that is written into its forward pass depends on the batch")

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

    def follows(self, node: fx.Node, dim: int) -> tuple[int, int]:
        """(slope, offset) of the size of an axis of what the node makes."""
        a, b = (next(iter(shapes(n)))[dim] for n in (node, self.other[node.name]))
        slope, offset = self._line(a, b, node)
        return int(slope), int(offset)

    def _line(self, a: float, b: float, node: fx.Node) -> tuple[float, float]:
        slope = (b - a) / (self.second - self.first)
        if type(a) is int and type(b) is int:
            if slope != int(slope):
                raise OpeningError(f"{node.name} does not follow the batch on a straight line")
            slope = int(slope)
        return slope, a - slope * self.first
