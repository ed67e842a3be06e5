"""The layouts of `data=own`: the page shows what the templates write, and every paper runs on them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fairsweep.cluster.cli import run_cli
from fairsweep.trainables import catalog, data_check
from fairsweep.trainables.base import OWN, OWN_TASKS, Setting
from fairsweep.trainables.datasets.own import templates

PAPERS = [slug for slug in catalog.own() if catalog.get(slug).task in OWN_TASKS]
Folder = Callable[[str], Path]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """The folder with the template of a task, written once."""
    made: dict[str, Path] = {}

    def folder(task: str) -> Path:
        if task not in made:
            made[task] = tmp_path_factory.mktemp("own") / "data"
            templates.write(task, made[task])
        return made[task]

    return folder


def test_every_task_that_can_be_checked_on_ones_own_data_has_a_template() -> None:
    own = {task for task, sources in data_check.SOURCES.items() if any(OWN in s.loaders for s in sources)}
    assert own == set(templates.TEMPLATES) and own >= OWN_TASKS


@pytest.mark.parametrize("task", templates.TEMPLATES)
def test_the_page_shows_what_the_template_writes(task: str, template: Folder) -> None:
    folder = template(task)
    section = templates.section(task)
    shown = section.split("```\n")[-2]
    assert shown == templates.example(task, folder) + "\n"
    assert len(shown.splitlines()) <= 18 and section in (folder / templates.README).read_text()


@pytest.mark.parametrize("task", templates.TEMPLATES)
def test_a_template_can_be_checked(task: str, template: Folder) -> None:
    (found,) = data_check.check(task, template(task), OWN)
    about = found.description
    assert found.data == OWN and about.sizes and (about.parts or about.drawn)
    assert json.dumps(found.to_dict())


def test_a_template_that_a_library_is_missing_for_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there").mkdir()
    monkeypatch.setitem(sys.modules, "PIL", None)
    for name in ("new", "there"):
        assert run_cli(["data", "template", "image classification", str(tmp_path / name)]) == 2
        assert "pip install 'fairsweep[images]'" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_the_verb_writes_a_template_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a b"
    assert run_cli(["data", "template", "dagnn", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "3 files" in out and f"data check 'node classification' '{folder}'" in out
    assert run_cli(["data", "template", "dagnn", str(folder)]) == 2
    assert "is there already and not empty; name a new one" in capsys.readouterr().err
    assert run_cli(["data", "template", "pdvn"]) == 2
    assert "its task, retrosynthesis, reads no data of one's own" in capsys.readouterr().err


# One paper of a task or two in every run of the tests: how a task reads its data is the same for all of them.
OFTEN = {"image classification": ("biper", "gradient_noise"), "architecture search": ("standalone",)}


def _seldom(slug: str) -> list[pytest.MarkDecorator]:
    return [] if slug in OFTEN.get(catalog.get(slug).task, (slug,)) else [pytest.mark.slow]


@pytest.mark.parametrize("slug", [pytest.param(slug, marks=_seldom(slug)) for slug in PAPERS])
def test_every_paper_runs_on_the_template_of_its_task(slug: str, template: Folder) -> None:
    paper = catalog.get(slug)
    assert OWN in paper.datasets and paper.datasets[0] != OWN
    config = paper.space().fill({k: v for k, v in paper.tiny.config.items()}, OWN)
    if why := paper.unsuited(config, OWN, template(paper.task)):
        pytest.skip(f"{slug}: {why}")
    trial: Any = paper()
    trial.setup(config, Setting(0, "cpu", OWN, template(paper.task), 2))
    assert set(trial.parts()) >= {"validation", "test"} and trial.members().shared() is None
    found = trial.step()
    assert paper.objective in found and all(value == value for value in found.values())
    if slug not in ("pa_da", "diffusion_gahb"):  # whose tests take seconds, on whatever data
        assert {m.name for m in paper.metrics if m.split == "test"} == set(trial.test())
