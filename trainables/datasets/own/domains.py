"""Graphs of several domains of the user's own: a file each, of those to pre-train on and of those downstream."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fairsweep.trainables.base import DataError, DataNotFound
from fairsweep.trainables.datasets.own import tables
from fairsweep.trainables.datasets.own.tables import NAME
from fairsweep.trainables.datasets.packed_graphs import Domain, Domains

ROLES = ("sources", "downstream")
LAYOUT = "the folders sources and downstream, with a .csv or .parquet file of links (source, target) for each domain"


def own(data_dir: Path | None = None) -> Domains:
    """The domains of `data_dir`. DataError if they are missing or no graphs."""
    folder = tables.folder_of(data_dir, LAYOUT)
    found: list[tuple[Domain, ...]] = []
    for role in ROLES:
        inside = folder / role
        if not inside.is_dir():
            raise DataNotFound(
                f"data={NAME}: data_dir={folder} holds {tables.listing(folder)}; needs {LAYOUT}"
            )
        stems = {path.stem for path in inside.iterdir() if path.suffix in tables.ENDINGS}
        paths = [path for stem in sorted(stems) if (path := tables.present(inside, stem)) is not None]
        if not paths:
            raise DataNotFound(f"data={NAME}: {inside} holds {tables.listing(inside)}; needs {LAYOUT}")
        found.append(tuple(_domain(path) for path in paths))
    return Domains(NAME, found[0], found[1])


def _domain(path: Path) -> Domain:
    """Links `source`, `target` of one graph, or of each in the column `graph`; nodes are what links name."""
    table = tables.read(path, ["source", "target"])
    rows = sum(table.rows)
    owner = np.zeros(rows, np.int64)
    for column in ("source", "target", *(["graph"] if "graph" in table.columns else [])):
        tables.refuse(table, column, table.columns[column].among([""]), "needs one in every row")
    if "graph" in table.columns:
        _, owner = np.unique(table.columns["graph"].codes, return_inverse=True)
    texts: dict[str, int] = {}
    ends = np.empty((2, rows), np.int64)
    for end, column in enumerate(("source", "target")):
        cells = table.columns[column]
        numbers = [texts.setdefault(text, len(texts)) for text in cells.texts.to_pylist()]
        ends[end] = np.array(numbers, np.int64)[cells.codes]
    both = np.concatenate([owner, owner]) * len(texts) + ends.ravel()
    keys, place = np.unique(both, return_inverse=True)
    first = place[:rows], place[rows:]
    low, high = np.minimum(*first), np.maximum(*first)
    loops = low == high
    pairs = np.unique(np.stack([low, high])[:, ~loops], axis=1)
    if not pairs.size:
        raise DataError(
            f"data={NAME}: {path.parent.name}/{path.name} has no link between two different nodes"
        )
    graph = keys // len(texts)
    nodes = np.bincount(graph)
    start = np.cumsum(nodes) - nodes
    of = graph[pairs[0]]
    return Domain(
        path.stem,
        nodes,
        np.bincount(of, minlength=len(nodes)),
        pairs - start[of],
        {"self loops": int(loops.sum()), "repeated entries": int((~loops).sum()) - pairs.shape[1]},
    )
