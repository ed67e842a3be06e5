"""Semi-supervised node classification: one graph, few labels; sparse products, splits and metrics.

A training step is one full-batch epoch. Matrices are CSR throughout: on citation graphs a product with the
features costs a hundredth of the dense one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.base import DataError, Metric
from trainables.datasets import graphs, planetoid
from trainables.datasets.graphs import Graph

METRICS = (
    Metric("val_accuracy", "max", "validation", "fraction"),
    Metric("val_loss", "min", "validation", "nats"),
    Metric("train_loss", "min", "train", "nats"),
    Metric("test_accuracy", "max", "test", "fraction"),
)

LOADERS: Mapping[str, Callable[[Path | None], Graph]] = {
    "digits_knn": graphs.digits_knn,
    "lastfm": graphs.lastfm,
    "csbm": graphs.csbm,
    **{name: partial(planetoid.planetoid, name) for name in planetoid.SIZES},
    **{name: partial(graphs.gnn_benchmark, name) for name in graphs.GNN_BENCHMARK},
}


# ---- sparse matrices ----


class SparseMatrix:
    """A constant CSR matrix on a device, with its transpose at hand for the backward pass."""

    def __init__(self, matrix: sp.csr_matrix, device: str | torch.device = "cpu") -> None:
        matrix = sp.csr_matrix(matrix, dtype=np.float32)
        matrix.sort_indices()
        self.shape = matrix.shape
        # The transpose of a matrix of entry numbers says where each of its entries comes from.
        numbers = sp.csr_matrix((np.arange(matrix.nnz), matrix.indices, matrix.indptr), shape=self.shape)
        turned = numbers.T.tocsr()
        turned.sort_indices()

        def move(array: np.ndarray, dtype: torch.dtype) -> Tensor:
            return torch.tensor(array, dtype=dtype, device=device)

        # 32-bit indices are what the sparse libraries take; others would be converted in every product.
        self._rows = (move(matrix.indptr, torch.int32), move(matrix.indices, torch.int32))
        self._turned_rows = (move(turned.indptr, torch.int32), move(turned.indices, torch.int32))
        self._order = move(turned.data, torch.int64)
        self.values = move(matrix.data, torch.float32)
        self.forward, self.backward = self._pair(self.values)

    def _pair(self, values: Tensor) -> tuple[Tensor, Tensor]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse .* tensor support is in beta")
            n, m = self.shape
            return (
                torch.sparse_csr_tensor(*self._rows, values, size=(n, m), check_invariants=False),
                torch.sparse_csr_tensor(
                    *self._turned_rows, values[self._order], size=(m, n), check_invariants=False
                ),
            )

    def matmul(self, dense: Tensor, drop: float = 0.0) -> Tensor:
        """The product with `dense` (m, c), each entry of this matrix first dropped with probability `drop`.

        Entries that stay are divided by 1 - drop. A zero stays zero either way, so dropping stored entries
        only has the distribution of dropout on the dense matrix.
        """
        pair = (self.forward, self.backward)
        if drop > 0:
            pair = self._pair(dropout(self.values, drop))
        return _Product.apply(dense, *pair)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dense: Tensor, matrix: Tensor, transposed: Tensor) -> Tensor:
        ctx.transposed = transposed
        return matrix @ dense

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.transposed @ grad, None, None


class _Hops(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: SparseMatrix, hops: int) -> Tensor:
        ctx.transposed = matrix.backward
        out = x.new_empty(hops + 1, *x.shape)
        out[0] = x
        for hop in range(hops):
            torch.mm(matrix.forward, out[hop], out=out[hop + 1])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        total = grad[-1]
        for hop in range(len(grad) - 2, -1, -1):
            total = torch.addmm(grad[hop], ctx.transposed, total)
        return total, None, None


def hops(matrix: SparseMatrix, x: Tensor, count: int) -> Tensor:
    """(count + 1, n, c): x (n, c), A x, A A x, ... up to `count` products, differentiable in x."""
    return _Hops.apply(x, matrix, count)


def dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    """Inverted dropout. As `torch.nn.functional.dropout`, at a third of its cost on a CPU."""
    if not training or p == 0:
        return x
    return x * (torch.rand_like(x) >= p) / (1 - p)


def normalised_adjacency(adjacency: sp.csr_matrix) -> sp.csr_matrix:
    """D^-1/2 (A + I) D^-1/2 with D the degrees of A + I."""
    looped = adjacency + sp.identity(adjacency.shape[0], dtype=np.float64, format="csr")
    scale = sp.diags(1 / np.sqrt(np.asarray(looped.sum(1)).ravel()))
    return sp.csr_matrix(scale @ looped @ scale)


# ---- data ----


def load(name: str, data_dir: Path | None = None) -> Graph:
    """The graph `name`, read once per process. DataError if unknown, missing or damaged."""
    if name not in LOADERS:
        raise DataError(f"data={name}: unknown graph; known: {', '.join(LOADERS)}")
    return _load(name, None if data_dir is None else Path(data_dir))


@lru_cache(maxsize=4)
def _load(name: str, data_dir: Path | None) -> Graph:
    return LOADERS[name](data_dir)


def random_split(
    labels: np.ndarray, per_class: tuple[int, int], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Indices: `per_class` labelled nodes of each class to train and to validate, all others to test.

    Nodes with label -1 are in no part. ValueError if a class has too few nodes to leave one for testing.
    """
    train, validation = per_class
    parts: dict[str, list[np.ndarray]] = {"train": [], "validation": [], "test": []}
    for label in range(int(labels.max()) + 1):
        nodes = rng.permutation(np.flatnonzero(labels == label))
        if len(nodes) <= train + validation:
            raise ValueError(
                f"per_class={per_class}: class {label} has {len(nodes)} nodes, needs more than"
                f" {train + validation}"
            )
        for part, chosen in zip(parts, np.split(nodes, [train, train + validation]), strict=True):
            parts[part].append(chosen)
    return {part: np.sort(np.concatenate(chosen)) for part, chosen in parts.items()}


@lru_cache(maxsize=2)
def _on_device(
    name: str, data_dir: Path | None, device: str
) -> tuple[Tensor | SparseMatrix, SparseMatrix, Tensor]:
    graph = load(name, data_dir)
    features: Tensor | SparseMatrix
    if sp.issparse(graph.features):
        features = SparseMatrix(graph.features, device)
    else:
        features = torch.tensor(graph.features, device=device)
    propagation = SparseMatrix(normalised_adjacency(graph.adjacency), device)
    return features, propagation, torch.tensor(graph.labels, device=device)


class NodeTask:
    """One graph on one device with a split: the public one, or one drawn by `rng`.

    features: (n, p), dense or sparse. propagation: the normalised adjacency, (n, n). labels: (n,).
    """

    def __init__(self, name: str, data_dir: Path | None, device: str, rng: np.random.Generator) -> None:
        graph = load(name, data_dir)
        folder = None if data_dir is None else Path(data_dir)
        self.features, self.propagation, self.labels = _on_device(name, folder, device)
        self.classes = graph.classes
        self.inputs = int(self.features.shape[1])
        split = graph.split or random_split(graph.labels, graph.per_class, rng)
        self.parts = {part: torch.tensor(nodes, device=device) for part, nodes in split.items()}

    def loss(self, logits: Tensor, part: str) -> Tensor:
        """Mean cross-entropy (nats) of `logits` (n, classes) over the nodes of `part`."""
        nodes = self.parts[part]
        return F.cross_entropy(logits[nodes], self.labels[nodes])

    def accuracy(self, logits: Tensor, part: str) -> float:
        """Share of the nodes of `part` whose largest logit is that of their class."""
        nodes = self.parts[part]
        return int((logits[nodes].argmax(1) == self.labels[nodes]).sum()) / len(nodes)
