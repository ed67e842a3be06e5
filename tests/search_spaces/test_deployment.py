"""Programs that are handed over: from raw examples to answers, with what they must not be given refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairsweep.search_spaces import deployment
from fairsweep.search_spaces.deployment import load_program, run_onnx, write_network
from fairsweep.search_spaces.interface import ExportError, Interface

torch.set_num_threads(1)


def interface(**changes: Any) -> Interface:
    x = torch.randint(0, 17, (6, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    moments = {"mean": torch.full((1, 1, 1, 1), 5.0), "deviation": torch.full((1, 1, 1, 1), 3.0)}
    return Interface(x, "pixels in 0..16", "digits", **{**moments, "classes": 10, **changes})


def network(**norm: Any) -> nn.Module:
    """Its maps are 1 x 1 where it normalises."""
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 6, 8), nn.BatchNorm2d(6, **norm), nn.ReLU(), nn.Flatten(), nn.Linear(6, 10)
    return nn.Sequential(*layers).eval()


def test_a_program_takes_raw_examples_and_its_recipe_says_which(tmp_path: Path) -> None:
    about, net = interface(), network()
    recipe = write_network(tmp_path, net, about, {"architecture": "a"}, {"test_accuracy": 0.5}, onnx=False)
    assert recipe == json.loads((tmp_path / "recipe.json").read_text())
    assert recipe["takes"] == {
        "shape": [1, 8, 8], "dtype": "uint8", "layout": ["batch", "channels", "height", "width"],
        "values": "pixels in 0..16",
    }  # fmt: skip
    assert (recipe["preprocessing"]["mean"], recipe["preprocessing"]["deviation"]) == ([5.0], [3.0])
    assert recipe["data"]["name"] == "digits" and recipe["gives"]["classes"] == 10
    assert recipe["batch"]["least"] == 1 and recipe["reported"] == {"test_accuracy": 0.5}
    x = about.example
    with torch.no_grad():
        for count in (1, 2, 5):
            wanted = net((x[:count].float() - 5) / 3)
            assert torch.allclose(load_program(tmp_path)(x[:count]), wanted, atol=1e-6)
    # The constants stand in the program itself, for who has no recipe.
    state = torch.export.load(tmp_path / "program.pt2").state_dict
    assert state["preprocessing.mean"].item() == 5 and state["preprocessing.deviation"].item() == 3


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (
            torch.rand(2, 1, 8, 8),
            "dtype=torch.float32: must be uint8, pixels in 0..16; the program standardises",
        ),
        (torch.zeros(2, 8, 8, 1, dtype=torch.uint8), r"shape=\(2, 8, 8, 1\): must be \(batch, 1, 8, 8\)"),
    ],
)
def test_examples_of_another_kind_are_refused(x: Tensor, said: str, tmp_path: Path) -> None:
    write_network(tmp_path, network(), interface(), {}, onnx=False)
    with pytest.raises(ExportError, match=said):
        load_program(tmp_path)(x)
    with pytest.raises((RuntimeError, AssertionError)):  # and by the program alone
        torch.export.load(tmp_path / "program.pt2").module()(x)


def test_one_example_alone_is_refused_where_the_batch_normalises(tmp_path: Path) -> None:
    """torch 2.13 exports `Dim("batch", min=2)` without a guard: given one example, the program of such a network
    answers, and the same for every input."""
    net, about = network(track_running_stats=False), interface()
    x = about.example
    batch = torch.export.Dim("batch", min=2)
    bare = torch.export.export(net, (x.float(),), dynamic_shapes=({0: batch},)).module()
    if torch.__version__.startswith("2.13"):
        assert torch.allclose(bare(x[:1].float()), bare(x[1:2].float()), atol=1e-3)
        assert not torch.allclose(*bare(x[:2].float()), atol=1e-1)
    recipe = write_network(tmp_path, net, about, {})
    assert recipe["batch"]["least"] == 2 and "one example alone" in recipe["batch"]["why"]
    with pytest.raises(ExportError, match="batch=1: must be at least 2; normalises by the batch"):
        load_program(tmp_path)(x[:1])
    with pytest.raises(RuntimeError, match="batch: must be at least 2 examples"):
        torch.export.load(tmp_path / "program.pt2").module()(x[:1])
    if not recipe["missing"]:
        with pytest.raises(ExportError, match="batch=1: must be at least 2"):
            run_onnx(tmp_path, x[:1])
    with torch.no_grad():
        assert torch.allclose(load_program(tmp_path)(x[:2]), net((x[:2].float() - 5) / 3), atol=1e-6)


def test_a_network_that_asks_for_the_length_of_its_input_takes_any_number(tmp_path: Path) -> None:
    """`len` gives a plain number, so that torch 2.13 exports its graph for the example's alone, unless it follows the
    bytecode (strict=True)."""

    class Length(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(len(x), -1)[:, :10]

    about = interface()
    recipe = write_network(tmp_path, Length(), about, {}, onnx=False)
    assert recipe["batch"]["most"] is None
    wanted = ((about.example[:5].float() - 5) / 3).flatten(1)[:, :10]
    assert torch.allclose(load_program(tmp_path)(about.example[:5]), wanted)


def test_a_network_that_settles_the_number_of_examples_is_for_one(tmp_path: Path) -> None:
    class Rows(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            rows = [x[k].flatten()[:10] for k in range(int(x.shape[0]))]
            return torch.stack(rows)

    about = interface()
    recipe = write_network(tmp_path, Rows(), about, {}, onnx=False)
    assert recipe["batch"] == {
        "least": 1,
        "most": 1,
        "why": "the forward pass settles the number of examples",
    }
    with pytest.raises(ExportError, match="batch=2: must be 1"):
        load_program(tmp_path)(about.example[:2])


def test_what_cannot_be_written_is_said_and_the_rest_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unfollowed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :10] * (2.0 if x.sum() > 0 else 1.0)

    with pytest.raises(ExportError, match=r"program\.pt2: torch\.export cannot follow the network: "):
        write_network(tmp_path, Unfollowed(), interface(), {})
    recipe = write_network(tmp_path, Unfollowed(), interface(), {}, strict=False)
    assert sorted(recipe["missing"]) == ["network.onnx", "program.pt2"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["recipe.json", "weights.pt"]
    with pytest.raises(ExportError, match=r"was not written: .*cannot follow"):
        load_program(tmp_path)
    monkeypatch.setattr(deployment, "_program_in", lambda _: lambda x: network()(x.float()) + 1)
    recipe = write_network(tmp_path, network(), interface(), {}, onnx=False, strict=False)
    assert "differ" in recipe["missing"]["program.pt2"] and not (tmp_path / "program.pt2").exists()


def test_answers_of_several_parts_with_masked_entries_are_compared(tmp_path: Path) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            logits = self.net(x)
            allowed = torch.arange(10) < 7
            return {"logits": logits.masked_fill(~allowed, -torch.inf), "class": logits.argmax(1)}

    net, about = Masked().eval(), interface(logits="logits")
    recipe = write_network(tmp_path, net, about, {}, onnx=False)
    assert recipe["gives"]["logits"] == "logits" and recipe["difference"]["program"] < 1e-5
    found = load_program(tmp_path)(about.example)
    assert found["logits"][:, 7:].isinf().all() and found["logits"][:, :7].isfinite().all()
