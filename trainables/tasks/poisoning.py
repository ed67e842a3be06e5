"""Attacks on the links of a graph before anything is trained on it: at random, by the classes, by gradients.

Each changes `count` links of a symmetric 0/1 adjacency and returns the new one; `rng` draws whatever is random.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F

from fairsweep.trainables.datasets.graphs import undirected

ATTACKS = ("none", "random", "dice", "mettack")
INNER_STEPS, INNER_RATE, INNER_MOMENTUM = 50, 0.1, 0.9  # of the surrogate under `mettack`
ROUNDS = 25  # in which `mettack` makes its changes


def links_of(adjacency: sp.csr_matrix) -> np.ndarray:
    """(2, m): the links as pairs i < j, in ascending order."""
    upper = sp.triu(adjacency, 1).tocsr().tocoo()
    return np.stack([upper.row, upper.col]).astype(np.int64)


def _changed(adjacency: sp.csr_matrix, drop: np.ndarray, insert: np.ndarray) -> sp.csr_matrix:
    """`adjacency` without the links `drop` (numbers into `links_of`) and with the pairs `insert` (2, a)."""
    links = np.delete(links_of(adjacency), drop, axis=1)
    return undirected(adjacency.shape[0], *np.concatenate([links, insert], axis=1))


def _absent(
    adjacency: sp.csr_matrix, count: int, rng: np.random.Generator, labels: np.ndarray | None = None
) -> np.ndarray:
    """(2, count) different pairs i < j without a link, drawn evenly; with `labels`, of two different classes.

    ValueError if there are not so many.
    """
    n = adjacency.shape[0]
    links = links_of(adjacency)
    taken = links[0] * n + links[1]
    found = np.zeros(0, np.int64)
    for _ in range(64):
        if len(found) >= count:
            chosen = found[:count]
            return np.stack([chosen // n, chosen % n])
        pairs = np.sort(rng.integers(n, size=(2, 4 * count + 64)), axis=0)
        fits = pairs[0] < pairs[1]
        if labels is not None:
            a, b = labels[pairs]
            fits &= (a != b) & (a >= 0) & (b >= 0)
        keys = pairs[0, fits] * n + pairs[1, fits]
        keys = keys[~np.isin(keys, taken) & ~np.isin(keys, found)]
        _, first = np.unique(keys, return_index=True)
        found = np.concatenate([found, keys[np.sort(first)]])
    raise ValueError(
        f"rate: {count} pairs without a link are wanted and {len(found)} were found; must be smaller"
    )


def random_add(adjacency: sp.csr_matrix, count: int, rng: np.random.Generator) -> sp.csr_matrix:
    """`count` links more, between any two nodes."""
    return _changed(adjacency, np.zeros(0, np.int64), _absent(adjacency, count, rng))


def dice(adjacency: sp.csr_matrix, labels: np.ndarray, count: int, rng: np.random.Generator) -> sp.csr_matrix:
    """Delete internally, connect externally (Waniek et al. 2018): each change takes a link within a class away or sets
    one between two classes, with equal chances. Knows all labels; -1 is of no class."""
    a, b = labels[links_of(adjacency)]
    inner = np.flatnonzero((a == b) & (a >= 0))
    deletions = min(int(rng.binomial(count, 0.5)), len(inner))
    drop = rng.permutation(inner)[:deletions]
    return _changed(adjacency, drop, _absent(adjacency, count - deletions, rng, labels))


def mettack(
    adjacency: sp.csr_matrix,
    features: np.ndarray,
    labels: np.ndarray,
    train: np.ndarray,
    count: int,
    rng: np.random.Generator,
    device: str = "cpu",
) -> sp.csr_matrix:
    """Changes that harm a linear two-layer GCN most: Metattack with first-order meta-gradients (A-Meta-Self, Zuegner
    and Guennemann, ICLR 2019), `count` / `ROUNDS` changes in each of `ROUNDS` rounds in place of one.

    The surrogate is trained on the labels of `train`; its own answers are the labels of the others, whose loss, summed
    over its training, is to grow. A node's only link is never taken. features: (n, p). Cost: dense n x n matrices, for
    small graphs.
    """
    x = torch.tensor(features, dtype=torch.float32, device=device)
    given = torch.tensor(labels, device=device)
    known = torch.zeros(len(x), dtype=torch.bool, device=device)
    known[torch.tensor(train, device=device)] = True
    now = torch.tensor(adjacency.toarray(), dtype=torch.float32, device=device)
    classes, done = int(labels.max()) + 1, 0
    starts = torch.tensor(
        rng.standard_normal((ROUNDS, x.shape[1], classes)), dtype=torch.float32, device=device
    )
    scale = math.sqrt(2 / (x.shape[1] + classes))
    guessed = _surrogate(now, x, given, known, starts[0] * scale)[1]
    for turn, start in enumerate(starts):
        gradient = _surrogate(now, x, given, known, start * scale, guessed)[0]
        gain = (gradient + gradient.T) * (
            1 - 2 * now
        )  # of setting a link that is not there, or taking one away
        lonely = now.sum(1) <= 1
        gain[(now > 0) & (lonely[:, None] | lonely[None, :])] = -torch.inf
        gain = gain.triu(1) + torch.full_like(gain, -torch.inf).tril()
        share = count * (turn + 1) // ROUNDS - done
        best = gain.flatten().topk(share).indices
        rows, columns = best // len(x), best % len(x)
        now[rows, columns] = 1 - now[rows, columns]
        now[columns, rows] = now[rows, columns]
        done += share
    return sp.csr_matrix(now.cpu().numpy())


def _surrogate(
    adjacency: torch.Tensor,
    x: torch.Tensor,
    labels: torch.Tensor,
    known: torch.Tensor,
    weight: torch.Tensor,
    guessed: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient of the loss on `guessed`, of the nodes not `known`, by the adjacency, summed over a training of
    S S X W on `labels`; and what it answers in the end. S: the normalised adjacency with loops."""
    a = adjacency.clone().requires_grad_(guessed is not None)
    looped = a + torch.eye(len(a), device=a.device)
    root = looped.sum(1).rsqrt()
    s = root[:, None] * looped * root[None, :]
    features = s.detach() @ (s.detach() @ x)
    speed, total = torch.zeros_like(weight), torch.zeros_like(adjacency)
    for _ in range(INNER_STEPS):
        w = weight.detach().requires_grad_()
        loss = F.cross_entropy(features[known] @ w, labels[known])
        speed = INNER_MOMENTUM * speed + torch.autograd.grad(loss, w)[0]
        weight = weight - INNER_RATE * speed
        if guessed is not None:
            harm = F.cross_entropy((s @ (s @ (x @ weight.detach())))[~known], guessed[~known])
            total += torch.autograd.grad(harm, a, retain_graph=True)[0]
    return total, (features @ weight).argmax(1)


def poisoned(
    adjacency: sp.csr_matrix,
    features: np.ndarray | sp.csr_matrix,
    labels: np.ndarray,
    train: np.ndarray,
    attack: str,
    count: int,
    rng: np.random.Generator,
) -> sp.csr_matrix:
    """`adjacency` after `count` changes by `attack`, one of `ATTACKS`; ValueError for another."""
    if attack == "none":
        return adjacency
    if attack == "random":
        return random_add(adjacency, count, rng)
    if attack == "dice":
        return dice(adjacency, labels, count, rng)
    if attack == "mettack":
        return mettack(
            adjacency, features.toarray() if sp.issparse(features) else features, labels, train, count, rng
        )
    raise ValueError(f"attack={attack}: known are {', '.join(ATTACKS)}")
