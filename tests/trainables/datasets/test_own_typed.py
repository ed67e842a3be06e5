"""Graphs of several types: HeCo's folders, tables of one's own, and what is wrong with either is one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp

from fairsweep.trainables.base import DataError
from fairsweep.trainables.datasets import films, heterogeneous
from fairsweep.trainables.datasets.describe import describe
from fairsweep.trainables.datasets.own import typed
from fairsweep.trainables.tasks.heterogeneous import HeteroTask, split

NODES = (
    "id,type,label,split\na,film,x,train\nb,film,y,train\nc,film,x,val\nd,film,y,test\n"
    "e,film,,\np,actor,,\nq,actor,,\nr,city,,\n"
)
LINKS = "source,target\na,p\nb,p\nq,b\nc,q\na,p\np,r\nq,r\n"


def files(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (folder / f"{name}.csv").write_text(text)
    return folder


def test_tables_of_nodes_of_several_types(tmp_path: Path) -> None:
    graph = typed.own(
        files(tmp_path, nodes=NODES, edges=LINKS, features_film="id,n\nb,2\na,1\nc,3\ne,5\nd,4\n")
    )
    assert (graph.target, graph.nodes, graph.classes, graph.names) == ("film", 5, 2, ("x", "y"))
    assert graph.labels.tolist() == [0, 1, 0, 1, -1]
    np.testing.assert_allclose(graph.features["film"].ravel() * np.sqrt(2), [-2, -1, 0, 1, 2], atol=1e-6)
    assert sp.issparse(graph.features["actor"]) and graph.features["city"].shape == (1, 1)
    [path] = graph.paths
    assert path.name == "film-actor-film"
    expected = [[1, 1, 0, 0, 0], [1, 2, 1, 0, 0], [0, 1, 1, 0, 0], [0] * 5, [0] * 5]
    assert path.counts.toarray().tolist() == expected
    assert {part: nodes.tolist() for part, nodes in graph.splits[1].items()} == {
        "train": [0, 1],
        "validation": [2],
        "test": [3],
    }
    about = describe(graph)
    assert about.sizes["nodes"] == {"film": 5, "actor": 2, "city": 1} and about.parts["test"] == 1
    assert about.sizes["nodes that a path joins to no other"] == {"film-actor-film": 2}


def test_a_long_path_counts_its_instances_and_knows_what_lies_between(tmp_path: Path) -> None:
    files(tmp_path, nodes=NODES, edges=LINKS, paths="path\nfilm-actor-city-actor-film\n")
    [path] = typed.own(tmp_path).paths
    assert [kind for kind, _ in path.contexts] == ["actor", "city", "actor"]
    actor = np.array([[1, 0], [1, 1], [0, 1], [0, 0], [0, 0]])
    city = np.array([[1], [1]])
    np.testing.assert_array_equal(path.contexts[0][1].toarray(), actor)
    np.testing.assert_array_equal(path.contexts[1][1].toarray(), actor @ city)
    np.testing.assert_array_equal(path.contexts[2][1].toarray(), actor @ city @ city.T)
    np.testing.assert_array_equal(path.counts.toarray(), actor @ city @ city.T @ actor.T)


def test_parquet_says_the_same(tmp_path: Path) -> None:
    rows = [line.split(",") for line in NODES.split()]
    columns = {name: [row[i] or None for row in rows[1:]] for i, name in enumerate(rows[0])}
    pq.write_table(pa.table(columns), tmp_path / "nodes.parquet")
    found = typed.own(files(tmp_path, edges=LINKS))
    assert found.labels.tolist() == [0, 1, 0, 1, -1] and found.paths[0].counts.nnz == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update(nodes="id,type\na,x\n"), r"nodes.csv has no column 'label'"),
        (
            lambda t: t.update(nodes=NODES + "z,actor,x,\n"),
            r"line 10: is a 'actor' with a label, and 'film' have",
        ),
        (lambda t: t.update(nodes=NODES + "z,,,\n"), r"line 10: column 'type' has no value, needs a type"),
        (
            lambda t: t.update(nodes=NODES + "z,a-b,,\n"),
            r"line 10: column 'type' has 'a-b', which has a hyphen",
        ),
        (
            lambda t: t.update(nodes=NODES + "z,city,,test\n"),
            r"line 10: is in the test part and has no label",
        ),
        (
            lambda t: t.update(edges=LINKS + "a,zz\n"),
            r"edges.csv, line 9: column 'target' has 'zz', which is no id",
        ),
        (lambda t: t.pop("edges"), r"has nodes.csv and no edges.csv"),
        (lambda t: t.update(edges="source,target\np,r\n"), r"edges join no 'film' to anything"),
        (
            lambda t: t.update(features_city="id,n\na,1\n"),
            r"features_city.csv, line 2: column 'id' has 'a', which is",
        ),
        (lambda t: t.update(features_actor="id,n\np,1\n"), r"features_actor.csv has no row for 'q'"),
        (lambda t: t.update(features_city="id,n\nr,x\n"), r"line 2: column 'n' has 'x', must be a"),
        (lambda t: t.update(features_city="id\nr\n"), r"features_city.csv has no column beside id"),
        (
            lambda t: t.update(paths="path\nactor-film-actor\n"),
            r"paths.csv, line 2: .*must lead from 'film' over",
        ),
        (
            lambda t: t.update(paths="path\nfilm-city-film\n"),
            r"paths.csv, line 2: .*no edge joins 'film' and 'city'",
        ),
    ],
)
def test_what_is_wrong_is_one_line_that_says_where(
    tmp_path: Path, change: Callable[[dict[str, str]], object], message: str
) -> None:
    texts = {"nodes": NODES, "edges": LINKS}
    change(texts)
    with pytest.raises(DataError, match=message) as error:
        typed.own(files(tmp_path, **texts))
    assert "\n" not in str(error.value) and str(error.value).startswith("data=own: ")


# ---- HeCo's layout ----

WRITES = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1], [1, 0, 1]], np.float32)
ABOUT = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [0, 1], [1, 0]], np.float32)


def write_heco(folder: Path, pickled: bool = False) -> Path:
    """Six papers, three authors, two subjects; subjects have no features."""
    for name, way in (("a", WRITES), ("s", ABOUT)):
        sp.save_npz(folder / f"p{name}p.npz", sp.coo_matrix(way @ way.T))
        if pickled:
            np.savetxt(folder / f"p{name}.txt", np.argwhere(way), fmt="%d", delimiter="\t")
        else:
            sp.save_npz(folder / f"nei_{name}.npz", sp.coo_matrix(way))
    if pickled:
        lists = np.empty(6, object)
        lists[:] = [np.flatnonzero(row) for row in WRITES]
        np.save(folder / "nei_a.npy", lists, allow_pickle=True)
    sp.save_npz(folder / "p_feat.npz", sp.csr_matrix(np.eye(6, 4, dtype=np.float32) * 2 + 1))
    sp.save_npz(folder / "a_feat.npz", sp.csr_matrix(np.ones((3, 4))))
    np.save(folder / "labels.npy", np.array([0, 0, 1, 1, 1, 0], float))  # as ACM's are
    for number, parts in ((20, ([0, 2], [1, 3], [4, 5])), (40, ([0, 1, 2, 3], [4], [5]))):
        for stem, nodes in zip(("train", "val", "test"), parts, strict=True):
            np.save(folder / f"{stem}_{number}.npy", np.array(nodes))
    return folder


@pytest.mark.parametrize("pickled", [False, True])
def test_a_folder_of_heco(tmp_path: Path, pickled: bool) -> None:
    graph = typed.own(write_heco(tmp_path, pickled))
    assert (graph.target, graph.nodes, graph.classes) == ("p", 6, 2)
    assert [path.name for path in graph.paths] == ["p-a-p", "p-s-p"]
    for path, way in zip(graph.paths, (WRITES, ABOUT), strict=True):
        np.testing.assert_array_equal(path.counts.toarray(), way @ way.T)
        np.testing.assert_array_equal(path.contexts[0][1].toarray(), way)
    np.testing.assert_allclose(graph.features["p"].sum(1), 1, rtol=1e-6)
    np.testing.assert_array_equal(graph.features["s"].toarray(), np.eye(2))
    rng = np.random.default_rng(0)
    assert split(graph, 40, rng)["train"].tolist() == [0, 1, 2, 3]
    assert split(graph, 60, rng)["test"].tolist() == [4, 5], "the first there is"
    data = HeteroTask("own", tmp_path, "cpu", rng)
    assert data.inputs == {"p": 4, "a": 4, "s": 2} and data.members().shared() is None


def test_ways_of_five_types_and_features_of_each_path(tmp_path: Path) -> None:
    """As DBLP's folder has them, and the walks of Aminer's."""
    write_heco(tmp_path)
    for stem in ("pap", "psp", "nei_s"):
        (tmp_path / f"{stem}.npz").unlink()
    way = WRITES @ np.ones((3, 2), np.float32)
    sp.save_npz(tmp_path / "pacap.npz", sp.coo_matrix(way @ way.T))
    np.savetxt(tmp_path / "ca.txt", np.argwhere(np.ones((2, 3))), fmt="%d")
    [path] = typed.own(tmp_path).paths
    assert [kind for kind, _ in path.contexts] == ["a", "c", "a"]
    np.testing.assert_array_equal(path.contexts[1][1].toarray(), way)
    np.testing.assert_array_equal(path.contexts[2][1].toarray(), way @ np.ones((2, 3)))
    (tmp_path / "p_feat.npz").unlink()
    np.save(tmp_path / "feat_p_pacap.w10.npy", np.full((6, 2), 7.0))
    graph = typed.own(tmp_path)
    assert graph.paths[0].features is not None and (graph.features["p"] == 7).all()


def replace(name: str, value: np.ndarray) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        if name.endswith(".npz"):
            sp.save_npz(folder / name, sp.csr_matrix(value))
        else:
            np.save(folder / name, value)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replace("labels.npy", np.zeros(6, int)), "labels.npy has one class"),
        (
            replace("labels.npy", np.zeros((6, 2))),
            "labels.npy must hold whole numbers from 0, the class of each",
        ),
        (replace("pap.npz", np.eye(5)), r"pap.npz is 5 x 5; must be \(6, 6\)"),
        (replace("psp.npz", -np.eye(6)), "psp.npz has -1; counts must be 0 or more"),
        (replace("nei_a.npz", np.eye(5)), r"nei_a.npz is 5 x 5; must be \(6, 'any'\)"),
        (replace("aaa.npz", np.eye(6)), "the meta-paths aaa, pap, psp; must begin with one type"),
        (replace("a_feat.npz", np.eye(4)), "features of type 'a' have 4 rows; .* has 3 such nodes"),
        (replace("labels.npy", np.arange(6) / 2), "labels.npy must hold whole numbers from 0, the class"),
        (replace("test_20.npy", np.array([9])), "test_20.npy has node 9; there are 6"),
        (replace("test_20.npy", np.array([1])), "node 1 is in .*_20.npy and in test_20.npy"),
        (
            lambda folder: np.save(folder / "val_20.npy", np.load(folder / "train_20.npy")),
            "is in train_20.npy and in val_20.npy",
        ),
        (lambda folder: (folder / "val_40.npy").unlink(), "has train_40.npy and no val_40.npy"),
        (lambda folder: (folder / "nei_a.npz").unlink(), "has neither nei_pa.npz, nei_a.npz nor pa.txt"),
        (lambda folder: (folder / "pap.npz").write_text("no"), "pap.npz cannot be read as an array"),
        (
            lambda folder: (folder / "labels.npy").unlink(),
            "holds a_feat.npz, .*; needs nodes.csv with id, type",
        ),
    ],
)
def test_a_damaged_folder_of_heco_is_one_line(
    tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    change(write_heco(tmp_path))
    with pytest.raises(DataError, match=message) as error:
        typed.own(tmp_path)
    assert "\n" not in str(error.value) and str(error.value).startswith("data=own: ")


def test_a_named_set_must_be_that_one(tmp_path: Path) -> None:
    write_heco(tmp_path)
    with pytest.raises(
        DataError, match=r"data=acm: .* has the paths pap, psp over .*'p': 6.*data=own reads any"
    ):
        heterogeneous.heco("acm", tmp_path)
    with pytest.raises(DataError, match=r"data=dblp: data_dir is None; give the folder with labels.npy"):
        heterogeneous.heco("dblp", None)


def test_the_generator_has_the_homophily_it_is_given() -> None:
    graph = heterogeneous.bibliography(papers=2000, seed=1)
    author = graph.paths[0].contexts[0][1]
    assert set(author.getnnz(1)) <= {1, 2, 3} and graph.features["paper"].shape == (2000, 24)
    a, b = heterogeneous.synthetic_bibliography(), heterogeneous.bibliography()
    assert (a.paths[1].counts != b.paths[1].counts).nnz == 0
    # Two papers of one subject are of one class with probability .8^2 + ... : each is with .8 + .2/4 of the subject's.
    counts = graph.paths[1].counts.tocoo()
    apart = counts.row != counts.col
    same = (graph.labels[counts.row[apart]] == graph.labels[counts.col[apart]]).mean()
    assert same == pytest.approx(0.85**2 + 3 * 0.05**2, abs=0.03)


def test_films_of_the_knowledge_graph() -> None:
    try:
        graph = films.films()
    except DataError as error:
        if "cannot fetch" not in str(error):
            raise
        pytest.skip(str(error))
    assert np.bincount(graph.labels + 1).tolist() == [565, 116, 307, 608]
    # Films of one director are of one genre more often than any two are (.45).
    counts = graph.paths[1].counts.tocoo()
    pairs = (counts.row != counts.col) & (graph.labels[counts.row] >= 0) & (graph.labels[counts.col] >= 0)
    assert (graph.labels[counts.row[pairs]] == graph.labels[counts.col[pairs]]).mean() > 0.7
    assert [path.name for path in graph.paths] == [f"film-{kind}-film" for kind in films.BETWEEN]
    actors = graph.paths[0].contexts[0][1]
    assert actors.shape == (1596, 5995) and actors.getnnz(0).min() == 2
    assert films.GENRE not in (*films.BETWEEN.values(), *(f"film.film.{name}" for name in films.DESCRIBING))
    parts = split(graph, 20, np.random.default_rng(0))
    assert len(parts["train"]) == 60 and (graph.labels[parts["test"]] >= 0).all()
