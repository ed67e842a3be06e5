"""What Hydra composes: experiments, who wins over whom, and that every option of every group is valid."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from fairsweep.cluster import config
from fairsweep.cluster.config import GROUPS, group_options
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs.nas import config as nas_config
from fairsweep.search_spaces import _yaml
from tests.cluster.test_conductor import engine


def test_an_experiments_values_win_over_the_defaults_and_lose_to_the_command_line() -> None:
    cora = config.load(["experiment=dagnn_cora"])
    assert (cora.trainable, cora.data, cora.seeds) == ("dagnn", "cora", 10)
    assert (cora.budget["trials"], cora.budget["steps"]) == (1, 1000)
    changed = config.load(["experiment=dagnn_cora", "seeds=3", "budget.trials=2"])
    assert (changed.data, changed.seeds, changed.budget["trials"]) == ("cora", 3, 2)


def test_the_forecasting_experiment_runs_on_the_authors_split() -> None:
    etth1 = config.load(["experiment=tpgn_etth1"])
    assert (etth1.data, etth1.seeds, etth1.budget["steps"]) == ("ett_h1", 5, 25)
    assert etth1.space.parameters["split"].value == "authors"
    assert etth1.space.paper_config("ett_h1")["split"] == "authors"


def test_a_searched_range_ends_where_the_data_set_does() -> None:
    def high(*words: str) -> object:
        found = config.load(["trainable=diffusion_gahb", "space.n_train.value=null", *words])
        assert config.check(found.tree) == found
        return found.space.parameters["n_train"].high

    assert high() == high("data=digits") == 800
    assert high("data=celeba") == 100_000
    assert high("space.n_train.high=500") == 500
    with pytest.raises(UserError, match=r"n_train.low=900: must be below 800, where data=digits ends"):
        high("space.n_train.low=900")


def test_folders_are_kept_from_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a sweep can be resumed from another folder, and by a shell that leaves ~ as it is."""
    (tmp_path / "home" / "data").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    bowl, wandb = "trainable=test_bowl", ("tracking=wandb", "tracking.dir=runs")
    for given in ("home/data", "~/data", f"{tmp_path}/home/data"):
        found = config.load([bowl, f"data_dir={given}", *wandb])
        assert found.data_dir == str(tmp_path / "home" / "data")
        assert found.tracking["dir"] == str(tmp_path / "runs")
        monkeypatch.chdir("/")
        assert config.check(found.tree) == found
        monkeypatch.chdir(tmp_path)
    table = nas_config.load(["algorithm=random", "scoring=table", "table=t.parquet"]).table
    assert table == str(tmp_path / "t.parquet")


def test_a_resumed_sweep_may_find_its_data_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        folder.mkdir()
    run = engine(tmp_path / "store", "trainable=test_bowl", "budget.trials=1", f"data_dir={old}")
    run.run()
    old.rmdir()
    monkeypatch.chdir(tmp_path)
    run.open(["data_dir=new", "budget.trials=2"])
    run.run()
    assert run.post.data_dir == str(new)
    assert run.store.read("s").sweep["data_dir"] == str(new)


@pytest.mark.parametrize("experiment", group_options("experiment"))
def test_every_experiment_composes(experiment: str) -> None:
    assert config.load([f"experiment={experiment}"]).trainable


@pytest.mark.parametrize(
    "choice",
    [f"{group}={option}" for group in GROUPS if group != "experiment" for option in group_options(group)],
)
def test_every_option_of_every_group_composes(choice: str) -> None:
    words = [choice] if choice.startswith("trainable=") else ["trainable=test_bowl", choice]
    if choice == "search=listed":
        words.append("search.configs=[{x: 0.1}]")
    if choice == "search=nsga2":
        words = ["trainable=test_trade", choice, "metric=[val_loss,size]"]
    settings = config.load(words)
    assert config.check(settings.tree) == settings


def test_settings_that_are_no_unicode_are_refused_in_words_that_can_be_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray does not start from a command line that is no UTF-8, and the store could not say the folder again."""
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    os.mkdir(folder)
    for setting in (
        f"data_dir='{folder}'",
        f"data_dir={folder}",
        "storage=caf\udce9",
        "space.omega.high=\ud800",
    ):
        with pytest.raises(UserError, match="is not valid Unicode") as caught:
            config.load(["trainable=biper", setting])
        str(caught.value).encode()
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match=r"data_dir=.*/caf\\udce9: is not valid Unicode"):
        config.load(["trainable=biper", "data_dir=."])


def test_the_files_of_settings_have_one_reading() -> None:
    for file in sorted(config.CONF.rglob("*.yaml")):
        assert _yaml.read_file(file) is not None


def test_an_experiment_with_two_readings_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = tmp_path / "conf"
    shutil.copytree(config.CONF, conf)
    (conf / "experiment" / "mine.yaml").write_text("# @package _global_\nspace:\n  kind:\n    value: off\n")
    monkeypatch.setattr(config, "CONF", conf)
    with pytest.raises(UserError, match=r"mine.yaml: line 4: off: YAML reads it as false.*quote it: 'off'"):
        config.load(["trainable=test_bowl", "experiment=mine"])


@pytest.mark.parametrize("name", ["2026", "1e5", "007", "true", "1_000"])
def test_a_name_is_text_whatever_it_looks_like(name: str) -> None:
    assert config.load(["trainable=test_bowl", f"name={name}"]).name == name
    assert config.load(["trainable=test_bowl", f"name='{name}'"]).name == name
    assert config.load(["trainable=test_bowl", "name=null"]).name is None
