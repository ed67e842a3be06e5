"""Searches over every kind of supernet: trained, scored, retrained, drawn and exported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fairsweep.cluster.cli import run_cli
from fairsweep.cluster.engine.weights import Shelf
from fairsweep.search_spaces.supernets.export import load_network, load_program
from tests.cluster.test_nas import SMALL, Engine

torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("kind", "strategy", "algorithm"),
    [
        ("mbconv", "sandwich", "nsga2"),
        pytest.param("nasnet", "pada", "evolution", marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("files")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_a_search_goes_through_all_its_phases(
    kind: str, strategy: str, algorithm: str, tmp_path: Path
) -> None:
    words = (f"supernet={kind}", f"algorithm={algorithm}", f"algorithm.strategy={strategy}", "train.steps=2")
    engine = Engine(tmp_path, *words, "search.recalibrate=50", "retrain.seeds=1")
    engine.run()
    trials, rows = engine.trials(), engine.architectures()
    assert [t["config.phase"] for t in trials] == ["train", "score", "score", "retrain"]
    assert all(t["state"] == "complete" for t in trials)
    recipe = Shelf(engine.store.uri).recipe(engine.search.key)
    assert (recipe["kind"], recipe["config"]["strategy"]) == (kind, strategy)
    space, supernet = engine.search.space, engine.search.supernet
    assert len(rows) == 6 and any(row["on_front"] for row in rows)
    for row in rows:
        path = space.parse(row["architecture"])
        assert row["flops"] == supernet.cost(path, "flops") and row["scored_by"] == f"supernet, {strategy}"
        assert row["space"] == space.id == supernet.space.id and space.id.startswith(f"{kind}/")
    (alone,) = (row for row in rows if row["alone"] is not None)
    folder = Path(alone["folder"])
    assert "<svg" in (folder / "architecture.svg").read_text()
    assert json.loads((folder / "recipe.json").read_text())["architecture"] == alone["architecture"]
    x = torch.randint(17, (5, *supernet.input_shape), dtype=torch.uint8)
    with torch.no_grad():
        logits = load_network(folder)(x)
        torch.testing.assert_close(load_program(folder)(x), logits, atol=1e-5, rtol=0)
    assert logits.shape == (5, 10)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("supernet=mbconv algorithm.strategy=pada", "strategy=pa (or pada): options of mbconv/"),
        ("supernet=mbconv algorithm.strategy=fairnas", "have [4, 5] options; must be equal"),
        ("supernet=nasnet algorithm.strategy=sumnas", "have [1, 2, 3, 5] options; must be equal"),
        ("supernet=nasnet algorithm.strategy=sandwich", "normal.b0.in1"),
        ("supernet=nasnet supernet.size=paper", "supernet.size=paper: has cells of 5 blocks; must be of at most 3"),
    ],
)  # fmt: skip
def test_strategies_that_make_no_sense_in_a_space_are_refused_in_one_line(
    words: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(["nas", *SMALL, *words.split(), f"storage={tmp_path / 'store'}"]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("words", [("mbconv", "da"), ("nasnet", "pa"), ("nasnet", "da")])
def test_other_strategies_that_make_sense_train_a_supernet(words: tuple[str, str], tmp_path: Path) -> None:
    kind, strategy = words
    engine = Engine(
        tmp_path, f"supernet={kind}", f"algorithm.strategy={strategy}", "search.evaluations=2", "retrain.top=0"
    )  # fmt: skip
    engine.run()
    assert len(engine.architectures()) == 2 and Shelf(engine.store.uri).has(engine.search.key)
