"""From classes of channels to components and groups."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fairsweep.search_spaces.pruning import rules, rules_products, rules_shapes  # noqa: F401  they register themselves
from fairsweep.search_spaces.pruning.dependencies import Analysis
from fairsweep.search_spaces.pruning.groups import Component, Member, Partition
from fairsweep.search_spaces.pruning.trace import Graph, trace

Place = tuple[str, int]  # a tensor of the module and one of its dimensions


@dataclass(frozen=True)
class Origin:
    """What a partition was made from. of: class of every atom. classes: component -> the class of each group."""

    analysis: Analysis
    of: np.ndarray
    classes: dict[str, np.ndarray]
    inputs: tuple[Any, ...]

    def cut(self, zero: dict[str, np.ndarray]) -> np.ndarray:
        """Which atoms go with these groups, given by the name of their component."""
        gone = np.zeros(int(self.of.max(initial=-1)) + 1, bool)
        for name, groups in zero.items():
            gone[self.classes[name][groups]] = True
        return gone[self.of]


@dataclass(frozen=True)
class _Table:
    """Classes along every dimension of every tensor. made: the places whose rows are variables of a class."""

    places: dict[Place, np.ndarray]
    made: frozenset[Place]
    reasons: dict[int, str]


def partition(
    module: nn.Module, example_inputs: Tensor | Sequence[Any], frozen: Collection[str] | None = None
) -> Partition:
    """The zero-invariant groups of `module`, as it acts on inputs like `example_inputs` in eval mode.

    example_inputs: the arguments of its forward pass. Tensors among them with the first size of the first one are
    batches; of two examples or more, so that a batch is not taken for a size of 1. frozen: parameters that belong to
    no group; None for those without gradients. TraceError if `torch.export` cannot trace the module.
    """
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    names = [name for name, _ in module.named_parameters()]
    if frozen is None:
        frozen = [name for name, p in module.named_parameters() if not p.requires_grad]
    unknown = [name for name in frozen if name not in names]
    if unknown:
        raise ValueError(f"frozen: {type(module).__name__} has no parameter {unknown[0]}")
    sizes = [len(x) for x in pytree.tree_leaves(inputs) if isinstance(x, Tensor) and x.dim()]
    analysis = analyse(trace(module, inputs), set(names) - set(frozen), sizes[0] if sizes else None)
    return from_analysis(analysis, module, inputs)


def from_analysis(analysis: Analysis, module: nn.Module, inputs: tuple[Any, ...]) -> Partition:
    """Groups classes that index the same tensors, equally often, into components."""
    of, reasons = analysis.channels.classes()
    table = _table(analysis, of, reasons)
    number = int(of.max()) + 1 if len(of) else 0
    signature, members = _signatures(table, number)
    touched = np.flatnonzero(members)
    names, component = np.unique(signature[touched], return_inverse=True)
    component_of = np.full(number, -1)
    component_of[touched] = component
    built = _build(table, component_of, len(names), touched)
    _keep_apart(built, table, dict(module.named_parameters()))
    components = _distinct([_label(found, table) for found in built])
    named = {m.parameter for c in components if c.prunable for m in c.members}
    untouched = {
        name: _why(name, table, analysis.trainable)
        for name, _ in module.named_parameters()
        if name not in named
    }
    classes = {c.name: found.classes for c, found in zip(components, built, strict=True)}
    return Partition(components, untouched, Origin(analysis, of, classes, inputs))


def _table(analysis: Analysis, of: np.ndarray, reasons: dict[int, str]) -> _Table:
    places = {
        (name, dim): of[axis.atoms]
        for name, layout in analysis.leaves.items()
        for dim, axis in enumerate(layout)
        if axis.atoms is not None
    }
    made: set[Place] = set()
    for name, atoms in analysis.producers:
        layout = analysis.leaves[name]
        exact = [d for d, a in enumerate(layout) if a.atoms is atoms]
        if exact:
            made.add((name, exact[0]))
            continue
        classes = np.unique(
            of[atoms]
        )  # a function of the parameter was used: its dimensions with these classes
        for d in range(len(layout)):
            if (name, d) in places and np.isin(places[name, d], classes).any():
                made.add((name, d))
    return _Table(places, frozenset(p for p in made if p[0] in analysis.trainable), reasons)


def _signatures(table: _Table, number: int) -> tuple[np.ndarray, np.ndarray]:
    """(a number for each class that says where it occurs and how often, whether it has variables)."""
    rng = np.random.default_rng(0)
    signature, members = np.zeros(number, np.uint64), np.zeros(number, bool)
    for place, classes in table.places.items():
        names, counts = np.unique(classes, return_counts=True)
        code = rng.integers(1, 2**63, dtype=np.uint64)
        signature[names] += code * (counts.astype(np.uint64) * np.uint64(2) + np.uint64(1))
        if place in table.made:
            members[names] = True
    blocked = np.zeros(number, bool)
    blocked[list(table.reasons)] = True
    signature[blocked] ^= np.uint64(1)  # what stays and what does not are never one component
    return signature, members


@dataclass
class _Found:
    classes: np.ndarray
    members: list[Member]
    followers: list[Member]


def _build(table: _Table, component_of: np.ndarray, count: int, touched: np.ndarray) -> list[_Found]:
    order = {}  # component -> its classes in the order of their first place
    found: dict[int, _Found] = {}
    rank = np.zeros(len(component_of), int)
    ordered = sorted(table.places, key=lambda p: p not in table.made)
    for place in ordered:
        classes = table.places[place]
        mine = component_of[classes]
        for k in np.unique(mine[mine >= 0]):
            positions = np.flatnonzero(mine == k)
            inside = classes[positions]
            if k not in order:
                _, first = np.unique(inside, return_index=True)
                order[k] = inside[np.sort(first)]
                rank[order[k]] = np.arange(len(order[k]))
                found[k] = _Found(order[k], [], [])
            index = positions[np.argsort(rank[inside], kind="stable")].reshape(len(order[k]), -1)
            member = Member(place[0], place[1], torch.from_numpy(index))
            (found[k].members if place in table.made else found[k].followers).append(member)
    return list(found.values())


def _keep_apart(built: list[_Found], table: _Table, values: Mapping[str, Tensor]) -> None:
    """Gives a reason to stay to components whose groups share entries with those of others, or with each other.

    That is so where a weight is used twice, once turned over: what is a row for one is a column for the other. Groups
    are disjoint sets of variables, so of two such components the one with more variables can be pruned.
    """

    def size(found: _Found) -> int:
        return sum(m.index.numel() * (values[m.parameter].numel() // values[m.parameter].shape[m.dim])
                   for m in found.members)  # fmt: skip

    dims: dict[str, int] = {}  # parameter -> the dimension along which it is in groups
    for found in sorted(built, key=size, reverse=True):
        if len(found.classes) == 1 or any(c in table.reasons for c in found.classes.tolist()):
            continue  # it stays in any case
        own = dict(dims)
        twice = [m.parameter for m in found.members if own.setdefault(m.parameter, m.dim) != m.dim]
        if twice:
            reason = f"{twice[0]} is used twice, and its entries are in groups along its other dimension"
            table.reasons.update(dict.fromkeys(found.classes.tolist(), reason))
        else:
            dims = own


def _label(found: _Found, table: _Table) -> Component:
    operators = dict.fromkeys(m.parameter.rpartition(".")[0] or m.parameter for m in found.members)
    reasons = list(dict.fromkeys(table.reasons[c] for c in found.classes.tolist() if c in table.reasons))
    if not reasons and len(found.classes) == 1:
        reasons = ["it is a single group"]
    return Component(
        next(iter(operators)),
        len(found.classes),
        tuple(found.members),
        not reasons,
        "; ".join(reasons[:3]),
        tuple(operators),
        tuple(found.followers),
    )


def _distinct(components: list[Component]) -> tuple[Component, ...]:
    """Components whose first operator is the same, as the halves of a layer, get numbers."""
    seen: dict[str, int] = {}
    made = []
    for component in components:
        number = seen[component.name] = seen.get(component.name, -1) + 1
        made.append(replace(component, name=f"{component.name}#{number}") if number else component)
    return tuple(made)


def _why(name: str, table: _Table, trainable: frozenset[str]) -> str:
    if name not in trainable:
        return "it is frozen"
    places = [p for p in table.places if p[0] == name]
    for place in sorted(places, key=lambda p: p not in table.made):
        for c in table.places[place].tolist():
            if c in table.reasons:
                return table.reasons[c]
    return "no operator uses it as a channel" if places else "it has a single element, or is not used"


def analyse(graph: Graph, trainable: Iterable[str], batch: int | None) -> Analysis:
    """The axes of all tensors in `graph`. batch: first size of the inputs that are batches."""
    analysis = Analysis(graph, frozenset(trainable), batch)
    analysis.run()
    return analysis
