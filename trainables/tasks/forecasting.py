"""Forecasting: parts in time, standardisation, windows and metrics shared by the papers on series."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fairsweep.trainables.base import OWN, DataError, Metric
from fairsweep.trainables.datasets import series
from fairsweep.trainables.parts import Members, identity

METRICS = (
    Metric("val_mse", "min", "validation", "standardised"),
    Metric("val_mae", "min", "validation", "standardised"),
    Metric("train_mse", "min", "train", "standardised"),
    Metric("test_mse", "min", "test", "standardised"),
    Metric("test_mae", "min", "test", "standardised"),
)
SPLITS = ("standard", "authors")
_SHORTER = "; give a longer series, or shorter windows by space.horizon and space.seq_len"
FEATURES = ("univariate", "multivariate")


def borders(data: series.Series, split: str) -> tuple[int, int, int]:
    """Ends of the training, validation and test part, in rows.

    "standard": 12/4/4 months of 30 days for ETT, else .7/.1/.2 (Informer, Autoformer). "authors": .6/.2/.2 of
    all rows for every set, as in the code of TPGN, on which its published numbers rest. Parts that one's own data give
    hold for both.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split}: known are {', '.join(SPLITS)}")
    if data.months is not None and (split == "standard" or data.name == OWN):
        train, validation, test = data.months
        return train, train + validation, train + validation + test
    n = len(data.values)
    # In whole numbers: int(n * 0.7) would depend on how 0.7 is rounded.
    train, test = n * (7 if split == "standard" else 6) // 10, n * 2 // 10
    return train, n - test, n


@dataclass(frozen=True, eq=False)
class _Table:
    values: Tensor  # (time, variables), standardised
    marks: Tensor  # (time, time features)
    ends: tuple[int, int, int]
    known_by: str  # what identifies the values, as they were measured


@lru_cache(maxsize=4)
def _table(name: str, data_dir: Path | None, split: str, features: str, device: str) -> _Table:
    if features not in FEATURES:
        raise ValueError(f"features={features}: known are {', '.join(FEATURES)}")
    data = series.load(name, data_dir)
    ends = borders(data, split)
    values = data.values if features == "multivariate" else data.values[:, -1:]
    known = values[: ends[0]]
    deviation = known.std(0)
    if (deviation == 0).any():
        column = data.columns[-1 if features == "univariate" else int(np.flatnonzero(deviation == 0)[0])]
        raise DataError(f"data={name}: column {column!r} is constant in the training part")
    scaled = (values - known.mean(0)) / deviation
    return _Table(
        torch.tensor(scaled, dtype=torch.float32, device=device),
        torch.tensor(data.time_features(), dtype=torch.float32, device=device),
        ends,
        identity(values),
    )


class ForecastingTask:
    """Windows of `seq_len` known and `horizon` unknown steps of one series on one device.

    Values are standardised with mean and deviation of the training part; errors are on that scale. A window
    belongs to the part that holds its whole horizon; its known steps may lie in the part before, so that
    the horizons of a part are the same for every `seq_len`. Batches are drawn from `generator` (CPU), or
    from PyTorch's global one.
    """

    def __init__(
        self,
        name: str,
        data_dir: Path | None,
        device: str,
        seq_len: int,
        horizon: int,
        split: str = "standard",
        features: str = "univariate",
        generator: torch.Generator | None = None,
    ) -> None:
        for field, value in (("seq_len", seq_len), ("horizon", horizon)):
            if value < 1:
                raise ValueError(f"{field}={value}: must be at least 1")
        table = _table(name, None if data_dir is None else Path(data_dir), split, features, device)
        self.values, self.marks = table.values, table.marks
        self.variables, self.time_features = self.values.shape[1], self.marks.shape[1]
        self.seq_len, self.horizon, self.generator = seq_len, horizon, generator
        self._known_by = table.known_by
        train, validation, test = table.ends
        first = {"train": seq_len, "validation": train, "test": validation}
        last = {"train": train, "validation": validation, "test": test}
        self.starts: dict[str, Tensor] = {}
        for part in first:
            begin, end = first[part], last[part] - horizon + 1
            if end <= begin:
                room = last[part] - first[part]
                # Of one's own series nothing is known beforehand: what does not fit it ends a sweep before it begins.
                raise (DataError if name == OWN else ValueError)(
                    f"horizon={horizon}: the {part} part of {name} has only {room} steps"
                    + (f" after the first seq_len={seq_len}" if part == "train" else "")
                    + (_SHORTER if name == OWN else "")
                )
            # A window is named by the first step of its horizon.
            self.starts[part] = torch.arange(begin, end, device=device)
        self._known = torch.arange(-seq_len, 0, device=device)
        self._unknown = torch.arange(horizon, device=device)

    def members(self) -> Members:
        """Windows of each part by the first of the `horizon` steps to forecast, however many are known before."""
        starts = {part: found.cpu().numpy() for part, found in self.starts.items()}
        return Members(identity(self._known_by, self.horizon), starts)

    def windows(self, starts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Known values (b, seq_len, variables), their time features (b, seq_len, t), the values to forecast.

        `starts` (b,) holds the first step of each horizon; the last result is (b, horizon, variables).
        """
        known = starts[:, None] + self._known
        return self.values[known], self.marks[known], self.values[starts[:, None] + self._unknown]

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """One epoch of training windows, in random order."""
        starts = self.starts["train"]
        order = torch.randperm(len(starts), generator=self.generator).to(starts.device)
        for chosen in order.split(size):
            yield self.windows(starts[chosen])

    @torch.no_grad()
    def evaluate(self, model: nn.Module, part: str, size: int = 256) -> tuple[float, float]:
        """MSE and MAE of `model` in evaluation mode over all windows of `part`, standardised scale."""
        model.eval()
        squared = absolute = 0.0
        starts = self.starts[part]
        for chosen in starts.split(size):
            x, marks, y = self.windows(chosen)
            error = model(x, marks) - y
            squared += error.square().sum(dtype=torch.float64).item()
            absolute += error.abs().sum(dtype=torch.float64).item()
        n = len(starts) * self.horizon * self.variables
        return squared / n, absolute / n
