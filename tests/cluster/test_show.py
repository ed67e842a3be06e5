"""`fairsweep show --plot`: the same store, as plots."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fairsweep.cluster.cli import run_cli
from tests.cluster.test_conductor import engine


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
    shares = out.partition("importance at the end of training, of 25 configurations\n")[2].splitlines()
    assert shares[0].startswith("y ") and len(shares) == 3
    assert "\x1b" not in out and max(map(len, out.splitlines())) <= 100
    assert run_cli(["show", "s", "--plot", "--by", "cost", "--storage", str(stores["one"])]) == 0
    assert "over minutes of training" in capsys.readouterr().out


def test_plots_of_several_objectives_have_the_front(
    stores: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(["show", "s", "--plot", "--storage", str(stores["two"])]) == 0
    out = capsys.readouterr().out
    assert (
        "size (min) over val_loss (min)" in out and "on the front" in out and "front: configurations" in out
    )


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
