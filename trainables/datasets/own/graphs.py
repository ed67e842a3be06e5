"""A set of graphs of the user's own: TUDataset's text layout, three tables, or one Parquet file with a graph a row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fairsweep.trainables.base import DataError, DataNotFound
from fairsweep.trainables.datasets.delimited import Delimited
from fairsweep.trainables.datasets.own import splits, tables
from fairsweep.trainables.datasets.own.nodes import EDGES, standardised
from fairsweep.trainables.datasets.own.tables import NAME
from fairsweep.trainables.datasets.packed_graphs import GraphSet, degree_features, one_hot
from fairsweep.trainables.datasets.tudataset import read_tu

SHARES = (0.1, 0.1)  # of the graphs, to validate and to test
LAYOUT = (
    "graphs.csv, nodes.csv and edges.csv (or .parquet), one graphs.parquet with the list columns edge_index and"
    " node_feat, or TUDataset's PREFIX_A.txt, PREFIX_graph_indicator.txt and PREFIX_graph_labels.txt"
)
LISTS = ("edge_index", "node_feat", "edge_attr", "num_nodes", "y")  # of the layout with a graph a row


def own(data_dir: Path | None = None) -> GraphSet:
    """The graphs of `data_dir`. DataError if they are missing or do not fit each other."""
    folder = tables.folder_of(data_dir, LAYOUT)
    path, texts = tables.present(folder, "graphs"), sorted(folder.glob("*_graph_indicator.txt"))
    if len(texts) > 1:
        raise DataError(
            f"data={NAME}: {folder} has {', '.join(p.name for p in texts)}; must be one set of graphs a folder"
        )
    if path is None and texts:
        found = read_tu(NAME, folder, texts[0].name.removesuffix("_graph_indicator.txt"))
        return _checked(replace(found, shares=SHARES), texts[0].name)
    if path is None:
        raise DataNotFound(f"data={NAME}: data_dir={folder} holds {tables.listing(folder)}; needs {LAYOUT}")
    nested = path.suffix == ".parquet" and "edge_index" in tables.arrow(path).column_names
    return _checked(_a_graph_a_row(path) if nested else _three_tables(folder, path), path.name)


def _checked(data: GraphSet, file: str) -> GraphSet:
    """`data` if each class has a graph for each part, or its parts are given. DataError else."""
    if data.classes < 2:
        raise DataError(f"data={NAME}: {file}: all graphs are of one class; needs two at least")
    count = np.bincount(data.labels, minlength=data.classes)
    if data.test is None and (count < 3).any():
        rare = int(count.argmin())
        raise DataError(
            f"data={NAME}: {file}: the class {data.names[rare] if data.names else rare} has {count[rare]} graphs; needs"
            " three at least, one for each part, or a column 'split'"
        )
    return data


def _packed(
    labels: np.ndarray,
    names: tuple[str, ...],
    split: dict[str, np.ndarray] | None,
    nodes: np.ndarray,
    x: np.ndarray | None,
    ends: np.ndarray,
    owner: np.ndarray,
    e: np.ndarray | None,
    types: np.ndarray | None,
) -> GraphSet:
    """One set of graphs. ends: (2, m) within their graphs; owner: (m,) the graph of each, ascending."""
    start = np.cumsum(nodes) - nodes
    low, high = np.sort(ends, axis=0)
    total = int(nodes.sum())
    listed = np.flatnonzero(low != high)
    keys = (start[owner] + low) * total + start[owner] + high
    _, first = np.unique(keys[listed], return_index=True)
    once = listed[first]
    directed = (start[owner] + ends[0]) * total + start[owner] + ends[1]
    dropped = {
        "self loops": len(np.unique(keys[low == high])),
        "repeated entries": len(directed) - len(np.unique(directed)),
    }
    kept = np.stack([low[once], high[once]])
    degrees = x is None
    if x is None:
        x = degree_features(np.bincount((start[owner[once]] + kept).ravel(), minlength=total))
    parts = split or {}
    test, validation = parts.get("test"), parts.get("validation")
    return GraphSet(
        NAME,
        nodes,
        np.bincount(owner[once], minlength=len(nodes)),
        x,
        kept,
        np.ones((len(once), 1), np.float32) if e is None else e[once],
        labels,
        len(names),
        (0 if validation is None else len(validation), 0 if test is None else len(test)),
        types=None if types is None else types[once],
        edge_classes=0 if types is None else int(types.max(initial=-1)) + 1,
        test=test,
        validation=validation,
        dropped=dropped,
        names=names,
        shares=SHARES,
        degrees=degrees,
    )


# ---- three tables ----


def _three_tables(folder: Path, path: Path) -> GraphSet:
    """graphs: id, label, split. nodes: graph, id, features. edges: graph, source, target, type, features."""
    graphs = tables.read(path, ["id", "label"])
    ids = tables.unique(graphs, "id")
    labels, names = tables.classes(graphs, "label")
    split = splits.given(graphs)
    if split is not None and sum(map(len, split.values())) < len(ids):
        raise DataError(
            f"data={NAME}: {path.name}: column 'split' is empty in some rows; each graph must be in a part"
        )
    files = {stem: tables.present(folder, stem) for stem in ("nodes", "edges")}
    for stem, found in files.items():
        if found is None:
            raise DataNotFound(
                f"data={NAME}: data_dir={folder} has {path.name} and no {stem}.csv or {stem}.parquet"
            )
    assert files["nodes"] is not None and files["edges"] is not None
    table = tables.read(files["nodes"], ["graph", "id"])
    of = tables.positions(table, "graph", ids, f"id of {path.name}")
    counts = np.bincount(of, minlength=len(ids))
    if (counts == 0).any():
        raise DataError(
            f"data={NAME}: {table.sources[0].file} has no node of the graph {ids[int(counts.argmin())]!r}"
        )
    local, place = _numbered(table, of, counts)
    features = [c for c in table.columns if c not in ("graph", "id")]
    advice = "; features are numbers: leave the column out or encode it"
    x = np.empty((len(of), len(features)), np.float32)
    x[place] = standardised(tables.matrix(table, features, advice))
    edges = tables.read(files["edges"], ["graph", *EDGES])
    owner = tables.positions(edges, "graph", ids, f"id of {path.name}")
    ends = np.stack([_ends(edges, end, owner, local, ids) for end in EDGES])
    order = np.argsort(owner, kind="stable")
    features_e = [c for c in edges.columns if c not in ("graph", *EDGES, "type")]
    parts = [standardised(tables.matrix(edges, features_e, advice))] if features_e else []
    types = None
    if "type" in edges.columns:
        types, kinds = tables.classes(edges, "type")
        parts.append(one_hot(types, len(kinds)))
    e = np.concatenate(parts, 1) if parts else None
    return _packed(
        labels,
        names,
        split,
        counts,
        x if features else None,
        ends[:, order],
        owner[order],
        None if e is None else e[order],
        None if types is None else types[order],
    )


def _numbered(
    table: Delimited, of: np.ndarray, counts: np.ndarray
) -> tuple[dict[tuple[int, str], int], np.ndarray]:
    """(graph, id) -> number within the graph, in the order of the rows; and the place of each row among all nodes,
    graph by graph. DataError if a graph has an id twice."""
    cells = table.columns["id"]
    tables.refuse(table, "id", cells.among([""]), "needs one in every row")
    texts = cells.texts.to_pylist()
    local: dict[tuple[int, str], int] = {}
    taken, place = np.zeros(len(counts), np.int64), np.empty(len(of), np.int64)
    start = np.cumsum(counts) - counts
    for row, (graph, code) in enumerate(zip(of.tolist(), cells.codes.tolist(), strict=True)):
        key = (graph, texts[code])
        if key in local:
            raise tables.refuse_row(
                table, row, f"the node {texts[code]!r} is there again; each id must be there once a graph"
            )
        local[key] = int(taken[graph])
        place[row] = start[graph] + taken[graph]
        taken[graph] += 1
    return local, place


def _ends(
    table: Delimited, column: str, owner: np.ndarray, local: dict[tuple[int, str], int], ids: list[str]
) -> np.ndarray:
    cells = table.columns[column]
    texts = cells.texts.to_pylist()
    found = np.empty(len(owner), np.int64)
    for row, (graph, code) in enumerate(zip(owner.tolist(), cells.codes.tolist(), strict=True)):
        number = local.get((graph, texts[code]))
        if number is None:
            raise tables.refuse_row(
                table,
                row,
                f"column {column!r} has {texts[code]!r}, which is no node of the graph {ids[graph]!r}",
            )
        found[row] = number
    return found


# ---- a graph a row ----


def _a_graph_a_row(path: Path) -> GraphSet:
    """Columns edge_index (two lists of ends, or a list of pairs' ends), label or y, and if there are any node_feat,
    edge_attr (a list a node, a list an edge), num_nodes and split; the layout of graph sets on the Hugging Face hub."""
    table = tables.arrow(path)
    label = next((c for c in ("label", "y") if c in table.column_names), None)
    if label is None:
        raise DataError(
            f"data={NAME}: {path.name} has no column 'label'; it has {tables.listed(table.column_names)}"
        )
    plain = _plain(path, table, label)
    labels, names = tables.classes(plain, label)
    split = splits.given(plain)
    rows = table.select([c for c in LISTS if c in table.column_names and c != label]).to_pylist()
    if not rows:
        raise DataError(f"data={NAME}: {path.name} has no rows")
    nodes, x, ends, e, owner = [], [], [], [], []
    for i, row in enumerate(rows):
        pairs = _array(path, i, "edge_index", row["edge_index"], np.int64)
        if pairs.size == 0:
            pairs = np.zeros((2, 0), np.int64)
        if pairs.ndim != 2 or pairs.shape[0] != 2:
            raise DataError(
                f"data={NAME}: {path.name}, row {i + 1}: edge_index has shape {pairs.shape}; must be two lists, of the"
                " sources and of the targets"
            )
        features = row.get("node_feat")
        count = row.get("num_nodes")
        if features is None and count is None:
            raise DataError(f"data={NAME}: {path.name}, row {i + 1}: needs node_feat or num_nodes")
        if features is not None:
            x.append(_array(path, i, "node_feat", features, np.float64))
            if count not in (None, len(x[-1])):
                raise DataError(
                    f"data={NAME}: {path.name}, row {i + 1}: num_nodes is {count}, node_feat has {len(x[-1])} rows"
                )
            count = len(x[-1])
        if not isinstance(count, int) or count < 1 or (pairs < 0).any() or (pairs >= count).any():
            raise DataError(
                f"data={NAME}: {path.name}, row {i + 1}: edge_index names the node {pairs.max(initial=0)} and the graph"
                f" has {count}; must be 0 to one less than the nodes"
            )
        if row.get("edge_attr") is not None:
            e.append(_array(path, i, "edge_attr", row["edge_attr"], np.float64))
            if len(e[-1]) != pairs.shape[1]:
                raise DataError(
                    f"data={NAME}: {path.name}, row {i + 1}: edge_attr has {len(e[-1])} rows, edge_index"
                    f" {pairs.shape[1]}"
                )
        nodes.append(count)
        ends.append(pairs)
        owner += [i] * pairs.shape[1]
    return _packed(
        labels,
        names,
        split,
        np.array(nodes, np.int64),
        _stacked(path, "node_feat", x, len(rows)),
        np.concatenate(ends, 1),
        np.array(owner, np.int64),
        _stacked(path, "edge_attr", e, len(rows)),
        None,
    )


def _plain(path: Path, table: pa.Table, label: str) -> Delimited:
    """The label and the split of each graph, as cells; a label in a list of one is that label."""
    values = table[label]
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        lists = values.to_pylist()
        for i, found in enumerate(lists):
            if found is None or len(found) != 1:
                raise DataError(
                    f"data={NAME}: {path.name}, row {i + 1}: {label} has {found}, must be one class"
                )
        values = pa.chunked_array([pa.array([found[0] for found in lists])])
    columns = {label: values}
    if splits.COLUMN in table.column_names:
        columns[splits.COLUMN] = table[splits.COLUMN]
    return tables.ParquetTable.of(NAME, path, pa.table(columns))


def _array(path: Path, row: int, column: str, value: Any, dtype: type) -> np.ndarray:
    try:
        found: np.ndarray = np.array(value, dtype=dtype)
    except (ValueError, TypeError):
        raise DataError(
            f"data={NAME}: {path.name}, row {row + 1}: {column} must be lists of numbers of one length"
        ) from None
    if dtype is np.float64 and found.ndim == 1:
        found = found[:, None]
    if dtype is np.float64 and not np.isfinite(found).all():
        raise DataError(f"data={NAME}: {path.name}, row {row + 1}: {column} has a number that is not finite")
    return found


def _stacked(path: Path, column: str, arrays: list[np.ndarray], graphs: int) -> np.ndarray | None:
    if not arrays:
        return None
    widths = {a.shape[1] for a in arrays if a.size}
    if len(arrays) < graphs or len(widths) > 1:
        raise DataError(
            f"data={NAME}: {path.name}: {column} has rows of {', '.join(map(str, sorted(widths)))} numbers in"
            f" {len(arrays)} of {graphs} graphs; must be as many in all of them"
        )
    width = max(widths, default=1)
    return standardised(np.concatenate([a.reshape(-1, width) for a in arrays]))
