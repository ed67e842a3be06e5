"""NASNet: one network of its search space, trained stand-alone.

Zoph, Vasudevan, Shlens and Le, CVPR 2018, arXiv:1707.07012. The search itself proposes architectures; this trains one
of them, by default NASNet-A, with ScheduledDropPath and an auxiliary head as in the authors' code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairsweep.search_spaces.architectures.base import Architecture
from fairsweep.search_spaces.architectures.nasnet import NASNetSpace
from fairsweep.search_spaces.supernets.nasnet_network import NASNET_A_CONCAT_USED, NASNet
from fairsweep.trainables.base import Tiny
from fairsweep.trainables.catalog import register
from fairsweep.trainables.tasks.image_classification import METRICS, ImageTask
from fairsweep.trainables.tasks.training import Mean, NetworkPaper, cosine_factor


def choose(config: Mapping[str, Any], rng: np.random.Generator) -> tuple[NASNetSpace, Architecture]:
    """The architecture that `config["architecture"]` names, of the whole space: 13 operations, add and concatenate.

    ArchitectureError if it is neither nasnet_a nor random nor the text of one with `config["n_blocks"]` blocks.
    """
    space = NASNetSpace(config["n_blocks"])
    if config["architecture"] == "nasnet_a":
        return space, space.nasnet_a()
    if config["architecture"] == "random":
        return space, space.sample(rng)
    return space, space.parse(config["architecture"])


def decayed(net: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Groups of the parameters of `net` for an optimiser: biases and normalisations are not decayed."""
    weights = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    return [
        {"params": weights, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


@register
class NASNetChild(NetworkPaper):
    """Training of one architecture; `drop_path` and `auxiliary` give the baselines."""

    slug = "nasnet"
    title = "Learning Transferable Architectures for Scalable Image Recognition"
    citation = "Zoph, Vasudevan, Shlens, Le. CVPR 2018, pp. 8697-8710. arXiv:1707.07012"
    task = "image classification"
    baselines = "drop path none, constant, scheduled; any cell as text"
    datasets = ("digits", "mnist5k", "fashion_mnist", "cifar10")
    metrics = METRICS
    objective = "val_accuracy"
    tiny = Tiny("digits", 3, {"batch_size": 128, "lr": 0.1})
    together = True
    paper_steps = {"cifar10": 600}
    default_steps = 20  # the epochs that the paper trains a network of the search

    net: NASNet

    def prepare(self) -> None:
        config = self.config
        space, self.architecture = choose(config, self.rng.numpy)
        self.data = ImageTask(self.data_name, self.setting.data_dir, self.device, config["augmentation"])
        self.net = NASNet(
            space,
            self.architecture,
            self.data.shape,
            self.data.classes,
            config["n_repeat"],
            config["filters"],
            concat_used=NASNET_A_CONCAT_USED if config.get("concat_used") else ((), ()),
            dropout=config["dropout"],
            auxiliary=config["auxiliary"],
        ).to(self.device)
        self.optimiser = torch.optim.SGD(
            decayed(self.net, config["weight_decay"]), lr=config["lr"], momentum=config["momentum"]
        )

    def drop_paths(self, progress: float) -> None:
        """Sets the network's probabilities to keep an operation after `progress` of the training in [0, 1]."""
        if self.config["drop_path"] != "none":
            version = self.config.get("drop_path_version")  # none if it is constant
            self.net.schedule_drop_path(self.config["drop_path_keep"], progress, version)

    def loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """What is minimised, and the cross-entropy (nats) of the classifier alone."""
        logits, auxiliary = self.net.both_logits(x)
        loss = F.cross_entropy(logits, y)
        if auxiliary is None:
            return loss, loss
        return loss + self.config["auxiliary_weight"] * F.cross_entropy(auxiliary, y), loss

    def epoch(self) -> dict[str, float]:
        self.set_learning_rate(self.config["lr"] * cosine_factor(self.done, self.epochs))
        size = self.config["batch_size"]
        batches = math.ceil(len(self.data.parts["train"][1]) / size)
        train_loss = Mean(self.workers)
        for k, (x, y) in enumerate(self.workers.shared(self.data.batches(size))):
            self.drop_paths((self.done + k / batches) / self.epochs)
            loss, classified = self.loss(x, y)
            self.descend(loss, self.config["clip_norm"])
            train_loss.add(classified, len(y))
        val_loss, val_accuracy = self.data.evaluate(self.net, "validation")
        return {"val_accuracy": val_accuracy, "val_loss": val_loss, "train_loss": train_loss.value}

    def measure_test(self, net: nn.Module) -> dict[str, float]:
        return {"test_accuracy": self.data.evaluate(net, "test")[1]}
