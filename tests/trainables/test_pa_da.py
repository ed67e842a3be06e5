"""PA&DA as a paper: its schedule, its strategies, its ranking; and the stand-alone training beside it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from scipy import stats

from fairsweep.search_spaces.space import Space
from fairsweep.trainables import catalog
from fairsweep.trainables.base import DataError, Paper, Setting
from fairsweep.trainables.nas import pa_da
from fairsweep.trainables.nas.pa_da import PaDa, ramp
from fairsweep.trainables.nas.standalone import Standalone
from fairsweep.trainables.tasks import truth_tables
from fairsweep.trainables.tasks.data_sampling import ImportanceData, UniformData
from fairsweep.trainables.tasks.path_sampling import FairPaths, ImportancePaths, SandwichPaths, UniformPaths
from fairsweep.trainables.tasks.path_scoring import path_accuracies

torch.set_num_threads(1)

SMALL = {"train_images": 130, "validation_images": 100}


def config(slug: str = "pa_da", **changes: Any) -> dict[str, Any]:
    """The paper's configuration for digits with `changes`, completed and validated by the space."""
    declared = Space.load(slug)
    raw = yaml.safe_load(Path(declared.source).read_text()) | changes
    space = Space.from_mapping(raw, declared=declared)
    return space.validate(space.paper_config("digits"))


def trial(steps: int = 4, seed: int = 0, **changes: Any) -> PaDa:
    paper = PaDa()
    paper.setup(config(**{**SMALL, **changes}), Setting(seed=seed, steps=steps, data="digits"))
    return paper


def run(paper: Paper) -> list[dict[str, float]]:
    rows = []
    while not paper.finished:
        rows.append(paper.step())
    return rows


# ---- schedule ----


def test_importance_grows_from_nothing_and_never_to_all() -> None:
    shares = [ramp("linear", e, 40) for e in range(40)]
    assert shares[0] == 0 and shares[-1] == 39 / 40
    assert np.diff(shares) == pytest.approx(1 / 40)
    assert ramp("cosine", 0, 40) == 0 and ramp("cosine", 20, 40) == pytest.approx(0.5)
    assert ramp("constant", 0, 40) == 1
    with pytest.raises(ValueError, match="schedule=step: known are linear, constant, cosine"):
        ramp("step", 0, 40)


def test_first_two_epochs_are_uniform_and_later_ones_bounded() -> None:
    paper = trial(steps=4)
    rule, examples = paper.path_rule, paper.data_rule
    assert isinstance(examples, ImportanceData)
    for epoch in range(4):
        for p in rule.probabilities.values():
            assert p.sum() == pytest.approx(1)
            if epoch < 2:
                assert p.tolist() == [0.2] * 5
            else:
                assert p.min() == pytest.approx((1 - (epoch - 1) / 4) / 5) and p.max() > 0.25
        paper.step()
        share = epoch / 4
        assert examples.probabilities.sum() == pytest.approx(1)
        assert examples.probabilities.min() >= (1 - share) / 130 - 1e-12
    convolutions = [p[2] + p[3] for p in rule.probabilities.values()]
    assert len(set(convolutions)) == 1, "one distribution for all edges"
    assert convolutions[0] == pytest.approx(1 - 3 * (1 - 3 / 4) / 5)


def test_maxima_scale_the_schedule() -> None:
    paper = trial(steps=4, tau_max=0.5, delta_max=0.0)
    run(paper)
    assert isinstance(paper.data_rule, ImportanceData)
    assert set(paper.data_rule.probabilities.tolist()) == {1 / 130}
    assert paper.path_rule.probabilities["edge_0_1"][0] == pytest.approx((1 - 0.5 * 3 / 4) / 5)


# ---- strategies ----


@pytest.mark.parametrize(
    ("strategy", "paths", "examples", "passes"),
    [
        ("pada", ImportancePaths, ImportanceData, 1),
        ("pa", ImportancePaths, UniformData, 1),
        ("da", UniformPaths, ImportanceData, 1),
        ("uniform", UniformPaths, UniformData, 1),
        ("fairnas", FairPaths, UniformData, 5),
        ("sandwich", SandwichPaths, UniformData, 4),
        ("sumnas", FairPaths, UniformData, 5),
    ],
)
def test_strategies_are_what_they_are_called(strategy: str, paths: type, examples: type, passes: int) -> None:
    paper = trial(steps=2, strategy=strategy)
    assert type(paper.path_rule) is paths and type(paper.data_rule) is examples
    assert paper.path_rule.paths == passes
    rows = run(paper)
    assert all(math.isfinite(v) for row in rows for v in row.values())
    assert rows[-1]["gradient_variance"] > 0
    assert paper.optimiser.param_groups[0]["lr"] == pytest.approx(
        (1.0 if strategy == "sumnas" else 0.05) * 0.5
    )


def test_strategies_share_start_paths_and_data_of_the_first_epoch() -> None:
    rows = {s: trial(strategy=s).step() for s in ("pada", "pa", "da", "uniform")}
    assert all(row == rows["uniform"] for row in rows.values())
    assert trial(strategy="fairnas").step() != rows["uniform"]


def test_unknown_strategy_is_named() -> None:
    with pytest.raises(ValueError, match="strategy=spos: known are"):
        pa_da.path_rule(trial().supernet, {"strategy": "spos"})


def test_chain_supernet_and_augmentation() -> None:
    paper = trial(steps=1, supernet="chain", augmentation="crop_flip", granularity="edge_op")
    assert paper.supernet.kind == "chain" and run(paper)


def test_resumes_within_the_importance_epochs() -> None:
    whole = trial(steps=5, strategy="pada", granularity="edge_op", floor=0.02)
    rows = run(whole)
    first = trial(steps=5, strategy="pada", granularity="edge_op", floor=0.02)
    for _ in range(3):
        first.step()
    second = trial(steps=5, strategy="pada", granularity="edge_op", floor=0.02)
    second.load_state_dict(first.state_dict())
    assert run(second) == rows[3:]


def test_last_weights_are_kept_not_the_best() -> None:
    paper = trial(steps=3)
    for _ in range(2):
        paper.step()
        assert paper.best is None
    paper.step()
    assert paper.best is not None and paper.best["step"] == 3


def test_measured_paths_are_the_same_for_every_trial() -> None:
    a, b = trial(seed=1), trial(seed=2)
    assert a.measured == b.measured and len(a.measured) == 10
    row = a.step()
    accuracy, loss = path_accuracies(a.supernet, a.measured, a.data, "validation")
    assert row["val_accuracy"] == accuracy.mean() and row["val_loss"] == loss.mean()


# ---- ranking ----


def test_ranks_on_validation_against_the_truth(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FAIRSWEEP_CACHE", str(tmp_path))
    paper = trial(steps=1)
    run(paper)
    found = paper.test()
    (file,) = (tmp_path / "truth").glob("*.parquet")
    table = truth_tables.read_table(file)
    assert len(table) == 8 and table.space.id == paper.supernet.space.id
    scores, _ = path_accuracies(paper.supernet, table.keys, paper.data, "validation")
    true = table.means("test_accuracy")
    assert found["tau"] == pytest.approx(stats.kendalltau(scores, true).statistic)
    assert found["tau_of_flops"] == pytest.approx(stats.kendalltau(table.prices["flops"], true).statistic)
    accuracy, _ = path_accuracies(paper.supernet, paper.measured, paper.data, "test")
    assert found["test_accuracy"] == accuracy.mean()


def test_no_truth_where_training_one_would_be_long(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FAIRSWEEP_CACHE", str(tmp_path))
    monkeypatch.setattr(truth_tables, "QUICK", 1)
    paper = trial(steps=1)
    run(paper)
    assert set(paper.test()) == {"test_accuracy"}


# ---- stand-alone ----


def test_catalogue_finds_both() -> None:
    assert catalog.get("pa_da") is PaDa and catalog.get("standalone") is Standalone


def alone(text: str = "random", seed: int = 0, steps: int = 2, **changes: Any) -> Standalone:
    paper = Standalone()
    paper.setup(
        config("standalone", architecture=text, **{**SMALL, **changes}),
        Setting(seed, data="digits", steps=steps),
    )
    return paper


def test_standalone_trains_the_architecture_that_its_text_names() -> None:
    text = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|nor_conv_1x1~0|none~1|avg_pool_3x3~2|"
    paper = alone(text)
    assert paper.architecture.indices == (3, 0, 1, 2, 0, 4)
    kernels = [m.kernel_size for m in paper.net.modules() if isinstance(m, torch.nn.Conv2d)]
    # stem, two cells with a 3x3 and a 1x1 each, a residual block of 3x3, 3x3 and its shortcut between them
    assert sorted(kernels) == [(1, 1)] * 3 + [(3, 3)] * 5
    assert any(isinstance(m, torch.nn.BatchNorm2d) and m.track_running_stats for m in paper.net.modules())
    group = paper.optimiser.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"], group["nesterov"]) == (
        0.1,
        0.9,
        5e-4,
        True,
    )
    rows = run(paper)
    assert len(rows) == 2 and group["lr"] == pytest.approx(0.05)
    assert paper.best is not None and paper.best["step"] == 2


def test_standalone_draws_an_architecture_by_its_seed() -> None:
    assert alone(seed=1).architecture == alone(seed=1).architecture != alone(seed=2).architecture
    assert len(alone("22222", supernet="chain").architecture.indices) == 5


def test_standalone_refuses_what_is_no_architecture() -> None:
    with pytest.raises(ValueError, match="1 nodes"):
        alone("|none~0|")
    none = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
    with pytest.raises(ValueError, match="not a valid network"):
        alone(none)


# ---- the paper's experiment ----


@pytest.mark.slow
def test_path_importance_trains_convolutions_on_fashion_mnist(data_dir: Path) -> None:
    paper = PaDa()
    setting = Setting(0, data="fashion_mnist_7x7", data_dir=data_dir, steps=40)
    try:
        paper.setup(PaDa.space().fill({}, "fashion_mnist_7x7"), setting)
    except DataError as error:
        pytest.skip(str(error))
    run(paper)
    p = paper.path_rule.probabilities["edge_0_1"]
    assert p[[0, 1, 4]] == pytest.approx(0.005) and p[3] > p[2] > 0.2
