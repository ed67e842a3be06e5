"""One architecture of a space, trained alone from scratch: what a search promises is measured with this.

The recipe is that of NAS-Bench-201: Dong and Yang, ICLR 2020, arXiv:2001.00326, table 1. Tables of true accuracies
are made of such trainings, and the winners of a search are trained again by one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fairsweep.search_spaces.supernets import build_supernet
from fairsweep.trainables.base import Tiny
from fairsweep.trainables.catalog import register
from fairsweep.trainables.tasks.image_classification import METRICS
from fairsweep.trainables.tasks.small_images import SmallImageTask
from fairsweep.trainables.tasks.training import Mean, NetworkPaper, cosine_factor

RANDOM = "random"


@register
class Standalone(NetworkPaper):
    """Trains `architecture` with weights, batch statistics and schedule of its own; its last weights count.

    The cosine ends with the budget, so an unfinished training says less than its accuracy.
    """

    slug = "standalone"
    title = "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search"
    citation = "Dong, Yang. ICLR 2020. arXiv:2001.00326"
    task = "architecture search"
    baselines = "any network of the cell, chain, mbconv and NASNet spaces"
    datasets = ("digits", "fashion_mnist_7x7", "mnist5k", "fashion_mnist", "cifar10_16x16", "cifar10")
    metrics = METRICS
    objective = "val_accuracy"
    tiny = Tiny("digits", 3)
    together = True

    paper_steps = {"cifar10": 200}
    default_steps = 6

    @classmethod
    def minimum(cls, config: Mapping[str, Any], steps: int) -> int:
        """Half of the cosine: before it the learning rate is so high that accuracies jump."""
        return math.ceil(steps / 2)

    def eligible(self) -> bool:
        return self.done >= self.epochs

    def prepare(self) -> None:
        config = self.config
        self.data = SmallImageTask.of(config, self.data_name, self.setting.data_dir, self.device)
        supernet = build_supernet(
            config["supernet"],
            config["size"],
            input_shape=self.data.shape,
            classes=self.data.classes,
        )
        text = config["architecture"]
        self.supernet, space = supernet, supernet.space
        self.architecture = space.sample(self.rng.numpy) if text == RANDOM else space.check(space.parse(text))
        self.net = supernet.build(self.architecture).to(self.device)
        self.optimiser = torch.optim.SGD(
            self.net.parameters(),
            lr=config["lr"],
            momentum=config["momentum"],
            weight_decay=config["wd"],
            nesterov=config["momentum"] > 0,
        )

    def epoch(self) -> dict[str, float]:
        self.set_learning_rate(self.config["lr"] * cosine_factor(self.done, self.epochs))
        train_loss = Mean(self.workers)
        for x, y in self.workers.shared(self.data.batches(self.config["batch_size"])):
            loss = F.cross_entropy(self.net(x), y)
            self.descend(loss)
            train_loss.add(loss, len(y))
        val_loss, val_accuracy = self.data.evaluate(self.net, "validation")
        return {"val_accuracy": val_accuracy, "val_loss": val_loss, "train_loss": train_loss.value}

    def measure_test(self, net: nn.Module) -> dict[str, float]:
        """Test accuracy of the trained network."""
        return {"test_accuracy": self.data.evaluate(net, "test")[1]}
