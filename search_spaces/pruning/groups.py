"""Groups of trainable variables that stand for one removable structure.

A *group* is zero-invariant: with all its variables zero, the structure that it stands for emits exactly zero and can
be cut out. Groups of one *component* must be cut alike everywhere (a residual addition ties several convolutions).
Pruning groups are output channels (or heads) of a component; an erasing group is a whole chain of operators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Member:
    """The part of one parameter that belongs to the groups of a component.

    parameter: its name in the module. dim: the dimension that is indexed.
    index: (groups, k) positions along `dim`: row g holds what belongs to group g.
    """

    parameter: str
    dim: int
    index: Tensor

    def slices(self, value: Tensor, groups: Tensor | None = None) -> Tensor:
        """The members of each group in `value` (the parameter, its gradient, a buffer like it): (groups, numbers).

        groups: indices of those that are wanted; None means all.
        """
        index = self.index if groups is None else self.index[groups]
        rows = value.movedim(self.dim, 0).index_select(0, index.flatten().to(value.device))
        return rows.reshape(len(index), self.numbers(value))

    def numbers(self, value: Tensor) -> int:
        """How many entries of `value` belong to one group."""
        return self.index.shape[1] * (value.numel() // value.shape[self.dim])

    def put(self, value: Tensor, rows: Tensor, groups: Tensor) -> None:
        """Writes `rows` (len(groups), numbers) into `value` in place, where `slices` found those of `groups`."""
        moved = value.movedim(self.dim, 0)
        index = self.index[groups].flatten().to(value.device)
        moved.index_copy_(0, index, rows.reshape(len(index), *moved.shape[1:]))


@dataclass(frozen=True)
class Component:
    """Structures that are cut alike. size: number of groups. reason: why it is left whole, if `prunable` is false."""

    name: str
    size: int
    members: tuple[Member, ...]
    prunable: bool = True
    reason: str = ""
    operators: tuple[str, ...] = ()  # names of the operators in it, for a reader
    followers: tuple[
        Member, ...
    ] = ()  # cut along with a group, but not zero with it: columns that read it, statistics


@dataclass(frozen=True)
class Partition:
    """All components of a module. Groups of prunable components are numbered through in the order of components."""

    components: tuple[Component, ...]
    untouched: Mapping[str, str] = field(default_factory=dict)  # parameter -> why no group holds it
    origin: Any = field(
        default=None, repr=False, compare=False
    )  # the analysis behind it, which slicing needs

    @property
    def prunable(self) -> tuple[Component, ...]:
        return tuple(c for c in self.components if c.prunable)

    @property
    def size(self) -> int:
        """Number of groups in prunable components."""
        return sum(c.size for c in self.prunable)

    def vectors(
        self, component: Component, values: Mapping[str, Tensor], groups: Tensor | None = None
    ) -> Tensor:
        """x_g of every group, or of these `groups` of the component: (groups, numbers), members side by side.

        values: tensors by parameter name.
        """
        return torch.cat([m.slices(values[m.parameter], groups) for m in component.members], 1)

    def write(self, component: Component, groups: Tensor, rows: Tensor, values: Mapping[str, Tensor]) -> None:
        """Writes `rows` (len(groups), numbers) in place, where `vectors` found those of `groups`."""
        widths = [m.numbers(values[m.parameter]) for m in component.members]
        for member, part in zip(component.members, rows.split(widths, 1), strict=True):
            member.put(values[member.parameter], part, groups)

    def zero(
        self, component: Component, groups: Sequence[int] | Tensor, values: Mapping[str, Tensor]
    ) -> None:
        """Sets all variables of these groups of `component` to zero, in place."""
        chosen = torch.as_tensor(groups, dtype=torch.long)
        with torch.no_grad():
            for member in component.members:
                value = values[member.parameter]
                index = member.index[chosen.to(member.index.device)].flatten().to(value.device)
                value.movedim(member.dim, 0).index_fill_(0, index, 0)
