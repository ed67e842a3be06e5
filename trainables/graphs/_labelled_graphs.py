"""Graphs and features that hold labels, and the network on them: what the trainings of ForwardGNN share."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from fairsweep.trainables.tasks.message_passing import LAYERS, Features, GATLayer, Structure
from fairsweep.trainables.tasks.sparse import on_device

HEADS = 4  # of GAT


# ---- graphs with labels in them ----


def with_virtual_nodes(
    adjacency: sp.csr_matrix, nodes: np.ndarray, labels: np.ndarray, classes: int, both: bool
) -> sp.csr_matrix:
    """(n + C, n + C): `adjacency` (n, n) and a node n + c for each class, which receives from those of `nodes` that
    have it among their `labels`; if `both`, they from it, too."""
    n, virtual = adjacency.shape[0], adjacency.shape[0] + labels
    ends = (np.r_[virtual, nodes], np.r_[nodes, virtual]) if both else (virtual, nodes)
    found = sp.csr_matrix((np.ones(len(ends[0]), np.float32), ends), shape=(n + classes, n + classes))
    grown = adjacency.copy()
    grown.resize(found.shape)
    return sp.csr_matrix(found + grown)


def one_hot(nodes: np.ndarray, labels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(n, C): 1 at the `labels` of `nodes`; 1/C everywhere for the other nodes."""
    found = np.full(shape, 1 / shape[1], np.float32)
    found[nodes] = np.eye(shape[1], dtype=np.float32)[labels]
    return found


def unit_rows(x: Tensor) -> Tensor:
    """x (n, c) with rows of length one; of zeros where they are."""
    return x / (x.norm(dim=1, keepdim=True) + 1e-8)


def features_of(
    x: np.ndarray | sp.csr_matrix, shown: list[np.ndarray], device: str, unit: bool = True
) -> list[Features]:
    """x (n, p) beside each of the labels `shown` (n, C), rows of length one together if `unit`; without labels x alone.

    The labels are alike in the lengths of their rows, so that all share one x.
    """
    lengths = np.asarray(x.multiply(x).sum(1)).ravel() if sp.issparse(x) else (x * x).sum(1)
    squares = lengths + ((shown[0] ** 2).sum(1) if shown else 0)
    scale = (1 / (np.sqrt(squares) + 1e-8) if unit else np.ones(len(squares))).astype(np.float32)
    alone = on_device(sp.diags(scale) @ x if sp.issparse(x) else x * scale[:, None], device)
    if not shown:
        return [alone]
    return [(alone, torch.tensor(labels * scale[:, None], device=device)) for labels in shown]


def log_mean(total: Tensor, count: int) -> Tensor:
    """The logarithm of the mean of `count` probabilities, which may all be 0 in single precision."""
    return (total / count).clamp(min=1e-30).log()


# ---- the network ----


class Net(nn.Module):
    """Convolutions of widths (p_l, c_l), the first `depth` of which have been trained, or are being."""

    def __init__(self, kind: str, widths: list[tuple[int, int]], joined: bool = True) -> None:
        super().__init__()
        if kind not in ("gcn", "sage", "gat"):
            raise ValueError(f"conv={kind}: must be gcn, sage or gat")
        self.layers = nn.ModuleList(
            GATLayer(p, c, HEADS, joined or i + 1 < len(widths)) if kind == "gat" else LAYERS[kind](p, c)
            for i, (p, c) in enumerate(widths)
        )
        self.register_buffer("depth", torch.tensor(1))

    def out(self, layer: int, x: Features, graph: Structure) -> Tensor:
        """ReLU(conv(x))."""
        return torch.relu(self.layers[layer](x, graph))

    @property
    def trained(self) -> int:
        """`depth` as a number."""
        return int(self.depth)
