#!/usr/bin/env bash
# Optuna 5.0.0, cmaes 0.13.1. CmaEsSampler(source_trials=...) with fewer than ten trials is taken, and the second suggestion ends
# in a bare AssertionError of the library underneath: it warm starts from the best tenth of them, which is none. Nothing in
# the sampler's documentation names a number. Expected: the best trial at least, or an error that says ten.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check optuna==5.0.0 cmaes==0.13.1
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)
space = {name: optuna.distributions.FloatDistribution(0, 1) for name in "ab"}


def suggestions(n):
    source = [
        optuna.trial.create_trial(value=float(i), params={"a": i / 20, "b": i / 40}, distributions=space)
        for i in range(n)
    ]
    study = optuna.create_study(sampler=optuna.samplers.CmaEsSampler(seed=0, source_trials=source))
    made = 0
    try:
        for _ in range(3):
            trial = study.ask(space)
            made += 1
            study.tell(trial, trial.params["a"])
    except AssertionError as error:
        return made, str(error)
    return made, None


few, enough = suggestions(9), suggestions(10)
print("9 source trials:", few, "| 10:", enough)
assert few[1] is not None and "source task" in few[1] and few[0] < 3 and enough == (3, None), "it behaves otherwise now"
PYTHON
