"""Comparisons as careless and as suspicious users ask for them, and what others do to their stores meanwhile."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fairsweep.analysis import upkeep
from fairsweep.analysis.store import Store, SweepLocked
from fairsweep.cluster import comparison
from fairsweep.cluster.cli import run_cli
from fairsweep.cluster.engine.nodes import Room
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs import sweep
from fairsweep.cluster.jobs.comparing import job, plan
from fairsweep.cluster.jobs.comparing.display import ComparisonDisplay
from fairsweep.trainables.catalog import UnknownPaper
from tests.cluster.test_compare import BOWLS, WORDS, Crash, compared, here, rows

FEW = ("budget.trials=2", "seeds=2")
FILE = """
import fairsweep

KIND = {"space": {"x": (0.0, 1.0)}, "test": ["test"], "steps": 1}

@fairsweep.trainable(metric="val", mode="max", **KIND)
def one(config, trial):
    trial.report(val=config["x"], test=VERSION)

@fairsweep.trainable(metric="val", mode="max", **KIND)
def two(config, trial):
    trial.report(val=config["x"], test=config["x"])

@fairsweep.trainable(metric="val", mode="max", **KIND)
def three(config, trial):
    trial.report(val=config["x"], test=-config["x"])

@fairsweep.trainable(metric="loss", mode="min", **KIND)
def small(config, trial):
    trial.report(loss=config["x"], test=config["x"])

@fairsweep.trainable(**KIND)
def bare(config, trial):
    trial.report(val=config["x"], test=config["x"])

@fairsweep.trainable(metric="val", mode="max", **KIND)
def broken(config, trial):
    raise RuntimeError("no")

@fairsweep.trainable(metric="val", mode="max", **KIND)
def moody(config, trial):
    if trial.seed >= 1_000_000 and trial.seed % 2:
        raise RuntimeError("no")
    trial.report(val=config["x"], test=1.0)

@fairsweep.trainable(metric="val", mode="max", test=["test"], steps=1, space={
    "x": (0.0, 1.0), "text": ["a,b", "c:d", "[e]", "it's", "null"], "act": ["a-b", "a_b", "+", "-"]})
def rich(config, trial):
    trial.report(val=config["x"], test=config["x"])

@fairsweep.trainable(metric="val", mode="max", test=["test"], steps=1, space={
    "optimizer.lr": (0.0, 1.0), "k": [1, 2]})
def dotted(config, trial):
    trial.report(val=config["optimizer.lr"], test=1.0)
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, in which we are, with a file of trainables."""
    (tmp_path / "m.py").write_text(FILE.replace("VERSION", "1.0"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def labels(*words: str) -> list[str]:
    return [m.label for m in plan.asked([*words, *FEW], "c", "store").spec.methods]


# -- what is asked for ------------------------------------------------------------------------------------


def test_metric_and_mode_may_be_said_for_functions_that_have_none(mine: Path) -> None:
    made = plan.asked(["m.py:bare,two", "metric=val", "mode=max", *FEW], "c", "store")
    assert [e.paper.objective for e in made.entrants] == ["val", "val"]
    with pytest.raises(UnknownPaper, match="metric is missing"):
        labels("m.py:bare,two")


def test_a_parameter_that_defines_a_method_is_not_overridden(mine: Path) -> None:
    words = ["test_bowl:kind=a,b", "test_bowl", "space.kind=b", *WORDS]
    found = plan.asked(words, "c", "store").entrants
    kinds = [e.settings.space.parameters["kind"] for e in found]
    assert [k.value if k.fixed else None for k in kinds] == ["a", "b", "b"]
    with pytest.raises(UserError, match=r"space.kind=b: fixed by a, b, and no other method has it"):
        plan.asked(["test_bowl:kind=a,b", "space.kind=b", *WORDS], "c", "store")
    with pytest.raises(UserError, match=r"\+space.z=1: no method has this parameter"):
        labels("m.py:one,two", "+space.z=1")


def test_a_setting_of_a_parameter_with_dots_goes_to_the_method_that_has_it(mine: Path) -> None:
    found = plan.asked(["m.py:dotted,one", "space.optimizer.lr.low=0.5", *FEW], "c", "store").entrants
    assert found[0].settings.space.parameters["optimizer.lr"].low == 0.5


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("m.py:rich:text='a,b','c:d'", ["a,b", "c:d"]),
        ("m.py:rich:text=['[e]',\"it's\"]", ["[e]", "it's"]),
        ("m.py:rich:act=a-b,a_b,'+','-'", ["a-b", "a_b", "+", "-"]),
    ],
)
def test_values_with_signs_in_them_are_methods_of_their_own(mine: Path, word: str, found: list[str]) -> None:
    made = plan.asked([word, *FEW], "c", "store")
    assert [m.label for m in made.spec.methods] == found
    key = word.split(":")[2].split("=")[0]
    assert [e.settings.space.parameters[key].value for e in made.entrants] == found
    names = {made.name(e, 0).lower() for e in made.entrants}
    assert len(names) == len(found)


def test_names_of_sweeps_are_apart_and_short_whatever_labels_are() -> None:
    long = ["x" * 300, "x" * 299, "X" * 300, "", "é", "è", "a.b", "a b", "fine"]
    found = plan.plain(long)
    assert len({word.lower() for word in found.values()}) == len(long)
    assert all(0 < len(word) <= plan.LONG for word in found.values())
    assert found["fine"] == "fine"


def test_functions_and_folders_of_one_name_are_told_apart(mine: Path) -> None:
    for folder in ("a/data", "b/data", "c=d"):
        (mine / folder).mkdir(parents=True)
    for folder in ("a", "b", "c=d"):
        (mine / folder / "m.py").write_text(FILE.replace("VERSION", "1.0"))
    assert labels("a/m.py:one", "b/m.py:one", "m.py:two") == ["a/m.py:one", "b/m.py:one", "two"]
    assert labels("c=d/m.py:one", "m.py:two") == ["one", "two"]
    found = plan.asked(["m.py:one,two", "data=[own@a/data,own@b/data]", *FEW], "c", "store").spec.data
    assert [d.label for d in found] == ["a/data", "b/data"]
    assert [d.folder for d in found] == [str(mine / "a/data"), str(mine / "b/data")], "resumed from elsewhere"
    with pytest.raises(UserError, match=r"own@.*/a/data is named twice"):
        labels("m.py:one,two", "data=[own@a/data,own@./a/data]")
    for words in (["data=own", "data_dir='a/data'"], ["data=[own@'a/data']"]):
        made = plan.asked(["m.py:one,two", *words, *FEW], "c", "store")
        assert [d.folder for d in made.spec.data] == [str(mine / "a/data")]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["m.py:one"], "compare: one is the only method; name another"),
        (["m.py:one,small"], "on=test: is to be large for one and small for small"),
        (["m.py:one,two", "seeds=²"], "seeds=²: must be a whole number"),
        (["m.py:one,two", "seeds=1001"], "seeds=1001: must be a whole number of at least 1 and at most 1000"),
        (["m.py:one,two", "retrain=1001"], "retrain=1001: must be a whole number of at least 1 and at most 1000"),
        (["m.py:one,two", "budget=smoke"], "budget.minutes=2: searches run side by side"),
        (["test_bowl:kind=a,b", "metric=[val_loss,test_loss]"], "metric=test_loss: .* on test data"),
    ],
)  # fmt: skip
def test_what_would_be_no_comparison_is_one_line(mine: Path, words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        plan.asked(words, "c", "store")
    assert not (mine / "store").exists()


def test_a_method_with_nothing_to_tune_is_searched_once(mine: Path) -> None:
    words = ["m.py:one,two", "m.py:two:x=0.5", "space.x.low=0.1", "budget.trials=8"]
    found = plan.asked(words, "c", "store").entrants
    assert [e.settings.budget["trials"] for e in found] == [8, 8, 1]
    assert {e.budget for e in found} == {("trials", 8.0)}


def test_methods_from_python_are_the_words_of_the_command_line(mine: Path) -> None:
    for method, word in (
        ("m.py:one,two", "m.py:one,two"),
        (("m.py:two", {"x": np.float64(0.5)}), "m.py:two:x=[0.5]"),
        (
            ("m.py:rich", {"text": ["a,b", "c:d"], "act": "+"}),
            "m.py:rich:text=['a,b','c:d']:act=[+]",
        ),
    ):
        assert comparison._word(method) == word
    assert comparison._data(Path("a,b")) == "data=['own@a,b']"
    for wrong in (5, ("m.py:two", 5)):
        with pytest.raises(UserError, match="is no method"):
            comparison._word(wrong)


# -- methods that fail ------------------------------------------------------------------------------------


def test_a_method_that_always_fails_does_not_silence_the_others(mine: Path) -> None:
    compared(mine / "store", "m.py:two,broken,three", *FEW)
    found = job.answered(Store(str(mine / "store")), "c")
    assert found is not None and found.decision is not None
    assert [(g.a, g.b) for g in found.decision.gaps] == [("two", "three")]
    assert found.decision.n == 2 and found.methods == ("two", "broken", "three")
    why = "no configuration of its search is complete (raised RuntimeError: no)"
    assert f"broken: 2 of 2 repeats have no score: {why}" in found.notes
    assert "broken: without any score, left out of what is said of the others" in found.notes


def test_trainings_that_fail_now_and_then_are_not_passed_over_in_silence(mine: Path) -> None:
    compared(mine / "store", "m.py:two,moody", "retrain=3", *FEW)
    found = job.answered(Store(str(mine / "store")), "c")
    assert found is not None
    assert any(note.startswith("moody: 2 of 6 trainings of its choices failed") for note in found.notes)


# -- what happens to a store meanwhile ----------------------------------------------------------------------


def resumed(storage: Path, *changes: str) -> None:
    """`job.resume` without Ray."""
    store = Store(str(storage))
    spec = job.stored(store, "c")
    assert spec is not None
    with job.pinned(job.texts_of(store, spec)[0]):
        here(job.Run.of(plan.made(spec, str(storage)), store, ComparisonDisplay(), 2).fleet())


@pytest.mark.parametrize("gone", [False, True])
def test_a_comparison_is_of_the_text_that_it_began_with(mine: Path, gone: bool) -> None:
    store = Store(str(mine / "store"))
    with pytest.raises(Crash):
        compared(mine / "store", "m.py:one,two", *FEW, reports=4)
    if gone:
        (mine / "m.py").unlink()
    else:
        (mine / "m.py").write_text(FILE.replace("VERSION", "2.0"))
    spec = job.stored(store, "c")
    assert spec is not None
    texts, news = job.texts_of(store, spec)
    said = "is gone" if gone else "has changed since the comparison began"
    assert [said in line for line in news] == [True, True]
    resumed(mine / "store")
    assert {r["score"] for r in rows(mine / "store") if r["method"] == "one"} == {1.0}
    assert len({store.table("sweeps", n)["source_digest"][0].as_py() for n in store.sweeps()}) == 1
    if not gone:
        assert job.meant(f"{mine}/m.py:one").files["m.py"] != texts[0].files["m.py"], "and not for others"


def test_the_same_words_with_more_seeds_grow_it_and_it_says_so(
    mine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        job, "drive_fleet", lambda settings, fleet, display, resume, name: here(fleet) or "finished"
    )
    monkeypatch.setattr(job, "connected", lambda cluster: job.pinned([]))
    monkeypatch.setattr(job.readiness, "room", lambda *asked: Room(2))
    for seeds in (1, 2):
        words = ["m.py:two,three", "budget.trials=2", f"seeds={seeds}"]
        answer, state = job.run(plan.asked(words, "c", "store"), ComparisonDisplay())
        assert state == "finished" and answer is not None
    # Nobody could have won at the first look: that it was taken costs nothing, and the next step is said.
    assert not any(note.startswith("it grew") for note in answer.notes)
    assert answer.more.startswith("fairsweep resume c seeds=+4 ")
    assert " adds 4 repeats (" in answer.more and answer.more.endswith(
        "of training), the fewest that can show a winner"
    )
    store = Store(str(mine / "store"))
    spec, kept = job.stored(store, "c"), store.derived("comparisons", "c").to_pylist()
    assert spec is not None
    store.write_derived("comparisons", "c", [{**r, "repeat": i} for i in range(7) for r in kept[:2]])
    monkeypatch.setattr(job, "stored", lambda store, name: replace(spec, seeds=7, grown=(6,)))
    late = job.answered(store, "c")
    assert late is not None and any(
        n.startswith("it grew (6, 7 searches of each method)") for n in late.notes
    )
    for verb in ("best", "importance"):
        assert run_cli([verb, "c", "--storage", str(mine / "store")]) == 2
        assert "c: is a comparison, which `fairsweep show`" in capsys.readouterr().err
    file = mine / "c.csv"
    assert (
        run_cli(
            [
                "export",
                "c",
                "--storage",
                store.uri,
                "--table",
                "comparisons",
                "--format",
                "csv",
                "-o",
                str(file),
            ]
        )
        == 0
    )
    assert len(file.read_text().splitlines()) == 1 + 14


def test_what_is_of_a_comparison_is_dealt_with_as_a_whole(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Crash):
        compared(mine / "store", "m.py:two,three", *FEW, "tuning_seeds=3", reports=15)
    store = Store(str(mine / "store"))
    answer = job.answered(store, "c")
    assert answer is not None and answer.notes[0].startswith("2 of 4 repeats have ended")
    lane = store.sweeps()[0]
    for name in store.sweeps():  # as a driver leaves them that is between two sweeps, or was interrupted
        with store.open(name) as writer:
            writer.close(state="finished")
    said = []
    for held in (upkeep.alone(store, "comparisons", "c", "comparison"), nullcontext()):
        with held:
            assert run_cli(["ls", "--storage", "store", "--json"]) == 0
        said += [(r["sweep"], r["state"], r["seeds"]) for r in json.loads(capsys.readouterr().out)]
    assert said == [("c", "running", 2), ("c", "interrupted", 2)]
    assert run_cli(["export", "c", "--storage", "store", "--format", "csv"]) == 0
    assert "c-comparisons.csv: 2 rows" in capsys.readouterr().out
    for words, said in (
        (
            ["best", "c"],
            "c: is a comparison, which `fairsweep show`",
        ),
        (["export", "d", "--table", "comparisons"], f"d: {mine}/store has no such sweep"),
        (["resume", lane], f"{lane}: is a sweep of the comparison c, whose methods all get the same"),
        (["resume", lane, "budget.trials=+9"], f"{lane}: is a sweep of the comparison c"),
        (["delete", lane, "--yes"], f"{lane}: is a sweep of the comparison c"),
        (["rename", lane, "d"], f"{lane}: is a sweep of the comparison c, all of which is under one name"),
    ):
        assert run_cli([*words, "--storage", "store"]) == 2
        assert capsys.readouterr().err.startswith(f"fairsweep: error: {said}")
    again = Store(str(mine / "store"))
    with upkeep.alone(store, "comparisons", "c", "comparison"):
        assert run_cli(["delete", "c", "--yes", "--storage", "store"]) == 2
        with pytest.raises(SweepLocked), upkeep.alone(again, "comparisons", "c", "comparison"):
            pass
    assert "comparison c is being written by" in capsys.readouterr().err
    assert lane in store.sweeps() and rows(mine / "store")
    with pytest.raises(UserError, match=r"name=c: .* has a comparison of this name"):
        sweep.new_name(store, "c", "x")


def test_sweeps_of_others_under_its_names_are_not_taken_for_its_own(mine: Path) -> None:
    compared(mine / "store", "test_bowl:kind=a,b", *WORDS, name="c.d")
    store = Store(str(mine / "store"))
    assert job.sweeps_of(store, "c") == [] and len(job.sweeps_of(store, "c.d")) == 8
    for name in ("c", "c.a.bowl.1"):
        made = plan.asked(BOWLS, "c", "store")
        store.create(name, {"paper": "x"}, config_fields=[], metric_names=[]).close(state="finished")
        with pytest.raises(UserError, match=rf"name=c: .* has a sweep called {name}; choose another name"):
            job._check_free(store, made)
        upkeep.delete(store, name)
    job._check_free(store, plan.asked(["test_bowl:kind=a,b", *WORDS], "c.d", "store"))


def test_without_seeds_there_are_as_many_as_can_show_a_winner(mine: Path) -> None:
    asked = {
        words: plan.asked(words.split(), "c", str(mine / "store")).spec.seeds
        for words in ("m.py:two,three", "m.py:one,two,three", "m.py:two,three seeds=2")
    }
    assert list(asked.values()) == [6, 7, 2]


def test_a_budget_that_one_method_cannot_have_names_it(mine: Path) -> None:
    (mine / "endless.py").write_text(FILE.replace(', "steps": 1', ""))
    words = ["m.py:two", "endless.py:three", "budget.total_steps=9"]
    with pytest.raises(UserError, match=r"^three: budget\.total_steps=9: needs to know how many reports"):
        job.run(plan.asked(words, "c", str(mine / "store")), ComparisonDisplay())
