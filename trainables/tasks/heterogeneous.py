"""Node classification on a graph of several types: meta-paths pruned and normalised, contexts, parts and probes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from fairsweep.trainables.base import DataError, Metric
from fairsweep.trainables.datasets import films, heterogeneous
from fairsweep.trainables.datasets.heterogeneous import HeteroGraph, Matrix
from fairsweep.trainables.datasets.own import splits, typed
from fairsweep.trainables.parts import Members, identity
from fairsweep.trainables.tasks import probes
from fairsweep.trainables.tasks.node_classification import random_split
from fairsweep.trainables.tasks.sparse import SparseMatrix, on_device

METRICS = (
    Metric("val_accuracy", "max", "validation", "fraction"),
    Metric("val_macro_f1", "max", "validation", "fraction"),
    Metric("train_loss", "min", "train", "nats"),
    Metric("test_accuracy", "max", "test", "fraction"),
    Metric("test_macro_f1", "max", "test", "fraction"),
    Metric("test_auc", "max", "test", "fraction"),
    Metric("test_nmi", "max", "test", "fraction"),
    Metric("test_ari", "max", "test"),
)

LOADERS: Mapping[str, Callable[[Path | None], HeteroGraph]] = {
    "synthetic_bibliography": heterogeneous.synthetic_bibliography,
    "films": films.films,
    **{name: partial(heterogeneous.heco, name) for name in heterogeneous.HECO},
    "own": typed.own,
}
FROM_FOLDER = (*heterogeneous.HECO, "own")


# ---- meta-paths ----


def looped(counts: sp.csr_matrix) -> sp.csr_matrix:
    """C with C_ii of a node that is joined to others and not to itself: the largest count of its row and column.

    Files may leave the diagonal out. C = M M' with M of 0 and 1 has no smaller C_ii."""
    largest = np.maximum(counts.max(0).toarray(), counts.max(1).toarray().T).ravel()
    missing = np.where(counts.diagonal() == 0, largest, 0).astype(counts.dtype)
    return sp.csr_matrix(counts + sp.diags(missing)) if missing.any() else counts


def pathsim(counts: sp.csr_matrix) -> sp.csr_matrix:
    """2 C_ij / (C_ii + C_jj) where C_ij > 0, C `looped`: 1 on the diagonal of nodes that are joined to any, symmetric
    if C is, in [0, 1] for C = M M'."""
    counts = looped(counts)
    entries = counts.tocoo()
    own = counts.diagonal()
    values = 2 * entries.data / (own[entries.row] + own[entries.col])
    return sp.csr_matrix((values, (entries.row, entries.col)), shape=counts.shape)


def pruned(counts: sp.csr_matrix, keep: int) -> sp.csr_matrix:
    """C, `looped`, with at most `keep` entries a row, those of the largest PathSim; not symmetric.

    Of equal ones the node itself, then the first: with one subject a paper all of a subject are equal."""
    counts = looped(counts)
    similar = pathsim(counts).tocoo()
    order = np.lexsort((similar.col, similar.row != similar.col, -similar.data, similar.row))
    rows, columns = similar.row[order], similar.col[order]
    start = np.searchsorted(rows, np.arange(counts.shape[0]))
    kept = np.arange(len(rows)) - start[rows] < keep
    rows, columns = rows[kept], columns[kept]
    values = np.asarray(counts.tocsr()[rows, columns]).ravel()
    return sp.csr_matrix((values, (rows, columns)), shape=counts.shape)


def symmetric_scaled(matrix: sp.csr_matrix, turned: bool) -> sp.csr_matrix:
    """D^-1/2 C D^-1/2, D the sums of the rows; turned: its transpose, as the authors' code has it, so that a node
    receives from those that have it among theirs."""
    sums = np.asarray(matrix.sum(1), np.float64).ravel()
    scale = sp.diags(np.divide(1.0, np.sqrt(sums), out=np.zeros_like(sums), where=sums > 0))
    found = sp.csr_matrix(scale @ matrix @ scale)
    return sp.csr_matrix(found.T) if turned else found


def masked(matrix: sp.csr_matrix, share: float, rng: np.random.Generator) -> sp.csr_matrix:
    """0/1 entries off the diagonal of which `share` is left out, each direction on its own; ones on the diagonal."""
    entries = matrix.tocoo()
    apart = (entries.row != entries.col) & (entries.data != 0)
    rows, columns = entries.row[apart], entries.col[apart]
    left = np.sort(rng.permutation(len(rows))[int(share * len(rows)) :])
    ones = sp.csr_matrix((np.ones(len(left)), (rows[left], columns[left])), shape=matrix.shape)
    return sp.csr_matrix(ones + sp.identity(matrix.shape[0], format="csr"))


def masked_features(x: Matrix, share: float, rng: np.random.Generator) -> Matrix:
    """x with `share` of its entries that are not zero set to zero; a copy."""
    if sp.issparse(x):
        found: Any = x.copy()
        found.eliminate_zeros()
        found.data[rng.permutation(found.nnz)[: int(share * found.nnz)]] = 0
        return found
    dense = np.array(x)
    rows, columns = np.nonzero(dense)
    chosen = rng.permutation(len(rows))[: int(share * len(rows))]
    dense[rows[chosen], columns[chosen]] = 0
    return dense


def averaged(counts: sp.csr_matrix) -> sp.csr_matrix:
    """Rows of sum 1; empty ones stay."""
    sums = np.asarray(counts.sum(1), np.float64).ravel()
    return sp.csr_matrix(sp.diags(np.divide(1.0, sums, out=np.zeros_like(sums), where=sums > 0)) @ counts)


# ---- data ----


def load(name: str, data_dir: Path | None = None) -> HeteroGraph:
    """The graph `name`, read once per process. DataError if unknown, missing or damaged."""
    if name not in LOADERS:
        raise DataError(f"data={name}: unknown graph; known: {', '.join(LOADERS)}")
    return _load(name, None if data_dir is None else Path(data_dir))


@lru_cache(maxsize=4)
def _load(name: str, data_dir: Path | None) -> HeteroGraph:
    return LOADERS[name](data_dir)


@lru_cache(maxsize=4)
def _known_by(name: str, data_dir: Path | None) -> str:
    graph = load(name, data_dir)
    return identity(*graph.features.values(), *(path.counts for path in graph.paths), graph.labels)


def split(graph: HeteroGraph, labelled: int, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
    """Target nodes of each part: those with `labelled` training nodes a class, if there are such, else the first given
    ones, or drawn by `rng` as the graph says."""
    if graph.splits:
        return graph.splits.get(labelled, next(iter(graph.splits.values())))
    if graph.shares is not None:
        return splits.drawn(graph.labels, graph.shares, rng, graph.name)
    return random_split(graph.labels, graph.per_class, rng)


def plain_need(graph: HeteroGraph, context: bool) -> tuple[str, float]:
    """What `HeteroTask.plain` holds, and its GB: parts and their concatenation, means in double precision."""
    between = [kind for path in graph.paths for kind, _ in path.contexts] if context else []
    columns = sum(int(graph.features[kind].shape[1]) for kind in (graph.target, *between))
    size = (16e-9 if context else 8e-9) * graph.nodes * columns
    return f"dense features of {graph.nodes} nodes x {columns} columns", size


def paths_need(graph: HeteroGraph, keep: Sequence[int]) -> tuple[str, float]:
    """What the pruning of all paths to `keep` entries a row works on, and its GB beside the counts themselves: of one
    path at a time 44 bytes an entry, of each path then a plain and a masked matrix and their share in the means."""
    found = [path.counts.nnz for path in graph.paths]
    kept = sum(min(count, most * graph.nodes) for count, most in zip(found, keep, strict=True))
    return f"meta-paths with {sum(found)} pairs of nodes", 44e-9 * max(found, default=0) + 128e-9 * kept


class HeteroTask:
    """A graph with a split of its target nodes, given or drawn by `rng`.

    features: type -> (nodes, p) on the device, dense or sparse. contexts: for each path the type and the (n, m) means
    over what lies between.
    """

    def __init__(
        self, name: str, data_dir: Path | None, device: str, rng: np.random.Generator, labelled: int = 20
    ) -> None:
        self.name, self.folder, self.device = name, None if data_dir is None else Path(data_dir), device
        self.graph = graph = load(name, self.folder)
        self.parts = dict(split(graph, labelled, rng))
        self.features = {kind: on_device(x, device) for kind, x in graph.features.items()}
        self.inputs = {kind: int(x.shape[1]) for kind, x in graph.features.items()}
        self.contexts = [
            [(kind, SparseMatrix(averaged(counts), device)) for kind, counts in path.contexts]
            for path in graph.paths
        ]
        self.nodes, self.classes, self.target = graph.nodes, graph.classes, graph.target

    def members(self) -> Members:
        """Target nodes of each part."""
        return Members(_known_by(self.name, self.folder), self.parts)

    def plain(self, context: bool) -> np.ndarray:
        """(n, p) features of the target nodes, and with `context` beside them the means of what lies between."""
        found: list[Any] = [self.graph.features[self.target]]
        if context:
            between = [pair for path in self.graph.paths for pair in path.contexts]
            found += [averaged(counts) @ self.graph.features[kind] for kind, counts in between]
        return np.concatenate([np.asarray(x.todense() if sp.issparse(x) else x) for x in found], axis=1)

    def probe(self, z: np.ndarray, part: str) -> probes.Scores:
        """What logistic regression on the rows z (n, d) is worth on `part`: "validation" or "test"."""
        return probes.linear_probe(z, self.graph.labels, self.parts, probed=(part,))[part]

    def clustered(self, z: np.ndarray) -> tuple[float, float]:
        """NMI and ARI of k-means of z (n, d) with the classes, over the nodes that have one."""
        known = np.flatnonzero(self.graph.labels >= 0)
        found = probes.clusters(z[known], self.classes, starts=10)
        return probes.agreement(self.graph.labels[known], found)
