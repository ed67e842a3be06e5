"""Graphs of who is near whom, frame by frame: their Laplacians and spectra, all frames at once.

Shapes: N agents, some of them absent (`present` (..., N) bool); absent ones have no edge and no entry anywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor


def adjacency(places: Tensor, present: Tensor, radius: float, scale: float) -> Tensor:
    """(..., N, N) weights exp(-distance / scale) of agents at `places` (..., N, 2) that are nearer than `radius` to
    each other; zero diagonal. The paper's scale is 1 m."""
    distance = torch.linalg.vector_norm(places.unsqueeze(-2) - places.unsqueeze(-3), dim=-1)
    pair = present.unsqueeze(-1) & present.unsqueeze(-2) & (distance < radius)
    pair = pair & ~torch.eye(places.shape[-2], dtype=torch.bool, device=places.device)
    return torch.where(pair, torch.exp(-distance / scale), 0.0)


def laplacian(weights: Tensor) -> Tensor:
    """D - A of symmetric weights (..., N, N)."""
    return weights.sum(-1).diag_embed() - weights


def fixed_signs(vectors: Tensor) -> Tensor:
    """Columns of (..., N, k) with the entry of the largest size, the first of equal ones, positive."""
    sizes = vectors.abs()
    # Of equal sizes rounding must not choose.
    near = sizes >= sizes.amax(-2, keepdim=True) * (1 - 1e-6)
    lead = vectors.gather(-2, near.to(torch.uint8).argmax(-2, keepdim=True))
    return torch.where(lead < 0, -vectors, vectors)


def spectrum(matrix: Tensor, present: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest eigenvalues (..., k) of Laplacians (..., N, N), ascending, and their vectors (..., N, k), signs
    fixed; zeros where fewer agents are present. Costs N^3 a frame, batched."""
    # Absent agents go behind all others: above any eigenvalue, which is at most twice the largest degree.
    behind = 2 * matrix.diagonal(dim1=-2, dim2=-1).amax(-1, keepdim=True) + 1
    values, vectors = torch.linalg.eigh(matrix + torch.where(present, 0.0, behind).diag_embed())
    count = present.sum(-1, keepdim=True)
    there = torch.arange(values.shape[-1], device=matrix.device) < count
    values = torch.where(there, values.clamp_min(0), 0.0)[..., :k]
    vectors = torch.where(there.unsqueeze(-2) & present.unsqueeze(-1), vectors, 0.0)[..., :k]
    short = k - values.shape[-1]
    if short > 0:
        values, vectors = (torch.nn.functional.pad(x, (0, short)) for x in (values, vectors))
    return values, fixed_signs(vectors)


def degrees(values: Tensor, vectors: Tensor) -> Tensor:
    """(..., N): the diagonals of U diag(values) U^T, which are the degrees of the agents if all vectors are there."""
    return (vectors.square() * values.unsqueeze(-2)).sum(-1)


def rate(degree: Tensor) -> Tensor:
    """(..., N): the mean change from frame to frame of degrees (..., T, N); of it only the first and the last say."""
    return (degree[..., -1, :] - degree[..., 0, :]) / (degree.shape[-2] - 1)


def enlarged(
    values: Tensor, vectors: Tensor, weights: Tensor, k: int, shift: float = 0.05, rounds: int = 200
) -> tuple[Tensor, Tensor]:
    """The k smallest eigenvalues and their vectors (n + 1, k) of a Laplacian that one agent has been added to.

    values, vectors: all of the old one (n, n). weights: (n,) of the edges between the new agent and the old ones, 0
    where there is none; r of them are positive. The new one is the old one with an empty row and column plus B B^T,
    with columns sqrt(w_j) (e_j - e_new): a shifted inverse of rank r more (Sherman, Morrison and Woodbury), in which k
    + 4 vectors are iterated. No matrix (n + 1, n + 1) is decomposed; a round costs n^2 k.
    """
    n = len(values)
    old = torch.zeros(n + 1, n + 1, dtype=values.dtype)
    old[:n, :n], old[n, n] = vectors, 1.0
    at = weights.nonzero().squeeze(1)
    edge = torch.zeros(n + 1, len(at), dtype=values.dtype)
    edge[at, torch.arange(len(at))] = weights[at].sqrt()
    edge[n] = -weights[at].sqrt()
    inverse = 1 / (torch.cat([values, values.new_zeros(1)]) + shift)
    solved = old @ (inverse[:, None] * (old.T @ edge))
    inner = torch.linalg.inv(torch.eye(len(at), dtype=values.dtype) + edge.T @ solved)

    def invert(x: Tensor) -> Tensor:
        return old @ (inverse[:, None] * (old.T @ x)) - solved @ (inner @ (solved.T @ x))

    # From the old vectors, the smallest first, and the new agent's own, made independent of each other.
    width = min(k + 4, n + 1)
    block = torch.linalg.qr(torch.cat([old[:, n:], old[:, :n]], 1)[:, :width])[0]
    found = values.new_zeros(width)
    for _ in range(rounds):
        block = torch.linalg.qr(invert(block))[0]
        ritz, turn = torch.linalg.eigh(block.T @ invert(block))
        block, before, found = block @ turn.flip(1), found, 1 / ritz.flip(0) - shift
        if (found[:k] - before[:k]).abs().max() < 1e-14:
            break
    return found[:k].clamp_min(0), fixed_signs(block[:, :k])
