"""What convolutions, linear layers, matrix products, attention and embeddings do to channels."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import fx

from fairsweep.search_spaces.pruning.channels import Axis
from fairsweep.search_spaces.pruning.dependencies import Analysis, Layout, argument, rule
from fairsweep.search_spaces.pruning.trace import kind, scope

# ---- convolutions ----


def _bias(analysis: Analysis, node: fx.Node, bias: Any, channel: Axis) -> Axis:
    """The output channels of a layer, with its bias: zero where the rows and the bias are."""
    if not isinstance(bias, fx.Node):
        return channel
    (shift,) = analysis.layout(bias)
    analysis.produce(bias, (shift,))
    analysis.channels.tie(channel, shift, f"the bias of {scope(node)} cannot be cut")
    if channel.atoms is None or channel.zero is None or shift.zero is None:
        return channel
    return channel.with_zero(channel.zero & shift.zero)


def _read(analysis: Analysis, node: fx.Node, x: Axis, columns: Axis) -> None:
    """A layer reads `x`: its columns go along, and what they read must be zero."""
    analysis.channels.tie(x, columns, f"{scope(node) or kind(node)} reads a tensor that cannot be cut")
    analysis.mix(x, node)


@rule("conv1d", "conv2d", "conv3d")
def convolution(analysis: Analysis, node: fx.Node) -> Layout | None:
    """weight (out, in / groups, ...)."""
    x, w = analysis.layout(node.args[0]), analysis.layout(node.args[1])
    groups = argument(node, 6, "groups", 1)
    space, c = len(w) - 2, len(x) - len(w) + 1
    _still(analysis, node, (*x[-space:], *w[2:]))
    analysis.produce(node.args[0], x)
    analysis.produce(node.args[1], w[:1])
    if groups == 1:
        _read(analysis, node, x[c], w[1])
    else:
        outer, inner = analysis.channels.split(x[c], (groups, x[c].size // groups))
        rows, _ = analysis.channels.split(w[0], (groups, w[0].size // groups))
        analysis.channels.tie(outer, rows, f"{scope(node)} keeps its groups")
        analysis.sizes[node.name, "groups"] = rows
        if inner.size > 1:
            _read(analysis, node, inner, w[1])
    channel = _bias(analysis, node, argument(node, 2, "bias"), w[0])
    return _convolved(node, x, channel, c)


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed_convolution(analysis: Analysis, node: fx.Node) -> Layout | None:
    """weight (in, out / groups, ...)."""
    x, w = analysis.layout(node.args[0]), analysis.layout(node.args[1])
    groups = argument(node, 6, "groups", 1)
    space, c = len(w) - 2, len(x) - len(w) + 1
    _still(analysis, node, (*x[-space:], *w[2:]))
    analysis.produce(node.args[0], x)
    channel = w[1]
    if groups == 1:
        analysis.produce(node.args[1], w[1:2])
        _read(analysis, node, x[c], w[0])
    elif w[0].size == groups and w[1].size == 1:
        analysis.produce(node.args[1], w[:1])
        analysis.channels.tie(x[c], w[0], f"{scope(node)} keeps its channels")
        analysis.sizes[node.name, "groups"] = channel = w[0]
    else:
        analysis.produce(node.args[1], w[1:2])
        _, inner = analysis.channels.split(x[c], (groups, x[c].size // groups), 1)
        _, columns = analysis.channels.split(w[0], (groups, w[0].size // groups), 1)
        _read(analysis, node, inner, columns)
        channel = analysis.channels.merge((Axis(groups), w[1]))
    channel = _bias(analysis, node, argument(node, 2, "bias"), channel)
    return _convolved(node, x, channel, c)


def _still(analysis: Analysis, node: fx.Node, axes: tuple[Axis, ...]) -> None:
    for axis in axes:
        analysis.channels.block(axis, f"{scope(node)} convolves over it")


def _convolved(node: fx.Node, x: Layout, channel: Axis, c: int) -> Layout:
    shape = tuple(node.meta["val"].shape)
    return (*(a.nonzero() for a in x[:c]), channel, *(Axis(n) for n in shape[c + 1 :]))


# ---- products ----


@rule("linear")
def linear(analysis: Analysis, node: fx.Node) -> Layout | None:
    """weight (out, in)."""
    x, w = analysis.layout(node.args[0]), analysis.layout(node.args[1])
    if len(w) != 2:
        return None
    analysis.produce(node.args[0], x)
    if analysis.pure(node.args[1]):
        analysis.produce(node.args[1], w[:1])
        _read(analysis, node, x[-1], w[1])
    else:
        _contract(analysis, node, [(x[-1], True), (w[1], True)])
    channel = _bias(analysis, node, argument(node, 2, "bias"), w[0])
    bias = isinstance(argument(node, 2, "bias"), fx.Node)
    return (*(a.nonzero() if bias else a for a in x[:-1]), channel)


def _contract(analysis: Analysis, node: fx.Node, axes: list[tuple[Axis, bool]]) -> None:
    """Products are summed up along axes: one factor must be zero. (axis, whether its promise of zero counts)."""
    first, *others = [a for a, _ in axes]
    where = f"{kind(node)} in {scope(node) or 'the network'}"
    for other in others:
        analysis.channels.tie(first, other, f"{where} sums up along it")
    zero = np.zeros(first.size, bool)
    for axis, counts in axes:
        if counts and axis.zero is not None:
            zero |= axis.zero
    for axis, _ in axes:
        analysis.channels.block(axis, f"{where} sums it up where it is not zero", ~zero)


def _product(analysis: Analysis, node: fx.Node, operands: list[tuple[Any, str]], out: str) -> Layout | None:
    """Sums of products in the notation of Einstein.

    Where an axis that all operands share can be cut, it is taken for the heads of an attention, and nothing else is.
    """
    axes: dict[str, list[tuple[Axis, bool]]] = {}
    plain = [analysis.pure(o) for o, _ in operands]
    for (operand, letters), pure in zip(operands, plain, strict=True):
        layout = analysis.layout(operand)
        if len(layout) != len(letters) or len(set(letters)) != len(letters):
            return None
        if pure and not all(plain):
            analysis.produce(operand, [a for a, c in zip(layout, letters, strict=True) if c in out])
        for axis, letter in zip(layout, letters, strict=True):
            axes.setdefault(letter, []).append((axis, not pure or letter in out))
    sizes = {c: max(a.size for a, _ in found) for c, found in axes.items()}
    full = {c: [(a, z) for a, z in found if a.size == sizes[c]] for c, found in axes.items()}
    where = f"{kind(node)} in {scope(node) or 'the network'}"
    shared = [c for c, found in full.items() if c in out and len(found) == len(operands)]
    heads = any(a.atoms is not None and not a.only_batch and a.size > 1 for c in shared for a, _ in full[c])
    result: dict[str, Axis] = {}
    for letter, found in full.items():
        if heads and letter not in shared:
            for axis, _ in found:
                analysis.channels.block(axis, f"{where} goes by heads, which are cut as a whole")
            result[letter] = Axis(sizes[letter], batch=next((a.batch for a, _ in found if a.batch), None))
        elif letter not in out:
            _contract(analysis, node, found)
        else:
            known = next((a for a, _ in found if a.atoms is not None), found[0][0])
            for axis, _ in found:
                analysis.channels.tie(known, axis, f"{where} keeps it")
            zeros = [a.zero for a, _ in found if a.zero is not None]
            result[letter] = (
                known.with_zero(np.logical_or.reduce(zeros)) if known.atoms is not None else known
            )
    return tuple(result[c] for c in out)


_LETTERS = "ABCDEFGH"


@rule("matmul", "bmm", "mm")
def matmul(analysis: Analysis, node: fx.Node) -> Layout | None:
    a, b = node.args[:2]
    ranks = len(analysis.layout(a)), len(analysis.layout(b))
    if min(ranks) < 2:
        return None
    left, right = ("".join(_LETTERS[-(r - 2) :] if r > 2 else "") for r in ranks)
    longest = left if len(left) >= len(right) else right
    return _product(analysis, node, [(a, left + "mk"), (b, right + "kn")], longest + "mn")


@rule("einsum")
def einsum(analysis: Analysis, node: fx.Node) -> Layout | None:
    equation = str(node.args[0]).replace(" ", "")
    if "." in equation or "->" not in equation or len(node.args[1]) != 2:  # type: ignore[arg-type]  # a list of nodes
        return None
    inputs, out = equation.split("->")
    return _product(analysis, node, list(zip(node.args[1], inputs.split(","), strict=True)), out)  # type: ignore[arg-type]


@rule("scaled_dot_product_attention")
def attention(analysis: Analysis, node: fx.Node) -> Layout | None:
    """query (..., l, e), key (..., s, e), value (..., s, v): leading axes are heads, and e stays with its scale."""
    query, key, value = node.args[:3]
    q, k, v = (analysis.layout(n) for n in (query, key, value))
    mask = argument(node, 3, "attn_mask")
    if len({len(q), len(k), len(v)}) > 1 or len(q) < 3 or argument(node, 7, "enable_gqa", False):
        return None
    where = scope(node) or "an attention"
    for n, layout in ((query, q), (key, k), (value, v)):
        analysis.produce(n, layout[:-2])
        for axis in (*layout[-2:], *(a for a in layout[:-2] if a.size == 1)):
            analysis.channels.block(axis, f"{where} goes by heads, which are cut as a whole")
    lead = []
    masks = analysis.layout(mask)
    analysis.produce(mask, masks)
    for dim in range(len(q) - 2):
        axes = [a for a in (v[dim], q[dim], k[dim]) if a.size == v[dim].size]
        if len(axes) < 3:
            return None
        d = dim - (len(q) - len(masks))
        if d >= 0 and masks[d].size == v[dim].size:
            axes.append(masks[d])
        known = next((a for a in axes if a.atoms is not None), axes[0])
        for axis in axes:
            analysis.channels.tie(known, axis, f"the heads of {where} cannot be cut")
        zero = v[dim].zero
        lead.append(known if known.atoms is None or zero is None else known.with_zero(zero))
        if known.atoms is not None and zero is None:
            analysis.channels.block(known, f"the heads of {where} cannot be cut")
    for axis in masks[-2:]:
        analysis.channels.block(axis, f"{where} goes by heads, which are cut as a whole")
    return (*lead, q[-2].nonzero(), Axis(v[-1].size))


@rule("embedding")
def embedding(analysis: Analysis, node: fx.Node) -> Layout | None:
    table, index = node.args[:2]
    rows, columns = analysis.layout(table)
    analysis.channels.block(rows, f"{scope(node) or 'an embedding'} looks up its rows")
    analysis.produce(table, (columns,))
    for axis in analysis.layout(index):
        analysis.channels.block(axis, "it holds indices")
    return (*(a.nonzero() for a in analysis.layout(index)), columns)
