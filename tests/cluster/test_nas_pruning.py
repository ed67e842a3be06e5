"""Fronts of OTO over what it is given: papers and networks by name, with real workers' code but without Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fairsweep.cluster.cli import run_cli
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs.nas import config as nas_config
from fairsweep.search_spaces.pruning import apply_recipe
from fairsweep.search_spaces.supernets.export import load_program
from fairsweep.trainables.base import Found
from fairsweep.trainables.tasks import compression
from fairsweep.trainables.vision import biper
from tests.cluster.test_nas import FILES, Crash, Engine
from tests.torch_alone import accuracies

torch.set_num_threads(1)

BIPER = ("algorithm=oto_v2", "trainable=biper", "target=0.3,0.6", "algorithm.seeds=1", "algorithm.steps=6")
BOTH = (
    "algorithm=oto_v3", "trainable=biper", "target=0.5", "algorithm.seeds=1", "algorithm.steps=6",
    "algorithm.config.mode=erase+prune", "algorithm.config.prune_frac=0.5",
)  # fmt: skip
TIMES = ("latency_ms", "latency_measured_ms", "full_latency_ms", "folder")


@pytest.mark.usefixtures("files")
def test_every_point_of_the_front_is_a_network_that_was_cut_and_measured(tmp_path: Path) -> None:
    engine = Engine(tmp_path, *BIPER)
    engine.run()
    trials, rows = engine.trials(), engine.architectures()
    assert [t["config.value"] for t in trials] == [0.3, 0.6] and engine.store.read("s").sweep[
        "objective"
    ] == "val_objective"
    assert "metric.val_accuracy" not in trials[0]
    options = {"weight_mode": "fp", "activations": "full", "backbone": "small", "width": 16, "depth": 4}
    for row, trial, share in zip(rows, trials, (0.3, 0.6), strict=True):
        assert share <= trial["metric.test_group_sparsity"] <= share + 0.07
        assert row["scored_by"] == "val_accuracy" and row["score"] == trial["value"]
        assert row["test"] == trial["metric.test_objective"] and json.loads(row["options"])["seed"] == 0
        assert 0 < row["params"] < row["full_params"] == 12_602 and 0 < row["flops"] < row["full_flops"]
        assert row["latency_ms"] > 0 and row["full_latency_ms"] > 0
        # The files: the recipe on a fresh network of the paper, with the weights, is what was tested.
        folder = Path(row["folder"])
        network = apply_recipe(
            biper.build(1, 8, 10, options), json.loads((folder / "recipe.json").read_text())
        )
        network.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
        from fairsweep.trainables.tasks.image_classification import ImageTask

        data = ImageTask("digits", None, "cpu", "none")
        assert data.evaluate(network, "test")[1] == pytest.approx(row["test"])
        x = data.standardise(data.parts["test"][0][:5])
        raw = data.parts["test"][0][:5]
        assert torch.allclose(load_program(folder)(raw), network(x), atol=1e-5)
        assert sorted(p.name for p in folder.iterdir()) == FILES
        test = data.parts["test"]
        assert accuracies([folder], *test, tmp_path) == pytest.approx([row["test"]])
        drawn = (folder / "architecture.svg").read_text()
        assert all("x".join(map(str, w.shape)) in drawn for w in network.parameters() if w.dim() > 1)
    assert rows[0]["params"] > rows[1]["params"] and any(row["on_front"] for row in rows)


@pytest.mark.slow
def test_a_front_of_both_modes_that_is_killed_anywhere_ends_as_the_uninterrupted_one(tmp_path: Path) -> None:
    def without_times(engine: Engine) -> list[dict[str, Any]]:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in engine.architectures()]

    whole = Engine(tmp_path / "whole", *BOTH)
    whole.run()
    (row,) = whole.architectures()
    assert "=" in row["architecture"] and len(row["architecture"].split()) < 1 + 4 + 1
    for crash_after in (1, whole.reports - 1):
        storage = tmp_path / str(crash_after)
        with pytest.raises(Crash):
            Engine(storage, *BOTH).run(crash_after)
        again = Engine(storage, *BOTH)
        again.run()
        assert without_times(again) == without_times(whole)


@pytest.mark.slow
@pytest.mark.usefixtures("files")
def test_a_network_of_ones_own_and_its_own_front(tmp_path: Path) -> None:
    words = ("algorithm=oto_v2", "target=0.5", "algorithm.steps=3", "data=digits300")
    given = Engine(
        tmp_path,
        *words,
        "algorithm.seeds=2",
        "trainable=trainables.vision._residual:small_residual",
        name="given",
    )
    given.run()
    own = Engine(tmp_path, *words, "algorithm.seeds=1", name="own")
    own.run()
    for engine, seeds in ((given, [0, 1]), (own, [0])):
        rows = engine.architectures()
        assert [json.loads(row["options"])["seed"] for row in rows] == seeds
        assert all(row["full_params"] == 19_130 > row["params"] for row in rows)
        assert all((Path(row["folder"]) / "recipe.json").is_file() for row in rows)
    assert own.trials()[0]["metric.test_group_sparsity"] >= 0.5


@pytest.mark.parametrize("algorithm", ["oto_v2", "oto_v3"])
def test_a_smaller_network_that_computes_something_else_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    """Whatever the proof let through: it is told by its outputs on real inputs, and never on the front."""
    cut = compression.slice_module

    def wrong(module: Any, *rest: Any) -> Any:
        small = cut(module, *rest)
        with torch.no_grad():
            next(small.parameters()).mul_(1.5)
        return small

    monkeypatch.setattr(compression, "slice_module", wrong)
    engine = Engine(
        tmp_path, f"algorithm={algorithm}", "target=0.5", "algorithm.seeds=1", "algorithm.steps=2", "data=digits300",
        "trainable=trainables.vision._residual:small_residual",
        *(["algorithm.config.mode=prune"] if algorithm == "oto_v3" else []),
    )  # fmt: skip
    engine.run()
    (trial,) = engine.trials()
    assert trial["state"] == "failed" and "the smaller network does not compute what" in trial["reason"]
    assert not engine.architectures()


def test_settings_reach_the_paper_and_the_method() -> None:
    settings = nas_config.load([*BIPER, "train.config.lr1=0.02", "algorithm.config.epsilon=0.5"])
    config = settings.front_config(0.6)
    assert config["trainable"] == "biper" and config["by"] == "oto_v2"
    assert config["train"]["lr1"] == 0.02 and config["train"]["weight_mode"] == "fp"
    assert config["oto"]["epsilon"] == 0.5 and config["oto"]["target_group_sparsity"] == 0.6
    # They depend on the base optimiser, which is the paper's.
    assert not {"lmbda_amplify", "hat_lmbda_coeff"} & set(config["oto"])
    again = nas_config.load([*BIPER, "algorithm.config.lmbda_amplify=3"]).front_config(0.6)
    assert again["oto"]["lmbda_amplify"] == 3
    assert settings.algorithm["values"] == [0.3, 0.6] and "on biper" in settings.heading
    assert nas_config.check(settings.tree).tree == settings.tree
    assert nas_config.load(["algorithm=oto_v2", "target=[0.2,0.4]"]).algorithm["values"] == [0.2, 0.4]
    assert nas_config.load([*BIPER, "trainable=null"]).pruned is None


def test_data_are_those_of_the_trainable() -> None:
    found = nas_config.load(["algorithm=oto_v2", "trainable=att_swin_unet", "data=synthetic_lesions_small"])
    assert found.front_config(0.5)["train"]["patch"] == 2
    with pytest.raises(UserError, match="data=digits: att_swin_unet has no such data set"):
        nas_config.load(["algorithm=oto_v2", "trainable=att_swin_unet", "data=digits"])
    assert nas_config.load(["algorithm=oto_v2", "trainable=timm:resnet18"]).data_name == "digits"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["trainable=dagnn"],
            "trainable=dagnn: its network cannot be pruned; those of att_swin_unet, biper, ",
        ),
        (["trainable=bipre"], "trainable=bipre: no such paper; a trainable is one of att_swin_unet, biper, "),
        (["trainable=biper", "train.config.weight_mode=biper"], "train.config.weight_mode=biper: must be fp"),
        (["trainable=biper", "train.config.width=7"], "train.config: "),
        (["trainable=biper", "algorithm.config.lr=0.1"], "algorithm.config.lr=0.1"),
        (["trainable=nowhere:net"], "nowhere:net: cannot be imported"),
        (["trainable=tests.trainables.test_pruned:wrong"], "must be logits (2, 10)"),
        (["trainable=biper", "target=1.5"], "target_group_sparsity"),
        (
            ["trainable=biper", "train.steps=3"],
            "train.steps=3: the epochs of a trainable are algorithm.steps",
        ),
        (["target=much"], "target=much: must be numbers, such as target=0.3,0.5,0.7"),
        (["target=0.5,0.5"], "algorithm.values=[0.5, 0.5]: must be a list of different numbers"),
        (["algorithm=evolution", "trainable=biper"], "trainable=biper: algorithm=evolution has none"),
        (
            ["algorithm=single_path", "trainable=biper"],
            "trainable=biper: algorithm=single_path has a network",
        ),
    ],
)
def test_bad_input_is_one_line_and_leaves_the_store_alone(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = [] if words[0].startswith("algorithm") else ["algorithm=oto_v2"]
    assert run_cli(["nas", *first, *words, f"storage={tmp_path / 'store'}"]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "store").exists()


class Spectral(nn.Module):
    """Has a singular value decomposition in the middle, whose arithmetic nobody has agreed on."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x).relu().mean((2, 3))) * torch.linalg.svdvals(x[:, 0])[:, :1]


@pytest.mark.parametrize("word", ["front=flops", "constraint.flops=1000"])
def test_flops_that_nobody_can_count_are_refused_where_they_decide(
    word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["algorithm=oto_v2", "trainable=tests.cluster.test_nas_pruning:Spectral", "front=params", word]
    assert run_cli(["nas", *words, f"storage={tmp_path / 'store'}"]) == 2
    error = capsys.readouterr().err
    assert f"{word.partition('=')[0]}" in error and "no formula for aten._linalg_svd" in error
    assert len(error.strip().splitlines()) == 1 and not (tmp_path / "store").exists()


def test_flops_that_nobody_can_count_are_said_and_left_out_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "trainable=tests.cluster.test_nas_pruning:Spectral"
    engine = Engine(tmp_path, "algorithm=oto_v2", name, "front=params")
    engine.search.check()
    warning = capsys.readouterr().err
    assert "no formula for aten._linalg_svd" in warning and warning.count("\n") == 1
    assert engine.search.costs("t", Found("", Spectral(), (1, 8, 8)))["flops"] is None
