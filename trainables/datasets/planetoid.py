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

from trainables.base import DataError
from trainables.datasets.graphs import Graph, row_normalised, undirected

# x is the beginning of allx and is not read
PARTS = ("tx", "allx", "y", "ty", "ally", "graph")
# name -> (nodes, undirected edges, features, classes), loops and repeated edges left out
SIZES = {
    "cora": (2708, 5278, 1433, 7),
    "citeseer": (3327, 4552, 3703, 6),
    "pubmed": (19717, 44324, 500, 3),
}
SHA256 = {
    "ind.cora.allx": "9419ba2f26f5c35243db64aba110e0f35a04851609e0dc5433450676ca6b8543",
    "ind.cora.ally": "2b998f5cc7fedc86e7f97ca2498f47a1ffc1462c29e2d578b23bf3f62b6e7d71",
    "ind.cora.graph": "58f13302f39dde8852dad6fe6d15b89b077b6d7f837626bce671ef80344b383d",
    "ind.cora.test.index": "297ce89af2b51a6a194181c7dbe1796c6a1cf9cd9349a88383b1b1e227867875",
    "ind.cora.tx": "b9afbaa4a400df991f6f02ef677e1e44da55ffc04801fd02f9e673987829226a",
    "ind.cora.ty": "41f5ac76596a1699cc33f53084a2419e92961c42bb75f36fc38e616d348532ad",
    "ind.cora.y": "94465c14eb53e04ca262198dcbb2521ee8af60fb3f3d546cd6ca24a511b0e7d1",
}


class _SparseState:
    """Stands in for SciPy's matrix class of whatever version: takes the attributes, runs none of its code."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.arrays = state

    def matrix(self) -> sp.csr_matrix:
        a = self.arrays
        return sp.csr_matrix((a["data"], a["indices"], a["indptr"]), shape=a["_shape"])


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
    from trainables.datasets.fetch import sha256

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


def read_planetoid(name: str, folder: Path, validation: int = 500, verify: bool = True) -> Graph:
    """The graph in `folder`/ind.<name>.*: the first nodes train, the next `validation` validate.

    `allx` holds all nodes but the test ones, `tx` those in the order of test.index. CiteSeer has isolated
    test nodes that `tx` leaves out: they get no features and no label.
    """
    tx, allx, y, ty, ally, links = (_read(name, folder / f"ind.{name}.{part}", verify) for part in PARTS)
    order = _read(name, folder / f"ind.{name}.test.index", verify)
    known = allx.shape[0]
    nodes = max(known, int(order.max()) + 1)
    labels = np.full(nodes, -1, np.int64)
    labels[:known] = np.where(ally.any(1), ally.argmax(1), -1)
    labels[order] = np.where(ty.any(1), ty.argmax(1), -1)
    # rows of [allx; tx] in the order of the nodes; absent nodes get an empty last row
    rows = np.full(nodes, known + tx.shape[0])
    rows[:known] = np.arange(known)
    rows[order] = known + np.arange(len(order))
    empty = sp.csr_matrix((1, allx.shape[1]), dtype=np.float32)
    features = sp.csr_matrix(sp.vstack([allx, tx, empty], format="csr")[rows], dtype=np.float32)
    ends = np.array([(i, j) for i, neighbours in links.items() for j in neighbours], np.int64).reshape(-1, 2)
    labelled = len(y)
    split = {
        "train": np.arange(labelled),
        "validation": np.arange(labelled, labelled + validation),
        "test": np.sort(order[labels[order] >= 0]),
    }
    adjacency = undirected(nodes, ends[:, 0], ends[:, 1])
    return Graph(name, row_normalised(features), adjacency, labels, ally.shape[1], split)


def planetoid(name: str, data_dir: Path | None) -> Graph:
    """Cora, CiteSeer or PubMed from `data_dir` or its subfolder planetoid; row-normalised bags of words.

    140/500/1000, 120/500/1000 and 60/500/1000 nodes for training, validation and test. DataError if files
    are missing, damaged or not those of the published graph.
    """
    if data_dir is None:
        raise DataError(f"data={name}: data_dir is None; give the folder with the files ind.{name}.*")
    folders = [f for f in (data_dir, data_dir / "planetoid") if (f / f"ind.{name}.graph").is_file()]
    if not folders:
        raise DataError(
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
