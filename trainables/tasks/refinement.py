"""A graph's links against what is known of its nodes: which to trust, which to add, how much each is to count.

Jaccard similarity of words (Wu et al., IJCAI 2019), low-rank adjacency (Entezari et al., WSDM 2020), cosines of
representations and weights by degree (Li et al., KDD 2022).
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import svds
from torch import Tensor

from fairsweep.trainables.datasets.graphs import directed, undirected
from fairsweep.trainables.tasks.poisoning import links_of
from fairsweep.trainables.tasks.sparse import SparseMatrix, normalised_adjacency


def words_of(features: np.ndarray | sp.csr_matrix) -> tuple[np.ndarray | sp.csr_matrix, sp.csr_matrix | None]:
    """The features for networks, and the words (n, p), 0/1, that nodes can have in common; None if there are no such:
    the features are numbers, or no two nodes share one. Sparse features are words that are there or not."""
    if not sp.issparse(features) and not np.isin(features, (0, 1)).all():
        return features, None
    words = sp.csr_matrix(features != 0, dtype=np.float32)
    return words, words if words.getnnz(0).max(initial=0) > 1 else None


def jaccard(x: sp.csr_matrix, links: np.ndarray) -> np.ndarray:
    """Of the words of both ends of `links` (2, m) the share that is common, (m,); 1 where neither has any.

    x: (n, p), what is not 0 is there. (The authors' code divides 0 by 0 where both are empty.)
    """
    there = sp.csr_matrix(x != 0, dtype=np.float64)
    size = np.asarray(there.sum(1)).ravel()
    common = np.asarray(there[links[0]].multiply(there[links[1]]).sum(1)).ravel()
    union = size[links].sum(0) - common
    return np.divide(common, union, out=np.ones_like(union), where=union > 0)


def symmetric(adjacency: sp.csr_matrix, loops: float, device: str) -> SparseMatrix:
    """D^-1/2 (A + `loops` I) D^-1/2."""
    return SparseMatrix(normalised_adjacency(adjacency, loops), device)


def weighted(adjacency: sp.csr_matrix, alpha: float) -> sp.csr_matrix:
    """d_u^alpha (A + I)_uv d_v^alpha, d the row sums of A + I; rows divided by their sums unless alpha is -1/2, where
    this is the GCN's. Above 0, neighbours of high degree count for more: attackers prefer others."""
    looped = adjacency + sp.identity(adjacency.shape[0], format="csr")
    scale = sp.diags(np.power(np.asarray(looped.sum(1)).ravel(), alpha))
    found = scale @ looped @ scale
    if alpha != -0.5:
        found = sp.diags(1 / np.asarray(found.sum(1)).ravel()) @ found
    return sp.csr_matrix(found)


def cosine(x: Tensor, links: np.ndarray) -> Tensor:
    """(m,): cosines of the rows of x at both ends of `links` (2, m)."""
    rows = F.normalize(x, dim=1)
    ends, block = torch.tensor(links, device=x.device), max(1, (1 << 25) // x.shape[1])
    return torch.cat(
        [(rows[a] * rows[b]).sum(1) for a, b in zip(*(end.split(block) for end in ends), strict=True)]
    )


def nearest(x: Tensor, k: int, eligible: Tensor, block: int = 1024) -> Tensor:
    """(n, k): the k nodes most similar to each by cosine, itself among them if `eligible` (n,); others count as 0."""
    rows = F.normalize(x, dim=1)
    return torch.cat(
        [((part @ rows.T) * eligible).topk(min(k, len(x)), 1).indices for part in rows.split(block)]
    )


def refined(adjacency: sp.csr_matrix, x: Tensor, threshold: float | None, k: int) -> sp.csr_matrix:
    """`adjacency` without the links whose ends have a cosine of at most `threshold` (None: with all), and with arcs
    from each node to its `nearest` among the nodes that then have a degree above 1. Rows are the receivers."""
    links = links_of(adjacency)
    if threshold is not None:
        links = links[:, (cosine(x, links) > threshold).cpu().numpy()]
    kept = undirected(adjacency.shape[0], *links)
    if k:
        degree = torch.tensor(kept.getnnz(1), device=x.device)
        near = nearest(x, k, (degree > 1).to(x.dtype)).cpu().numpy()
        here = np.repeat(np.arange(len(near)), near.shape[1])
        kept = kept.maximum(directed(len(near), here, near.ravel()))
    return sp.csr_matrix(kept)


class LowRank:
    """D^-1/2 (A_r + I) D^-1/2 with A_r the best approximation of rank r (Entezari et al., WSDM 2020), never made dense.

    D: the row sums, 1 where they are less (A_r has negative entries). start: (n,), of the search for it.
    """

    def __init__(self, adjacency: sp.csr_matrix, rank: int, start: np.ndarray, device: str) -> None:
        rank = min(rank, adjacency.shape[0] - 1)
        u, s, v = svds(adjacency.astype(np.float64), k=rank, v0=start)
        degree = np.maximum(u @ (s * v.sum(1)) + 1, 1)
        scale = 1 / np.sqrt(degree)[:, None]
        self.left, self.right, self.own = (
            torch.tensor(part, dtype=torch.float32, device=device)
            for part in (scale * u * s, v * scale.T, scale**2)
        )

    def matmul(self, dense: Tensor) -> Tensor:
        """The product with `dense` (n, c)."""
        return self.left @ (self.right @ dense) + self.own * dense


def outcome(clean: sp.csr_matrix, poisoned: sp.csr_matrix, now: sp.csr_matrix) -> dict[str, int]:
    """Links of the poisoned graph, how many of them are poison, links that the poison took away; how many links and how
    much poison are in no direction of `now` any more, and arcs of it that are new."""

    def links(*graphs: sp.csr_matrix) -> int:
        common = graphs[0]
        for graph in graphs[1:]:
            common = common.multiply(graph)
        return int(common.sum()) // 2

    left = now.maximum(now.T)
    poison = links(poisoned) - links(poisoned, clean)
    return {
        "links": links(poisoned),
        "poison": poison,
        "taken": links(clean) - links(poisoned, clean),
        "cut": links(poisoned) - links(poisoned, left),
        "poison_cut": poison - links(poisoned, left) + links(poisoned, left, clean),
        "arcs_new": int(now.sum() - now.multiply(poisoned).sum()),
    }
