"""How much of what a sweep saw follows from which hyperparameter: of trials stopped early and under conditions too."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.importance import FanovaImportanceEvaluator, get_param_importances

from fairsweep.search_spaces.algorithms.base import Outcome
from fairsweep.search_spaces.algorithms.equal_fidelity import Level, highest_level, value_at
from fairsweep.search_spaces.space import Space

ENOUGH = 20  # configurations at a fidelity, for it to be chosen
FEWEST = 10  # of which anything is said


@dataclass(frozen=True)
class Importance:
    """Of one parameter.

    share: of the variance of the configurations' ranks that the parameter explains, among the parameters that all the
    configurations have in which it exists; None if they are fewer than `FEWEST` or it has one value in them.
    configurations: how many those are.
    """

    parameter: str
    share: float | None
    configurations: int


def importances(
    space: Space,
    configs: Mapping[int, Mapping[str, Any]],
    outcomes: Mapping[int, Outcome],
    step: int | None = None,
) -> tuple[Level, list[Importance]]:
    """The importance of every searched parameter, the greatest first, and the fidelity at which values were compared.

    step: the milestone to compare at; else the highest fidelity that `ENOUGH` configurations have come to.

    Optuna's evaluators take COMPLETE trials alone. Its fANOVA and mean decrease of impurity leave a conditional
    parameter out; PED-ANOVA gives it 0 where its branch is not among the best tenth. Here each parameter is judged
    within the configurations that have it.
    """
    if step is None:
        level = highest_level(outcomes, ENOUGH)
    else:
        level = Level(step, {n: v for n, o in outcomes.items() if (v := value_at(o, step)) is not None})
    searched = {n: space.suggestable(configs[n]) for n in level.values}
    shares: dict[frozenset[int], dict[str, float]] = {}
    found = []
    for name, p in space.parameters.items():
        if not p.fixed:
            having = frozenset(n for n, config in searched.items() if name in config)
            if having not in shares:
                shares[having] = _shares(space, {n: searched[n] for n in sorted(having)}, level.values)
            found.append(Importance(name, shares[having].get(name), len(having)))
    return level, sorted(found, key=lambda i: -1.0 if i.share is None else i.share, reverse=True)


def _shares(
    space: Space, configs: Mapping[int, Mapping[str, Any]], values: Mapping[int, float]
) -> dict[str, float]:
    """Of the parameters that all of `configs` have, in more than one value."""
    from scipy.stats import rankdata

    if len(configs) < FEWEST or len({values[n] for n in configs}) == 1:
        return {}
    shared = set.intersection(*(set(config) for config in configs.values()))
    names = [n for n in space.parameters if n in shared and len({c[n] for c in configs.values()}) > 1]
    if not names:
        return {}
    distributions = {name: space.parameters[name].distribution() for name in names}
    study = optuna.create_study()
    # Ranks, so that a diverged trial does not outweigh all others.
    for config, rank in zip(configs.values(), rankdata([values[n] for n in configs]), strict=True):
        params = {name: config[name] for name in names}
        study.add_trial(
            optuna.trial.create_trial(value=float(rank), params=params, distributions=distributions)
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shares = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0), params=names)
    return {name: float(share) for name, share in shares.items()}
