"""Files of graphs: what is damaged is refused by name, what is left out is counted.

Of the real files (github.com/kimiyoung/planetoid): Cora has 302 repeated entries and 5278 edges; CiteSeer 9464 entries,
124 loops, 236 repeats, 4552 edges, 15 test nodes without a row but with links, and 48 other nodes without a link. PyG
2.8.1 gives the absent nodes label 0. In TU text it adds up the attributes and one-hot labels of an edge that is listed
twice, drops loops, leaves an edge listed one way one-way, and encodes labels over all of min..max; what is right here
is held below.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from fairsweep.trainables.base import DataError
from fairsweep.trainables.datasets import graphs, planetoid, tudataset
from tests.trainables.test_dagnn import write_planetoid
from tests.trainables.test_dual_hypergraph import write_tu

# ---- Planetoid ----

ROWS = sp.csr_matrix(np.arange(1, 16, dtype=np.float32).reshape(5, 3))
TX = sp.csr_matrix(np.array([[1, 0, 0], [0, 1, 1]], np.float32))
KINDS = np.eye(2, dtype=np.int32)


def spoiled(folder: Path, part: str, content: Any) -> None:
    write_planetoid(folder)
    raw = content if isinstance(content, bytes) else pickle.dumps(content, protocol=2)
    (folder / f"ind.mini.{part}").write_bytes(raw)


def broken(rows: sp.csr_matrix, **over: Any) -> sp.csr_matrix:
    found = rows.copy()
    for key, value in over.items():
        setattr(found, key, value)
    return found


@pytest.mark.parametrize(
    "part, content, message",
    [
        ("tx", TX[:1], r"has shape \(1, 3\), must be \(2, 3\) to fit the other files"),
        ("allx", ROWS[:, :2], r"has shape \(2, 3\), must be \(2, 2\)|ind\.mini\.tx has shape"),
        ("allx", ROWS[:4], r"has shape \(4, 3\), must be \(5, 3\)"),
        ("tx", TX.toarray(), "must be a sparse matrix of numbers"),
        ("allx", [1, 2, 3], "must be a sparse matrix of numbers"),
        ("allx", broken(ROWS, data=np.full(15, np.nan, np.float32)), "must hold finite numbers from 0"),
        ("tx", broken(TX, data=-TX.data), "must hold finite numbers from 0"),
        ("allx", broken(ROWS, indices=ROWS.indices + 7), "cannot be read"),
        ("ty", KINDS[[1]], r"has shape \(1, 2\), must be \(2, 2\)"),
        ("ty", KINDS[[1, 0]] + 1, "must have a single 1 in a row, at its class, or none"),
        ("ally", np.ones((5, 2), int), "must have a single 1 in a row"),
        ("ally", np.arange(5), "must be an array of numbers, one row a node"),
        ("y", KINDS[[1, 1]], "must be the beginning of ally"),
        ("y", KINDS[[0, 1, 1, 0, 0]], r"has shape \(5, 2\), must be \(4, 2\)"),
        ("test.index", b"7\n7\n", "must name each test node once, from 5"),
        ("test.index", b"4\n7\n", "must name each test node once, from 5"),
        ("test.index", b"7\n5000\n", "must not go beyond 9: it has 2 test nodes"),
        ("test.index", b"7\nfive\n", "cannot be read"),
        ("test.index", b"", r"has shape \(2, 3\), must be \(0, 3\)|ind\.mini\.tx has"),
        ("graph", [[1], [0]], "must be a dictionary of nodes and lists of their neighbours, from 0 to 7"),
        ("graph", {0: [1], 8: [0]}, "must be a dictionary of nodes .* from 0 to 7"),
        ("graph", {0: [-1]}, "must be a dictionary of nodes"),
        ("graph", {0: ["1"]}, "must be a dictionary of nodes"),
        ("graph", {0: 1}, "must be a dictionary of nodes"),
    ],
)
def test_a_damaged_part_is_named(tmp_path: Path, part: str, content: Any, message: str) -> None:
    spoiled(tmp_path, part, content)
    with pytest.raises(DataError, match=rf"^data=mini: .*ind\.mini\.(.* )?({message})") as caught:
        planetoid.read_planetoid("mini", tmp_path, validation=1)
    assert "\n" not in str(caught.value)


def test_what_planetoid_leaves_out_is_counted(tmp_path: Path) -> None:
    write_planetoid(tmp_path)
    graph = planetoid.read_planetoid("mini", tmp_path, validation=1)
    assert graph.dropped == {"self loops": 1, "repeated entries": 1} and graph.edges == 4


def test_every_published_file_has_its_digest(tmp_path: Path) -> None:
    expected = {f"ind.{n}.{p}" for n in planetoid.SIZES for p in (*planetoid.PARTS, "test.index")}
    assert set(planetoid.SHA256) == expected
    for name in planetoid.SIZES:
        write_planetoid(tmp_path, name)
        with pytest.raises(DataError, match=rf"data={name}: .* has SHA-256 .*, the published file"):
            planetoid.planetoid(name, tmp_path)


def test_cora_repeats_302_entries(data_dir: Path) -> None:
    graph = planetoid.planetoid("cora", data_dir)
    assert graph.dropped == {"self loops": 0, "repeated entries": 302} and graph.edges == 5278


def test_citeseer_itself(data_dir: Path) -> None:
    try:
        graph = planetoid.planetoid("citeseer", data_dir)
    except DataError as error:
        pytest.skip(str(error))
    degree, absent = graph.adjacency.getnnz(1), graph.labels < 0
    assert graph.dropped == {"self loops": 124, "repeated entries": 236} and graph.edges == 4552
    assert absent.sum() == 15 and set(degree[absent]) == {1, 2} and (degree == 0).sum() == 48
    assert not absent[degree == 0].any() and (graph.features[degree == 0].getnnz(1) > 0).all()
    assert len(graph.split["test"]) == 1000


# ---- npz ----


def write_npz(folder: Path, **over: Any) -> Path:
    """Three nodes 0-1-2; the link 0-2 is a stored zero, the loop at 1 and the way 1-0 say nothing new."""
    rows, columns, data = [0, 0, 1, 1, 1], [1, 2, 0, 1, 2], [1.0, 0.0, 1.0, 1.0, 1.0]
    adjacency = sp.csr_matrix((data, (rows, columns)), shape=(3, 3))
    features = sp.csr_matrix(np.array([[1.0, 0], [2, 2], [0, 1]], np.float32))
    features.data[0] = 0
    arrays: dict[str, Any] = {"labels": np.array([0, 1, 1])}
    for part, matrix in (("adj", adjacency), ("attr", features)):
        for field in ("data", "indices", "indptr", "shape"):
            arrays[f"{part}_{field}"] = np.array(getattr(matrix, field))
    path = folder / "graph.npz"
    np.savez(path, **{**arrays, **over})
    return path


def test_stored_zeros_are_no_links_and_no_features(tmp_path: Path) -> None:
    graph = graphs.read_npz("g", write_npz(tmp_path))
    assert graph.adjacency.toarray().tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    assert graph.arcs is not None and graph.arcs.toarray().tolist() == [[0, 1, 0], [1, 0, 1], [0, 0, 0]]
    assert graph.features.toarray().tolist() == [[0, 0], [0.5, 0.5], [0, 1]]
    assert graph.dropped == {"stored zeros among the links": 1, "self loops": 1, "repeated entries": 0}


@pytest.mark.parametrize(
    "over, message",
    [
        (
            {"labels": np.array([0.0, 1.5, 1])},
            r"labels are float64 of shape \(3,\), the least 0\.0; must be one",
        ),
        ({"labels": np.array([0, -1, 1])}, r"labels are int64 of shape \(3,\), the least -1; must be one"),
        ({"labels": np.array([[0], [1], [1]])}, r"labels are int64 of shape \(3, 1\)"),
        ({"labels": np.array(["a", "b", "b"])}, r"labels are <U1 of shape \(3,\), the least none"),
        ({"adj_indices": np.array([1, 2, 0, 1, 9])}, "is not a graph in npz layout .*indices"),
        ({"adj_data": np.array([1, np.nan, 1, 1, 1])}, r"npz layout \(adj_data must be finite numbers\)"),
        ({"attr_data": np.array([np.inf] * 4)}, r"npz layout \(attr_data must be finite numbers\)"),
        ({"labels": np.array([0, None, 1])}, "is not a graph in npz layout"),
    ],
)
def test_damaged_npz_is_refused(tmp_path: Path, over: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"^data=g: .*{message}"):
        graphs.read_npz("g", write_npz(tmp_path, **over))


# ---- TUDataset ----


def test_an_edge_is_one_edge_however_often_and_whichever_way_it_is_listed(tmp_path: Path) -> None:
    write_tu(
        tmp_path,
        A="1, 2\n2, 1\n1, 2\n3, 2\n1, 1\n4, 5\n",
        edge_labels="9\n9\n9\n4\n4\n9\n",
        node_attributes=None,
        node_labels="7\n100\n7\n100\n100\n",
    )
    data = tudataset.read_tu("mini", tmp_path, "MUTAG")
    assert data.ends.tolist() == [[0, 1, 0], [1, 2, 1]] and data.edges.tolist() == [2, 1]
    assert data.e.tolist() == [[0, 1], [1, 0], [0, 1]], "not added up"
    assert data.x.shape == (5, 2), "one-hot over the values that occur, not over 7 to 100"
    assert data.dropped == {"self loops": 1, "repeated entries": 1}


@pytest.mark.parametrize(
    "edges, said",
    [
        ("1, 2\n2, 3\n1, 2\n", "repeats links and names no node above 3, the size of the largest graph"),
        ("4, 5\n2, 4\n", "joins nodes of two graphs in line 2"),
    ],
)
def test_node_numbers_that_start_anew_in_each_graph_are_refused(
    tmp_path: Path, edges: str, said: str
) -> None:
    write_tu(tmp_path, A=edges, edge_labels=None)
    with pytest.raises(DataError, match=rf"^data=mini: MUTAG_A in .* {said}; nodes must be numbered through"):
        tudataset.read_tu("mini", tmp_path, "MUTAG")


@pytest.mark.parametrize(
    "over, message",
    [
        (
            {"node_attributes": "0.5, 1\nnan, 0\n0, 0\n2, 2\n0, 0\n"},
            r"attributes\.txt: row 2 has a number that",
        ),
        ({"node_attributes": "0.5, 1\n0\n0, 0\n2, 2\n0, 0\n"}, r"MUTAG_node_attributes\.txt: "),
        ({"graph_labels": "0.25\n1\n"}, r"cannot read .*MUTAG_graph_labels\.txt: "),
        ({"A": ""}, "MUTAG_A in .* does not fit the other files"),
        ({"graph_indicator": ""}, "does not fit the other files"),
        ({"graph_labels": ""}, "does not fit the other files"),
    ],
)
def test_damaged_tu_text_is_refused(tmp_path: Path, over: dict[str, str], message: str) -> None:
    write_tu(tmp_path, **over)
    with pytest.raises(DataError, match=f"^data=mini: .*{message}") as caught:
        tudataset.read_tu("mini", tmp_path, "MUTAG")
    assert "\n" not in str(caught.value)
