"""Accuracies of paths of a supernet with its trained weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from search_spaces.architectures.base import Architecture
from search_spaces.supernets import Supernet, build_supernet
from trainables.tasks import shared_weights


@lru_cache(maxsize=1)
def supernet_with(key: str, kind: str, sizes: str, device: str) -> Supernet:
    """The supernet `kind` of `sizes` (JSON) with the weights called `key`, which it reads where they lie.

    One is held, since the batches of a search all ask for the same.
    """
    with torch.device("meta"):
        net = build_supernet(kind, **json.loads(sizes))
    net.load_arrays(shared_weights.arrays(key))
    return net.to(device).eval().requires_grad_(False)


def accuracies(
    net: Supernet,
    paths: Sequence[Architecture],
    images: Tensor,
    labels: Tensor,
    batch_size: int,
    share: bool = True,
) -> Iterator[float]:
    """The share of right answers along each path, in the order given.

    images: (n, channels, height, width), standardised. batch_size: images that are normalised together. share: see
    `Supernet.forward_paths`; it does not change a bit of the result.
    """
    if batch_size >= len(labels):  # one batch: accuracies come as they are known
        for logits in net.forward_paths(images, paths, share):
            yield (logits.argmax(1) == labels).float().mean().item()
        return
    right = [0] * len(paths)
    for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        for k, logits in enumerate(net.forward_paths(x, paths, share)):
            right[k] += int((logits.argmax(1) == y).sum())
    yield from (n / len(labels) for n in right)
