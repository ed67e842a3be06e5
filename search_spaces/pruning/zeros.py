"""Whether a chain of operators emits exactly zero: because its variables are zero, or because its input is.

Only what is listed is taken to be so; any other operator ends the proof.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import isfinite
from typing import Any

from torch import fx

from fairsweep.search_spaces.pruning.dependencies import argument
from fairsweep.search_spaces.pruning.effects import draws
from fairsweep.search_spaces.pruning.trace import kind

# f(0) = 0, for tensors of zeros; of one tensor and plain arguments.
PRESERVING = {
    "relu", "relu6", "silu", "gelu", "tanh", "hardswish", "leaky_relu", "elu", "celu", "selu", "mish", "prelu",
    "abs", "neg", "sign", "sqrt", "square", "sin", "tan", "erf", "hardshrink", "softshrink", "softsign",
    "dropout", "alpha_dropout", "feature_dropout", "contiguous", "clone", "detach", "alias", "to", "_to_copy",
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d",
    "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d",
    "adaptive_max_pool3d", "max_pool2d_with_indices", "getitem", "upsample_nearest1d", "upsample_nearest2d",
    "upsample_nearest3d", "upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d",
    "_upsample_nearest_exact2d", "pixel_shuffle", "pixel_unshuffle", "view", "reshape", "_unsafe_view", "flatten",
    "unflatten", "permute", "transpose", "t", "squeeze", "unsqueeze", "expand", "repeat", "roll", "flip", "slice",
    "select", "narrow", "chunk", "split", "split_with_sizes", "mean", "sum", "amax", "amin", "cumsum",
}  # fmt: skip
# (position of the weight, of the bias): w x + b.
PRODUCTS = {
    **dict.fromkeys(("linear", "conv1d", "conv2d", "conv3d", "convolution"), (1, 2)),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), (1, 2)),
}
# (position of the weight, of the bias): w normalised(x) + b, which is not zero where x is.
NORMS = {
    **dict.fromkeys(("batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit"), (1, 2)),
    "instance_norm": (1, 2), "layer_norm": (2, 3), "group_norm": (2, 3),
}  # fmt: skip
OWN_STATISTICS = {"layer_norm", "group_norm", "_native_batch_norm_legit"}
TRAINED = {"batch_norm", "instance_norm"}


def emits_zero(
    nodes: Iterable[fx.Node], is_zero: Callable[[fx.Node], bool], input_zero: bool = False
) -> bool:
    """Whether the last of `nodes`, each of which reads the one before, is identically zero.

    is_zero: which placeholders hold variables that are zero. input_zero: whether what the first node reads is zero.
    """
    zero = input_zero
    for node in nodes:
        zero = _after(node, zero, is_zero)
    return zero


def _after(node: fx.Node, zero: bool, is_zero: Callable[[fx.Node], bool]) -> bool:
    def gone(value: Any) -> bool:
        return isinstance(value, fx.Node) and is_zero(value)

    name = kind(node)
    if draws(node):
        return False
    if name in PRODUCTS:
        weight, bias = (
            argument(node, place, label) for place, label in zip(PRODUCTS[name], "wb", strict=True)
        )
        return (zero or gone(weight)) and (bias is None or gone(bias))
    if name in NORMS:
        weight, bias = (argument(node, place, label) for place, label in zip(NORMS[name], "wb", strict=True))
        # By statistics of its own, which these always have, a channel of zeros stays one.
        own = name in OWN_STATISTICS or (name in TRAINED and bool(argument(node, 5, "training", False)))
        return (gone(weight) or (own and zero)) and (bias is None or gone(bias))
    if name == "mul" and any(isinstance(a, int | float) and not isfinite(a) for a in node.args):
        return False
    if name == "mul":
        return zero or any(gone(a) for a in node.args)
    if name in ("add", "sub"):
        # x + 0 is how the built-in sum begins; x + w with a variable that is zero is the other case.
        return zero and all(gone(a) if isinstance(a, fx.Node) else a == 0 for a in node.args[1:])
    if name == "div":
        return zero and not isinstance(node.args[1], fx.Node)
    if name in ("pad", "constant_pad_nd"):
        value = argument(node, 3 if name == "pad" else 2, "value")
        constant = name != "pad" or argument(node, 2, "mode", "constant") == "constant"
        return zero and (not value or not constant)
    return zero and name in PRESERVING
