"""How a search scores what it proposes: statistics from training images, and tables in place of networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from cluster.cli import run_cli
from cluster.weights import Shelf
from search_spaces.supernets.normalisation import recalibrate
from tests.cluster.test_nas import SMALL, Engine
from trainables.tasks.small_images import Reduction, SmallImageTask

torch.set_num_threads(1)


def scores(engine: Engine) -> list[float]:
    return [row["score"] for row in engine.architectures()]


# ---- statistics from training images ----


@torch.no_grad()
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
            logits = recalibrate(net.extract(path), [data.calibration(40)])(x)
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


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("search.recalibrate=1", "search.recalibrate=1: must be a whole number of at least 2"),
        ("search.recalibrate=some", "search.recalibrate=some"),
        ("search.recalibrate=101", "search.recalibrate=101: must be at most 100, the training images"),
    ],
)
def test_a_scoring_that_cannot_be_is_refused_in_one_line(
    word: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(["nas", *SMALL, word, f"storage={tmp_path / 'store'}"]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "store").exists()
