"""Papers that come from elsewhere: plug-ins that fail, and sweeps of plug-ins that are not at hand."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from fairsweep.cluster.cli import run_cli
from fairsweep.trainables import catalog
from tests.cluster.test_bad_input import snapshot
from tests.cluster.test_conductor import engine


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("fairsweep: error: ")
    return line


@pytest.mark.parametrize(
    "source, words",
    [
        ('raise RuntimeError("no licence\\nfor you")', ["raises RuntimeError: no licence for you", "line 1"]),
        ("x = 1\ndef f(:\n", ["raises SyntaxError: invalid syntax", "line 2"]),
        ('import sys\nsys.exit("bye")', ["raises SystemExit: bye", "line 2"]),
        ("import no_such_module_anywhere", ["cannot be imported", "no_such_module_anywhere"]),
        (
            "from trainables.base import Paper\nfrom trainables.catalog import register\n"
            "@register\nclass Half(Paper): pass",
            ["raises TypeError: paper Half does not declare slug"],
        ),
    ],
)
def test_a_plugin_that_raises_on_import_is_one_line(
    source: str,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "broken_plugin.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("FAIRSWEEP_PLUGINS", "tests.papers,broken_plugin")
    for command in (["list"], ["run", "trainable=test_bowl", f"storage={tmp_path / 'store'}"]):
        assert run_cli(command) == 2
        line = one_line(capsys)
        assert "FAIRSWEEP_PLUGINS=broken_plugin: " in line
        assert all(word in line for word in words), line
    assert not (tmp_path / "store").exists()
    assert "broken_plugin" not in sys.modules


def test_a_room_that_is_not_there_by_its_short_name_is_named_by_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gone(name: str) -> None:
        raise ModuleNotFoundError("No module named 'trainables'", name="trainables")

    monkeypatch.setattr(catalog.importlib, "import_module", gone)
    monkeypatch.setenv("FAIRSWEEP_PLUGINS", "mine")
    with pytest.raises(catalog.UnknownPaper, match=r"installed, its name is fairsweep\.trainables"):
        catalog.slugs()


def test_an_entry_point_that_raises_names_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other_broken.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(str(tmp_path))
    point = EntryPoint("mine", "other_broken", "fairsweep.papers")
    monkeypatch.setattr(catalog, "entry_points", lambda group: [point])
    assert run_cli(["list"]) == 2
    assert "entry point fairsweep.papers: mine = other_broken: raises ZeroDivisionError" in one_line(capsys)


def test_a_sweep_knows_where_its_plugin_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = engine(tmp_path, "trainable=test_bowl", "budget.trials=1")
    run.run()
    before = snapshot(tmp_path)
    for slug in [slug for slug, paper in catalog._papers.items() if catalog.plugin_of(paper)]:
        monkeypatch.delitem(catalog._papers, slug)
    monkeypatch.delenv("FAIRSWEEP_PLUGINS")
    assert run_cli(["resume", "s", "budget.trials=+1", "--storage", run.store.uri]) == 2
    line = one_line(capsys)
    assert "trainable=test_bowl: no such paper; " in line
    assert f"came from tests.papers ({Path(__file__).parents[1] / 'papers.py'})" in line
    assert "FAIRSWEEP_PLUGINS=tests.papers" in line
    assert snapshot(tmp_path) == before
    for command in ("show", "best", "clean"):
        assert run_cli([command, "s", "--storage", run.store.uri]) == 0


def test_the_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["--version"]) == 0
    assert capsys.readouterr().out.startswith("fairsweep 0.1.0")
