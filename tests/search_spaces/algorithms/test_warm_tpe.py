"""TPE that reads a study once suggests what Optuna's own suggests, whatever the space and the trials are."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.samplers._tpe.sampler import TPESampler
from optuna.trial import TrialState

from fairsweep.search_spaces.algorithms import Outcome, create_search
from fairsweep.search_spaces.algorithms.optuna_bridge import derived_seed
from fairsweep.search_spaces.algorithms.warm_tpe import Seen, WarmTPE
from fairsweep.search_spaces.space import Space

Suggest = Callable[[Any], list[Any]]


def mixed(trial: optuna.Trial) -> list[Any]:
    return [
        trial.suggest_float("a", -3, 7),
        trial.suggest_float("l", 1e-5, 1e2, log=True),
        trial.suggest_int("i", 1, 2000),
        trial.suggest_int("j", 1, 512, log=True),
        trial.suggest_float("s", 0, 1, step=0.05),
        trial.suggest_categorical("k", ["x", "y", "z"]),
    ]


def categories(trial: optuna.Trial) -> list[Any]:
    return [trial.suggest_categorical(f"c{k}", list("abcde")) for k in range(6)]


def coarse(trial: optuna.Trial) -> list[Any]:
    return [trial.suggest_int(f"i{k}", 0, 5) for k in range(5)]


def conditional(trial: optuna.Trial) -> list[Any]:
    kind = trial.suggest_categorical("k", ["x", "y"])
    own = trial.suggest_float("b", 0, 1e-3) if kind == "x" else trial.suggest_int("n", 0, 9)
    return [kind, own, trial.suggest_float("z", 1e6, 1e6 + 1)]


def worth(found: list[Any]) -> float:
    return sum(zlib.crc32(v.encode()) % 97 / 97 if isinstance(v, str) else abs(v - 0.3) % 5 for v in found)


def suggested(warm: bool, suggest: Suggest, trials: int, seed: int, at_once: int) -> list[list[Any]]:
    """What is suggested where `at_once` trials run, some fail and some are stopped."""
    study = optuna.create_study(direction="minimize" if seed % 2 else "maximize")
    rng, seen, sampler = np.random.default_rng(seed), Seen(), WarmTPE(seed=0)
    said, live = list[list[Any]](), list[tuple[optuna.Trial, list[Any]]]()
    for k in range(trials):
        if warm:
            sampler.begin(1000 * seed + k, seen)
        study.sampler = sampler if warm else TPESampler(seed=1000 * seed + k)
        trial = study.ask()
        said.append(suggest(trial))
        live.append((trial, said[-1]))
        if len(live) < at_once:
            continue
        ended, found = live.pop(int(rng.integers(len(live))))
        fate = rng.random()
        if fate < 0.1:
            study.tell(ended, state=TrialState.FAIL)
        elif fate < 0.4:
            if fate > 0.12:
                ended.report(worth(found) if fate > 0.15 else float("nan"), int(rng.integers(1, 4)))
            study.tell(ended, state=TrialState.PRUNED)
        else:
            study.tell(ended, worth(found))
    return said


@pytest.mark.parametrize("at_once", [1, 5])
@pytest.mark.parametrize("suggest", [mixed, categories, coarse, conditional])
def test_suggests_what_optuna_does(suggest: Suggest, at_once: int) -> None:
    for seed in (2, 3):
        assert suggested(True, suggest, 90, seed, at_once) == suggested(False, suggest, 90, seed, at_once)


@pytest.mark.slow
@pytest.mark.parametrize("suggest", [mixed, categories, coarse, conditional])
def test_suggests_what_optuna_does_for_long(suggest: Suggest) -> None:
    for seed in range(4):
        assert suggested(True, suggest, 400, seed, 3) == suggested(False, suggest, 400, seed, 3)


SPACE = Space.from_mapping(
    {
        "x": {"type": "float", "low": 0.0, "high": 1.0, "paper": 0.5},
        "y": {"type": "int", "low": 0, "high": 5, "paper": 1},
        "kind": {"type": "categorical", "choices": ["a", "b"], "paper": "a"},
    },
    "bowl",
)


def test_the_search_is_the_bare_study_of_the_same_seeds() -> None:
    search, study = create_search("tpe", SPACE, "min", 4), optuna.create_study()
    for number in range(60):
        (job,) = search.ask(1)
        study.sampler = TPESampler(seed=derived_seed(4, number))
        trial = study.ask(SPACE.distributions())
        assert dict(job.config) == trial.params
        value = (trial.params["x"] - 0.3) ** 2 + 0.1 * trial.params["y"]
        search.tell(job, Outcome(value, 1, "complete"))
        study.tell(trial, value)


def test_broken_limits_and_several_objectives_are_left_to_optuna() -> None:
    limited, study = create_search("tpe", SPACE, "min", 4), optuna.create_study()
    several = create_search("tpe", SPACE, ["min", "max"], 4)
    both = optuna.create_study(directions=["minimize", "maximize"])
    for number in range(30):
        (job,), (other,) = limited.ask(1), several.ask(1)
        study.sampler, both.sampler = (TPESampler(seed=derived_seed(4, number)) for _ in range(2))
        trial, second = study.ask(SPACE.distributions()), both.ask(SPACE.distributions())
        assert dict(job.config) == trial.params and dict(other.config) == second.params
        x, y = trial.params["x"], second.params["x"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial.set_constraint("size", x - 0.5)
        study.tell(trial, x)
        both.tell(second, [y, second.params["y"]])
        limited.tell(job, Outcome(x, 1, "complete", broken={"size": x - 0.5}))
        several.tell(other, Outcome(y, 1, "complete", values=(y, float(second.params["y"]))))
