"""Recommendation from interactions: parts, batches of pairs with one negative each, and the ranking of all items.

Users and items that no training interaction has are in no part. Ranked are all items that a user has not met in
training, those that validate among them when the test is measured, as in the authors' code of `sheaf_rec`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fairsweep.trainables.base import DataError, Metric
from fairsweep.trainables.datasets import interactions
from fairsweep.trainables.parts import Members, identity
from fairsweep.trainables.tasks.bipartite import Bipartite

CUTOFFS = (10, 20)  # the K of Recall@K and NDCG@K; precision and F1 are those of the first
METRICS = (
    Metric("val_f1_10", "max", "validation", "fraction"),
    Metric("val_recall_10", "max", "validation", "fraction"),
    Metric("val_ndcg_10", "max", "validation", "fraction"),
    Metric("train_loss", "min", "train", "nats"),
    Metric("test_f1_10", "max", "test", "fraction"),
    Metric("test_precision_10", "max", "test", "fraction"),
    Metric("test_recall_10", "max", "test", "fraction"),
    Metric("test_recall_20", "max", "test", "fraction"),
    Metric("test_ndcg_10", "max", "test", "fraction"),
    Metric("test_ndcg_20", "max", "test", "fraction"),
)
SCORES = 2**24  # scores held at once, users times items


def bpr_loss(positive: Tensor, negative: Tensor) -> Tensor:
    """Bayesian personalised ranking: the mean of -ln sigmoid(positive - negative), of scores (b,)."""
    return F.softplus(negative - positive).mean()


def drawn(rows: int, shares: tuple[float, float], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Numbers of interactions, the `shares` to validate and to test, rounded down, all others to train."""
    validation, test = (int(rows * share + 1e-9) for share in shares)
    order = rng.permutation(rows)
    parts = np.split(order, [validation, validation + test])
    return {name: np.sort(part) for name, part in zip(("validation", "test", "train"), parts, strict=True)}


@lru_cache(maxsize=2)
def _known_by(name: str, data_dir: Path | None) -> str:
    data = interactions.load(name, data_dir)
    return identity(data.users, data.items)


class RecommendationTask:
    """Interactions on a device, split as given or drawn by `rng`.

    users, items: how many of them train. graph: the training interactions. parts: numbers of interactions. Batches
    are drawn from PyTorch's global generator.
    """

    def __init__(self, name: str, data_dir: Path | None, device: str, rng: np.random.Generator) -> None:
        data = interactions.load(name, data_dir)
        self.name, self.folder = name, None if data_dir is None else Path(data_dir)
        split = data.split if data.split is not None else drawn(len(data), data.shares, rng)
        train = np.asarray(split["train"])
        ends = np.stack([data.users, data.items])
        # Numbers among those that train, -1 for others.
        numbers = []
        for of, count in zip(ends, (len(data.user_names), len(data.item_names)), strict=True):
            number = np.full(count, -1, np.int64)
            known = np.unique(of[train])
            number[known] = np.arange(len(known))
            numbers.append(number)
        self.users, self.items = (int(number.max()) + 1 for number in numbers)
        ends = np.stack([number[of] for number, of in zip(numbers, ends, strict=True)])
        self.parts = {part: np.asarray(rows)[(ends[:, rows] >= 0).all(0)] for part, rows in split.items()}
        for part, rows in self.parts.items():
            if not len(rows):
                raise DataError(
                    f"data={name}: the {part} part has no interaction whose user and item train, too;"
                    " needs some in each part"
                )
        sorted_ = train[np.lexsort((ends[1][train], ends[0][train]))]
        self.graph = Bipartite(torch.tensor(ends[:, sorted_], device=device), self.users, self.items)
        self._held = {
            part: torch.tensor(np.sort(ends[0][rows] * self.items + ends[1][rows]), device=device)
            for part, rows in self.parts.items()
            if part != "train"
        }
        self._degree = self.graph.degree[: self.users]
        self._first = self._degree.cumsum(0) - self._degree
        place = torch.arange(len(train), device=device) - self._first[self.graph.pairs[0]]
        # How many items below a user's k-th one that user has not met, ascending; users one after the other.
        self._gaps = self.graph.pairs[0] * (self.items + 1) + self.graph.pairs[1] - place
        self._open = torch.nonzero(self._degree < self.items).squeeze(1)
        if not len(self._open):
            raise DataError(
                f"data={name}: every user has met every item; needs items that a user has not met"
            )

    def members(self) -> Members:
        """Interactions of each part."""
        return Members(_known_by(self.name, self.folder), dict(self.parts))

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """One epoch of batches (users, positive items, negative items), (size,) each.

        Users are drawn, without repetition if there are so many; of each one training item, and one item that it has
        not met in training. As many batches as `size` goes into the training interactions, one at least.
        """
        for _ in range(max(1, len(self._gaps) // size)):
            n = len(self._open)
            chosen = torch.randperm(n)[:size] if size <= n else torch.randint(n, (size,))
            users = self._open[chosen.to(self._open.device)]
            first, second = torch.rand(2, len(users), dtype=torch.float64).to(users.device)
            degree = self._degree[users]
            positive = self.graph.pairs[1][self._first[users] + (first * degree).long()]
            yield users, positive, self.unmet(users, (second * (self.items - degree)).long())

    def unmet(self, users: Tensor, rank: Tensor) -> Tensor:
        """The `rank`-th, from 0, of the items that each of `users` has not met in training."""
        met_below = torch.searchsorted(self._gaps, users * (self.items + 1) + rank, right=True)
        return rank + met_below - self._first[users]

    @torch.no_grad()
    def evaluate(self, scores: Callable[[Tensor], Tensor], part: str) -> dict[str, float]:
        """Means over the users of `part` ("validation" or "test") of precision, recall and NDCG with binary relevance,
        and F1 of the first two means, at each of CUTOFFS: {"f1_10": ..., ...}.

        scores: users (b,) -> scores of all items (b, items), for a block of users at a time.
        """
        held = self._held[part]
        users, wanted = torch.unique_consecutive(held // self.items, return_counts=True)
        most = min(max(CUTOFFS), self.items)
        hits = []
        for block in users.split(max(1, SCORES // self.items)):
            found = scores(block).detach().clone()
            degree = self._degree[block]
            row = torch.repeat_interleave(torch.arange(len(block), device=held.device), degree)
            first = self._first[block] - (degree.cumsum(0) - degree)
            met = self.graph.pairs[1][first[row] + torch.arange(len(row), device=held.device)]
            found[row, met] = -torch.inf  # not times 0: a negative score would lose to it
            keys = block[:, None] * self.items + found.topk(most).indices
            hits.append(held[torch.searchsorted(held, keys).clamp_max(len(held) - 1)] == keys)
        hit = torch.cat(hits).double()
        gain = 1 / torch.log2(torch.arange(2, most + 2, device=held.device).double())
        result = {}
        for k in CUTOFFS:
            count = hit[:, :k].sum(1)
            ideal = gain.cumsum(0)[wanted.clamp_max(min(k, most)) - 1]
            precision, recall = (count / k).mean().item(), (count / wanted).mean().item()
            result[f"precision_{k}"], result[f"recall_{k}"] = precision, recall
            result[f"f1_{k}"] = 2 * precision * recall / (precision + recall) if precision else 0.0
            result[f"ndcg_{k}"] = ((hit[:, :k] * gain[:k]).sum(1) / ideal).mean().item()
        return result
