"""A partition as a table for a reader: what can be cut, what stays, and why."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from torch import nn

from fairsweep.search_spaces.architectures.graphs import Graph
from fairsweep.search_spaces.pruning.groups import Component, Partition
from fairsweep.search_spaces.pruning.trace import trace

SHOWN = 3  # operators of a component that are named


def numbers(partition: Partition, module: nn.Module) -> dict[str, int]:
    """Entries of parameters in the groups of each component."""
    values = dict(module.named_parameters())
    made = {}
    for component in partition.components:
        each = 0
        for member in component.members:
            value = values[member.parameter]
            each += member.index.shape[1] * (value.numel() // value.shape[member.dim])
        made[component.name] = each * component.size
    return made


def explain(partition: Partition, module: nn.Module) -> Table:
    """One row a component, those that can be pruned first; then the parameters that belong to no component."""
    counts, total = numbers(partition, module), sum(p.numel() for p in module.parameters())
    prunable = sum(counts[c.name] for c in partition.prunable)
    table = Table(
        title=f"{type(module).__name__}: {partition.size} groups in {len(partition.prunable)} components",
        caption=f"{prunable:,} of {total:,} parameters ({prunable / max(total, 1):.1%}) are in groups",
    )
    table.add_column("component", overflow="fold")
    table.add_column("operators", overflow="fold")
    table.add_column("groups", justify="right")
    table.add_column("parameters", justify="right")
    table.add_column("prunable, or why not", overflow="fold")
    for component in sorted(partition.components, key=lambda c: not c.prunable):
        verdict = "yes" if component.prunable else component.reason
        table.add_row(
            component.name, _operators(component), str(component.size), f"{counts[component.name]:,}", verdict
        )
    held = {m.parameter for c in partition.components for m in c.members}
    for name, reason in partition.untouched.items():
        if name not in held:
            table.add_row("", name, "", f"{module.get_parameter(name).numel():,}", reason)
    return table


def graph_of_module(module: nn.Module, example: Any) -> Graph:
    """What `module` does with `example`: its operators with weights, and those in which several ways meet.

    What has neither, as activations and poolings, is left out of the picture; so are vectors, as of normalisations.
    """
    traced = trace(module, example)
    values = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    weights: dict[
        str, list[str]
    ] = {}  # operator -> weights that it is given, also by operators on weights alone
    boxes: dict[str, frozenset[str]] = {name: frozenset([name]) for name in traced.inputs}
    nodes, edges = {name: name for name in traced.inputs}, []
    for operator in traced.operators:
        own = [
            name for name in operator.parameters if values.get(name) is not None and values[name].dim() > 1
        ]
        own += [name for source in operator.inputs if source not in boxes for name in weights.get(source, [])]
        before = frozenset().union(*(boxes.get(source, frozenset()) for source in operator.inputs))
        weights[operator.name] = own
        if not before:
            continue
        if own or len(before) > 1:
            shape = "x".join(map(str, values[own[0]].shape)) if own else ""
            nodes[operator.name] = f"{operator.scope or operator.kind} {shape}" if own else operator.kind
            edges += [(source, operator.name, "") for source in sorted(before)]
            before = frozenset([operator.name])
        boxes[operator.name] = before
    nodes["output"] = "output"
    last = frozenset().union(*(boxes.get(node.name, frozenset()) for node in traced.results))
    return Graph(nodes, (*edges, *((source, "output", "") for source in sorted(last))))


def _operators(component: Component) -> str:
    shown = ", ".join(component.operators[:SHOWN])
    more = len(component.operators) - SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
