"""What elementwise operators, normalisations, pooling and reductions do to channels."""

from __future__ import annotations

from math import isfinite
from typing import Any

import numpy as np
from torch import fx

from fairsweep.search_spaces.pruning.channels import Axis
from fairsweep.search_spaces.pruning.dependencies import Analysis, Layout, argument, rule
from fairsweep.search_spaces.pruning.trace import kind, scope

# ---- elementwise ----


@rule(
    "relu", "relu6", "silu", "gelu", "tanh", "hardswish", "hardtanh", "leaky_relu", "elu", "celu", "selu", "mish",
    "abs", "neg", "sign", "sqrt", "square", "sin", "tan", "asin", "atan", "sinh", "erf", "expm1", "log1p", "floor",
    "ceil", "round", "trunc", "dropout", "alpha_dropout", "feature_dropout", "contiguous", "clone", "detach", "alias",
    "to", "_to_copy", "type_as", "float", "lift_fresh_copy", "hardshrink", "softshrink", "tanhshrink", "softsign",
    "nan_to_num", "positive",
)  # fmt: skip
def keeps_zero(analysis: Analysis, node: fx.Node) -> Layout:
    """f(0) = 0. `hardtanh` and the like are checked by `clamp`."""
    layout = analysis.layout(node.args[0])
    if str(node.target).startswith("aten.hardtanh"):
        return _clamped(layout, argument(node, 1, "min_val", -1.0), argument(node, 2, "max_val", 1.0))
    return layout


@rule(
    "sigmoid", "hardsigmoid", "exp", "cos", "cosh", "acos", "softplus", "log_sigmoid", "logical_not", "isnan",
    "isinf", "ones_like", "full_like", "fill",
)  # fmt: skip
def moves_zero(analysis: Analysis, node: fx.Node) -> Layout:
    """f(0) != 0: channels stay apart, but nothing is zero any more."""
    return tuple(a.nonzero() for a in analysis.layout(node.args[0]))


@rule("log", "log2", "log10", "reciprocal", "rsqrt", "logit")
def has_pole(analysis: Analysis, node: fx.Node) -> Layout:
    """f(0) is not finite, and times zero not a number: what would become zero stays."""
    _no_pole(analysis, node, analysis.layout(node.args[0]))
    return tuple(a.nonzero() for a in analysis.layout(node.args[0]))


def _no_pole(analysis: Analysis, node: fx.Node, layout: Layout) -> None:
    for axis in layout:
        if axis.atoms is not None and axis.zero is not None:
            why = f"{kind(node)} in {scope(node) or 'the network'} is not finite at zero"
            analysis.channels.block(axis, why, axis.zero)


@rule("triu", "tril")
def triangle(analysis: Analysis, node: fx.Node) -> Layout:
    """What is kept of the last two axes depends on positions along both."""
    x = analysis.layout(node.args[0])
    for axis in x[-2:]:
        analysis.channels.block(axis, f"{kind(node)} in {scope(node) or 'the network'} goes by its positions")
    return x


@rule("zeros_like", "zero")
def zeros_like(analysis: Analysis, node: fx.Node) -> Layout:
    return tuple(
        a if a.atoms is None else a.with_zero(np.ones(a.size, bool)) for a in analysis.layout(node.args[0])
    )


def _clamped(layout: Layout, low: Any, high: Any) -> Layout:
    numbers = all(v is None or isinstance(v, int | float) for v in (low, high))
    if numbers and (low is None or low <= 0) and (high is None or high >= 0):
        return layout
    return tuple(a.nonzero() for a in layout)


@rule("clamp", "clamp_min", "clamp_max", "clip", "threshold")
def clamp(analysis: Analysis, node: fx.Node) -> Layout | None:
    text = str(node.target)
    if any(isinstance(a, fx.Node) for a in node.args[1:]):
        return analysis.broadcast(node, node.args, "none")
    if "threshold" in text:
        kept = argument(node, 2, "value") == 0
        layout = analysis.layout(node.args[0])
        return layout if kept else tuple(a.nonzero() for a in layout)
    low = None if "clamp_max" in text else argument(node, 1, "min")
    high = argument(node, 1, "max") if "clamp_max" in text else argument(node, 2, "max")
    return _clamped(analysis.layout(node.args[0]), low, high)


@rule("add", "sub", "rsub", "__add__", "__sub__")
def add(analysis: Analysis, node: fx.Node) -> Layout | None:
    other = argument(node, 1, "other")
    if not isinstance(other, fx.Node):
        return analysis.broadcast(node, node.args[:1], "all" if other == 0 else "none")
    return analysis.broadcast(node, (node.args[0], other), "all")


@rule("mul", "__mul__", "logical_and")
def mul(analysis: Analysis, node: fx.Node) -> Layout | None:
    other = argument(node, 1, "other")
    finite = isinstance(other, fx.Node) or isfinite(other)
    return analysis.broadcast(node, (node.args[0], other), "any" if finite else "none")


@rule("div", "true_divide", "floor_divide")
def div(analysis: Analysis, node: fx.Node) -> Layout | None:
    _no_pole(analysis, node, analysis.layout(argument(node, 1, "other")))
    return analysis.broadcast(node, (node.args[0], argument(node, 1, "other")), "first")


@rule("pow")
def power(analysis: Analysis, node: fx.Node) -> Layout | None:
    exponent = argument(node, 1, "exponent")
    if isinstance(exponent, fx.Node) or exponent < 0:
        _no_pole(analysis, node, analysis.layout(node.args[0]))
    kept = isinstance(exponent, int | float) and exponent > 0
    return analysis.broadcast(node, (node.args[0], exponent), "any" if kept else "none")


@rule("glu")
def gated(analysis: Analysis, node: fx.Node) -> Layout:
    """a sigmoid(b) of the two halves of an axis: they go together."""
    x = list(analysis.layout(node.args[0]))
    dim = argument(node, 1, "dim", -1) % len(x)
    half = x[dim].size // 2
    value, gate = (x[dim].take(np.arange(start, start + half)) for start in (0, half))
    analysis.channels.tie(value, gate)
    x[dim] = value
    return tuple(x)


@rule("maximum", "minimum")
def extremum(analysis: Analysis, node: fx.Node) -> Layout | None:
    return analysis.broadcast(node, node.args[:2], "all")


@rule("eq", "ne", "lt", "le", "gt", "ge", "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "atan2")
def compare(analysis: Analysis, node: fx.Node) -> Layout | None:
    return analysis.broadcast(node, node.args[:2], "none")


@rule("where")
def where(analysis: Analysis, node: fx.Node) -> Layout | None:
    if len(node.args) != 3:
        return None
    condition, a, b = node.args
    return _chosen(analysis, node, condition, a, b)


@rule("masked_fill")
def masked_fill(analysis: Analysis, node: fx.Node) -> Layout | None:
    return _chosen(analysis, node, node.args[1], argument(node, 2, "value"), node.args[0])


def _chosen(analysis: Analysis, node: fx.Node, condition: Any, a: Any, b: Any) -> Layout | None:
    """Zero where both alternatives are."""
    made = analysis.broadcast(node, (condition, a, b), "none")
    if made is None:
        return None
    result = []
    for dim, axis in enumerate(made):
        if axis.atoms is None:
            result.append(axis)
            continue
        flag = np.ones(axis.size, bool)
        for operand in (a, b):
            layout = analysis.layout(operand)
            k = dim - len(made) + len(layout)
            part = layout[k].zero if k >= 0 and layout[k].size == axis.size else None
            number = isinstance(operand, int | float) and operand == 0
            flag &= (
                np.full(axis.size, True) if number else np.zeros(axis.size, bool) if part is None else part
            )
        result.append(axis.with_zero(flag))
    return tuple(result)


@rule("prelu")
def prelu(analysis: Analysis, node: fx.Node) -> Layout | None:
    x, slope = analysis.layout(node.args[0]), analysis.layout(node.args[1])
    if slope and slope[0].size > 1:
        analysis.produce(node.args[1], slope)
        analysis.channels.tie(x[1], slope[0], "its PReLU slopes cannot be cut")
    return x


# ---- normalisation ----


def _affine(analysis: Analysis, node: fx.Node, axis: Axis, tensors: tuple[Any, ...], otherwise: Axis) -> Axis:
    """The channels of a normalisation whose scale and shift are the first two of `tensors`."""
    for tensor in tensors:
        if isinstance(tensor, fx.Node):
            analysis.channels.tie(axis, analysis.layout(tensor)[0], f"statistics in {scope(node)} stay")
    scale, shift = tensors[:2]
    for tensor in (scale, shift):
        analysis.produce(tensor, analysis.layout(tensor))
    if axis.atoms is None:
        return axis
    if isinstance(scale, fx.Node) and isinstance(shift, fx.Node):
        a, b = analysis.layout(scale)[0].zero, analysis.layout(shift)[0].zero
        assert a is not None and b is not None
        return axis.with_zero(a & b)
    if isinstance(scale, fx.Node):
        found = analysis.layout(scale)[0].zero
        assert found is not None
        return axis.with_zero(found)
    return otherwise


@rule("batch_norm")
def batch_norm(analysis: Analysis, node: fx.Node) -> Layout | None:
    x = analysis.layout(node.args[0])
    return _batch_norm(analysis, node, x, tuple(node.args[1:5]), bool(argument(node, 5, "training")))


@rule("_native_batch_norm_legit_no_training", "_native_batch_norm_legit")
def native_batch_norm(analysis: Analysis, node: fx.Node) -> list[Layout] | None:
    """The same as an operator of three results, as `torch.export` writes it where it makes writes explicit."""
    x = analysis.layout(node.args[0])
    running = str(node.target).endswith("no_training.default")
    tensors = tuple(n for n in node.args[1 : 5 if running else 3])
    found = _batch_norm(analysis, node, x, tensors, not running)
    rest = [tuple(Axis(n) for n in s) for s in _shapes(node)[1:]]
    return None if found is None else [found, *rest]


def _batch_norm(
    analysis: Analysis, node: fx.Node, x: Layout, tensors: tuple[Any, ...], own: bool
) -> Layout | None:
    """own: by statistics of its own, as in supernets, or of weights that are standardised."""
    if len(x) < 2:
        return None
    if x[1].size == 1:
        return tuple(a.nonzero() for a in x)
    if own:
        for axis in (x[0], *x[2:]):
            analysis.channels.block(axis, f"{scope(node) or 'a batch norm'} normalises over it")
    # By statistics of its own a channel of zeros stays one.
    channel = _affine(analysis, node, x[1], tensors, x[1] if own else x[1].nonzero())
    return (x[0].nonzero(), channel, *(a.nonzero() for a in x[2:]))


@rule("instance_norm")
def instance_norm(analysis: Analysis, node: fx.Node) -> Layout | None:
    x = analysis.layout(node.args[0])
    running = not argument(node, 5, "use_input_stats", True)
    channel = _affine(analysis, node, x[1], tuple(node.args[1:5]), x[1].nonzero() if running else x[1])
    for axis in x[2:]:
        analysis.channels.block(axis, f"{scope(node)} normalises over it")
    return (x[0].nonzero(), channel, *(a.nonzero() for a in x[2:]))


@rule("layer_norm", "rms_norm")
def layer_norm(analysis: Analysis, node: fx.Node) -> Layout | None:
    x = analysis.layout(node.args[0])
    over = len(argument(node, 1, "normalized_shape"))
    tensors = [t for t in node.args[2:4] if isinstance(t, fx.Node)]
    for axis in x[-over:]:
        analysis.channels.block(axis, f"{scope(node) or 'a layer norm'} normalises over it")
    for tensor in tensors:
        for a, b in zip(x[-over:], analysis.layout(tensor), strict=True):
            analysis.produce(tensor, (b,))
            analysis.channels.tie(a, b, f"{scope(node) or 'a layer norm'} normalises over it")
    return tuple(a.nonzero() for a in x)


@rule("group_norm")
def group_norm(analysis: Analysis, node: fx.Node) -> Layout | None:
    """Only whole groups of channels can go: the others' statistics then stay what they are."""
    x, groups = analysis.layout(node.args[0]), int(argument(node, 1, "num_groups"))
    scale, shift = argument(node, 2, "weight"), argument(node, 3, "bias")
    why = f"{scope(node)} normalises over all channels together"
    parts = analysis.channels.split(x[1], (groups, x[1].size // groups), 0, why)
    analysis.sizes[node.name, "num_groups"] = parts[0]
    channel = _affine(analysis, node, x[1], (scale, shift), x[1])
    for axis in x[2:]:
        analysis.channels.block(axis, f"{scope(node)} normalises over it")
    return (x[0].nonzero(), channel, *(a.nonzero() for a in x[2:]))


# ---- pooling and resizing: per channel, over space ----


@rule(
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d",
    "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "upsample_nearest1d",
    "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d", "upsample_linear1d",
    "_upsample_nearest_exact2d", "reflection_pad2d", "replication_pad2d", "lp_pool2d", "_upsample_bilinear2d_aa",
)  # fmt: skip
def spatial(analysis: Analysis, node: fx.Node) -> Layout | list[Layout] | None:
    x = analysis.layout(node.args[0])
    text = str(node.target).split(".")[1]
    over = next((int(d) for d in "123" if f"{d}d" in text), 2)
    for axis in x[-over:]:
        analysis.channels.block(axis, f"{text} mixes its positions")
    made = [(*x[:-over], *(Axis(n) for n in s[-over:])) for s in _shapes(node)]
    return _with_indices(made) if isinstance(node.meta.get("val"), list | tuple) else made[0]


def _with_indices(made: list[Layout]) -> list[Layout]:
    """Values, and where they are, which says nothing of zero."""
    return [made[0], *(tuple(a.nonzero() for a in layout) for layout in made[1:])]


def _shapes(node: fx.Node) -> list[tuple[int, ...]]:
    value = node.meta["val"]
    return [tuple(v.shape) for v in value] if isinstance(value, list | tuple) else [tuple(value.shape)]


# ---- reductions ----


def _dims(dims: Any, rank: int) -> list[int]:
    if dims is None or (isinstance(dims, list | tuple) and not dims):
        return list(range(rank))
    return sorted(d % rank for d in ([dims] if isinstance(dims, int) else dims))


_REDUCTIONS = {  # kind -> (position of dim, of keepdim, sums up what must be zero, result zero where all are)
    "sum": (1, 2, True, True),
    "mean": (1, 2, False, True),
    "linalg_vector_norm": (2, 3, True, True),
    "amax": (1, 2, False, True),
    "amin": (1, 2, False, True),
    "max": (1, 2, False, True),
    "min": (1, 2, False, True),
    "var": (1, 3, False, True),
    "std": (1, 3, False, True),
    "logsumexp": (1, 2, False, False),
    "argmax": (1, 2, False, False),
    "argmin": (1, 2, False, False),
    "prod": (1, 2, False, True),
}


@rule(*_REDUCTIONS)
def reduce(analysis: Analysis, node: fx.Node) -> Layout | list[Layout] | None:
    name = str(node.target).split(".")[1]
    position, keep_position, sums, zero = _REDUCTIONS[name]
    x = analysis.layout(node.args[0])
    if len(node.args) > 1 and isinstance(node.args[1], fx.Node):
        return None
    if name == "linalg_vector_norm":
        order = argument(node, 1, "ord", 2)
        sums = isinstance(order, int | float) and 0 < order < float("inf")
    dims = _dims(argument(node, position, "dim"), len(x))
    keep = bool(argument(node, keep_position, "keepdim", False))
    result = []
    for d, axis in enumerate(x):
        if d not in dims:
            result.append(axis if zero else axis.nonzero())
            continue
        if sums:
            analysis.mix(axis, node)
        else:
            analysis.channels.block(
                axis, f"{name} in {scope(node) or 'the network'} depends on how many there are"
            )
        if keep:
            result.append(Axis(1))
    made = tuple(result)
    several = isinstance(node.meta.get("val"), list | tuple)
    return _with_indices([made] * len(_shapes(node))) if several else made


@rule("softmax", "_softmax", "log_softmax", "_log_softmax")
def softmax(analysis: Analysis, node: fx.Node) -> Layout | None:
    x = analysis.layout(node.args[0])
    dim = argument(node, 1, "dim") % len(x)
    analysis.channels.block(x[dim], f"softmax in {scope(node) or 'the network'} is taken over it")
    return tuple(a.nonzero() for a in x)


@rule("cumsum", "cumprod")
def cumulate(analysis: Analysis, node: fx.Node) -> Layout | None:
    x = analysis.layout(node.args[0])
    dim = argument(node, 1, "dim") % len(x)
    analysis.channels.block(x[dim], "it is summed up along it")
    return x
