"""Contrast of two views of the same rows with weighted negatives: by clusters, by a learned network, by prototypes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fairsweep.trainables.tasks.clustering import Clustering

BLOCK = 1024  # rows of similarities whose weights are computed at once


def hard_weights(assigned: Sequence[Tensor]) -> Tensor:
    """gamma (n, n): in how many of the clusterings, (n,) each, i and j are in different clusters; 0 on the diagonal."""
    return sum(
        ((run[:, None] != run[None, :]).float() for run in assigned),
        torch.zeros((), device=assigned[0].device),
    )


def weighted_contrast(anchors: Tensor, others: Tensor, tau: float, gamma: Tensor | None) -> Tensor:
    """mean_i -log(exp(s_ii / tau) / sum_j gamma_ij exp(s_ij / tau)), s = anchors others'; gamma None: all ones.

    An anchor without a single negative says nothing and is left out.
    """
    scaled = anchors @ others.T / tau
    positive = scaled.diagonal()
    if gamma is None:
        return (scaled.logsumexp(1) - positive).mean()
    some = (gamma > 0).any(1)
    weighted = (scaled + gamma.log())[some].logsumexp(1)
    return (weighted - positive[some]).sum() / some.sum().clamp_min(1)


def prototypes(anchors: Tensor, found: Sequence[Clustering]) -> Tensor:
    """Mean over clusterings and rows of -log softmax of the own cluster's centre among all, each over its phi."""
    losses = [F.cross_entropy(anchors @ run.centres.T / run.concentration, run.assigned) for run in found]
    return torch.stack(losses).mean()


def soft_contrast(fine: Tensor, coarse: Tensor, tau: float, weigh: nn.Sequential) -> Tensor:
    """mean_i -log(exp(s_ii / tau) / sum_j w_ij exp(s_ij / tau)), s = fine coarse', w_ij = sigmoid(weigh(f_i + c_j)).

    The first layer of `weigh` is linear, so it is applied to both sides apart; blocks of rows are computed again in the
    backward pass, so that memory is `BLOCK` times n, not n^2, times 16.
    """
    first, activation, last = weigh
    right = coarse @ first.weight.T + first.bias

    def block(left: Tensor, rows: Tensor) -> Tensor:
        logits = last(activation(left[:, None] + right[None])).squeeze(2)
        return (rows @ coarse.T / tau + F.logsigmoid(logits)).logsumexp(1)

    parts = zip((fine @ first.weight.T).split(BLOCK), fine.split(BLOCK), strict=True)
    if len(fine) <= BLOCK:
        sums = [block(left, rows) for left, rows in parts]
    else:
        sums = [checkpoint(block, left, rows, use_reentrant=False) for left, rows in parts]
    return (torch.cat(sums) - (fine * coarse).sum(1) / tau).mean()
