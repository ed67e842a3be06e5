"""Citation graphs Cora, CiteSeer and PubMed in the Planetoid layout, with the public split.

Source: Yang, Cohen and Salakhutdinov 2016, arXiv:1603.08861; free for research. The files are pickles of
Python 2, read by an unpickler that can build arrays and plain containers and nothing else.
"""

from __future__ import annotations

import codecs
import collections
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from fairsweep.trainables.base import DataError, DataNotFound
from fairsweep.trainables.datasets.graphs import Graph, row_normalised, row_sums, surplus, undirected

# x is the beginning of allx and is not read
PARTS = ("tx", "allx", "y", "ty", "ally", "graph")
# name -> (nodes, undirected edges, features, classes), loops and repeated edges left out
SIZES = {
    "cora": (2708, 5278, 1433, 7),
    "citeseer": (3327, 4552, 3703, 6),
    "pubmed": (19717, 44324, 500, 3),
}
# Of the files of the authors' repository, github.com/kimiyoung/planetoid.
SHA256 = {
    "ind.cora.allx": "9419ba2f26f5c35243db64aba110e0f35a04851609e0dc5433450676ca6b8543",
    "ind.cora.ally": "2b998f5cc7fedc86e7f97ca2498f47a1ffc1462c29e2d578b23bf3f62b6e7d71",
    "ind.cora.graph": "58f13302f39dde8852dad6fe6d15b89b077b6d7f837626bce671ef80344b383d",
    "ind.cora.test.index": "297ce89af2b51a6a194181c7dbe1796c6a1cf9cd9349a88383b1b1e227867875",
    "ind.cora.tx": "b9afbaa4a400df991f6f02ef677e1e44da55ffc04801fd02f9e673987829226a",
    "ind.cora.ty": "41f5ac76596a1699cc33f53084a2419e92961c42bb75f36fc38e616d348532ad",
    "ind.cora.y": "94465c14eb53e04ca262198dcbb2521ee8af60fb3f3d546cd6ca24a511b0e7d1",
    "ind.citeseer.allx": "2ac30345d95c9ec933a817ee0bdd6a5f077f8c184a20e696910192d534414668",
    "ind.citeseer.ally": "f704b2d986dde6c2669934de1f3ae5696a6cf9455c0f6b2646a2d135ea0a1c95",
    "ind.citeseer.graph": "d79a4ef9d3e7169aee8946145f6b7306e35bc79bffad26346cfb94e10e9912a7",
    "ind.citeseer.test.index": "2af990671580b6b2df5d158d1038f8292e30c9cd821b5453f399659b25b723d4",
    "ind.citeseer.tx": "539a8906a2da97628d212f2fdd668c109a8b3f0d36574b59e5d3fd5b5303da21",
    "ind.citeseer.ty": "55e5bd1ba1e733a04598753ad1a8d57957f4b8f89e74519f41f4f4938767e4ce",
    "ind.citeseer.y": "8ba87e515d8e3ee3cf52f6d2c5b86aa73f11ecad825a808455209ec26cd54924",
    "ind.pubmed.allx": "508e538e2abdccdd54c4d3e9f49d638b4af7107d85845f66ddea5a5152658b7e",
    "ind.pubmed.ally": "0c37bbe3b5014ec365e9d393cf4791925e5ed94fb194305d74f064a8d7b50f0e",
    "ind.pubmed.graph": "5b89f0036ca22909471f1e6558eb42fa06e0c730a577bde5b058b40638f81dc9",
    "ind.pubmed.test.index": "b101d421688bbaecbd82e8a18f1e282378d6830f3a37666f28ebc47f844341b5",
    "ind.pubmed.tx": "4eb5f5d0f30f26497eb0ac6ac9719d09c67e284f1ed0385c93f3ef27a671da3d",
    "ind.pubmed.ty": "ee2e0d4819d9fbcc403689c3bf2e49face401b605932f093bc58ab6461130fdd",
    "ind.pubmed.y": "e6c807633307a07ed659249006536a147c7999c797f11a2560752990181b41b3",
}


class _SparseState:
    """Stands in for SciPy's matrix class of whatever version: takes the attributes, runs none of its code."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.arrays = state

    def matrix(self) -> sp.csr_matrix:
        a = self.arrays
        matrix = sp.csr_matrix((a["data"], a["indices"], a["indptr"]), shape=a["_shape"])
        matrix.check_format(full_check=True)
        return matrix


def _reconstruct(*arguments: Any) -> np.ndarray:
    return np.ndarray.__new__(np.ndarray, (0,))


class PlanetoidUnpickler(pickle.Unpickler):
    """Builds NumPy arrays, CSR matrices, lists, dictionaries and numbers; refuses every other name."""

    _allowed = {
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("scipy.sparse.csr", "csr_matrix"): _SparseState,
        ("scipy.sparse._csr", "csr_matrix"): _SparseState,
        ("collections", "defaultdict"): collections.defaultdict,
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("__builtin__", "list"): list,
        ("builtins", "list"): list,
        # how Python 3 writes bytes into a pickle that Python 2 can read
        ("_codecs", "encode"): codecs.encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._allowed[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a citation graph") from None


def _read(name: str, path: Path, verify: bool) -> Any:
    from fairsweep.trainables.datasets.fetch import sha256

    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"data={name}: cannot read {path} ({error.strerror}); data_dir needs"
            f" ind.{name}.{{{','.join(PARTS)},test.index}}"
        ) from None
    expected = SHA256.get(path.name)
    if verify and expected is not None and (found := sha256(content)) != expected:
        raise DataError(
            f"data={name}: {path} has SHA-256 {found}, the published file {expected}; fetch it again"
        )
    try:
        if path.suffix == ".index":
            return np.array(content.split(), dtype=np.int64)
        loaded = PlanetoidUnpickler(io.BytesIO(content), encoding="latin1").load()
        return loaded.matrix() if isinstance(loaded, _SparseState) else loaded
    # A damaged pickle fails in as many ways as it has operations.
    except Exception as error:
        raise DataError(f"data={name}: {path} cannot be read ({' '.join(str(error).split())})") from None


def _entries(links: Any, nodes: int) -> np.ndarray | None:
    """The entries (node, neighbour) of the dictionary `links`, int64 (m, 2); None if it is no such."""
    if not isinstance(links, dict) or not all(isinstance(found, list) for found in links.values()):
        return None
    pairs = [(i, j) for i, neighbours in links.items() for j in neighbours]
    if not all(isinstance(node, int) and 0 <= node < nodes for pair in pairs for node in pair):
        return None
    return np.array(pairs, np.int64).reshape(-1, 2)


def _wrong_part(
    tx: Any, allx: Any, y: Any, ty: Any, ally: Any, order: np.ndarray, validation: int
) -> tuple[str, str] | None:
    """The first part that is not what the layout says, and what it must be; None if all are."""
    for part, found in (("allx", allx), ("tx", tx)):
        if not sp.issparse(found) or found.dtype.kind not in "biuf":
            return part, "must be a sparse matrix of numbers"
        if not np.isfinite(found.data).all() or (found.data < 0).any():
            return part, "must hold finite numbers from 0"
    for part, found in (("ally", ally), ("ty", ty), ("y", y)):
        if not isinstance(found, np.ndarray) or found.ndim != 2 or found.dtype.kind not in "biuf":
            return part, "must be an array of numbers, one row a node"
        if not np.isin(found, (0, 1)).all() or (found.sum(1) > 1).any():
            return part, "must have a single 1 in a row, at its class, or none"
    known, width, classes = len(ally), allx.shape[1], ally.shape[1]
    sizes = {
        "allx": (allx.shape, (known, width)),
        "tx": (tx.shape, (len(order), width)),
        "ty": (ty.shape, (len(order), classes)),
        "y": (y.shape, (min(len(y), known - validation), classes)),
    }
    for part, (shape, expected) in sizes.items():
        if shape != expected:
            return part, f"has shape {shape}, must be {expected} to fit the other files"
    if not (y == ally[: len(y)]).all():
        return "y", "must be the beginning of ally"
    if not len(order) or len(np.unique(order)) < len(order) or order.min() < known:
        return "test.index", f"must name each test node once, from {known}, the number of rows of allx"
    return None


def read_planetoid(name: str, folder: Path, validation: int | None = 500, verify: bool = True) -> Graph:
    """The graph in `folder`/ind.<name>.*: the first nodes train, the next `validation` validate.

    validation: None: 500, or as many as there are that neither train nor test. verify: by the published checksums.

    `allx` holds all nodes but the test ones, `tx` those in the order of test.index. CiteSeer leaves 15 test nodes out
    of `tx`, which get no features and no label. They are not isolated: each has one or two links. (The 48 nodes of
    CiteSeer without a link are others, with features and labels.) DataError unless the parts fit each other.
    """
    tx, allx, y, ty, ally, links = (_read(name, folder / f"ind.{name}.{part}", verify) for part in PARTS)
    order = _read(name, folder / f"ind.{name}.test.index", verify)
    if validation is None:
        validation = min(500, len(ally) - len(y)) if hasattr(ally, "shape") and hasattr(y, "shape") else 1
    wrong = _wrong_part(tx, allx, y, ty, ally, order, validation)
    known = len(ally) if wrong is None else 0
    nodes = max(known, int(order.max(initial=-1)) + 1)
    # Twice the test nodes are far more than any of these graphs leaves out.
    if wrong is None and nodes > known + 2 * len(order):
        wrong = "test.index", f"must not go beyond {known + 2 * len(order)}: it has {len(order)} test nodes"
    ends = _entries(links, nodes)
    if wrong is None and ends is None:
        wrong = "graph", f"must be a dictionary of nodes and lists of their neighbours, from 0 to {nodes - 1}"
    if wrong is not None or ends is None:
        part, reason = wrong or ("graph", "")
        raise DataError(f"data={name}: {folder / f'ind.{name}.{part}'} {reason}; fetch it again")
    labels = np.full(nodes, -1, np.int64)
    labels[:known] = np.where(ally.any(1), ally.argmax(1), -1)
    labels[order] = np.where(ty.any(1), ty.argmax(1), -1)
    # rows of [allx; tx] in the order of the nodes; absent nodes get an empty last row
    rows = np.full(nodes, known + tx.shape[0])
    rows[:known] = np.arange(known)
    rows[order] = known + np.arange(len(order))
    empty = sp.csr_matrix((1, allx.shape[1]), dtype=np.float32)
    features = sp.csr_matrix(sp.vstack([allx, tx, empty], format="csr")[rows], dtype=np.float32)
    labelled = len(y)
    split = {
        "train": np.arange(labelled),
        "validation": np.arange(labelled, labelled + validation),
        "test": np.sort(order[labels[order] >= 0]),
    }
    return Graph(
        name,
        row_normalised(features),
        undirected(nodes, ends[:, 0], ends[:, 1]),
        labels,
        ally.shape[1],
        split,
        dropped=surplus(ends[:, 0], ends[:, 1]),
        row_sums=row_sums(features),
    )


def planetoid(name: str, data_dir: Path | None) -> Graph:
    """Cora, CiteSeer or PubMed from `data_dir` or its subfolder planetoid; row-normalised bags of words.

    140/500/1000, 120/500/1000 and 60/500/1000 nodes for training, validation and test. DataError if files
    are missing, damaged or not those of the published graph.
    """
    if data_dir is None:
        raise DataNotFound(f"data={name}: data_dir is None; give the folder with the files ind.{name}.*")
    folders = [f for f in (data_dir, data_dir / "planetoid") if (f / f"ind.{name}.graph").is_file()]
    if not folders:
        raise DataNotFound(
            f"data={name}: no ind.{name}.graph in data_dir={data_dir} or its subfolder planetoid;"
            f" give the folder with the files ind.{name}.*"
        )
    graph = read_planetoid(name, folders[0])
    size = (graph.nodes, graph.edges, graph.features.shape[1], graph.classes)
    if size != SIZES[name]:
        raise DataError(
            f"data={name}: {folders[0]} has (nodes, edges, features, classes) = {size}, the published"
            f" graph has {SIZES[name]}; fetch it again"
        )
    return graph
