"""The point of least norm in the convex hull of gradients: weights of the multiple-gradient descent algorithm.

Desideri (2012): that point is either zero (no direction makes all losses smaller) or one along which all of them fall.
Everything is said of the gradients' inner products, the Gram matrix G (T, T), so that T, not the number of parameters,
is the size of the problem.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

TOLERANCE = 1e-13  # relative to the longest gradient's square


def min_norm(gram: np.ndarray) -> np.ndarray:
    """Weights w (T,) with w >= 0 and sum 1 of the least w' G w: exact up to rounding, for any number of gradients.

    Wolfe's method (1976): a set of gradients and the point of least norm in their affine hull; a gradient is added
    while one has a smaller product with the point than the point has with itself, and taken out where its weight would
    be negative. It ends after finitely many sets.
    """
    gram = np.asarray(gram, np.float64)
    size = max(float(np.diag(gram).max()), np.finfo(float).tiny)
    gram = gram / size
    chosen = [int(np.diag(gram).argmin())]
    weights = np.zeros(len(gram))
    weights[chosen[0]] = 1.0
    while True:
        products = gram @ weights
        nearest = int(products.argmin())
        if products[nearest] >= weights @ products - TOLERANCE or nearest in chosen:
            return weights / weights.sum()
        chosen.append(nearest)
        while True:
            inside = _affine(gram[np.ix_(chosen, chosen)])
            if (inside > 0).all():
                weights[:] = 0
                weights[chosen] = inside
                break
            # As far towards the affine point as all weights stay positive; what reaches zero leaves.
            now = weights[chosen]
            falling = inside <= 0
            with np.errstate(divide="ignore", invalid="ignore"):
                limits = np.where(falling, now / (now - inside), np.inf)
            step = min(1.0, float(np.nanmin(limits)))
            moved = now + step * (inside - now)
            moved[int(np.nanargmin(limits))] = 0.0
            weights[:] = 0
            weights[chosen] = moved.clip(0)
            chosen = [t for t, weight in zip(chosen, moved, strict=True) if weight > 0]


def _affine(gram: np.ndarray) -> np.ndarray:
    """Weights of sum 1, of any sign, of the least w' G w."""
    n = len(gram)
    system = np.ones((n + 1, n + 1))
    system[:n, :n], system[n, n] = gram, 0.0
    right = np.zeros(n + 1)
    right[n] = 1.0
    return np.linalg.lstsq(system, right, rcond=None)[0][:n]


def frank_wolfe(gram: np.ndarray, most: int = 250, enough: float = 1e-5) -> np.ndarray:
    """The same weights by Frank-Wolfe as ParetoGNN's authors solve it: from the best two gradients on, at most `most`
    steps, until the weights move by less than `enough` in all."""
    gram = np.asarray(gram, np.float64)
    tasks = len(gram)
    weights = np.zeros(tasks)
    if tasks == 1:
        return np.ones(1)
    pairs = [(i, j) for i in range(tasks) for j in range(i + 1, tasks)]
    found = [(*_between(gram[i, i], gram[i, j], gram[j, j]), i, j) for i, j in pairs]
    share, _, i, j = min(found, key=lambda pair: pair[1])
    weights[i], weights[j] = share, 1 - share
    for _ in range(most):
        products = gram @ weights
        target = int(products.argmin())
        share, _ = _between(weights @ products, products[target], gram[target, target])
        moved = share * weights
        moved[target] += 1 - share
        if np.abs(moved - weights).sum() < enough:
            return moved
        weights = moved
    return weights


def _between(v1v1: float, v1v2: float, v2v2: float) -> tuple[float, float]:
    """The share of v1 in the shortest mixture of two vectors, never quite 0 or 1, and the mixture's square."""
    if v1v2 >= v1v1:
        return 0.999, v1v1
    if v1v2 >= v2v2:
        return 0.001, v2v2
    share = (v2v2 - v1v2) / (v1v1 + v2v2 - 2 * v1v2)
    return share, v2v2 + share * (v1v2 - v2v2)


# ---- weights of losses ----


def normalisers(norms: np.ndarray, losses: np.ndarray, kind: str) -> np.ndarray:
    """(T,) what each task's gradient is divided by before the weights are sought: its norm, loss, or their product."""
    found = {"l2": norms, "loss": losses, "loss_plus": losses * norms, "none": np.ones_like(norms)}
    if kind not in found:
        raise ValueError(f"grad_norm={kind}: known are {', '.join(found)}")
    return np.where(found[kind] > 0, found[kind], 1.0)


def task_weights(gram: np.ndarray, losses: np.ndarray, config: Mapping[str, Any]) -> np.ndarray:
    """(T,) weights of the raw losses, from the inner products (T, T) of the tasks' gradients of the encoder."""
    count = len(gram)
    if count == 1:
        return np.ones(1)
    weighting = config["weighting"]
    if weighting == "random":
        drawn = torch.rand(count, dtype=torch.float64).clamp_min(1e-12).log().neg()  # uniform on the simplex
        return (drawn / drawn.sum()).numpy()
    if weighting in ("mean", "sum"):
        return np.full(count, 1.0 if weighting == "sum" else 1 / count)
    if weighting != "mgda":
        raise ValueError(f"weighting={weighting}: known are mgda, mean, sum, random")
    divisors = normalisers(np.sqrt(np.diag(gram)), losses, config["grad_norm"])
    solve = {"exact": min_norm, "frank_wolfe": frank_wolfe}[config["solver"]]
    return solve(gram / np.outer(divisors, divisors))
