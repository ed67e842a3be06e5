"""Multiply-accumulates against what they are by hand, on networks that PyTorch's own counter leaves out or fuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry, register_flop_formula

from fairsweep.search_spaces.costs import count_flops
from fairsweep.search_spaces.flops import UncountedError, count_call, is_heavy

T, D, H = 5, 8, 16  # tokens, their width, and that of the layer between
MHA = T * 4 * D * D + 2 * T * T * D  # projections, and scores and what they weigh
LAYER = MHA + 2 * T * D * H
LSTM = 4 * T * (D * 6 + 6 * 6)


class Call(nn.Module):
    """A function, or a module with more inputs, as a network of one."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def attention(
    heads: int = 2, keys: int = T, groups: int = 2, value: int = 4, **options: Any
) -> Callable[[Tensor], Tensor]:
    def call(x: Tensor) -> Tensor:
        b = x.shape[0]
        query, key = x.new_zeros(b, heads, T, 4), x.new_zeros(b, groups, keys, 4)
        return F.scaled_dot_product_attention(query, key, x.new_zeros(b, groups, keys, value), **options)

    return call


def layer(**options: Any) -> nn.Module:
    return nn.TransformerEncoderLayer(D, 2, H, batch_first=True, **options)


def encoder() -> nn.Module:
    return nn.TransformerEncoder(layer(), 3)


def padded(x: Tensor) -> Tensor:
    """Of a padded batch the fused path makes a nested tensor."""
    return encoder().eval()(x, src_key_padding_mask=torch.zeros(x.shape[:2], dtype=torch.bool))


def packed(x: Tensor) -> Tensor:
    lengths = torch.full((len(x),), T)
    return nn.LSTM(D, 6)(nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True))[1][0]


BY_HAND: dict[str, tuple[Callable[[], Callable[[Tensor], Any]], int]] = {
    "attention layer": (lambda: lambda x: nn.MultiheadAttention(D, 2, batch_first=True)(x, x, x), MHA),
    "attention layer, no weights": (
        lambda: lambda x: nn.MultiheadAttention(D, 2, batch_first=True).eval()(x, x, x, need_weights=False), MHA,
    ),
    "cross-attention": (
        lambda: lambda x: nn.MultiheadAttention(D, 2, batch_first=True)(x[:, :3], x, x),
        2 * 3 * D * D + 2 * T * D * D + 2 * 3 * T * D,
    ),
    "encoder layer": (layer, LAYER),
    "encoder layer, norm first, no bias": (lambda: layer(norm_first=True, bias=False), LAYER),
    "encoder": (encoder, 3 * LAYER),
    "padded encoder": (lambda: padded, 3 * LAYER),
    "attention": (attention, 2 * T * T * (4 + 4)),
    "causal": (lambda: attention(is_causal=True), 2 * T * T * (4 + 4)),
    "masked": (lambda: attention(attn_mask=torch.ones(T, T, dtype=torch.bool)), 2 * T * T * (4 + 4)),
    "biased": (lambda: attention(attn_mask=torch.zeros(T, T)), 2 * T * T * (4 + 4)),
    "grouped queries": (lambda: attention(4, 7, 2, enable_gqa=True), 4 * T * 7 * (4 + 4)),
    "other width of values": (lambda: attention(value=6), 2 * T * T * (4 + 6)),
    "lstm": (lambda: nn.LSTM(D, 6, batch_first=True), LSTM),
    "lstm, two layers both ways": (
        lambda: nn.LSTM(D, 6, 2, batch_first=True, bidirectional=True), 2 * (LSTM + 4 * T * (12 * 6 + 6 * 6)),
    ),
    "lstm with a projection": (
        lambda: nn.LSTM(D, 6, batch_first=True, proj_size=3), T * (4 * 6 * (D + 3) + 6 * 3),
    ),
    "packed lstm": (lambda: packed, LSTM),
    "lstm cell": (lambda: lambda x: nn.LSTMCell(D, 6)(x[:, 0]), LSTM // T),
    "gru": (lambda: nn.GRU(D, 6, batch_first=True), LSTM * 3 // 4),
    "rnn": (lambda: nn.RNN(D, 6, batch_first=True), LSTM // 4),
    "bilinear": (lambda: lambda x: nn.Bilinear(D, D, 3)(x, x), T * 3 * D * D),
    "einsum": (lambda: lambda x: torch.einsum("btd,bsd->bts", x, x), T * T * D),
    "einsum of three": (
        lambda: lambda x: torch.einsum("btd,de,bse->bts", x, torch.zeros(D, D), x), T * D * D + T * T * D,
    ),
    "product in place": (lambda: lambda x: x.new_zeros(len(x), T, T).baddbmm_(x, x.mT), T * T * D),
    "sum of products": (lambda: lambda x: torch.addbmm(x.new_zeros(T, T), x, x.mT), T * T * D),
    "matrix and vector": (lambda: lambda x: x[0] @ torch.zeros(D), T * D),
    "two vectors": (lambda: lambda x: torch.dot(x[0, 0], x[0, 1]), D),
    "complex product": (
        lambda: lambda x: x.to(torch.complex64) @ torch.zeros(D, 3, dtype=torch.complex64), 4 * T * D * 3,
    ),
    "distances": (lambda: lambda x: torch.cdist(x, x), T * T * D),
    "distances of many": (lambda: lambda x: torch.cdist(x.new_zeros(len(x), 30, D), x), 30 * T * D),
    "transposed convolution": (lambda: nn.ConvTranspose1d(T, 6, 3, stride=2, groups=1), D * T * 6 * 3),
    "grouped transposed convolution": (
        lambda: lambda x: nn.ConvTranspose1d(4, 6, 3, groups=2)(x[:, :4]), D * 2 * 2 * 3 * 3,
    ),
    "transform": (lambda: lambda x: torch.fft.fft(x[..., :8].to(torch.complex64)), T * 4 * (8 // 2) * 3),
    "transform of real numbers": (lambda: lambda x: torch.fft.rfft(x[..., :8]), T * 2 * (8 // 2) * 3),
    "back to real numbers": (
        lambda: lambda x: torch.fft.irfft(x.new_zeros(len(x), T, 5, dtype=torch.complex64)), T * 2 * (8 // 2) * 3,
    ),
    "compiled": (lambda: torch.compile(nn.Linear(D, 3)), T * D * 3),
    "nothing that counts": (
        lambda: nn.Sequential(nn.LayerNorm(D), nn.GELU(), nn.BatchNorm1d(T), nn.Softmax(-1), nn.Dropout()), 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_counted_as_by_hand(name: str) -> None:
    make, macs = BY_HAND[name]
    made = make()
    network = made if isinstance(made, nn.Module) else Call(made)
    assert count_flops(network, (T, D)) == macs
    assert torch.backends.mha.get_fastpath_enabled()


def test_every_convolution_that_is_transposed_or_dilated() -> None:
    x = (4, 6, 6)
    assert count_flops(nn.ConvTranspose2d(4, 3, 2, stride=2), x) == 4 * 36 * 3 * 4
    assert count_flops(nn.Conv2d(4, 3, 3, dilation=2), x) == 3 * 4 * 9 * 2 * 2


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_all_devices_count_alike(device: str) -> None:
    """The meta device takes the ways of a device that has no kernels of its own."""
    for name in ("encoder", "lstm, two layers both ways", "gru"):
        made, macs = BY_HAND[name]
        network = made()
        assert isinstance(network, nn.Module)
        assert count_flops(network.to(device), (T, D)) == macs


def test_kernels_of_other_devices() -> None:
    """cuDNN's LSTM and the attention of accelerators: what they are called with counts as what they stand for."""
    from fairsweep.search_spaces import flops

    x = torch.empty(T, 1, D, device="meta")
    weights = [torch.empty(s, device="meta") for s in ((24, D), (24, 6), (24,), (24,))]
    assert flops._FORMULAS["_cudnn_rnn"](x, weights, 4, None, out_val=None) == 2 * LSTM
    assert flops._FORMULAS["miopen_rnn"](x, weights, 4, out_val=None) == 2 * LSTM
    assert flops._FORMULAS["_lstm_mps"](x, [], weights, True, 1, out_val=None) == 2 * LSTM
    query, key = torch.empty(1, 4, T, 4, device="meta"), torch.empty(1, 2, 7, 4, device="meta")
    fused = flops._FORMULAS["_scaled_dot_product_fused_attention_overrideable"]
    assert fused(query, key, key, out_val=None) == 2 * BY_HAND["grouped queries"][1]


def test_what_the_library_alone_leaves_out() -> None:
    """Why there are formulas here: if this fails, PyTorch counts what it did not in 2.13, and some can go."""
    x = torch.zeros(1, T, D)
    for name in ("encoder", "lstm", "bilinear", "sum of products", "matrix and vector", "two vectors"):
        made = BY_HAND[name][0]()
        network = made.eval() if isinstance(made, nn.Module) else made
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(x)
        assert counter.get_total_flops() == 0, name


# ---- what has no formula ----


@torch.library.custom_op("fairsweep_tests::product", mutates_args=())
def product(a: Tensor, b: Tensor) -> Tensor:
    return a @ b


def test_an_operator_without_a_formula_is_named() -> None:
    network = Call(lambda x: product(x[0], torch.zeros(D, 3)))
    with pytest.raises(UncountedError, match=r"no formula for fairsweep_tests\.product; give one by torch"):
        count_flops(network, (T, D))
    packet = torch.ops.fairsweep_tests.product

    def formula(a: Any, b: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        return 2 * a[0] * a[1] * b[1]

    register_flop_formula(packet)(formula)
    try:
        assert count_flops(network, (T, D)) == T * D * 3
    finally:
        del flop_registry[packet]
    for call, name in [
        (lambda x: torch.linalg.inv(x @ x.mT), "aten.linalg_inv_ex"),
        (lambda x: torch.linalg.svdvals(x), "aten._linalg_svd"),
        (lambda x: torch.sparse.mm(torch.eye(T).to_sparse(), x[0]), "aten._sparse_addmm"),
        (lambda x: torch.matrix_exp(x[:, :, :T]), "aten.linalg_matrix_exp"),
    ]:
        with pytest.raises(UncountedError) as caught:
            count_flops(Call(call), (T, D))
        assert caught.value.operators == (name,)


def test_names_tell_what_is_heavy() -> None:
    aten = torch.ops.aten
    heavy = (aten._int_mm, aten.cholesky, aten._linalg_eigh, aten._weight_int8pack_mm, aten.quantized_lstm)
    light = (
        aten.add,
        aten.comm if hasattr(aten, "comm") else aten.cat,
        aten._thnn_fused_lstm_cell,
        aten.cummax,
    )
    assert all(is_heavy(getattr(p, p.overloads()[0])) for p in heavy)
    assert not any(is_heavy(getattr(p, p.overloads()[0])) for p in light)


def test_a_tensor_that_the_counter_cannot_dispatch_is_named() -> None:
    """Nested tensors in PyTorch 2.13; the alternative was a TypeError over forty lines."""
    layer = nn.Linear(D, 3)
    network = Call(lambda x: layer(torch.nested.as_nested_tensor([x[0], x[0, :3]], layout=torch.jagged)))
    with pytest.raises(UncountedError, match=r"no formula for aten\.sym_is_contiguous"):
        count_flops(network, (T, D))


# ---- the network itself ----


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_network_is_counted_in_its_own_precision(dtype: torch.dtype) -> None:
    assert count_flops(nn.Linear(D, 3).to(dtype), (T, D)) == T * D * 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted_and_traced_modules_are_counted_like_others() -> None:
    """TorchScript's modules keep their buffers in something that is no dictionary."""
    network = nn.Sequential(nn.Linear(D, 3), nn.BatchNorm1d(T))
    scripted = torch.jit.script(network)
    assert count_flops(scripted, (T, D)) == T * D * 3 and scripted.training
    assert count_flops(torch.jit.trace(network, torch.zeros(2, T, D)), (T, D)) == T * D * 3


def test_counting_changes_nothing() -> None:
    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))
            self.register_buffer("last", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.last = x
            return x

    network = nn.Sequential(Keeps(), nn.BatchNorm1d(T), nn.Dropout().eval())
    calls, last = network[0].calls, network[0].last
    assert count_flops(network, (T, D)) == 0
    assert network[0].calls is calls and calls == 0 and network[0].last is last
    assert [m.training for m in network] == [True, True, False]


def test_a_network_that_makes_its_weights_makes_them_once() -> None:
    """One example costs one making of them, not a half, and two examples no second one."""
    network = Call(lambda x: x @ (torch.zeros(D, 2) @ torch.zeros(2, D)))
    assert count_flops(network, (T, D)) == T * D * D + D * 2 * D
    assert count_call(network, torch.zeros(2, T, D)) == 2 * T * D * D + D * 2 * D


def test_a_batch_of_one_may_be_refused() -> None:
    class Statistics(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.batch_norm(x, None, None, training=True)

    assert count_flops(nn.Sequential(nn.Linear(D, 3), Statistics()), (D,)) == 3 * D
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        count_flops(nn.Linear(D, 3), (D + 1,))
