"""Sparse matrices on a device: products with dropout on the entries, propagation along a graph.

Matrices are CSR throughout: on citation graphs a product with the features costs a hundredth of the dense one.
"""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn


def csr(rows: tuple[Tensor, Tensor], values: Tensor, size: tuple[int, int]) -> Tensor:
    """The sparse tensor of `rows` (their starts, and the columns), int32 as the libraries take them, and `values`."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse .* tensor support is in beta")
        return torch.sparse_csr_tensor(*rows, values, size=size, check_invariants=False)


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
        return self.with_values(values), self.turned(values)

    # -- what other entries at the same places need: one value for each, in the order of the rows

    @property
    def nnz(self) -> int:
        """Stored entries."""
        return len(self.values)

    @cached_property
    def rows(self) -> Tensor:
        """The row of each entry, ascending, int64."""
        numbers = torch.arange(self.shape[0], device=self._starts.device)
        return torch.repeat_interleave(numbers, self._starts.diff())

    @cached_property
    def columns(self) -> Tensor:
        """The column of each entry, int64."""
        return self._rows[1].long()

    @cached_property
    def _starts(self) -> Tensor:
        return self._rows[0].long()

    def row_sum(self, values: Tensor) -> Tensor:
        """(n,): the sums of `values` (nnz,) over each row."""
        return torch.segment_reduce(values, "sum", offsets=self._starts)

    def row_max(self, values: Tensor) -> Tensor:
        """(n,): the largest of `values` (nnz,) in each row."""
        return torch.segment_reduce(values, "max", offsets=self._starts)

    def with_values(self, values: Tensor) -> Tensor:
        """The sparse tensor with the entries `values` (nnz,) in the places of this one's."""
        return csr(self._rows, values, (self.shape[0], self.shape[1]))

    def turned(self, values: Tensor) -> Tensor:
        """The transpose of `with_values`."""
        return csr(self._turned_rows, values.index_select(0, self._order), (self.shape[1], self.shape[0]))

    def sampled(self, left: Tensor, right: Tensor) -> Tensor:
        """(nnz,): left_i . right_j at the place (i, j) of each entry; left (n, c), right (m, c)."""
        empty = self.with_values(torch.zeros_like(self.values))
        return torch.sparse.sampled_addmm(empty, left, right.T, beta=0.0).values()

    def matmul(self, dense: Tensor, drop: float = 0.0) -> Tensor:
        """The product with `dense` (m, c), each entry of this matrix first dropped with probability `drop`.

        Entries that stay are divided by 1 - drop. A zero stays zero either way, so dropping stored entries
        only has the distribution of dropout on the dense matrix.
        """
        pair = (self.forward, self.backward)
        if drop > 0:
            pair = self._pair(dropout(self.values, drop))
        return _Product.apply(dense, *pair)


def on_device(matrix: np.ndarray | sp.spmatrix, device: str | torch.device) -> Tensor | SparseMatrix:
    """`matrix` (n, m) where it is computed with, in single precision, dense or sparse as it is."""
    if sp.issparse(matrix):
        return SparseMatrix(matrix, device)
    return torch.tensor(np.asarray(matrix, np.float32), device=device)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dense: Tensor, matrix: Tensor, transposed: Tensor) -> Tensor:
        ctx.transposed = transposed
        return matrix @ dense

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.transposed @ grad, None, None


def product(matrix: Tensor, transposed: Tensor, dense: Tensor) -> Tensor:
    """`matrix` (n, m) times `dense` (m, c), differentiable in `dense`; both matrices sparse and constant."""
    return _Product.apply(dense, matrix, transposed)


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


def normalised_adjacency(adjacency: sp.csr_matrix, loops: float = 1.0) -> sp.csr_matrix:
    """D^-1/2 (A + `loops` I) D^-1/2 with D the degrees of A + `loops` I; rows of nodes of degree 0 are empty."""
    looped = adjacency + loops * sp.identity(adjacency.shape[0], dtype=np.float64, format="csr")
    degree = np.asarray(looped.sum(1)).ravel()
    scale = sp.diags(np.divide(1, np.sqrt(degree), out=np.zeros_like(degree), where=degree > 0))
    return sp.csr_matrix(scale @ looped @ scale)


def linear(layer: nn.Linear, x: Tensor | SparseMatrix, drop: float) -> Tensor:
    """`layer` applied to x (n, p), dense or sparse, after dropout with probability `drop`."""
    if isinstance(x, SparseMatrix):
        return x.matmul(layer.weight.T, drop) + layer.bias
    return layer(dropout(x, drop))
