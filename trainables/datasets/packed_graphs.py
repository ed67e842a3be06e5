"""How a set of graphs is kept, of one kind or of several: all nodes and all edges behind each other.

Every edge is undirected and stored once, with its features, so that a learned decision about an edge always holds
for both of its directions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp

MOST_DEGREES = 1000  # beyond which degrees are not one-hot


@dataclass(frozen=True, eq=False)
class GraphSet:
    """g graphs behind each other: N nodes and M edges in all, those of a graph contiguous.

    nodes, edges: (g,) int64, how many each graph has. x: (N, p) float32. ends: (2, M) int64, the two nodes of an
    edge, numbered within its graph. e: (M, q) float32. labels: (g,) int64 in 0..classes-1.
    types: (M,) int64 in 0..edge_classes-1, what the reconstruction of edges predicts; None where edges have none.
    marked: (M,) bool, the edges that a generator made informative; None where nobody knows.
    held_out: graphs for validation and for test; with `test`, the indices of the public test part, only the first
    counts. validation: the indices of the validation part, where that is given too; graphs in neither then train.
    shares: in place of `held_out`, the shares of each class that are drawn to validate and to test. names: of the
    classes, if they have any. passes: how often an epoch goes over the training graphs. dropped: what the files hold
    and the graphs do not, such as self loops, and how often. degrees: whether x is `degree_features`, for want of
    features of the nodes' own.
    """

    name: str
    nodes: np.ndarray
    edges: np.ndarray
    x: np.ndarray
    ends: np.ndarray
    e: np.ndarray
    labels: np.ndarray
    classes: int
    held_out: tuple[int, int]
    types: np.ndarray | None = None
    edge_classes: int = 0
    marked: np.ndarray | None = None
    test: np.ndarray | None = None
    passes: int = 1
    dropped: Mapping[str, int] = field(default_factory=dict)
    validation: np.ndarray | None = None
    names: tuple[str, ...] = ()
    shares: tuple[float, float] | None = None
    values: np.ndarray | None = None
    cuts: tuple[float, ...] = ()
    degrees: bool = False

    def __len__(self) -> int:
        return len(self.nodes)

    def degree(self) -> np.ndarray:
        """(N,): how many edges each node has."""
        first = np.repeat(np.cumsum(self.nodes) - self.nodes, self.edges)
        return np.bincount((self.ends + first).ravel(), minlength=int(self.nodes.sum()))


def one_hot(values: np.ndarray, count: int) -> np.ndarray:
    """(n, count) float32 with a one in column `values`."""
    return np.eye(count, dtype=np.float32)[values]


def degree_features(degree: np.ndarray, known: np.ndarray | None = None) -> np.ndarray:
    """(n, p) float32: degrees one-hot or, where one is `MOST_DEGREES` or more, standardised. known: those of the set
    that give width, mean and deviation in place of their own; higher degrees then count as the highest of these."""
    known = degree if known is None else known
    most = int(known.max(initial=0))
    if most >= MOST_DEGREES:
        return ((degree - known.mean()) / (known.std() or 1.0))[:, None].astype(np.float32)
    return one_hot(np.minimum(degree, most), most + 1)


@dataclass(frozen=True, eq=False)
class Domain:
    """Undirected simple graphs of one kind, behind each other: a single large one, or g small ones.

    nodes, edges: (g,) how many each has. ends: (2, m) nodes of an edge, numbered within its graph, each edge once.
    dropped: what the file holds and the graphs do not.
    """

    name: str
    nodes: np.ndarray
    edges: np.ndarray
    ends: np.ndarray
    dropped: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.nodes)

    def graph(self, i: int) -> np.ndarray:
        """Edges (2, m) of graph i."""
        begin = int(self.edges[:i].sum())
        return self.ends[:, begin : begin + int(self.edges[i])]

    @classmethod
    def of(
        cls, name: str, matrices: Sequence[sp.csr_matrix], dropped: dict[str, int] | None = None
    ) -> Domain:
        """Graphs with these symmetric adjacency matrices."""
        ends = [np.stack(sp.triu(matrix, 1).nonzero()).astype(np.int64) for matrix in matrices]
        sizes = np.array([matrix.shape[0] for matrix in matrices])
        edges = np.array([e.shape[1] for e in ends])
        return cls(name, sizes, edges, np.concatenate(ends, axis=1), dropped or {})


@dataclass(frozen=True, eq=False)
class Domains:
    """Sources to pre-train on and downstream sets.

    mixture: for each downstream set that is drawn from a known mixture of the sources, the weights of those; an empty
    tuple for one that is known to be of another kind; no entry where nobody knows.
    """

    name: str
    sources: tuple[Domain, ...]
    downstream: tuple[Domain, ...]
    mixture: dict[str, tuple[float, ...]] = field(default_factory=dict)
