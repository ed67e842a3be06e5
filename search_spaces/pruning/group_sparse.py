"""Optimisers that drive groups of variables to exactly zero: what they share.

A `GroupSparse` optimiser wraps one of PyTorch's own, which makes every step; afterwards it changes the rows of the
penalised groups, and no others. So all else follows the base optimiser bit for bit.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, distributed
from torch.optim import Optimizer

from fairsweep.search_spaces.pruning.directions import check_base, direction
from fairsweep.search_spaces.pruning.groups import Component, Partition
from fairsweep.search_spaces.pruning.salience import Moments

AUTO = 0.075  # lmbda=auto: the part of its norm that the median penalised group loses in the first step


def from_first_worker(value: Tensor) -> Tensor:
    """`value` as the first process of the default process group has it; `value` itself outside of one."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return value
    shared = value.clone()
    distributed.broadcast(shared, src=0)
    return shared


class GroupSparse(Optimizer, ABC):
    """A base optimiser that from step `start` on also shrinks chosen groups of `partition`.

    base: torch.optim.SGD, Adam or AdamW over (at least) all variables of the partition. Its parameter groups are this
    optimiser's: learning-rate schedulers take either, and none of them scales lmbda.
    named_parameters: of the module that was partitioned.
    start: the step (0 is the first) in which the groups are chosen, once.
    lmbda: weight of the penalty, or "auto": AUTO * median ||x_g|| / lr over the chosen groups in step `start`.
    agree: what makes of a tensor that every worker has computed one that all have; by default that of the first.

    A group that has become zero stays zero. ValueError names the argument that is wrong.
    """

    redundant: Tensor | None  # the penalised groups, a mask over all groups; None before step `start`
    zero: Tensor  # the groups that are exactly zero and stay so, a mask over all groups

    def __init__(
        self,
        base: Optimizer,
        named_parameters: Iterable[tuple[str, Tensor]],
        partition: Partition,
        start: int,
        lmbda: float | Literal["auto"] = "auto",
        agree: Callable[[Tensor], Tensor] = from_first_worker,
    ) -> None:
        check_base(base)
        if not isinstance(start, int) or start < 0:
            raise ValueError(f"start={start}: must be a number of steps, at least 0")
        if lmbda != "auto" and not (isinstance(lmbda, float | int) and 0 < lmbda < math.inf):
            raise ValueError(f"lmbda={lmbda}: must be a positive number or auto")
        if not partition.size:
            reasons = "; ".join(f"{c.name}: {c.reason}" for c in partition.components)
            raise ValueError(f"partition: no component can be pruned ({reasons or 'it has none'})")
        self.base = base
        super().__init__(base.param_groups, base.defaults)
        self.param_groups, self.state = base.param_groups, base.state
        self.values: dict[str, Tensor] = dict(named_parameters)
        self.partition = partition
        self.start, self.lmbda, self.agree = start, lmbda, agree
        self.components = [self._located(component) for component in partition.prunable]
        self.sizes = [component.size for component in self.components]
        self.numbers = sum(self.sizes)
        self.device = self.values[self.components[0].members[0].parameter].device
        self._find_parameter_groups()
        self._refuse_overlaps()
        self.steps = 0
        self.weight: float | None = None  # lmbda as a number, from step `start` on
        self.redundant = None
        self.zero = torch.zeros(self.numbers, dtype=torch.bool, device=self.device)
        self._rows: list[Tensor] | None = None

    # -- what a method gives ----------------------------------------------------------------------------

    @abstractmethod
    def choose(self, moments: Moments) -> Tensor:
        """The groups to penalise, as a mask (groups,), from the moments of all groups in step `start`."""

    @abstractmethod
    def shrink(self, x: Tensor, v: Tensor, after: Tensor, lr: float | Tensor) -> Tensor:
        """New values of penalised groups of one component, (groups, numbers); exact zeros where one is given up.

        x: before the step. v: direction of the base optimiser. after: what its step made of x.
        lr: the learning rate, or one for each of the numbers.
        """

    @property
    def reached(self) -> bool:
        """Whether no group is penalised any more."""
        return False

    # -- state ------------------------------------------------------------------------------------------

    @property
    def sparsity(self) -> float:
        """Share of groups that are exactly zero."""
        return float(self.zero.sum()) / self.numbers

    def kept(self) -> dict[str, list[int]]:
        """The groups of each prunable component that are not zero, by the name of the component."""
        masks = (~self.zero).cpu().split(self.sizes)
        return {c.name: m.nonzero().flatten().tolist() for c, m in zip(self.components, masks, strict=True)}

    def state_dict(self) -> dict[str, Any]:
        """The state of the base optimiser, and under "groups" what has been chosen and what is zero."""
        groups = {"steps": self.steps, "weight": self.weight, "redundant": self.redundant, "zero": self.zero}
        return {**self.base.state_dict(), "groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from `state_dict`. ValueError if it is of another number of groups, or of no such optimiser."""
        if "groups" not in state_dict:
            raise ValueError(f"state_dict: no entry groups; it is not of {type(self).__name__}")
        groups = state_dict["groups"]
        if len(groups["zero"]) != self.numbers:
            raise ValueError(f"state_dict: of {len(groups['zero'])} groups, the partition has {self.numbers}")
        self.base.load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
        self.param_groups, self.state = self.base.param_groups, self.base.state
        self.steps, self.weight = groups["steps"], groups["weight"]
        self.zero = groups["zero"].to(self.device, copy=True)
        chosen = groups["redundant"]
        self.redundant = None if chosen is None else chosen.to(self.device, copy=True)
        self._rows = None

    # -- a step -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]  # as in torch.optim
        """One step of the base optimiser, and from step `start` on the penalty."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self.steps < self.start or self.reached:
            self.base.step()
            self._hold_zeros()
        else:
            self._penalised_step()
        self.steps += 1
        return loss

    def _penalised_step(self) -> None:
        choosing = self.redundant is None
        rows = [torch.arange(n, device=self.device) for n in self.sizes] if choosing else self._indices()
        before = [
            self.partition.vectors(c, self.values, r) for c, r in zip(self.components, rows, strict=True)
        ]
        self.base.step()
        directions = [self._direction(c, x, r) for c, x, r in zip(self.components, before, rows, strict=True)]
        if choosing:
            moments = Moments.join([Moments.of(x, v) for x, v in zip(before, directions, strict=True)])
            self._decide(moments)
            rows = self._indices()
            before = [x[r] for x, r in zip(before, rows, strict=True)]
            directions = [v[r] for v, r in zip(directions, rows, strict=True)]
        masks = self.zero.split(self.sizes)
        for component, r, x, v, mask in zip(self.components, rows, before, directions, masks, strict=True):
            if len(r):
                after = self.partition.vectors(component, self.values, r)
                new = self.shrink(x, v, after, self._learning_rate(component))
                self.partition.write(component, r, new, self.values)
                mask[r] = (new == 0).all(1)
        self._forget_zero_rows()

    def _decide(self, moments: Moments) -> None:
        self.redundant = self.agree(self.choose(moments).to(torch.uint8)).bool()
        self.zero = self.redundant & (moments.norm == 0)
        if self.lmbda != "auto":
            self.weight = float(self.lmbda)
        elif self.redundant.any():
            names = {m.parameter for c in self.components for m in c.members}
            lr = max(float(self.param_groups[self._group_of[name]]["lr"]) for name in names)
            if lr <= 0:
                raise ValueError(
                    f"lmbda=auto: the learning rate is {lr} in step {self.start}, must be positive; give a number"
                )
            typical = moments.norm[self.redundant].median() * (AUTO / lr)
            self.weight = float(self.agree(typical.reshape(1)))

    def _direction(self, component: Component, before: Tensor, rows: Tensor) -> Tensor:
        widths = [m.numbers(self.values[m.parameter]) for m in component.members]
        parts = []
        for member, x in zip(component.members, before.split(widths, 1), strict=True):
            group = self.param_groups[self._group_of[member.parameter]]

            def pick(value: Tensor, member: Any = member) -> Tensor:
                return member.slices(value, rows)

            parts.append(direction(self.base, group, self.values[member.parameter], x, pick))
        return torch.cat(parts, 1)

    def _learning_rate(self, component: Component) -> float | Tensor:
        rates = [float(self.param_groups[self._group_of[m.parameter]]["lr"]) for m in component.members]
        if len(set(rates)) == 1:
            return rates[0]
        widths = [m.numbers(self.values[m.parameter]) for m in component.members]
        return torch.repeat_interleave(torch.tensor(rates), torch.tensor(widths)).to(self.device)

    # -- groups that are zero ---------------------------------------------------------------------------

    def _indices(self) -> list[Tensor]:
        """The penalised groups of each component, as indices; found once, since they never change."""
        if self._rows is None:
            assert self.redundant is not None
            self._rows = [mask.nonzero().flatten() for mask in self.redundant.split(self.sizes)]
            self._forget_zero_rows()
        return self._rows

    def _forget_zero_rows(self) -> None:
        self._zero_rows: list[Tensor] | None = None

    def _hold_zeros(self) -> None:
        """Undoes what the base optimiser's momentum or weight decay made of groups that are zero."""
        if self.redundant is None:
            return
        self._indices()
        if self._zero_rows is None:
            self._zero_rows = [mask.nonzero().flatten() for mask in self.zero.split(self.sizes)]
        for component, rows in zip(self.components, self._zero_rows, strict=True):
            if len(rows):
                self.partition.zero(component, rows, self.values)

    # -- checks -----------------------------------------------------------------------------------------

    def _located(self, component: Component) -> Component:
        members = []
        for member in component.members:
            if member.parameter not in self.values:
                raise ValueError(
                    f"named_parameters: no {member.parameter}, which component {component.name} holds"
                )
            index = member.index.to(self.values[member.parameter].device)
            members.append(replace(member, index=index))
        return replace(component, members=tuple(members))

    def _find_parameter_groups(self) -> None:
        places = {id(p): i for i, group in enumerate(self.param_groups) for p in group["params"]}
        self._group_of = {}
        for name in {m.parameter for c in self.components for m in c.members}:
            if id(self.values[name]) not in places:
                raise ValueError(f"base: does not optimise {name}, which a group holds")
            self._group_of[name] = places[id(self.values[name])]

    def _refuse_overlaps(self) -> None:
        counts = {name: torch.zeros(value.shape, dtype=torch.int8) for name, value in self.values.items()}
        for component in self.components:
            for member in component.members:
                rows = counts[member.parameter].movedim(member.dim, 0)
                rows.index_add_(
                    0, member.index.cpu().flatten(), torch.ones_like(rows[member.index.cpu().flatten()])
                )
        twice = [name for name, count in counts.items() if (count > 1).any()]
        if twice:
            raise ValueError(f"partition: entries of {', '.join(twice)} belong to two groups")
