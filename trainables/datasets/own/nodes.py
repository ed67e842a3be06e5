"""One graph of the user's own: tables of nodes and edges, Planetoid's or WebKB's files, or an .npz."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from fairsweep.trainables.base import DataError, DataNotFound
from fairsweep.trainables.datasets.delimited import Delimited
from fairsweep.trainables.datasets.graphs import Graph, directed, surplus, undirected
from fairsweep.trainables.datasets.own import splits, tables
from fairsweep.trainables.datasets.own.archives import graph_archive, read_archive
from fairsweep.trainables.datasets.own.tables import NAME
from fairsweep.trainables.datasets.own.webkb import NODES as WEBKB_NODES
from fairsweep.trainables.datasets.own.webkb import read_webkb
from fairsweep.trainables.datasets.planetoid import read_planetoid

SHARES = (0.2, 0.2)  # of each class, to validate and to test; .6 train, as custom has it on small own graphs
LAYOUT = (
    f"nodes.csv and edges.csv (or .parquet), Planetoid's ind.NAME.*, WebKB's {WEBKB_NODES} and its edges, or one .npz"
    " with a graph; `fairsweep data template` shows one"
)
EDGES = ("source", "target")
LEAST = 10  # links of which some are to be predicted


def classified(data_dir: Path | None = None) -> Graph:
    """The graph of `data_dir` for the classification of its nodes. DataError if it is missing, or has no classes."""
    return _graph(data_dir, labelled=True)


def linked(data_dir: Path | None = None) -> Graph:
    """The graph of `data_dir` for the prediction of its links; its nodes need no class."""
    graph = _graph(data_dir, labelled=False)
    if graph.links is None and graph.edges < LEAST:
        raise DataError(
            f"data={NAME}: {data_dir} has {graph.edges} links; needs {LEAST} at least, for three parts"
        )
    return replace(graph, labels=np.full(graph.nodes, -1, np.int64), classes=0, names=(), split=None)


def _graph(data_dir: Path | None, labelled: bool) -> Graph:
    folder = tables.folder_of(data_dir, LAYOUT)
    nodes = tables.present(folder, "nodes")
    citations, archive = sorted(folder.glob("ind.*.graph")), graph_archive(folder)
    if nodes is not None:
        graph = from_tables(folder, nodes, labelled)
    elif len(citations) > 1:
        names = ", ".join(path.name for path in citations)
        raise DataError(f"data={NAME}: {folder} has {names}; must be one graph a folder")
    elif citations:
        name = citations[0].name.removeprefix("ind.").removesuffix(".graph")
        graph = read_planetoid(name, folder, validation=None, verify=False)
        assert graph.split is not None
        split = {part: rows[graph.labels[rows] >= 0] for part, rows in graph.split.items()}
        splits.check(split, f"ind.{name}.*")
        graph = replace(graph, name=NAME, split=split)
    elif (folder / WEBKB_NODES).is_file():
        graph = read_webkb(folder)
    elif archive is not None:
        graph = read_archive(archive)
    else:
        raise DataNotFound(f"data={NAME}: data_dir={folder} holds {tables.listing(folder)}; needs {LAYOUT}")
    if not graph.edges:
        raise DataError(f"data={NAME}: {folder} has no link between two different nodes")
    return graph


def from_tables(folder: Path, path: Path, labelled: bool) -> Graph:
    """`nodes` with the columns id, label, split or masks, and features; `edges` with source and target.

    Without a column of features and without features.npz each node is a feature of its own. Columns of features that
    hold other numbers than 0 and 1 are standardised over all nodes; what is in features.npz stays as it is.
    """
    table = tables.read(path, ["id", *(["label"] if labelled else [])])
    ids = tables.unique(table, "id")
    labels = np.full(len(ids), -1, np.int64)
    names: tuple[str, ...] = ()
    if labelled:
        labels, names = tables.classes(table, "label", missing=True)
    split = splits.given(table) if labelled else None
    if split is not None:
        for part, chosen in split.items():
            bare = chosen[labels[chosen] < 0]
            if len(bare):
                raise tables.refuse_row(table, int(bare[0]), f"is in the {part} part and has no label")
    edges = tables.present(folder, "edges")
    if edges is None:
        raise DataNotFound(
            f"data={NAME}: data_dir={folder} has {path.name} and no edges.csv or edges.parquet"
        )
    ends, dropped, links = _edges(tables.read(edges, EDGES), ids, path.name)
    return Graph(
        NAME,
        _features(folder, table),
        undirected(len(ids), ends[0], ends[1]),
        labels,
        len(names),
        split,
        dropped=dropped,
        shares=SHARES,
        names=names,
        links=links,
        arcs=directed(len(ids), ends[0], ends[1]),
    )


def _features(folder: Path, table: Delimited) -> np.ndarray | sp.csr_matrix:
    columns = [c for c in table.columns if c not in ("id", "label", *splits.columns(table))]
    path, n = folder / "features.npz", sum(table.rows)
    if path.is_file():
        if columns:
            raise DataError(
                f"data={NAME}: {table.sources[0].file} has the column {columns[0]!r} of features and {folder} has"
                " features.npz too; keep one of them"
            )
        return read_features(path, n, table.sources[0].file)
    if not columns:
        return sp.identity(n, np.float32, format="csr")
    found = tables.matrix(table, columns, "; features are numbers: leave the column out or encode it")
    return standardised(found)


def standardised(columns: np.ndarray) -> np.ndarray:
    """float32 (n, p): the columns that hold other numbers than 0 and 1 with mean 0 and deviation 1, constant ones 0."""
    binary = np.isin(columns, (0, 1)).all(0)
    size = np.abs(columns).max(0, initial=0.0)
    size[size == 0] = 1  # by its size first: the square of 1e200 is no double
    scaled = columns / size
    deviation = scaled.std(0)
    varies = columns.min(0, initial=np.inf) < columns.max(0, initial=-np.inf)
    centred = np.where(varies, (scaled - scaled.mean(0)) / np.where(varies, deviation, 1), 0)
    return np.where(binary, columns, centred).astype(np.float32)


def read_features(path: Path, nodes: int, of: str) -> np.ndarray | sp.csr_matrix:
    """The matrix in an .npz file, float32 (nodes, p): SciPy's sparse one, or the only array in it."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        found = sp.csr_matrix(sp.load_npz(path)) if "format" in arrays else None
    except (ValueError, TypeError, OSError, KeyError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"data={NAME}: {path.name} cannot be read ({reason}); save it by numpy or scipy"
        ) from None
    if found is None:
        if len(arrays) != 1:
            raise DataError(
                f"data={NAME}: {path.name} has the arrays {', '.join(arrays) or 'none'}; must be one, or a matrix of"
                " scipy.sparse.save_npz"
            )
        found = next(iter(arrays.values()))
    values = found.data if sp.issparse(found) else found
    if found.ndim != 2 or found.shape[0] != nodes or values.dtype.kind not in "biuf":
        raise DataError(
            f"data={NAME}: {path.name} has {values.dtype} of shape {found.shape}; must be numbers, one row for each of"
            f" the {nodes} rows of {of}"
        )
    with np.errstate(over="ignore"):
        single = sp.csr_matrix(found, dtype=np.float32) if sp.issparse(found) else found.astype(np.float32)
    if not np.isfinite(single.data if sp.issparse(single) else single).all():
        row, column = np.argwhere(~np.isfinite(single.toarray() if sp.issparse(single) else single))[0]
        raise DataError(
            f"data={NAME}: {path.name}, row {row + 1}, column {column + 1}: is not a finite number in single precision"
        )
    return single


def _edges(
    table: Delimited, ids: list[str], nodes: str
) -> tuple[np.ndarray, dict[str, int], Mapping[str, np.ndarray] | None]:
    """Ends (2, m) as listed, what a graph leaves out of them, and the links by part where `split` gives it."""
    ends = np.stack([tables.positions(table, end, ids, f"id of {nodes}") for end in EDGES])
    dropped = surplus(*ends)
    unread = [column for column in table.columns if column not in (*EDGES, splits.COLUMN)]
    dropped |= {f"column {column!r} of {table.sources[0].file}": 1 for column in unread}
    part = splits.given(table, optional=False) if splits.COLUMN in table.columns else None
    if part is None:
        return ends, dropped, None
    low, high = ends.min(0), ends.max(0)
    keys = low * len(ids) + high
    links, seen = {}, np.zeros(0, np.int64)
    for name, rows in part.items():
        rows = rows[low[rows] != high[rows]]
        again = rows[np.isin(keys[rows], seen)]
        if len(again):
            row = int(again[0])
            raise tables.refuse_row(
                table,
                row,
                f"the link of {ids[ends[0, row]]!r} and {ids[ends[1, row]]!r} is in two parts; in {name} too",
            )
        once = np.unique(keys[rows])
        seen = np.union1d(seen, once)
        links[name] = np.stack([once // len(ids), once % len(ids)])
    splits.check({part: pairs.T for part, pairs in links.items()}, f"{table.sources[0].file}: links")
    return ends, dropped, links
