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
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
NORMS = (*BATCH_NORMS, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
FORMS = ("auto", "module", "graph")
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
    gone = _gone(partition, kept_groups(module, partition) if kept is None else kept)
    makers: list[Callable[[nn.Module], nn.Module]] = []
    if form != "graph":
        makers.append(lambda m: _same_class(m, partition, gone, {}))
        integers = _integers(partition, gone)
        if integers:
            makers.append(lambda m: _same_class(m, partition, gone, integers))
    if form != "module":
        makers.append(lambda m: rebuild(m, partition, gone))
    if not check:
        return makers[-1](module)
    trial = _disturbed(module, partition, gone)
    for make in makers:
        if _agree(trial, make, partition):
            return make(module).train(module.training)
    name = type(module).__name__
    if form == "module":
        raise SliceError(
            f"form='module': the forward pass of {name} does not run with smaller sizes; take 'graph'"
        )
    raise SliceError(f"{name}: no sub-network computes what the full one does; report its architecture")


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


def _same_class(
    module: nn.Module, partition: Partition, gone: Gone, integers: dict[str, dict[int, int]]
) -> nn.Module:
    """A copy with sliced tensors and corrected layers, and in other modules the `integers` before and after."""
    keep = kept_positions(partition, gone)
    scopes = {node.name: scope(node) for node in partition.origin.analysis.graph.aten.nodes}
    memo: dict[int, Any] = {}
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        memo[id(tensor)] = sliced(tensor, name, keep)
    result = copy.deepcopy(module, memo)
    cut, modules = partition.origin.cut(gone), dict(result.named_modules())
    for (node, name), axis in partition.origin.analysis.sizes.items():
        owner = modules.get(scopes[node])
        if axis.atoms is not None and getattr(owner, name, None) == axis.size:
            setattr(owner, name, int((~cut[axis.atoms]).sum()))
    for part in modules.values():
        _correct(part)
    for path, changes in integers.items():
        for name, value in list(vars(modules[path]).items()) if path in modules else ():
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
    for node in analysis.graph.aten.nodes:
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
        memo[id(p)] = nn.Parameter(double(p, 0.1), requires_grad=False)
    for name, b in module.named_buffers():
        memo[id(b)] = double(b, 0.1 if name.endswith("running_mean") else 0.0)
    trial = copy.deepcopy(module, memo).eval()
    values = dict(trial.named_parameters())
    for component in partition.components:
        if component.name in gone:
            partition.zero(component, torch.from_numpy(gone[component.name]), values)
    _calibrate(trial, [_example(x) for x in partition.origin.inputs])
    return trial


def _calibrate(trial: nn.Module, inputs: list[Any]) -> None:
    """Batch statistics those of the inputs: behind others a signal may die out, and the comparison say nothing."""
    norms = [m for m in trial.modules() if isinstance(m, BATCH_NORMS) and m.track_running_stats]
    before = [(m.momentum, copy.deepcopy(m.state_dict())) for m in norms]
    for m in norms:
        m.momentum = 1.0
        m.train()
    try:
        with torch.no_grad():
            trial(*inputs)
    except ValueError:  # a single number a channel has no variance
        for m, (_, state) in zip(norms, before, strict=True):
            m.load_state_dict(state)
    for m, (momentum, _) in zip(norms, before, strict=True):
        m.momentum = momentum
        m.eval()


def _agree(trial: nn.Module, make: Callable[[nn.Module], nn.Module], partition: Partition) -> bool:
    """Whether what `make` makes of the full network `trial` computes the same."""
    inputs = [_example(x) for x in partition.origin.inputs]
    with torch.no_grad():
        full = list(tensors(trial(*inputs)))
        made = make(trial).eval()
        try:
            small = list(tensors(made(*inputs)))
        except Exception:  # whatever a forward pass with wrong sizes raises: the next form is tried
            return False
    return [t.shape for t in full] == [t.shape for t in small] and all(
        torch.allclose(
            a, b, rtol=0, atol=TOLERANCE * max(1.0, float(a.nan_to_num().abs().max())), equal_nan=True
        )
        for a, b in zip(full, small, strict=True)
        if a.numel()
    )


def _example(value: Any) -> Any:
    """An input in double precision; numbers that are all the same say too little and become random."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    if value.numel() and bool((value == value.flatten()[0]).all()):
        return torch.randn(value.shape, generator=torch.Generator().manual_seed(1)).to(value.device).double()
    return value.double()


def tensors(output: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and mappings, in double precision."""
    if isinstance(output, Tensor):
        yield output.double()
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from tensors(value)
