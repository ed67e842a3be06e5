"""Comparisons: nested, at equal budgets, resumable at any moment; with real workers' code and stores, without Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import fairsweep
from fairsweep.analysis.store import Store
from fairsweep.cluster.cli import run_cli
from fairsweep.cluster.engine.fleet import Fleet
from fairsweep.cluster.engine.post import Post
from fairsweep.cluster.engine.worker import LegRunner
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs.comparing import job, methods, plan
from fairsweep.cluster.jobs.comparing.display import ComparisonDisplay
from fairsweep.cluster.jobs.comparing.outcome import SEEN, checked_parts
from fairsweep.trainables.catalog import UnknownPaper

WORDS = ("data=bowl", "budget.trials=3", "seeds=2", "budget.report_seconds=0")
BOWLS = ("test_bowl:kind=a,b", *WORDS)

NOISY = """
import random
import fairsweep

def draw(name, config, trial, gap=0.0):
    luck = random.Random(f"{name} {trial.seed} {config['x']}")
    good = gap - 4 * (config["x"] - 0.5) ** 2 + luck.gauss(0, 2)
    trial.report(val=good + luck.gauss(0, 1), test=good + luck.gauss(0, 1))

def method(name, gap=0.0):
    @fairsweep.trainable(space={"x": (0.0, 1.0)}, metric="val", mode="max", test=["test"], steps=1)
    def found(config, trial):
        draw(name, config, trial, gap)
    return found

one, two, three, better = method("one"), method("two"), method("three"), method("better", 2.0)
"""

BROKEN = """
@fairsweep.trainable(space={"x": (0.0, 1.0)}, metric="val", mode="max", test=["test"])
def broken(config, trial):
    raise RuntimeError("no")
"""


class Crash(Exception):
    pass


def here(fleet: Fleet, reports: int | None = None) -> None:
    """Drives a fleet in this process; raises Crash, with nothing closed, after so many reports."""
    places: list[tuple[str, LegRunner]] = []
    while not fleet.finished:
        while (leg := fleet.next_leg()) is not None:
            runner = LegRunner(Post(**json.loads(fleet.post_of(leg.sweep))))
            runner.take(leg)
            places.append((leg.key, runner))
        for place in list(places):
            if reports == 0:
                for lane in fleet.lanes.values():
                    lane.conductor.writer.__exit__(None, None, None)
                raise Crash
            reports = None if reports is None else reports - 1
            key, runner = place
            if fleet.reports([json.loads(json.dumps(runner.step()))], (), key.rpartition("/")[0]) is None:
                runner.stash()
                places.remove(place)


def compared(
    storage: Path, *words: str, name: str = "c", reports: int | None = None, slots: int = 2
) -> job.Run:
    made = plan.asked(words, name, str(storage))
    run = job.Run.of(made, Store(str(storage)), ComparisonDisplay(), slots)
    here(run.fleet(), reports)
    return run


def rows(storage: Path, name: str = "c") -> list[dict[str, Any]]:
    return Store(str(storage)).derived("comparisons", name).to_pylist()


WHAT = (
    "method",
    "data",
    "repeat",
    "state",
    "score",
    "validation",
    "config",
    "trials",
    "steps",
    "seeds",
    "split_seed",
)


def essence(storage: Path) -> list[dict[str, Any]]:
    found = [{key: row[key] for key in WHAT} for row in rows(storage)]
    return sorted(found, key=lambda r: (r["method"], r["data"], r["repeat"]))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    compared(folder, *BOWLS)
    return folder


def test_each_search_has_its_seeds_its_choice_and_fresh_seeds_of_its_trainings(whole: Path) -> None:
    found = rows(whole)
    assert [(r["method"], r["repeat"]) for r in found] == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    store = Store(str(whole))
    for row in found:
        search = store.table("trials", row["search"]).to_pylist()
        final = store.table("trials", row["final"]).to_pylist()
        assert len(search) == row["trials"] == 3
        assert {t["seed"] for t in search} == {plan.APART * row["repeat"]}
        assert (
            [t["seed"] for t in final]
            == json.loads(row["seeds"])
            == [plan.FRESH + plan.APART * row["repeat"]]
        )
        best = min(search, key=lambda t: t["value"])
        assert (
            json.loads(row["config"])
            == json.loads(best["config_json"])
            == json.loads(final[0]["config_json"])
        )
        assert json.loads(row["config"])["kind"] == row["method"]
        assert row["score"] == final[0]["metric.test_loss"]
        assert row["steps"] == sum(t["steps"] for t in search)
        assert row["cost_s"] == pytest.approx(sum(t["cost_s"] for t in search))


def test_no_test_metric_is_there_before_the_choice_and_none_could_have_a_say(whole: Path) -> None:
    assert not any(name.startswith("metric.") for name in SEEN)
    store = Store(str(whole))
    for row in rows(whole):
        search = store.table("trials", row["search"]).to_pylist()
        assert all(t["metric.test_loss"] is None for t in search)
        assert store.table("sweeps", row["search"])["comparison"][0].as_py() is not None


def test_test_is_called_once_a_training(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    run = compared(
        tmp_path, "test_splits", "test_splits", *WORDS, f"data_dir={folder}", "retrain=2", "on=test_loss"
    )
    assert len((folder / "tests").read_text().splitlines()) == 2 * 2 * 2
    assert len(run.rows) == 4


def test_all_trials_of_a_repeat_have_one_split_and_repeats_have_others(tmp_path: Path) -> None:
    compared(tmp_path, "test_splits", "test_splits", *WORDS, "retrain=2", "on=test_rows")
    by_repeat: dict[int, set[float]] = {}
    for row in rows(tmp_path):
        by_repeat.setdefault(row["repeat"], set()).update(json.loads(row["scores"]))
    assert [len(found) for found in by_repeat.values()] == [1, 1]
    assert by_repeat[0] != by_repeat[1]


def test_a_leak_has_no_score() -> None:
    one, other = ({"attrs": json.dumps({"parts": {"test": test}})} for test in "ab")
    assert checked_parts([one, one], [one]) == ({"test": "a"}, "")
    assert checked_parts([{"attrs": None}], [{"attrs": None}]) == ({}, "")
    _, leak = checked_parts([other], [one])
    assert leak.startswith("leak: the search had another test part")


def test_a_planted_leak_is_caught(tmp_path: Path) -> None:
    """`test_leaky` is tested on rows that its search trained on, or chose by; `test_splits` is not."""
    compared(tmp_path, "test_splits", "test_leaky", *WORDS, "on=test_loss")
    found = rows(tmp_path)
    assert [(r["method"], r["state"], r["score"] is None) for r in found] == [
        ("test_splits", "complete", False), ("test_leaky", "failed", True),
        ("test_splits", "complete", False), ("test_leaky", "failed", True),
    ]  # fmt: skip
    assert all(json.loads(r["parts"])["test"] for r in found)
    assert found[1]["reason"].startswith(
        "leak: the search had another test part than the training of its choice"
    )
    answer = job.answered(Store(str(tmp_path)), "c")
    assert answer is not None and answer.decision is None
    assert any(n.startswith("test_leaky: 2 of 2 repeats have no score: leak") for n in answer.notes)


@pytest.mark.parametrize("reports", [1, 9, 14, 21])
def test_a_killed_comparison_is_taken_up_and_ends_the_same(tmp_path: Path, whole: Path, reports: int) -> None:
    with pytest.raises(Crash):
        compared(tmp_path, *BOWLS, reports=reports)
    compared(tmp_path, *BOWLS)
    assert essence(tmp_path) == essence(whole)
    names = Store(str(tmp_path)).sweeps()
    assert sorted(names) == sorted(Store(str(whole)).sweeps())


def test_what_is_done_is_not_done_again(whole: Path) -> None:
    run = job.Run.of(plan.asked(BOWLS, "c", str(whole)), Store(str(whole)), ComparisonDisplay(), 2)
    assert run.fleet().next_leg() is None


def test_the_number_of_slots_changes_nothing(tmp_path: Path, whole: Path) -> None:
    compared(tmp_path, *BOWLS, slots=5)
    assert essence(tmp_path) == essence(whole)


def test_more_repeats_are_added_to_those_that_are_there(tmp_path: Path) -> None:
    compared(tmp_path, *BOWLS, "seed=3")
    spec = job.stored(Store(str(tmp_path)), "c")
    assert spec is not None
    grown = plan.made(plan.resumed(spec, 3), str(tmp_path))
    run = job.Run.of(grown, Store(str(tmp_path)), ComparisonDisplay(), 1)
    here(run.fleet())
    assert [r["repeat"] for r in rows(tmp_path)] == [0, 0, 1, 1, 2, 2]
    again = job.stored(Store(str(tmp_path)), "c")
    assert again is not None and (again.seeds, again.grown) == (3, (2,))
    with pytest.raises(UserError, match="seeds=1: it has 3 already"):
        plan.resumed(again, 1)


def test_a_method_that_fails_is_a_row_that_says_why(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(NOISY + BROKEN)
    compared(tmp_path, f"{tmp_path}/m.py:one,broken", "budget.trials=2", "seeds=2")
    found = {r["method"]: r for r in rows(tmp_path)}
    assert found["one"]["state"] == "complete"
    assert (found["broken"]["state"], found["broken"]["failures"]) == ("failed", 2)
    assert found["broken"]["reason"] == "no configuration of its search is complete (raised RuntimeError: no)"
    answer = job.answered(Store(str(tmp_path)), "c")
    assert (
        answer is not None
        and answer.sentence == "one is the only method with a score: nothing to compare it with"
    )


@pytest.mark.parametrize(
    ("words", "labels"),
    [
        (["dagnn", "dual_hypergraph"], ["dagnn", "dual_hypergraph"]),
        (["biper:weight_mode=fp,ste,biper"], ["fp", "ste", "biper"]),
        (["dagnn", "dagnn:model=gcn"], ["dagnn", "dagnn:gcn"]),
        (["dagnn:model=[gcn,sgc]:K=2"], ["gcn:2", "sgc:2"]),
        (["dagnn", "dagnn"], ["dagnn", "dagnn (2)"]),
    ],
)  # fmt: skip
def test_methods_are_read_and_named(words: list[str], labels: list[str]) -> None:
    assert [m.label for m in methods.read(words)] == labels


def test_several_functions_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(NOISY)
    found = methods.read([f"{tmp_path}/m.py:one,two"])
    assert [m.label for m in found] == ["one", "two"]
    assert [m.trainable for m in found] == [f"{tmp_path}/m.py:one", f"{tmp_path}/m.py:two"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data=bowl"], "compare: names no method; say at least two, such as dagnn"),
        (["test_bowl:kind", *WORDS], "test_bowl:kind: say which values of kind are compared, test_bowl:kind=A,B"),
        (["test_bowl:kind=", *WORDS], "'kind=' is no PARAMETER=VALUE"),
        (["test_bowl:kind=zebra", *WORDS], "kind='zebra': must be one of"),
        (["test_bowl", "nobody", *WORDS], "trainable=nobody: no such paper"),
        (["test_bowl", "data=[bowl,bowl]"], "bowl is named twice"),
        (["test_bowl", "data=mars"], "data=mars: test_bowl has no such data set"),
        (["test_bowl", "seeds=0"], "seeds=0: must be a whole number of at least 1"),
        (["test_bowl", "seeds=two"], "seeds=two: must be a whole number of at least 1"),
        (["test_bowl", "budget.minutes=3"], "budget.minutes=3: searches run side by side; budget.total_minutes"),
        (["test_bowl", "test=true"], "test=true: a search is never tested"),
        (["test_bowl", "search=listed"], "search=listed: each method is searched"),
        (["test_bowl", "on=val_loss"], "on=val_loss: test_bowl measures it on validation data"),
        (["test_bowl", "on=fame"], "on=fame: test_bowl has no such metric; known: test_loss"),
        (["test_bowl", "space.width=3"], "space.width=3: no method has this parameter"),
        (["test_bowl", "budget.tirals=3"], "budget.tirals: no such setting; did you mean budget.trials"),
        (["test_bowl", "dagnn"], "data is missing: the methods have no data set in common"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_one_line(tmp_path: Path, words: list[str], said: str) -> None:
    with pytest.raises((UserError, UnknownPaper), match=said) as error:
        plan.asked(words, "c", str(tmp_path / "store"))
    assert "\n" not in str(error.value.args[0])
    assert not (tmp_path / "store").exists()


def test_a_comparison_opened_from_python_writes_its_report(whole: Path, tmp_path: Path) -> None:
    found = fairsweep.open_comparison("c", whole)
    assert found.table().num_rows == 4 and len(found.sweeps()) == 8
    written = found.report(tmp_path / "c.md")
    assert found.answer().sentence.partition(":")[0] in written.read_text().lower()
    with pytest.raises(UserError, match="has no comparison of this name"):
        fairsweep.open_comparison("d", whole)


def test_another_comparison_of_the_same_name_is_refused(whole: Path) -> None:
    known = job.stored(Store(str(whole)), "c")
    for words in (["test_bowl:kind=a,b", *WORDS, "retrain=2"], ["test_bowl:kind=b,a", *WORDS]):
        asked = plan.asked(words, "c", str(whole))
        with pytest.raises(UserError, match="the store has a comparison of this name with other"):
            plan.check_same(asked.spec, known)


def test_a_comparison_goes_on_under_another_port_of_its_metrics(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The port that it began with may be taken by now, and is no part of what is compared."""
    known = job.stored(Store(str(whole)), "c")
    assert known is not None
    began = plan.heard_at(known, ["metrics.port=9464"])
    taken_up: list[plan.Spec] = []
    monkeypatch.setattr(job, "stored", lambda store, name: began)
    monkeypatch.setattr(job, "_taken_up", lambda store, storage, spec, *more: taken_up.append(spec))
    display = ComparisonDisplay()
    job.resume(str(whole), "c", ["metrics.port=9465", "seeds=+1"], display)
    asked = plan.asked(["test_bowl:kind=a,b", *WORDS, "metrics.port=0"], "c", str(whole))
    job.run(asked, display)
    job.run(plan.asked(["test_bowl:kind=a,b", *WORDS], "c", str(whole)), display)
    ports = [[word for word in spec.words if word.startswith("metrics")] for spec in taken_up]
    assert ports == [["metrics.port=9465"], ["metrics.port=0"], []]
    assert taken_up[0].seeds == known.seeds + 1
    with pytest.raises(UserError, match="with more repeats only"):
        job.resume(str(whole), "c", ["metrics=9"], display)


def test_a_comparison_is_listed_and_deleted_as_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--storage", str(tmp_path)]
    with pytest.raises(Crash):
        compared(tmp_path, *BOWLS, reports=30)
    assert run_cli(["ls", *where, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["sweep"], row["paper"], row["data"], row["seeds"]) == ("c", "a, b", "bowl", 2)
    assert row["state"] == "interrupted" or row["state"] == "running"
    compared(tmp_path, *BOWLS)
    assert run_cli(["ls", *where, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["state"], row["trials"]) == ("finished", 2 * 2 * (3 + 1))
    assert run_cli(["ls", *where, "--all", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2 * 2 * 2
    assert run_cli(["delete", "c", *where]) == 2
    assert len(Store(str(tmp_path)).sweeps()) == 8
    assert run_cli(["delete", "c", *where, "--yes"]) == 0
    assert Store(str(tmp_path)).sweeps() == [] and rows(tmp_path) == []
    assert run_cli(["delete", "c", *where, "--yes"]) == 2


def test_the_command_prints_what_it_would_run_and_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", *BOWLS, f"storage={tmp_path}/store", "name=c"]
    assert run_cli([*words, "--cfg", "job"]) == 0
    found = yaml.safe_load(capsys.readouterr().out)
    assert [m["label"] for m in found["comparison"]["methods"]] == ["a", "b"]
    assert found["searches"]["a on bowl"]["test"] is False
    for more, said in (
        (["name=d"], "name=d: name is given twice"),
        (["--fast"], "compare: does not know --fast; settings are written key=value"),
        (["seeds=3"], "seeds=3: seeds is given twice"),
    ):
        assert run_cli([*words, *more]) == 2
        assert said in capsys.readouterr().err
    assert run_cli([*words[:-1], "name=a/b"]) == 2
    assert "name=a/b: must be up to 60 letters" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def simulated(tmp_path: Path, words: str, number: int) -> tuple[str | None, Any]:
    """The winner of a comparison with seeds of its own."""
    store = Store(str(tmp_path / f"store{number}"))
    made = plan.asked(
        [f"{tmp_path}/m.py:{words}", "seeds=7", f"seed={100_000 * number}", "budget.trials=3", "search=random"],
        f"n{number}", str(tmp_path),
    )  # fmt: skip
    here(job.Run.of(made, store, ComparisonDisplay(), 1).fleet())
    answer = job.answered(store, f"n{number}")
    assert answer is not None and answer.decision is not None
    return answer.decision.winner, answer


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_under_the_null_a_winner_is_declared_in_at_most_five_percent(tmp_path: Path) -> None:
    """Three copies under three names; 100 comparisons: nine or more winners have a probability of .06 at 5 %."""
    (tmp_path / "m.py").write_text(NOISY)
    winners = [simulated(tmp_path, "one,two,three", i)[0] for i in range(100)]
    print(f"winners in {sum(w is not None for w in winners)} of 100")
    assert sum(w is not None for w in winners) <= 9


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("deviation", [2.0, 0.5])
def test_a_planted_gap_of_two_points_is_found_and_never_the_other_way_round(
    tmp_path: Path, deviation: float
) -> None:
    (tmp_path / "m.py").write_text(NOISY.replace("gauss(0, 2)", f"gauss(0, {deviation})"))
    found = [simulated(tmp_path, "one,better", i) for i in range(30)]
    score = np.concatenate([answer.scores[0].ravel() for _, answer in found])
    power = np.mean([winner == "better" for winner, _ in found])
    print(f"power {power:.2f} in 30 comparisons of 7 searches, whose scores deviate by {score.std():.2g}")
    assert not any(winner == "one" for winner, _ in found)
    assert deviation > 1 or power > 0.5
