"""Bayesian optimisation with a Gaussian process, over conditional spaces and under early stopping."""

from __future__ import annotations

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from fairsweep.search_spaces.algorithms.equal_fidelity import highest_level
from fairsweep.search_spaces.algorithms.optuna_bridge import OptunaSearch
from fairsweep.search_spaces.space import Space

STARTUP = 10  # values that the model needs, and random draws before it


def _sampler(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.GPSampler(seed=seed, n_startup_trials=STARTUP, warn_independent_sampling=False)


class GPSearch(OptunaSearch):
    """Optuna's Gaussian process on what can be compared: values at the highest fidelity that enough jobs have reached.

    Optuna's sampler learns from complete trials alone, of which there are next to none under early stopping, and models
    only parameters that all trials have. So the study that it sees holds the values at the end of training or, while
    fewer than `STARTUP` jobs are complete, at the highest milestone to which so many have come; and a parameter that
    does not exist in a configuration has the middle of its range there, or its first choice. What is suggested for a
    parameter that does not exist is dropped.
    """

    draws = 2  # a draw takes a tenth of a second, and the next is seldom another

    def __init__(self, space: Space, mode: str, seed: int = 0, repeats: bool = False) -> None:
        super().__init__(space, mode, seed, sampler=_sampler, repeats=repeats)
        self._absent = {name: space.parameters[name].middle for name in self._distributions}

    def _view(self) -> optuna.Study:
        level = highest_level(self._outcomes, STARTUP)
        study = self._new_study()
        for number in sorted(self._jobs):
            if number in level.values:
                study.add_trial(self._whole(number, TrialState.COMPLETE, level.values[number]))
            elif number not in self._outcomes:
                study.add_trial(self._whole(number, TrialState.RUNNING))
        return study

    def _whole(self, number: int, state: TrialState, value: float | None = None) -> FrozenTrial:
        """Job `number` with a value for every parameter."""
        params = self._absent | self._inside(self._jobs[number].config)
        return create_trial(state=state, value=value, params=params, distributions=self._distributions)
