"""A module as a graph of operators: vertices with their parameters and attributes, edges with shapes.

Traced by `torch.export` in eval mode, at the level of ATen operators, where `conv2d`, `layer_norm` or
`scaled_dot_product_attention` are still one vertex each.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import ExportGraphSignature, InputKind, OutputKind
from torch.fx import config as fx_config
from torch.utils._pytree import tree_map_only

from fairsweep.search_spaces.pruning.effects import name_of, unwrap, write_anew

STACK_TRACES = "do_not_emit_stack_traces"
LOGS = ("torch._subclasses.fake_tensor", "torch.fx.experimental.symbolic_shapes")


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
    of the module itself, in the order of the leaves of `given`, the structure of its arguments. results: nodes that
    it returns. states: nodes whose values it keeps in buffers for its next call. constants: tensors that are written
    into its forward pass. assemble: puts the results into the structure that the module returns.

    No operator writes in place, but for the `copy_` into a buffer at the end.
    """

    aten: fx.Graph
    tensors: Mapping[str, str]
    inputs: tuple[str, ...]
    results: tuple[fx.Node, ...]
    constants: Mapping[str, Any] = field(repr=False)
    assemble: Callable[[list[Any]], Any] = field(repr=False)
    given: Any = field(default=None, repr=False)
    states: tuple[fx.Node, ...] = ()

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
    return name_of(node)


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
def _quietly() -> Iterator[None]:
    """What PyTorch writes of a trace that fails is in the TraceError, or of no matter to who only tries."""
    before = [(log, log.level) for log in map(logging.getLogger, LOGS)]
    try:
        for log, _ in before:
            log.setLevel(logging.CRITICAL)
        yield
    finally:
        for log, level in before:
            log.setLevel(level)


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
    program = _export(module, example_inputs)
    regions = any(isinstance(n.target, torch._ops.HigherOrderOperator) for n in program.graph.nodes)
    if found := unwrap(program.graph):
        raise TraceError(f"{type(module).__name__}: torch.{found} chooses what is run; it cannot be followed")
    signature = program.graph_signature
    held = [s.arg.name for s in signature.input_specs if s.kind is not InputKind.USER_INPUT]
    given = [s.arg.name for s in signature.input_specs if s.kind is InputKind.USER_INPUT]
    if not write_anew(program.graph, {*held, *given}):
        program = _functional(module, _export(module, example_inputs) if regions else program)
        signature = program.graph_signature
    # A tensor that is used under two names is one tensor: the first name stands for it.
    first_name: dict[int, str] = {}
    alias: dict[str, str] = {}
    for name, tensor in [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]:
        alias[name] = first_name.setdefault(id(tensor), name)
    tensors = {
        placeholder: alias.get(name, name)
        for table in (
            signature.inputs_to_parameters,
            signature.inputs_to_buffers,
            signature.inputs_to_lifted_tensor_constants,
        )
        for placeholder, name in table.items()
    }
    results, states = _outputs(program.graph, signature)
    unflatten = program.call_spec.out_spec.unflatten

    def assemble(values: list[Any]) -> Any:
        found = iter(values)
        return unflatten([next(found) if isinstance(r, fx.Node) else r for r in results])

    return Graph(
        program.graph,
        tensors,
        tuple(given),
        tuple(n for n in results if isinstance(n, fx.Node)),
        dict(program.constants),
        assemble,
        program.call_spec.in_spec,
        tuple(states),
    )


def _export(module: nn.Module, example_inputs: Tensor | Sequence[Any]) -> ExportedProgram:
    """What `torch.export` makes of `module` in eval mode."""
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    # Names of their own: a tensor that is given twice would be traced as one input.
    inputs = tree_map_only(Tensor, lambda t: t.detach().view_as(t), inputs)
    modes = {m: m.training for m in module.modules()}
    module.eval()
    try:
        # Without gradients attention layers take a fused path of their own.
        with torch.enable_grad(), _quietly(), _without_stack_traces(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="(?s).*assigned during export")  # they are put back
            return torch.export.export(module, inputs, strict=False)
    except Exception as error:
        first = str(error).strip().splitlines()
        raise TraceError(
            f"{type(module).__name__}: torch.export cannot trace it: {first[0] if first else error!r}"
        ) from error
    finally:
        for m, training in modes.items():
            m.training = training


def _functional(module: nn.Module, program: ExportedProgram) -> ExportedProgram:
    """The same with every write through a view as an operator that makes a new tensor of the old one."""
    try:
        with _without_stack_traces(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)  # of a library for itself
            return program.run_decompositions({})
    except Exception as error:
        first = str(error).strip().splitlines()
        raise TraceError(
            f"{type(module).__name__}: it writes in place in a way that cannot be followed: "
            f"{first[0] if first else error!r}"
        ) from error


def _outputs(graph: fx.Graph, signature: ExportGraphSignature) -> tuple[list[Any], list[fx.Node]]:
    """(what the module returns, a flat list of nodes and plain values; what it keeps in buffers).

    That becomes a `copy_` at the end of the graph.
    """
    output = next(n for n in graph.nodes if n.op == "output")
    flat = list(output.args[0])  # type: ignore[arg-type]  # a flat list
    holders = {name: placeholder for placeholder, name in signature.inputs_to_buffers.items()}
    nodes = {n.name: n for n in graph.nodes}
    results, states = [], []
    for value, spec in zip(flat, signature.output_specs, strict=True):
        if spec.kind is OutputKind.USER_OUTPUT:
            results.append(value)
        elif spec.kind is OutputKind.BUFFER_MUTATION:
            buffer = nodes[holders[str(spec.target)]]
            with graph.inserting_before(output):
                written = graph.call_function(torch.ops.aten.copy_.default, (buffer, value))
            written.meta["val"] = value.meta["val"]
            states.append(value)
    return results, states
