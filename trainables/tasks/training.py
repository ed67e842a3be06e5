"""The loop that papers share: one network, trained unit by unit, its best weights kept, resumable exactly.

A paper gives what is its own: `prepare` (data, network, optimiser), `epoch` (one unit of training, and what it
measured) and `measure_test`. Everything random draws from PyTorch's global generators or from `self.rng.numpy`;
both are the trial's own while `prepare` and `epoch` run. What parts of the data are drawn by is `self.split_rng`.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fairsweep.trainables.base import Fidelity, Paper, Setting
from fairsweep.trainables.parts import Members
from fairsweep.trainables.tasks.rng import TrialRNG
from fairsweep.trainables.tasks.workers import Workers, workers


class NetworkPaper(Paper):
    """A paper whose trial trains `self.net` with `self.optimiser`, both made by `prepare`.

    The weights with the best value of `selection` (a declared validation metric; default: the objective)
    are kept, and `test` measures them.
    """

    default_steps: ClassVar[int]  # calls of `step` in a trial where the budget does not say
    unit: ClassVar[str] = "epoch"
    selection: str | None = None  # `prepare` may set it, where that is a question of the configuration
    carried: ClassVar[
        tuple[str, ...]
    ] = ()  # attributes (numbers, strings, lists of them) that a checkpoint keeps

    # Several workers, where `together`: `epoch` takes its batches by `self.workers.shared` and its steps by `descend`,
    # and what it says of them is a `Mean(self.workers)`.
    workers: Workers = Workers()

    prunable: ClassVar[Mapping[str, Any] | None] = None  # see "handing the network over"
    _digests: dict[str, str] | None
    net: nn.Module
    optimiser: torch.optim.Optimizer

    @classmethod
    def minimum(cls, config: Mapping[str, Any], steps: int) -> int:
        """The first of `steps` steps whose value says something about the last one's."""
        return 1

    @classmethod
    def fidelity(cls, config: Mapping[str, Any], steps: int | None = None) -> Fidelity:
        steps = cls.default_steps if steps is None else steps
        return Fidelity(cls.unit, min(cls.minimum(config, steps), steps), steps)

    # -- what a paper gives -------------------------------------------------------------------------------

    @abstractmethod
    def prepare(self) -> None:
        """Makes data, `self.net` and `self.optimiser` out of `self.config` and `self.setting`."""

    @abstractmethod
    def epoch(self) -> dict[str, float]:
        """Trains one unit and returns every declared train and validation metric. `self.done` counts those before."""

    @abstractmethod
    def measure_test(self, net: nn.Module) -> dict[str, float]:
        """The declared test metrics of `net`, which is in evaluation mode."""

    def stateful(self) -> dict[str, Any]:
        """What has `state_dict` and `load_state_dict` and belongs into a checkpoint, by name."""
        return {"net": self.net, "optimiser": self.optimiser}

    def eligible(self) -> bool:
        """Whether the weights of now may be the best: by default from the fidelity's minimum on."""
        return self.done >= self._judged_from

    def members(self) -> Members | None:
        """Which examples are in which part: what the task in `self.data` says; None if there is none."""
        data: Any = getattr(self, "data", None)
        return data.members() if hasattr(data, "members") else None

    def parts(self) -> dict[str, str] | None:
        if self._digests is None and (members := self.members()) is not None:
            self._digests = members.digests()
        return self._digests

    # -- handing the network over ---------------------------------------------------------------------------
    # A paper with `prunable` lets a method of pruning train its network: `prepare` makes the base optimiser, `epoch`
    # takes every step by `self.optimiser`, whatever that is by then, and keeps no state of its own. `prunable` has the
    # settings under which that is so; `self.data` has `parts`, `channels` and `side` of square images.

    def validate(self, net: nn.Module) -> dict[str, float]:
        """The declared validation metrics of `net`."""
        raise NotImplementedError(f"{self.slug}: says that it is prunable and does not say how it validates")

    def deployed(self, net: nn.Module) -> nn.Module:
        """What of a trained network is used afterwards, its parameters under the same names."""
        return net

    # -- the loop ------------------------------------------------------------------------------------------

    def setup(self, config: Mapping[str, Any], setting: Setting) -> None:
        self.config, self.setting = dict(config), setting
        self.device, self.data_name = setting.device, setting.data or self.datasets[0]
        self.suited(config, self.data_name, setting.data_dir)
        fidelity = self.fidelity(config, setting.steps)
        self.epochs, self._judged_from = fidelity.maximum, fidelity.minimum
        self.done, self.stopped = 0, False
        self.best: dict[str, Any] | None = None
        self._digests = None
        self.workers = workers(self.device)
        self.rng = TrialRNG(setting.seed, setting.device)
        # For `prepare` alone. With a split_seed the parts are those that a trial of that seed would draw.
        other = setting.split_seed is not None
        self.split_rng = TrialRNG(setting.parts_seed).numpy if other else self.rng.numpy
        with self.rng.scope():
            self.prepare()
        self.workers.agree(self.net.state_dict())

    def step(self) -> dict[str, float]:
        self.workers.begin(self.setting.seed, self.done)
        with self.rng.scope(), self.workers.statistics():
            self.net.train()
            metrics = self.epoch()
        self.done += 1
        metric = self.metric(self.selection or self.objective)
        value = metrics[metric.name]
        if self.eligible() and (self.best is None or metric.better(value, self.best["value"])):
            self.best = {"value": value, "step": self.done, "weights": _clone(self.net.state_dict())}
        return metrics

    @property
    def finished(self) -> bool:
        return self.stopped or self.done >= self.epochs

    @property
    def kept_step(self) -> int | None:
        return None if self.best is None else self.best["step"]

    def trained(self) -> nn.Module:
        """A copy of the network with the best weights (of now, if none could be the best); in evaluation mode."""
        net = copy.deepcopy(self.net)
        if self.best is not None:
            net.load_state_dict(self.best["weights"])
        return net.eval()

    def test(self) -> dict[str, float]:
        # Streams of its own: what a test draws must not depend on when it is asked for.
        with TrialRNG(self.setting.seed, self.device).scope(), torch.no_grad():
            return self.measure_test(self.trained())

    def state_dict(self) -> dict[str, Any]:
        # A copy: the tensors of the live state are those that the next step changes.
        return copy.deepcopy(
            {
                "done": self.done,
                "stopped": self.stopped,
                "best": self.best,
                "rng": self.rng.state_dict(),
                "carried": {name: getattr(self, name) for name in self.carried},
                "parts": {name: dict(part.state_dict()) for name, part in self.stateful().items()},
            }
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        state = copy.deepcopy(dict(state))
        self.done, self.stopped, self.best = state["done"], state["stopped"], state["best"]
        self.rng.load_state_dict(state["rng"])
        for name, value in state["carried"].items():
            setattr(self, name, value)
        for name, part in self.stateful().items():
            part.load_state_dict(state["parts"][name])

    def descend(self, loss: Tensor, clip_norm: float | None = None) -> None:
        """One step of `self.optimiser` down the gradient of `loss`, clipped to the global norm `clip_norm`.

        loss: a mean over what `self.workers.shared` gave; the gradient is that of the whole batch.
        """
        self.optimiser.zero_grad()
        self.workers.backward(loss, self.net.parameters())
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(self.net.parameters(), clip_norm)
        self.optimiser.step()

    def set_learning_rate(self, value: float) -> None:
        """Gives every parameter group of `self.optimiser` the learning rate `value`."""
        for group in self.optimiser.param_groups:
            group["lr"] = value


def _clone(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in weights.items()}


class Memory(dict[str, dict[str, Tensor]]):
    """Weights by name, as a checkpoint keeps them."""

    def state_dict(self) -> dict[str, Any]:
        """The weights."""
        return dict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Those of `state` and no others."""
        self.clear()
        self.update(state)

    def keep(self, name: str, *parts: nn.Module) -> None:
        """Keeps the weights of `parts` of now."""
        self[name] = {
            f"{i}.{key}": value.detach().clone()
            for i, part in enumerate(parts)
            for key, value in part.state_dict().items()
        }

    def restore(self, name: str, *parts: nn.Module) -> None:
        """Gives `parts` the weights kept under `name`."""
        for i, part in enumerate(parts):
            part.load_state_dict(
                {key.split(".", 1)[1]: v for key, v in self[name].items() if key.startswith(f"{i}.")}
            )


class Mean:
    """A weighted mean of scalars that stay on their device until `value` is read."""

    def __init__(self, group: Workers | None = None) -> None:
        """group: the workers over whose values the mean is; each must ask for it."""
        self.total: Tensor | float = 0.0
        self.weight = 0.0
        self.group = group or Workers()

    def add(self, value: Tensor | float, weight: float = 1.0) -> None:
        """Counts `value` (a scalar, detached here) `weight` times."""
        weight /= self.group.copies
        self.total = self.total + (value.detach() if isinstance(value, Tensor) else value) * weight
        self.weight += weight

    @property
    def value(self) -> float:
        """The mean; ValueError if nothing was added."""
        total, weight = self.group.totals(float(self.total), self.weight)
        if not weight:
            raise ValueError("the mean of nothing: no batch was drawn")
        return total / weight


def cosine_factor(epoch: int, epochs: int, warmup: int = 0) -> float:
    """Factor on the learning rate in epoch 0 .. `epochs` - 1: linear warm-up, then half a cosine to 0."""
    if epoch < warmup:
        return (epoch + 1) / warmup
    start = max(warmup - 1, 0)
    return 0.5 * (1 + math.cos(math.pi * (epoch - start) / max(epochs - start, 1)))
