"""The sub-network without its zero groups: an ordinary module that computes what the full one computes.

First the module itself is copied with sliced parameters and buffers, and the sizes that its layers keep as attributes
are corrected. A forward pass that has sizes written into it does not follow; so the copy is held against the full
module, with random numbers in double precision, and if it fails, the traced graph with corrected sizes takes its
place (`rebuild`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from search_spaces.pruning.groups import Partition
from search_spaces.pruning.rebuild import Gone, kept_positions, rebuild, sliced
from search_spaces.pruning.trace import kind, scope

Kept = Mapping[
    str, Sequence[int]
]  # component -> the groups that stay; a component that is not named stays whole

RESHAPES = {"view", "reshape", "unflatten", "expand", "split", "split_with_sizes", "chunk", "narrow", "slice"}
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
)  # fmt: skip
TOLERANCE = 1e-9  # of the largest output, in double precision


class SliceError(ValueError):
    """Groups that do not belong to the partition, or a sub-network that would not compute what the full one does."""


def zero_groups(module: nn.Module, partition: Partition) -> dict[str, list[int]]:
    """The groups whose variables are all exactly zero, by the name of their component."""
    values = dict(module.named_parameters())
    with torch.no_grad():
        return {
            c.name: (~partition.vectors(c, values).any(1)).nonzero().flatten().tolist()
            for c in partition.prunable
        }


def kept_groups(module: nn.Module, partition: Partition) -> dict[str, list[int]]:
    """The groups that are not zero. SliceError if a component has none: nothing would be left of its layers."""
    zero = zero_groups(module, partition)
    return {c.name: sorted(set(range(c.size)) - set(zero[c.name])) for c in partition.prunable}


def slice_module(
    module: nn.Module, partition: Partition, kept: Kept | None = None, form: str = "auto"
) -> nn.Module:
    """`module` without the groups that are not `kept`; the result computes the same if those are zero.

    kept: component -> groups that stay; None keeps those that are not zero. form: "module" for a module of the
    original class, "graph" for the traced graph in eval mode, "auto" for the first if it can be. The result has no
    parameter in common with `module`. SliceError says what cannot be cut.
    """
    if form not in ("auto", "module", "graph"):
        raise SliceError(f"form={form!r}: must be auto, module or graph")
    gone = _gone(partition, kept_groups(module, partition) if kept is None else kept)
    trial = _disturbed(module, partition, gone)
    if form != "graph":
        for adapt in (False, True):
            if _agree(trial, lambda m: _same_class(m, partition, gone, adapt), partition):  # noqa: B023
                return _same_class(module, partition, gone, adapt)
        if form == "module":
            raise SliceError(
                f"form=module: {type(module).__name__} has sizes in its forward pass that would have to change; "
                "take graph"
            )
    if not _agree(trial, lambda m: rebuild(m, partition, gone), partition):
        raise SliceError(f"{type(module).__name__}: the sub-network does not compute what the full one does")
    return rebuild(module, partition, gone)


def _gone(partition: Partition, kept: Kept) -> Gone:
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


def _same_class(module: nn.Module, partition: Partition, gone: Gone, adapt: bool) -> nn.Module:
    """A copy with sliced tensors and corrected layers; `adapt` also corrects integers of the modules around them."""
    keep = kept_positions(partition, gone)
    memo: dict[int, Any] = {}
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        memo[id(tensor)] = sliced(tensor, name, keep)
    result = copy.deepcopy(module, memo)
    counts = {
        place: (axis.size, int((~cut).sum()))
        for place, axis in partition.origin.analysis.sizes.items()
        if axis.atoms is not None and (cut := partition.origin.cut(gone)[axis.atoms]) is not None
    }
    modules = dict(result.named_modules())
    for node in partition.origin.analysis.graph.fx.nodes:
        for name in ("groups", "num_groups"):
            if (node.name, name) in counts and scope(node) in modules:
                before, after = counts[node.name, name]
                owner = modules[scope(node)]
                if getattr(owner, name, None) == before:
                    setattr(owner, name, after)
    for part in modules.values():
        _correct(part)
    if adapt:
        for path, changes in _integers(partition, gone).items():
            for name, value in vars(modules[path]).items():
                if type(value) is int and value in changes and not name.startswith("_"):
                    setattr(modules[path], name, changes[value])
    return result


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


def _integers(partition: Partition, gone: Gone) -> dict[str, dict[int, int]]:
    """Module -> sizes that its reshapes state, before and after; those that could become two things are left out."""
    analysis, cut = partition.origin.analysis, partition.origin.cut(gone)
    found: dict[str, dict[int, set[int]]] = {}
    for node in analysis.graph.fx.nodes:
        if kind(node) not in RESHAPES:
            continue
        layout = analysis.layouts.get(node.name, ())
        for axis in [a for one in ([layout] if isinstance(layout, tuple) else layout) for a in one]:
            after = axis.size if axis.atoms is None else int((~cut[axis.atoms]).sum())
            found.setdefault(scope(node), {}).setdefault(axis.size, set()).add(after)
    made = {}
    for path, table in found.items():
        changes = {before: min(after) for before, after in table.items() if after - {before}}
        made[path] = {
            before: after for before, after in changes.items() if len(table[before] - {before}) == 1
        }
    return {path: changes for path, changes in made.items() if changes}


# ---- the proof by example ----


def _disturbed(module: nn.Module, partition: Partition, gone: Gone) -> nn.Module:
    """A copy in double precision, every parameter moved a little so that none hides another, groups at zero."""
    generator = torch.Generator().manual_seed(0)

    def double(tensor: Tensor, noise: float) -> Tensor:
        if not tensor.is_floating_point():
            return tensor.detach().clone()
        value = tensor.detach().double()
        return value + noise * torch.randn(value.shape, generator=generator, dtype=value.dtype).to(
            value.device
        )

    memo: dict[int, Any] = {}
    for _, p in module.named_parameters():
        memo[id(p)] = nn.Parameter(double(p, 0.05), requires_grad=False)
    for name, b in module.named_buffers():
        memo[id(b)] = double(b, 0.05 if name.endswith("running_mean") else 0.0)
    trial = copy.deepcopy(module, memo).eval()
    values = dict(trial.named_parameters())
    for component in partition.components:
        if component.name in gone:
            partition.zero(component, torch.from_numpy(gone[component.name]), values)
    return trial


def _agree(trial: nn.Module, make: Callable[[nn.Module], nn.Module], partition: Partition) -> bool:
    """Whether what `make` makes of the full network `trial` computes the same."""
    inputs = [
        x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in partition.origin.inputs
    ]
    with torch.no_grad():
        full = list(tensors(trial(*inputs)))
        try:
            small = list(tensors(make(trial).eval()(*inputs)))
        except Exception:  # whatever a forward pass with wrong sizes raises: the next form is tried
            return False
    if [t.shape for t in full] != [t.shape for t in small]:
        return False
    return all(
        float((a - b).abs().max()) <= TOLERANCE * max(1.0, float(a.abs().max()))
        for a, b in zip(full, small, strict=True)
        if a.numel()
    )


def tensors(output: Any) -> Iterator[Tensor]:
    """All floating tensors in nested tuples, lists and mappings."""
    if isinstance(output, Tensor):
        yield output.double() if not output.is_complex() else output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from tensors(value)
