"""Networks by name, and what `fairsweep prune --explain` says of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fairsweep.cluster.cli import run_cli
from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs.models import load_model


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 3), nn.Sigmoid())


def raises() -> nn.Module:
    return {}["width"]


def leaves() -> nn.Module:
    raise SystemExit("usage: ...")


def asks(depth: int) -> nn.Module:
    return nn.Linear(depth, depth)


def imports() -> nn.Module:
    import nothing_of_this_name  # noqa: F401

    return nn.Identity()


def nothing() -> None:
    """Builds, and forgets to return."""


made = nn.Linear(2, 2)


def test_a_paper_gives_its_network_and_images_of_its_size() -> None:
    net, inputs = load_model("oto_v2", None)
    assert inputs.shape == (2, 1, 8, 8) and net(inputs).shape == (2, 10)


def test_a_function_of_ones_own_gives_a_network() -> None:
    net, inputs = load_model("tests.cluster.test_models:small", (3, 12, 12))
    assert torch.equal(inputs, torch.zeros(2, 3, 12, 12)) and isinstance(net, nn.Sequential)


def test_groups_are_explained_in_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["prune", "--explain", "tests.cluster.test_models:small", "--input-shape", "3,12,12"]) == 0
    out = capsys.readouterr().out
    assert "8 groups in 1 components" in out and "yes" in out and "output" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["resnet"], "no such paper"),
        (["dagnn"], "no network of images"),
        (["nowhere_at_all:net", "--input-shape", "3,8,8"], "cannot be imported"),
        (["tests.cluster.test_models:big", "--input-shape", "3,8,8"], "has no big"),
        (["tests.cluster.test_models:", "--input-shape", "3,8,8"], "has no name after the colon"),
        ([":small", "--input-shape", "3,8,8"], ":small: cannot be imported"),
        (
            ["tests.cluster.test_models:raises", "--input-shape", "3,8,8"],
            "raises() failed; KeyError: 'width' (",
        ),
        (
            ["tests.cluster.test_models:leaves", "--input-shape", "3,8,8"],
            "leaves() failed; SystemExit: usage: ...",
        ),
        (["tests.cluster.test_models:asks", "--input-shape", "3,8,8"], "asks() failed; TypeError: "),
        (
            ["tests.cluster.test_models:imports", "--input-shape", "3,8,8"],
            "ModuleNotFoundError: No module named",
        ),
        (
            ["tests.cluster.test_models:nothing", "--input-shape", "3,8,8"],
            "nothing() returns NoneType; must return a torch.nn.Module",
        ),
        (
            ["tests.cluster.test_models:made", "--input-shape", "3,8,8"],
            "is a Linear; must be a function that makes",
        ),
        (
            ["tests.cluster.test_models:torch", "--input-shape", "3,8,8"],
            "is a module; must be a function that makes",
        ),
        (["tests.cluster.test_models:small"], "--input-shape is missing"),
        (["tests.cluster.test_models:small", "--input-shape", "3,x"], "--input-shape=3,x"),
    ],
)
def test_bad_input_is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["prune", "--explain", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1


def test_a_model_of_a_library_that_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(UserError, match=r"fairsweep\[models\]"):
        load_model("timm:resnet18", (3, 32, 32))
