"""A module as a graph of operators: vertices with their parameters and attributes, edges with shapes.

Traced by `torch.export` in eval mode, at the level of ATen operators, where `conv2d`, `layer_norm` or
`scaled_dot_product_attention` are still one vertex each.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import config as fx_config

STACK_TRACES = "do_not_emit_stack_traces"


class TraceError(ValueError):
    """A module that cannot be traced; says what `torch.export` says of it."""


@dataclass(frozen=True)
class Operator:
    """One vertex.

    name: unique. kind: the ATen operator, `conv2d`. scope: path of the module that calls it. parameters: names of the
    parameters and buffers that it reads. attributes: its plain arguments by position or keyword. inputs: names of
    the operators whose tensors it reads. shapes: of its outputs.
    """

    name: str
    kind: str
    scope: str
    parameters: tuple[str, ...]
    attributes: Mapping[str, Any]
    inputs: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Graph:
    """What a module does with its example inputs.

    aten: the traced graph. tensors: placeholder -> name of the parameter, buffer or constant in it. inputs: those
    of the module itself. results: nodes that it returns. constants: tensors that are written into its forward
    pass. assemble: puts the results into the structure that the module returns.
    """

    aten: fx.Graph
    tensors: Mapping[str, str]
    inputs: tuple[str, ...]
    results: tuple[fx.Node, ...]
    constants: Mapping[str, Any] = field(repr=False)
    assemble: Callable[[list[Any]], Any] = field(repr=False)

    @property
    def operators(self) -> tuple[Operator, ...]:
        """All vertices in the order in which they run."""
        return tuple(self._operator(n) for n in self.aten.nodes if n.op == "call_function")

    @property
    def edges(self) -> Iterator[tuple[str, str, tuple[int, ...]]]:
        """(from, to, shape of the tensor) between operators."""
        for node in self.aten.nodes:
            if node.op == "call_function":
                for source in node.all_input_nodes:
                    if source.op == "call_function":
                        yield source.name, node.name, next(iter(shapes(source)), ())

    def _operator(self, node: fx.Node) -> Operator:
        read = [n for n in node.all_input_nodes if n.name in self.tensors]
        plain = {str(i): a for i, a in enumerate(node.args) if not _has_nodes(a)}
        plain |= {k: a for k, a in node.kwargs.items() if not _has_nodes(a)}
        return Operator(
            node.name,
            kind(node),
            scope(node),
            tuple(self.tensors[n.name] for n in read),
            plain,
            tuple(n.name for n in node.all_input_nodes if n.name not in self.tensors),
            tuple(shapes(node)),
        )


def kind(node: fx.Node) -> str:
    """The ATen operator's name without its overload: `conv2d`."""
    text = str(node.target)
    return text.split(".")[1] if text.startswith("aten.") else getattr(node.target, "__name__", text)


def scope(node: fx.Node) -> str:
    """Path of the innermost module in whose forward the operator stands; empty for the root."""
    stack = node.meta.get("nn_module_stack")
    return list(stack.values())[-1][0] if stack else ""


def shapes(node: fx.Node) -> Iterator[tuple[int, ...]]:
    """Shapes of the tensors that a node makes."""
    value = node.meta.get("val")
    for tensor in value if isinstance(value, list | tuple) else [value]:
        if isinstance(tensor, Tensor):
            yield tuple(int(n) for n in tensor.shape)


def _has_nodes(argument: Any) -> bool:
    found = False

    def see(node: fx.Node) -> fx.Node:
        nonlocal found
        found = True
        return node

    fx.map_arg(argument, see)
    return found


@contextlib.contextmanager
def _without_stack_traces() -> Iterator[None]:
    """Operators are named by their modules here; where each was called from costs a third of a trace's time."""
    before = getattr(fx_config, STACK_TRACES, None)  # which older versions do not know, and always write them
    setattr(fx_config, STACK_TRACES, True)
    try:
        yield
    finally:
        if before is None:
            delattr(fx_config, STACK_TRACES)
        else:
            setattr(fx_config, STACK_TRACES, before)


def trace(module: nn.Module, example_inputs: Tensor | Sequence[Any]) -> Graph:
    """The graph of `module` in eval mode for inputs like `example_inputs`. TraceError if it cannot be traced."""
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    modes = {m: m.training for m in module.modules()}
    module.eval()
    try:
        # Without gradients attention layers take a fused path of their own.
        with torch.enable_grad(), _without_stack_traces():
            program = torch.export.export(module, inputs, strict=False)
    except Exception as error:
        first = str(error).strip().splitlines()
        raise TraceError(
            f"{type(module).__name__}: torch.export cannot trace it: {first[0] if first else error!r}"
        ) from error
    finally:
        for m, training in modes.items():
            m.training = training
    # A tensor that is used under two names is one tensor: the first name stands for it.
    first_name: dict[int, str] = {}
    alias: dict[str, str] = {}
    for name, tensor in [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]:
        alias[name] = first_name.setdefault(id(tensor), name)
    signature = program.graph_signature
    tensors = {
        placeholder: alias.get(name, name)
        for table in (
            signature.inputs_to_parameters,
            signature.inputs_to_buffers,
            signature.inputs_to_lifted_tensor_constants,
        )
        for placeholder, name in table.items()
    }
    nodes = {n.name: n for n in program.graph.nodes}
    output = next(n for n in program.graph.nodes if n.op == "output")
    return Graph(
        program.graph,
        tensors,
        tuple(name for name in signature.user_inputs if isinstance(name, str) and name in nodes),
        tuple(n for n in output.args[0] if isinstance(n, fx.Node)),  # type: ignore[union-attr]  # a flat list
        dict(program.constants),
        program.call_spec.out_spec.unflatten,
    )
