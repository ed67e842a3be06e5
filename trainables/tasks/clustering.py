"""k-means on a device while a network trains, and how tight its clusters are."""

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
