"""Classification where the whole input distribution is known: random splits, drawn labels, metrics.

Training sees labels drawn from p(y|x); the information of a representation is counted with p(y|x) itself,
over all inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairsweep.trainables.datasets import patterns
from fairsweep.trainables.parts import Members, identity

PARTS = ("train", "validation", "test")


def random_split(n: int, train_fraction: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Indices of a random `train_fraction` of n inputs, and of two halves of the others.

    ValueError if one of the three parts would be empty.
    """
    train = round(train_fraction * n)
    if not 0 < train <= n - 2:
        raise ValueError(
            f"train_fraction={train_fraction}: gives {train} of {n} inputs to training; each of training,"
            " validation and test needs one"
        )
    cuts = [train, train + (n - train) // 2]
    return dict(zip(PARTS, np.split(rng.permutation(n), cuts), strict=True))


class PatternTask:
    """One data set on one device, split by `rng`.

    inputs: float32 (n, features), all of them. conditional: p(y|x), float64 (n, classes). labels: (n,) int64,
    drawn once from it, the same for every trial. parts: indices of training, validation and test.
    """

    def __init__(
        self,
        name: str,
        data_dir: Path | None,
        device: str,
        train_fraction: float,
        gamma: float,
        rng: np.random.Generator,
    ) -> None:
        data = patterns.load(name, data_dir)
        conditional = data.conditional(gamma)
        # The same uniforms for every gamma: a sharper rule changes no label but the doubtful ones.
        uniform = np.random.default_rng(0).random((len(conditional), 1))
        labels = (conditional.cumsum(1)[:, :-1] <= uniform).sum(1)
        self.classes = data.classes
        self.inputs = torch.tensor(data.inputs, device=device)
        self.conditional = torch.tensor(conditional, device=device)
        self.labels = torch.tensor(labels, device=device)
        self.parts = {
            part: torch.tensor(chosen, device=device)
            for part, chosen in random_split(len(labels), train_fraction, rng).items()
        }

    def members(self) -> Members:
        """Inputs of each part, whatever their labels were drawn from."""
        rows = {part: found.cpu().numpy() for part, found in self.parts.items()}
        return Members(identity(self.inputs.cpu().numpy()), rows)

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of shuffled training batches ((b, features) float32, (b,) int64)."""
        train = self.parts["train"]
        for chosen in train[torch.randperm(len(train)).to(train.device)].split(size):
            yield self.inputs[chosen], self.labels[chosen]

    @torch.no_grad()
    def evaluate(self, net: nn.Module, part: str) -> tuple[float, float]:
        """Mean cross-entropy (nats) and accuracy (fraction) of `net` on the drawn labels of `part`."""
        chosen = self.parts[part]
        logits, labels = net(self.inputs[chosen]), self.labels[chosen]
        loss = F.cross_entropy(logits, labels).item()
        return loss, (logits.argmax(1) == labels).float().mean().item()
