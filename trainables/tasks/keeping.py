"""The best weights of a part of a network that is selected by a value of its own."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Kept:
    """The weights of a network at its least loss so far."""

    def __init__(self) -> None:
        self.loss, self.weights = math.inf, None

    def offer(self, loss: float, net: nn.Module) -> None:
        """Keeps the weights of `net` if `loss` is the least so far."""
        if loss < self.loss:
            self.loss, self.weights = loss, copy.deepcopy(net.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"loss": self.loss, "weights": self.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from `state`."""
        self.loss, self.weights = state["loss"], state["weights"]


class KeptRows:
    """The rows of a parameter, each at its own least loss so far."""

    def __init__(self) -> None:
        self.losses: Tensor | None = None
        self.rows: Tensor | None = None

    def offer(self, losses: Tensor, rows: Tensor) -> None:
        """Keeps those of `rows` (n, ...) whose loss in `losses` (n,) is the least so far."""
        rows = rows.detach().clone()
        if self.losses is None or self.rows is None:
            self.losses, self.rows = losses.clone(), rows
            return
        better = losses < self.losses
        self.losses = torch.where(better, losses, self.losses)
        self.rows[better] = rows[better]

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"losses": self.losses, "rows": self.rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from `state`."""
        self.losses, self.rows = state["losses"], state["rows"]
