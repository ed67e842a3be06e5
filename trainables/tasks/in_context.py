"""Learning in context: whole labelled sets in, predictive distributions of unlabelled queries out.

A predictor answers `predict(sets, n)`: of every set it sees x, the first n labels, and returns for the other
points their negative log density in nats and its mean (of a class: its probability), both (B, T - n).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from fairsweep.trainables.base import DataError, Metric
from fairsweep.trainables.datasets import binary_tables
from fairsweep.trainables.datasets.images import stratified_split
from fairsweep.trainables.parts import Members, identity, row_numbers
from fairsweep.trainables.tasks.priors import (
    GaussianProcessPrior,
    Kernel,
    NeuralPrior,
    Sets,
    log_marginal_likelihood,
    posterior,
)
from fairsweep.trainables.tasks.rng import TrialRNG

METRICS = (
    Metric("val_nll", "min", "validation", "nats"),
    Metric("train_nll", "min", "train", "nats"),
    Metric("test_nll", "min", "test", "nats"),
    Metric("test_score", "max", "test", "AUC or R2"),
    Metric("test_gap_closed", "max", "test", "ratio"),
    Metric("test_gap_closed_few", "max", "test", "ratio"),  # the same with few labelled points
    Metric("test_nll_larger", "min", "test", "nats"),
)
PRIORS = {"synthetic_gp": GaussianProcessPrior(), "synthetic_gp_mix": GaussianProcessPrior(mixed=True)}
DATASETS = (*PRIORS, *binary_tables.LOADERS)
BASELINES = ("gp", "fitted", "knn", "prior")

SEEDS = {"validation": 1, "test": 2}  # of the held-out sets, which are the same for every trial
GP_SETS = {"validation": 128, "test": 500}
GP_LABELLED, GP_QUERIES, GP_FEW = (5, 10, 15), 10, (1, 2, 3)
TABLE_SPLITS, TABLE_LABELLED, TABLE_FEW = 20, (30,), (10,)


class Predictor(Protocol):
    """What is evaluated; see the module."""

    def predict(self, sets: Sets, n: int) -> tuple[Tensor, Tensor]: ...


@contextmanager
def _stream(seed: int) -> Iterator[np.random.Generator]:
    with TrialRNG(seed).scope() as rng:
        yield rng.numpy


@lru_cache(maxsize=4)
def _rows(name: str, data_dir: Path | None) -> Members:
    """Rows of the table to validate on and, disjoint from them, rows to test on; class shares are alike."""
    table = binary_tables.load(name, data_dir)
    first, second = stratified_split(table.labels, len(table.labels) // 2)
    return Members(identity(table.features, table.labels), {"validation": second, "test": first})


@lru_cache(maxsize=4)
def _halves(name: str, data_dir: Path | None) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    table, halves = binary_tables.load(name, data_dir), _rows(name, data_dir).examples
    return {part: (table.features[rows], table.labels[rows]) for part, rows in halves.items()}


def _shuffled(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows in random order such that every beginning has the classes in their shares, within one row."""
    place = np.empty(len(labels))
    for label in (0, 1):
        rows = rng.permutation(np.flatnonzero(labels == label))
        place[rows] = (np.arange(len(rows)) + rng.random()) / len(rows)
    return np.argsort(place)


class ContextTask:
    """Sets to train on, drawn without end from a prior, and held-out sets to be answered.

    synthetic_gp, synthetic_gp_mix: regression; the held-out sets are other draws of the same prior, 10 queries after 5,
    10 and 15 labelled points, and apart from these after 1, 2 and 3 (`few`). Tables: two classes; trained on a prior of
    random networks only; the held-out sets are 20 splits of one half of the table's rows (validation) or the other
    (test) into 30 labelled rows (few: 10) and queries, features standardised by the labelled rows.
    """

    def __init__(self, name: str, data_dir: Path | None, device: str) -> None:
        if name not in DATASETS:
            raise DataError(f"data={name}: unknown data set; known: {', '.join(DATASETS)}")
        self.name, self.device = name, device
        self.data_dir = None if data_dir is None else Path(data_dir)
        self.classification = name not in PRIORS
        self.prior: GaussianProcessPrior | NeuralPrior
        if self.classification:
            self.prior = NeuralPrior(_halves(name, self.data_dir)["test"][0].shape[1])
            self.labelled: tuple[int, ...] = TABLE_LABELLED
            self.few: tuple[int, ...] = TABLE_FEW
        else:
            self.prior, self.labelled, self.few = PRIORS[name], GP_LABELLED, GP_FEW

    def draw(self, batch: int, size: int) -> Sets:
        """`batch` sets of `size` points from the prior."""
        return self.prior.draw(batch, size, self.device)

    def held_out(self, part: str, n: int) -> Sets:
        """The sets of `part` with n labelled points first; the queries are the same for every n in `labelled`."""
        return _held_out(self.name, self.data_dir, self.device, part, n)

    def members(self) -> Members:
        """Rows of the two halves of a table, or held-out sets by what they hold; those to train on have no end."""
        if self.classification:
            return _rows(self.name, self.data_dir)
        sets = {part: self.held_out(part, self.labelled[-1]) for part in GP_SETS}
        values = {part: torch.cat([of.x.flatten(1), of.y], 1).cpu().numpy() for part, of in sets.items()}
        return Members(self.name, {part: row_numbers(rows) for part, rows in values.items()})

    def larger(self, size: int) -> int:
        """How many labelled points to test with beyond sets of `size`: twice as many, or half of the rows."""
        if not self.classification:
            return 2 * size
        return min(2 * size, len(_halves(self.name, self.data_dir)["test"][1]) // 2)

    @torch.no_grad()
    def nll(self, predictor: Predictor, part: str, n: int) -> float:
        """Mean negative log density of the queries after n labelled points."""
        return predictor.predict(self.held_out(part, n), n)[0].double().mean().item()

    @torch.no_grad()
    def evaluate(self, predictor: Predictor, part: str) -> tuple[list[float], float]:
        """Mean negative log density for each n in `labelled`, and the score over all of them.

        The score is the mean over the sets of the AUC, or 1 - squared error / variance of all queries.
        """
        losses, targets, means = [], [], []
        for n in self.labelled:
            sets = self.held_out(part, n)
            loss, mean = predictor.predict(sets, n)
            losses.append(loss.double().mean().item())
            targets.append(sets.y[:, n:].double().cpu())
            means.append(mean.double().cpu())
        if self.classification:
            pairs = [
                pair for y, mean in zip(targets, means, strict=True) for pair in zip(y, mean, strict=True)
            ]
            return losses, float(np.mean([roc_auc_score(y.numpy(), p.numpy()) for y, p in pairs]))
        target, mean = torch.cat(targets), torch.cat(means)
        return losses, 1 - ((target - mean).square().mean() / target.var(correction=0)).item()

    def gap_closed(self, predictor: Predictor, labelled: Sequence[int]) -> float:
        """Which share of the way from the prior predictive to the reference `predictor` goes on the test sets.

        The least over the numbers of `labelled` points. The reference is the exact posterior of the process that drew
        the set, or logistic regression on a table. 0 is the prior predictive, 1 the reference.
        """
        ends = Baseline("prior", self), Baseline("fitted" if self.classification else "gp", self)
        shares = []
        for n in labelled:
            loss, prior, reference = (self.nll(who, "test", n) for who in (predictor, *ends))
            shares.append((prior - loss) / max(prior - reference, 1e-6))
        return min(shares)


@lru_cache(maxsize=32)
def _held_out(name: str, data_dir: Path | None, device: str, part: str, n: int) -> Sets:
    with _stream(SEEDS[part]) as rng:
        if name in PRIORS:
            most = max(n, *GP_LABELLED)
            sets = PRIORS[name].draw(GP_SETS[part], most + GP_QUERIES)
            chosen = [*range(n), *range(most, most + GP_QUERIES)]
            x, y, kernel = sets.x[:, chosen], sets.y[:, chosen], sets.kernel
        else:
            features, labels = _halves(name, data_dir)[part]
            orders = np.stack([_shuffled(labels, rng) for _ in range(TABLE_SPLITS)])
            known = features[orders[:, :n]]
            mean, deviation = known.mean(1, keepdims=True), known.std(1, keepdims=True)
            # A column that is constant over the labelled rows says nothing of the label: 0, not a huge number.
            varies = deviation > 1e-9 * np.abs(mean)
            scaled = np.where(varies, features[orders] - mean, 0.0) / np.where(varies, deviation, 1.0)
            x, y, kernel = torch.tensor(scaled).float(), torch.tensor(labels[orders]).float(), None
    if kernel is not None:
        kernel = Kernel(*(values.to(device) for values in kernel))
    return Sets(x.to(device), y.to(device), kernel)


# ---- baselines ----


def normal_nll(y: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """-log N(y; mean, variance), elementwise."""
    return 0.5 * ((y - mean).square() / variance + variance.log() + math.log(2 * math.pi))


def bernoulli_nll(y: Tensor, probability: Tensor) -> Tensor:
    """-log of the probability of labels y in {0, 1}, at least 1e-6, elementwise."""
    return F.binary_cross_entropy(
        probability.clamp(1e-6, 1 - 1e-6), y.to(probability.dtype), reduction="none"
    )


def fit_kernel(prior: GaussianProcessPrior, x: Tensor, y: Tensor, steps: int) -> Kernel:
    """Hyperparameters of each set by `steps` steps of Adam on its marginal likelihood (MLE-II).

    Where the prior has a distribution of them its log density is added, as in the authors' code.
    """

    def kernel() -> Kernel:
        # With little data the likelihood has no maximum inside: without bounds the noise goes to 0.
        return Kernel(*logs.clamp(-7.0, 4.0).exp())

    with torch.enable_grad():
        start = torch.tensor([0.3, 1.0, 0.1], dtype=torch.float64, device=x.device).log()
        logs = start[:, None].repeat(1, len(x)).requires_grad_()
        optimiser = torch.optim.Adam([logs], lr=0.1)
        for _ in range(steps):
            optimiser.zero_grad()
            found = kernel()
            (-(log_marginal_likelihood(found, x, y) + prior.log_prior(found)).sum()).backward()
            optimiser.step()
    return Kernel(*(values.detach() for values in kernel()))


def fit_logistic(x: Tensor, y: Tensor, queries: Tensor, steps: int = 25) -> Tensor:
    """Probability (B, q) of class 1 by logistic regression on each set, L2 penalty 1/2 |w|^2, free intercept.

    Newton's method; the sum of log losses is convex, and on tables of 30 rows it ends in about ten steps.
    """
    design, target = F.pad(x.double(), (0, 1), value=1.0), F.pad(queries.double(), (0, 1), value=1.0)
    penalty = torch.ones(design.shape[2], dtype=torch.float64, device=x.device)
    penalty[-1] = 1e-8
    weights = torch.zeros(len(x), design.shape[2], 1, dtype=torch.float64, device=x.device)
    for _ in range(steps):
        p = torch.sigmoid(design @ weights)
        gradient = design.mT @ (p - y.double()[..., None]) + penalty[:, None] * weights
        hessian = design.mT @ (design * p * (1 - p)) + torch.diag(penalty)
        weights = weights - torch.linalg.solve(hessian, gradient)
    return torch.sigmoid(target @ weights)[..., 0]


class Baseline(nn.Module):
    """An answer without a trained network.

    gp: closed form. On regression with the hyperparameters that drew each set, so that nothing can be better on
        average; on a table least-squares classification, labels -1 and 1, length sqrt(p), scale 1, noise 0.1.
    fitted: to every set by gradient: a process by MLE-II in `fit_steps` steps, or logistic regression.
    knn: the k nearest labelled points, with the deviation of leaving one out, or with one more point of each class.
    prior: the predictive distribution without any label.
    """

    def __init__(self, model: str, task: ContextTask, options: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        if model not in BASELINES:
            raise ValueError(f"model={model}: known are pfn, {', '.join(BASELINES)}")
        self.model, self.task, self.options = model, task, dict(options or {})

    def predict(self, sets: Sets, n: int) -> tuple[Tensor, Tensor]:
        known, queries, y = sets.x[:, :n], sets.x[:, n:], sets.y[:, n:].double()
        labels = sets.y[:, :n].double()
        answer = getattr(self, f"_{self.model}")
        if self.task.classification:
            probability = answer(known, labels, queries, sets)
            return bernoulli_nll(y, probability), probability
        if self.model == "prior":
            return self._marginal(y), torch.zeros_like(y)
        mean, variance = answer(known, labels, queries, sets)
        return normal_nll(y, mean, variance), mean

    def _gp(self, x: Tensor, y: Tensor, queries: Tensor, sets: Sets) -> Any:
        if sets.kernel is not None:
            return posterior(sets.kernel, x, y, queries)
        ones = torch.ones(len(x), dtype=torch.float64, device=x.device)
        kernel = Kernel(ones * math.sqrt(x.shape[2]), ones, ones * 0.1)
        mean, variance = posterior(kernel, x, 2 * y - 1, queries)
        return torch.special.ndtr(mean / variance.sqrt())

    def _fitted(self, x: Tensor, y: Tensor, queries: Tensor, sets: Sets) -> Any:
        if not self.task.classification:
            assert isinstance(self.task.prior, GaussianProcessPrior)
            kernel = fit_kernel(self.task.prior, x, y, self.options.get("fit_steps", 100))
            return posterior(kernel, x, y, queries)
        return fit_logistic(x, y, queries)

    def _knn(self, x: Tensor, y: Tensor, queries: Tensor, sets: Sets) -> Any:
        def nearest(distance: Tensor) -> Tensor:
            k = min(self.options.get("k", 5), max(1, x.shape[1] - 1))
            near = distance.topk(k, largest=False)[1]
            return y[:, None].expand(*near.shape[:2], -1).gather(2, near)

        votes = nearest(torch.cdist(queries, x))
        if self.task.classification:
            return (votes.sum(2) + 1) / (votes.shape[2] + 2)
        if x.shape[1] == 1:  # no other one to leave it out for: the variance of the process
            return votes.mean(2), torch.ones_like(votes[..., 0])
        others = torch.cdist(x, x) + torch.diag(torch.full((x.shape[1],), torch.inf, device=x.device))
        variance = (y - nearest(others).mean(2)).square().mean(1, keepdim=True) + 1e-3
        return votes.mean(2), variance.expand(votes.shape[:2])

    def _prior(self, x: Tensor, y: Tensor, queries: Tensor, sets: Sets) -> Tensor:
        return torch.full(queries.shape[:2], 0.5, dtype=torch.float64, device=x.device)

    def _marginal(self, y: Tensor) -> Tensor:
        """-log density of y under the prior: the mean of its normals over hyperparameters."""
        assert isinstance(self.task.prior, GaussianProcessPrior)
        with _stream(0):
            kernel = self.task.prior.kernels(1000 if self.task.prior.mixed else 1)
        variance = (kernel.scale + kernel.noise).to(y.device)
        losses = normal_nll(y[..., None], torch.zeros_like(variance), variance)
        return math.log(len(variance)) - torch.logsumexp(-losses, -1)
