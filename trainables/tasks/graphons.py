"""Graphons of collections of graphs: estimates as step functions, and the Gromov-Wasserstein distance of two of them.

The distance is solved by POT (`pip install 'fairsweep[transport]'`), which is imported where it is asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from types import ModuleType

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from scipy.sparse.csgraph import shortest_path
from torch import Tensor

from fairsweep.trainables.base import DataError
from fairsweep.trainables.datasets.packed_graphs import Domain

ESTIMATORS = ("sas", "pool", "lg", "usvt")
SOLVERS = ("entropic", "exact")
SUMMARIES = ("density", "clustering", "topology")  # statistics of graphs that are compared by themselves
FEATURES = 8  # of `topology`
# About how many dense n x n matrices of doubles there are at a time: in an estimate, and in `topology`.
MATRICES, TOPOLOGY_MATRICES = {"sas": 2, "pool": 3, "lg": 5, "usvt": 7}, 3

# ---- collections ----


def adjacency(ends: np.ndarray, nodes: int) -> sp.csr_matrix:
    """(n, n) 0/1 of undirected edges (2, m), each given once."""
    both = np.concatenate([ends, ends[::-1]], axis=1)
    return sp.csr_matrix((np.ones(both.shape[1]), (both[0], both[1])), shape=(nodes, nodes))


def neighbourhoods(domain: Domain, roots: int, hops: int, most: int, rng: np.random.Generator) -> Domain:
    """A domain of one large graph as the induced neighbourhoods, at most `hops` edges wide, of `roots` random nodes
    that have a link; those of more than `most` nodes are left out, as the authors do. Others stay as they are.

    DataError if none is small enough."""
    if len(domain) > 1:
        return domain
    matrix = adjacency(domain.ends, int(domain.nodes[0]))
    linked = np.flatnonzero(matrix.getnnz(1))
    chosen = rng.permutation(linked)[:roots]
    reached = sp.csr_matrix(
        (np.ones(len(chosen)), (np.arange(len(chosen)), chosen)), (len(chosen), matrix.shape[0])
    )
    for _ in range(hops):
        reached = ((reached + reached @ matrix) > 0).astype(float)
    inside = [reached[i].indices for i in range(len(chosen))]
    kept = [np.sort(nodes) for nodes in inside if len(nodes) <= most]
    if not kept:
        raise DataError(
            f"graphs {domain.name}: no neighbourhood of {hops} hops has at most {most} nodes; lower ego_hops"
        )
    return Domain.of(domain.name, [matrix[nodes][:, nodes] for nodes in kept])


def chosen_of(domain: Domain, which: np.ndarray) -> Domain:
    """The graphs of the given indices."""
    matrices = [adjacency(domain.graph(int(i)), int(domain.nodes[i])) for i in which]
    return Domain.of(domain.name, matrices)


def joined(domains: Sequence[Domain]) -> Domain:
    """The graphs of all domains, one after the other."""
    name = "+".join(domain.name for domain in domains)
    columns = [np.concatenate([getattr(d, f) for d in domains]) for f in ("nodes", "edges")]
    return Domain(name, *columns, np.concatenate([d.ends for d in domains], axis=1))


def topology(domain: Domain) -> np.ndarray:
    """(g, 8) of each graph: mean and deviation of the degrees, density, mean closeness, degree correlation over its
    edges (twice, as the authors count it under two names; 0 where all degrees are equal), transitivity, and mean
    clustering. The cost is that of all shortest paths, n m a graph."""
    rows = []
    for i in range(len(domain)):
        n, ends = int(domain.nodes[i]), domain.graph(i)
        matrix = adjacency(ends, n)
        degree = np.asarray(matrix.sum(1)).ravel()
        far = shortest_path(matrix, unweighted=True)
        near = np.isfinite(far)
        total, reached = np.where(near, far, 0).sum(1), near.sum(1) - 1
        # Of each component, scaled by its share of the graph (Wasserman and Faust 1994), as networkx has it.
        close = np.divide(reached**2, total * max(n - 1, 1), out=np.zeros(n), where=total > 0)
        u, v = degree[np.concatenate([ends, ends[::-1]], axis=1)]
        spread = u.std() if len(u) else 0.0
        correlation = ((u - u.mean()) * (v - v.mean())).mean() / spread**2 if spread else 0.0
        triangles = np.asarray((matrix @ matrix).multiply(matrix).sum(1)).ravel()  # twice those of each node
        pairs = degree * (degree - 1)
        clustering = np.divide(triangles, pairs, out=np.zeros(n), where=pairs > 0)
        rows.append(
            [
                *(degree.mean(), degree.std(), 2 * ends.shape[1] / max(n * (n - 1), 1), close.mean()),
                *(correlation, correlation, triangles.sum() / max(pairs.sum(), 1), clustering.mean()),
            ]
        )
    return np.array(rows)


def summary(domain: Domain, statistic: str) -> np.ndarray:
    """(f,): what graphs of a domain are on average, by one of `SUMMARIES`."""
    mean = topology(domain).mean(0)
    return mean[{"density": [2], "clustering": [7], "topology": list(range(FEATURES))}[statistic]]


def by_summary(sources: list[Domain], sets: list[Domain], statistic: str) -> np.ndarray:
    """(sources, sets): distances of the averages, each feature scaled by its deviation over all collections."""
    found = np.array([summary(domain, statistic) for domain in (*sources, *sets)])
    spread = found.std(0)
    found = found / np.where(spread > 0, spread, 1)
    return np.linalg.norm(found[: len(sources), None] - found[None, len(sources) :], axis=2)


# ---- estimates ----


def by_degree(ends: np.ndarray, nodes: int) -> np.ndarray:
    """The nodes from the highest degree to the lowest; ties by the degrees of their neighbours and of those, which does
    not depend on how nodes are numbered."""
    matrix = adjacency(ends, nodes)
    walks = [np.ones(nodes)]
    for _ in range(3):
        walks.append(matrix @ walks[-1])
    return np.lexsort([-count for count in reversed(walks[1:])])


def mean_matrix(domain: Domain) -> np.ndarray:
    """(n, n): the mean of the adjacency matrices, nodes sorted by degree, padded with zeros to the largest graph."""
    size = int(domain.nodes.max())
    total = np.zeros((size, size))
    for i in range(len(domain)):
        n, ends = int(domain.nodes[i]), domain.graph(i)
        place = np.empty(n, np.int64)
        place[by_degree(ends, n)] = np.arange(n)
        u, v = place[ends]
        total[u, v] += 1
        total[v, u] += 1
    return total / len(domain)


def _blocks(matrix: np.ndarray) -> np.ndarray:
    """Sort and smooth (Chan and Airoldi 2014) without the total variation step, which flattens graphs of this size:
    means of blocks of h = floor(log2 n + 1) nodes; the last n mod h are left out."""
    n = len(matrix)
    h = int(np.log2(n) + 1)
    count = n // h
    return matrix[: count * h, : count * h].reshape(count, h, count, h).mean((1, 3))


def _largest_gaps(matrix: np.ndarray, blocks: int) -> np.ndarray:
    """Largest gap (Channarong 2012): sorted degrees are cut at their blocks - 1 widest gaps; means of the blocks."""
    degree = matrix.sum(1)
    order = np.argsort(-degree, kind="stable")
    gaps = -np.diff(degree[order])
    cuts = np.sort(np.argsort(-gaps, kind="stable")[: blocks - 1]) + 1
    group = np.zeros(len(matrix), np.int64)
    group[cuts] = 1
    onto = np.eye(len(cuts) + 1)[np.cumsum(group)]  # (n, blocks)
    means = onto.T @ matrix[order][:, order] @ onto / np.outer(onto.sum(0), onto.sum(0))
    return onto @ means @ onto.T


def _thresholded(matrix: np.ndarray, graphs: int) -> np.ndarray:
    """Universal singular value thresholding (Chatterjee 2015): singular values below 2.02 sqrt(n) fall, for the mean of
    so many graphs those below 2.02 sqrt(n / graphs) / 2, the noise of a mean of bits."""
    u, s, v = np.linalg.svd(matrix)
    s[s < 1.01 * np.sqrt(len(matrix) / graphs)] = 0
    return np.clip(u @ np.diag(s) @ v, 0, 1)


def resized(matrix: np.ndarray | Tensor, size: int) -> Tensor:
    """(size, size) float64: the means of the matrix over an even grid; a smaller step function is repeated."""
    return F.adaptive_avg_pool2d(torch.as_tensor(matrix, dtype=torch.float64)[None], size)[0]


def estimate(domain: Domain, estimator: str, resolution: int, blocks: int = 5) -> Tensor:
    """A step function (r, r) of the graphon behind the graphs; r is `resolution`, with `sas` the number of its blocks.

    ValueError for an estimator that is not among `ESTIMATORS`."""
    matrix = mean_matrix(domain)
    if estimator == "sas":
        return torch.tensor(_blocks(matrix))
    if estimator == "lg":
        matrix = _largest_gaps(matrix, blocks)
    elif estimator == "usvt":
        matrix = _thresholded(matrix, len(domain))
    elif estimator != "pool":
        raise ValueError(f"estimator={estimator}: known are {', '.join(ESTIMATORS)}")
    return resized(matrix, resolution)


# ---- Gromov-Wasserstein ----


def transport() -> ModuleType:
    """POT. DataError that says what to install."""
    try:
        import ot.gromov
    except ImportError:
        raise DataError(
            "statistic=gw: needs POT, which is not installed; pip install 'fairsweep[transport]'"
        ) from None
    return ot


def _entropic(a: np.ndarray, b: np.ndarray, p: np.ndarray, q: np.ndarray, eps: float) -> np.ndarray:
    """25 times a Sinkhorn problem in logarithms, whose costs are the gradient at the coupling before it, and which goes
    on from the potentials before it. POT 0.9.7's own loop has kernels, which underflow where `eps` is small."""
    from ot.bregman import sinkhorn_log

    plan, potentials = np.outer(p, q), None
    own = (a**2 @ p)[:, None] + (b**2 @ q)[None, :]
    for _ in range(25):
        costs = 2 * (own - 2 * a @ plan @ b)
        plan, log = sinkhorn_log(
            p, q, costs, eps, numItermax=60, stopThr=1e-7, log=True, warn=False, warmstart=potentials
        )
        potentials = log["log_u"], log["log_v"]
    return plan


def coupling(a: Tensor, b: Tensor, solver: str, eps: float = 0.0) -> Tensor:
    """(r, s): a coupling of two step functions (r, r) and (s, s) with uniform marginals that is locally the cheapest,
    from the independent one: by conditional gradients (`exact`), or with entropy weighed by `eps`, in logarithms."""
    ot = transport()
    first, second = (m.detach().cpu().double().numpy() for m in (a, b))
    p, q = (np.full(len(m), 1 / len(m)) for m in (first, second))
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # of iterations: the cost is taken from the marginals that were reached
        if solver == "exact":
            found = ot.gromov.gromov_wasserstein(
                first, second, p, q, "square_loss", symmetric=True, max_iter=50
            )
        elif solver == "entropic":
            found = _entropic(first, second, p, q, eps)
        else:
            raise ValueError(f"solver={solver}: known are {', '.join(SOLVERS)}")
    return torch.tensor(found, dtype=torch.float64, device=a.device)


def cost(a: Tensor, b: Tensor, plan: Tensor) -> Tensor:
    """sum over i, j, k, l of (a_ik - b_jl)^2 T_ij T_kl with the coupling's own marginals; no entropy in it.

    The plan is constant: at a cheapest one its own change adds nothing to the gradient in a."""
    r, s = plan.sum(1), plan.sum(0)
    return r @ a.square() @ r + s @ b.square() @ s - 2 * ((a @ plan @ b.T) * plan).sum()


def distance(a: Tensor, b: Tensor, solver: str, eps: float = 0.0) -> Tensor:
    """The Gromov-Wasserstein cost of two step functions, not negative but for rounding; differentiable in both."""
    return cost(a, b, coupling(a, b, solver, eps))
