"""Sets of graphs in the text layout of TUDataset (Morris et al. 2020)."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from fairsweep.trainables.base import DataError, DataNotFound
from fairsweep.trainables.datasets.graphs import surplus
from fairsweep.trainables.datasets.packed_graphs import GraphSet, degree_features, one_hot

# name -> (folder and prefix of the files, graphs, classes)
TU = {
    "mutag": ("MUTAG", 188, 2),
    "proteins": ("PROTEINS", 1113, 2),
    "dd": ("DD", 1178, 2),
    "imdb_binary": ("IMDB-BINARY", 1000, 2),
    "imdb_multi": ("IMDB-MULTI", 1500, 3),
    "collab": ("COLLAB", 5000, 3),
}


def _table(path: Path, dtype: type) -> np.ndarray:
    """The rows of a text file of numbers; ValueError with its name if a cell is no such number."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a file without rows, which the sizes tell
            found: np.ndarray = np.loadtxt(path, dtype=dtype, delimiter=",", ndmin=2)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None
    bad = ~np.isfinite(found).all(1)
    if bad.any():
        raise ValueError(
            f"{path.name}: row {int(np.flatnonzero(bad)[0]) + 1} has a number that is not finite"
        )
    return found


def _features(folder: Path, prefix: str, what: str) -> np.ndarray | None:
    """The attributes and the one-hot labels of nodes or edges side by side, or None without either file."""
    parts = []
    if (folder / f"{prefix}_{what}_attributes.txt").is_file():
        parts.append(_table(folder / f"{prefix}_{what}_attributes.txt", np.float32))
    if (folder / f"{prefix}_{what}_labels.txt").is_file():
        values, index = np.unique(
            _table(folder / f"{prefix}_{what}_labels.txt", np.int64)[:, 0], return_inverse=True
        )
        parts.append(one_hot(index, len(values)))
    return np.concatenate(parts, axis=1) if parts else None


def read_tu(name: str, folder: Path, prefix: str) -> GraphSet:
    """Graphs in the text layout of TUDataset (Morris et al. 2020): PREFIX_A.txt, PREFIX_graph_indicator.txt and
    PREFIX_graph_labels.txt, and where there are any PREFIX_{node,edge}_{labels,attributes}.txt.

    Nodes without features get their degree, one-hot or, from degree 1000 on, standardised; edges without get a
    constant 1. Labels are one-hot over the values that occur. Loops are left out, and an edge is one edge whether it
    is listed once, in both directions or more often: its first mention gives its features. A tenth of the graphs each
    validates and tests. DataError if a file is missing or does not fit the others.
    """
    try:
        pairs = _table(folder / f"{prefix}_A.txt", np.int64) - 1
        owner = _table(folder / f"{prefix}_graph_indicator.txt", np.int64)[:, 0] - 1
        values, labels = np.unique(
            _table(folder / f"{prefix}_graph_labels.txt", np.int64)[:, 0], return_inverse=True
        )
        x, e = _features(folder, prefix, "node"), _features(folder, prefix, "edge")
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"data={name}: cannot read {folder} ({reason}); data_dir needs {prefix}_A.txt,"
            f" {prefix}_graph_indicator.txt and {prefix}_graph_labels.txt"
        ) from None
    graphs, total = len(labels), len(owner)
    nodes = np.bincount(owner[owner >= 0], minlength=graphs)
    fits = {
        "A": pairs.shape[1] == 2 and pairs.min(initial=0) >= 0 and pairs.max(initial=-1) < total,
        "graph_indicator": (np.diff(owner) >= 0).all() and len(nodes) == graphs > 0 and nodes.min() > 0,
        "node_labels or node_attributes": x is None or len(x) == total,
        "edge_labels or edge_attributes": e is None or len(e) == len(pairs),
    }
    for file, good in fits.items():
        if not good:
            raise DataError(
                f"data={name}: {prefix}_{file} in {folder} does not fit the other files; unpack the archive again"
            )
    across = np.flatnonzero(owner[pairs[:, 0]] != owner[pairs[:, 1]])
    dropped = surplus(pairs[:, 0], pairs[:, 1])
    # Read as they stand, numbers that start anew put the edges of all graphs among the nodes of the first ones.
    anew = graphs > 1 and pairs.max(initial=0) < nodes.max() < total and dropped["repeated entries"] > 0
    if len(across) or anew:
        said = (
            f"joins nodes of two graphs in line {across[0] + 1}"
            if len(across)
            else f"repeats links and names no node above {nodes.max()}, the size of the largest graph"
        )
        raise DataError(
            f"data={name}: {prefix}_A in {folder} {said}; nodes must be numbered through all graphs, from 1 to {total},"
            " and not start anew in each"
        )
    low, high = pairs.min(1), pairs.max(1)
    listed = np.flatnonzero(low != high)
    _, first = np.unique(low[listed] * total + high[listed], return_index=True)
    once = listed[first]
    ends = np.stack([low[once], high[once]])
    degrees = x is None
    if x is None:
        x = degree_features(np.bincount(ends.ravel(), minlength=total))
    typed = (folder / f"{prefix}_edge_labels.txt").is_file()
    types = None
    if e is not None and typed:
        _, kinds = np.unique(
            _table(folder / f"{prefix}_edge_labels.txt", np.int64)[:, 0], return_inverse=True
        )
        types = kinds[once]
    start = np.cumsum(nodes) - nodes
    tenth = graphs // 10
    return GraphSet(
        name,
        nodes,
        np.bincount(owner[ends[0]], minlength=graphs),
        x,
        ends - start[owner[ends[0]]],
        np.ones((len(once), 1), np.float32) if e is None else e[once],
        labels.astype(np.int64),
        classes=len(values),
        held_out=(tenth, tenth),
        types=types,
        edge_classes=0 if types is None else int(types.max(initial=-1)) + 1,
        dropped=dropped,
        names=tuple(map(str, values)),
        degrees=degrees,
    )


def tu(name: str, data_dir: Path | None) -> GraphSet:
    """The TUDataset `name`; `data_dir` is the folder of its files, or holds it under its published name.

    DataError if the files are missing or not those of that set. Data sets of graphlearning.io, free for research.
    """
    prefix, graphs, classes = TU[name]
    folders = [] if data_dir is None else [data_dir, data_dir / prefix, data_dir / prefix / "raw"]
    found = [folder for folder in folders if (folder / f"{prefix}_A.txt").is_file()]
    if not found:
        raise DataNotFound(
            f"data={name}: no {prefix}_A.txt in data_dir={data_dir}; give the unpacked folder {prefix} of TUDataset"
        )
    data = read_tu(name, found[0], prefix)
    if (len(data), data.classes) != (graphs, classes):
        raise DataError(
            f"data={name}: {found[0]} has (graphs, classes) = {(len(data), data.classes)}, the published set has"
            f" {(graphs, classes)}; fetch it again"
        )
    return data
