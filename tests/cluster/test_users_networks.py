"""OTO on networks as their users bring them, as the command line runs it: counted by hand, and run with torch alone.

Each network is cut, measured and exported; or it is refused in one line before anything is trained.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import pytest
import torch

from fairsweep.cluster.cli import run_cli
from fairsweep.search_spaces import deployment
from fairsweep.search_spaces.costs import count_flops
from fairsweep.trainables.tasks.image_classification import ImageTask
from tests.cluster import users_networks
from tests.cluster.test_nas import Engine
from tests.torch_alone import accuracies

torch.set_num_threads(1)

HERE = "trainable=tests.cluster.users_networks:"
Sizes = Mapping[str, tuple[int, ...]]  # of weights, by name


@dataclass(frozen=True)
class ByHand:
    """What of a network multiplies, for one image of 8 x 8.

    places: weight -> how often it is applied; a multiplication for each of its numbers there. full: of all of the
    network, a plain sum. products: those of activations with each other. others: weights that multiply nothing, or are
    counted under another name. words: settings that the network needs.
    """

    full: int
    places: Mapping[str, int]
    products: Callable[[Sizes], int] = lambda sizes: 0
    others: tuple[str, ...] = ()
    words: tuple[str, ...] = ()

    def __call__(self, sizes: Sizes) -> int:
        left = [name for name, size in sizes.items() if len(size) > 1 and name not in self.others]
        return sum(self.places[name] * prod(sizes[name]) for name in left) + self.products(sizes)


def attention(windows: int, tokens: int, name: str) -> Callable[[Sizes], int]:
    """Queries with keys and weights with values, of each attention that ends with a weight of this `name`."""

    def products(sizes: Sizes) -> int:
        return sum(windows * 2 * tokens**2 * size[1] for n, size in sizes.items() if n.endswith(name))

    return products


def layers(count: int, places: Mapping[str, int], prefix: str) -> dict[str, int]:
    return {f"{prefix}.{k}.{name}.weight": n for k in range(count) for name, n in places.items()}


NETWORKS = {
    "transformer": ByHand(
        8 * 8 * 16 + 2 * 8 * (16 * 48 + 16 * 16 + 2 * 16 * 32) + 2 * 2 * 8 * 8 * 16 + 160,
        {
            "embed.weight": 8, "head.weight": 1,
            **layers(2, {"self_attn.out_proj": 8, "linear1": 8, "linear2": 8}, "encoder.layers"),
            **{f"encoder.layers.{k}.self_attn.in_proj_weight": 8 for k in range(2)},
        },
        attention(1, 8, "out_proj.weight"), ("position",),
    ),
    "policy": ByHand(
        8 * 8 * 24 + 8 * 24 + 8 * 24 + 24 * 32 + 32 * 10,
        {"rows.weight": 8, "score.weight": 8, "hidden.weight": 1, "value.weight": 1},
        lambda sizes: 8 * sizes["rows.weight"][0],
    ),
    "detector": ByHand(
        64 * 72 + 16 * 8 * 12 * 9 + 4 * 12 * 16 * 9 + 12 * (64 * 8 + 16 * 12 + 4 * 16) + 84 * 12 * 12 * 9 + 360,
        {
            "head.weight": 1,
            **{f"neck.{part}.{k}{end}.weight": n
               for part, end in (("stages", ".0"), ("lateral", ""), ("smooth", "")) for k, n in enumerate((64, 16, 4))},
        },
    ),
    "noisy": ByHand(
        16 * 24 + 24 * 16 + 64 * 72 + 16 * 16 * 8 * 9 + 16 * 16 * 16 * 9 + 16 * 16 * 8 * 4 + 64 * 16 * 8 * 9 + 80,
        {f"features.{name}.weight": n for name, n in
         (("time.0", 1), ("time.2", 1), ("enter", 64), ("down", 16), ("middle", 16), ("up", 16), ("leave", 64))}
        | {"head.weight": 1},
    ),
    "recurrent": ByHand(
        8 * (8 * 12 + 48 * 12 + 48 * 16) + 16 * 24 + 24 * 10,
        {"enter.weight": 8, "gru.weight_ih_l0": 8, "gru.weight_hh_l0": 8, "hidden.weight": 1, "head.weight": 1},
    ),
    "swin": ByHand(
        16 * 4 * 16 + 2 * 16 * (16 * 48 + 16 * 16 + 2 * 16 * 32) + 2 * 4 * 2 * 4 * 4 * 16 + 160,
        {
            "patches.weight": 16, "head.weight": 1,
            **layers(2, {"qkv": 16, "proj": 16, "mlp.0": 16, "mlp.2": 16}, "layers"),
        },
        attention(4, 4, "proj.weight"), ("layers.0.bias", "layers.1.bias"),
    ),
    "tied": ByHand(
        64 * 32 + 2 * 32 * 32 + 2 * 32 * 24 + 3 * 24 * 10,
        {"enter.weight": 1, "block.weight": 2, "leave.weight": 2, "classes.weight": 3}, others=("out.weight",),
    ),
    "halves": ByHand(
        32 * 2 * 8 * 9 + 128 * 10, {"pair.left.weight": 32, "pair.right.weight": 32, "pair.head.weight": 1}
    ),
    "named": ByHand(
        64 * 8 * 9 + 16 * 8 * 16 * 9 + 160, {"conv1.weight": 64, "conv2.weight": 16, "head.weight": 1}
    ),
    "pixels": ByHand(
        64 * 12 * 9 + 192 * 16 + 160, {"conv.weight": 64, "hidden.weight": 1, "head.weight": 1},
        words=("train.config.pixels=raw",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_what_a_users_network_multiplies_is_counted_as_by_hand(name: str) -> None:
    network, by_hand = getattr(users_networks, name)(), NETWORKS[name]
    assert (
        by_hand({n: tuple(p.shape) for n, p in network.named_parameters(remove_duplicate=False)})
        == by_hand.full
    )
    dtype = torch.uint8 if by_hand.words else torch.float32
    assert count_flops(network, (1, 8, 8), dtype) == by_hand.full


# The others have no chain of operators that could go; mode=prune is for them.
CHAINS = ("transformer", "detector", "swin")
REFUSED = {
    "neck": "gives list {0: (2, 12, 8, 8), 1: (2, 12, 4, 4), 2: (2, 12, 2, 2)} for two images; must be logits (2, 10)",
    "denoiser": "it must take images alone, not x and t: wrap it in a module that makes the others",
    "pair": "it must take images alone, not left and right: wrap it in a module that makes the others",
    "pixels": "pixels must be uint8, got torch.float32; train.config.side scales them, train.config.pixels=raw leaves",
}


def run(storage: Path, name: str, algorithm: str, *words: str) -> tuple[str, float]:
    """One point of a front, counted by hand: its folder, and the accuracy that is reported."""
    network = NETWORKS[name]
    given = "target=0.5", "algorithm.seeds=1", *network.words, *words
    engine = Engine(storage, f"algorithm={algorithm}", f"{HERE}{name}", *given)
    engine.search.check()
    engine.run()
    (trial,), (row,) = engine.trials(), engine.architectures()
    assert trial["state"] == "complete" and trial["metric.test_difference"] <= 1e-4
    recipe = json.loads(Path(row["folder"], "recipe.json").read_text())
    assert "program.pt2" not in recipe["missing"] and recipe["batch"]["most"] is None
    state = torch.load(Path(row["folder"], "weights.pt"), weights_only=True)
    sizes = {weight: tuple(tensor.shape) for weight, tensor in state.items()}
    assert row["full_flops"] == network.full and row["flops"] == network(sizes) < network.full
    return row["folder"], row["test"]


def reproduced(folders: list[str], data: str, scratch: Path) -> list[float]:
    return accuracies(folders, *ImageTask(data, None, "cpu").parts["test"], scratch)


@pytest.mark.usefixtures("files")
def test_a_network_that_takes_what_is_stored_is_cut_counted_and_handed_over(tmp_path: Path) -> None:
    words = "data=digits300", "algorithm.steps=1", "algorithm.config.optimizer=one_shot"
    folder, reported = run(tmp_path, "pixels", "oto_v2", *words)
    assert reproduced([folder], "digits300", tmp_path) == pytest.approx([reported], abs=1e-9)


@pytest.mark.slow
@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("name", NETWORKS)
def test_a_users_network_is_cut_counted_and_handed_over(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployment, "_write_onnx", lambda *_: None)  # half of the time
    mode = [] if name in CHAINS else ["algorithm.config.mode=prune"]
    both = [
        run(tmp_path / algorithm, name, algorithm, "data=digits", "algorithm.steps=8", *words)
        for algorithm, words in (("oto_v2", []), ("oto_v3", mode))
    ]
    folders, reported = zip(*both, strict=True)
    assert reproduced(list(folders), "digits", tmp_path) == pytest.approx(list(reported), abs=1e-9)
    assert min(reported) > 0.3  # a network that says the same for every image would be easy to reproduce


def refused(storage: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert run_cli(["nas", *words, f"storage={storage}"]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1 and not storage.exists()
    return error


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("algorithm", ["oto_v2", pytest.param("oto_v3", marks=pytest.mark.slow)])
def test_what_is_no_classifier_of_images_is_refused_in_one_line(
    algorithm: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refused(tmp_path / "store", capsys, f"algorithm={algorithm}", f"{HERE}{name}")
    assert f"users_networks:{name}: " in error and REFUSED[name] in error


WITHOUT = [n for n in NETWORKS if n not in CHAINS]


@pytest.mark.parametrize(
    "name", [WITHOUT[0], *(pytest.param(n, marks=pytest.mark.slow) for n in WITHOUT[1:])]
)
def test_a_network_without_chains_is_refused_in_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "algorithm=oto_v3", f"{HERE}{name}", *NETWORKS[name].words
    error = refused(tmp_path / "store", capsys, *words)
    assert f"{name}: mode=erase: no chain of operators can be erased" in error and "mode=prune can" in error
