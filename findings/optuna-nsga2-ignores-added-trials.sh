#!/usr/bin/env bash
# Optuna 5.0.0. NSGAIISampler descends only from trials that carry its own generation number. A study that is filled with
# finished trials by `create_trial` and `add_trials` (results of an earlier tool, of a table, of another study) has none,
# so NSGA-II goes on as if there were no history: after 200 added trials it suggests at random, and nothing says so.
# Expected: as TPE, which learns from added trials as from its own.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check optuna==5.0.0
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)


def objective(trial):
    x, y = trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1)
    return x, (1 - x) ** 2 + 10 * y


def study(sampler):
    return optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)


def mean_y(make, how):
    first = study(make())
    first.optimize(objective, n_trials=200)
    if how == "added":  # the trials alone, without their system attributes, as a table of results has them
        plain = [
            optuna.trial.create_trial(params=t.params, distributions=t.distributions, values=t.values)
            for t in first.trials
        ]
        first = study(make())
        first.add_trials(plain)
    asked = [first.ask() for _ in range(50)]
    return sum(t.suggest_float("y", 0, 1) + 0 * t.suggest_float("x", 0, 1) for t in asked) / len(asked)


found = {}
for name, make in (
    ("NSGA-II", lambda: optuna.samplers.NSGAIISampler(population_size=20, seed=0)),
    ("TPE", lambda: optuna.samplers.TPESampler(seed=0)),
):
    for how in ("own", "added"):
        found[name, how] = mean_y(make, how)
        print(f"{name}: mean of the next 50 suggestions for y (best 0, at random .5) after 200 {how} trials: {found[name, how]:.3f}")
assert found["NSGA-II", "own"] < 0.33 and found["NSGA-II", "added"] > 0.35, "it behaves otherwise now"
assert found["TPE", "own"] < 0.2 and found["TPE", "added"] < 0.2
PYTHON
