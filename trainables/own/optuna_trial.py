"""The trial that an Optuna objective is given: the interface of Optuna's own, answered without a study.

Optuna 5.0: `optuna.trial.BaseTrial` is what an objective may rely on. What it offers and what cannot be carried over
(the study's trials, its storage) raises `NotCarriedOver` by its name.
"""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.study import StudyDirection

from fairsweep.search_spaces._parameter import show
from fairsweep.trainables.own.labels import chosen, label
from fairsweep.trainables.own.optuna_space import Asked, asked_choices, asked_of

REMEDIES = {
    "storage": "fairsweep's store keeps the trials; keep values with trial.set_user_attr",
    "_trial_id": "use trial.number",
    "system_attrs": "use trial.user_attrs",
    "set_system_attr": "use trial.set_user_attr",
    "set_constraint": "limits go with several objectives, metric=[a,b], where constraints={KEY: {max: 0}} keeps it",
}
STUDY_REMEDY = "the study stays with fairsweep's driver; see `fairsweep show` and `fairsweep best`"


class NotCarriedOver(AttributeError):
    """Something of Optuna that an objective uses and fairsweep does not carry over; says what would be right."""


class CarriedStudy:
    """`trial.study`: which way is better and what it is called; nothing of other trials."""

    def __init__(self, name: str, modes: Sequence[str]) -> None:
        self.study_name = name
        self.directions = [StudyDirection.MINIMIZE if m == "min" else StudyDirection.MAXIMIZE for m in modes]

    @property
    def direction(self) -> StudyDirection:
        """RuntimeError with several objectives, as Optuna's."""
        if len(self.directions) > 1:
            raise RuntimeError("a study of several objectives has directions, not a direction")
        return self.directions[0]

    def _is_multi_objective(self) -> bool:  # which Optuna's own pruning callbacks ask
        return len(self.directions) > 1

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise NotCarriedOver(f"trial.study.{name}: is not carried over; {STUDY_REMEDY}")


class AnsweredTrial(optuna.trial.BaseTrial):
    """Answers `suggest_*` by `answer`; what differs between a dry run and a real one is in the two subclasses."""

    def __init__(self, number: int, study: CarriedStudy) -> None:
        self._number, self.study = number, study
        self._params: dict[str, Any] = {}
        self._distributions: dict[str, Any] = {}
        self._user_attrs: dict[str, Any] = {}
        self._reported: set[int] = set()
        self.limits: dict[str, float] = {}
        self._started = datetime.datetime.now()

    def answer(self, ask: Asked) -> Any:
        """The value (for a choice its label) of a name that is asked for the first time."""
        raise NotImplementedError

    def reported(self, value: float, step: int) -> None:
        """A value was reported for a step that had none."""
        raise NotImplementedError

    # -- what objectives call -------------------------------------------------------------------------

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return float(self._number_of(asked_of(name, "float", low, high, log, step)))

    def suggest_uniform(self, name: str, low: float, high: float) -> float:
        return self.suggest_float(name, low, high)

    def suggest_loguniform(self, name: str, low: float, high: float) -> float:
        return self.suggest_float(name, low, high, log=True)

    def suggest_discrete_uniform(self, name: str, low: float, high: float, q: float) -> float:
        return self.suggest_float(name, low, high, step=q)

    def suggest_int(self, name: str, low: int, high: int, *positional: Any, **named: Any) -> int:
        # Optuna still takes step and log by position, with a warning.
        given = {**dict(zip(("step", "log"), positional, strict=False)), **named}
        if set(given) - {"step", "log"}:
            raise TypeError(
                f"suggest_int({name!r}): takes step and log, not {', '.join(set(given) - {'step', 'log'})}"
            )
        step, log = given.get("step", 1), given.get("log", False)
        return int(self._number_of(asked_of(name, "int", low, high, log, step)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        if name not in self._params:
            ask = asked_choices(name, choices)
            distribution = optuna.distributions.CategoricalDistribution(label(list(choices)))
            self._params[name] = chosen(choices, self.answer(ask))
            self._distributions[name] = distribution
        return self._params[name]

    def _number_of(self, ask: Asked) -> Any:
        if ask.name not in self._params:
            low, high, step, log = ask.low, ask.high, ask.step, ask.log
            assert low is not None and high is not None
            self._params[ask.name] = self.answer(ask)
            d = optuna.distributions
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore"
                )  # a range that its steps do not reach is said once, by the space
                self._distributions[ask.name] = (
                    d.IntDistribution(int(low), int(high), log=log, step=int(step or 1))
                    if ask.kind == "int"
                    else d.FloatDistribution(low, high, log=log, step=step)
                )
        return self._params[ask.name]

    def report(self, value: float, step: int) -> None:
        if self.study._is_multi_objective():
            raise NotImplementedError("trial.report: not with several objectives, as in Optuna")
        try:
            value, step = float(value), int(step)
        except (TypeError, ValueError):
            raise TypeError(
                f"trial.report(value={value!r}, step={step!r}): must be a number and a whole number"
            ) from None
        if step < 0:
            raise ValueError(f"trial.report(step={step}): must not be negative")
        if step in self._reported:
            warnings.warn(
                f"trial.report(step={step}): was reported already; the first value stays", stacklevel=2
            )
            return
        self._reported.add(step)
        self.reported(value, step)

    def should_prune(self) -> bool:
        """False: a trial that the scheduler ends or pauses does not come back from `report`."""
        if self.study._is_multi_objective():
            raise NotImplementedError("trial.should_prune: not with several objectives, as in Optuna")
        return False

    def set_user_attr(self, key: str, value: Any) -> None:
        self._user_attrs[str(key)] = value

    @property
    def params(self) -> dict[str, Any]:
        return dict(self._params)

    @property
    def distributions(self) -> dict[str, Any]:
        return dict(self._distributions)

    @property
    def user_attrs(self) -> dict[str, Any]:
        return dict(self._user_attrs)

    @property
    def datetime_start(self) -> datetime.datetime:
        return self._started

    @property
    def number(self) -> int:
        return self._number

    @property
    def constraints(self) -> dict[str, float]:
        return dict(self.limits)

    def set_constraint(self, key: str, value: float) -> None:
        """With several objectives a metric of its own beside what is returned; `constraints` of the sweep limits it."""
        if not self.study._is_multi_objective():
            raise self._not("set_constraint")
        self.limits.setdefault(str(key), float(value))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("study", "_params"):
            raise AttributeError(name)
        raise self._not(name)

    @staticmethod
    def _not(name: str) -> NotCarriedOver:
        remedy = REMEDIES.get(name, "see trainables/OTHERS.md for what is")
        return NotCarriedOver(f"trial.{name}: is not carried over; {remedy}")


def last_value(returned: Any) -> list[float]:
    """What an objective returned, as floats. TypeError in one line for what is no number."""
    try:
        values = list(returned) if isinstance(returned, (tuple, list)) else [returned]
        if any(value is None or isinstance(value, (str, bytes)) for value in values):
            raise TypeError
        return [float(value) for value in values]
    except (TypeError, ValueError):
        raise TypeError(
            f"the objective returned {show(returned)}: must be a number, or a tuple of numbers"
        ) from None
