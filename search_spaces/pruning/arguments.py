"""Arguments of a forward pass that are lists, tuples or mappings: what a traced graph takes out of them."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any

from torch import fx
from torch.utils._pytree import TreeSpec, tree_leaves


def take_arguments(graph: fx.Graph, given: TreeSpec, names: Iterator[str]) -> Iterator[fx.Node]:
    """Placeholders for the positional arguments of the structure `given`, and a node for each of their leaves.

    names: of the leaves, in order; an argument that is no tensor itself is called by its place.
    """
    taken: list[tuple[fx.Node, TreeSpec]] = []
    for place, spec in enumerate(given.child(0).children()):
        name = next(names) if spec.is_leaf() else f"argument_{place}"
        taken.append((graph.placeholder(name), spec))
        for _ in range(0 if spec.is_leaf() else spec.num_leaves):
            next(names)
    for node, spec in taken:
        yield from _leaves(graph, node, spec)


def _leaves(graph: fx.Graph, node: fx.Node, spec: TreeSpec) -> Iterator[fx.Node]:
    if spec.is_leaf():
        yield node
        return
    keys: list[Any] | None = None
    if spec.type in (list, tuple) or (isinstance(spec.context, type) and issubclass(spec.context, tuple)):
        keys = list(range(spec.num_children))
    elif isinstance(spec.type, type) and issubclass(spec.type, Mapping) and isinstance(spec.context, list):
        keys = spec.context
    if keys is None:  # a class of the user's own, which is registered with PyTorch
        leaves = graph.call_function(tree_leaves, (node,))
        yield from (graph.call_function(operator.getitem, (leaves, k)) for k in range(spec.num_leaves))
        return
    for key, child in zip(keys, spec.children(), strict=True):
        yield from _leaves(graph, graph.call_function(operator.getitem, (node, key)), child)
