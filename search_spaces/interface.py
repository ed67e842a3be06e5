"""What a network takes and gives: raw examples, what is done to them first, and answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYOUT = ("batch", "channels", "height", "width")
ALONE = "normalises by the batch: one example alone would get the same answer whatever it is"


class ExportError(ValueError):
    """A network that cannot be written or read; says what is in the way."""


@dataclass(frozen=True, eq=False)
class Interface:
    """What a network that was trained on a data set takes and gives.

    example: some raw examples of the data set's test part (n, channels, height, width), in their own type. values:
    what their numbers are, in words. mean, deviation: (1, channels, 1, 1); a network sees (x - mean) / deviation in
    float32; None: it sees x. fits: (channels, height, width) that it sees if those are others: the one channel is
    repeated, the sides are scaled. gives: its answer in words, of (batch, ...). logits: where in the answer the logits
    are, if it has several parts. classes: their number; names: theirs, in the order of the logits. data: what the
    examples are of; parts: the number of examples in each.
    """

    example: Tensor = field(repr=False)
    values: str
    data: str
    mean: Tensor | None = None
    deviation: Tensor | None = None
    fits: tuple[int, ...] | None = None
    gives: str = "logits (batch, classes)"
    logits: str | int | None = None
    classes: int | None = None
    names: tuple[str, ...] | None = None
    parts: Mapping[str, int] = field(default_factory=dict)

    def preprocessing(self) -> Preprocessing:
        """What is done to raw examples, as a module."""
        return Preprocessing(self.mean, self.deviation, self.fits)

    def seen(self, count: int) -> Tensor:
        """The first `count` examples as the network sees them."""
        with torch.no_grad():
            return self.preprocessing()(self.example[:count])

    def fitting(self, shape: tuple[int, ...]) -> Interface:
        """The same for a network that sees examples of `shape`."""
        return replace(self, fits=None if shape == tuple(self.example.shape[1:]) else shape)

    def describe(self) -> dict[str, Any]:
        """All of it as JSON."""
        return {
            "takes": {
                "shape": list(self.example.shape[1:]),
                "dtype": str(self.example.dtype).removeprefix("torch."),
                "layout": list(LAYOUT),
                "values": self.values,
            },
            "preprocessing": {
                "in_program": True,
                "mean": None if self.mean is None else self.mean.flatten().tolist(),
                "deviation": None if self.deviation is None else self.deviation.flatten().tolist(),
                "fits": None if self.fits is None else list(self.fits),
            },
            "gives": {
                "answer": self.gives,
                "logits": self.logits,
                "classes": self.classes,
                "names": None if self.names is None else list(self.names),
            },
            "data": {"name": self.data, "examples": dict(self.parts)},
        }


def preprocessing_of(recipe: Mapping[str, Any]) -> Preprocessing | None:
    """What the network of `recipe` has done to raw examples; None if nothing is known of it."""
    about = recipe.get("preprocessing")
    if about is None:
        return None
    mean, deviation = (
        None if about[name] is None else torch.tensor(about[name]).view(1, -1, 1, 1)
        for name in ("mean", "deviation")
    )
    return Preprocessing(mean, deviation, None if about["fits"] is None else tuple(about["fits"]))


class Preprocessing(nn.Module):
    """(x - mean) / deviation, and images of one channel or of another side made to fit."""

    mean: Tensor | None
    deviation: Tensor | None

    def __init__(
        self, mean: Tensor | None = None, deviation: Tensor | None = None, fits: tuple[int, ...] | None = None
    ) -> None:
        super().__init__()
        self.register_buffer("mean", None if mean is None else mean.detach().cpu().clone())
        self.register_buffer("deviation", None if deviation is None else deviation.detach().cpu().clone())
        self.fits = fits

    def forward(self, x: Tensor) -> Tensor:
        if self.mean is not None and self.deviation is not None:
            x = (x.float() - self.mean) / self.deviation
        return x if self.fits is None else fitted(x, self.fits)


def fitted(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Images (n, c, h, w) as (n, *shape): channels are repeated, sides are scaled; whole numbers stay whole."""
    if tuple(x.shape[2:]) != tuple(shape[1:]):
        scaled = F.interpolate(
            x if x.is_floating_point() else x.float(), size=tuple(shape[1:]), mode="bilinear", antialias=True
        )
        x = scaled if x.is_floating_point() else scaled.round().to(x.dtype)
    return x.expand(-1, shape[0], -1, -1)


class Deployed(nn.Module):
    """`network` behind its preprocessing. least: examples that it must be given, or an error is raised.

    The check is a tensor's, on the CPU: what `torch.export` knows of a dimension it drops, and torch 2.13 does not
    guard the lower end of one.
    """

    def __init__(self, network: nn.Module, preprocessing: nn.Module | None, least: int = 1) -> None:
        super().__init__()
        self.network, self.least = network, least
        self.preprocessing = nn.Identity() if preprocessing is None else preprocessing

    def forward(self, x: Tensor) -> Any:
        if self.least > 1:
            given = torch.ones(x.shape[0], dtype=torch.int64, device="cpu").sum()
            torch._assert_async(
                given >= self.least, f"batch: must be at least {self.least} examples; {ALONE}"
            )
        return self.network(self.preprocessing(x))
