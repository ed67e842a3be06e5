"""What reshaping, slicing, joining and padding do to channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import fx

from fairsweep.search_spaces.pruning.channels import Axis
from fairsweep.search_spaces.pruning.dependencies import Analysis, Layout, argument, rule
from fairsweep.search_spaces.pruning.trace import kind, scope, shapes


def factor(before: Sequence[int], after: Sequence[int]) -> list[tuple[int, int, int]] | None:
    """Common refinement of two shapes of one tensor: (axis before, axis after, size) in order, sizes of 1 left out.

    None if they have none, as (4, 3) and (6, 2).
    """
    found, i, j = [], 0, 0
    a, b = list(before), list(after)
    while i < len(a) and j < len(b):
        if a[i] == 1:
            i += 1
        elif b[j] == 1:
            j += 1
        elif a[i] % b[j] == 0:
            found.append((i, j, b[j]))
            a[i] //= b[j]
            b[j] = 1
        elif b[j] % a[i] == 0:
            found.append((i, j, a[i]))
            b[j] //= a[i]
            a[i] = 1
        else:
            return None
    return found


@rule("view", "reshape", "flatten", "unflatten", "_unsafe_view", "view_as", "reshape_as")
def reshape(analysis: Analysis, node: fx.Node) -> Layout | None:
    x, shape = analysis.layout(node.args[0]), analysis.shape(node)
    parts = factor([a.size for a in x], shape)
    if parts is None:
        return None
    into: list[list[Axis]] = [[] for _ in shape]
    for i, axis in enumerate(x):
        mine = [(j, n) for k, j, n in parts if k == i]
        pieces = analysis.channels.split(axis, [n for _, n in mine]) if len(mine) > 1 else [axis] * len(mine)
        for (j, _), piece in zip(mine, pieces, strict=True):
            into[j].append(piece)
    made = [analysis.channels.merge(axes) if axes else Axis(1) for axes in into]
    if x and made and x[0].size == 1 and made[0].size == 1:
        made[0] = x[0]
    return tuple(made)


@rule("permute")
def permute(analysis: Analysis, node: fx.Node) -> Layout:
    x = analysis.layout(node.args[0])
    return tuple(x[d] for d in argument(node, 1, "dims"))


@rule("transpose", "swapaxes")
def transpose(analysis: Analysis, node: fx.Node) -> Layout:
    x = list(analysis.layout(node.args[0]))
    a, b = node.args[1:3]
    x[a], x[b] = x[b], x[a]  # type: ignore[index]  # dimensions are integers
    return tuple(x)


@rule("mT", "adjoint")
def transpose_last(analysis: Analysis, node: fx.Node) -> Layout | None:
    x = analysis.layout(node.args[0])
    return (*x[:-2], x[-1], x[-2]) if len(x) > 1 else None


@rule("t", "numpy_T")
def flip_last(analysis: Analysis, node: fx.Node) -> Layout | None:
    x = analysis.layout(node.args[0])
    return x if len(x) < 2 else (x[1], x[0]) if len(x) == 2 else None


@rule("movedim")
def movedim(analysis: Analysis, node: fx.Node) -> Layout | None:
    x = analysis.layout(node.args[0])
    source = [node.args[1]] if isinstance(node.args[1], int) else list(node.args[1])  # type: ignore[arg-type]
    target = [node.args[2]] if isinstance(node.args[2], int) else list(node.args[2])  # type: ignore[arg-type]
    rest = [d for d in range(len(x)) if d not in {int(s) % len(x) for s in source}]  # type: ignore[arg-type]
    for t, s in sorted((int(t) % len(x), int(s) % len(x)) for t, s in zip(target, source, strict=True)):  # type: ignore[arg-type]
        rest.insert(t, s)
    return tuple(x[d] for d in rest)


@rule("unsqueeze")
def unsqueeze(analysis: Analysis, node: fx.Node) -> Layout:
    x = list(analysis.layout(node.args[0]))
    dim = argument(node, 1, "dim")
    x.insert(dim % (len(x) + 1), Axis(1))
    return tuple(x)


@rule("squeeze")
def squeeze(analysis: Analysis, node: fx.Node) -> Layout:
    x = analysis.layout(node.args[0])
    dims = argument(node, 1, "dim")
    chosen = range(len(x)) if dims is None else [dims] if isinstance(dims, int) else dims
    gone = {d % len(x) for d in chosen}
    return tuple(a for d, a in enumerate(x) if d not in gone or a.size != 1)


@rule("expand", "expand_as", "broadcast_to")
def expand(analysis: Analysis, node: fx.Node) -> Layout:
    """New positions all hold the same: they can be cut where what they meet is."""
    x, shape = analysis.layout(node.args[0]), analysis.shape(node)
    lead = len(shape) - len(x)
    made = []
    for d, size in enumerate(shape):
        old = x[d - lead] if d >= lead else Axis(1)
        made.append(old if old.size == size else replace(analysis.channels.fresh(size), copies=True))
    return tuple(made)


@rule("repeat", "tile")
def repeat(analysis: Analysis, node: fx.Node) -> Layout | None:
    x, shape = analysis.layout(node.args[0]), analysis.shape(node)
    lead = len(shape) - len(x)
    made = []
    for d, size in enumerate(shape):
        old = x[d - lead] if d >= lead else Axis(1)
        analysis.channels.block(old, "it is repeated", np.full(old.size, old.size not in (1, size)))
        made.append(old if old.size == size else Axis(size, batch=old.batch))
    return tuple(made)


@rule("repeat_interleave")
def repeat_interleave(analysis: Analysis, node: fx.Node) -> Layout | None:
    x = list(analysis.layout(node.args[0]))
    times, dim = argument(node, 1, "repeats"), argument(node, 2, "dim")
    if not isinstance(times, int) or dim is None:
        return None
    x[dim] = analysis.channels.merge((x[dim], Axis(times)))
    return tuple(x)


# ---- parts ----


@rule("slice", "narrow")
def cut_out(analysis: Analysis, node: fx.Node) -> Layout | None:
    x = list(analysis.layout(node.args[0]))
    dim = argument(node, 1, "dim", 0) % len(x)
    start = argument(node, 2, "start") or 0
    if kind(node) == "narrow":
        stop, step = start + argument(node, 3, "length"), 1
    else:
        stop, step = argument(node, 3, "end"), argument(node, 4, "step", 1)
    index = np.arange(x[dim].size)[start:stop:step]
    if step != 1:
        analysis.channels.block(x[dim], f"{scope(node) or 'the network'} takes every {step}th of it")
    x[dim] = _part(analysis, node, x[dim], index)
    return tuple(x)


def _part(analysis: Analysis, node: fx.Node, axis: Axis, index: np.ndarray) -> Axis:
    """These positions of `axis`; a single one stays, since it is broadcast to whatever it meets."""
    part = axis.take(index)
    if len(index) > 1 or axis.size == 1:
        return part
    analysis.channels.block(part, f"{scope(node) or 'the network'} picks one of its positions")
    return Axis(len(index))


@rule("select")
def select(analysis: Analysis, node: fx.Node) -> Layout:
    x = list(analysis.layout(node.args[0]))
    dim = argument(node, 1, "dim") % len(x)
    analysis.channels.block(x[dim], f"{scope(node) or 'the network'} picks one of its positions")
    del x[dim]
    return tuple(x)


@rule("unbind")
def unbind(analysis: Analysis, node: fx.Node) -> list[Layout]:
    x = list(analysis.layout(node.args[0]))
    dim = argument(node, 1, "dim", 0) % len(x)
    analysis.channels.block(x[dim], f"{scope(node) or 'the network'} takes it apart")
    size = x[dim].size
    del x[dim]
    return [tuple(x)] * size


@rule("chunk", "split", "split_with_sizes", "tensor_split")
def split(analysis: Analysis, node: fx.Node) -> list[Layout]:
    x = analysis.layout(node.args[0])
    dim = argument(node, 2, "dim", 0) % len(x)
    made, start = [], 0
    for shape in shapes(node):
        part = _part(analysis, node, x[dim], np.arange(start, start + shape[dim]))
        start += shape[dim]
        made.append((*x[:dim], part, *x[dim + 1 :]))
    return made


@rule("getitem")
def getitem(analysis: Analysis, node: fx.Node) -> Layout | None:
    source, number = node.args[:2]
    found: Any = analysis.layouts.get(getattr(source, "name", ""))
    return found[number] if isinstance(found, list) and isinstance(number, int) else None


@rule("index")
def index(analysis: Analysis, node: fx.Node) -> Layout | None:
    """One tensor of indices on one axis; the axes beside it stay as they are."""
    x, given = analysis.layout(node.args[0]), list(node.args[1])  # type: ignore[arg-type]  # a list of nodes
    used = [d for d, i in enumerate(given) if i is not None]
    for i in given:
        for axis in analysis.layout(i):
            analysis.channels.block(axis, "it holds indices")
    if len(used) != 1:
        return None
    (d,) = used
    analysis.channels.block(x[d], f"{scope(node) or 'the network'} looks up its positions")
    rank = len(analysis.layout(given[d]))
    inner = tuple(Axis(n) for n in analysis.shape(node)[d : d + rank])
    return (*x[:d], *inner, *x[d + 1 :])


@rule("roll", "flip")
def roll(analysis: Analysis, node: fx.Node) -> Layout:
    x = analysis.layout(node.args[0])
    dims = argument(node, 2, "dims", None) if kind(node) == "roll" else argument(node, 1, "dims")
    for d in range(len(x)) if not dims else [dims] if isinstance(dims, int) else dims:
        analysis.channels.block(x[d], f"{kind(node)} moves its positions")
    return x


# ---- joints ----


@rule("cat", "concat", "concatenate")
def concatenate(analysis: Analysis, node: fx.Node) -> Layout | None:
    # One of shape (0,) may be joined to anything, and adds nothing.
    given: list[fx.Node] = list(node.args[0])  # type: ignore[arg-type]  # a list of nodes
    tensors = [t for t in given if analysis.shape(t) != (0,)]
    if not tensors:
        return None
    layouts = [analysis.layout(t) for t in tensors]
    dim = argument(node, 1, "dim", 0) % len(layouts[0])
    _register(analysis, tensors)
    made = []
    for d, size in enumerate(analysis.shape(node)):
        axes = [layout[d] for layout in layouts]
        made.append(_joined(analysis, axes) if d == dim else _common(analysis, node, axes, size))
    return tuple(made)


@rule("stack")
def stack(analysis: Analysis, node: fx.Node) -> Layout | None:
    tensors = list(node.args[0])  # type: ignore[arg-type]  # a list of nodes
    layouts = [analysis.layout(t) for t in tensors]
    shape = analysis.shape(node)
    dim = argument(node, 1, "dim", 0) % len(shape)
    _register(analysis, tensors)
    made = [_common(analysis, node, list(axes), axes[0].size) for axes in zip(*layouts, strict=True)]
    made.insert(dim, Axis(shape[dim]))
    return tuple(made)


def _register(analysis: Analysis, tensors: list[Any]) -> None:
    if not all(analysis.pure(t) for t in tensors):
        for tensor in tensors:
            analysis.produce(tensor, analysis.layout(tensor))


def _joined(analysis: Analysis, axes: list[Axis]) -> Axis:
    """Axes one after the other; positions that cannot be cut become atoms that are blocked."""
    size = sum(a.size for a in axes)
    if all(a.atoms is None for a in axes):
        return Axis(size)
    parts = []
    for axis in axes:
        if axis.atoms is None:
            fixed = analysis.channels.fresh(axis.size)
            analysis.channels.block(fixed, "a part of the tensor cannot be cut")
            parts.append(fixed)
        else:
            parts.append(axis)
    atoms = np.concatenate([p.atoms for p in parts if p.atoms is not None])
    zero = np.concatenate([p.zero for p in parts if p.zero is not None])
    return Axis(size, atoms, zero)


def _common(analysis: Analysis, node: fx.Node, axes: list[Axis], size: int) -> Axis:
    known = next((a for a in axes if a.atoms is not None), None)
    if known is None:
        return Axis(size, batch=next((a.batch for a in axes if a.batch), None))
    for axis in axes:
        analysis.channels.tie(
            known, axis, f"{kind(node)} in {scope(node) or 'the network'} joins it to what stays"
        )
    zero = np.logical_and.reduce([a.zero if a.zero is not None else np.zeros(size, bool) for a in axes])
    return Axis(size, known.atoms, zero, next((a.batch for a in axes if a.batch), None))


@rule("pad", "constant_pad_nd")
def pad(analysis: Analysis, node: fx.Node) -> Layout | None:
    x, widths = list(analysis.layout(node.args[0])), list(argument(node, 1, "pad"))
    mode, value = ("constant", argument(node, 2, "value", 0))
    if kind(node) == "pad":
        mode, value = argument(node, 2, "mode", "constant"), argument(node, 3, "value") or 0
    for k in range(len(widths) // 2):
        d, before, after = len(x) - 1 - k, widths[2 * k], widths[2 * k + 1]
        if not before and not after:
            continue
        if x[d].atoms is None or mode != "constant" or min(before, after) < 0:
            analysis.channels.block(x[d], f"{scope(node) or 'the network'} pads it")
            x[d] = Axis(x[d].size + before + after)
        else:
            ends = [analysis.channels.fresh(n, value == 0) for n in (before, after)]
            x[d] = _joined(analysis, [ends[0], x[d], ends[1]])
        if value != 0:
            x = [a if i == d else a.nonzero() for i, a in enumerate(x)]
    return tuple(x)


# ---- writing a part ----


@rule("copy")
def overwrite(analysis: Analysis, node: fx.Node) -> Layout | None:
    """The second tensor in the shape of the first."""
    made = analysis.broadcast(node, node.args[:2], "none")
    lead = len(made or ()) - len(analysis.layout(node.args[1]))
    source = [None] * lead + list(analysis.layout(node.args[1]))
    return made and tuple(
        a if s is None or s.zero is None or a.atoms is None or s.size != a.size else a.with_zero(s.zero)
        for a, s in zip(made, source, strict=True)
    )


@rule("copy_")
def keep(analysis: Analysis, node: fx.Node) -> Layout:
    """Into a buffer: what is kept there stays, as `Analysis.run` says."""
    return analysis.layout(node.args[0])


@rule("slice_scatter")
def put_slice(analysis: Analysis, node: fx.Node) -> Layout | None:
    """A tensor with the positions start:stop:step of an axis from another one."""
    x, source = analysis.layout(node.args[0]), analysis.layout(node.args[1])
    dim = argument(node, 2, "dim", 0) % len(x)
    start, stop, step = argument(node, 3, "start"), argument(node, 4, "end"), argument(node, 5, "step", 1)
    index = np.arange(x[dim].size)[start:stop:step]
    if step != 1 or len(index) not in (source[dim].size, x[dim].size):
        return None
    made = [
        _common(analysis, node, [a, b], a.size) if d != dim else a
        for d, (a, b) in enumerate(zip(x, source, strict=True))
    ]
    before, after = x[dim].take(np.arange(index[0])), x[dim].take(np.arange(index[-1] + 1, x[dim].size))
    why = f"{scope(node) or 'the network'} writes into a part of it"
    analysis.channels.tie(x[dim].take(index), source[dim], why)
    made[dim] = _joined(analysis, [before, source[dim], after])
    return tuple(made)


@rule("select_scatter")
def put_position(analysis: Analysis, node: fx.Node) -> Layout | None:
    """A tensor with one position of an axis from another one."""
    x, source = analysis.layout(node.args[0]), analysis.layout(node.args[1])
    dim = argument(node, 2, "dim") % len(x)
    analysis.channels.block(x[dim], f"{scope(node) or 'the network'} writes into one of its positions")
    rest = [
        _common(analysis, node, [a, b], a.size)
        for a, b in zip((*x[:dim], *x[dim + 1 :]), source, strict=True)
    ]
    return (*rest[:dim], Axis(x[dim].size, batch=x[dim].batch), *rest[dim:])


# ---- between channels and space ----


@rule("pixel_shuffle")
def pixel_shuffle(analysis: Analysis, node: fx.Node) -> Layout:
    """(..., c r^2, h, w) -> (..., c, h r, w r): the r^2 channels that make one go together."""
    x, shape = analysis.layout(node.args[0]), analysis.shape(node)
    space = x[-3].size // shape[-3]
    channel, _ = analysis.channels.split(x[-3], (shape[-3], space), 0)
    for axis in x[-2:]:
        analysis.channels.block(axis, "pixel shuffle enlarges it")
    return (*x[:-3], channel, Axis(shape[-2]), Axis(shape[-1]))


@rule("pixel_unshuffle")
def pixel_unshuffle(analysis: Analysis, node: fx.Node) -> Layout:
    x, shape = analysis.layout(node.args[0]), analysis.shape(node)
    channel = analysis.channels.merge((x[-3], Axis(shape[-3] // x[-3].size)))
    for axis in x[-2:]:
        analysis.channels.block(axis, "pixel unshuffle shrinks it")
    return (*x[:-3], channel, Axis(shape[-2]), Axis(shape[-1]))


@rule("im2col")
def unfold(analysis: Analysis, node: fx.Node) -> Layout:
    x, shape = analysis.layout(node.args[0]), analysis.shape(node)
    for axis in x[-2:]:
        analysis.channels.block(axis, "its windows go over it")
    return (*x[:-3], analysis.channels.merge((x[-3], Axis(shape[-2] // x[-3].size))), Axis(shape[-1]))
