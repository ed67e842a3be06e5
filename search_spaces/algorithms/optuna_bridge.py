"""Optuna's samplers behind the ask/tell protocol, told the truth about early stopping.

Ray's own wrapper hands Optuna a stopped trial as COMPLETE with its last value. Here a stopped or paused
trial is PRUNED with its intermediate values, a failed one is FAIL, and a trial that is taken further
after a pause replaces its earlier record.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from fairsweep.search_spaces.algorithms.base import Job, Outcome, ask_each
from fairsweep.search_spaces.algorithms.tried import Tried
from fairsweep.search_spaces.algorithms.warm_tpe import Seen, WarmTPE
from fairsweep.search_spaces.space import Space

optuna.logging.set_verbosity(optuna.logging.WARNING)


def _tpe(seed: int) -> BaseSampler:
    return WarmTPE(seed=seed)


class OptunaSearch:
    """Search with an Optuna sampler, used as it is; TPE, unless another is given.

    The sampler begins anew for every suggestion with a seed derived from (seed, number). What it knows
    is then exactly the study, and the study is a function of the jobs and outcomes: a replay of the log
    suggests what the uninterrupted search would have suggested.
    """

    ends_with = "space"
    draws = 10  # of the sampler for one job, before a random configuration that was not tried takes its place

    def __init__(
        self,
        space: Space,
        mode: str | Sequence[str],
        seed: int = 0,
        sampler: Callable[[int], BaseSampler] = _tpe,
        repeats: bool = False,
        ahead: int | None = 0,
    ) -> None:
        """ahead: how many may be asked for, at most, beside those that are needed now, once many outcomes are known.

        None: whoever asks says so, by how many trials run at a time.
        """
        self.modes = (mode,) if isinstance(mode, str) else tuple(mode)  # one an objective
        if not self.modes or any(m not in ("min", "max") for m in self.modes):
            raise ValueError(f"mode={mode!r}: must be min or max")
        self.mode = self.modes[0]
        self.space, self.seed = space, seed
        self._make_sampler, self._tpe = sampler, WarmTPE(seed=seed)
        self.ahead, self.blind = ahead, 0 if ahead == 0 else self._tpe._n_startup_trials
        self.tried = Tried(space, repeats)
        self._distributions = space.distributions()
        self._jobs: dict[int, Job] = {}
        self._last = -1  # the highest number of a job
        self._outcomes: dict[int, Outcome] = {}
        self._study: optuna.Study | None = None
        self._seen = Seen()  # of the study at hand
        self._live: dict[int, optuna.Trial] = {}  # jobs asked of the study at hand and not yet told
        self._place: dict[int, int] = {}  # jobs: the number of their trial in the study at hand

    def ask(self, n: int = 1) -> list[Job]:
        return ask_each(self._ask, self._jobs, n)

    def _ask(self) -> Job | None:
        if self.tried.all:
            return None
        number = self._last + 1
        job = next((job for k in range(self.draws) if (job := self._draw(number, k)) is not None), None)
        if job is None:
            job = Job(number, self.tried.another(np.random.default_rng([self.seed, number])))
            self.adopt(job)
        self.tried.add(job.config)
        self._last = number
        return job

    def _draw(self, number: int, attempt: int) -> Job | None:
        """The sampler's suggestion number `attempt` for job `number`; None if it was tried before."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna marks parts of its samplers as experimental
            study = self._view()
            sampler, attrs = self._sampler(derived_seed(self.seed, number, attempt))
            study.sampler = sampler
            trial = study.ask()
            config = self.space.suggest(trial)
        known = config in self.tried
        if study is self._study:
            if known:
                study.tell(trial, state=TrialState.FAIL)  # of which the samplers learn nothing
                return None
            frozen = study.get_trials(deepcopy=False)[trial.number]
            attrs |= {"optuna": dict(frozen.system_attrs)} if frozen.system_attrs else {}
            self._live[number], self._place[number] = trial, trial.number
        return None if known else Job(number, config, attrs)

    def _sampler(self, seed: int) -> tuple[BaseSampler, dict[str, Any]]:
        """A sampler for the next suggestion, and attributes of the job that comes of it."""
        if self._make_sampler is not _tpe:
            return self._make_sampler(seed), {}
        self._tpe.begin(seed, self._seen)
        return self._tpe, {}

    def _view(self) -> optuna.Study:
        """The study to ask: `study`, or another that is made for one suggestion."""
        return self.study

    def adopt(self, job: Job) -> None:
        follows = job.number > self._last
        self._last = max(self._last, job.number)
        self._jobs[job.number] = job
        self.tried.add(job.config)
        if self._study is None or not follows:  # a study takes trials at its end only
            self._study = None
            return
        self._place[job.number] = len(self._study.get_trials(deepcopy=False))
        self._study.add_trial(self._frozen(job, None))

    def tell(self, job: Job, outcome: Outcome) -> None:
        if job.number not in self._jobs:
            raise KeyError(f"job {job.number} was neither asked nor adopted")
        self._outcomes[job.number] = outcome
        if self._study is None:
            return
        trial = self._live.pop(job.number, None)
        if trial is None:
            self._replace(self._study, self._place[job.number], self._frozen(job, outcome))
            return
        for step, value in sorted(outcome.intermediate.items()):
            trial.report(value, step)
        for name, excess in outcome.broken.items():
            trial.set_constraint(name, excess)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._study.tell(trial, self._values(outcome), state=_state(outcome))

    def _replace(self, study: optuna.Study, number: int, trial: FrozenTrial) -> None:
        """Puts `trial` in the place of the study's trial `number`, which has finished or was not asked of this study.

        Optuna has no way to do that. The study would else be made anew for each job that goes on after a pause.
        """
        storage = study._storage
        assert isinstance(storage, InMemoryStorage)
        trial_id = storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
        self._seen.forget(storage.get_trial(trial_id))
        trial.number, trial._trial_id = number, trial_id
        with storage._lock:
            storage._set_trial(trial_id, trial)

    @property
    def finished(self) -> bool:
        return self.tried.all

    @property
    def study(self) -> optuna.Study:
        """The study that the sampler sees: one trial a job, in the order of asking, and failed ones that are no job."""
        if self._study is None:
            study = self._new_study()
            numbers = sorted(self._jobs)
            self._live, self._place = {}, {number: k for k, number in enumerate(numbers)}
            for number in numbers:
                study.add_trial(self._frozen(self._jobs[number], self._outcomes.get(number)))
            self._study, self._seen = study, Seen()
        return self._study

    def _new_study(self) -> optuna.Study:
        ways = [StudyDirection.MINIMIZE if m == "min" else StudyDirection.MAXIMIZE for m in self.modes]
        return optuna.create_study(directions=ways, sampler=self._make_sampler(self.seed))

    def _values(self, outcome: Outcome | None) -> list[float] | None:
        """What a trial of the study is worth, one number an objective; None unless it is complete."""
        if outcome is None or _state(outcome) != TrialState.COMPLETE:
            return None
        return list(outcome.values) if len(self.modes) > 1 else [outcome.value]  # type: ignore[list-item]

    def _inside(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The searched values of `config` that lie in the space."""
        return {
            name: value
            for name, value in self.space.suggestable(config).items()
            if self._distributions[name]._contains(self._distributions[name].to_internal_repr(value))
        }

    def _frozen(self, job: Job, outcome: Outcome | None) -> FrozenTrial:
        params = self._inside(job.config)
        state = TrialState.RUNNING if outcome is None else _state(outcome)
        attrs: Mapping[str, Any] = job.attrs.get("optuna", {})
        return create_trial(
            state=state,
            values=self._values(outcome),
            params=params,
            distributions={name: self._distributions[name] for name in params},
            system_attrs=dict(attrs),
            intermediate_values=dict(outcome.intermediate) if outcome is not None else {},
            constraints=dict(outcome.broken) if outcome is not None and outcome.broken else None,
        )


def _state(outcome: Outcome) -> TrialState:
    if outcome.reason == "complete":
        return TrialState.COMPLETE
    if outcome.reason in ("pruned", "paused"):
        return TrialState.PRUNED if outcome.intermediate else TrialState.FAIL
    return TrialState.FAIL


def derived_seed(seed: int, number: int, attempt: int = 0) -> int:
    """The seed of the suggestions for job `number`."""
    # SplitMix64's finaliser: neighbouring (seed, number) pairs give unrelated generators.
    mask = 0xFFFFFFFFFFFFFFFF
    x = (seed * 0x9E3779B97F4A7C15 + (number + 1) * 0xBF58476D1CE4E5B9 + attempt * 0xD6E8FEB86659FD93) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return (x ^ (x >> 31)) & 0x7FFFFFFF
