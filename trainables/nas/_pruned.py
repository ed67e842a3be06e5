"""OTO v2 or v3 on a network that is not theirs: a paper's, or one by name.

What trains is the subject's own loop with OTO's optimiser; what is tested is the network that was cut out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from fairsweep.search_spaces.costs import UncountedError, count_flops, count_parameters
from fairsweep.search_spaces.pruning import partition
from fairsweep.search_spaces.pruning.erasing import ErasingGraph
from fairsweep.trainables import catalog
from fairsweep.trainables.base import Fidelity, Found, Metric, Tiny
from fairsweep.trainables.catalog import register
from fairsweep.trainables.parts import Members
from fairsweep.trainables.tasks.compression import ChannelPruning, Compression, OperatorErasing, difference
from fairsweep.trainables.tasks.subjects import (
    PIXELS,
    ModelSubject,
    PaperSubject,
    Subject,
    is_paper,
    prunable_paper,
)
from fairsweep.trainables.tasks.training import NetworkPaper

METHODS = ("oto_v2", "oto_v3")
# Settings of OTO that a paper's own loop decides: learning rates, batches and the network.
OF_A_PAPER = (
    "variant", "lr", "momentum", "weight_decay", "schedule", "batch_size", "augmentation",
)  # fmt: skip
OF_NO_OTHER = ("model", "width", "nodes", "fine_tune")  # of OTO's own networks, and what only they can
MODEL_SETTINGS = ("side", "pixels")


@register
class Pruned(NetworkPaper):
    """Configuration: the settings of `by` ("oto_v2" or "oto_v3") and of `trainable`, a name as `subjects` knows them.

    by, trainable: strings. oto, train: their settings, whole, as mappings.
    """

    slug = "pruned"
    title = "A network that OTO makes smaller while it is trained"
    citation = "Chen et al. ICLR 2023. arXiv:2303.06862; Chen et al. arXiv:2312.09411"
    task = "pruning"
    datasets = ("digits",)
    metrics = (
        Metric("val_objective", "max", "validation"),
        Metric("train_loss", "min", "train"),
        Metric("group_sparsity", "max", "train", "fraction"),
        Metric("test_objective", "max", "test"),
        Metric("test_group_sparsity", "max", "test", "fraction"),
        Metric("test_parameters", "min", "test", "parameters"),
        Metric("test_flops", "min", "test", "multiply-accumulates"),
        Metric("test_difference", "min", "test"),
    )
    objective = "val_objective"
    tiny = Tiny("digits", 2)
    default_steps = 30

    @classmethod
    def fidelity(cls, config: Mapping[str, Any], steps: int | None = None) -> Fidelity:
        if steps is None:
            of = config["trainable"] if is_paper(config["trainable"]) else config["by"]
            found = catalog.get(of)
            steps = found.fidelity(
                config["train"] if is_paper(config["trainable"]) else config["oto"]
            ).maximum
        return Fidelity("epoch", min(cls.minimum(config, steps), steps), steps)

    @classmethod
    def minimum(cls, config: Mapping[str, Any], steps: int) -> int:
        """The first epoch that ends with a network that is being pruned."""
        oto = config["oto"]
        if oto.get("optimizer") == "one_shot":
            return steps
        start = oto.get("start_pruning_frac", oto.get("warmup_frac", 0.0))
        return int(start * steps) + 1

    def prepare(self) -> None:
        config, oto = self.config, self.config["oto"]
        self.subject = self._subject()
        self.net = self.subject.net
        example = torch.zeros(2, *self.subject.shape, dtype=self.subject.dtype, device=self.device)
        steps = self.subject.batches * self.epochs
        self.compression: Compression | None = None
        self.optimiser = self.subject.optimiser
        if oto.get("method") == "dense":
            return
        deployed = self.subject.deployed(self.net)
        common = (steps, oto, self.subject.deployed)
        try:
            if config["by"] == "oto_v2":
                groups = partition(deployed, example)
                self.compression = ChannelPruning(self.net, self.optimiser, groups, *common)
            else:
                graph = ErasingGraph(deployed, example)
                self.compression = OperatorErasing(self.net, self.optimiser, graph, *common)
        except ValueError as error:
            raise ValueError(f"trainable={config['trainable']}: {error}") from None
        self.optimiser = self.compression.optimiser

    def _subject(self) -> Subject:
        config, name = self.config, self.config["trainable"]
        if is_paper(name):
            data = self.setting.data or prunable_paper(name).datasets[0]
            setting = replace(self.setting, data=data)
            return PaperSubject(name, config["train"], setting, self.epochs, self.rng)
        data = self.setting.data or catalog.get(config["by"]).datasets[0]
        return ModelSubject(name, config["train"], data, config["oto"], self.setting)

    def members(self) -> Members | None:
        return self.subject.data.members()

    # -- training --------------------------------------------------------------------------------------------

    def epoch(self) -> dict[str, float]:
        net, compression = self.net, self.compression
        if compression is not None:
            compression.begin_epoch(net, self.done, self.epochs)
            self.optimiser = compression.optimiser
        found = self.subject.epoch(self.optimiser, self.done, self.epochs)
        value, sparsity = found["objective"], 0.0
        if compression is not None:
            if compression.end_epoch(net, self.done, self.epochs):
                value = self.subject.validate(net)
            sparsity = compression.sparsity(net)
        return {"val_objective": value, "train_loss": found["train_loss"], "group_sparsity": sparsity}

    def eligible(self) -> bool:
        """Only weights count in which all is zero that is to be, or the last."""
        return self.compression is None or self.done >= self.epochs or self.compression.reached

    # -- the smaller network ---------------------------------------------------------------------------------

    def measure_test(self, net: nn.Module) -> dict[str, float]:
        """What the smaller network of the best weights is and does, and how far it is from the full one; `Different`
        if that is too far."""
        full = self.subject.deployed(net)
        small = full if self.compression is None else self.compression.cut(net).module
        try:
            flops = {"test_flops": float(count_flops(small, self.subject.shape, self.subject.dtype))}
        except UncountedError:  # as a search says before it trains
            flops = {}
        return {
            "test_objective": self.subject.test(small),
            "test_group_sparsity": 0.0 if self.compression is None else self.compression.sparsity(net),
            "test_parameters": float(count_parameters(small)),
            **flops,
            "test_difference": difference(full, small, self.subject.examples()),
        }

    def found(self) -> Found:
        """The smaller network; its text says what of each component is left."""
        net = self.trained()
        full, name = self.subject.deployed(net), self.config["trainable"]
        if self.compression is None:
            return Found(name, full, self.subject.shape, self.subject.interface(), full)
        cut = self.compression.cut(net)
        text, interface = f"{name} {cut.text}", self.subject.interface()
        return Found(text, cut.module, self.subject.shape, interface, full, cut.recipe)

    # -- checkpoints -----------------------------------------------------------------------------------------

    carried = ("gone",)

    @property
    def gone(self) -> list[str] | None:
        """The chains that are out of the training, once channels are pruned."""
        gone = getattr(self.compression, "gone", None)
        return None if gone is None else sorted(gone)

    @gone.setter
    def gone(self, names: list[str] | None) -> None:
        if names is not None and self.gone is None:
            assert isinstance(self.compression, OperatorErasing)
            self.compression.prune_channels(self.net, names)
            self.optimiser = self.compression.optimiser


def check_settings(name: str, train: Mapping[str, Any], oto: Mapping[str, Any]) -> None:
    """ValueError if a setting of `train` or `oto`, as the user gave them, does not go with the trainable `name`."""
    unused = (*OF_NO_OTHER, *(OF_A_PAPER if is_paper(name) else ()))
    for key in unused:
        if key in oto:
            where = (
                f"train.config has {name}'s own" if is_paper(name) and key in OF_A_PAPER else "leave it out"
            )
            raise ValueError(
                f"algorithm.config.{key}={oto[key]}: has no meaning for trainable={name}; {where}"
            )
    if is_paper(name):
        for key, value in (prunable_paper(name).prunable or {}).items():
            if train.get(key, value) != value:
                raise ValueError(f"train.config.{key}={train[key]}: must be {value} for {name} to be pruned")
        return
    for key, value in train.items():
        if key not in MODEL_SETTINGS:
            raise ValueError(
                f"train.config.{key}={value}: of {name} only {', '.join(MODEL_SETTINGS)} can be set"
            )
        if key == "pixels":
            if value not in PIXELS:
                raise ValueError(f"train.config.pixels={value}: must be one of {', '.join(PIXELS)}")
        elif type(value) is not int or value < 1:
            raise ValueError(f"train.config.{key}={value}: must be a whole number of at least 1")
