"""Graphs of several types of nodes, as meta-paths see them: HeCo's folders, and a generator.

One type is classified, the target. A meta-path goes from it over other types and back; what lies between is its
context.
Tables of the user's own are read by `own/typed.py`.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from pathlib import Path
from typing import TypeAlias

import numpy as np
import scipy.sparse as sp

from fairsweep.trainables.base import DataError, DataNotFound
from fairsweep.trainables.datasets.graphs import row_normalised

Matrix: TypeAlias = np.ndarray | sp.csr_matrix


@dataclass(frozen=True, eq=False)
class MetaPath:
    """A path target - ... - target. counts: (n, n) CSR, how many instances of it join two target nodes.

    contexts: for each type between, in order, its name and (n, m) CSR, how many ways lead there from a target node.
    features: of the target nodes, where this path has its own.
    """

    name: str
    counts: sp.csr_matrix
    contexts: tuple[tuple[str, sp.csr_matrix], ...]
    features: Matrix | None = None


@dataclass(frozen=True, eq=False)
class HeteroGraph:
    """n nodes of the type `target` with classes, and what meta-paths say of them.

    features: type -> (nodes, p) float32, dense or CSR; of a type without any, the identity. labels: (n,) int64 in
    0..classes-1, -1 for none. splits: labelled nodes a class -> part -> target nodes; empty where parts are drawn:
    `per_class` nodes of each class to train and to validate, or `shares` of each to validate and to test.
    """

    name: str
    target: str
    features: Mapping[str, Matrix]
    paths: tuple[MetaPath, ...]
    labels: np.ndarray
    classes: int
    splits: Mapping[int, Mapping[str, np.ndarray]] = field(default_factory=dict)
    per_class: tuple[int, int] = (10, 20)
    shares: tuple[float, float] | None = None
    names: tuple[str, ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)

    @property
    def nodes(self) -> int:
        """n, of the target type."""
        return len(self.labels)


def incidence(ends: np.ndarray, shape: tuple[int, int]) -> sp.csr_matrix:
    """(rows, columns) 0/1 matrix of the pairs `ends` (2, e), each once."""
    matrix = sp.csr_matrix((np.ones(ends.shape[1], np.float32), (ends[0], ends[1])), shape=shape)
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix


def meta_path(types: Sequence[str], links: Callable[[str, str], sp.csr_matrix]) -> MetaPath:
    """The path over `types`, of which `links(a, b)` joins two that follow each other."""
    ways: list[sp.csr_matrix] = []
    for a, b in pairwise(types):
        ways.append(sp.csr_matrix(ways[-1] @ links(a, b)) if ways else links(a, b))
    return MetaPath("-".join(types), ways[-1], tuple(zip(types[1:-1], ways[:-1], strict=True)))


# ---- HeCo's folders ----

# name -> target type, meta-paths as files name them, nodes of each type (Wang et al. 2021; Zhao et al. for imdb)
HECO = {
    "acm": ("p", ("pap", "psp"), {"p": 4019, "a": 7167, "s": 60}),
    "dblp": ("a", ("apa", "apcpa", "aptpa"), {"a": 4057, "p": 14328, "t": 7723, "c": 20}),
    "aminer": ("p", ("pap", "prp"), {"p": 6564, "a": 13329, "r": 35890}),
    "imdb": ("m", ("mam", "mdm", "mkm"), {"m": 4275, "a": 5432, "d": 2083, "k": 7313}),
}
LAYOUT = "labels.npy, PATH.npz for each meta-path, nei_TYPE.npz, TYPE_feat.npz, train_20.npy, val_20.npy, test_20.npy"


def _array(name: str, path: Path) -> Matrix:
    """What a file of NumPy's or of SciPy's holds, whatever it is called; no pickles. DataError for anything else."""
    try:
        found = np.load(path, allow_pickle=False)
        if not isinstance(found, np.ndarray):
            with found:
                found = sp.csr_matrix(sp.load_npz(path)) if "format" in found.files else found[found.files[0]]
    except (ValueError, TypeError, OSError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"data={name}: {path.name} cannot be read as an array or sparse matrix ({reason})"
        ) from None
    values = found.data if sp.issparse(found) else found
    if values.dtype.kind not in "biuf" or not np.isfinite(np.asarray(values, np.float64)).all():
        raise DataError(f"data={name}: {path.name} holds {values.dtype}; must be finite numbers")
    return found


def _sparse(name: str, path: Path, shape: tuple[int | None, int | None]) -> sp.csr_matrix:
    """The matrix of counts in a file, float32, without stored zeros. DataError if it is not of `shape` or negative."""
    matrix = sp.csr_matrix(_array(name, path), dtype=np.float32)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    expected = tuple("any" if size is None else size for size in shape)
    if any(size not in (None, found) for size, found in zip(shape, matrix.shape, strict=True)):
        raise DataError(
            f"data={name}: {path.name} is {matrix.shape[0]} x {matrix.shape[1]}; must be {expected}"
        )
    if matrix.nnz and matrix.data.min() < 0:
        raise DataError(f"data={name}: {path.name} has {matrix.data.min():g}; counts must be 0 or more")
    return matrix


def read_heco(name: str, folder: Path) -> HeteroGraph:
    """A folder in the layout of HeCo (Wang et al. 2021), types named by one letter, from the files themselves.

    `PATH.npz` such as pap.npz or apcpa.npz: instances of a meta-path between target nodes. For what lies between,
    `nei_` and the letters of the way (with or without the target's), as .npz; where that is missing, the links of two
    types as pairs of numbers in a text file called by both letters. Features: `LETTER_feat.npz`, or `feat_LETTER*.npy`
    (of the target also one for each path); sparse ones become shares of their row, dense ones stay. The pickled
    `nei_*.npy` of the first publication are not opened.
    """
    paths = sorted(
        p.stem for p in folder.glob("*.npz") if re.fullmatch(r"[a-z]{3}|[a-z]{5}|[a-z]{7}", p.stem)
    )
    paths = [stem for stem in paths if stem == stem[::-1]]
    if not (folder / "labels.npy").is_file() or not paths:
        raise DataNotFound(f"data={name}: data_dir={folder} is no folder of HeCo's layout; needs {LAYOUT}")
    target = paths[0][0]
    if any(stem[0] != target for stem in paths):
        raise DataError(
            f"data={name}: {folder} has the meta-paths {', '.join(paths)}; must begin with one type"
        )
    labels = _labels(name, folder / "labels.npy")
    n = len(labels)
    features = {target: _features(name, folder, target)}
    ways = {stem: _ways(name, folder, stem, n) for stem in paths}
    sizes = {letter: way.shape[1] for found in ways.values() for letter, way in found}
    for letter, size in sizes.items():
        found = _features(name, folder, letter)
        features[letter] = sp.identity(size, np.float32, format="csr") if found is None else found
    own: dict[str, Matrix | None] = dict.fromkeys(paths)
    if features[target] is None:
        own = {stem: _features(name, folder, f"{target}_{stem}") for stem in paths}
        if any(found is None for found in own.values()):
            features[target] = sp.identity(n, np.float32, format="csr")
            own = dict.fromkeys(paths)
        else:
            features[target] = own[paths[0]]
    complete = {letter: found for letter, found in features.items() if found is not None}
    for letter, rows in {target: n, **sizes}.items():
        if complete[letter].shape[0] != rows:
            raise DataError(
                f"data={name}: the features of type {letter!r} have {complete[letter].shape[0]} rows; {folder} has"
                f" {rows} such nodes"
            )
    counts = {stem: _sparse(name, folder / f"{stem}.npz", (n, n)) for stem in paths}
    made = tuple(MetaPath("-".join(stem), counts[stem], ways[stem], own[stem]) for stem in paths)
    return HeteroGraph(
        name,
        target,
        complete,
        made,
        labels,
        int(labels.max()) + 1,
        _splits(name, folder, labels),
        shares=(0.2, 0.2),
    )


def _whole(name: str, path: Path, what: str) -> np.ndarray:
    """The whole numbers from 0 in a file, int64 (k,), also where they are stored with a point. DataError for others."""
    found = _array(name, path)
    if sp.issparse(found) or found.ndim != 1 or not len(found) or found.min() < 0 or (found % 1 != 0).any():
        raise DataError(f"data={name}: {path.name} must hold whole numbers from 0, {what}")
    return found.astype(np.int64)


def _labels(name: str, path: Path) -> np.ndarray:
    labels = _whole(name, path, "the class of each target node")
    if labels.max() < 1:
        raise DataError(f"data={name}: {path.name} has one class; needs two at least")
    return labels


def _features(name: str, folder: Path, letter: str) -> Matrix | None:
    candidates = [folder / f"{letter}_feat.npz", folder / f"{letter}_feat.npy"]
    candidates += [
        p for p in sorted(folder.glob(f"feat_{letter}*.npy")) if re.match(rf"feat_{letter}\.", p.name)
    ]
    path = next((p for p in candidates if p.is_file()), None)
    if path is None:
        return None
    found = _array(name, path)
    return row_normalised(sp.csr_matrix(found)) if sp.issparse(found) else np.asarray(found, np.float32)


def _ways(name: str, folder: Path, stem: str, n: int) -> tuple[tuple[str, sp.csr_matrix], ...]:
    """What lies between on the path `stem`: letter and (n, m) counts of the ways from a target node."""
    found: list[tuple[str, sp.csr_matrix]] = []
    for end in range(2, len(stem)):
        files = [folder / f"nei_{stem[start:end]}.npz" for start in (0, 1)]
        path = next((p for p in files if p.is_file()), None)
        if path is not None:
            way = _sparse(name, path, (n, None))
        else:
            step = _pairs(
                name, folder, stem[end - 2], stem[end - 1], n if end == 2 else found[-1][1].shape[1]
            )
            way = step if end == 2 else sp.csr_matrix(found[-1][1] @ step)
        found.append((stem[end - 1], way))
    return tuple(found)


def _pairs(name: str, folder: Path, a: str, b: str, rows: int) -> sp.csr_matrix:
    """(rows, m) links of the types a and b, from a text file of pairs of numbers, called by the letters either way."""
    files = {folder / f"{a}{b}.txt": False, folder / f"{b}{a}.txt": True}
    path = next((p for p in files if p.is_file()), None)
    if path is None:
        raise DataNotFound(
            f"data={name}: data_dir={folder} has neither nei_{a}{b}.npz, nei_{b}.npz nor {a}{b}.txt"
        )
    try:
        ends = np.loadtxt(path, dtype=np.int64, ndmin=2)[:, :2].T
    except (ValueError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"data={name}: {path.name} must hold two whole numbers a line ({reason})") from None
    ends = ends[::-1] if files[path] else ends
    if not ends.size or ends.min() < 0 or ends[0].max() >= rows:
        raise DataError(f"data={name}: {path.name} has numbers outside of the {rows} nodes of type {a!r}")
    return incidence(ends, (rows, int(ends[1].max()) + 1))


def _splits(name: str, folder: Path, labels: np.ndarray) -> dict[int, dict[str, np.ndarray]]:
    """The parts that lie in the folder, by how many labelled nodes a class train."""
    found = {}
    for path in sorted(folder.glob("train_*.npy")):
        number = path.stem.removeprefix("train_")
        if not number.isdigit():
            continue
        parts = {}
        for part, stem in (("train", "train"), ("validation", "val"), ("test", "test")):
            file = folder / f"{stem}_{number}.npy"
            if not file.is_file():
                raise DataNotFound(f"data={name}: data_dir={folder} has {path.name} and no {file.name}")
            nodes = _whole(name, file, "each a target node")
            if nodes.max() >= len(labels):
                raise DataError(
                    f"data={name}: {file.name} has node {nodes.max()}; there are {len(labels)}, from 0"
                )
            parts[part] = np.unique(nodes)
        for (a, own), (b, other) in combinations(
            zip(("train", "val", "test"), parts.values(), strict=True), 2
        ):
            twice = np.intersect1d(own, other)
            if len(twice):
                raise DataError(
                    f"data={name}: node {twice[0]} is in {a}_{number}.npy and in {b}_{number}.npy"
                )
        found[int(number)] = parts
    return dict(sorted(found.items()))


def heco(name: str, data_dir: Path | None) -> HeteroGraph:
    """ACM, DBLP, Aminer or IMDB as HeCo's authors and MEOW's hand them around: the folder, or its subfolder `name`.

    DataError if it is missing or not that graph.
    """
    if data_dir is None:
        raise DataNotFound(f"data={name}: data_dir is None; give the folder with {LAYOUT}")
    folder = Path(data_dir) / name if (Path(data_dir) / name).is_dir() else Path(data_dir)
    graph = read_heco(name, folder)
    target, paths, sizes = HECO[name]
    found = {kind: x.shape[0] for kind, x in graph.features.items()}
    stems = tuple(path.name.replace("-", "") for path in graph.paths)
    if graph.target != target or set(stems) != set(paths) or found != sizes:
        raise DataError(
            f"data={name}: {folder} has the paths {', '.join(stems)} over {found}; {name} has {', '.join(paths)} over"
            f" {sizes}. data=own reads any folder of this layout"
        )
    return graph


# ---- generated ----


def bibliography(
    papers: int = 400,
    classes: int = 4,
    homophily: float = 0.8,
    width: int = 24,
    signal: float = 0.35,
    seed: int = 0,
) -> HeteroGraph:
    """Papers with three authors and a subject each, of the paper's class with probability `homophily`, else any.

    300 authors and 30 subjects have a class each; features of all three types are `signal` times a random unit
    vector of the class plus noise of variance 1/`width` in each. `seed` draws all of it.
    """
    rng = np.random.default_rng(seed)
    sizes = {"paper": papers, "author": 300, "subject": 30}
    labels = {kind: rng.permutation(np.arange(n) % classes) for kind, n in sizes.items()}
    means = rng.standard_normal((classes, width))
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    features: dict[str, Matrix] = {
        kind: (signal * means[y] + rng.standard_normal((len(y), width)) / np.sqrt(width)).astype(np.float32)
        for kind, y in labels.items()
    }
    links = {}
    for kind, each in (("author", 3), ("subject", 1)):
        rows, columns = [], []
        for i, y in enumerate(labels["paper"]):
            for _ in range(each):
                others = np.arange(sizes[kind])
                if rng.random() < homophily:
                    others = np.flatnonzero(labels[kind] == y)
                rows.append(i)
                columns.append(int(rng.choice(others)))
        links["paper", kind] = incidence(np.array([rows, columns]), (papers, sizes[kind]))
        links[kind, "paper"] = sp.csr_matrix(links["paper", kind].T)
    paths = tuple(
        meta_path(("paper", kind, "paper"), lambda a, b: links[a, b]) for kind in ("author", "subject")
    )
    return HeteroGraph(
        "synthetic_bibliography", "paper", features, paths, labels["paper"].astype(np.int64), classes
    )


def synthetic_bibliography(data_dir: Path | None = None) -> HeteroGraph:
    """Synthetic: one draw of `bibliography`, the same for every trial."""
    return bibliography()
