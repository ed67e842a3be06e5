"""The text layout in which Texas, Wisconsin, Cornell and Film (Pei et al., ICLR 2020) are handed around."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.sparse as sp

from fairsweep.trainables.base import DataError, DataNotFound
from fairsweep.trainables.datasets.graphs import Graph, directed, row_normalised, surplus, undirected
from fairsweep.trainables.datasets.own.tables import NAME

NODES, EDGES = "out1_node_feature_label.txt", "out1_graph_edges.txt"
SHARES = (0.32, 0.2)  # of each class, to validate and to test: .48 train, the split of Pei et al.
MASKS = {"train": "train_mask", "validation": "val_mask", "test": "test_mask"}


def _lines(path: Path, cells: int, name: str) -> list[tuple[int, list[str]]]:
    """The lines below the header with their numbers, from 1, as `cells` cells each. DataError for another number."""
    try:
        text = path.read_text(encoding="utf8")
    except (OSError, UnicodeError) as error:
        raise DataError(f"data={name}: {path.name} cannot be read ({' '.join(str(error).split())})") from None
    found = [(i, line.split("\t")) for i, line in enumerate(text.splitlines(), 1) if i > 1 and line.strip()]
    for number, parts in found:
        if len(parts) != cells:
            raise DataError(
                f"data={name}: {path.name}, line {number}: has {len(parts)} cells, must be {cells} with tabs"
                " between them"
            )
    if not found:
        raise DataError(f"data={name}: {path.name} has no rows below its header")
    return found


def _whole(path: Path, line: int, text: str, what: str, name: str) -> int:
    if not text.strip().isdecimal():
        raise DataError(
            f"data={name}: {path.name}, line {line}: {what} is {text.strip()[:40]!r}, must be a whole number from 0"
        )
    return int(text)


def read_webkb(folder: Path, name: str = NAME) -> Graph:
    """The graph of `out1_node_feature_label.txt` (id, features, label) and `out1_graph_edges.txt` (id, id) in `folder`.

    Features of a line are 0 and 1, one a word, or (Film) the numbers of the words that are there, in any order and
    perhaps twice; rows are divided by their sums. Lines may be in any order of their ids. A file `*split*.npz` with
    train_mask, val_mask and test_mask gives the split; of several, the first by name. name: of the data set, in errors.
    DataError, with file and line.
    """
    path = folder / NODES
    rows = _lines(path, 3, name)
    ids = np.array([_whole(path, line, cells[0], "the id", name) for line, cells in rows])
    labels = np.array([_whole(path, line, cells[2], "the label", name) for line, cells in rows], np.int64)
    order = np.argsort(ids, kind="stable")
    wrong = np.flatnonzero(ids[order] != np.arange(len(ids)))
    if len(wrong):
        line = rows[int(order[wrong[0]])][0]
        raise DataError(
            f"data={name}: {path.name}, line {line}: the id {ids[order[wrong[0]]]} is there again or leaves a gap; ids"
            f" must be 0 to {len(ids) - 1}, each once"
        )
    words = [
        np.array([_whole(path, line, word, "a feature", name) for word in cells[1].split(",")], np.int64)
        for line, cells in rows
    ]
    labels = labels[order]
    if len(np.unique(labels)) < 2:
        raise DataError(
            f"data={name}: {path.name}: all nodes are of class {labels[0]}; needs two classes at least"
        )
    values, classes = np.unique(labels, return_inverse=True)
    edges = folder / EDGES
    if not edges.is_file():
        raise DataNotFound(f"data={name}: {folder} has {NODES} and no {EDGES}")
    pairs = []
    for line, cells in _lines(edges, 2, name):
        pair = [_whole(edges, line, cell, "an end", name) for cell in cells]
        if max(pair) >= len(ids):
            raise DataError(
                f"data={name}: {edges.name}, line {line}: {max(pair)} is no id of {NODES}, which are 0 to"
                f" {len(ids) - 1}"
            )
        pairs.append(pair)
    ends = np.array(pairs, np.int64).T
    split, further = _split(folder, len(ids), name)
    dropped = {**surplus(*ends), "further splits": further}
    return Graph(
        name,
        row_normalised(_bag([words[i] for i in order])),
        undirected(len(ids), *ends),
        classes.astype(np.int64),
        len(values),
        split,
        dropped=dropped,
        shares=SHARES,
        names=tuple(map(str, values)),
        arcs=directed(len(ids), *ends),
    )


def _bag(words: list[np.ndarray]) -> sp.csr_matrix:
    """(n, p) 0/1 of lists of zeros and ones, all of one length, or else of the numbers of the ones."""
    if len({len(row) for row in words}) == 1 and all(row.max(initial=0) <= 1 for row in words):
        return sp.csr_matrix(np.stack(words), dtype=np.float32)
    lengths = [len(row) for row in words]
    place = (np.repeat(np.arange(len(words)), lengths), np.concatenate(words))
    matrix = sp.csr_matrix(
        (np.ones(len(place[0]), np.float32), place), shape=(len(words), int(place[1].max()) + 1)
    )
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix


def _split(folder: Path, nodes: int, name: str) -> tuple[dict[str, np.ndarray] | None, int]:
    """The split of the first file that has one, and how many further ones there are."""
    files = sorted(folder.glob("*split*.npz"))
    if not files:
        return None, 0
    try:
        with np.load(files[0], allow_pickle=False) as file:
            masks = {part: np.asarray(file[key]).astype(bool) for part, key in MASKS.items()}
    except (ValueError, OSError, KeyError) as error:
        raise DataError(
            f"data={name}: {files[0].name} cannot be read ({' '.join(str(error).split())}); needs the arrays"
            f" {', '.join(MASKS.values())}"
        ) from None
    for part, mask in masks.items():
        if mask.shape != (nodes,) or not mask.any():
            raise DataError(
                f"data={name}: {files[0].name}: {MASKS[part]} has shape {mask.shape} and {int(mask.sum())} nodes; must"
                f" be ({nodes},) and have one at least"
            )
    return {part: np.flatnonzero(mask) for part, mask in masks.items()}, len(files) - 1
