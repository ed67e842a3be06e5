"""What can be given to a method that trains a network in its own way: the network with its data, loss and evaluation.

A paper brings all of it, with its base optimiser and learning rates; a network by name becomes a classifier of images.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from search_spaces.deployment import Interface, fitted
from trainables import catalog
from trainables.base import Paper, Setting
from trainables.tasks.compression import base_optimiser
from trainables.tasks.image_classification import ImageTask
from trainables.tasks.models import WAYS, ModelError, make_model
from trainables.tasks.rng import TrialRNG
from trainables.tasks.training import Mean, NetworkPaper, cosine_factor

IMAGES = 250  # that are evaluated at a time; some of these networks are large
COLOURS = 3  # channels of networks that take no other number


class Subject(ABC):
    """A network in training. optimiser: the base optimiser, over all its parameters. shape: of one example.

    objective: name of what `epoch` and `test` measure; the higher, the better. batches: gradient steps of an epoch.
    """

    net: nn.Module
    optimiser: Optimizer
    shape: tuple[int, ...]
    objective: str
    batches: int

    @abstractmethod
    def epoch(self, optimiser: Optimizer, done: int, epochs: int) -> dict[str, float]:
        """Trains `net` for epoch `done` of `epochs` by `optimiser`: "train_loss", and "objective" on validation."""

    @abstractmethod
    def validate(self, net: nn.Module) -> float:
        """The objective of `net`, which may be smaller than the one that is trained, on the validation part."""

    @abstractmethod
    def test(self, net: nn.Module) -> float:
        """The same on the test part."""

    def deployed(self, net: nn.Module) -> nn.Module:
        """What of a trained network is used afterwards; parameters have the names that they have in `net`."""
        return net

    @abstractmethod
    def interface(self) -> Interface:
        """What a deployed network takes and gives."""

    def examples(self) -> Iterator[Tensor]:
        """Inputs on which two networks can be compared; 64 random ones of a fixed seed."""
        generator = torch.Generator().manual_seed(0)
        device = next(self.net.parameters()).device
        yield torch.randn(64, *self.shape, generator=generator).to(device)


class PaperSubject(Subject):
    """A paper that says (`NetworkPaper.prunable`) that others may train its network."""

    def __init__(
        self, slug: str, config: Mapping[str, Any], setting: Setting, steps: int, rng: TrialRNG
    ) -> None:
        paper: Any = prunable_paper(slug)()
        paper.setup(config, replace(setting, steps=steps))
        paper.rng = rng  # whatever it draws from now on is of the trial that trains its network
        self.paper: NetworkPaper = paper
        self.net, self.optimiser, self.objective = paper.net, paper.optimiser, paper.objective
        self.data = data = paper.data
        self.shape = (data.channels, data.side, data.side)
        images = len(
            data.parts["train"][0] if isinstance(data.parts["train"], tuple) else data.parts["train"]
        )
        full, rest = divmod(images, config["batch_size"])
        self.batches = full + (rest > 1)

    def epoch(self, optimiser: Optimizer, done: int, epochs: int) -> dict[str, float]:
        self.paper.optimiser, self.paper.done = optimiser, done
        found = self.paper.epoch()
        return {"train_loss": found["train_loss"], "objective": found[self.objective]}

    def validate(self, net: nn.Module) -> float:
        return self.paper.validate(net)[self.objective]

    def test(self, net: nn.Module) -> float:
        return self.paper.measure_test(net)[self.objective.replace("val_", "test_", 1)]

    def deployed(self, net: nn.Module) -> nn.Module:
        return self.paper.deployed(net)

    def interface(self) -> Interface:
        return self.data.interface()


class Adapted(nn.Module):
    """`net` for images of fewer channels, which are repeated, or of another side, which are scaled."""

    def __init__(self, net: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.net, self.shape = net, shape

    def forward(self, x: Tensor) -> Tensor:
        return self.net(fitted(x, self.shape))


class ModelSubject(Subject):
    """A network by name as a classifier of images, by cross-entropy; everything else is OTO's.

    side: pixels of a side to which images are scaled; 0: as they are. config: `lr`, `weight_decay`, `batch_size`,
    `augmentation`, and `variant`, `momentum` and `schedule` where there are any.
    """

    objective = "val_accuracy"

    def __init__(self, name: str, side: int, data: str, config: Mapping[str, Any], setting: Setting) -> None:
        self.config = config
        self.data = ImageTask(data, setting.data_dir, setting.device, config["augmentation"])
        self.side = side or self.data.side
        self.net = self._made(name).to(setting.device)
        self.optimiser = base_optimiser(self.net, config)
        full, rest = divmod(len(self.data.parts["train"][1]), config["batch_size"])
        self.batches = full + (rest > 1)

    def _made(self, name: str) -> nn.Module:
        """The network, and in `shape` what it takes: images of the data's channels, or grey ones as coloured."""
        said = ""
        for channels in dict.fromkeys((self.data.channels, COLOURS)):
            if channels < self.data.channels:
                continue
            self.shape = (channels, self.side, self.side)
            net = make_model(name, channels, self.data.classes)
            if not any(p.requires_grad for p in net.parameters()):
                raise ModelError(f"{name}: it has nothing to train")
            try:
                with torch.no_grad():
                    found = copy.deepcopy(net).eval()(torch.zeros(2, *self.shape))
            except Exception as error:  # whatever a network raises on images that it is not made for
                said = said or (str(error).splitlines() or [type(error).__name__])[0]
                continue
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            if shape != (2, self.data.classes):
                raise ModelError(
                    f"{name}: gives {shape} for two images; must be logits (2, {self.data.classes})"
                )
            return net
        size = "x".join(map(str, (self.data.channels, self.side, self.side)))
        raise ModelError(f"{name}: cannot take images of {size}: {said}; train.config.side scales them")

    def _factor(self, done: int, epochs: int) -> float:
        kind = self.config.get("schedule", "constant")
        if kind == "cosine":
            return cosine_factor(done, epochs)
        return 0.1 ** (4 * done // epochs) if kind == "step" else 1.0

    def epoch(self, optimiser: Optimizer, done: int, epochs: int) -> dict[str, float]:
        for group in optimiser.param_groups:
            group["lr"] = self.config["lr"] * self._factor(done, epochs)
        train_loss = Mean()
        net = Adapted(self.net, self.shape)
        for x, y in self.data.batches(self.config["batch_size"]):
            loss = F.cross_entropy(net(x), y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            train_loss.add(loss, len(y))
        return {"train_loss": train_loss.value, "objective": self.validate(self.net)}

    def validate(self, net: nn.Module) -> float:
        return self._accuracy(net, "validation")

    def test(self, net: nn.Module) -> float:
        return self._accuracy(net, "test")

    def interface(self) -> Interface:
        return self.data.interface().fitting(self.shape)

    def _accuracy(self, net: nn.Module, part: str) -> float:
        return self.data.evaluate(Adapted(net, self.shape), part, IMAGES)[1]


# ---- by name ----


def is_paper(name: str) -> bool:
    """Whether `name` is a slug and not one of the ways to name another network."""
    return ":" not in name


def prunable_papers() -> list[str]:
    """The slugs of the papers whose network others may train."""
    return [slug for slug in catalog.slugs() if getattr(catalog.get(slug), "prunable", None) is not None]


def prunable_paper(slug: str) -> type[NetworkPaper]:
    """The paper `slug`. ValueError if its network is not to be trained by others; says which are."""
    try:
        paper: type[Paper] = catalog.get(slug)
    except catalog.UnknownPaper:
        ways = f"{', '.join(prunable_papers())}, {WAYS}"
        raise ValueError(f"trainable={slug}: no such paper; a trainable is one of {ways}") from None
    if getattr(paper, "prunable", None) is None:
        ways = ", ".join(prunable_papers())
        raise ValueError(f"trainable={slug}: its network cannot be pruned; those of {ways} can, or {WAYS}")
    assert issubclass(paper, NetworkPaper)
    return paper
