"""The usual layers against their formulas written out with dense matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairsweep.trainables.tasks import edge_attention
from fairsweep.trainables.tasks.memory import kept_for_backward
from fairsweep.trainables.tasks.message_passing import LAYERS, GATLayer, Layers, Structure
from fairsweep.trainables.tasks.sparse import SparseMatrix

torch.set_num_threads(1)

# Node 4 has no neighbour.
GRAPH = Structure.of_edges(np.array([[0, 0, 1, 2], [1, 2, 2, 3]]), 5)
A = torch.tensor(GRAPH.adjacency.toarray())
SPARSE = sp.random(5, 7, density=0.5, format="csr", random_state=0, dtype=np.float32)
X = torch.tensor(SPARSE.toarray())
degree = A.sum(1)


def made(kind: str, inputs: int = 7, **options: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = LAYERS[kind](inputs, 4, **options)
        for p in layer.parameters():  # biases are 0 else
            p.data += 0.1 * torch.randn_like(p)
    return layer


def gcn(x: Tensor, layer: Any) -> Tensor:
    looped = A + torch.eye(5)
    d = looped.sum(1)
    return looped / (d[:, None] * d[None, :]).sqrt() @ x @ layer.weight + layer.bias


def sage(x: Tensor, layer: Any) -> Tensor:
    return x @ layer.own + A / degree.clamp(min=1)[:, None] @ x @ layer.others + layer.bias


def gin(x: Tensor, layer: Any) -> Tensor:
    return layer.second(torch.relu(((1 + layer.eps) * x + A @ x) @ layer.weight + layer.bias))


def gat(x: Tensor, layer: Any) -> Tensor:
    heads = []
    for k in range(layer.heads):
        h = (x @ layer.weight)[:, k * layer.width : (k + 1) * layer.width]
        e = F.leaky_relu((h @ layer.receiver[k])[:, None] + (h @ layer.sender[k])[None, :], 0.2)
        heads.append(e.masked_fill(A + torch.eye(5) == 0, -torch.inf).softmax(1) @ h)
    return (torch.cat(heads, 1) if layer.joined else torch.stack(heads).mean(0)) + layer.bias


@pytest.mark.parametrize(
    ("kind", "dense", "options"),
    [
        ("gcn", gcn, {}),
        ("sage", sage, {}),
        ("gin", gin, {}),
        ("gat", gat, {}),
        ("gat", gat, {"heads": 2}),
        ("gat", gat, {"heads": 3, "joined": False}),
    ],
)
def test_a_layer_is_its_formula_and_so_are_its_gradients(kind: str, dense: Any, options: Any) -> None:
    layer, x = made(kind, **options), X.clone().requires_grad_()
    with torch.no_grad():
        torch.testing.assert_close(layer(SparseMatrix(SPARSE), GRAPH), dense(X, layer))
    found = torch.autograd.grad(layer(x, GRAPH).pow(3).sum(), [x, *layer.parameters()])
    expected = torch.autograd.grad(dense(x, layer).pow(3).sum(), [x, *layer.parameters()])
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "dense"), [("gcn", gcn), ("sage", sage), ("gin", gin), ("gat", gat)])
@pytest.mark.parametrize("width", [3, 7])
def test_the_order_of_products_and_parts_side_by_side_change_nothing(
    kind: str, dense: Any, width: int
) -> None:
    layer, x = made(kind, width), X[:, :width]
    for given in (x, x.clone().requires_grad_(), (SparseMatrix(SPARSE[:, :2]), x[:, 2:])):
        torch.testing.assert_close(layer(given, GRAPH), dense(x, layer))
    found = torch.autograd.grad(layer(x, GRAPH).pow(3).sum(), list(layer.parameters()))
    expected = torch.autograd.grad(dense(x, layer).pow(3).sum(), list(layer.parameters()))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_narrow_constant_states_go_along_the_links_first(monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[int] = []
    matmul = SparseMatrix.matmul
    monkeypatch.setattr(
        SparseMatrix, "matmul", lambda self, x, drop=0.0: widths.append(x.shape[1]) or matmul(self, x, drop)
    )
    for inputs in (3, 7, 9):  # 4 outputs: from 8 on the way back of the narrower product costs less
        made("gcn", inputs)(torch.ones(5, inputs), GRAPH)
    made("gcn")(torch.ones(5, 7, requires_grad=True), GRAPH)
    assert widths == [3, 7, 4, 4]


def test_dropped_coefficients_get_no_gradient_and_the_others_their_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer, x = made("gat", heads=2, attention_drop=0.5), X.clone().requires_grad_()
    rows, columns = GRAPH.propagation.rows, GRAPH.propagation.columns
    keep = 2.0 * (torch.arange(2 * len(rows)).view(2, -1) % 3 > 0)
    monkeypatch.setattr(edge_attention, "dropout", lambda ones, p: keep)
    heads = []
    for k in range(2):
        h = (x @ layer.weight)[:, 2 * k : 2 * k + 2]
        e = F.leaky_relu((h @ layer.receiver[k])[:, None] + (h @ layer.sender[k])[None, :], 0.2)
        mask = torch.zeros(5, 5).index_put((rows, columns), keep[k])
        heads.append((e.masked_fill(A + torch.eye(5) == 0, -torch.inf).softmax(1) * mask) @ h)
    expected, found = torch.cat(heads, 1) + layer.bias, layer(x, GRAPH)
    torch.testing.assert_close(found, expected)
    inputs = [x, *layer.parameters()]
    for a, b in zip(
        torch.autograd.grad(found.pow(3).sum(), inputs),
        torch.autograd.grad(expected.pow(3).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_attention_keeps_no_tensor_of_links_times_channels() -> None:
    nodes = 40  # all linked to all
    graph = Structure(sp.csr_matrix(1 - np.eye(nodes, dtype=np.float32)))
    layer, x = GATLayer(8, 32), torch.ones(nodes, 8)
    with kept_for_backward(layer.parameters()) as kept:
        layer(x, graph)
    assert kept() < 4 * nodes * nodes * 32 / 4


def test_attention_takes_scores_of_any_size() -> None:
    layer = made("gat")
    assert torch.isfinite(layer(1e4 * X, GRAPH)).all()


def test_heads_side_by_side_share_the_width() -> None:
    with pytest.raises(ValueError, match=r"outputs=5: must be a multiple of heads=2"):
        GATLayer(7, 5, heads=2)


@pytest.mark.parametrize("kind", LAYERS)
def test_layers_drop_in_training_only(kind: str) -> None:
    torch.manual_seed(0)
    net = Layers(kind, [7, 6, 3], drop=0.5, norm=True)
    assert not torch.equal(net(X, GRAPH), net(X, GRAPH))
    net.eval()
    first, last = net.states(X, GRAPH)
    assert first.shape == (5, 6) and (first >= 0).all() and torch.equal(last, net(X, GRAPH))


def test_a_kind_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match=r"layer=gcnn: known are gcn, sage, gat, gin"):
        Layers("gcnn", [2, 2])
