"""PA&DA: jointly sampling path and data for consistent neural architecture search.

Lu, Hu, Yang, Sun, Mei, Tan and Song, CVPR 2023, arXiv:2302.14772. A supernet is trained path by path. The variance
of its gradient is least if paths and examples are drawn with probabilities proportional to the norms of their
gradients (sections 3.2 and 3.3); less variance should rank the paths more like their stand-alone accuracies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from fairsweep.search_spaces.supernets import Supernet, build_supernet
from fairsweep.trainables.base import Claim, Metric, Tiny
from fairsweep.trainables.catalog import register
from fairsweep.trainables.tasks.data_sampling import ImportanceData, UniformData
from fairsweep.trainables.tasks.path_sampling import (
    FairPaths,
    ImportancePaths,
    PathRule,
    SandwichPaths,
    UniformPaths,
)
from fairsweep.trainables.tasks.path_scoring import path_accuracies
from fairsweep.trainables.tasks.small_images import SmallImageTask
from fairsweep.trainables.tasks.supernet_training import SupernetTraining
from fairsweep.trainables.tasks.training import NetworkPaper, cosine_factor
from fairsweep.trainables.tasks.truth_tables import find_truth, tau
from fairsweep.trainables.tasks.workers import workers

# Strategy -> how the paths of an update share it, where they do not simply add their losses up
UPDATES = {"sandwich": "distil", "sumnas": "reptile"}
OUTER_LR, OUTER_DECAY = 1.0, 4e-5  # of SUMNAS


def ramp(schedule: str, epoch: int, epochs: int) -> float:
    """Share of importance in the probabilities that are set after epoch 0 .. `epochs` - 1: tau and delta, from 0.

    linear: epoch / epochs, as in the paper, so that the first two epochs are uniform. constant: 1 from the start.
    """
    if schedule == "linear":
        return epoch / epochs
    if schedule == "cosine":
        return 0.5 * (1 - math.cos(math.pi * epoch / epochs))
    if schedule == "constant":
        return 1.0
    raise ValueError(f"schedule={schedule}: known are linear, constant, cosine")


def path_rule(net: Supernet, config: Mapping[str, Any]) -> PathRule:
    """How the strategy of `config` draws the paths of `net`."""
    strategy = config["strategy"]
    if strategy in ("pada", "pa"):
        return ImportancePaths(net, config["granularity"], config["floor"], config["ema"])
    if strategy in ("fairnas", "sumnas"):
        return FairPaths(net)
    if strategy == "sandwich":
        return SandwichPaths(net)
    if strategy in ("da", "uniform"):
        return UniformPaths(net)
    raise ValueError(f"strategy={strategy}: known are pada, pa, da, uniform, fairnas, sandwich, sumnas")


@register
class PaDa(NetworkPaper):
    """Trains a supernet by `strategy` and measures its paths with inherited weights and statistics of the batch.

    `val_accuracy` is the mean over `measured_paths` paths, the same for every trial. `tau` is Kendall's tau between
    the validation accuracies of the truth's architectures and their stand-alone test accuracies, `tau_of_flops`
    that of their FLOPs alone; both are left out where no truth is at hand and training one would be long
    (`trainables.tasks.truth_tables`). Workers of a process group share each batch.
    """

    slug = "pa_da"
    title = "PA&DA: Jointly Sampling PAth and DAta for Consistent NAS"
    citation = "Lu, Hu, Yang, Sun, Mei, Tan, Song. CVPR 2023, pp. 11940-11949. arXiv:2302.14772"
    task = "architecture search"
    baselines = "SPOS, FairNAS, sandwich, SUMNAS, path or data only"
    contenders = {"strategy": ("pada", "pa", "da", "uniform", "fairnas", "sandwich", "sumnas")}
    datasets = ("digits", "fashion_mnist_7x7", "mnist5k", "fashion_mnist", "cifar10_16x16", "cifar10")
    metrics = (
        Metric("val_accuracy", "max", "validation", "fraction"),
        Metric("val_loss", "min", "validation", "nats"),
        Metric("train_loss", "min", "train", "nats"),
        Metric("gradient_variance", "min", "train"),
        Metric("test_accuracy", "max", "test", "fraction"),
        Metric("tau", "max", "test"),
        Metric("tau_of_flops", "max", "test"),
    )
    objective = "val_accuracy"
    tiny = Tiny("digits", 3, {"lr": 0.1})
    together = True
    claims = (
        Claim(
            name="path_importance_ranks_better",
            statement="Paths drawn by importance: Kendall's tau between inherited and stand-alone accuracies is"
            " above that of uniform sampling",
            treatment={"strategy": "pa"},
            baseline={"strategy": "uniform"},
            metric="tau",
            margin=0.0,
            origin="direction",
            data="fashion_mnist_7x7",
            seeds=6,
            steps=40,
            tunes=("lr", "wd"),
        ),
        Claim(
            name="path_and_data_importance_rank_better",
            statement="Paths and data drawn by importance: Kendall's tau between inherited and stand-alone"
            " accuracies is above that of uniform sampling",
            treatment={"strategy": "pada"},
            baseline={"strategy": "uniform"},
            metric="tau",
            margin=0.0,
            origin="direction",
            data="fashion_mnist_7x7",
            seeds=6,
            steps=40,
            tunes=("lr", "wd"),
        ),
    )

    paper_steps = {"cifar10": 250}
    default_steps = 40

    @classmethod
    def minimum(cls, config: Mapping[str, Any], steps: int) -> int:
        """Importance counts for less than a half before."""
        return math.ceil(steps / 2)

    def eligible(self) -> bool:
        """The last weights are ranked, as in the paper: the schedules end with them."""
        return self.done >= self.epochs

    def prepare(self) -> None:
        config = self.config
        self.data = SmallImageTask.of(config, self.data_name, self.setting.data_dir, self.device)
        self.supernet = build_supernet(
            config["supernet"],
            config["size"],
            seed=int(self.rng.numpy.integers(2**63)),
            input_shape=self.data.shape,
            classes=self.data.classes,
        ).to(self.device)
        self.net = self.supernet
        self.path_rule = path_rule(self.supernet, config)
        by_importance = config["strategy"] in ("pada", "da")
        self.data_rule = (
            ImportanceData(self.data.images, config["ema"])
            if by_importance
            else UniformData(self.data.images)
        )
        self.optimiser = self._make_optimiser()
        self.training = SupernetTraining(
            self.supernet,
            self.optimiser,
            self.data,
            self.path_rule,
            self.data_rule,
            self.rng.numpy,
            update=UPDATES.get(config["strategy"], "sum"),
            clip=config["clip"],
            reweight=config.get("reweight", False),
            inner_lr=config.get("inner_lr", 0.05),
            workers=workers(self.device),
        )
        draws = np.random.default_rng(0)
        self.measured = [self.supernet.space.sample(draws) for _ in range(config["measured_paths"])]

    def _make_optimiser(self) -> torch.optim.Optimizer:
        config = self.config
        if config["strategy"] == "sumnas":
            self.learning_rate = OUTER_LR
            return torch.optim.SGD(self.net.parameters(), lr=OUTER_LR, weight_decay=OUTER_DECAY)
        self.learning_rate = config["lr"]
        return torch.optim.SGD(
            self.net.parameters(), config["lr"], momentum=config["momentum"], weight_decay=config["wd"]
        )

    def stateful(self) -> dict[str, Any]:
        return {**super().stateful(), "paths": self.path_rule, "examples": self.data_rule}

    def epoch(self) -> dict[str, float]:
        config = self.config
        self.set_learning_rate(self.learning_rate * cosine_factor(self.done, self.epochs))
        share = ramp(config.get("schedule", "linear"), self.done, self.epochs)
        metrics = self.training.epoch(
            config["batch_size"],
            path_share=share * config.get("tau_max", 0.0),
            data_share=share * config.get("delta_max", 0.0),
        )
        accuracy, loss = path_accuracies(self.supernet, self.measured, self.data, "validation")
        return {"val_accuracy": float(accuracy.mean()), "val_loss": float(loss.mean()), **metrics}

    def measure_test(self, net: nn.Module) -> dict[str, float]:
        """Mean test accuracy of the measured paths and, where a truth is at hand, how it is ranked."""
        assert isinstance(net, Supernet)
        accuracy, _ = path_accuracies(net, self.measured, self.data, "test")
        found = {"test_accuracy": float(accuracy.mean())}
        table = find_truth(net, self.config["size"], self.data, self.setting.data_dir)
        if table is None:
            return found
        scores, _ = path_accuracies(net, table.keys, self.data, "validation")
        true = table.means("test_accuracy")
        return {**found, "tau": tau(scores, true), "tau_of_flops": tau(table.prices["flops"], true)}
