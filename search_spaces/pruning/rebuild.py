"""The traced graph as a module, with sliced tensors and corrected sizes: runs where the original forward pass cannot.

Sizes of batches stay open: a shape that states one takes it from the input instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from search_spaces.pruning.arguments import take_arguments
from search_spaces.pruning.channels import Axis
from search_spaces.pruning.dependencies import Analysis, argument
from search_spaces.pruning.groups import Partition
from search_spaces.pruning.trace import kind

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


def sliced(tensor: Tensor, name: str, keep: Mapping[str, Mapping[int, np.ndarray]]) -> Tensor:
    """A copy of a tensor of the module with the positions that stay; a parameter stays one."""
    value = tensor.detach()
    for dim, positions in keep.get(name, {}).items():
        value = value.index_select(dim, torch.from_numpy(positions).to(value.device))
    value = value.clone() if name not in keep else value
    return nn.Parameter(value, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value


def rebuild(module: nn.Module, partition: Partition, gone: Gone) -> nn.Module:
    """A GraphModule whose `state_dict` has the names of `module`, with _ behind those that a GraphModule has itself.

    The entry "origin" in the `meta` of a node is the name of the traced node that it stands for.
    """
    return _Rebuild(module, partition, gone).run()


class _Rebuild:
    def __init__(self, module: nn.Module, partition: Partition, gone: Gone) -> None:
        self.analysis: Analysis = partition.origin.analysis
        self.cut = partition.origin.cut(gone)
        self.keep = kept_positions(partition, gone)
        self.module = module
        self.graph = fx.Graph()
        self.made: dict[fx.Node, Any] = {}
        self.batch = self._batch(partition.origin.of)
        self.size: fx.Node | None = None  # of the batch

    def run(self) -> nn.Module:
        root = nn.Module()
        tensors = {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}
        persistent = self.module.state_dict().keys()
        for name in dict.fromkeys(self.analysis.graph.tensors.values()):
            constant = name not in tensors
            value = self.analysis.graph.constants[name] if constant else tensors[name]
            if constant and value.is_floating_point():
                value = value.to(
                    next((t.dtype for t in tensors.values() if t.is_floating_point()), value.dtype)
                )
            _put(root, attribute(name), sliced(value, name, self.keep), name in persistent)
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

    # -- nodes -----------------------------------------------------------------------------------------

    def _take_inputs(self) -> None:
        names = self.analysis.graph.inputs
        nodes = {n.name: n for n in self.analysis.graph.aten.nodes}
        found = take_arguments(self.graph, self.analysis.graph.given, iter(names))
        self.made |= {nodes[name]: made for name, made in zip(names, found, strict=True)}

    def _place(self, node: fx.Node) -> None:
        name = self.analysis.graph.tensors.get(node.name)
        if name is not None:
            self.made[node] = self.graph.get_attr(attribute(name))
            return
        layout = self.analysis.layout(node)
        if self.size is None and layout and layout[0].batch:
            self.input = self.made[node]

    def _output(self) -> None:
        results = [self.made[n] for n in self.analysis.graph.results]
        self.graph.output(self.analysis.graph.assemble(results))

    def _call(self, node: fx.Node) -> fx.Node:
        name = kind(node)
        target = node.target
        args: list[Any] = list(fx.map_arg(node.args, self.made.__getitem__))
        kwargs: dict[str, Any] = dict(fx.map_arg(node.kwargs, self.made.__getitem__))
        layout = self.analysis.layouts.get(node.name, ())
        out = layout if isinstance(layout, tuple) else ()
        if name in ("view", "reshape", "_unsafe_view", "view_as", "reshape_as"):
            target, args = torch.ops.aten.reshape.default, [args[0], self._shape(out)]
        elif name in ("expand", "expand_as", "broadcast_to"):
            target, args, kwargs = torch.ops.aten.expand.default, [args[0], self._expanded(node, out)], {}
        elif name == "unflatten":
            rank = len(argument(node, 2, "sizes"))
            first = argument(node, 1, "dim") % (len(out) - rank + 1)
            args, kwargs = [args[0], args[1], self._shape(out)[first : first + rank]], {}
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
            args[1] = self._widths(node, out)
        for given, position in (("groups", None), ("num_groups", 1)):
            if (node.name, given) in self.analysis.sizes:
                count = self._count(self.analysis.sizes[node.name, given])
                _set(args, kwargs, position if position else 6, given, count)
        return self.graph.create_node("call_function", target, tuple(args), kwargs, node.name)

    # -- sizes -----------------------------------------------------------------------------------------

    def _count(self, axis: Axis) -> int:
        return axis.size if axis.atoms is None else int((~self.cut[axis.atoms]).sum())

    def _shape(self, out: tuple[Axis, ...]) -> list[int]:
        batches = [d for d, a in enumerate(out) if a.batch]
        return [-1 if batches == [d] else self._count(a) for d, a in enumerate(out)]

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
            elif axis.atoms is not None and self.batch[axis.atoms].all():
                if self.size is None:
                    with self.graph.inserting_after(self.input):
                        self.size = self.graph.call_function(torch.ops.aten.sym_size.int, (self.input, 0))
                sizes.append(self.size)
            else:
                sizes.append(self._count(axis))
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
