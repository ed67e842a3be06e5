"""Multiply-accumulates of a forward pass, counted operator by operator, alike on every device.

Counted: convolutions, linear layers, matrix products and what is made of them, such as attention and recurrent layers.
Not counted: biases, normalisation, pooling, interpolation, activations, and products and sums of elements. A mask or
causality saves nothing; a complex product is four real ones; a Fourier transform of length N is one of radix 2, N / 2
log2 N butterflies of a complex product each, half of that between real and complex numbers. An operator that does more
than is said here and has no formula is an error that names it, never a zero.

PyTorch's `FlopCounterMode` counts, in two operations a multiply-accumulate. As of 2.13 it has no formula for the fused
kernels that evaluation without gradients takes (`_native_multi_head_attention`, `_transformer_encoder_layer_fwd`), nor
for attention and LSTM on the CPU, `nn.Bilinear`, products with vectors and others; what it does not know counts as 0
there. Fused kernels are therefore switched off here, and the rest have formulas.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import comb, log2, prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

Shape = Sequence[int]
Formula = Callable[..., int]


class UncountedError(ValueError):
    """A network whose multiply-accumulates cannot be told; names the operators that have no formula."""

    def __init__(self, operators: Sequence[str]) -> None:
        self.operators = tuple(operators)
        super().__init__(
            f"flops: no formula for {', '.join(operators)}; give one by"
            " torch.utils.flop_counter.register_flop_formula"
        )


# ---- formulas, in operations: two a multiply-accumulate ----


def _complex(a: Tensor) -> int:
    return 4 if a.is_complex() else 1


def _mm(a: Tensor, b: Tensor, *_: Any, **__: Any) -> int:
    return 2 * prod(a.shape) * b.shape[-1] * _complex(a)


def _add_mm(_: Tensor, a: Tensor, b: Tensor, *__: Any, **___: Any) -> int:
    return _mm(a, b)


def _grouped_mm(a: Tensor, b: Tensor, *_: Any, out_val: Tensor, **__: Any) -> int:
    """Groups are parts of whichever side two matrices share."""
    if a.dim() == b.dim() == 2:
        return _mm(a, b)
    return 2 * out_val.numel() * a.shape[-1]


def _mv(a: Tensor, _: Tensor, **__: Any) -> int:
    return 2 * a.numel() * _complex(a)


def _add_mv(_: Tensor, a: Tensor, *__: Any, **___: Any) -> int:
    return 2 * a.numel() * _complex(a)


def _distances(a: Tensor, b: Tensor, *_: Any, **__: Any) -> int:
    """(..., P, M) and (..., R, M): a difference is squared and added for each pair and feature."""
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return 2 * prod(batch) * a.shape[-2] * b.shape[-2] * a.shape[-1]


def _own_distances(a: Tensor, *_: Any, **__: Any) -> int:
    return 2 * comb(a.shape[0], 2) * a.shape[1]


def _trilinear(
    a: Tensor, b: Tensor, c: Tensor, at_a: Shape, at_b: Shape, at_c: Shape, *_: Any, **__: Any
) -> int:
    """Products of three factors, broadcast along the dimensions that are inserted, one for each weight and example."""

    def inserted(shape: Shape, at: Shape) -> list[int]:
        sizes = list(shape)
        for dim in at:
            sizes.insert(dim, 1)
        return sizes

    factors = ((a, at_a), (b, at_b), (c, at_c))
    return 2 * prod(torch.broadcast_shapes(*(inserted(x.shape, at) for x, at in factors)))


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """(B, H, Q, E), (B, G, K, E), (B, G, K, V): scores and what they weigh; G heads serve H of the query."""
    return 2 * prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _recurrent(x: Tensor, weights: Sequence[Tensor]) -> int:
    """x: (..., inputs), all steps of all examples; each is multiplied by all matrices once."""
    return 2 * prod(x.shape[:-1]) * sum(w.numel() for w in weights if w.dim() == 2)


def _rnn_of_list(x: Tensor, weights: Sequence[Tensor], *_: Any, **__: Any) -> int:
    return _recurrent(x, weights)


def _rnn_of_one_layer(x: Tensor, inputs: Tensor, states: Tensor, *_: Any, **__: Any) -> int:
    return _recurrent(x, (inputs, states))


def _rnn_on_mps(x: Tensor, _: Any, weights: Sequence[Tensor], *__: Any, **___: Any) -> int:
    return _recurrent(x, weights)


def _fourier(x: Tensor, dims: Shape, *_: Any, out_val: Tensor, **__: Any) -> int:
    real = (
        x if not x.is_complex() else out_val
    )  # of the real side there are twice the numbers, all of the lengths
    both = x.is_complex() and out_val.is_complex()
    length = prod(real.shape[d] for d in dims)
    return 2 * round((2 if both else 1) * real.numel() * log2(max(length, 1)))


_FORMULAS: dict[str, Formula] = {
    "mm": _mm, "bmm": _mm, "_int_mm": _mm, "addmm": _add_mm, "baddbmm": _add_mm, "addbmm": _add_mm,
    "addmm_": _add_mm, "baddbmm_": _add_mm, "addbmm_": _add_mm, "_addmm_activation": _add_mm,
    "_grouped_mm": _grouped_mm, "mv": _mv, "dot": _mv, "vdot": _mv, "addmv": _add_mv, "addmv_": _add_mv,
    "_cdist_forward": _distances, "_euclidean_dist": _distances, "_pdist_forward": _own_distances,
    "_trilinear": _trilinear,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_fused_attention_overrideable": _attention,
    "_scaled_dot_product_attention_math_for_mps": _attention,
    "_cudnn_rnn": _rnn_of_list, "miopen_rnn": _rnn_of_list, "_lstm_mps": _rnn_on_mps,
    "mkldnn_rnn_layer": _rnn_of_one_layer,
    "_fft_c2c": _fourier, "_fft_r2c": _fourier, "_fft_c2r": _fourier,
}  # fmt: skip


def _formulas() -> dict[Any, Formula]:
    """Those of the operators that this build of PyTorch has, marked as formulas of tensors and not of shapes."""
    for formula in set(_FORMULAS.values()):
        formula._get_raw = True  # type: ignore[attr-defined]
    return {getattr(torch.ops.aten, n): f for n, f in _FORMULAS.items() if hasattr(torch.ops.aten, n)}


# ---- operators without one ----

# Parts of the names of ATen's operators that do more than a pass over their elements.
_HEAVY = re.compile(
    r"\w*mm|\w*mv|dot|vdot|matmul|\w*conv\w*|convolution|linear|lstm|gru|rnn|attention|fft|linalg|cholesky|qr|geqrf|"
    r"ormqr|orgqr|svd|eig|inverse|solve|lu|cdist|pdist|trilinear|fbgemm|mkldnn|cslt|nnpack|semi|encoder"
)
_LIGHT = frozenset(
    {
        "_linalg_check_errors", "_thnn_fused_gru_cell", "_thnn_fused_lstm_cell", "linalg_cross",
        "linalg_vector_norm", "linalg_norm", "linalg_vecdot", "linalg_diagonal", "lu_unpack", "igamma",
    }
)  # fmt: skip
# Namespaces of what only moves, watches or is traced; and operators of others that only look values up or compare.
_LIGHT_SPACES = frozenset({"prims", "prim", "profiler", "c10d", "_c10d_functional", "debugprims", "rngprims"})
_LIGHT_ELSEWHERE = frozenset({"torchvision::nms", "torchvision::roi_align", "torchvision::roi_pool"})


def is_heavy(operator: Any) -> bool:
    """Whether an operator without a formula must not count as nothing; all that are not PyTorch's own must not."""
    name = operator.name() if callable(getattr(operator, "name", None)) else str(operator)
    space, _, rest = name.partition("::")
    if space != "aten":
        return space not in _LIGHT_SPACES and name not in _LIGHT_ELSEWHERE
    base = rest.partition(".")[0]
    if base in _LIGHT or torch.Tag.pointwise in operator.tags:
        return False
    return any(_HEAVY.fullmatch(word) for word in base.split("_"))


class _Watch(TorchDispatchMode):
    """Collects the heavy operators that `counter`, which is entered after it, lets through without a formula."""

    supports_higher_order_operators = True

    def __init__(self, counter: FlopCounterMode) -> None:
        super().__init__()
        self.counter, self.found = counter, dict[str, None]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = getattr(func, "_overloadpacket", func)
        known = packet in self.counter.flop_registry
        if known and any(isinstance(a, Tensor) and a.layout != torch.strided for a in args):
            known = False  # the formulas are of dense matrices
        if not known and is_heavy(func):
            self.found[str(packet)] = None
        return func(*args, **(kwargs or {}))


# ---- counting ----


@contextmanager
def evaluated(module: nn.Module) -> Iterator[None]:
    """`module` in evaluation mode; its modes, and its buffers and their values, are afterwards what they were."""
    modes = [(m, m.training, dict(m._buffers.items())) for m in module.modules()]
    values = [(b, b.clone()) for b in module.buffers()]
    module.eval()
    try:
        yield
    finally:
        for m, training, buffers in modes:
            m.training = training
            for name, buffer in buffers.items():
                if m._buffers[name] is not buffer:  # a compiled (scripted) module gives others and takes none
                    m._buffers[name] = buffer
        with torch.no_grad():
            for buffer, value in values:
                if buffer.device.type != "meta" and not torch.equal(buffer, value):
                    buffer.copy_(value)


@contextmanager
def _unfused() -> Iterator[None]:
    """Attention is made of matrix products, of the sizes that it has and not those that a kernel pads it to."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
            # The counter has hooks on all modules while it counts, and takes them away.
            warnings.filterwarnings(
                "ignore", message=r"Using `torch.compile\(module\)` when there are global hooks"
            )
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def count_call(module: nn.Module, *inputs: Any, **named: Any) -> int:
    """Multiply-accumulates of `module(*inputs, **named)` in evaluation mode, for all examples together.

    UncountedError names the operators that have no formula.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_formulas())
    watch = _Watch(counter)
    try:
        with evaluated(module), torch.no_grad(), _unfused(), watch, counter:
            module(*inputs, **named)
    except TypeError as error:
        # Of nested tensors it is the dispatch that has no answer.
        unseen = re.search(
            r"(?:no implementation found|Multiple dispatch failed) for '(torch\.(?:_)?ops\.)?([\w.]+)'",
            str(error),
        )
        if unseen is None:
            raise
        # A compiled part broke off half way, as flex_attention does in PyTorch 2.13: it would not run again.
        torch.compiler.reset()
        raise UncountedError([unseen[2]]) from None
    if watch.found:
        raise UncountedError(sorted(watch.found))
    return counter.get_total_flops() // 2


def random_input(shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal numbers of a fixed seed; whole ones are 0 or 1, which any table has an entry for."""
    generator = torch.Generator().manual_seed(0)
    if dtype.is_floating_point:
        return torch.randn(*shape, generator=generator).to(dtype)
    return torch.randint(2, tuple(shape), generator=generator).to(dtype)


def count_flops(module: nn.Module, input_shape: Sequence[int], dtype: torch.dtype | None = None) -> int:
    """Multiply-accumulates for one example of `input_shape` (without the batch), counted in a forward pass.

    dtype: of the example; None: of the network's parameters.

    UncountedError names the operators that have no formula.
    """
    first = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    # Random, because what divides by its input or inverts it fails on zeros.
    x = random_input((2, *input_shape), dtype or first.dtype).to(first.device)
    try:
        return count_call(module, x[:1])
    except UncountedError:
        raise
    except Exception:  # statistics of a batch of one are refused where a side is 1, by whatever raises that
        return count_call(module, x) // 2
