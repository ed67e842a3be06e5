"""Data of one's own from the template to the store, and bad ones before anything is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairsweep.analysis.store import Store
from fairsweep.cluster.cli import run_cli
from fairsweep.trainables import catalog
from fairsweep.trainables.base import OWN_TASKS

PAPERS = [slug for slug in catalog.own() if catalog.get(slug).task in OWN_TASKS]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("slug", PAPERS)
def test_from_the_template_to_two_trials(slug: str, tmp_path: Path) -> None:
    folder, store = tmp_path / "data", tmp_path / "store"
    assert run_cli(["data", "template", slug, str(folder)]) == 0
    words = [f"trainable={slug}", "data=own", f"data_dir={folder}", "budget.trials=2", "budget.steps=2"]
    assert run_cli(["run", *words, "name=s", f"storage={store}"]) == 0
    rows = Store(store).table("trials", "s").to_pylist()
    assert [row["state"] for row in rows] == ["complete", "complete"]


@pytest.mark.parametrize(
    "nodes, message",
    [
        (
            "id,label,x\na,0,1\na,1,2\n",
            "data=own: nodes.csv, line 3: column 'id' has 'a' again; each must be there once",
        ),
        (None, "data=own: data_dir={} holds nothing; needs nodes.csv and edges.csv"),
    ],
)
def test_bad_data_end_a_sweep_before_there_is_a_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], nodes: str | None, message: str
) -> None:
    folder, store = tmp_path / "data", tmp_path / "store"
    folder.mkdir()
    if nodes is not None:
        (folder / "nodes.csv").write_text(nodes)
        (folder / "edges.csv").write_text("source,target\na,b\n")
    words = ["run", "trainable=dagnn", "data=own", f"data_dir={folder}", f"storage={store}"]
    assert run_cli(words) == 2
    err = capsys.readouterr().err
    assert message.format(folder) in err and err.count("\n") == 1 and not store.exists()
