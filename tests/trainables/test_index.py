"""The index of the catalogue: true, and enough for the verbs that tell of papers and stores."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fairsweep.trainables import catalog, index

QUICK = """
import contextlib, io, sys
from fairsweep.cluster.cli import run_cli
for words in (["list"], ["info", "dagnn"], ["info", "dagnn", "--json"], ["space", "dagnn"], ["--help"], ["--version"]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        assert run_cli(words) == 0, words
    assert out.getvalue(), words
for words in (["ls"], ["show", "s"], ["best", "s"]):  # of a store that is not there: an answer, too
    assert run_cli([*words, "--storage", sys.argv[1]]) == 2, words
import fairsweep.cluster.engine.worker  # as every worker of a sweep does
print([name for name in ("torch", "ray", "optuna", "hydra", "wandb", "sklearn", "scipy.stats") if name in sys.modules])
"""


def test_the_file_is_what_the_papers_say() -> None:
    assert index.FILE.read_text() == index.text(), "write it anew: python -m fairsweep.trainables.index"
    assert index.PAGE.read_text() == index.page()
    for slug in catalog.own():
        assert index.Entry.from_json(slug, index._file()[slug]) == index.of(catalog.get(slug))


def test_what_the_file_does_not_know_is_asked_of_the_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_file", dict)
    monkeypatch.setattr(catalog, "imported", lambda slug: False)
    assert index.entry("dagnn") == index.of(catalog.get("dagnn"))
    with pytest.raises(catalog.UnknownPaper, match="did you mean dagnn"):
        index.entry("dagn")


def test_telling_of_papers_and_stores_imports_neither_torch_nor_ray_nor_does_a_workers_start(
    tmp_path: Path,
) -> None:
    words = [sys.executable, "-W", "ignore", "-c", QUICK, str(tmp_path / "none")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
