"""One graph in one .npz: the layout of Shchur et al. (2018), or that of Platonov et al. (ICLR 2023)."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from fairsweep.trainables.base import DataError
from fairsweep.trainables.datasets.graphs import Graph, directed, read_npz, surplus, undirected
from fairsweep.trainables.datasets.own.tables import NAME

SHARES = (0.2, 0.2)  # of each class, to validate and to test, without masks
MASKS = {"train": "train_masks", "validation": "val_masks", "test": "test_masks"}
NEEDED = ("node_features", "node_labels", "edges")


def graph_archive(folder: Path) -> Path | None:
    """The only .npz of `folder`, if it is one of these graphs."""
    files = sorted(folder.glob("*.npz"))
    if len(files) != 1:
        return None
    try:
        with np.load(files[0], allow_pickle=False) as file:
            names = set(file.files)
    except (ValueError, OSError, zipfile.BadZipFile):
        return None
    return files[0] if "adj_indptr" in names or {"node_features", "edges"} <= names else None


def read_archive(path: Path) -> Graph:
    """The graph in `path`: CSR arrays adj_*, attr_* and labels (`read_npz`); or node_features (n, p), node_labels (n,)
    and edges (m, 2), source and target, with masks (splits, n), of which the first is taken. DataError in one line."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if "adj_indptr" in file.files:
                return read_npz(NAME, path)
            arrays = {key: file[key] for key in file.files}
        features, labels, edges = (np.asarray(arrays[key]) for key in NEEDED)
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).strip("'\"").split())
        raise DataError(
            f"data={NAME}: {path.name} cannot be read ({reason}); needs {', '.join(NEEDED)}"
        ) from None
    if features.ndim != 2 or features.dtype.kind not in "biuf" or not np.isfinite(features).all():
        raise DataError(
            f"data={NAME}: {path.name}: node_features are {features.dtype} of shape {features.shape}; must be finite"
            " numbers, a row a node"
        )
    nodes = len(features)
    for key, found, shape in (("node_labels", labels, (nodes,)), ("edges", edges, (len(edges), 2))):
        most = nodes - 1 if key == "edges" else np.inf
        if found.shape != shape or found.dtype.kind not in "iu" or not ((found >= 0) & (found <= most)).all():
            raise DataError(
                f"data={NAME}: {path.name}: {key} are {found.dtype} of shape {found.shape}; must be whole numbers"
                f" from 0{f' to {most}' if key == 'edges' else ''}, of shape {shape}"
            )
    values, classes = np.unique(labels, return_inverse=True)
    if len(values) < 2:
        raise DataError(f"data={NAME}: {path.name}: all nodes are of one class; needs two classes at least")
    split, further = _split(path, arrays, nodes)
    rows, columns = edges.T.astype(np.int64)
    return Graph(
        NAME,
        features.astype(np.float32),
        undirected(nodes, rows, columns),
        classes.astype(np.int64),
        len(values),
        split,
        dropped={**surplus(rows, columns), "further splits": further},
        shares=SHARES,
        names=tuple(map(str, values)),
        arcs=directed(nodes, rows, columns),
    )


def _split(path: Path, arrays: dict[str, np.ndarray], nodes: int) -> tuple[dict[str, np.ndarray] | None, int]:
    """The first split of the masks, and how many further ones there are."""
    if not any(key in arrays for key in MASKS.values()):
        return None, 0
    masks = {part: np.atleast_2d(arrays.get(key, np.zeros((0, 0)))) for part, key in MASKS.items()}
    for part, mask in masks.items():
        if not len(mask) or mask.shape[1] != nodes or not np.isin(mask, (0, 1)).all() or not mask[0].any():
            raise DataError(
                f"data={NAME}: {path.name}: {MASKS[part]} has shape {mask.shape}; must be 0 and 1, (splits, {nodes}),"
                " and have a node in the first"
            )
    return {part: np.flatnonzero(mask[0]) for part, mask in masks.items()}, len(masks["train"]) - 1
