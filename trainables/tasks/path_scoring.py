"""Scores of the paths of a supernet, with the weights that they share."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fairsweep.search_spaces.architectures.base import Architecture
from fairsweep.search_spaces.supernets import Supernet, build_supernet
from fairsweep.trainables.tasks import shared_weights
from fairsweep.trainables.tasks.small_images import SmallImageTask


@lru_cache(maxsize=1)
def supernet_with(key: str, kind: str, sizes: str, device: str) -> Supernet:
    """The supernet `kind` of `sizes` (JSON) with the weights called `key`, which it reads where they lie.

    One is held, since the batches of a search all ask for the same.
    """
    with torch.device("meta"):
        net = build_supernet(kind, **json.loads(sizes))
    net.load_arrays(shared_weights.arrays(key))
    return net.to(device).eval().requires_grad_(False)


class Score(NamedTuple):
    """Of one path over the images it was measured on: share of right answers, and mean cross-entropy in nats."""

    accuracy: float
    loss: float


@torch.no_grad()
def path_scores(
    net: Supernet,
    paths: Sequence[Architecture],
    images: Tensor,
    labels: Tensor,
    batch_size: int,
    share: bool = True,
    calibration: Tensor | None = None,
) -> Iterator[Score]:
    """Scores of each path, in the order given; `net` is left in evaluation mode.

    images: (n, channels, height, width), standardised; they run in batches of one size, of at most `batch_size`.
    Without `calibration` those of a batch are normalised together. calibration: images from which every path takes
    its statistics, whatever the batches and the other paths; they run along in front of each batch. share: see
    `Supernet.walk_paths`; it does not change a bit of the result.
    """
    net.eval()
    batches = -(-len(labels) // batch_size)
    right, loss = [0] * len(paths), [0.0] * len(paths)
    parts = zip(images.tensor_split(batches), labels.tensor_split(batches), strict=True)
    for number, (x, y) in enumerate(parts, start=1):
        for k, logits in enumerate(net.forward_paths(x, paths, share, calibration)):
            right[k] += int((logits.argmax(1) == y).sum())
            loss[k] += float(F.cross_entropy(logits, y, reduction="sum"))
            if number == batches:  # scores come as they are known
                yield Score(right[k] / len(labels), loss[k] / len(labels))


def path_accuracies(
    net: Supernet, paths: Sequence[Architecture], data: SmallImageTask, part: str, batch_size: int = 500
) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy (fraction) and mean cross-entropy (nats) of each path over `part` of the data, (paths,).

    Statistics are those of batches of at most `batch_size` images.
    """
    scores = np.array(list(path_scores(net, paths, *data.whole(part), batch_size)))
    return scores[:, 0], scores[:, 1]
