"""Papers that only tests run: quick, and able to go wrong in every way that matters.

Found through FAIRSWEEP_PLUGINS=tests.papers. None of them imports torch at module level.
"""

from __future__ import annotations

import errno
import os
import random
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fairsweep.search_spaces.space import Space
from fairsweep.trainables.base import Claim, DataNotFound, Fidelity, Metric, Paper, Setting, Tiny
from fairsweep.trainables.catalog import register


class _Quadratic(Paper):
    """Closes in on (x - 0.3)^2 + 0.1 y, one halving of the distance a step."""

    title = "A quadratic bowl"
    citation = "none"
    task = "test"
    datasets = ("bowl",)
    metrics = (
        Metric("val_loss", "min", "validation"),
        Metric("train_loss", "min", "train"),
        Metric("test_loss", "min", "test"),
    )
    objective = "val_loss"
    tiny = Tiny("bowl", 5)
    length = 9

    @classmethod
    def space(cls) -> Space:
        return Space.from_mapping(
            {
                "x": {"type": "float", "low": 0.0, "high": 1.0, "paper": 0.5},
                "y": {"type": "int", "low": 0, "high": 5, "paper": 1},
                "kind": {"type": "categorical", "choices": ["a", "b"], "paper": "a"},
            },
            source=cls.slug,
        )

    @classmethod
    def fidelity(cls, config: Mapping[str, Any], steps: int | None = None) -> Fidelity:
        return Fidelity("epoch", 1, steps or cls.length)

    def setup(self, config: Mapping[str, Any], setting: Setting) -> None:
        self.config, self.setting, self.done = dict(config), setting, 0
        self.total = self.fidelity(config, setting.steps).maximum

    def loss(self) -> float:
        seed_effect = 0.001 * (self.setting.seed % 7)
        return (self.config["x"] - 0.3) ** 2 + 0.1 * self.config["y"] + 2.0**-self.done + seed_effect

    def step(self) -> dict[str, float]:
        self.done += 1
        return {"val_loss": self.loss(), "train_loss": self.loss() / 2}

    @property
    def finished(self) -> bool:
        return self.done >= self.total

    def test(self) -> dict[str, float]:
        return {"test_loss": 2 * self.loss()}

    def state_dict(self) -> dict[str, Any]:
        return {"done": self.done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.done = state["done"]


@register
class Bowl(_Quadratic):
    slug = "test_bowl"


@register
class Picky(_Quadratic):
    """Of its data sets one suits only kind a, and one is not there."""

    slug = "test_picky"
    datasets = ("bowl", "bowl2", "bowl3")

    @classmethod
    def unsuited(cls, config: Mapping[str, Any], data: str, data_dir: Path | None) -> str | None:
        if data == "bowl3":
            raise DataNotFound("data=bowl3: data_dir is None; give the folder with the bowl")
        return (
            "kind=b needs arcs, and the bowl is round" if (data, config["kind"]) == ("bowl2", "b") else None
        )


@register
class Overshoot(_Quadratic):
    """Is at its best after five steps, and hands over the model of its last one."""

    slug = "test_overshoot"

    def loss(self) -> float:
        return super().loss() + 0.1 * abs(self.done - 5)

    @property
    def kept_step(self) -> int | None:
        return self.done


@register
class Trivial(_Quadratic):
    """One step that costs nothing: what a trial costs beside its training."""

    slug = "test_trivial"
    length = 1


@register
class Long(_Quadratic):
    """Fifty reports, of which the first few say nothing yet; how many is a matter of the configuration."""

    slug = "test_long"
    length = 50

    @classmethod
    def fidelity(cls, config: Mapping[str, Any], steps: int | None = None) -> Fidelity:
        return Fidelity("epoch", 6 if config["kind"] == "a" else 4, steps or cls.length)


@register
class Claiming(_Quadratic):
    """Claims something on two sets of data, so that its claims run as two sweeps."""

    slug = "test_claiming"
    length = 1
    datasets = ("bowl", "bowl2")
    claims = tuple(
        Claim(
            f"kind_matters_not_{data}", "", {"kind": "a"}, {"kind": "b"}, "test_loss", 0.0, "direction",
            data=data, tunes=("x",),
        )
        for data in ("bowl", "bowl2")
    )  # fmt: skip


@register
class Short(_Quadratic):
    """One step of 4 ms, and a line in `trace` in its data folder when it is over."""

    slug = "test_short"
    length = 1

    def test(self) -> dict[str, float]:
        time.sleep(0.004)
        if self.setting.data_dir is not None:
            with open(self.setting.data_dir / "trace", "a") as f:
                f.write(f"{self.config['x']!r}\n")
        return super().test()


@register
class Slow(_Quadratic):
    """Takes 50 ms a step and notes every step that is really computed in `trace` in its data folder."""

    slug = "test_slow"
    length = 12

    def step(self) -> dict[str, float]:
        time.sleep(0.05)
        if self.setting.data_dir is not None:
            with open(self.setting.data_dir / "trace", "a") as f:
                f.write(f"{self.config['x']!r} {self.setting.seed} {self.done + 1} {os.getpid()}\n")
        return super().step()


class Speechless(Exception):
    """An error that fails to say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@register
class Faulty(_Quadratic):
    """Goes wrong as `fault` says, at step 3."""

    slug = "test_faulty"

    FAULTS = (
        "none", "raise", "not_finite", "memory", "exit", "hang", "undeclared", "exit_once", "setup", "no_unicode",
        "speechless", "huge", "disk",
    )  # fmt: skip

    @classmethod
    def space(cls) -> Space:
        return Space.from_mapping(
            {
                "x": {"type": "float", "low": 0.0, "high": 1.0, "paper": 0.5},
                "y": 0,
                "fault": {"type": "categorical", "choices": list(cls.FAULTS), "paper": "none"},
            },
            source=cls.slug,
        )

    def setup(self, config: Mapping[str, Any], setting: Setting) -> None:
        super().setup(config, setting)
        if config["fault"] == "setup":
            raise ValueError("x=0.5: cannot be built")

    def step(self) -> dict[str, float]:
        metrics = super().step()
        fault = self.config["fault"]
        if self.done != 3 or fault == "none":
            return metrics
        if fault == "raise":
            raise ZeroDivisionError("division by zero in the third step")
        if fault == "not_finite":
            return {**metrics, "train_loss": float("nan")}
        if fault == "memory":
            raise MemoryError("cannot hold 10 TB")
        if fault == "no_unicode":
            raise ValueError("caf\udce9.txt \x1b[2J")
        if fault == "speechless":
            raise Speechless
        if fault == "huge":
            raise ValueError("x" * 10_000_000)
        if fault == "disk":
            raise OSError(errno.ENOSPC, "No space left on device", "/tmp/scratch")
        if fault == "exit":
            os._exit(9)
        if fault == "exit_once":
            marker = Path(self.setting.data_dir or ".") / f"died-{self.setting.seed}"
            if not marker.exists():
                marker.touch()
                os._exit(9)
        if fault == "hang":
            time.sleep(600)
        if fault == "undeclared":
            return {**metrics, "surprise": 1.0}
        return metrics


@register
class Early(_Quadratic):
    """Ends by itself at step 3, where `x` is below one half; and with seed 1 in any case."""

    slug = "test_early"

    @property
    def finished(self) -> bool:
        early = self.config["x"] < 0.5 or self.setting.seed == 1
        return self.done >= (3 if early else self.total)


@register
class Lengths(_Quadratic):
    """Its maximum is ten times `y`, at least three."""

    slug = "test_lengths"

    @classmethod
    def fidelity(cls, config: Mapping[str, Any], steps: int | None = None) -> Fidelity:
        return Fidelity("epoch", 1, max(3, 10 * config["y"]))


@register
class Unfathomed(_Quadratic):
    """Its `fidelity` raises for every configuration but the paper's own; for all with budget.steps=13."""

    slug = "test_unfathomed"

    @classmethod
    def fidelity(cls, config: Mapping[str, Any], steps: int | None = None) -> Fidelity:
        if config["x"] != 0.5 or steps == 13:
            raise KeyError("depth")
        return super().fidelity(config, steps)


@register
class Together(_Quadratic):
    """What its workers add up: 1 for the first, 2 for the second; the second goes wrong as `fault` says, at step 3."""

    slug = "test_together"
    length = 5
    together = True

    @classmethod
    def space(cls) -> Space:
        return Space.from_mapping(
            {
                "x": {"type": "float", "low": 0.0, "high": 1.0, "paper": 0.5},
                "y": 0,
                "fault": {"type": "categorical", "choices": ["none", "raise", "exit_once"], "paper": "none"},
            },
            source=cls.slug,
        )

    def setup(self, config: Mapping[str, Any], setting: Setting) -> None:
        super().setup(config, setting)
        self.sum = 0.0

    def step(self) -> dict[str, float]:
        import torch
        import torch.distributed as dist

        rank = dist.get_rank()
        if self.done == 2 and rank == 1 and self.config["fault"] == "raise":
            raise ZeroDivisionError("division by zero in the third step")
        if self.done == 2 and rank == 1 and self.config["fault"] == "exit_once":
            marker = Path(self.setting.data_dir or ".") / "died"
            if not marker.exists():
                marker.touch()
                os._exit(9)
        given = torch.tensor([rank + 1.0])
        dist.all_reduce(given)
        self.sum += given.item()
        return {**super().step(), "train_loss": self.sum}

    def state_dict(self) -> dict[str, Any]:
        return {"done": self.done, "sum": self.sum}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.done, self.sum = state["done"], state["sum"]


@register
class Descent(_Quadratic):
    """Gradient descent on a linear model of `width` inputs; the learning rate decays by a tenth a step."""

    slug = "test_descent"

    @classmethod
    def space(cls) -> Space:
        return Space.from_mapping(
            {
                "lr": {"type": "float", "low": 1e-4, "high": 0.1, "log": True, "paper": 0.01},
                "momentum": {"type": "float", "low": 0.0, "high": 0.9, "paper": 0.5},
                "width": {"type": "int", "low": 2, "high": 8, "paper": 4},
            },
            source=cls.slug,
        )

    def setup(self, config: Mapping[str, Any], setting: Setting) -> None:
        import torch

        super().setup(config, setting)
        generator = torch.Generator().manual_seed(setting.seed)
        self.inputs = torch.randn(16, config["width"], generator=generator)
        self.net = torch.nn.Linear(config["width"], 1)
        torch.nn.init.zeros_(self.net.weight)
        torch.nn.init.zeros_(self.net.bias)
        self.optimiser = torch.optim.SGD(self.net.parameters(), config["lr"], config["momentum"])
        self.schedule = torch.optim.lr_scheduler.ExponentialLR(self.optimiser, 0.9)

    def step(self) -> dict[str, float]:
        self.optimiser.zero_grad()
        loss = (self.net(self.inputs) - self.inputs.sum(1, keepdim=True)).square().mean()
        loss.backward()
        self.optimiser.step()
        self.schedule.step()
        self.done += 1
        return {"val_loss": loss.item(), "train_loss": self.optimiser.param_groups[0]["lr"]}

    def test(self) -> dict[str, float]:
        return {"test_loss": 0.0}

    def state_dict(self) -> dict[str, Any]:
        parts = {"net": self.net, "optimiser": self.optimiser, "schedule": self.schedule}
        return {"done": self.done, **{name: part.state_dict() for name, part in parts.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.done = state["done"]
        self.net.load_state_dict(state["net"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])


@register
class Splits(_Quadratic):
    """Draws 5 of its 20 rows to test by `Setting.parts_seed`, and where it begins by its own seed.

    test_rows: the sum of 2^row over its test rows. `tests` in its data folder has a line for each call of `test`.
    """

    slug = "test_splits"
    length = 3
    metrics = (*_Quadratic.metrics, Metric("test_rows", "min", "test"))

    def setup(self, config: Mapping[str, Any], setting: Setting) -> None:
        super().setup(config, setting)
        order = random.Random(setting.parts_seed).sample(range(20), 20)
        self.rows = {
            "test": sorted(order[:5]),
            "validation": sorted(order[5:10]),
            "train": sorted(order[10:]),
        }
        self.start = random.Random(setting.seed).random()

    def parts(self) -> dict[str, str]:
        return {part: ",".join(map(str, rows)) for part, rows in self.rows.items()}

    def loss(self) -> float:
        return super().loss() + self.start

    def test(self) -> dict[str, float]:
        if self.setting.data_dir is not None:
            with open(self.setting.data_dir / "tests", "a") as f:
                f.write("tested\n")
        return {**super().test(), "test_rows": float(sum(2**row for row in self.rows["test"]))}


@register
class Leaky(Splits):
    """Draws its parts by its own seed, whatever split it is given."""

    slug = "test_leaky"

    def setup(self, config: Mapping[str, Any], setting: Setting) -> None:
        super().setup(config, replace(setting, split_seed=None))


@register
class Trade(_Quadratic):
    """The smaller the `size`, which grows with y, the larger the loss."""

    slug = "test_trade"
    length = 3
    metrics = (*_Quadratic.metrics, Metric("size", "min", "validation"))

    def step(self) -> dict[str, float]:
        found = super().step()
        x, y = self.config["x"], self.config["y"]
        found["val_loss"] = (x - 0.3) ** 2 + 1 / (1 + y) + 0.1 / self.done + 0.001 * (self.setting.seed % 7)
        return {**found, "size": y + x + self.done / 100}
