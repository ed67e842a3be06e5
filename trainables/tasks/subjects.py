"""What can be given to a method that trains a network in its own way: the network with its data, loss and evaluation.

A paper brings all of it, with its base optimiser and learning rates; a network by name becomes a classifier of images.
"""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from fairsweep.search_spaces.interface import Interface, fitted
from fairsweep.trainables import catalog
from fairsweep.trainables.base import Paper, Setting
from fairsweep.trainables.tasks.compression import base_optimiser
from fairsweep.trainables.tasks.image_classification import ImageTask
from fairsweep.trainables.tasks.models import WAYS, ModelError, make_model
from fairsweep.trainables.tasks.rng import TrialRNG
from fairsweep.trainables.tasks.training import Mean, NetworkPaper, cosine_factor

IMAGES = 250  # that are evaluated at a time; some of these networks are large
PIXELS = ("standardised", "raw")  # what of an image a network is given
RAW = PIXELS[1]
Where = str | int | None  # the part of an answer that the logits are; None: the whole
COLOURS = 3  # channels of networks that take no other number


class Subject(ABC):
    """A network in training. optimiser: the base optimiser, over all its parameters. shape, dtype: of one example.

    objective: name of what `epoch` and `test` measure; the higher, the better. batches: gradient steps of an epoch.
    data: the task that its examples are of.
    """

    net: nn.Module
    optimiser: Optimizer
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    objective: str
    batches: int
    data: Any

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
    """`net` for images of fewer channels, which are repeated, or of another side, which are scaled: its logits."""

    def __init__(self, net: nn.Module, shape: tuple[int, ...], where: Where = None) -> None:
        super().__init__()
        self.net, self.shape, self.where = net, shape, where

    def forward(self, x: Tensor) -> Tensor:
        answer = self.net(fitted(x, self.shape))
        return answer if self.where is None else _parts(answer)[self.where]


def _parts(answer: Any) -> dict[str | int, Any]:
    """The parts of an answer by name or number; a tensor is the only part of itself, of no name."""
    if isinstance(answer, Mapping):
        return dict(answer)
    if hasattr(answer, "_asdict"):
        return answer._asdict()
    if is_dataclass(answer):
        return {field.name: getattr(answer, field.name) for field in fields(answer)}
    return dict(enumerate(answer)) if isinstance(answer, list | tuple) else {}


def _logits(answer: Any, wanted: tuple[int, int]) -> Where:
    """Where in `answer` the logits of the shape `wanted` are: None for the whole of it. ValueError if nowhere, or in
    several places of which none is called so."""

    def fits(value: Any) -> bool:
        return isinstance(value, Tensor) and tuple(value.shape) == wanted and value.is_floating_point()

    if fits(answer):
        return None
    parts = _parts(answer)
    found = [name for name, value in parts.items() if fits(value)]
    if len(found) == 1 or "logits" in found:
        return found[0] if len(found) == 1 else "logits"
    shown = {k: tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__ for k, v in parts.items()}
    given = (
        tuple(answer.shape)
        if isinstance(answer, Tensor)
        else f"{type(answer).__name__} {shown or ''}".strip()
    )
    several = f"; {' and '.join(map(str, found))} could be: call one of them logits" if found else ""
    raise ValueError(
        f"gives {given} for two images; must be logits {wanted}, or have them as a part{several}"
    )


class ModelSubject(Subject):
    """A network by name as a classifier of images, by cross-entropy; everything else is OTO's.

    train: `side`, pixels of a side to which images are scaled (default: as they are), and `pixels`: "standardised" or,
    for a network that takes what is stored, "raw". config: `lr`, `weight_decay`, `batch_size`, `augmentation`, and
    `variant`, `momentum` and `schedule` where there are any.
    """

    objective = "val_accuracy"

    def __init__(
        self, name: str, train: Mapping[str, Any], data: str, config: Mapping[str, Any], setting: Setting
    ) -> None:
        self.config = config
        raw = train.get("pixels", PIXELS[0]) == RAW
        self.data = ImageTask(data, setting.data_dir, setting.device, config["augmentation"], raw=raw)
        self.dtype = self.data.parts["train"][0].dtype if raw else torch.float32
        self.side = train.get("side", 0) or self.data.side
        self.net = self._made(name).to(setting.device)
        self.optimiser = base_optimiser(self.net, config)
        full, rest = divmod(len(self.data.parts["train"][1]), config["batch_size"])
        self.batches = full + (rest > 1)

    def _made(self, name: str) -> nn.Module:
        """The network, and in `shape` what it takes: images of the data's channels, or grey ones as coloured. In
        `where` the place of its logits, in training and in evaluation."""
        said = ""
        for channels in dict.fromkeys((self.data.channels, COLOURS)):
            if channels < self.data.channels:
                continue
            self.shape = (channels, self.side, self.side)
            net = make_model(name, channels, self.data.classes)
            if not any(p.requires_grad for p in net.parameters()):
                raise ModelError(f"{name}: it has nothing to train")
            images = self.interface().seen(2)
            try:
                with torch.no_grad(), torch.random.fork_rng(devices=[]):
                    answers = {mode: copy.deepcopy(net).train(mode)(images) for mode in (True, False)}
            except Exception as error:  # whatever a network raises on images that it is not made for
                said = said or (str(error).splitlines() or [type(error).__name__])[0]
                continue
            try:
                self.where = {mode: _logits(a, (2, self.data.classes)) for mode, a in answers.items()}
            except ValueError as error:
                raise ModelError(f"{name}: {error}") from None
            return net
        size = "x".join(map(str, (self.data.channels, self.side, self.side)))
        raise ModelError(f"{name}: cannot take images of {size}: {said}; {self._advice(net)}")

    def _advice(self, net: nn.Module) -> str:
        needed = [
            p.name
            for p in inspect.signature(net.forward).parameters.values()
            if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        if len(needed) > 1:
            return f"it must take images alone, not {' and '.join(needed)}: wrap it in a module that makes the others"
        other = "" if self.data.raw else f", train.config.pixels={RAW} leaves pixels {self.data.stored}"
        return f"train.config.side scales them{other}"

    def _factor(self, done: int, epochs: int) -> float:
        kind = self.config.get("schedule", "constant")
        if kind == "cosine":
            return cosine_factor(done, epochs)
        return 0.1 ** (4 * done // epochs) if kind == "step" else 1.0

    def epoch(self, optimiser: Optimizer, done: int, epochs: int) -> dict[str, float]:
        for group in optimiser.param_groups:
            group["lr"] = self.config["lr"] * self._factor(done, epochs)
        train_loss = Mean()
        net = Adapted(self.net, self.shape, self.where[True])
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
        where: Where = getattr(self, "where", {}).get(False)
        return replace(self.data.interface().fitting(self.shape), logits=where)

    def examples(self) -> Iterator[Tensor]:
        if not self.data.raw:
            yield from super().examples()
            return
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(self.data.levels + 1, (64, *self.shape), generator=generator)
        yield images.to(self.dtype).to(next(self.net.parameters()).device)

    def _accuracy(self, net: nn.Module, part: str) -> float:
        return self.data.evaluate(Adapted(net, self.shape, self.where[False]), part, IMAGES)[1]


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
