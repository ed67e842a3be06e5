"""Click-through rate prediction: parts, unseen values, batches and metrics shared by the papers on clicks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import log_loss, roc_auc_score
from torch import Tensor, nn

from fairsweep.trainables.base import DataError, Metric
from fairsweep.trainables.datasets import ctr
from fairsweep.trainables.parts import Members, identity

METRICS = (
    Metric("val_auc", "max", "validation", "fraction"),
    Metric("val_logloss", "min", "validation", "nats"),
    Metric("train_logloss", "min", "train", "nats"),
    Metric("test_auc", "max", "test", "fraction"),
    Metric("test_logloss", "min", "test", "nats"),
)


def random_split(rows: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Row numbers: .8 of them to train, .1 to validate, the others to test. ValueError below ten rows."""
    if rows < 10:
        raise ValueError(f"rows={rows}: must be at least 10, a part would be empty")
    order = rng.permutation(rows)
    # In whole numbers: int(rows * 0.8) would depend on how 0.8 is rounded.
    train, validation, test = np.split(order, [rows * 8 // 10, rows * 8 // 10 + rows // 10])
    return {"train": np.sort(train), "validation": np.sort(validation), "test": np.sort(test)}


def matched_width(config: Mapping[str, Any], inputs: int) -> int:
    """Units of the first layer with which a stream has as many parameters as the two streams of DualMLP, heads counted.

    Both on `inputs` features; the embedding is the same for both. Exact to half of what a unit adds.
    """

    def count(units: Sequence[int], norm: bool) -> int:
        # Of a layer: weights, biases and, with batch norm, scales and shifts; then the weights of the head.
        return sum((a + 1 + 2 * norm) * b for a, b in pairwise([inputs, *units])) + units[-1]

    norms = [config[f"batch_norm{s}"] for s in (1, 2)]
    first, second = ([config[f"mlp{s}_width"]] * config[f"mlp{s}_depth"] for s in (1, 2))
    wanted = count(first, norms[0]) + count(second, norms[1])
    one, two = (count([u, *first[1:]], norms[0]) for u in (1, 2))
    return max(1, round(1 + (wanted - one) / (two - one)))


@lru_cache(maxsize=2)
def _known_by(name: str, data_dir: Path | None) -> str:
    table = ctr.load(name, data_dir)
    return identity(table.ids, table.numbers, table.labels)


@lru_cache(maxsize=2)
def _on_device(name: str, data_dir: Path | None, device: str) -> tuple[Tensor, Tensor]:
    table = ctr.load(name, data_dir)
    # A column number of its own for every category of every field.
    firsts = np.cumsum([0, *table.sizes[:-1]]).astype(np.int32)
    return torch.tensor(table.ids + firsts, device=device), torch.tensor(table.labels, device=device)


def standardise(table: ctr.Table, train: Sequence[int] | np.ndarray) -> np.ndarray:
    """The numbers of `table`, standardised with mean and deviation of the rows `train`: float32 (n, m), missing ones 0.

    In double precision until then. A column that is constant in training is not scaled. DataError if a column has
    no number in training, or one elsewhere that is infinite on this scale.
    """
    scaled = np.zeros(table.numbers.shape, np.float32)
    for i, column in enumerate(table.numbers.T):
        known = column[np.asarray(train)]
        known = known[~np.isnan(known)]
        if not len(known):
            raise DataError(
                f"data={table.name}: column {table.fields[i]!r} is missing in every row of the training part;"
                " leave it out"
            )
        # By its size first: the square of 1e200 is no double.
        size = np.abs(known).max() or 1.0
        mean, deviation = (
            (known / size).mean(),
            (known / size).std() if known.min() < known.max() else 1 / size,
        )
        with np.errstate(over="ignore"):
            found = ((column / size - mean) / deviation).astype(np.float32)
        if np.isinf(found).any():
            raise DataError(
                f"data={table.name}: column {table.fields[i]!r} has {column[np.isinf(found)][0]:g} outside the training"
                f" part, where numbers are at most {size:g}; rescale it or leave it out"
            )
        scaled[:, i] = np.where(np.isnan(column), 0, found)
    return scaled


class CTRTask:
    """One table of clicks on one device with a split: the public one, or one drawn by `rng`.

    sizes: ids of each field; the last of them stands for every value that the training part does not have.
    contexts: the fields of "user" and "item", and of "none". Numbers are standardised with mean and deviation
    of the training part, a missing one is the mean. Batches are drawn from `generator` (CPU), or from PyTorch's
    global one.
    """

    def __init__(
        self,
        name: str,
        data_dir: Path | None,
        device: str,
        rng: np.random.Generator,
        generator: torch.Generator | None = None,
    ) -> None:
        table = ctr.load(name, data_dir)
        folder = None if data_dir is None else Path(data_dir)
        self.name, self.folder = name, folder
        self._ids, self.labels = _on_device(name, folder, device)
        self.fields, self.generator = table.fields, generator
        self.sizes = tuple(size + 1 for size in table.sizes)
        self.contexts = {"none": (), **table.contexts}
        split = table.split if table.split is not None else random_split(len(table.labels), rng)
        self.parts = {part: torch.as_tensor(np.asarray(rows), device=device) for part, rows in split.items()}
        for part, rows in self.parts.items():
            clicks = int(self.labels[rows].sum())
            if not 0 < clicks < len(rows):
                raise DataError(
                    f"data={name}: the {part} part has {clicks} clicks in {len(rows)} rows; needs both labels"
                )
        known = self._ids[self.parts["train"]]
        seen = torch.bincount(known.flatten(), minlength=sum(table.sizes)) > 0
        local = torch.cat([torch.arange(size, device=device) for size in table.sizes])
        unseen = torch.cat([torch.full((size,), size, device=device) for size in table.sizes])
        self._local = torch.where(seen, local, unseen)
        self._numbers = torch.tensor(standardise(table, split["train"]), device=device)

    def members(self) -> Members:
        """Rows of each part."""
        rows = {part: found.cpu().numpy() for part, found in self.parts.items()}
        return Members(_known_by(self.name, self.folder), rows)

    def features(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Ids (b, F) and weights (b, F) of `rows`: a number weighs its field's one id, a category weighs 1.

        No weights (None) where there are no numbers.
        """
        ids = self._local[self._ids[rows]]
        count = self._numbers.shape[1]
        if not count:
            return ids, None
        weights = torch.ones(ids.shape, device=ids.device)
        weights[:, :count] = self._numbers[rows]
        return ids, weights

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
        """One epoch of shuffled training batches: ids, weights, labels.

        A last batch of a single row is left out: batch statistics of one row are no statistics.
        """
        rows = self.parts["train"]
        order = torch.randperm(len(rows), generator=self.generator).to(rows.device)
        for chosen in order.split(size):
            if len(chosen) == 1 and len(order) > 1:
                return
            yield *self.features(rows[chosen]), self.labels[rows[chosen]]

    @torch.no_grad()
    def evaluate(self, model: nn.Module, part: str, size: int = 8192) -> tuple[float, float]:
        """Area under the ROC curve and mean log-loss (nats) of `model` in evaluation mode on `part`."""
        model.eval()
        rows = self.parts[part]
        logits = torch.cat([model(*self.features(chosen)) for chosen in rows.split(size)])
        clicks = self.labels[rows].cpu().numpy()
        # Double precision: a float32 sigmoid is 1 from a logit of 17 on.
        probabilities = torch.sigmoid(logits.double()).cpu().numpy()
        return float(roc_auc_score(clicks, probabilities)), float(
            log_loss(clicks, probabilities, labels=[0, 1])
        )
