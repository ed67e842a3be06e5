"""The sub-network without its zero groups: an ordinary module that computes what the full one computes.

First the module itself is copied with sliced parameters and buffers, and the sizes that its layers keep as attributes
are corrected. A forward pass that has sizes written into it does not follow; so the copy is held against the full
module (`proof`), and if it fails, the traced graph with corrected sizes takes its place (`rebuild`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, fx, nn

from fairsweep.search_spaces.pruning.copies import copied
from fairsweep.search_spaces.pruning.groups import Component, Partition
from fairsweep.search_spaces.pruning.proof import Proof
from fairsweep.search_spaces.pruning.rebuild import Gone, Slices, rebuild
from fairsweep.search_spaces.pruning.trace import kind, scope
from fairsweep.search_spaces.pruning.watching import BATCH_NORMS, sites

Kept = Mapping[
    str, Sequence[int]
]  # component -> the groups that stay; a component that is not named stays whole

Integers = Mapping[str, Mapping[str, tuple[int, int]]]  # module -> attribute -> (before, after)

RESHAPES = {"view", "reshape", "unflatten", "expand", "split", "split_with_sizes", "chunk", "narrow", "slice"}
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (*BATCH_NORMS, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
FORMS = ("auto", "module", "graph")


class SliceError(ValueError):
    """Groups that do not belong to the partition, or a sub-network that would not compute what the full one does."""


def zero_groups(module: nn.Module, partition: Partition) -> dict[str, list[int]]:
    """The groups whose variables are all exactly zero, by the name of their component."""
    values = dict(module.named_parameters())
    return {c.name: _zero_groups(c, values) for c in partition.prunable}


@torch.no_grad()
def _zero_groups(component: Component, values: Mapping[str, Tensor]) -> list[int]:
    left = torch.arange(component.size)
    # Members with few numbers first: they tell most groups apart.
    for member in sorted(component.members, key=lambda m: m.numbers(values[m.parameter])):
        if len(left):
            left = left[~member.slices(values[member.parameter], left).any(1).cpu()]
    return left.tolist()


def kept_groups(module: nn.Module, partition: Partition) -> dict[str, list[int]]:
    """The groups that are not zero. SliceError if a component has none: nothing would be left of its layers."""
    zero = zero_groups(module, partition)
    return {c.name: sorted(set(range(c.size)) - set(zero[c.name])) for c in partition.prunable}


@dataclass(frozen=True)
class How:
    """How a sub-network is made of a full one.

    form: "module" or "graph". integers: module -> attribute -> (before, after), those that no layer of PyTorch has.
    open_batch: whether sizes that follow the batch are computed in the graph where it runs.
    """

    form: str
    integers: Mapping[str, Mapping[str, tuple[int, int]]] = field(default_factory=dict)
    open_batch: bool = False


def slice_module(
    module: nn.Module, partition: Partition, kept: Kept | None = None, form: str = "auto", check: bool = True
) -> nn.Module:
    """`module` without the groups that are not `kept`; the result computes the same if those are zero.

    kept: component -> groups that stay; None keeps those that are not zero. form: "module" for a module of the
    original class, "graph" for the traced graph in eval mode, "auto" for the first if it can be. check: holds what is
    made against the full network; without, form must be named. The result has no tensor in common with `module`.
    SliceError says what cannot be cut.
    """
    if form not in FORMS or (form == "auto" and not check):
        raise SliceError(
            f"form={form!r}, check={check}: must be one of {', '.join(FORMS)}; auto only with a check"
        )
    gone = groups_gone(partition, kept_groups(module, partition) if kept is None else kept)
    slices = Slices(partition, gone)
    if check:
        how = choose(module, partition, gone, form, slices, zeroed=kept is None)
    else:
        how = How(form, _integers(module, partition, gone) if form == "module" else {})
    return make(module, partition, gone, how, slices).train(module.training)


def make(
    module: nn.Module, partition: Partition, gone: Gone, how: How, slices: Slices | None = None
) -> nn.Module:
    """The sub-network of `module` without the groups that are `gone`, made as `how` says; nothing is proven."""
    slices = slices or Slices(partition, gone)
    if how.form == "graph":
        result: nn.Module = rebuild(module, partition, gone, how.open_batch, slices)
    else:
        result = _same_class(module, partition, gone, slices)
        _set_integers(result, how.integers)
    if isinstance(result, fx.GraphModule):  # the full one may be one as well
        result.meta["how"] = how
    return result


def how_made(module: nn.Module, small: nn.Module) -> How:
    """How `small` was made of `module`. Of a module, the whole numbers in it that became smaller tell."""
    if isinstance(small, fx.GraphModule):
        how = small.meta.get("how")
        return how if isinstance(how, How) else How("graph")
    before = {path: vars(part) for path, part in module.named_modules()}
    integers = {
        path: {
            name: (before[path][name], value)
            for name, value in vars(part).items()
            if type(value) is int
            and not name.startswith("_")
            and type(before.get(path, {}).get(name)) is int
            and value < before[path][name]
        }
        for path, part in small.named_modules()
    }
    return How("module", {path: changes for path, changes in integers.items() if changes})


def choose(
    module: nn.Module,
    partition: Partition,
    gone: Gone,
    form: str,
    slices: Slices | None = None,
    zeroed: bool = False,
) -> How:
    """The way to make the sub-network that is proven. zeroed: whether the groups that go are zero already.

    A module changes the fewest integers that the proof needs; where that could be others, the graph is taken.
    """
    name, why = type(module).__name__, {}
    slices = slices or Slices(partition, gone)
    try:
        proof = proof_of(module, partition, gone, zeroed)
    except ValueError as error:
        raise SliceError(f"{name}: {error}") from None
    if form != "graph":
        how, why["module"] = _as_module(proof, module, partition, gone, slices)
        if how is not None:
            return how
    if form == "module":
        raise SliceError(
            f"form='module': the forward pass of {name} does not run with smaller sizes; take 'graph' "
            f"({why['module']})"
        )
    how, why["graph"] = _as_graph(proof, partition, gone, slices)
    if how is not None:
        return how
    reasons = "; ".join(f"as a {kind}: {reason}" for kind, reason in why.items())
    raise SliceError(
        f"{name}: no sub-network computes what the full one does; report its architecture ({reasons})"
    )


def proof_of(module: nn.Module, partition: Partition, gone: Gone, zeroed: bool = False) -> Proof:
    """What sub-networks of `module` without the groups that are `gone` are held against."""
    origin = partition.origin

    def zero(values: Mapping[str, Tensor], moved: Collection[str]) -> None:
        for component in partition.components:
            if component.name in gone:
                members = tuple(m for m in component.members if not zeroed or m.parameter in moved)
                groups = torch.from_numpy(gone[component.name])
                partition.zero(replace(component, members=members), groups, values)

    return Proof(
        module,
        origin.analysis.graph,
        origin.inputs,
        origin.analysis.batch,
        zero,
        _staying(partition, gone),
    )


def _staying(partition: Partition, gone: Gone) -> dict[str, dict[int, np.ndarray]]:
    """Node that makes what a module returns -> dimension -> which of its positions stay, for those that lose some."""
    analysis, cut = partition.origin.analysis, partition.origin.cut(gone)
    found: dict[str, dict[int, np.ndarray]] = {}
    for name in sites(analysis.graph).values():
        layout = analysis.layouts.get(name, ())
        for dim, axis in enumerate(layout if isinstance(layout, tuple) else ()):
            if axis.atoms is not None and cut[axis.atoms].any():
                found.setdefault(name, {})[dim] = ~cut[axis.atoms]
    return found


def _as_module(
    proof: Proof, module: nn.Module, partition: Partition, gone: Gone, slices: Slices
) -> tuple[How | None, str]:
    """The way that is proven and needs the fewest integers, or why there is none."""
    made: dict[int, nn.Module] = {}

    def reason(integers: Integers, *more: str) -> str:
        def other(full: nn.Module) -> nn.Module:
            if id(full) not in made:
                made[id(full)] = _same_class(full, partition, gone, slices)
            _set_integers(made[id(full)], able, 0)
            _set_integers(made[id(full)], integers)
            return made[id(full)]

        return proof.why_not(other, *more)

    able: Integers = {}
    why = reason({})
    if not why:
        return How("module"), ""
    able = _integers(module, partition, gone)
    if not able:
        return None, why
    # By class and name of the attribute: a forward pass is written for all modules of a class.
    owners = dict(module.named_modules())
    names = dict.fromkeys((type(owners[path]), name) for path, found in able.items() for name in found)

    def only(keys: Collection[tuple[type, str]]) -> Integers:
        chosen = {
            path: {n: change for n, change in found.items() if (type(owners[path]), n) in keys}
            for path, found in able.items()
        }
        return {path: found for path, found in chosen.items() if found}

    needed = list(names)
    if len(names) > 1:
        if reason(able):
            return None, why
        needed = [key for key in names if reason(only(names.keys() - {key}))]
    integers = only(needed)
    if unclear := reason(integers, "longer"):
        if len(names) == 1 and reason(able):
            return None, why
        shown = ", ".join(sorted({name for _, name in names}))
        return None, f"which of {shown} stand for sizes that are cut is not clear: {unclear}"
    return How("module", integers), ""


def _as_graph(proof: Proof, partition: Partition, gone: Gone, slices: Slices) -> tuple[How | None, str]:
    """The same for the traced graph. It must take other batches than the example's as well."""
    why = proof.why_not(lambda m: rebuild(m, partition, gone, slices=slices), "more")
    if not why:
        return How("graph"), ""
    if partition.origin.analysis.batch is None:
        return None, why
    opened = proof.why_not(lambda m: rebuild(m, partition, gone, True, slices), "more")
    return (None, opened) if opened else (How("graph", open_batch=True), "")


def check_sliceable(module: nn.Module, partition: Partition) -> None:
    """Slices one group of each component that can be pruned, all together, and proves the result.

    For before a training: SliceError names the components whose groups cannot be cut after all, and why.
    """
    if not partition.prunable:
        return
    gone = {c.name: np.array([c.size // 2]) for c in partition.prunable}
    try:
        choose(module, partition, gone, "auto")
        return
    except SliceError as error:
        problem = error
    found = _culprits(module, partition, gone, list(gone))
    named = {c.name: c for c in partition.prunable}
    text = "; ".join(f"{name} ({', '.join(named[name].operators[:3])})" for name in found[:5])
    raise SliceError(f"{problem}; it is {text}") from None


def _culprits(module: nn.Module, partition: Partition, gone: Gone, names: list[str]) -> list[str]:
    """Components of which one cannot be cut, or that cannot be cut together; `names` cannot."""
    if len(names) == 1:
        return names
    half = len(names) // 2
    for part in (names[:half], names[half:]):
        try:
            choose(module, partition, {name: gone[name] for name in part}, "auto")
        except SliceError:
            return _culprits(module, partition, gone, part)
    return names


def groups_gone(partition: Partition, kept: Kept) -> Gone:
    """The groups that are not `kept`, by component. SliceError if there are no such groups, or they must stay."""
    components = {c.name: c for c in partition.components}
    gone: dict[str, np.ndarray] = {}
    for name, groups in kept.items():
        if name not in components:
            raise SliceError(f"kept: no component {name}; there are {', '.join(components)}")
        component, chosen = components[name], np.unique(np.asarray(groups, int))
        if not len(chosen):
            raise SliceError(f"{name}: no group is kept; at least one must be")
        if chosen[0] < 0 or chosen[-1] >= component.size:
            raise SliceError(f"{name}: groups {chosen[0]} to {chosen[-1]}; there are {component.size}")
        rest = np.setdiff1d(np.arange(component.size), chosen)
        if len(rest) and not component.prunable:
            raise SliceError(f"{name}: all {component.size} groups must stay: {component.reason}")
        if len(rest):
            gone[name] = rest
    return gone


# ---- a module of the same class ----


def _same_class(module: nn.Module, partition: Partition, gone: Gone, slices: Slices) -> nn.Module:
    """A copy with sliced tensors and corrected layers."""
    memo: dict[int, Tensor] = {}
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        memo[id(tensor)] = slices(tensor, name)
    result = copied(module, memo)
    cut, modules = partition.origin.cut(gone), dict(result.named_modules())
    nodes = {node.name: node for node in partition.origin.analysis.graph.aten.nodes}
    for (node, name), axis in partition.origin.analysis.sizes.items():
        owner = modules.get(scope(nodes[node]))
        if axis.atoms is not None and getattr(owner, name, None) == axis.size:
            setattr(owner, name, int((~cut[axis.atoms]).sum()))
    for part in modules.values():
        _correct(part)
    return result


def _set_integers(module: nn.Module, integers: Integers, which: int = 1) -> None:
    """Sets attributes to what they become, or, with `which` 0, to what they were."""
    modules = dict(module.named_modules()) if integers else {}
    for path, changes in integers.items():
        for name, pair in changes.items():
            if getattr(modules.get(path), name, None) not in pair:
                where = path or type(module).__name__
                raise SliceError(f"{where}.{name}: must be {pair[0]} for a sub-network to be made of it")
            setattr(modules[path], name, pair[which])


def _correct(layer: nn.Module) -> None:
    """Sizes that the layers of PyTorch keep beside their tensors."""
    if isinstance(layer, TRANSPOSED):
        layer.in_channels, layer.out_channels = len(layer.weight), layer.weight.shape[1] * layer.groups
    elif isinstance(layer, CONVOLUTIONS):
        layer.out_channels, layer.in_channels = len(layer.weight), layer.weight.shape[1] * layer.groups
    elif type(layer) is nn.Linear:
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, NORMS):
        tensor = layer.weight if layer.weight is not None else layer.running_mean
        if tensor is not None:
            layer.num_features = len(tensor)
    elif isinstance(layer, nn.GroupNorm) and layer.weight is not None:
        layer.num_channels = len(layer.weight)
    elif isinstance(layer, nn.Embedding):
        layer.embedding_dim = layer.weight.shape[1]
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = len(layer.weight)


def _integers(module: nn.Module, partition: Partition, gone: Gone) -> Integers:
    """Attributes that are a size which reshapes of their module state and which becomes another one.

    Sizes that could become two things are left out. Which attributes do stand for the sizes only a proof can tell.
    """
    analysis, cut = partition.origin.analysis, partition.origin.cut(gone)
    found: dict[str, dict[int, set[int]]] = {}
    for node in analysis.graph.aten.nodes:
        if kind(node) not in RESHAPES:
            continue
        layout = analysis.layouts.get(node.name, ())
        for axis in [a for one in ([layout] if isinstance(layout, tuple) else layout) for a in one]:
            after = axis.size if axis.atoms is None else int((~cut[axis.atoms]).sum())
            found.setdefault(scope(node), {}).setdefault(axis.size, set()).add(after)
    owners, made = dict(module.named_modules()), {}
    for path, table in found.items():
        changes = {before: after - {before} for before, after in table.items()}
        made[path] = {
            name: (value, min(changes[value]))
            for name, value in (vars(owners[path]) if path in owners else {}).items()
            if type(value) is int and not name.startswith("_") and len(changes.get(value, ())) == 1
        }
    return {path: changes for path, changes in made.items() if changes}
