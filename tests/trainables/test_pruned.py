"""OTO on networks of other papers and on networks by name: what is trained, cut and measured."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from fairsweep.search_spaces.pruning import apply_recipe
from fairsweep.search_spaces.pruning.dhspg import DHSPG
from fairsweep.trainables import catalog
from fairsweep.trainables.base import Setting
from fairsweep.trainables.nas._pruned import Pruned, check_settings
from fairsweep.trainables.tasks.models import ModelError, make_model
from fairsweep.trainables.tasks.subjects import Adapted, PaperSubject, _logits, prunable_papers
from tests.trainables.configurations import paper_config

torch.set_num_threads(1)

PAPERS = {  # data, epochs, settings of the paper, of OTO
    "biper": ("digits", 6, {"weight_mode": "fp", "activations": "full"}, {}),
    "dual_head_kd": ("digits300", 10, {"teacher_epochs": 2}, {}),
    "att_swin_unet": ("synthetic_lesions_small", 4, {}, {"start_pruning_frac": 0.3}),
    "multi_output_deblur": ("digits_simulated_motion_small", 4, {}, {}),
}


def config(
    trainable: str, by: str = "oto_v2", train: dict[str, Any] | None = None, **oto: Any
) -> dict[str, Any]:
    """Settings of a run of `by`; of a paper those of its tests, with `train` over them."""
    found = paper_config(by, "digits") | oto
    if ":" not in trainable:
        data, _, settings, own = PAPERS[trainable]
        paper = catalog.get(trainable)
        space = paper.space().freed(settings | (train or {}))
        fixed = {n: p.value for n, p in paper.space().parameters.items() if p.fixed}
        train = space.fill(settings | (train or {}), data, fixed)
        found = {k: v for k, v in found.items() if k not in ("lmbda_amplify", "hat_lmbda_coeff")} | own
        found |= {"lmbda_mode": "auto"} | oto
    found = found | {"lmbda_mode": "auto"} | oto
    return {"by": by, "trainable": trainable, "oto": found, "train": train or {}}


def trial(
    trainable: str, steps: int | None = None, seed: int = 0, data: str | None = None, **how: Any
) -> Pruned:
    made = Pruned()
    if ":" not in trainable:
        data, default = PAPERS[trainable][:2]
        steps = steps or default
    made.setup(config(trainable, **how), Setting(seed=seed, steps=steps, data=data or "digits300"))
    return made


def finished(made: Pruned) -> list[dict[str, float]]:
    rows = []
    while not made.finished:
        rows.append(made.step())
    return rows


# ---- papers ----


def test_the_papers_that_hand_their_network_over() -> None:
    assert prunable_papers() == sorted(PAPERS)
    for slug in PAPERS:
        assert catalog.get(slug).metric(catalog.get(slug).objective).mode == "max"


@pytest.mark.parametrize(
    "slug", [pytest.param(p, marks=pytest.mark.slow) if p == "att_swin_unet" else p for p in PAPERS]
)
def test_a_paper_is_trained_by_its_loss_and_measured_by_its_metric(slug: str) -> None:
    made = trial(slug)
    rows, tests, found = finished(made), made.test(), made.found()
    assert isinstance(made.optimiser, DHSPG) and made.optimiser.reached
    assert 0.5 <= tests["test_group_sparsity"] <= 0.56
    assert rows[-1]["group_sparsity"] == pytest.approx(tests["test_group_sparsity"])
    assert tests["test_difference"] <= 1e-4
    parameters = sum(p.numel() for p in found.module.parameters())
    assert tests["test_parameters"] == parameters < 0.9 * sum(p.numel() for p in found.full.parameters())
    # The cut network, by the paper's own evaluation.
    assert isinstance(made.subject, PaperSubject) and made.best is not None
    paper, name = made.subject.paper, catalog.get(slug).objective
    assert paper.validate(found.module)[name] == pytest.approx(made.best["value"], abs=2e-3)
    assert paper.measure_test(found.module)[name.replace("val", "test")] == tests["test_objective"]
    x = torch.randn(3, *found.input_shape)
    assert (found.full(x) - found.module(x)).abs().max() <= 1e-4
    assert apply_recipe(found.full, found.recipe).load_state_dict(found.module.state_dict())  # type: ignore[arg-type]


def test_the_base_optimiser_and_its_rates_are_the_papers() -> None:
    made = trial("biper", train={"lr1": 0.02, "momentum": 0.7}, optimizer="dense")
    alone = catalog.get("biper")()
    alone.setup(made.config["train"], Setting(seed=0, steps=6, data="digits"))
    assert type(made.optimiser) is torch.optim.SGD and made.optimiser.defaults["momentum"] == 0.7
    made.step()
    assert made.optimiser.param_groups[0]["lr"] == pytest.approx(0.02)
    made.step()
    alone.step()
    alone.step()
    assert made.optimiser.param_groups[0]["lr"] == alone.optimiser.param_groups[0]["lr"]  # type: ignore[attr-defined]


def test_an_auxiliary_head_is_trained_and_not_kept() -> None:
    made = trial("dual_head_kd")
    before = made.net.aux.weight.clone()  # type: ignore[union-attr]  # a Student
    finished(made)
    assert not torch.equal(before, made.net.aux.weight)  # type: ignore[union-attr]
    assert not any("aux" in name for name, _ in made.found().module.named_parameters())
    assert not any("aux" in m.parameter for c in made.compression.groups.components for m in c.members)  # type: ignore[union-attr]


def test_one_shot_is_scored_after_it_was_pruned() -> None:
    made = trial("biper", steps=3, optimizer="one_shot", target_group_sparsity=0.5)
    rows = finished(made)
    assert [row["group_sparsity"] for row in rows] == [0, 0, 0.5]
    assert rows[-1]["val_objective"] < rows[0]["val_objective"]
    assert made.subject.validate(made.found().module) == pytest.approx(rows[-1]["val_objective"])


@pytest.mark.parametrize(
    ("slug", "by", "oto"),
    [
        pytest.param("biper", "oto_v2", {}, marks=pytest.mark.slow),
        ("biper", "oto_v3", {"mode": "erase+prune", "target_channel_sparsity": 0.4, "prune_frac": 0.5}),
        ("dual_head_kd", "oto_v2", {}),
        pytest.param("multi_output_deblur", "oto_v2", {"optimizer": "random"}, marks=pytest.mark.slow),
    ],
)
def test_resumed_equals_uninterrupted(slug: str, by: str, oto: dict[str, Any]) -> None:
    whole = trial(slug, by=by, **oto)
    rows, tests = finished(whole), whole.test()
    assert (whole.gone is not None) == (by == "oto_v3")
    for cut in (1, len(rows) - 1):
        first = trial(slug, by=by, **oto)
        for _ in range(cut):
            first.step()
        buffer = io.BytesIO()
        torch.save(first.state_dict(), buffer)
        buffer.seek(0)
        second = trial(slug, by=by, **oto)
        second.load_state_dict(torch.load(buffer, weights_only=True))
        assert finished(second) == rows[cut:] and second.test() == tests
        assert second.found().text == whole.found().text


def test_operators_of_a_paper_are_erased() -> None:
    made = trial("biper", by="oto_v3", mode="erase", target_group_sparsity=0.5)
    finished(made)
    tests, found = made.test(), made.found()
    assert tests["test_group_sparsity"] == 0.5 and tests["test_difference"] <= 1e-5
    # Two of the four residual convolutions.
    assert len(found.text.split()) == 3
    count = sum(p.dim() == 4 for p in found.module.parameters())
    assert count == sum(p.dim() == 4 for p in found.full.parameters()) - 2


# ---- networks by name ----


class Plain(nn.Module):
    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, 12, 3, bias=False), nn.BatchNorm2d(12)
        self.head = nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))


def plain(channels: int, classes: int) -> nn.Module:
    return Plain(channels, classes)


def coloured(classes: int) -> nn.Module:
    return Plain(3, classes)


def wrong() -> nn.Module:
    return Plain(1, 7)


def large() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 11), nn.Flatten())


def broken() -> nn.Module:
    raise ValueError("no such luck")


HERE = "tests.trainables.test_pruned"


@pytest.mark.parametrize(("function", "channels", "side"), [("plain", 1, 0), ("coloured", 3, 12)])
def test_a_function_gives_a_classifier(function: str, channels: int, side: int) -> None:
    how = {"train": {"side": side} if side else {}, "target_group_sparsity": 0.5}
    made = trial(f"{HERE}:{function}", steps=12, **how)
    finished(made)
    found, tests = made.found(), made.test()
    assert found.input_shape == (channels, side or 8, side or 8)
    assert 0.5 <= tests["test_group_sparsity"] <= 0.55 and tests["test_difference"] <= 1e-5
    assert found.module.conv.weight.shape == (12 - round(12 * tests["test_group_sparsity"]), channels, 3, 3)
    assert tests["test_objective"] == made.subject.test(found.module) > 0.2


class Answer(NamedTuple):
    features: Tensor
    scores: Tensor


@dataclass
class Output:
    logits: Tensor
    other: Tensor


X = torch.zeros(2, 10)


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (X, None),
        ({"a": torch.zeros(2, 3), "b": X}, "b"),
        ((torch.zeros(2, 3), None, X), 2),
        ({"aux": X, "logits": X}, "logits"),
        (Answer(torch.zeros(2, 3), X), "scores"),
        (Output(X, X), "logits"),
    ],
)
def test_the_logits_of_an_answer_are_found(answer: Any, where: Any) -> None:
    assert _logits(answer, (2, 10)) == where
    if where is not None:
        net = Adapted(nn.Identity(), (1, 1, 1), where)
        net.net.forward = lambda _: answer  # type: ignore[method-assign]
        assert net(torch.zeros(2, 1, 1, 1)) is X


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (torch.zeros(2, 10, dtype=torch.int64), r"gives \(2, 10\) for two images"),
        ([X, X], r"0 and 1 could be: call one of them logits"),
        (None, "gives NoneType for two images"),
        ({"a": torch.zeros(2, 10, 1), "b": "c"}, r"dict \{'a': \(2, 10, 1\), 'b': 'str'\}"),
    ],
)
def test_an_answer_without_logits_is_described(answer: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        _logits(answer, (2, 10))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (f"{HERE}:wrong", r"gives \(2, 7\) for two images; must be logits \(2, 10\)"),
        (f"{HERE}:large", "cannot take images of 1x8x8: .*; train.config.side scales them"),
        (f"{HERE}:broken", r"broken\(\) failed; ValueError: no such luck"),
        (f"{HERE}:nothing", "has no nothing"),
        ("no_such_room:net", "cannot be imported"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(name: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        trial(name, steps=2)


def test_a_library_that_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchvision", None)
    with pytest.raises(ModelError, match=r"pip install 'fairsweep\[models\]' for torchvision"):
        make_model("torchvision:resnet18")


class OneByOne(nn.Module):
    """Takes its batch apart, and has the width of a layer written into its forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 12, 3, padding=1), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        rows = [torch.relu(self.conv(row)).mean((2, 3)).view(1, 12) for row in x.split(1)]
        return self.head(torch.cat(rows))


def one_by_one() -> nn.Module:
    return OneByOne()


@pytest.mark.parametrize("how", [{"by": "oto_v2"}, {"by": "oto_v3", "mode": "prune"}])
def test_a_network_that_cannot_be_cut_is_refused_before_it_is_trained(how: dict[str, Any]) -> None:
    said = r"one_by_one: OneByOne: no sub-network .* operator for a batch of 5\); it is conv \(conv\)"
    with pytest.raises(ValueError, match=said):
        trial(f"{HERE}:one_by_one", steps=2, **how)


def test_a_network_without_chains_says_so() -> None:
    with pytest.raises(
        ValueError, match=r"mode=erase: no chain of operators can be erased .*; mode=prune can"
    ):
        trial(f"{HERE}:plain", steps=2, by="oto_v3")


@pytest.mark.parametrize(
    ("name", "side"), [("timm:resnet10t", 32), ("torchvision:mobilenet_v2", 32), ("timm:test_vit", 160)]
)
def test_a_model_of_a_library(name: str, side: int) -> None:
    try:
        __import__(name.partition(":")[0])
    except Exception as error:  # builds of these libraries that do not fit fail in many ways
        pytest.skip(f"{name}: {error}")
    made = trial(name, steps=2, train={"side": side}, target_group_sparsity=0.5, start_pruning_frac=0.3)
    finished(made)
    tests = made.test()
    assert 0.5 <= tests["test_group_sparsity"] <= 0.56 and tests["test_difference"] <= 1e-3


# ---- settings ----


@pytest.mark.parametrize(
    ("name", "train", "oto", "said"),
    [
        ("biper", {"weight_mode": "biper"}, {}, "train.config.weight_mode=biper: must be fp for biper"),
        ("dual_head_kd", {"align": True}, {}, "train.config.align=True: must be False"),
        ("biper", {}, {"lr": 0.1}, "algorithm.config.lr=0.1: .* train.config has biper's own"),
        ("timm:x", {}, {"fine_tune": 2}, "algorithm.config.fine_tune=2: has no meaning for trainable=timm:x"),
        ("timm:x", {"lr": 0.1}, {}, "train.config.lr=0.1: of timm:x only side, pixels can be set"),
        ("timm:x", {"pixels": 3}, {}, "train.config.pixels=3: must be one of standardised, raw"),
        ("timm:x", {"side": 0}, {}, "train.config.side=0: must be a whole number"),
        ("dagnn", {}, {}, "trainable=dagnn: its network cannot be pruned; those of att_swin_unet, biper,"),
        (
            "resnet",
            {},
            {},
            "trainable=resnet: no such paper; a trainable is one of att_swin_unet, .*timm:<name>",
        ),
    ],
)
def test_settings_that_do_not_go_together(name: str, train: Any, oto: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_settings(name, train, oto)


def test_it_says_the_parts_of_the_paper_whose_network_it_prunes() -> None:
    alone = catalog.get("biper")()
    made = trial("biper")
    alone.setup(made.config["train"], Setting(seed=1, steps=6, data="digits"))
    assert made.parts() == alone.parts() and made.parts() is not None
