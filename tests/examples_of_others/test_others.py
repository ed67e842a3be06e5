"""Public examples of Optuna and Ray Tune run as they are, or are refused by the name of what they use.

Each is looked through in this process, and one trial of it is run by a `LegRunner`, without Ray.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairsweep.cluster import objectives
from fairsweep.cluster.engine.conductor import Leg
from fairsweep.cluster.engine.post import Post
from fairsweep.cluster.engine.worker import LegRunner
from fairsweep.cluster.tune import script
from fairsweep.search_spaces import _yaml
from fairsweep.trainables.own import dry_runs, known
from fairsweep.trainables.own.source import TrainableError
from tests.examples_of_others.listed import BEGIN, DOCS, END, EXAMPLES, HERE, Example, written
from tests.trainables.own.here import Here


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dry runs and scripts' main parts, which have a process of their own in earnest, run here."""

    def find(given: Any) -> dict[str, Any]:
        found = script.run_main(given)
        if "error" in found:
            raise TrainableError(found["error"])
        return found

    monkeypatch.setattr("sys.argv", ["test"])
    monkeypatch.setattr("sys.path", ["", *__import__("sys").path])
    monkeypatch.setattr(script, "find", find)
    monkeypatch.setattr(dry_runs, "_Process", Here)
    monkeypatch.setattr(dry_runs, "RANDOM_RUNS", 2)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.file)
def test_an_example_runs_as_it_is_or_is_refused_by_name(example: Example, tmp_path: Path) -> None:
    tree: dict[str, Any] = {"trainable": f"{HERE / example.file}:{example.name}"}
    for word in example.settings:
        key, _, value = word.partition("=")
        tree[key] = _yaml.read(value, key)
    if example.refused:
        with pytest.raises(Exception) as error:
            objectives.tuned(tree).space()
        assert example.refused in str(error.value) and "\n" not in str(error.value)
        return
    paper = objectives.tuned(tree)
    config = paper.space().sample(np.random.default_rng(1))
    source = known.source_of(paper)
    assert source is not None
    choice = objectives.led(tree)
    runner = LegRunner(Post("s", tree["trainable"], str(tmp_path), source=source.to_json(), **choice))
    maximum = paper.fidelity(config).maximum
    runner.take(Leg("00001-0", config, 0, 0, maximum, ()))
    rows: list[Any] = []
    while (report := runner.step())["status"] == "running":
        rows += report["rows"]
    rows += report["rows"]
    assert report["status"] == "complete", report.get("failure")
    assert paper.objective in rows[-1]["metrics"]


def test_the_docs_list_them() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert BEGIN in text and END in text
    assert text == written(), "python -m tests.examples_of_others.listed"
    assert sum(e.file.startswith("optuna") for e in EXAMPLES) >= 30
    assert sum(e.file.startswith("tune") for e in EXAMPLES) >= 10
    files = {
        p.relative_to(HERE).as_posix() for folder in ("optuna", "tune") for p in (HERE / folder).glob("*.py")
    }
    assert files == {e.file for e in EXAMPLES}
