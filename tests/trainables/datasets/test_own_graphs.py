"""Graphs of the user's own: every layout says the same, and what is wrong is one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp

from fairsweep.trainables.base import DataError
from fairsweep.trainables.datasets.describe import describe
from fairsweep.trainables.datasets.own import graphs, nodes, splits, tables
from fairsweep.trainables.datasets.own.webkb import EDGES, NODES
from fairsweep.trainables.tasks.graph_classification import split as graph_split
from fairsweep.trainables.tasks.link_prediction import LinkTask
from fairsweep.trainables.tasks.node_classification import NodeTask
from tests.trainables.test_dagnn import write_npz, write_planetoid
from tests.trainables.test_dual_hypergraph import write_tu

ROWS = "id,label,age,split\na,x,1.5,train\nb,y,2.5,train\nc,x,3.5,val\nd,y,2.5,test\ne,,2.5,\n"
LINKS = "source,target\na,b\nb,a\nb,c\nc,c\nd,e\n"


def files(folder: Path, **texts: str) -> Path:
    """Files `name.csv`; a double underscore in a name is a dot."""
    for name, text in texts.items():
        (folder / (name.replace("__", ".") if "__" in name else f"{name}.csv")).write_text(text)
    return folder


def test_a_graph_of_two_tables(tmp_path: Path) -> None:
    graph = nodes.classified(files(tmp_path, nodes=ROWS, edges=LINKS))
    assert (graph.nodes, graph.edges, graph.classes, graph.names) == (5, 3, 2, ("x", "y"))
    assert graph.labels.tolist() == [0, 1, 0, 1, -1]
    assert graph.dropped == {"self loops": 1, "repeated entries": 0}
    assert graph.arcs is not None and graph.arcs.toarray().nonzero()[0].tolist() == [0, 1, 1, 3]
    assert graph.arcs.toarray().nonzero()[1].tolist() == [1, 0, 2, 4]
    assert {part: rows.tolist() for part, rows in (graph.split or {}).items()} == {
        "train": [0, 1],
        "validation": [2],
        "test": [3],
    }
    np.testing.assert_allclose(graph.features.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(graph.features.std(0), 1, atol=1e-6)
    about = describe(graph)
    assert about.classes["train"] == {"x": 1, "y": 1} and about.sizes["nodes without a class"] == 1


@pytest.mark.parametrize("edges", ["csv", "parquet"])
def test_parquet_and_masks_and_npz_say_the_same(tmp_path: Path, edges: str) -> None:
    text, typed = tmp_path / "text", tmp_path / "typed"
    text.mkdir()
    typed.mkdir()
    expected = nodes.classified(files(text, nodes=ROWS, edges=LINKS))
    columns: dict[str, Any] = {"id": pa.array(["a", "b", "c", "d", "e"]).dictionary_encode()}
    columns["label"] = ["x", "y", "x", "y", None]
    for part, rows in {"train": (0, 1), "val": (2,), "test": (3,)}.items():
        columns[f"{part}_mask"] = [i in rows for i in range(5)]
    pq.write_table(pa.table(columns), typed / "nodes.parquet")
    sp.save_npz(typed / "features.npz", sp.csr_matrix(np.array([[1.5], [2.5], [3.5], [2.5], [2.5]])))
    if edges == "csv":
        files(typed, edges=LINKS)
    else:
        ends = [line.split(",") for line in LINKS.split()[1:]]
        pq.write_table(
            pa.table({"source": [a for a, _ in ends], "target": [b for _, b in ends]}),
            typed / "edges.parquet",
        )
    found = nodes.classified(typed)
    assert (found.adjacency != expected.adjacency).nnz == 0
    assert found.labels.tolist() == expected.labels.tolist() and found.names == expected.names
    assert sp.issparse(found.features) and found.features.toarray().ravel().tolist() == [
        1.5,
        2.5,
        3.5,
        2.5,
        2.5,
    ]
    for part in splits.PARTS:
        assert found.split is not None and expected.split is not None
        assert found.split[part].tolist() == expected.split[part].tolist()


def test_a_label_that_is_not_a_number_in_parquet_is_none(tmp_path: Path) -> None:
    table = pa.table({"id": [1.0, 2.0, 3.0], "label": [0.0, 1.0, float("nan")]})
    pq.write_table(table, tmp_path / "nodes.parquet")
    graph = nodes.classified(files(tmp_path, edges="source,target\n1,2\n2,3\n"))
    assert graph.labels.tolist() == [0, 1, -1] and graph.names == ("0", "1")


def test_truth_values_of_parquet_are_numbers(tmp_path: Path) -> None:
    table = pa.table({"id": ["a", "b", "c"], "label": ["x", "y", "x"], "active": [True, False, True]})
    pq.write_table(table, tmp_path / "nodes.parquet")
    graph = nodes.classified(files(tmp_path, edges="source,target\na,b\nb,c\n"))
    assert graph.features.tolist() == [[1], [0], [1]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"id;label\na;x\n", "cells end with commas, not with ';'"),
        (b"id\tlabel\na\tx\n", r"not with '\\t'"),
        (
            "id,label\na,x\nb,y\n".encode("utf-16"),
            r"nodes.csv is not a CSV file \(is text in UTF-16; save it as",
        ),
    ],
)
def test_what_spreadsheets_write_is_told_what_would_be_right(tmp_path: Path, text: bytes, words: str) -> None:
    (tmp_path / "nodes.csv").write_bytes(text)
    with pytest.raises(DataError, match=words):
        nodes.classified(files(tmp_path, edges="source,target\na,b\n"))


def test_without_features_each_node_is_its_own_and_zero_one_columns_stay(tmp_path: Path) -> None:
    graph = nodes.classified(files(tmp_path, nodes="id,label\n1,0\n2,1\n3,0\n", edges="source,target\n1,2\n"))
    assert sp.issparse(graph.features) and (graph.features.toarray() == np.eye(3)).all()
    (tmp_path / "nodes.csv").write_text("id,label,word,age\n1,0,1,5\n2,1,0,5\n3,0,0,5\n")
    assert nodes.classified(tmp_path).features.tolist() == [[1, 0], [0, 0], [0, 0]]


def test_drawn_parts_have_each_class_that_is_large_enough() -> None:
    labels = np.array([0] * 10 + [1] * 3 + [2] * 2 + [3] + [-1] * 4)
    parts = splits.drawn(labels, (0.2, 0.2), np.random.default_rng(0))
    count = {part: np.bincount(labels[rows], minlength=4).tolist() for part, rows in parts.items()}
    assert count == {"train": [6, 1, 1, 1], "validation": [2, 1, 0, 0], "test": [2, 1, 1, 0]}
    assert np.unique(np.concatenate(list(parts.values()))).tolist() == list(range(16))


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, 1, 1, 2, 2], "label: the largest class has 2 labelled examples, and the validation part"),
        ([0, 1, -1], "the largest class has 1 labelled examples, and the validation part"),
        ([-1, -1], "the largest class has 0 labelled examples, and the train part"),
    ],
)
def test_labels_too_few_for_three_parts_are_refused_by_name(labels: list[int], words: str) -> None:
    with pytest.raises(DataError, match=f"^data=mine: .*{words}.* needs three at least"):
        splits.drawn(np.array(labels), (0.2, 0.2), np.random.default_rng(0), "mine")


@pytest.mark.parametrize("shares", [None, (0.16, 0.2)])
def test_a_task_says_that_its_labels_are_too_few(tmp_path: Path, shares: Any) -> None:
    rows = "".join(f"{i},{'ab'[i % 2] if i < 4 else ''},{i}.5\n" for i in range(9))
    files(tmp_path, nodes=f"id,label,x\n{rows}", edges="source,target\n0,1\n1,2\n")
    with pytest.raises(DataError, match=r"^data=own: label: the largest class has 2 "):
        NodeTask("own", tmp_path, "cpu", np.random.default_rng(0), shares)


def test_the_split_of_a_task_is_drawn_by_its_seed(tmp_path: Path) -> None:
    rows = "".join(f"{i},{i % 2},{i}.5\n" for i in range(20))
    links = "".join(f"{i},{(i + 1) % 20}\n" for i in range(20))
    files(tmp_path, nodes=f"id,label,x\n{rows}", edges=f"source,target\n{links}")
    drawn = [NodeTask("own", tmp_path, "cpu", np.random.default_rng(s)).parts["test"] for s in (0, 0, 1)]
    assert drawn[0].tolist() == drawn[1].tolist() != drawn[2].tolist() and len(drawn[0]) == 4


def test_a_given_split_of_links_is_kept(tmp_path: Path) -> None:
    links = [(i, j) for i in range(30) for j in range(i + 1, i + 4)]
    words = ["train"] * 70 + ["valid"] * 10 + ["test"] * 10
    text = "".join(f"{j},{i},{w}\n{i},{j},{w}\n" for (i, j), w in zip(links, words, strict=True))
    files(tmp_path, nodes="id\n" + "".join(f"{i}\n" for i in range(33)), edges=f"source,target,split\n{text}")
    task = LinkTask("own", tmp_path, "cpu", np.random.default_rng(0))
    assert {part: pairs.shape[1] for part, pairs in task.links.items()} == {
        "train": 70,
        "validation": 10,
        "test": 10,
    }
    assert sorted(map(tuple, task.links["test"].T.tolist())) == sorted(links[80:])
    assert task.negatives["test"].shape[1] == (33 * 32 // 2 - 90) // 2


def test_links_must_be_enough_for_three_parts(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has 3 links; needs 10 at least, for three parts"):
        nodes.linked(files(tmp_path, nodes=ROWS, edges=LINKS))


def test_planetoid_and_webkb_layouts(tmp_path: Path) -> None:
    write_planetoid(tmp_path, "mine")
    graph = nodes.classified(tmp_path)
    assert (graph.nodes, graph.edges) == (8, 4)
    assert {part: len(rows) for part, rows in (graph.split or {}).items()} == {
        "train": 2,
        "validation": 3,
        "test": 2,
    }
    folder = tmp_path / "film"
    folder.mkdir()
    (folder / NODES).write_text("node_id\tfeature\tlabel\n2\t5,0,5\t1\n0\t1\t0\n1\t0,3\t0\n")
    (folder / EDGES).write_text("node_id\tnode_id\n0\t1\n1\t0\n2\t2\n2\t1\n")
    film = nodes.classified(folder)
    assert film.features.toarray().tolist() == [
        [0, 1, 0, 0, 0, 0],
        [0.5, 0, 0, 0.5, 0, 0],
        [0.5, 0, 0, 0, 0, 0.5],
    ]
    assert film.labels.tolist() == [0, 0, 1] and film.edges == 2 and film.dropped["self loops"] == 1
    assert film.arcs is not None and film.arcs.toarray().tolist() == [[0, 1, 0], [1, 0, 0], [0, 1, 0]]
    assert graph.arcs is None, "Planetoid's lists of neighbours say each link at both ends"
    masks = {f"{part}_mask": np.arange(3) == i for i, part in enumerate(("train", "val", "test"))}
    np.savez(folder / "film_split_0.6_0.2_0.npz", **masks)
    assert {p: r.tolist() for p, r in (nodes.classified(folder).split or {}).items()} == {
        "train": [0],
        "validation": [1],
        "test": [2],
    }


def archive(folder: Path, **over: Any) -> None:
    """Four nodes and three arcs in the layout of node_features, node_labels and edges, with two splits."""
    arrays: dict[str, Any] = {
        "node_features": np.array([[1.0, 0], [0, 2], [3, 0], [0, 0]]),
        "node_labels": np.array([4, 2, 4, 2]),
        "edges": np.array([[0, 1], [1, 0], [2, 1], [3, 3]]),
    }
    for i, part in enumerate(("train", "val", "test")):
        arrays[f"{part}_masks"] = np.stack([np.arange(4) == i, np.arange(4) == 3 - i])
    np.savez(folder / "g.npz", **{k: v for k, v in {**arrays, **over}.items() if v is not None})


def test_graphs_in_one_archive(tmp_path: Path) -> None:
    archive(tmp_path)
    graph = nodes.classified(tmp_path)
    assert graph.arcs is not None and graph.arcs.toarray().tolist() == [
        [0, 1, 0, 0],
        [1, 0, 0, 0],
        [0, 1, 0, 0],
        [0, 0, 0, 0],
    ]
    assert (graph.edges, graph.labels.tolist(), graph.names) == (2, [1, 0, 1, 0], ("2", "4"))
    assert graph.features.tolist() == [[1, 0], [0, 2], [3, 0], [0, 0]]
    assert {part: rows.tolist() for part, rows in (graph.split or {}).items()} == {
        "train": [0],
        "validation": [1],
        "test": [2],
    }
    assert graph.dropped == {"self loops": 1, "repeated entries": 0, "further splits": 1}
    assert describe(graph).sizes["arcs"] == 3
    archive(tmp_path, train_masks=None, val_masks=None, test_masks=None)
    assert nodes.classified(tmp_path).split is None
    write_npz(tmp_path / "g.npz")
    graph = nodes.classified(tmp_path)
    assert (graph.name, graph.nodes, graph.per_class) == ("own", 6, (20, 30)) and graph.arcs is not None


@pytest.mark.parametrize(
    "over, message",
    [
        (
            {"node_labels": None},
            "cannot be read (node_labels); needs node_features",
        ),
        (
            {"node_features": np.full((4, 2), np.nan)},
            "node_features are float64 of shape (4, 2); must be finite",
        ),
        (
            {"node_labels": np.array([0, 1])},
            "node_labels are int64 of shape (2,); must be whole numbers from 0, of",
        ),
        (
            {"edges": np.array([[0, 9]])},
            "edges are int64 of shape (1, 2); must be whole numbers from 0 to 3, of",
        ),
        ({"node_labels": np.zeros(4, int)}, "all nodes are of one class"),
        (
            {"train_masks": np.zeros((2, 4), bool)},
            "train_masks has shape (2, 4); must be 0 and 1, (splits, 4)",
        ),
        ({"val_masks": None}, "val_masks has shape (0, 0); must be 0 and 1"),
    ],
)
def test_a_wrong_archive_is_one_line(tmp_path: Path, over: dict[str, Any], message: str) -> None:
    archive(tmp_path, **over)
    with pytest.raises(DataError) as told:
        nodes.classified(tmp_path)
    assert str(told.value).startswith("data=own: g.npz") and message in str(told.value)
    assert "\n" not in str(told.value)


def test_public_files_as_they_are_handed_around(data_dir: Path) -> None:
    texas, cora = data_dir / "webkb" / "texas", data_dir / "planetoid"
    if not texas.is_dir() or not cora.is_dir():
        pytest.skip("no webkb/texas or no planetoid in FAIRSWEEP_DATA_DIR")
    graph = nodes.classified(texas)
    assert (graph.nodes, graph.edges, graph.features.shape[1]) == (183, 279, 1703)
    assert np.bincount(graph.labels).tolist() == [33, 1, 18, 101, 30] and graph.dropped["self loops"] == 16
    assert graph.arcs is not None and graph.arcs.nnz > graph.edges
    parts = NodeTask("own", texas, "cpu", np.random.default_rng(0)).parts
    assert [len(parts[part]) for part in splits.PARTS] == [87, 59, 37]
    graph = nodes.classified(cora)
    assert (graph.nodes, graph.edges) == (2708, 5278)
    assert [len((graph.split or {})[part]) for part in splits.PARTS] == [140, 500, 1000]


# ---- sets of graphs ----

THREE = {
    "graphs": "id,label\n" + "".join(f"g{i},{'ab'[i % 2]}\n" for i in range(6)),
    "nodes": "graph,id,w\n" + "".join(f"g{i},{n},{n}.5\n" for i in reversed(range(6)) for n in "321"),
    "edges": "graph,source,target,type\n"
    + "".join(f"g{i},1,2,s\ng{i},3,2,d\ng{i},2,3,s\n" for i in range(6)),
}


def test_graphs_of_three_tables_and_of_one(tmp_path: Path) -> None:
    data = graphs.own(files(tmp_path, **THREE))
    assert len(data) == 6 and data.classes == 2 and data.names == ("a", "b")
    assert data.nodes.tolist() == [3] * 6 and data.edges.tolist() == [2] * 6
    # The nodes of a graph are numbered in the order of their rows: 3, 2, 1.
    assert data.ends[:, :2].T.tolist() == [[0, 1], [1, 2]] and data.types is not None
    assert [data.types[0], data.types[1]] == [0, 1] and data.edge_classes == 2
    assert data.x[:3, 0].argsort().tolist() == [2, 1, 0]
    parts = graph_split(data, np.random.default_rng(0))
    assert {part: sorted(data.labels[rows].tolist()) for part, rows in parts.items()} == {
        "train": [0, 1],
        "validation": [0, 1],
        "test": [0, 1],
    }
    folder = tmp_path / "one"
    folder.mkdir()
    rows = {
        "edge_index": [[[0, 1, 1, 2], [1, 0, 2, 1]]] * 6,
        "node_feat": [[[3.5], [2.5], [1.5]]] * 6,
        "y": [[0], [1]] * 3,
        "split": ["train", "train", "val", "val", "test", "test"],
    }
    pq.write_table(pa.table(rows), folder / "graphs.parquet")
    found = graphs.own(folder)
    assert (found.ends == data.ends).all() and (found.labels == data.labels).all()
    np.testing.assert_allclose(found.x, data.x)
    parts = graph_split(found, np.random.default_rng(0))
    assert {part: rows.tolist() for part, rows in parts.items()} == {
        "train": [0, 1],
        "validation": [2, 3],
        "test": [4, 5],
    }
    about = describe(found)
    assert about.parts == {"train": 2, "validation": 2, "test": 2} and about.leaks


def test_tu_text_of_any_name(tmp_path: Path) -> None:
    write_tu(tmp_path)
    with pytest.raises(DataError, match="needs three at least, one for each part"):
        graphs.own(tmp_path)
    folder = tmp_path / "mine"
    folder.mkdir()
    lines = {
        "A": [f"{3 * g + a}, {3 * g + b}" for g in range(6) for a, b in ((1, 2), (2, 1), (2, 3))],
        "graph_indicator": [str(g + 1) for g in range(6) for _ in range(3)],
        "graph_labels": ["-1", "1"] * 3,
        "node_labels": ["7", "9", "7"] * 6,
    }
    for file, rows in lines.items():
        (folder / f"MY_SET_{file}.txt").write_text("\n".join(rows) + "\n")
    data = graphs.own(folder)
    assert data.names == ("-1", "1") and data.edges.tolist() == [2] * 6 and data.x.shape == (18, 2)
    parts = graph_split(data, np.random.default_rng(0))
    assert [len(parts[part]) for part in splits.PARTS] == [2, 2, 2]


# ---- what is wrong ----

GRAPH = {"nodes": ROWS, "edges": LINKS}


def bad(replace: dict[str, tuple[str, str]], base: dict[str, str] = GRAPH) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        texts = {name: text.replace(*replace.get(name, ("", ""))) for name, text in base.items()}
        files(folder, **{name: text for name, text in texts.items() if text})

    return write


def webkb(node: str = "1\t0,3\t0", edge: str = "0\t1") -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / NODES).write_text(f"node_id\tfeature\tlabel\n0\t1\t0\n{node}\n2\t1\t1\n")
        (folder / EDGES).write_text(f"node_id\tnode_id\n{edge}\n")

    return write


def parquet(**columns: Any) -> Callable[[Path], None]:
    rows = {"edge_index": [[[0], [1]]] * 6, "num_nodes": [2] * 6, "label": ["a", "b"] * 3, **columns}
    return lambda folder: pq.write_table(
        pa.table({k: v for k, v in rows.items() if v is not None}), folder / "graphs.parquet"
    )


NODE_FAULTS = {
    "nothing": (lambda folder: None, "holds nothing; needs nodes.csv and edges.csv"),
    "no edges": (bad({"edges": (LINKS, "")}), "has nodes.csv and no edges.csv or edges.parquet"),
    "no label": (bad({"nodes": ("label", "class")}), "nodes.csv has no column 'label'; it has id, class"),
    "no target": (bad({"edges": ("target", "to")}), "edges.csv has no column 'target'; it has source, to"),
    "id twice": (bad({"nodes": ("b,y", "a,y")}), "nodes.csv, line 3: column 'id' has 'a' again; each must"),
    "no id": (bad({"nodes": ("b,y", ",y")}), "nodes.csv, line 3: column 'id' has no value, needs one"),
    "unknown end": (
        bad({"edges": ("d,e", "d,z")}),
        "edges.csv, line 6: column 'target' has 'z', which is no id",
    ),
    "word for number": (
        bad({"nodes": ("3.5", "old")}),
        "nodes.csv, line 4: column 'age' has 'old', must be a finite",
    ),
    "nan": (
        bad({"nodes": ("3.5", "nan")}),
        "nodes.csv, line 4: column 'age' has 'nan', must be a finite number",
    ),
    "no number": (bad({"nodes": ("3.5", "")}), "nodes.csv, line 4: column 'age' has no value, must be"),
    "one class": (bad({"nodes": (",y,", ",x,")}), "column 'label' has 1 class, 'x'; needs two at least"),
    "wrong part": (
        bad({"nodes": ("val", "dev2")}),
        "line 4: column 'split' has 'dev2', must be train, validation",
    ),
    "empty part": (
        bad({"nodes": ("val", "train")}),
        "column split: the validation part is empty; needs all of",
    ),
    "no label in part": (
        bad({"nodes": ("d,y", "d,")}),
        "nodes.csv, line 5: is in the test part and has no label",
    ),
    "ragged": (
        bad({"nodes": ("c,x,3.5,val", "c,x,3.5")}),
        "nodes.csv is not a CSV file (CSV parse error: Row #4: Expected 4",
    ),
    "header only": (bad({"edges": (LINKS, "source,target\n")}), "edges.csv has no rows below its header"),
    "loops only": (bad({"edges": (LINKS, "source,target\na,a\n")}), "no link between two different nodes"),
    "two formats": (
        lambda folder: (bad({})(folder), (folder / "nodes.parquet").write_text("")),
        "has nodes.csv and nodes.parquet; take one of them away",
    ),
    "no parquet": (
        lambda folder: (bad({"nodes": (ROWS, "")})(folder), (folder / "nodes.parquet").write_text("x")),
        "nodes.parquet is not a Parquet file",
    ),
    "short features": (
        lambda folder: (
            bad({"nodes": (ROWS, "id,label\na,x\nb,y\n")}, {**GRAPH, "edges": "source,target\na,b\n"})(
                folder
            ),
            np.savez(folder / "features.npz", x=np.zeros((3, 2))),
        ),
        "features.npz has float64 of shape (3, 2); must be numbers, one row for each of the 2 rows of nodes.csv",
    ),
    "features twice": (
        lambda folder: (bad({})(folder), np.savez(folder / "features.npz", x=np.zeros((5, 2)))),
        "nodes.csv has the column 'age' of features and",
    ),
    "beyond single precision": (
        lambda folder: (
            bad({"nodes": (ROWS, "id,label\na,x\nb,y\n")}, {**GRAPH, "edges": "source,target\na,b\n"})(
                folder
            ),
            np.savez(folder / "features.npz", x=np.array([[0, 1], [0, 1e39]])),
        ),
        "features.npz, row 2, column 2: is not a finite number in single precision",
    ),
    "nested column": (
        lambda folder: (
            bad({"nodes": (ROWS, "")})(folder),
            pq.write_table(pa.table({"id": [["a"]], "label": ["x"]}), folder / "nodes.parquet"),
        ),
        "nodes.parquet: column 'id' is of type list<element: string>; must be numbers, texts",
    ),
    "webkb cells": (webkb("1\t0,3"), f"{NODES}, line 3: has 2 cells, must be 3 with tabs"),
    "webkb feature": (
        webkb("1\t0,x\t0"),
        f"{NODES}, line 3: a feature is 'x', must be a whole number from 0",
    ),
    "webkb id": (webkb("0\t0\t0"), f"{NODES}, line 3: the id 0 is there again or leaves a gap"),
    "webkb end": (webkb(edge="0\t9"), f"{EDGES}, line 2: 9 is no id of {NODES}, which are 0 to 2"),
}
MASKED = "id,label,train_mask,val_mask,test_mask\na,x,1,{},0\nb,y,0,1,0\nc,y,0,0,1\n"
NODE_FAULTS |= {
    "two masks": (
        bad({}, {"nodes": MASKED.format(1), "edges": "source,target\na,b\n"}),
        "nodes.csv, line 2: column 'val_mask' says yes, and so does that of train",
    ),
    "mask of words": (
        bad({}, {"nodes": MASKED.format("maybe"), "edges": "source,target\na,b\n"}),
        "nodes.csv, line 2: column 'val_mask' has 'maybe', must be true or false, or 1 or 0",
    ),
}

SET_FAULTS = {
    "nothing": (lambda folder: None, "holds nothing; needs graphs.csv, nodes.csv and edges.csv"),
    "no nodes": (
        bad({"nodes": (THREE["nodes"], "")}, THREE),
        "has graphs.csv and no nodes.csv or nodes.parquet",
    ),
    "unknown graph": (
        bad({"nodes": ("g5,3", "g9,3")}, THREE),
        "nodes.csv, line 2: column 'graph' has 'g9', which is",
    ),
    "node twice": (bad({"nodes": ("g5,2", "g5,3")}, THREE), "nodes.csv, line 3: the node '3' is there again"),
    "bare graph": (bad({"graphs": ("g5,b", "g5,b\ng6,a")}, THREE), "nodes.csv has no node of the graph 'g6'"),
    "unknown node": (
        bad({"edges": ("g0,3", "g0,7")}, THREE),
        "edges.csv, line 3: column 'source' has '7', which is no",
    ),
    "one class": (
        bad({"graphs": (",b", ",a")}, THREE),
        "column 'label' has 1 class, 'a'; needs two at least",
    ),
    "rare class": (
        bad({"graphs": ("g5,b", "g5,c")}, THREE),
        "the class c has 1 graphs; needs three at least",
    ),
    "no label": (parquet(label=None), "graphs.parquet has no column 'label'; it has edge_index, num_nodes"),
    "no nodes told": (parquet(num_nodes=None), "graphs.parquet, row 1: needs node_feat or num_nodes"),
    "beyond": (
        parquet(num_nodes=[2, 1, 2, 2, 2, 2]),
        "row 2: edge_index names the node 1 and the graph has 1",
    ),
    "not two lists": (
        parquet(edge_index=[[[0, 1]]] * 6),
        "row 1: edge_index has shape (1, 2); must be two lists",
    ),
    "ragged features": (
        parquet(node_feat=[[[1.0], [1.0, 2.0]]] * 6),
        "row 1: node_feat must be lists of numbers of one",
    ),
    "widths differ": (
        parquet(node_feat=[[[1.0], [1.0]]] * 5 + [[[1.0, 2.0]] * 2]),
        "node_feat has rows of 1, 2 numbers in 6 of 6 graphs; must be as many in all of them",
    ),
    "nan": (
        parquet(node_feat=[[[float("nan")], [1.0]]] * 6),
        "row 1: node_feat has a number that is not finite",
    ),
}


@pytest.mark.parametrize(
    "load, write, message",
    [
        pytest.param(load, *fault, id=f"{kind}: {name}")
        for kind, load, faults in (("nodes", nodes.classified, NODE_FAULTS), ("set", graphs.own, SET_FAULTS))
        for name, fault in faults.items()
    ],
)
def test_what_is_wrong_is_one_line_that_says_where(
    tmp_path: Path, load: Any, write: Any, message: str
) -> None:
    write(tmp_path)
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    assert str(caught.value).startswith("data=own: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_columns_that_are_not_named_are_counted() -> None:
    assert tables.listed(["id", "class"]) == "id, class"
    assert tables.listed(f"f{i}" for i in range(13)).endswith(", f9 and 3 more")
