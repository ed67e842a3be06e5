"""fairsweep from Python: settings as keywords, and what a sweep answers."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fairsweep
from fairsweep.analysis.store import UnknownSweep
from fairsweep.cluster import api, config
from tests.cluster.test_conductor import Crash, engine


def test_keywords_are_the_words_of_a_command_line(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "trainable": "test_bowl",
        "budget": {"trials": 7, "minutes": np.float64(1.5)},
        "seeds": 3,
        "scheduler": "asha",
        "name": "2026",
        "storage": tmp_path / "it's here",
        "space": {"x": {"high": 0.5}, "kind": "a"},
        "data_dir": None,
    }
    settings = config.load(api.words(given))
    assert settings.budget["trials"] == 7 and settings.budget["minutes"] == 1.5 and settings.seeds == 3
    assert settings.name == "2026" and settings.storage == str(tmp_path / "it's here")
    assert settings.scheduler["name"] == "asha" and settings.space.parameters["x"].high == 0.5
    assert settings.space.parameters["kind"].value == "a"
    configs = [{"x": 0.25, "kind": "b"}]
    listed = config.load(
        api.words({"trainable": "test_bowl", "search": "listed"}) + api.words({"search.configs": configs})
    )
    assert listed.search["configs"][0]["x"] == 0.25
    assert api.words({"budget": {"trials": "+20"}, "cpu": True}) == ["budget.trials=+20", "cpu=true"]
    with pytest.raises(TypeError, match=r"seeds: .* \(object\) is no setting"):
        api.words({"seeds": object()})


def test_wrong_settings_are_one_line_before_anything_is_written(tmp_path: Path) -> None:
    for wrong, word in (
        ({"budget": {"trials": 0}}, "budget.trials=0"),
        ({"lr": 0.1}, "space.lr"),
        ({"scheduler": "ascha"}, "did you mean asha"),
    ):
        with pytest.raises(fairsweep.UserError, match=word):
            fairsweep.run("dagnn", quiet=True, storage=tmp_path / "store", **wrong)
    assert not (tmp_path / "store").exists()
    with pytest.raises(fairsweep.UserError, match="no such folder"):
        fairsweep.open("s", tmp_path / "store")


def test_a_sweep_answers_from_its_store(tmp_path: Path) -> None:
    run = engine(tmp_path, "trainable=test_bowl", "budget.trials=4")
    run.run()
    sweep = fairsweep.open("s", tmp_path)
    assert sweep.state == "finished" and "test_bowl" in repr(sweep)
    assert sweep.trials().num_rows == 4 and sweep.trials()["number"].to_pylist() == [0, 1, 2, 3]
    rows = list(sweep)
    assert [row["seq"] for row in rows] == sorted(sweep.results()["seq"].to_pylist())
    best = sweep.best()
    assert best is not None and best["value"] == min(t["value"] for t in sweep.trials().to_pylist())
    page = sweep._repr_html_()
    assert page.count("<tr>") == 5 and f"{best['value']:.5g}" in page
    with pytest.raises(UnknownSweep):
        fairsweep.open("other", tmp_path)


def test_the_reports_of_a_running_sweep_come_as_they_are_made(tmp_path: Path) -> None:
    run = engine(tmp_path, "trainable=test_bowl", "budget.trials=3")
    with pytest.raises(Crash):
        run.run(crash_after=5)  # for a reader it goes on running
    sweep, got = fairsweep.open("s", tmp_path), []
    reader = threading.Thread(target=lambda: got.extend(sweep))
    reader.start()
    again = engine(tmp_path)
    again.run()
    reader.join(30)
    assert not reader.is_alive()
    assert [row["seq"] for row in got] == sorted(sweep.results()["seq"].to_pylist()) and len(got) > 5


def test_the_door_names_what_it_has() -> None:
    assert {"run", "resume", "open", "Store", "Space", "Paper", "Sweep"} <= set(dir(fairsweep))
    with pytest.raises(AttributeError, match=r"it has .*open, open_comparison, resume, run"):
        fairsweep.runn  # noqa: B018


@pytest.mark.slow
def test_a_sweep_runs_and_grows_from_python(tmp_path: Path) -> None:
    sweep = fairsweep.run(
        "biper", budget={"trials": 2, "steps": 32}, search="random", storage=tmp_path, name="p", quiet=True
    )
    assert sweep.state == "finished" and sweep.trials().num_rows == 2
    grown = sweep.resume(budget={"trials": "+1"}, quiet=True)
    assert grown.trials().num_rows == 3
    pandas = pytest.importorskip("pandas")
    assert isinstance(grown.to_pandas(), pandas.DataFrame)
