"""Which examples of a training set an epoch sees: each once, or by the norm of their gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fairsweep.trainables.tasks.path_sampling import smoothed
from fairsweep.trainables.tasks.workers import Workers


def logit_gradient_norm(logits: Tensor, labels: Tensor) -> Tensor:
    """Norm of the cross-entropy's gradient at the logits of each example, (b,): |softmax(z) - onehot(y)|, 0 to sqrt 2.

    Up to a factor a bound on the norm of the example's gradient at all weights (Katharopoulos and Fleuret, ICML
    2018), and free: the forward pass has all of it.
    """
    with torch.no_grad():
        return (logits.softmax(1) - F.one_hot(labels, logits.shape[1])).norm(dim=1)


class UniformData:
    """Every example once an epoch, in random order."""

    def __init__(self, examples: int) -> None:
        self.examples = examples

    def order(self) -> Tensor:
        """Indices of the epoch's examples (n,), drawn from PyTorch's global generator."""
        return torch.randperm(self.examples)

    def weights(self, chosen: Tensor) -> Tensor | None:
        """1 / (n q_j) of the examples `chosen`; None where all are 1."""
        return None

    def record(self, positions: Tensor, chosen: Tensor, norms: Tensor) -> None:
        """Takes the gradient norms of the examples `chosen`, which stood at `positions` of the epoch's order."""

    def end_epoch(self, share: float, workers: Workers) -> None:
        """Takes the epoch's measurements into the next one's probabilities, `share` (0 to 1) of them."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


class ImportanceData(UniformData):
    """Examples drawn with replacement, proportionally to the norm of their loss gradient (PA&DA, section 3.3).

    The first epoch sees each example once. An example that an epoch did not visit has importance 0 in it.
    ema: weight of a further visit's norm in the same epoch against those before; one half in the paper.
    """

    def __init__(self, examples: int, ema: float = 0.5) -> None:
        super().__init__(examples)
        self.ema = ema
        self.probabilities = np.full(examples, 1 / examples)
        self.started = False
        self._records: list[tuple[Tensor, Tensor, Tensor]] = []

    def order(self) -> Tensor:
        if not self.started:
            return super().order()
        return torch.multinomial(torch.from_numpy(self.probabilities), self.examples, replacement=True)

    def weights(self, chosen: Tensor) -> Tensor:
        q = torch.from_numpy(self.probabilities)[chosen.cpu()]
        return (1 / (self.examples * q)).float()

    def record(self, positions: Tensor, chosen: Tensor, norms: Tensor) -> None:
        self._records.append((positions, chosen, norms))

    def importance(self, workers: Workers) -> np.ndarray:
        """The epoch's running norm of every example (n,), over the records of all workers in the epoch's order."""
        columns = [torch.cat([r[k].cpu().double() for r in self._records]) for k in range(3)]
        rows = workers.gather(torch.stack(columns, 1)).numpy()
        rows = rows[np.argsort(rows[:, 0], kind="stable")]
        index, norms = rows[:, 1].astype(np.int64), rows[:, 2]
        by_index = np.argsort(index, kind="stable")
        starts = np.flatnonzero(np.diff(index[by_index], prepend=-1))
        visit = np.empty(len(index), np.int64)  # how often the same example came before
        visit[by_index] = np.arange(len(index)) - np.repeat(starts, np.diff(starts, append=len(index)))
        found = np.zeros(self.examples)
        for k in range(int(visit.max()) + 1):
            at, d = index[visit == k], norms[visit == k]
            found[at] = np.where(found[at] == 0, d, (1 - self.ema) * found[at] + self.ema * d)
        return found

    def end_epoch(self, share: float, workers: Workers) -> None:
        q = smoothed(self.importance(workers), share)
        self.probabilities = workers.from_first(torch.from_numpy(q)).numpy()
        self.started = True
        self._records = []

    def state_dict(self) -> dict[str, Any]:
        return {"probabilities": torch.from_numpy(self.probabilities.copy()), "started": self.started}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.probabilities, self.started = state["probabilities"].numpy().copy(), state["started"]
