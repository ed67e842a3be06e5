"""The traced graph as a module, with sliced tensors and corrected sizes: runs where the original forward pass cannot.

Sizes of batches stay open: a shape that states one takes it from the input instead. Where more than shapes follows the
batch, as in `arange(len(x))` or `y / len(x)`, a second trace with another batch tells which numbers do (`open_batch`).
Inputs of other lengths than the example's are refused, unless no number in the graph follows them.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from fairsweep.search_spaces.pruning.arguments import take_arguments
from fairsweep.search_spaces.pruning.channels import Axis
from fairsweep.search_spaces.pruning.dependencies import Analysis, argument
from fairsweep.search_spaces.pruning.disturbing import Dims
from fairsweep.search_spaces.pruning.groups import Partition
from fairsweep.search_spaces.pruning.openings import OpeningError, Openings, free_dims
from fairsweep.search_spaces.pruning.trace import kind

Gone = Mapping[str, np.ndarray]  # component -> its groups that are cut
SPLITS = {"chunk", "split", "split_with_sizes", "tensor_split"}


def kept_positions(partition: Partition, gone: Gone) -> dict[str, dict[int, np.ndarray]]:
    """Tensor -> dimension -> the positions that stay, for those that lose some."""
    analysis, cut = partition.origin.analysis, partition.origin.cut(gone)
    keep: dict[str, dict[int, np.ndarray]] = {}
    for name, layout in analysis.leaves.items():
        for dim, axis in enumerate(layout):
            if axis.atoms is not None and cut[axis.atoms].any():
                keep.setdefault(name, {})[dim] = np.flatnonzero(~cut[axis.atoms])
    return keep


class Slices:
    """Copies of a module's tensors with the positions that stay. What was cut of a tensor is cut only once, also of
    another module that has it; so only one of those that are made may go on."""

    def __init__(self, partition: Partition, gone: Gone) -> None:
        self.keep = kept_positions(partition, gone)
        self._made: dict[tuple[str, int, torch.Size, int], Tensor] = {}

    def __call__(self, tensor: Tensor, name: str) -> Tensor:
        """A parameter stays one."""
        value = tensor.detach()
        key = name, value.data_ptr(), value.shape, value._version
        if key not in self._made:
            for dim, positions in self.keep.get(name, {}).items():
                value = value.index_select(dim, torch.from_numpy(positions).to(value.device))
            self._made[key] = value if name in self.keep else value.clone()
        value = self._made[key]
        return nn.Parameter(value, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value


def rebuild(
    module: nn.Module,
    partition: Partition,
    gone: Gone,
    open_batch: bool = False,
    slices: Slices | None = None,
) -> fx.GraphModule:
    """A GraphModule whose `state_dict` has the names of `module`, with _ behind those that a GraphModule has itself.

    The entry "origin" in the `meta` of a node is the name of the traced node that it stands for. open_batch: numbers
    that follow the batch are computed from it; OpeningError if that cannot be.
    """
    openings = Openings(module, partition) if open_batch else None
    free = free_dims(module, partition)
    return _Rebuild(module, partition, gone, openings, free, slices or Slices(partition, gone)).run()


class _Assemble(nn.Module):
    """Puts tensors into a structure that a graph cannot write out, as a dataclass that PyTorch knows."""

    def __init__(self, spec: pytree.TreeSpec) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, *values: Any) -> Any:
        return pytree.tree_unflatten(values, self.spec)


class _Rebuild:
    def __init__(
        self,
        module: nn.Module,
        partition: Partition,
        gone: Gone,
        openings: Openings | None,
        free: Dims,
        slices: Slices,
    ) -> None:
        self.analysis: Analysis = partition.origin.analysis
        self.cut = partition.origin.cut(gone)
        self.free = free
        self.slices = slices
        self.module = module
        self.graph = fx.Graph()
        self.made: dict[fx.Node, Any] = {}
        self.batch = self._batch(partition.origin.of)
        self.size: fx.Node | None = None  # of the batch
        self.openings = openings
        self.roots: list[fx.Node] = []  # the arguments
        self.leaves: list[
            fx.Node
        ] = []  # what of them is not placed yet, out of the structures that it comes in
        self.root = nn.Module()

    def run(self) -> fx.GraphModule:
        root = self.root
        tensors = {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}
        persistent = self.module.state_dict().keys()
        self.types = self._types(tensors)
        for name in dict.fromkeys(self.analysis.graph.tensors.values()):
            constant = name not in tensors
            value = self.analysis.graph.constants[name] if constant else tensors[name]
            if constant and value.is_floating_point():
                value = value.to(self.types.get(value.dtype, value.dtype))
            _put(root, attribute(name), self.slices(value, name), name in persistent)
        self._take_inputs()
        for node in self.analysis.graph.aten.nodes:
            if node.op == "placeholder":
                self._place(node)
            elif node.op == "call_function" and not kind(node).startswith("_assert"):
                self.made[node] = self._call(node)
                self.made[node].meta["origin"] = node.name
            elif node.op == "output":
                self._output()
        self.graph.lint()
        return fx.GraphModule(root, self.graph, type(self.module).__name__)

    def _types(self, tensors: Mapping[str, Tensor]) -> dict[torch.dtype, torch.dtype]:
        """Types of parameters when they were traced -> those that they have now, where these are others."""
        found: dict[torch.dtype, torch.dtype] = {}
        for node in self.analysis.graph.aten.nodes:
            now = tensors.get(self.analysis.graph.tensors.get(node.name, ""))
            traced = node.meta.get("val")
            if now is not None and isinstance(traced, Tensor) and traced.is_floating_point():
                found.setdefault(traced.dtype, now.dtype)
        return {before: after for before, after in found.items() if before != after}

    # -- nodes -----------------------------------------------------------------------------------------

    def _take_inputs(self) -> None:
        names = self.analysis.graph.inputs
        nodes = {n.name: n for n in self.analysis.graph.aten.nodes}
        found = take_arguments(self.graph, self.analysis.graph.given, iter(names))
        self.made |= {nodes[name]: made for name, made in zip(names, found, strict=True)}
        for name in names:
            self._expect(name, nodes[name].meta.get("val"), self.made[nodes[name]])

    def _expect(self, name: str, example: Any, given: fx.Node) -> None:
        """What the graph holds numbers of must be as in the example: it would go on with them, and say nothing."""
        if isinstance(example, Tensor):
            batch = example.dim() > 0 and len(example) == self.analysis.batch
            free = {0, *self.free(example.dim())} if batch else ()
            for dim in (d for d in range(example.dim()) if d not in free):
                size = self.graph.call_function(torch.ops.aten.sym_size.int, (given, dim))
                text = (
                    f"{name}: its size along dimension {dim} must be {example.shape[dim]}, as in the example"
                )
                self._assert(operator.eq, size, int(example.shape[dim]), text)
        elif example is None or isinstance(example, bool | int | float | str):
            same = operator.is_ if example is None else operator.eq
            self._assert(same, given, example, f"{name}: must be {example!r}, as in the example")

    def _assert(self, same: Any, given: fx.Node, example: Any, text: str) -> None:
        found = self.graph.call_function(same, (given, example))
        self.graph.call_function(torch._assert, (found, f"{text} of which the network was made"))

    def _place(self, node: fx.Node) -> None:
        name = self.analysis.graph.tensors.get(node.name)
        if name is not None:
            self.made[node] = self.graph.get_attr(attribute(name))
            return
        layout = self.analysis.layout(node)
        if self.size is None and layout and layout[0].batch:
            self.input = self.made[node]

    def _output(self) -> None:
        output = self.analysis.graph.assemble([self.made[n] for n in self.analysis.graph.results])
        leaves, spec = pytree.tree_flatten(output)
        if list(_written(output)) != leaves:
            self.root.add_module("assemble_", _Assemble(spec))
            output = self.graph.call_module("assemble_", tuple(leaves))
        self.graph.output(output)

    def _call(self, node: fx.Node) -> fx.Node:
        name = kind(node)
        target = node.target
        args: list[Any] = list(self._written(node, node.args, "args"))
        kwargs: dict[str, Any] = dict(self._written(node, node.kwargs, "kwargs"))
        layout = self.analysis.layouts.get(node.name, ())
        out = layout if isinstance(layout, tuple) else ()
        if name in ("view", "reshape", "_unsafe_view", "view_as", "reshape_as"):
            target, args = torch.ops.aten.reshape.default, [args[0], self._shape(node, out)]
        elif name in ("expand", "expand_as", "broadcast_to"):
            target, args, kwargs = torch.ops.aten.expand.default, [args[0], self._expanded(node, out)], {}
        elif name == "unflatten":
            rank = len(argument(node, 2, "sizes"))
            first = argument(node, 1, "dim") % (len(out) - rank + 1)
            args, kwargs = [args[0], args[1], self._shape(node, out)[first : first + rank]], {}
        elif name in SPLITS and isinstance(layout, list):
            dim = argument(node, 2, "dim", 0)
            counts = [self._count(part[dim]) for part in layout]
            if counts != [part[dim].size for part in layout]:
                target, args, kwargs = torch.ops.aten.split_with_sizes.default, [args[0], counts, dim], {}
        elif name in ("slice", "narrow"):
            self._slice(node, args, kwargs, out)
            if name == "narrow" and self._altered(node, argument(node, 1, "dim", 0)):
                target = torch.ops.aten.slice.Tensor
        elif name == "slice_scatter":
            self._scatter(node, args, kwargs)
        elif name in ("pad", "constant_pad_nd"):
            widths = self._widths(node, out)
            args[1] = widths if widths != list(argument(node, 1, "pad")) else args[1]
        for given, position in (("groups", None), ("num_groups", 1)):
            axis = self.analysis.sizes.get((node.name, given))
            if axis is not None and (count := self._count(axis)) != axis.size:  # others may follow the batch
                _set(args, kwargs, position if position else 6, given, count)
        return self.graph.create_node("call_function", target, tuple(args), kwargs, node.name)

    def _written(self, node: fx.Node, values: Any, where: str) -> Any:
        """Arguments with the nodes of this graph, types of the parameters, and numbers that follow the batch."""

        def write(value: Any) -> Any:
            if isinstance(value, fx.Node):
                return value if value.graph is self.graph else self.made[value]
            return self.types.get(value, value) if isinstance(value, torch.dtype) else value

        if self.openings is not None:
            values = self.openings.opened(node, where, self._follow)
        return fx.node.map_aggregate(values, write)

    def _follow(self, slope: float | Fraction, offset: float) -> Any:
        """A node for slope * (size of the batch) + offset."""
        value: Any = self._batch_size()
        share = slope.denominator if isinstance(slope, Fraction) else 1
        factor = slope.numerator if isinstance(slope, Fraction) else slope
        value = value if factor == 1 else self.graph.call_function(operator.mul, (value, factor))
        value = value if share == 1 else self.graph.call_function(operator.floordiv, (value, share))
        return value if offset == 0 else self.graph.call_function(operator.add, (value, offset))

    def _batch_size(self) -> fx.Node:
        if self.size is None:
            with self.graph.inserting_after(self.input):
                self.size = self.graph.call_function(torch.ops.aten.sym_size.int, (self.input, 0))
        return self.size

    # -- sizes -----------------------------------------------------------------------------------------

    def _count(self, axis: Axis) -> int:
        return axis.size if axis.atoms is None else int((~self.cut[axis.atoms]).sum())

    def _shape(self, node: fx.Node, out: tuple[Axis, ...]) -> list[Any]:
        if self.openings is not None:
            return [self._size(node, d, axis) for d, axis in enumerate(out)]
        batches = [d for d, a in enumerate(out) if a.batch]
        return [-1 if batches == [d] else self._count(a) for d, a in enumerate(out)]

    def _size(self, node: fx.Node, dim: int, axis: Axis) -> Any:
        """What is left of an axis, as a number, or as a node where it follows the batch."""
        count = self._count(axis)
        if self.openings is None:
            return count
        slope, offset = self.openings.follows(node, dim)
        if not slope:
            return count
        if count != axis.size and offset:
            raise OpeningError(f"{node.name} mixes the batch with what is cut")
        return self._follow(slope * Fraction(count, axis.size), offset)

    def _batch(self, of: np.ndarray) -> np.ndarray:
        """Which atoms are of the batch."""
        found = [a.atoms for n in self.analysis.graph.inputs for a in self._input_axes(n) if a.batch]
        classes = (
            np.unique(of[np.concatenate([f for f in found if f is not None])]) if found else np.zeros(0, int)
        )
        return np.isin(of, classes)

    def _input_axes(self, name: str) -> tuple[Axis, ...]:
        layout = self.analysis.layouts.get(name, ())
        return layout if isinstance(layout, tuple) else ()

    def _expanded(self, node: fx.Node, out: tuple[Axis, ...]) -> list[Any]:
        before = self.analysis.layout(node.args[0])
        lead = len(out) - len(before)
        sizes: list[Any] = []
        for d, axis in enumerate(out):
            if d >= lead and before[d - lead].size == axis.size:
                sizes.append(-1)
            elif self.openings is None and axis.atoms is not None and self.batch[axis.atoms].all():
                sizes.append(self._batch_size())
            else:
                sizes.append(self._size(node, d, axis))
        return sizes

    def _altered(self, node: fx.Node, dim: int) -> bool:
        axis = self.analysis.layout(node.args[0])[dim]
        return self._count(axis) != axis.size

    def _slice(self, node: fx.Node, args: list[Any], kwargs: dict[str, Any], out: tuple[Axis, ...]) -> None:
        dim = argument(node, 1, "dim", 0)
        if not self._altered(node, dim):
            return
        axis, start = self.analysis.layout(node.args[0])[dim], argument(node, 2, "start") or 0
        start = start if start >= 0 else start + axis.size
        first = self._count(axis.take(np.arange(min(start, axis.size))))
        args[:] = [args[0], dim, first, first + self._count(out[dim])]
        kwargs.clear()

    def _scatter(self, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> None:
        dim = argument(node, 2, "dim", 0)
        if not self._altered(node, dim):
            return
        axis = self.analysis.layout(node.args[0])[dim]
        index = np.arange(axis.size)[argument(node, 3, "start") : argument(node, 4, "end")]
        first = self._count(axis.take(np.arange(index[0])))
        args[2:] = [dim, first, first + self._count(axis.take(index))]
        kwargs.clear()

    def _widths(self, node: fx.Node, out: tuple[Axis, ...]) -> list[int]:
        widths = list(argument(node, 1, "pad"))
        for k in range(len(widths) // 2):
            axis = out[len(out) - 1 - k]
            before, after = widths[2 * k : 2 * k + 2]
            if axis.atoms is not None and before >= 0 and after >= 0:
                place = np.arange(axis.size)
                widths[2 * k] = self._count(axis.take(place[:before]))
                widths[2 * k + 1] = self._count(axis.take(place[axis.size - after :]))
        return widths


def attribute(name: str) -> str:
    """The name that a tensor called `name` in a module has in the GraphModule that `rebuild` makes of it."""
    first, dot, rest = name.partition(".")
    return f"{first}_{dot}{rest}" if hasattr(fx.GraphModule, first) else name


def _written(output: Any) -> Iterator[Any]:
    """The leaves of a structure, as far as a graph can write it out: of tuples, lists and dictionaries."""
    if type(output) in (tuple, list) or hasattr(output, "_fields"):
        for value in output:
            yield from _written(value)
    elif type(output) is dict:
        for value in output.values():
            yield from _written(value)
    else:
        yield output


def _set(args: list[Any], kwargs: dict[str, Any], position: int, name: str, value: Any) -> None:
    if position < len(args):
        args[position] = value
    else:
        kwargs[name] = value


def _put(root: nn.Module, name: str, value: Tensor, persistent: bool) -> None:
    *path, last = name.split(".")
    for part in path:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    if isinstance(value, nn.Parameter):
        root.register_parameter(last, value)
    else:
        root.register_buffer(last, value, persistent)
