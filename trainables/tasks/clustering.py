"""k-means on a device while a network trains: of one set, with how tight its clusters are, and of many small sets."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


class Clustering(NamedTuple):
    """assigned: (n,) cluster of each row. centres: (k, d), at length 1. concentration: (k,), small where a cluster is
    tight; its mean is the temperature that was asked for."""

    assigned: Tensor
    centres: Tensor
    concentration: Tensor


@torch.no_grad()
def kmeans(x: Tensor, k: int, restarts: int = 5, iterations: int = 20) -> tuple[Tensor, Tensor]:
    """Assignment (n,) and centres (k, d) of the rows x (n, d): the best of `restarts`, all computed at once.

    By Euclidean distance, from k different rows drawn anew for each restart; a cluster that loses all its rows keeps
    its centre. k is at most n. Memory: restarts n k numbers.
    """
    n, k = len(x), min(k, len(x))
    x = x.detach()
    centres = torch.stack([x[torch.randperm(n, device=x.device)[:k]] for _ in range(restarts)])
    square = x.square().sum(1)

    def distances() -> Tensor:
        cross = (x @ centres.flatten(0, 1).T).view(n, restarts, k)
        return square[:, None, None] - 2 * cross + centres.square().sum(2)

    offset = torch.arange(restarts, device=x.device) * k
    for _ in range(iterations):
        rows = (distances().argmin(2) + offset).flatten()
        counts = torch.bincount(rows, minlength=restarts * k).unsqueeze(1)
        sums = x.new_zeros(restarts * k, x.shape[1])
        sums.index_add_(0, rows, x.repeat_interleave(restarts, 0))
        moved = torch.where(counts > 0, sums / counts.clamp_min(1), centres.flatten(0, 1))
        if torch.equal(moved, centres.flatten(0, 1)):
            break
        centres = moved.view(restarts, k, -1)
    nearest, assigned = distances().min(2)
    best = int(nearest.clamp_min(0).sum(0).argmin())
    return assigned[:, best], centres[best]


@torch.no_grad()
def concentration(x: Tensor, assigned: Tensor, centres: Tensor, mean: float) -> Tensor:
    """(k,) phi of prototypical contrast (Li et al. 2021): the mean distance of a cluster's rows from its centre over
    log(rows + 5).

    Clusters of less than two rows get the largest; all are clipped to the percentiles 10 and 90 and scaled to `mean`.
    """
    k = len(centres)
    distance = (x - centres[assigned]).norm(dim=1)
    counts = torch.bincount(assigned, minlength=k)
    total = distance.new_zeros(k).index_add_(0, assigned, distance)
    phi = total / counts.clamp_min(1) / torch.log(counts + 5.0)
    phi = torch.where(counts > 1, phi, phi[counts > 1].max() if (counts > 1).any() else phi.new_ones(()))
    low, high = np.percentile(phi.cpu().numpy(), (10, 90))
    phi = phi.clip(low, high)
    average = float(phi.mean())
    return mean * phi / average if average > 1e-12 else torch.full_like(phi, mean)


def clustering(x: Tensor, k: int, mean: float) -> Clustering:
    """k-means of x (n, d), which no gradient passes, with concentrations of the given mean."""
    assigned, centres = kmeans(x, k)
    phi = concentration(x.detach(), assigned, centres, mean)
    return Clustering(assigned, F.normalize(centres, dim=1), phi.clamp_min(1e-3 * mean))


# ---- many small sets of points at once, each by itself ----


def kmeans_of_each(points: Tensor, present: Tensor, k: int, rounds: int = 10) -> Tensor:
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
