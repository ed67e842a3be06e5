"""The usual layers against their formulas written out with dense matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairsweep.trainables.tasks.message_passing import LAYERS, GATLayer, Layers, Structure
from fairsweep.trainables.tasks.sparse import SparseMatrix

torch.set_num_threads(1)

# Node 4 has no neighbour.
GRAPH = Structure.of_edges(np.array([[0, 0, 1, 2], [1, 2, 2, 3]]), 5)
A = torch.tensor(GRAPH.adjacency.toarray())
SPARSE = sp.random(5, 7, density=0.5, format="csr", random_state=0, dtype=np.float32)
X = torch.tensor(SPARSE.toarray())
degree = A.sum(1)


def made(kind: str, **options: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = LAYERS[kind](7, 4, **options)
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
