"""A partition as a table for a reader: what can be cut, what stays, and why."""

from __future__ import annotations

from rich.table import Table
from torch import nn

from search_spaces.pruning.groups import Component, Partition

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


def _operators(component: Component) -> str:
    shown = ", ".join(component.operators[:SHOWN])
    more = len(component.operators) - SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
