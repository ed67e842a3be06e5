"""What operators do beside their results: writing into tensors, drawing random numbers, switching modes.

The analyses want a graph in which every tensor is written once. So operators in place become those that make a new
tensor; where a write is seen under another name as well (a view, a buffer, the input), `torch.export` does it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, fx

# Composite operators that may give a view of their first argument, though their schema does not say so.
MAYBE_VIEWS = {
    "reshape", "reshape_as", "flatten", "unflatten", "contiguous", "to", "type_as", "expand_as", "view_as", "movedim",
    "swapaxes", "float", "double", "half", "chunk", "tensor_split", "narrow", "dropout", "feature_dropout",
    "alpha_dropout", "unbind", "hsplit", "vsplit", "dsplit", "broadcast_to", "ravel", "squeeze", "getitem", "split",
    "split_with_sizes", "atleast_1d", "atleast_2d", "atleast_3d", "moveaxis", "swapdims", "numpy_T", "mT", "H", "mH",
    "adjoint", "diagonal", "real", "imag", "resolve_conj", "resolve_neg", "view_as_complex", "view_as_real", "pad",
    "pin_memory", "cpu", "cuda", "einsum", "positive",
}  # fmt: skip
DROPOUTS = {
    "dropout": 2,
    "alpha_dropout": 2,
    "feature_dropout": 2,
    "feature_alpha_dropout": 2,
    "native_dropout": 2,
}
KEEP_TYPE = {"copy_", "masked_fill_", "index_put_"}  # whatever the types of the other arguments


def name_of(node: fx.Node) -> str:
    """The operator's name without its overload."""
    text = str(node.target)
    return text.split(".")[1] if text.startswith("aten.") else getattr(node.target, "__name__", text)


def writes(node: fx.Node) -> Iterator[fx.Node]:
    """The arguments that the operator changes."""
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None:
        return
    for place, given in enumerate(schema.arguments):
        if given.alias_info is None or not given.alias_info.is_write:
            continue
        value = node.args[place] if place < len(node.args) else node.kwargs.get(given.name)
        if name_of(node) in ("batch_norm", "instance_norm") and not _own_statistics(node):
            continue  # running statistics are only read then
        found: list[fx.Node] = []
        fx.map_arg(value, found.append)
        yield from found


def _own_statistics(node: fx.Node) -> bool:
    return bool(node.args[5] if len(node.args) > 5 else node.kwargs.get("training"))


def draws(node: fx.Node) -> bool:
    """Whether the operator draws random numbers as it stands there."""
    if node.op != "call_function":
        return False
    name = name_of(node)
    if name.rstrip("_") in DROPOUTS:
        place = DROPOUTS[name.rstrip("_")]
        return bool(node.args[place] if place < len(node.args) else node.kwargs.get("train", True))
    if name == "scaled_dot_product_attention":
        return bool(node.args[4] if len(node.args) > 4 else node.kwargs.get("dropout_p", 0.0))
    if name in ("lstm", "gru", "rnn_tanh", "rnn_relu"):  # (..., dropout, train, bidirectional, batch first)
        numbers = [a for a in node.args if isinstance(a, float)]
        return bool(numbers and numbers[0] and node.args[node.args.index(numbers[0]) + 1])
    if name.startswith("rrelu"):
        return bool(node.args[3] if len(node.args) > 3 else node.kwargs.get("training", False))
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def pure(node: fx.Node) -> bool:
    """Whether nothing is lost when the operator goes and nobody reads its result."""
    if node.op == "get_attr":
        return True
    known = isinstance(node.target, torch._ops.OpOverload) or name_of(node) == "getitem"
    return known and node.op == "call_function" and not any(writes(node)) and not draws(node)


def _views(node: fx.Node) -> Iterator[fx.Node]:
    """The arguments of which the result may be a view, or which it is."""
    if node.op != "call_function":
        return
    schema = getattr(node.target, "_schema", None)
    if schema is None or name_of(node) in MAYBE_VIEWS:
        yield from node.all_input_nodes
        return
    sets = {s for r in schema.returns if r.alias_info is not None for s in r.alias_info.before_set}
    for place, given in enumerate(schema.arguments):
        if given.alias_info is not None and sets & set(given.alias_info.before_set):
            value = node.args[place] if place < len(node.args) else node.kwargs.get(given.name)
            found: list[fx.Node] = []
            fx.map_arg(value, found.append)
            yield from found


def write_anew(graph: fx.Graph, kept: Collection[str]) -> bool:
    """Replaces operators in place by those that make a new tensor; whether that was possible for all.

    kept: names of placeholders whose tensors are there before and after. It is not possible where the old tensor, or
    a view of it, is read after it was written into.
    """
    order = {node: k for k, node in enumerate(graph.nodes)}
    root: dict[fx.Node, set[fx.Node]] = {}
    for node in graph.nodes:
        sources = list(_views(node))
        root[node] = set().union(*(root[s] for s in sources)) if sources else {node}
    changes = []
    for node in graph.nodes:
        targets = list(writes(node))
        if not targets:
            continue
        touched = set().union(*(root[t] for t in targets))
        new = _functional(node)
        if new is None or any(t.op == "placeholder" and t.name in kept for t in touched):
            return False
        later = [
            other
            for other, roots in root.items()
            if roots & touched and any(order[u] > order[node] for u in other.users)
        ]
        # What reads the result reads the new tensor, as do views of it that are made later.
        if any(order[other] < order[node] for other in later):
            return False
        changes.append((node, new))
    for node, new in changes:
        node.target = new
    return True


def _functional(node: fx.Node) -> Any:
    """The operator that gives what `node` writes, with the same arguments; None if there is none."""
    name = name_of(node)
    if not name.endswith("_") or not isinstance(node.target, torch._ops.OpOverload):
        return None
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None)
    found = getattr(packet, node.target._overloadname, None) if packet is not None else None
    if found is None or not isinstance(node.args[0], fx.Node):
        return None
    old, new = ([a.name for a in s._schema.arguments[1:]] for s in (node.target, found))
    types = [n.meta["val"].dtype for n in node.all_input_nodes if isinstance(n.meta.get("val"), Tensor)]
    promoted = len(set(types)) > 1 and name not in KEEP_TYPE
    return found if old == new and not promoted else None


def unwrap(graph: fx.Graph) -> str:
    """Puts the bodies of regions without gradients, or of other precision, into `graph`, between what switches.

    Returns the name of an operator with a body of another kind, such as a branch; empty if there is none.
    """
    owner = graph.owning_module
    for node in list(graph.nodes):
        if node.op != "call_function" or not isinstance(node.target, torch._ops.HigherOrderOperator):
            continue
        name = name_of(node)
        if name not in ("wrap_with_set_grad_enabled", "wrap_with_autocast"):
            return name
        gradients = name == "wrap_with_set_grad_enabled"
        count = 1 if gradients else 4
        switch, body, given = node.args[:count], node.args[count], node.args[count + 1 :]
        assert isinstance(body, fx.Node)
        inner: fx.Graph = getattr(owner, str(body.target)).graph
        if found := unwrap(inner):
            return found
        table = dict(zip([n for n in inner.nodes if n.op == "placeholder"], given, strict=True))
        with graph.inserting_before(node):
            if gradients:
                before = graph.call_function(torch.is_grad_enabled)
                graph.call_function(torch._C._set_grad_enabled, switch)
            else:
                before = graph.call_function(torch.amp.autocast_mode._enter_autocast, switch)
            results: Any = graph.graph_copy(inner, table)  # type: ignore[arg-type]  # arguments are nodes
            leave = torch._C._set_grad_enabled if gradients else torch.amp.autocast_mode._exit_autocast
            graph.call_function(leave, (before,))
        for user in list(node.users):
            user.replace_all_uses_with(results[user.args[1]])  # it takes one of them
            graph.erase_node(user)
        graph.erase_node(node)
        if not body.users:
            graph.erase_node(body)
    return ""
