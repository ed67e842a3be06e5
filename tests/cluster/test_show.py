"""`fairsweep show --plot`: the same store, as plots."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from fairsweep.analysis.store import Store
from fairsweep.cluster.cli import run_cli
from tests.analysis.test_answering import rows
from tests.cluster.test_conductor import engine

OWN = """import fairsweep

@fairsweep.trainable(space={"lr": (0.0, 1.0), "b": (0.0, 1.0)}, metric="loss", mode="min")
def train(config, trial):
    trial.report(loss=(config["lr"] - 0.3) ** 2)
"""


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    engine(one, "trainable=test_trivial", "search=random", "budget.trials=25").run()
    engine(two, "trainable=test_trade", "metric=[val_loss,size]", "budget.trials=6").run()
    return {"one": one, "two": two}


def test_plots_of_one_objective_have_the_best_so_far_and_importance(
    stores: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(["show", "s", "--plot", "--storage", str(stores["one"])]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "s: A quadratic bowl on bowl, finished, 25 reports\nval_loss (min) over trials that have"
    )
    shares = out.partition("25 configurations compared at the end of training\n")[2].splitlines()
    assert shares[0].startswith("y ") and len(shares) == 3
    assert "\x1b" not in out and max(len(line) for line in out.splitlines() if "│" in line) <= 100
    assert run_cli(["show", "s", "--plot", "--by", "cost", "--storage", str(stores["one"])]) == 0
    assert "over minutes of training" in capsys.readouterr().out


def test_the_importance_of_what_no_paper_has_a_value_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A space of one's own has no values of a paper; it was refused as no space."""
    (tmp_path / "train.py").write_text(OWN)
    own = ["search=random", "budget.trials=25"]
    engine(tmp_path / "store", f"trainable={tmp_path / 'train.py'}:train", *own).run()
    assert run_cli(["importance", "s", "--storage", str(tmp_path / "store"), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["objectives"]
    assert found["importance"][0]["parameter"] == "lr"


def test_plots_of_several_objectives_have_the_front(
    stores: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(["show", "s", "--plot", "--storage", str(stores["two"])]) == 0
    out = capsys.readouterr().out
    assert (
        "size (min) over val_loss (min)" in out and "on the front" in out and "front: configurations" in out
    )


def test_a_comparison_is_its_answer_its_methods_and_their_pairs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, (3, 2, 6))
    scores = noise + np.array([0.9, 0.7, 0.6])[:, None, None]
    Store(tmp_path).write_derived("comparisons", "x", rows(scores))
    assert run_cli(["show", "x", "--plot", "--storage", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    table, _, drawn = out.partition("\ntest_accuracy (max), mean and 95 % interval over repeats\n")
    assert "answer   m0 is best: ahead of m1, the next, by " in table and "p (Holm)" in table
    assert [line.split()[0] for line in drawn.splitlines()[:3]] == ["m0", "m1", "m2"]
    assert [line.index("●") for line in drawn.splitlines()[:3]] == sorted(
        (line.index("●") for line in drawn.splitlines()[:3]), reverse=True
    )
    assert run_cli(["show", "x", "--json", "--storage", str(tmp_path)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["answer"]["sentence"] in table and len(said["rows"]) == 36
    assert run_cli(["show", "y", "--storage", str(tmp_path)]) == 2
    assert "has no such sweep" in capsys.readouterr().err


def test_of_many_methods_the_pairs_of_the_leading_one_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twenty methods have 190 pairs, which nobody reads in a terminal; ties have no sign."""
    scores = np.linspace(0.9, 0.6, 7)[:, None, None] + np.zeros((7, 1, 6))
    scores[1] = scores[0]
    Store(tmp_path).write_derived("comparisons", "x", rows(scores))
    assert run_cli(["show", "x", "--storage", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "pairs    of 21 those of m0; `fairsweep report x` and --json have all" in out
    pairs = out[out.index("better") : out.index("pairs ")].splitlines()[2:]
    assert len([line for line in pairs if line.split()]) == 6 and "-0" not in out
    assert run_cli(["show", "x", "--json", "--storage", str(tmp_path)]) == 0
    assert len(json.loads(capsys.readouterr().out)["answer"]["pairs"]) == 21


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--by", "cost"], "--by=cost: is for --plot"),
        (["--plot", "--json"], "--plot: is for people; --json has the values"),
        (
            ["--plot"],
            "--plot: plots: need a package to be drawn: pip install 'fairsweep[terminal]' (uniplot)",
        ),
    ],
)
def test_bad_input_is_one_line(
    stores: dict[str, Path], words: list[str], said: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, "uniplot", None)
    assert run_cli(["show", "s", *words, "--storage", str(stores["one"])]) == 2
    assert capsys.readouterr().err == f"fairsweep: error: {said}\n"
