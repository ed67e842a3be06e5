"""What a trainable of one's own may do while it runs, and what becomes of it."""

from __future__ import annotations

import io
import json
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fairsweep.cluster import config
from fairsweep.cluster.cli import run_cli
from fairsweep.cluster.engine.post import Post
from fairsweep.cluster.engine.trial import Leg
from fairsweep.cluster.engine.worker import LegRunner
from fairsweep.trainables.own import known, loading
from tests.cluster.test_conductor import engine, trials
from tests.cluster.test_own import folder, own, results, write
from tests.cluster.test_own_bad_input import HEAD, MINE, run_once

__all__ = ["folder"]


@pytest.fixture(autouse=True)
def leave() -> Iterator[None]:
    yield
    loading.enter(None)


def rows(report: dict[str, Any]) -> list[dict[str, float]]:
    return [row["metrics"] for row in report["rows"]]


def test_numbers_of_every_kind_are_taken(tmp_path: Path) -> None:
    body = """
    import numpy, torch, fractions
    trial.report(val_loss=numpy.float32(0.5), a=numpy.int64(3), b=numpy.array(2.0),
        c=torch.ones((), requires_grad=True))
    trial.report({"val/loss": fractions.Fraction(1, 4)}, val_loss=1)
    trial.report(0.125)
    return 0.0625
    """
    report = run_once(tmp_path, body.strip().replace("\n    ", "\n"))
    assert rows(report) == [
        {"val_loss": 0.5, "a": 3.0, "b": 2.0, "c": 1.0},
        {"val/loss": 0.25, "val_loss": 1.0},
        {"val_loss": 0.125},
        {"val_loss": 0.0625},
    ]


def test_test_metrics_are_those_of_the_best_step(tmp_path: Path) -> None:
    body = "for v, t in ((0.5, 0.1), (0.25, 0.2), (0.75, 0.3)): trial.report(val_loss=v, test_acc=t)"
    body += "\nreturn {'test_size': 7}"
    report = run_once(tmp_path, body, ", test=['test_acc', 'test_size']")
    assert report["status"] == "complete" and report["test"] == {"test_acc": 0.2, "test_size": 7.0}
    assert len(report["rows"]) == 3  # test metrics alone are no step


def test_what_comes_after_the_last_step_of_the_budget(tmp_path: Path) -> None:
    body = "for k in range(9): trial.report(val_loss=1 / (1 + k))\nreturn {'val_loss': 0.0}"
    report = run_once(tmp_path, body, ", steps=3")
    assert [row["step"] for row in report["rows"]] == [
        1,
        2,
        3,
    ]  # it was told steps=3 and reports a fourth: it is ended
    body = body.replace("range(9)", "range(trial.steps)")
    report = run_once(tmp_path, body, ", steps=3")
    assert [row["step"] for row in report["rows"]] == [1, 2, 3, 4] and rows(report)[-1] == {"val_loss": 0.0}


def test_finally_blocks_and_generators_come_to_their_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = set(threading.enumerate())
    for body in (
        "try:\n    while True: trial.report(val_loss=1.0)\nfinally:\n    open('end', 'a').write('f')",
        "try:\n    while True: yield 1.0\nfinally:\n    open('end', 'a').write('g')",
        "while True:\n    try: trial.report(val_loss=1.0)\n    except Exception: pass",
    ):
        report = run_once(tmp_path, body, ", steps=2")
        assert report["status"] == "complete" and len(report["rows"]) == 2
    assert (tmp_path / "end").read_text() == "fg"
    assert set(threading.enumerate()) <= before


def test_every_leg_runs_in_the_folder_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tune moves a process that it uses again into a folder of its own; so may the user's code."""
    for place in ("elsewhere", "here"):
        (tmp_path / place).mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "here" / "data.csv").write_text("0.5")
    body = "trial.report(val_loss=float(open('data.csv').read()))\nimport os\nos.chdir('/')"
    (tmp_path / "here" / "train.py").write_text(HEAD % "" + textwrap.indent(body, "    "))
    source = known.get(str(tmp_path / "here" / "train.py") + ":train").source  # type: ignore[attr-defined]
    runner = LegRunner(
        Post("s", "x", str(tmp_path / "ckpt"), source=source.to_json(), folder=str(tmp_path / "here"))
    )
    for number in range(3):
        runner.take(Leg(f"0000{number}-0", {"x": 0.5}, 0, 0, 1, ()))
        assert rows(runner.step()) == [{"val_loss": 0.5}]


def test_who_swallows_the_end_is_left_behind_and_named(folder: Path) -> None:
    write(folder, "while True:\n    try: trial.report(val_loss=1.0)\n    except: pass", ", steps=2")
    run = own(folder, "budget.trials=2")
    began = time.monotonic()
    run.run()
    assert [t["state"] for t in trials(run.store)] == [
        "complete",
        "complete",
    ] and time.monotonic() - began < 4
    (note, *_) = run.store.notes("s")
    assert "did not end" in note and "except:" in note


def test_threads_of_its_own_may_report(tmp_path: Path) -> None:
    body = (
        "import threading\n"
        "def go(k): trial.report(val_loss=1.0, k=k)\n"
        "ts = [threading.Thread(target=go, args=(k,)) for k in range(5)]\n"
        "[t.start() for t in ts]; [t.join() for t in ts]"
    )
    report = run_once(tmp_path, body)
    assert report["status"] == "complete"
    assert sorted(row["k"] for row in rows(report)) == [0, 1, 2, 3, 4]
    assert [row["step"] for row in report["rows"]] == [1, 2, 3, 4, 5]


def test_generators_of_the_process_are_seeded_and_the_configuration_is_its_own(tmp_path: Path) -> None:
    body = (
        "import random, numpy, torch\n"
        "config['x'] = 9\n"
        "return {'val_loss': 1, 'a': random.random(), 'b': numpy.random.rand(), 'c': torch.rand(())}"
    )
    given = {"x": 0.5}
    first, second = (rows(run_once(tmp_path, body, config=given)) for _ in range(2))
    assert first == second and given == {"x": 0.5}


def test_a_leg_that_is_paused_leaves_no_thread(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    run_once(tmp_path, "return 1.0")
    (tmp_path / "train.py").write_text(
        (tmp_path / "train.py").read_text().replace("return 1.0", "while True: trial.report(1.0)")
    )
    from fairsweep.trainables.own import known

    source = known.get(f"{tmp_path}/train.py:train").source  # type: ignore[attr-defined]
    runner = LegRunner(Post("s", "x", str(tmp_path / "c"), source=source.to_json(), folder=str(tmp_path)))
    runner.take(Leg("00000-0", {"x": 0.5}, 0, 0, 99, (3,)))
    assert [row["step"] for row in runner.step()["rows"]] == [1, 2, 3]
    assert set(threading.enumerate()) - before
    runner.close()
    assert set(threading.enumerate()) <= before


def test_a_checkpoint_without_pytorch_is_no_pickle_of_ours(tmp_path: Path) -> None:
    from fairsweep.cluster.engine.checkpoints import Checkpoints

    kept = Checkpoints(str(tmp_path))
    state = {
        "paper": {"state": b"\x00\n\xff", "at": 2, "more": {"bytes": "text"}},
        "history": [{"m": float("inf")}],
        "e": b"",
    }
    kept.save("00000-0", 2, state, plain=True)
    assert kept.load("00000-0") == state


def test_a_checkpoint_of_a_device_that_there_is_none_of_here_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial goes on where a node has no GPU, or fewer; PyTorch names in a file the device of each tensor."""
    import torch

    from fairsweep.cluster.engine.checkpoints import Checkpoints
    from fairsweep.trainables.own.process import dumped, loaded

    kept, weights = Checkpoints(str(tmp_path)), torch.arange(4.0)
    with monkeypatch.context() as there:
        there.setattr(torch.serialization, "location_tag", lambda storage: "cuda:77")
        kept.save("00000-0", 2, {"net": {"weight": weights}})
        own = dumped({"weight": weights})
    with pytest.raises(RuntimeError, match="CUDA"):
        torch.load(io.BytesIO(own), weights_only=True)
    found = kept.load("00000-0")
    assert found is not None
    for weight in (found["net"]["weight"], loaded(own)["weight"]):
        assert weight.device.type == "cpu" and torch.equal(weight, weights)


def test_a_class_with_a_space_in_it_or_beside_it(folder: Path) -> None:
    (folder / "train.py").write_text(MINE)
    run = engine(folder / "a", "trainable=train.py:Mine", "budget.trials=3", "space.x.high=0.5")
    run.run()
    assert all(
        t["state"] == "complete" and t["config.x"] <= 0.5 and t["paper"] == "Mine" for t in trials(run.store)
    )
    (folder / "train.py").write_text(MINE.replace("space = {'x': (0.1, 1.0)}", ""))
    (folder / "Mine.yaml").write_text("x: {type: float, low: 0.1, high: 1.0, paper: 0.25}\n")
    run = engine(folder / "b", "trainable=train.py:Mine", "budget.trials=2")
    run.run()
    assert trials(run.store)[0]["config.x"] == 0.25  # the paper's own is run first, where there is one
    assert sorted(json.loads(run.post.source)["files"]) == ["Mine.yaml", "train.py"]
    read = config.load(["trainable=train.py:Mine", "search=listed", "search.configs=[{x: 0.5}]"])
    assert read.search["configs"] == [{"x": 0.5}]


def test_another_metric_is_tuned_on(folder: Path) -> None:
    write(folder, "for k in range(3): trial.report(val_loss=1 / (1 + k), acc=[0.1, 0.9, 0.5][k])")
    run = own(folder, "metric=acc", "mode=max")
    run.run()
    (row,) = trials(run.store)
    assert (row["objective"], row["mode"], row["value"], row["best_step"]) == ("acc", "max", 0.9, 2)
    sweep = run.store.table("sweeps", "s").to_pylist()[0]
    assert (sweep["objective"], sweep["mode"]) == ("acc", "max")
    again = engine(folder.parent / "store", changes=["budget.trials=2"])
    again.run()
    assert [t["value"] for t in trials(again.store)] == [0.9, 0.9]
    paper = config.load(["trainable=test_bowl", "metric=val_loss", "mode=min"]).paper
    assert paper.slug == "test_bowl" and paper.objective == "val_loss"


def test_info_and_space_of_a_function(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder, '"""Learns little."""\nreturn 1.0', ", steps=7, test=['acc']")
    assert run_cli(["info", "train.py:train", "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["title"] == "Learns little." and about["fidelity"]["maximum"] == 7
    assert about["space"]["lr"] == {"type": "float", "low": 1e-4, "high": 0.1, "log": True}
    assert run_cli(["space", "train.py:train", "--to", "optuna"]) == 0
    assert "lr: FloatDistribution" in capsys.readouterr().out


def test_seeds_are_trials_and_columns_grow_while_the_sweep_runs(folder: Path) -> None:
    write(
        folder,
        "trial.report({'val_loss': trial.seed, f'only_{trial.seed}': 1.0})\nreturn {'last': trial.number}",
    )
    run = own(folder, "seeds=3", "budget.trials=2")
    run.run_open()
    live = results(run.store)  # before anything is closed
    assert {k for row in live for k in row if k.startswith("metric.")} == {
        "metric.val_loss", "metric.only_0", "metric.only_1", "metric.only_2", "metric.last",
    }  # fmt: skip
    run.writer.close(state=run.conductor.close())
    assert results(run.store) == live
    assert [r["metric.last"] for r in live if r["step"] == 2] == [0, 0, 0, 1, 1, 1]
    assert run.store.table("results")["metric.only_2"].null_count == len(live) - 2


CLAIMS = """
from fairsweep.trainables.base import Claim
Mine.claims = (Claim("small_is_good", "A small x loses less", {"x": 0.1}, {"x": 0.9}, "loss", 0.0,
    "direction", direction="at_most"),)
"""


def test_claims_of_a_class_of_ones_own(folder: Path) -> None:
    from fairsweep.cluster.jobs import claims

    (folder / "train.py").write_text(MINE + CLAIMS)
    chosen = claims.with_claims(["train.py:Mine"])
    (group,) = claims.plan(chosen, "c", str(folder / "store"))
    assert group.settings.name == "c-Mine" and group.settings.trainable == f"{folder}/train.py:Mine"
    assert [c["x"] for c in group.settings.search["configs"]] == [0.1, 0.9] and group.settings.seeds == 5


@pytest.mark.slow
def test_claims_from_python(folder: Path) -> None:
    import fairsweep

    (folder / "train.py").write_text(MINE + CLAIMS)
    (row,) = fairsweep.claims(
        "train.py:Mine", quiet=True, storage=folder / "store", cluster={"cpus": 1}
    ).to_pylist()
    assert (row["paper"], row["pairs"], row["direction_verdict"]) == ("Mine", 5, "holds")


def test_a_first_report_without_the_objective_is_said(folder: Path) -> None:
    write(folder, "trial.report(loss=1.0); trial.report(val_loss=0.5)")
    run = own(folder)
    run.run()
    assert trials(run.store)[0]["value"] == 0.5
    assert run.store.notes("s") == ["the first report has loss, and not val_loss, which is tuned on"]


def test_an_import_that_takes_long_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loading, "LONG_S", 0.05)
    (folder / "train.py").write_text("import time; time.sleep(0.3); print('loud')\n")
    write(folder, "return 1.0", name="rest.py")
    (folder / "train.py").write_text((folder / "train.py").read_text() + (folder / "rest.py").read_text())
    assert run_cli(["info", "train.py:train", "--json"]) == 0
    said = capsys.readouterr()
    assert "train.py has been running for 0.05 s while it is imported" in said.err and "loud" in said.err
    json.loads(said.out)


def test_a_class_finds_its_own_modules_before_the_sweep(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from fairsweep.cluster.jobs import sweep

    (folder / "part.py").write_text("SIZE = 1\n")
    (folder / "train.py").write_text(
        MINE.replace("def setup(self, config, setting): ", "def setup(self, config, setting): import part; ")
    )
    settings = config.load(["trainable=train.py:Mine"])
    sweep.preflight(settings, settings.paper)
    assert capsys.readouterr().err == ""


def test_a_folder_with_a_difficult_name(folder: Path) -> None:
    from fairsweep.cluster.api import words

    place = folder / "it's {here}, $now"
    place.mkdir()
    write(place, "return 0.5")
    for word in (f"trainable={place}/train.py:train", *words({"trainable": f"{place}/train.py:train"})):
        assert config.load([word]).trainable == f"{place}/train.py:train"


def test_a_function_that_is_called_like_a_paper_is_not_taken_for_it(folder: Path) -> None:
    from fairsweep.cluster.jobs.best import best_of

    text = "import fairsweep\n\n@fairsweep.trainable(space={'x': (0.0, 1.0)}, metric='val_accuracy', mode='max')\n"
    (folder / "train.py").write_text(text + "def dagnn(config, trial): return 5.0 + trial.seed\n")
    run = engine(folder / "store", "trainable=train.py:dagnn", "budget.trials=1", "seeds=3")
    run.run()
    best = best_of(run.store, "s")
    assert (
        best is not None and best["value"] == 6.0 and best["ci95"][1] > 6.0
    )  # no fraction, as that of the paper is


def test_what_a_trial_sets_for_its_process_ends_with_it(folder: Path) -> None:
    """Workers are warm: the next trial of the same process begins where the first one did."""
    body = """
    import os, torch
    trial.report(val_loss=0.5, double=float(torch.get_default_dtype() == torch.float64))
    os.makedirs("out", exist_ok=True)
    os.chdir("out")
    torch.set_default_dtype(torch.float64)
    while True: trial.report(val_loss=1.0 if os.path.dirname(os.getcwd()) == START else 2.0)
    """
    write(folder, body.replace("START", repr(str(folder))))
    run = own(folder)
    runner = LegRunner(run.post)
    for number in range(3):
        runner.take(Leg(f"0000{number}-0", {"lr": 0.1, "width": 8, "depth": 1}, 0, 0, 3, ()))
        report = {"status": "running"}
        found: list[dict[str, float]] = []
        while report["status"] == "running":
            report = runner.step()
            found += rows(report)
        assert found[0]["double"] == 0 and [row["val_loss"] for row in found[1:]] == [1.0, 1.0]


@pytest.mark.parametrize("name", ["metric.val_loss", "config.lr", "seq", "trial", "a[0].b = 'c'"])
def test_metrics_may_be_called_like_columns(folder: Path, name: str) -> None:
    write(
        folder,
        f"trial.report({{'val_loss': 0.5, {name!r}: 7}})\ntrial.report({{'val_loss': 1, {name!r}: 8}})",
    )
    run = own(folder)
    run.run()
    assert [row[f"metric.{name}"] for row in results(run.store)] == [7, 8]
    assert [row["metric.val_loss"] for row in results(run.store)] == [0.5, 1]
    assert engine(folder.parent / "store").run().finished  # and a driver that takes it up reads the same


def test_a_list_of_one_metric_is_that_metric(folder: Path) -> None:
    write(folder, "trial.report(val_loss=0.5, acc=2.0)")
    run = own(folder, "metric=[acc]", "mode=[max]")
    run.run()
    assert [(t["state"], t["value"]) for t in trials(run.store)] == [("complete", 2.0)]


def test_a_second_parameter_with_a_value_of_its_own_is_no_place_for_the_trial(folder: Path) -> None:
    (folder / "train.py").write_text(
        "import fairsweep\n@fairsweep.trainable(space={'x': (0.0, 1.0)}, metric='v')\n"
        "def train(config, epochs=3): return float(epochs)\n"
    )
    run = own(folder)
    run.run()
    assert [t["value"] for t in trials(run.store)] == [3.0]


def test_a_state_that_could_not_be_read_again_fails_at_its_first_checkpoint(tmp_path: Path) -> None:
    """PyTorch writes any object, and refuses to read it where only weights are read."""
    for state, words in (
        ('{"model": {"tree": Mine.Tree()}}', "state_dict() of Mine: ['model']['tree'] is of type Tree"),
        ('{"rows": __import__("numpy").ones(2)}', "['rows'] is of type ndarray"),
        ('{"done": self.done, "x": __import__("torch").ones(2), "raw": b"1"}', ""),
    ):
        text = MINE.replace('{"done": self.done}', state) + "    class Tree: pass\n"
        (tmp_path / "train.py").write_text(text)
        source = known.get(str(tmp_path / "train.py") + ":Mine").source  # type: ignore[attr-defined]
        runner = LegRunner(
            Post("s", "x", str(tmp_path / "ckpt"), source=source.to_json(), folder=str(tmp_path))
        )
        runner.take(Leg("00000-0", {"x": 0.5}, 0, 0, 3, (1,)))
        report = runner.step()
        assert [row["step"] for row in report["rows"]] == [1]
        if words:
            assert report["status"] == "failed" and words in report["failure"]["reason"], report
            assert "pickle.dumps" in report["failure"]["reason"]
        else:
            assert report["status"] == "running"
