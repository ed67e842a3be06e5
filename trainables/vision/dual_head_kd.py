"""DHKD: dual-head knowledge distillation.

Yang, Zong, Huang, Feng and An, Dual-Head Knowledge Distillation: Enhancing Logits Utilization with an Auxiliary
Head, arXiv:2411.08937. A loss that compares the logits of teacher and student sees what softmax discards, but
quarrels with cross-entropy in a shared linear classifier, not in the backbone. So each loss gets a head of its
own on the same features; the auxiliary one is thrown away after training.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairsweep.trainables.base import Claim, Tiny
from fairsweep.trainables.catalog import register
from fairsweep.trainables.tasks.distillation import backbone, dkd_loss, kd_loss, teacher
from fairsweep.trainables.tasks.image_classification import METRICS, ImageTask
from fairsweep.trainables.tasks.training import Mean, NetworkPaper, cosine_factor
from fairsweep.trainables.tasks.workers import Workers

# ---- losses on logits (section 3) ----


def binary_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """BinaryKL of logits (n, C): T^2 times the sum over classes of KL(sigma(t/T) || sigma(s/T)), mean over n."""
    s, t = student / temperature, teacher / temperature
    p = torch.sigmoid(t)
    on = F.logsigmoid(t) - F.logsigmoid(s)
    off = F.logsigmoid(-t) - F.logsigmoid(-s)
    return temperature**2 * (p * on + (1 - p) * off).sum(1).mean()


def binary_kl_norm(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """BinaryKL-Norm of logits (n, C): KL(1/2 || sigma((s - t)/T)) in the place of each class's divergence.

    Equal to T^2 sum_c ln cosh((s - t)/2T). The slope depends on s - t alone, so it does not vanish where the
    teacher is saturated. Computed from log-sigmoids: the authors' clamp of sigma at 1e-8 is not needed, and in
    single precision it does not keep the logarithm finite.
    """
    delta = (student - teacher) / temperature
    divergence = -0.5 * (F.logsigmoid(delta) + F.logsigmoid(-delta)) - math.log(2)
    return temperature**2 * divergence.sum(1).mean()


def mean_square(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Mean squared difference of logits (n, C); has no temperature."""
    return F.mse_loss(student, teacher)


LOGIT_LOSSES = {"binary_kl": binary_kl, "binary_kl_norm": binary_kl_norm, "mse": mean_square}


# ---- student (section 4) ----


def auxiliary_head(kind: str, features: int, classes: int) -> nn.Module:
    """The head of the logit loss: linear, or with a hidden layer of 200 as in the authors' code."""
    if kind == "linear":
        return nn.Linear(features, classes)
    if kind == "mlp":
        return nn.Sequential(
            nn.Linear(features, 200), nn.Dropout(0.1), nn.BatchNorm1d(200), nn.ReLU(), nn.Linear(200, classes)
        )
    raise ValueError(f"aux_head={kind}: known are linear, mlp")


class Student(nn.Module):
    """Backbone f, main head W and, unless `aux_head` is None, auxiliary head A. Called, it gives W f(x) alone."""

    def __init__(self, body: nn.Module, features: int, classes: int, aux_head: str | None = None) -> None:
        super().__init__()
        self.backbone = body
        self.head = nn.Linear(features, classes)
        self.aux: nn.Module | None = None
        if aux_head is not None:
            # The draws of the auxiliary head are given back: the rest of a trial is that of a plain student.
            with torch.random.fork_rng(devices=[]):
                self.aux = auxiliary_head(aux_head, features, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, C) of the main head, and those that the logit loss sees: of the other head if there is one."""
        features = self.backbone(x)
        main = self.head(features)
        return main, main if self.aux is None else self.aux(features)

    def deployed(self) -> Student:
        """A copy without the auxiliary head."""
        plain = copy.deepcopy(self)
        plain.aux = None
        return plain


# ---- gradients ----

ALONE = Workers()


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()


def aligned_gradients(
    main: Tensor, other: Tensor, parameters: Sequence[Tensor], group: Workers = ALONE
) -> list[Tensor]:
    """Gradient of `main` + `other` where that of `other` has lost its part against `main`'s.

    If the two gradients, over all parameters as one vector, make an obtuse angle, the second is projected onto
    the plane normal to the first; the first stays as it is (the authors' gradient alignment, after PCGrad of
    Yu et al. 2020).
    """
    first, second = group.gradients(main, parameters), group.gradients(other, parameters)
    against = (_dot(first, second) / _dot(first, first).clamp_min(1e-30)).clamp(max=0)
    return [a * (1 - against) + b for a, b in zip(first, second, strict=True)]


def conflict(
    student: Student, x: Tensor, labels: Tensor, teacher_logits: Tensor, temperature: float
) -> tuple[float, float]:
    """Cosine between the gradients of cross-entropy and BinaryKL of one head, in that head and in the backbone.

    What the paper's section 3 is about: below zero, the losses pull apart. Both are taken at the main head, in
    the mode the student is in, on images x with labels (n,) and teacher logits (n, C).
    """
    with torch.enable_grad():
        logits = student(x)
        losses = F.cross_entropy(logits, labels), binary_kl(logits, teacher_logits, temperature)

        def cosine(part: nn.Module) -> float:
            a, b = (ALONE.gradients(loss, list(part.parameters())) for loss in losses)
            return (_dot(a, b) / (_dot(a, a) * _dot(b, b)).sqrt().clamp_min(1e-30)).item()

        return cosine(student.head), cosine(student.backbone)


# ---- training ----

MODELS = ("dhkd", "dhkd_kd", "single_head", "logit", "kd", "dkd", "ce")
DUAL = ("dhkd", "dhkd_kd")


def build(channels: int, side: int, classes: int, config: Mapping[str, Any]) -> Student:
    """The student of a configuration; with an auxiliary head if the model has two."""
    model = config["model"]
    if model not in MODELS:
        raise ValueError(f"model={model}: known are {', '.join(MODELS)}")
    body, features = backbone(config["student"], channels, side, config.get("width", 0))
    return Student(body, features, classes, config["aux_head"] if model in DUAL else None)


@register
class DualHeadKD(NetworkPaper):
    """Distillation of a fixed teacher by SGD; `model` gives the baselines, and the same losses on one head."""

    slug = "dual_head_kd"
    title = "Dual-Head Knowledge Distillation: Enhancing Logits Utilization with an Auxiliary Head"
    citation = "Yang, Zong, Huang, Feng, An. 2024. arXiv:2411.08937"
    task = "image classification"
    baselines = "cross-entropy, KD, DKD, one head, gradient alignment"
    datasets = ("digits300", "digits", "mnist5k", "fashion_mnist", "cifar10", "cifar100")
    metrics = METRICS
    objective = "val_accuracy"
    tiny = Tiny("digits300", 6)
    together = True
    claims = tuple(
        Claim(
            name=f"dual_head_beats_{name}",
            statement=f"DHKD has a higher test accuracy than {words}",
            treatment={"model": "dhkd", "w_kd": 1.0},
            baseline=baseline,
            metric="test_accuracy",
            margin=0.0,
            origin="direction",
            data="digits300",
            seeds=30,
            steps=80,
            tunes=("lr", "weight_decay", "clip_norm"),
        )
        for name, words, baseline in (
            ("cross_entropy", "the student that learns from labels alone", {"model": "ce"}),
            ("single_head", "the same two losses on one head", {"model": "single_head", "w_kd": 1.0}),
            ("kd", "distillation of probabilities (KD)", {"model": "kd"}),
        )
    )

    paper_steps = {"cifar100": 240, "cifar10": 240}
    default_steps = 80  # the paper's own is 240
    prunable: ClassVar = {
        "align": False
    }  # which asks for gradients of all parameters, also of those that are gone
    net: Student

    @classmethod
    def minimum(cls, config: Mapping[str, Any], steps: int) -> int:
        """A few epochs on 300 images are a few dozen gradient steps."""
        return 5

    def prepare(self) -> None:
        config = self.config
        self.data = ImageTask(self.data_name, self.setting.data_dir, self.device, config["augmentation"])
        self.net = build(self.data.channels, self.data.side, self.data.classes, config).to(self.device)
        self.optimiser = torch.optim.SGD(
            self.net.parameters(),
            lr=config["lr"],
            momentum=config["momentum"],
            weight_decay=config["weight_decay"],
        )
        self.teacher: nn.Module | None = None
        if config["model"] != "ce":
            self.teacher = teacher(
                self.data_name,
                self.setting.data_dir,
                self.device,
                config["augmentation"],
                config["teacher"],
                config.get("teacher_width", 0),
                config["teacher_epochs"],
            )
            self.workers.agree(self.teacher.state_dict())

    def losses(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Of a batch: weighted loss for the main head, weighted logit loss (None without one), cross-entropy.

        The teacher sees the same augmented images as the student.
        """
        config, model = self.config, self.config["model"]
        main, seen = self.net.both(x)
        ce = F.cross_entropy(main, y)
        if self.teacher is None:
            return ce, None, ce
        with torch.no_grad():
            target = self.teacher(x)
        if model == "dkd":
            # The authors of DKD raise its weight linearly over the first 20 of 240 epochs.
            ramp = min(1.0, 12 * self.done / self.epochs)
            dkd = dkd_loss(main, target, y, config["kd_T"], config["dkd_alpha"], config["dkd_beta"])
            return ce + ramp * dkd, None, ce
        task = ce
        if model in ("kd", "dhkd_kd"):
            share = config["kd_weight"]
            task = (1 - share) * ce + share * kd_loss(main, target, config["kd_T"])
        if model == "kd":
            return task, None, ce
        logit = LOGIT_LOSSES[config["logit_loss"]](seen, target, config.get("T", 1.0))
        if model == "logit":
            return logit, None, ce
        return config["w_ce"] * task, config["w_kd"] * logit, ce

    def train_on(self, x: Tensor, y: Tensor) -> Tensor:
        """One step of SGD on a batch; returns its cross-entropy before the step."""
        main, logit, ce = self.losses(x, y)
        parameters = list(self.net.parameters())
        self.optimiser.zero_grad()
        if logit is not None and self.config["align"]:
            aligned = aligned_gradients(main, logit, parameters, self.workers)
            for parameter, gradient in zip(parameters, aligned, strict=True):
                parameter.grad = gradient
        else:
            self.workers.backward(main if logit is None else main + logit, parameters)
        nn.utils.clip_grad_norm_(parameters, self.config["clip_norm"])
        self.optimiser.step()
        return ce

    def rate(self) -> float:
        """Learning rate of the next epoch."""
        if self.config["schedule"] == "cosine":
            return self.config["lr"] * cosine_factor(self.done, self.epochs)
        # The paper's epochs 150, 180 and 210 of 240.
        return self.config["lr"] * 0.1 ** sum(
            self.done >= share * self.epochs for share in (5 / 8, 3 / 4, 7 / 8)
        )

    def epoch(self) -> dict[str, float]:
        self.set_learning_rate(self.rate())
        train_loss = Mean(self.workers)
        for x, y in self.workers.shared(self.data.batches(self.config["batch_size"])):
            train_loss.add(self.train_on(x, y), len(y))
        return {**self.validate(self.net), "train_loss": train_loss.value}

    def validate(self, net: nn.Module) -> dict[str, float]:
        val_loss, val_accuracy = self.data.evaluate(net, "validation")
        return {"val_accuracy": val_accuracy, "val_loss": val_loss}

    def deployed(self, net: nn.Module) -> nn.Module:
        return net.deployed() if isinstance(net, Student) else net

    def measure_test(self, net: nn.Module) -> dict[str, float]:
        """Test accuracy of the main head; the auxiliary one is gone."""
        return {"test_accuracy": self.data.evaluate(self.deployed(net), "test")[1]}
