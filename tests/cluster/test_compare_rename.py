"""A comparison under another name: whole, or ended by the same words where it was cut off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import fairsweep
from fairsweep.analysis import upkeep
from fairsweep.analysis.store import Store
from fairsweep.cluster.cli import run_cli
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs.comparing import job, plan, renaming
from fairsweep.cluster.jobs.comparing.display import ComparisonDisplay
from tests.cluster.test_compare import BOWLS, Crash, compared, essence, here, rows
from tests.cluster.test_compare_odd import WORDS


@pytest.fixture
def store(tmp_path: Path) -> Store:
    compared(tmp_path / "store", *BOWLS)
    return Store(str(tmp_path / "store"))


def told(store: Store, name: str) -> list[dict[str, Any]]:
    kept = ("method", "repeat", "score", "validation", "config", "cost_s", "search", "final")
    return [{key: row[key] for key in kept} for row in rows(Path(store.uri), name)]


def test_all_of_a_comparison_gets_another_name(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    before, names = told(store, "c"), store.names()
    answer = job.answered(store, "c")
    where = ["--storage", store.uri]
    assert run_cli(["rename", "c", "better", *where]) == 0
    assert capsys.readouterr().out == "c is better\n"
    assert store.names() == [name.replace("c.", "better.", 1) for name in names]
    after = told(store, "better")
    assert [{**row, "search": "", "final": ""} for row in after] == [
        {**r, "search": "", "final": ""} for r in before
    ]
    assert all(store.has(row["search"]) and store.has(row["final"]) for row in after)
    assert rows(Path(store.uri), "c") == [] and job.stored(store, "c") is None
    again = job.answered(store, "better")
    assert answer is not None and again is not None and again.sentence == answer.sentence
    assert run_cli(["ls", *where, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["sweep"], row["state"]) == ("better", "finished")
    spec = job.stored(store, "better")
    assert spec is not None
    grown = job.Run.of(plan.made(plan.resumed(spec, 3), store.uri), store, ComparisonDisplay(), 1)
    here(grown.fleet())
    assert [r["repeat"] for r in rows(Path(store.uri), "better")] == [0, 0, 1, 1, 2, 2]
    found = fairsweep.open_comparison("better", store.uri).rename("best")
    assert found.name == "best" and len(found.sweeps()) == 12
    with pytest.raises(UserError, match="all of which is under one name: fairsweep delete best"):
        found.sweeps()[0].delete()


@pytest.mark.parametrize("copies", [0, 1, 5, 8])
def test_a_renaming_that_is_cut_off_is_ended_by_the_same_words(
    store: Store, copies: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = essence(Path(store.uri))
    done, real = [0], upkeep.rename

    def cut(*given: Any) -> None:
        if done[0] == copies:
            raise Crash
        done[0] += 1
        real(*given)

    monkeypatch.setattr(upkeep, "rename", cut)
    monkeypatch.setattr(upkeep, "forget", lambda *given: cut())
    with pytest.raises(Crash):
        renaming.rename(store, "c", "d", job.sweeps_of(store, "c"))
    monkeypatch.undo()
    said = "the renaming of c to d was cut off; `fairsweep rename c d` ends it"
    for name in "cd":
        with pytest.raises(UserError, match=f"^{name}: {said}"):
            job.resume(store.uri, name, [], ComparisonDisplay())
        with pytest.raises(UserError, match=said):
            job.run(plan.asked(BOWLS, name, store.uri), ComparisonDisplay())
    for words in (["c", "e"], ["d", "e"]):
        assert run_cli(["rename", *words, "--storage", store.uri]) == 2
        assert said in capsys.readouterr().err
    assert run_cli(["rename", "c", "d", "--storage", store.uri]) == 0
    assert len(store.names()) == 8 and all(name.startswith("d.") for name in store.names())
    found = [{k: v for k, v in row.items() if k in wanted[0]} for row in rows(Path(store.uri), "d")]
    assert sorted(found, key=lambda r: (r["method"], r["data"], r["repeat"])) == wanted
    assert not renaming.is_cut_off(store, "c") and not store.folder.names("comparisons/c")


def test_names_that_are_taken_and_comparisons_that_have_not_ended_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--storage", str(tmp_path)]
    with pytest.raises(Crash):
        compared(tmp_path, *BOWLS, reports=14)
    compared(tmp_path, "test_bowl:kind=a,b", *WORDS[:2], "seeds=1", name="other")
    store = Store(str(tmp_path))
    names = store.names()
    for words, said in (
        (["c", "d"], "was not closed; `fairsweep resume c"),
        (["other", "c"], "name=c: "),
        (["other", "a/b"], "name=a/b: must be up to 60 letters"),
        (["other", "x" * 61], "must be up to 60 letters"),
    ):
        assert run_cli(["rename", *words, *where]) == 2
        assert said in capsys.readouterr().err
    with upkeep.alone(store, "comparisons", "other", "comparison"):
        assert run_cli(["rename", "other", "d", *where]) == 2
    assert store.names() == names
