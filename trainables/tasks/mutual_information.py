"""Mutual information, in bits, of a layer T = f(X) with its input and with the label: by bins and by kernels."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def entropy(p: Tensor) -> Tensor:
    """-sum p log2 p over the last dimension of probabilities (..., n); 0 log 0 is 0."""
    return 0.0 - torch.special.xlogy(p, p).sum(-1) / math.log(2)


def bin_numbers(t: Tensor, bins: int, low: float, high: float) -> Tensor:
    """For activations (n, units): which rows fall into the same bin in every unit, as numbers (n,) from 0.

    `bins` equal bins from `low` to `high`; what lies at or beyond an end is in the bin at that end.
    """
    width = max(high - low, 1e-12)
    places = ((t.double() - low) / width * bins).floor().clamp(0, bins - 1).long()
    numbers = torch.zeros(len(t), dtype=torch.long, device=t.device)
    for column in places.T:
        numbers = torch.unique(numbers * bins + column, return_inverse=True)[1]
    return numbers


def binned(numbers: Tensor, conditional: Tensor) -> tuple[Tensor, Tensor]:
    """p(t) and p(y|t), (T,) and (T, classes), of binned rows with p(y|x) `conditional` (n, classes)."""
    counts = torch.bincount(numbers).double()
    sums = torch.zeros(len(counts), conditional.shape[1], dtype=torch.float64, device=numbers.device)
    return counts / len(numbers), sums.index_add_(0, numbers, conditional) / counts[:, None]


def binned_information(numbers: Tensor, conditional: Tensor) -> tuple[float, float]:
    """I(X;T) = H(T), for T is a function of X, and I(T;Y) = H(Y) - H(Y|T), of `bin_numbers` (n,).

    The n rows are all inputs, equally likely, and conditional (n, classes) is their p(y|x).
    """
    p, p_y = binned(numbers, conditional)
    return entropy(p).item(), (entropy(conditional.mean(0)) - (p * entropy(p_y)).sum()).item()


def kde_information(t: Tensor, conditional: Tensor, variance: float) -> tuple[float, float]:
    """The same of T plus Gaussian noise, t (n, units): the pairwise bound of Kolchinsky and Tracey (2017).

    As in Saxe et al. (ICLR 2018), with p(y|x) in place of one label. An upper bound on I(X;T) and the
    difference of two such bounds for I(T;Y); at most log2 n and I(X;Y).
    """
    t = t.double()
    p_y = conditional.mean(0)
    weights = torch.cat([torch.ones_like(conditional[:, :1]), conditional / p_y], 1) / len(t)
    blocks = [torch.exp(torch.cdist(rows, t).square() / (-2 * variance)) @ weights for rows in t.split(512)]
    density = torch.cat(blocks)
    ixt = -density[:, 0].log2().mean()
    ity = torch.special.xlogy(conditional, density[:, 1:] / density[:, :1]).sum(1).mean() / math.log(2)
    return ixt.item(), max(ity.item(), 0.0)
