"""Networks as files: the same logits after every way out and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fairsweep.search_spaces import deployment
from fairsweep.search_spaces.normalisation import recalibrate
from fairsweep.search_spaces.supernets import Supernet, build_supernet
from fairsweep.search_spaces.supernets.export import (
    ExportError,
    load_network,
    load_program,
    run_onnx,
    save_network,
)
from tests.search_spaces.supernets.test_contract import KINDS, images, paths

torch.set_num_threads(1)

CELL = "|nor_conv_1x1~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|nor_conv_3x3~2|"
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


def check(net: Supernet, seed: int, form: str, folder: Path, onnx: bool) -> None:
    path = net.space.sample(seed)
    module = net.build(path).eval() if form == "built" else net.extract(path)
    if form == "running":
        module = recalibrate(module, [images(net, 16)])
    recipe = save_network(folder, net, path, module, images(net), onnx=onnx)
    assert recipe["architecture"] == net.space.format(path)
    assert recipe["normalisation"] == ("batch" if form == "batch" else "running")
    for size in (5,) if form == "batch" else (1, 5):
        x = images(net, size, seed=3)
        with torch.no_grad():
            wanted = module(x)
            assert torch.equal(load_network(folder)(x), wanted)
            assert (load_program(folder)(x) - wanted).abs().max() <= 1e-5
            if form == "batch":
                assert (wanted - net(x, path)).abs().max() <= 1e-5
        if onnx:
            size_of_logits = max(1.0, wanted.abs().max().item())  # rounding grows with what is rounded
            assert (run_onnx(folder, x) - wanted).abs().max() <= 1e-5 * size_of_logits


@pytest.mark.parametrize("kind", KINDS)
def test_extracted_network_survives_torch_export(kind: str, tmp_path: Path) -> None:
    check(build_supernet(kind), 0, "batch", tmp_path, onnx=False)


@pytest.mark.parametrize(
    "kind", [k if k == "chain" else pytest.param(k, marks=pytest.mark.slow) for k in KINDS]
)
def test_recalibrated_network_survives_onnx(kind: str, tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    check(build_supernet(kind), 1, "running", tmp_path, onnx=True)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["batch", "running", "built"])
@pytest.mark.parametrize("kind", KINDS)
def test_networks_of_many_paths_survive_every_format(kind: str, form: str, tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    net = build_supernet(kind)
    for seed in range(5):
        check(net, seed, form, tmp_path, onnx=True)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Supernet, nn.Module]:
    net = build_supernet("cell", seed=5, channels=4)
    path = net.space.parse(CELL)
    module = net.build(path)
    folder = tmp_path_factory.mktemp("network")
    save_network(folder, net, path, module, images(net, 1), onnx=False)
    return folder, net, module


def test_network_comes_back_from_recipe_and_weights_alone(
    saved: tuple[Path, Supernet, nn.Module],
) -> None:
    folder, net, module = saved
    assert module.training  # as it was given
    assert sorted(p.name for p in folder.iterdir()) == ["program.pt2", "recipe.json", "weights.pt"]
    recipe = json.loads((folder / "recipe.json").read_text())
    assert (recipe["kind"], recipe["form"], recipe["architecture"]) == ("cell", "built", CELL)
    assert recipe["config"]["channels"] == 4 and recipe["space"] == net.space.id
    # Nothing of the supernet is in the file: it holds the tensors of the network, and those are its own.
    weights = torch.load(folder / "weights.pt", weights_only=True)
    assert list(weights) == list(module.state_dict())
    loaded = load_network(folder)
    assert not loaded.training and not any(p.is_meta for p in loaded.parameters())
    with torch.no_grad():
        for p in loaded.parameters():
            p.zero_()
        assert torch.equal(load_network(folder)(images(net)), module.eval()(images(net)))
        module.train()


def test_a_program_is_for_any_number_of_examples_though_one_was_given(
    saved: tuple[Path, Supernet, nn.Module],
) -> None:
    folder, net, _ = saved
    for size in (1, 3, 7):
        x = images(net, size)
        with torch.no_grad():
            assert torch.allclose(load_program(folder)(x), load_network(folder)(x), atol=1e-6)


def test_networks_that_are_not_of_the_path_are_refused(tmp_path: Path) -> None:
    net = build_supernet("chain")
    a, b = net.space.parse("11111"), net.space.parse("22222")
    with pytest.raises(ExportError, match="no network of 22222: its tensors are others"):
        save_network(tmp_path, net, b, net.extract(a), images(net))
    with pytest.raises(ValueError, match="an architecture of cell/"):
        save_network(tmp_path, net, paths(build_supernet("cell"), 1)[0], net.extract(a), images(net))
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_differs_is_not_believed(
    saved: tuple[Path, Supernet, nn.Module], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, net, module = saved
    program = load_program(saved[0])
    monkeypatch.setattr(deployment, "_program_in", lambda _: lambda x: program(x) + 0.01)
    with pytest.raises(ExportError, match=r"program\.pt2: its logits differ by 0\.01"):
        save_network(tmp_path, net, net.space.parse(CELL), module, images(net), onnx=False)
    with pytest.raises(ExportError, match=r"recipe\.json: no such file"):
        load_network(tmp_path)


def test_what_cannot_be_read_or_written_is_said(
    saved: tuple[Path, Supernet, nn.Module], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, net, module = saved
    recipe: dict[str, Any] = json.loads((folder / "recipe.json").read_text())
    (tmp_path / "recipe.json").write_text(json.dumps({**recipe, "format": 99}))
    with pytest.raises(ExportError, match=r"format=99: this version reads 1"):
        load_network(tmp_path)
    (tmp_path / "recipe.json").write_text(json.dumps({**recipe, "space": "cell/0?nodes=4"}))
    with pytest.raises(ExportError, match=r"space=cell/0\?nodes=4: this version builds cell/1"):
        load_network(tmp_path)
    monkeypatch.setattr(deployment, "find_spec", lambda _: None)
    with pytest.raises(ExportError, match=r"pip install 'fairsweep\[export\]'"):
        save_network(tmp_path, net, net.space.parse(CELL), module, images(net), onnx=True)
    with pytest.raises(ExportError, match=r"pip install 'fairsweep\[export\]'"):
        run_onnx(folder, images(net))
