"""DHKD: the two heads and their losses, against the statements of the paper; teachers and their losses."""

from __future__ import annotations

import hashlib
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from fairsweep.search_spaces.space import Space, SpaceError
from fairsweep.trainables.base import DataError, Setting
from fairsweep.trainables.datasets import images
from fairsweep.trainables.tasks import distillation
from fairsweep.trainables.tasks.image_classification import ImageTask
from fairsweep.trainables.vision import dual_head_kd as dhkd
from fairsweep.trainables.vision.dual_head_kd import DualHeadKD, Student

torch.set_num_threads(1)


def config(**changes: Any) -> dict[str, Any]:
    """The configuration of the laptop experiment with `changes`, completed and validated by the space."""
    declared = Space.load("dual_head_kd")
    raw = yaml.safe_load(Path(declared.source).read_text()) | changes
    space = Space.from_mapping(raw, declared=declared)
    return space.validate(space.paper_config("digits300"))


def trial(steps: int = 2, seed: int = 0, weight: float | None = None, **changes: Any) -> DualHeadKD:
    """A trial on digits300; `weight` sets w_kd past the bounds of the space."""
    paper = DualHeadKD()
    chosen = config(**changes)
    paper.setup(chosen if weight is None else chosen | {"w_kd": weight}, Setting(seed=seed, steps=steps))
    return paper


def logits(seed: int, n: int = 7, classes: int = 5, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(n, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def batch(paper: DualHeadKD, n: int = 32) -> tuple[Tensor, Tensor]:
    x, y = paper.data.parts["train"]
    return paper.data.standardise(x[:n]), y[:n]


def gradient(loss: Tensor, module: nn.Module) -> Tensor:
    """The gradient of `loss` in `module` as one vector, zeros where `loss` does not depend on it."""
    parameters = list(module.parameters())
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, found, strict=True)]
    )


# ---- one loss, one head ----


@pytest.mark.parametrize("aux_head", ["linear", "mlp"])
@pytest.mark.parametrize("logit_loss", list(dhkd.LOGIT_LOSSES))
def test_each_loss_trains_its_own_head_and_both_train_the_backbone(aux_head: str, logit_loss: str) -> None:
    paper = trial(aux_head=aux_head, logit_loss=logit_loss)
    main, logit, ce = paper.losses(*batch(paper))
    assert logit is not None and paper.net.aux is not None
    assert gradient(logit, paper.net.head).count_nonzero() == 0
    assert gradient(main, paper.net.aux).count_nonzero() == 0
    for loss, head in ((main, paper.net.head), (logit, paper.net.aux)):
        assert gradient(loss, head).abs().max() > 0
        assert gradient(loss, paper.net.backbone).abs().max() > 0
    assert main.item() == ce.item()


def test_on_one_head_both_losses_meet_in_it() -> None:
    paper = trial(model="single_head")
    main, logit, _ = paper.losses(*batch(paper))
    assert paper.net.aux is None and logit is not None
    assert min(gradient(loss, paper.net.head).abs().max() for loss in (main, logit)) > 0


def test_total_loss_weights_the_losses_of_the_two_heads() -> None:
    paper = trial(w_ce=0.4, w_kd=2.5, T=3.0)
    x, y = batch(paper)
    main, logit, ce = paper.losses(x, y)
    features = paper.net.backbone(x)
    expected = dhkd.binary_kl_norm(paper.net.aux(features), paper.teacher(x), 3.0)
    assert main.item() == pytest.approx(0.4 * F.cross_entropy(paper.net.head(features), y).item(), rel=1e-6)
    assert logit.item() == pytest.approx(2.5 * expected.item(), rel=1e-6)
    assert ce.item() == pytest.approx(main.item() / 0.4, rel=1e-6)


# ---- losses ----


def test_softmax_forgets_a_common_offset_and_logit_losses_do_not() -> None:
    s, t = logits(0), logits(1)
    torch.testing.assert_close(distillation.kd_loss(s + 4, t, 4.0), distillation.kd_loss(s, t, 4.0))
    for loss in dhkd.LOGIT_LOSSES.values():
        assert abs(loss(s + 4, t, 2.0) - loss(s, t, 2.0)) > 0.1


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_binary_kl_is_the_divergence_of_every_class_for_itself(temperature: float) -> None:
    s, t = logits(2), logits(3)
    q, p = torch.sigmoid(s / temperature), torch.sigmoid(t / temperature)
    expected = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum() * temperature**2 / len(s)
    torch.testing.assert_close(dhkd.binary_kl(s, t, temperature), expected)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_binary_kl_norm_is_a_logarithmic_cosh(temperature: float) -> None:
    s, t = logits(4), logits(5)
    delta = (s - t) / temperature
    found = dhkd.binary_kl_norm(s, t, temperature)
    torch.testing.assert_close(found, temperature**2 * torch.cosh(delta / 2).log().sum() / len(s))
    q = torch.sigmoid(delta).clamp(1e-8, 1 - 1e-8)
    clamped = 0.5 * (0.5 / q).log() + 0.5 * (0.5 / (1 - q)).log()
    torch.testing.assert_close(found, temperature**2 * clamped.sum() / len(s))


def test_binary_kl_norm_vanishes_with_its_gradient_where_the_logits_agree_and_is_symmetric() -> None:
    s, t = logits(6).requires_grad_(), logits(7)
    same = dhkd.binary_kl_norm(s, s.detach().clone(), 2.0)
    (slope,) = torch.autograd.grad(same, s)
    assert abs(same.item()) < 1e-12 and slope.abs().max() < 1e-12
    assert dhkd.binary_kl_norm(s, t, 2.0) > 0
    torch.testing.assert_close(dhkd.binary_kl_norm(s, t, 2.0), dhkd.binary_kl_norm(t, s, 2.0))
    assert abs(dhkd.binary_kl(s, t, 2.0) - dhkd.binary_kl(t, s, 2.0)) > 0.1


def test_a_saturated_teacher_stops_binary_kl_but_not_binary_kl_norm() -> None:
    teacher, student = torch.full((1, 1), 80.0), torch.full((1, 1), 60.0, requires_grad=True)
    (plain,) = torch.autograd.grad(dhkd.binary_kl(student, teacher, 2.0), student)
    (norm,) = torch.autograd.grad(dhkd.binary_kl_norm(student, teacher, 2.0), student)
    assert abs(plain.item()) < 1e-6
    assert norm.item() == pytest.approx(-math.tanh(5.0), rel=1e-6)


def test_logit_losses_stay_finite_far_apart() -> None:
    s, t = torch.full((1, 2), 300.0, requires_grad=True), torch.tensor([[-300.0, 300.0]])
    for loss in (dhkd.binary_kl, dhkd.binary_kl_norm):
        value = loss(s, t, 1.0)
        (slope,) = torch.autograd.grad(value, s)
        assert value.isfinite() and slope.isfinite().all() and value > 250


def test_kd_and_dkd_against_their_definitions() -> None:
    s, t, y = logits(8), logits(9), torch.tensor([0, 1, 2, 3, 4, 0, 2])
    p, q = (F.softmax(z / 4, 1) for z in (t, s))
    divergence = (p * (p / q).log()).sum() / len(s)
    torch.testing.assert_close(distillation.kd_loss(s, t, 4.0), 16 * divergence)
    # KL = TCKD + (1 - p_target) NCKD, image by image.
    for i in range(len(s)):
        parts = [
            distillation.dkd_loss(s[i : i + 1], t[i : i + 1], y[i : i + 1], 4.0, a, b)
            for a, b in ((1, 0), (0, 1))
        ]
        whole = distillation.kd_loss(s[i : i + 1], t[i : i + 1], 4.0)
        torch.testing.assert_close(parts[0] + (1 - p[i, y[i]]) * parts[1], whole)


# ---- what is deployed ----


@pytest.mark.parametrize("aux_head", ["linear", "mlp"])
def test_deployed_student_is_the_plain_student(aux_head: str) -> None:
    paper, plain = trial(aux_head=aux_head), trial(model="ce")
    paper.step()
    x, _ = batch(paper)
    made = paper.net.eval().deployed()
    assert {n: p.shape for n, p in made.named_parameters()} == {
        n: p.shape for n, p in plain.net.named_parameters()
    }
    plain.net.load_state_dict(made.state_dict())
    assert torch.equal(made(x), plain.net.eval()(x)) and torch.equal(made(x), paper.net(x))
    assert paper.net.aux is not None, "the copy has lost its head, not the student"


def test_only_the_main_head_is_tested() -> None:
    paper = trial()
    while not paper.finished:
        paper.step()
    expected = paper.test()
    with torch.no_grad():
        paper.best["weights"]["aux.weight"].fill_(math.nan)
    assert paper.test() == expected
    with torch.no_grad():
        paper.best["weights"]["head.weight"].zero_()
    assert paper.test() != expected


def test_without_weight_the_auxiliary_head_changes_nothing() -> None:
    dual, plain = trial(steps=3, weight=0.0), trial(steps=3, model="ce")
    rows = []
    for _ in range(3):
        row = plain.step()
        assert dual.step() == row
        rows.append(row["val_loss"])
    expected = plain.net.state_dict()
    found = dual.net.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    weighted = trial(steps=3)
    assert [weighted.step()["val_loss"] for _ in range(3)] != rows


def test_both_heads_begin_the_same_backbone_as_the_plain_student() -> None:
    found, expected = trial(seed=4).net.state_dict(), trial(seed=4, model="ce").net.state_dict()
    assert set(found) - set(expected) == {"aux.weight", "aux.bias"}
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_nonlinear_head_is_that_of_the_authors() -> None:
    kinds = [type(m).__name__ for m in dhkd.auxiliary_head("mlp", 16, 10)]
    assert kinds == ["Linear", "Dropout", "BatchNorm1d", "ReLU", "Linear"]
    assert dhkd.auxiliary_head("mlp", 16, 10)[0].weight.shape == (200, 16)
    with pytest.raises(ValueError, match="aux_head=conv: known are linear, mlp"):
        dhkd.auxiliary_head("conv", 16, 10)


# ---- gradients ----


def test_alignment_takes_away_what_opposes_the_main_loss_and_nothing_else() -> None:
    w = torch.zeros(2, requires_grad=True)
    opposed = dhkd.aligned_gradients(w[0] * 2, w[1] * 3 - w[0], [w])[0]
    torch.testing.assert_close(opposed, torch.tensor([2.0, 3.0]))
    agreeing = dhkd.aligned_gradients(w[0] * 2, w[1] * 3 + w[0], [w])[0]
    torch.testing.assert_close(agreeing, torch.tensor([3.0, 3.0]))
    unused = torch.zeros(1, requires_grad=True)
    assert dhkd.aligned_gradients(w[0] * 0, w[1], [w, unused])[1].tolist() == [0.0]


def test_alignment_is_used_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = dhkd.aligned_gradients
    monkeypatch.setattr(dhkd, "aligned_gradients", lambda *args: asked.append(1) or real(*args))
    trial(align=False).step()
    assert not asked
    paper = trial(align=True)
    paper.step()
    assert len(asked) == 10


def test_conflict_sits_in_the_classifier_of_a_student_surer_than_its_teacher() -> None:
    student = Student(nn.Linear(3, 3), 3, 3)
    with torch.no_grad():
        for layer in (student.backbone, student.head):
            layer.weight.copy_(torch.eye(3))
            layer.bias.zero_()
    x, y = 4 * torch.eye(3), torch.arange(3)
    surer, _ = dhkd.conflict(student, x, y, x / 4, 2.0)
    behind, _ = dhkd.conflict(student, x, y, 4 * x, 2.0)
    assert surer < -0.5 and behind > 0.5


def test_norm_of_the_gradient_is_bounded() -> None:
    paper = trial(weight=1e4, clip_norm=2.0)
    paper.train_on(*batch(paper))
    norm = torch.cat([p.grad.flatten() for p in paper.net.parameters()]).norm().item()
    assert norm == pytest.approx(2.0, rel=1e-3)


# ---- teachers ----


def test_teacher_is_frozen_shared_and_always_the_same() -> None:
    arguments = ("digits300", None, "cpu", "standard", "cnn", 8, 2)
    first = distillation.teacher(*arguments)
    assert distillation.teacher(*arguments) is first and not first.training
    assert not any(p.requires_grad for p in first.parameters())
    torch.manual_seed(5)
    before = torch.get_rng_state()
    again = distillation.teacher.__wrapped__(*arguments)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_whether_the_teacher_was_there_before_does_not_show_in_a_trial() -> None:
    misses = distillation.teacher.cache_info().misses
    cold = trial(seed=3, teacher_epochs=1, teacher_width=12)
    warm = trial(seed=3, teacher_epochs=1, teacher_width=12)
    assert distillation.teacher.cache_info().misses == misses + 1
    assert cold.teacher is warm.teacher and cold.step() == warm.step()


def test_trials_do_not_train_the_teacher() -> None:
    paper = trial()
    before = {n: p.clone() for n, p in paper.teacher.state_dict().items()}
    paper.step()
    assert not paper.teacher.training
    assert all(torch.equal(before[n], p) for n, p in paper.teacher.state_dict().items())
    assert not any(n.startswith("teacher") for n in paper.state_dict()["parts"]["net"])


def test_teacher_knows_the_digits() -> None:
    paper = trial()
    assert paper.data.evaluate(paper.teacher, "test")[1] > 0.95


def test_cross_entropy_needs_no_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dhkd, "teacher", lambda *args: pytest.fail("a teacher was trained"))
    assert trial(model="ce").teacher is None


def test_teacher_sees_the_student_s_images() -> None:
    paper = trial(augmentation="crop", teacher_epochs=1)
    seen: list[Tensor] = []
    paper.net.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    teacher = paper.teacher
    paper.teacher = lambda x: seen.append(x) or teacher(x)
    x, y = next(paper.data.batches(16))
    paper.losses(x, y)
    assert len(seen) == 2 and seen[0] is seen[1]


# ---- networks and data ----


@pytest.mark.parametrize("name", distillation.BACKBONES)
@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 32)])
def test_backbones_take_every_image_and_train_every_weight(name: str, channels: int, side: int) -> None:
    body, features = distillation.backbone(name, channels, side, 8)
    out = body(torch.randn(3, channels, side, side, generator=torch.Generator().manual_seed(0)))
    assert out.shape == (3, features)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in body.parameters())


@pytest.mark.parametrize(("name", "millions"), [("resnet20", 0.278), ("resnet56", 0.862)])
def test_residual_networks_have_the_usual_numbers_of_parameters(name: str, millions: float) -> None:
    body, features = distillation.backbone(name, 3, 32, 0)
    count = sum(p.numel() for p in nn.Sequential(body, nn.Linear(features, 100)).parameters())
    assert count / 1e6 == pytest.approx(millions, abs=6e-4)


def test_digits300_has_few_to_learn_from_and_the_same_test_images() -> None:
    parts = ImageTask("digits300", None, "cpu").parts
    assert {k: len(y) for k, (_, y) in parts.items()} == {"train": 300, "validation": 897, "test": 600}
    rows = [{x.numpy().tobytes() for x in pixels} for pixels, _ in parts.values()]
    assert len(set.union(*rows)) == 1797, "disjoint, as the 1797 digits differ"
    assert torch.bincount(parts["train"][1]).min() >= 28
    assert torch.equal(parts["test"][0], ImageTask("digits", None, "cpu").parts["test"][0])


def cifar100_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: bytes = b"fine_labels") -> Path:
    rng = np.random.default_rng(1)
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    sums = {}
    for name, rows in (("train", 20), ("test", 8)):
        content = {b"data": rng.integers(256, size=(rows, 3072), dtype=np.uint8)}
        content[key] = [int(i) for i in rng.integers(100, size=rows)]
        (folder / name).write_bytes(pickle.dumps(content | {b"coarse_labels": [0] * rows}, protocol=2))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(images, "_CIFAR100", sums)
    return folder


def test_cifar100_has_fine_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cifar100_folder(tmp_path, monkeypatch)
    data = images.cifar100(tmp_path)
    raw = pickle.loads((folder / "train").read_bytes(), encoding="bytes")
    assert data.train_images.shape == (20, 3, 32, 32) and data.test_images.shape == (8, 3, 32, 32)
    assert data.train_labels.tolist() == raw[b"fine_labels"] and data.classes == 100
    assert (data.train_images[7, 2].reshape(-1) == raw[b"data"][7, 2048:]).all()
    assert (images.cifar100(folder).test_images == data.test_images).all()


def test_bad_cifar100_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="cifar100: data_dir is None; give a folder with cifar-100-python"):
        images.cifar100()
    with pytest.raises(DataError, match="cifar100: no cifar-100-python in data_dir"):
        images.cifar100(tmp_path)
    folder = cifar100_folder(tmp_path, monkeypatch, b"labels")
    with pytest.raises(DataError, match="cifar100: train is not a CIFAR-100 batch"):
        images.cifar100(tmp_path)
    (folder / "test").unlink()
    images._CIFAR100["train"] = "0" * 32
    with pytest.raises(DataError, match="cifar100: train has md5"):
        images.cifar100(tmp_path)


# ---- trials ----


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "dhkd"},
        {"model": "dhkd", "logit_loss": "mse", "aux_head": "mlp"},
        {"model": "dhkd", "align": True},
        {"model": "dhkd_kd", "logit_loss": "binary_kl"},
        {"model": "single_head", "align": True},
        {"model": "logit", "logit_loss": "binary_kl"},
        {"model": "kd"},
        {"model": "dkd"},
        {"model": "ce"},
        {"model": "dhkd", "student": "cnn", "width": 8},
        {"model": "dhkd", "student": "resnet8"},
    ],
    ids=str,
)
def test_every_model_learns(changes: dict[str, Any]) -> None:
    steps = 3 if changes.get("student") == "resnet8" else 10
    paper = trial(steps=steps, **changes)
    rows = [paper.step() for _ in range(steps)]
    assert max(row["val_accuracy"] for row in rows) > 0.5
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]


def test_main_loss_of_each_baseline() -> None:
    paper = trial(model="kd", kd_weight=0.7, kd_T=3.0)
    x, y = batch(paper)
    s, t = paper.net(x), paper.teacher(x)
    ce, kd = F.cross_entropy(s, y).item(), distillation.kd_loss(s, t, 3.0).item()
    assert paper.losses(x, y)[0].item() == pytest.approx(0.3 * ce + 0.7 * kd, rel=1e-5)
    paper = trial(model="dhkd_kd", kd_weight=0.7, kd_T=3.0, w_ce=0.5)
    main, logit, _ = paper.losses(x, y)
    assert main.item() == pytest.approx(0.5 * (0.3 * ce + 0.7 * kd), rel=1e-5)
    assert logit.item() > 0 and gradient(logit, paper.net.head).count_nonzero() == 0
    paper = trial(model="logit", logit_loss="binary_kl")
    assert paper.losses(x, y)[0].item() == pytest.approx(dhkd.binary_kl(s, t, 2.0).item(), rel=1e-5)
    paper = trial(model="dkd", steps=24)
    assert paper.losses(x, y)[0].item() == pytest.approx(ce, rel=1e-5), "DKD begins with cross-entropy"
    paper.done = 2
    dkd = distillation.dkd_loss(s, t, y, 4.0, 1.0, 8.0).item()
    assert paper.losses(x, y)[0].item() == pytest.approx(ce + dkd, rel=1e-5)


def test_learning_rates_of_both_schedules() -> None:
    paper = trial(steps=240, model="ce", schedule="steps")
    rates = []
    for paper.done in (0, 149, 150, 180, 210, 239):
        rates.append(paper.rate())
    assert rates == pytest.approx([0.05, 0.05, 5e-3, 5e-4, 5e-5, 5e-5])
    paper = trial(steps=80, model="ce")
    paper.done = 40
    assert paper.rate() == pytest.approx(0.025)


def test_space_holds_only_what_exists() -> None:
    assert {"w_kd", "T", "aux_head", "kd_T", "align", "logit_loss"}.isdisjoint(config(model="ce"))
    assert "T" not in config(logit_loss="mse") and "aux_head" not in config(model="single_head")
    assert "width" not in config(student="resnet20") and "teacher_width" not in config(teacher="resnet56")
    space = Space.load("dual_head_kd")
    with pytest.raises(SpaceError, match=r"w_kd=0\.0"):
        space.validate(config() | {"w_kd": 0.0})
    assert space.paper_config("cifar100")["batch_size"] == 64 and config()["batch_size"] == 32
    assert (config()["w_ce"], config()["w_kd"], config()["T"], config()["lr"]) == (1.0, 1.0, 2.0, 0.05)


def test_unknown_words_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"model=crd: known are dhkd, dhkd_kd"):
        dhkd.build(1, 8, 10, config() | {"model": "crd"})
    with pytest.raises(ValueError, match=r"backbone=vit: known are mlp, cnn"):
        dhkd.build(1, 8, 10, config() | {"student": "vit"})


def test_digits_are_learnt() -> None:
    paper = trial(steps=20)
    while not paper.finished:
        paper.step()
    assert paper.test()["test_accuracy"] > 0.85
