"""One graph of several types of nodes of the user's own: tables of nodes, edges, features, paths, or HeCo's layout."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from fairsweep.trainables.base import DataError, DataNotFound
from fairsweep.trainables.datasets import heterogeneous
from fairsweep.trainables.datasets.heterogeneous import HeteroGraph, Matrix, incidence, meta_path
from fairsweep.trainables.datasets.own import splits, tables
from fairsweep.trainables.datasets.own.nodes import SHARES, standardised
from fairsweep.trainables.datasets.own.tables import NAME

LAYOUT = (
    "nodes.csv with id, type and label, and edges.csv (or .parquet), or HeCo's files;"
    " `fairsweep data template` shows one"
)
EDGES = ("source", "target")


def own(data_dir: Path | None = None) -> HeteroGraph:
    """`nodes`: id, type, label (of one type, which is classified; it may be empty), perhaps a split. `edges`: source,
    target, in either direction. `features_TYPE`: id and numbers, for some types or none. `paths`: path, types joined by
    hyphens; without it the target type is joined over each type that it has links to.

    HeCo's layout where there is no such table. DataError for what is wrong, with file and line.
    """
    folder = tables.folder_of(data_dir, LAYOUT)
    path = tables.present(folder, "nodes")
    if path is None:
        if (folder / "labels.npy").is_file():
            return heterogeneous.read_heco(NAME, folder)
        raise DataNotFound(f"data={NAME}: data_dir={folder} holds {tables.listing(folder)}; needs {LAYOUT}")
    table = tables.read(path, ["id", "type", "label"])
    ids = tables.unique(table, "id")
    cells = table.columns["type"]
    tables.refuse(table, "type", cells.among([""]), "needs a type in every row")
    kinds = tables.words(table, "type")
    hyphened = np.array(["-" in kind for kind in kinds], bool)
    tables.refuse(table, "type", hyphened, "which has a hyphen; names of types are joined by those in paths")
    kind = cells.codes.astype(np.int64)
    labels, names = tables.classes(table, "label", missing=True)
    target = int(kind[np.flatnonzero(labels >= 0)[0]])
    other = np.flatnonzero((labels >= 0) & (kind != target))
    if len(other):
        raise tables.refuse_row(
            table,
            int(other[0]),
            f"is a {kinds[kind[other[0]]]!r} with a label, and {kinds[target]!r} have labels too; must be one type",
        )
    # Each node's number within its type.
    number = np.zeros(len(ids), np.int64)
    sizes = {}
    for code, name in enumerate(kinds):
        rows = np.flatnonzero(kind == code)
        number[rows], sizes[name] = np.arange(len(rows)), len(rows)
    split = splits.given(table)
    if split is not None:
        for part, chosen in split.items():
            bare = chosen[labels[chosen] < 0]
            if len(bare):
                raise tables.refuse_row(table, int(bare[0]), f"is in the {part} part and has no label")
        split = {part: number[rows] for part, rows in split.items()}
    links, dropped = _links(folder, path.name, ids, kind, number, kinds, sizes)
    unread = [c for c in table.columns if c not in ("id", "type", "label", *splits.columns(table))]
    dropped |= {f"column {column!r} of {path.name}": 1 for column in unread}
    features: dict[str, Matrix] = {}
    for code, name in enumerate(kinds):
        mine = [ids[row] for row in np.flatnonzero(kind == code)]
        features[name] = _features(folder, name, mine)
    per_split = {} if split is None else {_each(labels[kind == target], split["train"]): split}
    return HeteroGraph(
        NAME,
        kinds[target],
        features,
        tuple(_paths(folder, kinds[target], links)),
        labels[kind == target],
        len(names),
        per_split,
        shares=SHARES,
        names=names,
        dropped=dropped,
    )


def _each(labels: np.ndarray, train: np.ndarray) -> int:
    """Training nodes of the smallest class among them."""
    return int(np.unique(labels[train], return_counts=True)[1].min())


def _links(
    folder: Path,
    nodes: str,
    ids: list[str],
    kind: np.ndarray,
    number: np.ndarray,
    kinds: list[str],
    sizes: Mapping[str, int],
) -> tuple[dict[tuple[str, str], sp.csr_matrix], dict[str, int]]:
    """Each pair of types that edges join, both ways: their links; and what was left out."""
    path = tables.present(folder, "edges")
    if path is None:
        raise DataNotFound(f"data={NAME}: data_dir={folder} has {nodes} and no edges.csv or edges.parquet")
    table = tables.read(path, EDGES)
    ends = np.stack([tables.positions(table, end, ids, f"id of {nodes}") for end in EDGES])
    dropped = {"self loops": int((ends[0] == ends[1]).sum())}
    ends = ends[:, ends[0] != ends[1]]
    ends = np.concatenate([ends, ends[::-1]], axis=1)
    found = {}
    for a, b in sorted(set(zip(kind[ends[0]].tolist(), kind[ends[1]].tolist(), strict=True))):
        mine = ends[:, (kind[ends[0]] == a) & (kind[ends[1]] == b)]
        names = kinds[a], kinds[b]
        found[names] = incidence(number[mine], (sizes[names[0]], sizes[names[1]]))
    return found, dropped


def _features(folder: Path, name: str, ids: list[str]) -> Matrix:
    """float32 (nodes, p) of the type `name`: its table, standardised, or the identity."""
    path = tables.present(folder, f"features_{name}")
    if path is None:
        return sp.identity(len(ids), np.float32, format="csr")
    table = tables.read(path, ["id"])
    given = tables.unique(table, "id")
    place = tables.positions(table, "id", ids, f"id of a {name!r}")
    if len(given) < len(ids):
        missing = sorted(set(ids) - set(given))[0]
        raise DataError(f"data={NAME}: {path.name} has no row for {missing!r}; needs one for each {name!r}")
    columns = [column for column in table.columns if column != "id"]
    if not columns:
        raise DataError(f"data={NAME}: {path.name} has no column beside id; needs numbers")
    values = np.empty((len(ids), len(columns)))
    values[place] = tables.matrix(table, columns, "; features are numbers: leave the column out or encode it")
    return standardised(values)


def _paths(
    folder: Path, target: str, links: Mapping[tuple[str, str], sp.csr_matrix]
) -> list[heterogeneous.MetaPath]:
    path = tables.present(folder, "paths")
    if path is None:
        found = [(target, b, target) for a, b in links if a == target]
        if not found:
            raise DataError(f"data={NAME}: edges join no {target!r} to anything; {target!r} have the labels")
        return [meta_path(types, lambda a, b: links[a, b]) for types in found]
    table = tables.read(path, ["path"])
    made = []
    for row, text in enumerate(tables.unique(table, "path")):
        types = tuple(part.strip() for part in text.split("-"))
        if len(types) < 3 or types[0] != target or types[-1] != target:
            raise tables.refuse_row(
                table, row, f"column 'path' has {text!r}; must lead from {target!r} over others to {target!r}"
            )
        for a, b in pairwise(types):
            if (a, b) not in links:
                raise tables.refuse_row(
                    table, row, f"column 'path' has {text!r}; no edge joins {a!r} and {b!r}"
                )
        made.append(meta_path(types, lambda a, b: links[a, b]))
    return made
