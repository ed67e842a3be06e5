"""Clusters of many small sets of points at once, each set by itself."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def kmeans(points: Tensor, present: Tensor, k: int, rounds: int = 10) -> Tensor:
    """Clusters (r, N) from 0 of `points` (r, N, p) for each of r rows by itself: k-means++ and Lloyd's rounds.

    Absent points are in none that counts. Of fewer than k different points some clusters stay empty.
    """
    there = present.to(points.dtype)

    def chosen(weight: Tensor) -> Tensor:
        at = torch.multinomial(weight + 1e-12 * there, 1)
        return points.gather(1, at.unsqueeze(-1).expand(-1, -1, points.shape[-1]))

    centres = chosen(there)
    for _ in range(k - 1):
        nearest = torch.cdist(points, centres).amin(-1).square()
        centres = torch.cat([centres, chosen(nearest * there)], 1)
    cluster = torch.zeros(points.shape[:2], dtype=torch.int64, device=points.device)
    for _ in range(rounds):
        cluster = torch.cdist(points, centres).argmin(-1)
        member = F.one_hot(cluster, k).to(points.dtype) * there.unsqueeze(-1)
        size = member.sum(1).unsqueeze(-1)
        centres = torch.where(size > 0, member.mT @ points / size.clamp_min(1), centres)
    return cluster


def cluster_means(values: Tensor, cluster: Tensor, present: Tensor, k: int) -> Tensor:
    """(r, N, p): for each agent the mean of `values` (r, N, p) over the present agents of its cluster (r, N)."""
    member = F.one_hot(cluster, k).to(values.dtype) * present.unsqueeze(-1)
    means = member.mT @ values / member.sum(1).unsqueeze(-1).clamp_min(1)
    return means.gather(1, cluster.unsqueeze(-1).expand(-1, -1, values.shape[-1]))
