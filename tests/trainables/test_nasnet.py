"""NASNet's child training: which architecture, drop path, auxiliary head, decay; against the paper's recipe."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn

from fairsweep.search_spaces.architectures import ArchitectureError
from fairsweep.search_spaces.space import Space, SpaceError
from fairsweep.search_spaces.supernets.nasnet_network import DropPath
from fairsweep.trainables.base import Setting
from fairsweep.trainables.nas.nasnet import NASNetChild

torch.set_num_threads(1)
TEXT = "0:conv_1x1+1:identity-2:max_3x3++0:avg_3x3/0:avg_3x3+1:max_3x3-2:identity+1:avg_3x3"


def config(data: str = "digits", **changes: Any) -> dict[str, Any]:
    """The paper's configuration with `changes`, completed and validated by the space."""
    declared = Space.load("nasnet")
    raw = yaml.safe_load(Path(declared.source).read_text()) | changes
    space = Space.from_mapping(raw, declared=declared)
    return space.for_data(data).validate(space.paper_config(data))


def trial(steps: int | None = None, seed: int = 0, **changes: Any) -> NASNetChild:
    paper = NASNetChild()
    cheap = {"architecture": TEXT, "filters": 4, "batch_size": 128, **changes}
    paper.setup(config(**cheap), Setting(seed=seed, steps=steps))
    return paper


def keeps(paper: NASNetChild) -> list[float]:
    """The probabilities to keep an operation, one a cell."""
    return [next(m.keep for m in cell.modules() if isinstance(m, DropPath)) for cell in paper.net.cells]


def test_paper_values_are_those_of_the_experiment() -> None:
    cifar = Space.load("nasnet").paper_config("cifar10")
    assert (cifar["lr"], cifar["batch_size"], cifar["clip_norm"], cifar["weight_decay"]) == (
        0.025,
        32,
        5.0,
        5e-4,
    )
    assert (cifar["drop_path_keep"], cifar["drop_path_version"], cifar["auxiliary_weight"]) == (
        0.6,
        "v3",
        0.4,
    )
    papers = {name: p.paper["default"] for name, p in Space.load("nasnet").parameters.items() if p.paper}
    assert (papers["n_blocks"], papers["n_repeat"], papers["filters"]) == (5, 6, 32)


def test_the_default_is_nasnet_a_with_its_output() -> None:
    paper = trial(architecture="nasnet_a", n_blocks=5, filters=4)
    assert [cell.concat for cell in paper.net.cells] == [
        (1, 2, 3, 4, 5, 6), (3, 4, 5, 6), (1, 2, 3, 4, 5, 6), (3, 4, 5, 6), (1, 2, 3, 4, 5, 6),
    ]  # fmt: skip
    plain = trial(architecture="nasnet_a", n_blocks=5, concat_used=False)
    assert [cell.concat for cell in plain.net.cells[:2]] == [(2, 3, 4, 5, 6), (4, 5, 6)]


def test_the_text_of_an_architecture_is_trained() -> None:
    paper = trial()
    cell: Any = paper.net.cells[0]
    assert [b.operations for b in cell.blocks] == [("conv_1x1", "identity"), ("max_3x3", "avg_3x3")]
    assert cell.combine[1].convolution is not None
    assert "concat_used" not in paper.config


def test_random_architectures_follow_the_seed() -> None:
    drawn = [trial(seed=seed, architecture="random").architecture for seed in (0, 0, 1, 2)]
    assert drawn[0] == drawn[1] and len(set(drawn)) == 3


def test_what_is_no_architecture_is_refused() -> None:
    with pytest.raises(ArchitectureError, match="two cells joined by / of 3 blocks"):
        trial(n_blocks=3)
    with pytest.raises(ArchitectureError, match="two cells joined by /"):
        trial(architecture="nasnet_b")
    with pytest.raises(SpaceError, match="drop_path_keep"):
        Space.load("nasnet").validate(config() | {"drop_path_keep": 0.4})
    with pytest.raises(ValueError, match=r"final=0.0: must lie in \(0, 1\]"):
        trial(drop_path_keep=0.0).drop_paths(0.5)


def test_the_space_holds_only_what_exists() -> None:
    assert {"drop_path_keep", "drop_path_version"}.isdisjoint(config(drop_path="none"))
    constant = config(drop_path="constant")
    assert "drop_path_keep" in constant and "drop_path_version" not in constant
    assert "auxiliary_weight" not in config(auxiliary=False)
    assert "concat_used" not in config(architecture="random")


def test_paths_are_dropped_more_and_more() -> None:
    paper = trial(steps=2)
    seen: list[list[float]] = []
    descend = paper.descend

    def watch(*args: Any) -> None:
        seen.append(keeps(paper))
        descend(*args)

    paper.descend = watch  # type: ignore[method-assign]  # to look at every step
    paper.step()
    paper.step()
    batches = math.ceil(600 / 128)
    assert len(seen) == 2 * batches
    for k, found in enumerate(seen):
        progress = k / len(seen)
        assert found == pytest.approx([1 - progress * 0.4 * (cell + 1) / 5 for cell in range(5)])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"drop_path": "none"}, [1.0] * 5),
        ({"drop_path": "constant"}, [0.6] * 5),
        ({"drop_path_version": "v1"}, [0.8] * 5),
        ({"drop_path_version": "v2"}, [1 - 0.08 * (k + 1) for k in range(5)]),
        ({}, [1 - 0.04 * (k + 1) for k in range(5)]),
    ],
)
def test_the_ways_to_drop_paths(changes: dict[str, Any], expected: list[float]) -> None:
    paper = trial(**changes)
    paper.drop_paths(0.5)
    assert keeps(paper) == pytest.approx(expected)


def test_the_auxiliary_head_adds_its_share_of_the_loss() -> None:
    paper = trial(auxiliary_weight=0.3)
    x, y = next(paper.data.batches(64))
    loss, classified = paper.loss(x, y)
    logits, auxiliary = paper.net.both_logits(x)
    assert auxiliary is not None
    torch.testing.assert_close(classified, F.cross_entropy(logits, y))
    torch.testing.assert_close(loss, classified + 0.3 * F.cross_entropy(auxiliary, y))
    alone = trial(auxiliary=False)
    assert alone.net.auxiliary is None
    assert torch.equal(*alone.loss(x, y))


def test_only_weights_decay() -> None:
    paper = trial()
    decayed, others = paper.optimiser.param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (5e-4, 0.0)
    kinds = {id(p): m for m in paper.net.modules() for p in m.parameters(recurse=False)}
    assert {type(kinds[id(p)]) for p in others["params"]} == {nn.BatchNorm2d, nn.Linear}
    assert not any(isinstance(kinds[id(p)], nn.BatchNorm2d) for p in decayed["params"])
    total = sum(p.numel() for group in paper.optimiser.param_groups for p in group["params"])
    assert total == sum(p.numel() for p in paper.net.parameters())


def test_the_learning_rate_is_one_cosine() -> None:
    paper = trial(steps=3, lr=0.1)
    seen = []
    for _ in range(3):
        paper.step()
        seen.append({group["lr"] for group in paper.optimiser.param_groups})
    assert [rate for (rate,) in seen] == pytest.approx([0.1, 0.075, 0.025])


@pytest.mark.slow
def test_digits_are_learnt() -> None:
    paper = NASNetChild()
    paper.setup(config(), Setting(steps=6))
    rows = [paper.step() for _ in range(6)]
    assert rows[-1]["val_accuracy"] > 0.85
    assert paper.test()["test_accuracy"] > 0.85
