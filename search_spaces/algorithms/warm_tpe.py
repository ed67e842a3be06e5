"""Optuna's TPE, as it suggests, at a fraction of its time: what a study has is read once, not at every suggestion.

Optuna 5.0 goes through all trials of a study in Python for each suggestion (which are good, what their parameters are)
and computes the normalisation of each kernel by a call of its own; that is nearly all of its time from some hundred
trials on. Here a `Seen` keeps the parameters in an array and the trials in the order of their values, and densities
are computed on whole arrays. The draws are Optuna's own, from its own estimators by its own generator, so that a seed
suggests what it suggests there. What `Seen` does not know (several objectives, limits on them) is left to Optuna.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers._tpe._truncnorm import _log_gauss_mass
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator
from optuna.samplers._tpe.probability_distributions import (
    _BatchedCategoricalDistributions,
    _MixtureOfProductDistribution,
    _unique_inverse_2d,
)
from optuna.samplers._tpe.sampler import default_gamma
from optuna.trial import FrozenTrial, TrialState

LEARNT = (TrialState.COMPLETE, TrialState.PRUNED)
FEW = 4096  # masses of kernels at so many points are computed as Optuna does, to the last bit, where that may matter


class Seen:
    """What the suggestions for one study have found in its trials: a finished one is looked at once.

    values: a row a trial, a column a parameter, as Optuna codes it; NaN where the trial does not have it.
    """

    def __init__(self) -> None:
        self.limited = False  # some trial says by how much it breaks a limit
        self.values = np.full((64, 8), np.nan)
        self.used = np.zeros(64, bool)  # what finished with something to learn from, or runs
        self._columns: dict[str, int] = {}
        self._open: dict[int, bool] = {}  # trials that have not finished -> whether their row is filled
        self._looked_at = 0
        self._complete: list[tuple[Any, int]] = []  # rank and number, from the best on
        self._pruned: list[tuple[Any, int]] = []
        self._rank: dict[
            int, tuple[list[tuple[Any, int]], Any]
        ] = {}  # of each of them: its list, and its rank there
        self._kinds: dict[str, BaseDistribution] = {}
        self._having: dict[
            str, int
        ] = {}  # parameter -> how many of them have it, as it was when it was met first

    def look(self, study: optuna.Study, asking: FrozenTrial, sampler: WarmTPE) -> None:
        """Enters what is new in `study`. asking: the trial that is asked for, of which nobody learns."""
        trials = study._storage.get_all_trials(study._study_id, deepcopy=False)
        self._open.update(dict.fromkeys(range(self._looked_at, len(trials)), False))
        self._looked_at = len(trials)
        self._grow(len(trials))
        for number, filled in list(self._open.items()):
            trial = trials[number]
            if trial.state.is_finished():
                del self._open[number]
                self._finished(study, trial)
            elif number != asking.number and not filled and sampler._constant_liar:
                self._fill(number, sampler._get_params(trial, study), trial.distributions)
                self._open[number] = True

    def _finished(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self.used[trial.number] = False
        if trial.state not in LEARNT:
            return
        self.limited = self.limited or bool(trial.constraints)
        self._fill(trial.number, trial.params, trial.distributions)
        for name, kind in trial.distributions.items():
            self._having[name] = self._having.get(name, 0) + (self._kinds.setdefault(name, kind) == kind)
        sign = 1.0 if study.direction == optuna.study.StudyDirection.MINIMIZE else -1.0
        ranking: list[tuple[Any, int]]
        rank: Any
        if trial.state == TrialState.COMPLETE:
            assert trial.value is not None
            ranking, rank = self._complete, sign * trial.value
        else:
            ranking, rank = (
                self._pruned,
                (1.0, 0.0),
            )  # as Optuna ranks: by how far it came, then by its value there
            if trial.intermediate_values:
                step, value = max(trial.intermediate_values.items())
                rank = (-step, float("inf") if np.isnan(value) else sign * value)
        insort(ranking, (rank, trial.number))
        self._rank[trial.number] = ranking, rank

    def forget(self, trial: FrozenTrial) -> None:
        """A finished trial, as it was, is to be replaced by another one of its number."""
        number = trial.number
        if number >= self._looked_at or number in self._open:
            return
        self._open[number] = False
        self.used[number] = False
        if number in self._rank:
            ranking, rank = self._rank.pop(number)
            del ranking[bisect_left(ranking, (rank, number))]
            for name, kind in trial.distributions.items():
                self._having[name] -= self._kinds[name] == kind

    @property
    def shared(self) -> dict[str, BaseDistribution]:
        """The parameters, by name, that all have which came to something."""
        return {name: self._kinds[name] for name in sorted(self._kinds) if self._having[name] == self.learnt}

    def _fill(self, number: int, params: dict[str, Any], known: dict[str, BaseDistribution]) -> None:
        self.values[number] = np.nan
        for name, value in params.items():
            if name in known:  # else it was drawn for a trial that turned out not to have it
                column = self._columns.setdefault(name, len(self._columns))
                self._grow(number + 1)
                self.values[number, column] = known[name].to_internal_repr(value)
        self.used[number] = True

    def _grow(self, trials: int) -> None:
        rows, columns = self.values.shape
        if trials > rows or len(self._columns) > columns:
            more = (max(rows, 2 * trials if trials > rows else 0), max(columns, 2 * len(self._columns)))
            grown = np.full(more, np.nan)
            grown[:rows, :columns] = self.values
            self.values, self.used = grown, np.concatenate([self.used, np.zeros(more[0] - rows, bool)])

    @property
    def learnt(self) -> int:
        """How many trials came to something."""
        return len(self._complete) + len(self._pruned)

    def split(self, names: list[str], best: int) -> tuple[np.ndarray, np.ndarray]:
        """The values of `names` in the `best` trials and in the others, of those that have them all; rows by age."""
        numbers = [number for _, number in self._complete[:best]]
        numbers += [number for _, number in self._pruned[: best - len(numbers)]]
        good = np.zeros(self._looked_at, bool)
        good[numbers] = True
        if any(name not in self._columns for name in names):
            return np.empty((0, len(names))), np.empty((0, len(names)))
        values = self.values[: self._looked_at, [self._columns[name] for name in names]]
        usable = self.used[: self._looked_at] & ~np.isnan(values).any(axis=1)
        return values[usable & good], values[usable & ~good]


class WarmTPE(optuna.samplers.TPESampler):
    """TPE that goes on from what earlier suggestions have `seen` of the study; without it, Optuna's own."""

    seen: Seen | None = None

    def begin(self, seed: int, seen: Seen) -> None:
        """Goes on as a fresh sampler of this seed would. seen: of the study that it is to be asked for."""
        self.seen = seen
        self._rng.rng.seed(seed)
        self._random_sampler._rng.rng.seed(seed)

    def _knows(self, study: optuna.Study) -> bool:
        return self.seen is not None and not self.seen.limited and len(study.directions) == 1

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        if self.seen is not None and len(study.directions) == 1:
            self.seen.look(study, trial, self)
        if self.seen is None or not self._knows(study):
            return super().infer_relative_search_space(study, trial)
        return {name: known for name, known in self.seen.shared.items() if not known.single()}

    def _sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if self.seen is None or not self._knows(study):
            return super()._sample_relative(study, trial, search_space)
        if not search_space or self.seen.learnt < self._n_startup_trials:
            return {}
        return self._sample(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if self.seen is None or not self._knows(study) or self.seen.learnt < self._n_startup_trials:
            return super().sample_independent(study, trial, param_name, param_distribution)
        return self._sample(study, trial, {param_name: param_distribution})[param_name]

    def _sample(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if self.seen is None or not self._knows(study):
            return super()._sample(study, trial, search_space)
        sides = self.seen.split(list(search_space), default_gamma(self.seen.learnt))
        good, rest = (self._estimator(values, search_space) for values in sides)
        drawn = good.sample(self._rng.rng, self._n_ei_candidates)
        x = good._transform(drawn)
        gain = log_density(good._mixture_distribution, x) - log_density(rest._mixture_distribution, x)
        return {
            name: search_space[name].to_external_repr(value)
            for name, value in self._compare(drawn, gain).items()
        }

    def _estimator(self, values: np.ndarray, space: dict[str, BaseDistribution]) -> _ParzenEstimator:
        found = {name: values[:, k] for k, name in enumerate(space)}
        return self._parzen_estimator_cls(found, space, self._parzen_estimator_parameters)


def log_density(mixture: _MixtureOfProductDistribution, x: np.ndarray) -> np.ndarray:
    """The logarithm of the density of each row of `x`, as `mixture.log_pdf`, without a call for each kernel.

    To about 1e-12, which decides nothing among points that differ in a real number. Points of a coarse grid may be as
    good as each other, and which of them Optuna takes is in the last bit; there the operations are Optuna's.
    """
    found = np.zeros((len(x), len(mixture.weights)))
    squares: list[np.ndarray] = []  # the numbers: -((x - mu) / sigma)^2 / 2 as a product of matrices
    kernels: list[np.ndarray] = []
    coarse = all(isinstance(d, _BatchedCategoricalDistributions) or d.step for d in mixture.distributions)
    for i, d in enumerate(mixture.distributions):
        if isinstance(d, _BatchedCategoricalDistributions):
            found += np.log(d.weights).T[x[:, i].astype(np.int64)]
            continue
        low, high = d.adapted_low, d.adapted_high
        if d.step:
            at, which = np.unique(x[:, i], return_inverse=True)
            left, right = at - d.step / 2, at + d.step / 2
            if d.is_log:
                left, right = np.log(left), np.log(right)
            mu, sigma, kernel = _unique_inverse_2d(d.mu, d.sigma)
            mass = _log_gauss_mass if coarse and at.size * mu.size <= FEW else _log_mass
            inside = mass((left[:, None] - mu) / sigma, (right[:, None] - mu) / sigma)
            found += inside[np.ix_(which, kernel)]
            found -= mass((low - mu) / sigma, (high - mu) / sigma)[kernel]
            continue
        width, middle = high - low, (low + high) / 2
        u = ((np.log(x[:, i]) if d.is_log else x[:, i]) - middle) / width
        mu, precision = (d.mu - middle) / width, (width / d.sigma) ** 2
        inside = _log_mass((low - d.mu) / d.sigma, (high - d.mu) / d.sigma)
        constant = -0.5 * precision * mu**2 - inside - np.log(d.sigma) - 0.5 * np.log(2 * np.pi)
        squares += [u**2, u, np.ones_like(u)]
        kernels += [-0.5 * precision, precision * mu, constant]
    if squares:
        found += np.stack(squares, axis=1) @ np.stack(kernels)
    found += np.log(mixture.weights)
    top = found.max(axis=1)
    return np.log(np.exp(found - top[:, None]).sum(axis=1)) + top


def _log_mass(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The logarithm of the mass of a standard normal distribution between `a` and `b`, a < b."""
    from scipy.special import log_ndtr, ndtr  # SciPy takes its time, and not every search comes to this

    right = a > 0  # where the left tail is as far and more exact
    a, b = np.where(right, -b, a), np.where(right, -a, b)
    with np.errstate(divide="ignore", invalid="ignore"):
        upper = log_ndtr(b)
        tail = upper + np.log1p(-np.exp(log_ndtr(a) - upper))
        return np.where(b <= 0, tail, np.log1p(-ndtr(a) - ndtr(-b)))
