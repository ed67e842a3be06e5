#!/usr/bin/env bash
# Optuna 5.0.0. GridSampler and BruteForceSampler under ask and tell: the tell of the last point of a finite space stores
# the trial and then raises RuntimeError about Study.stop, which the caller never called; the next ask hands out a point
# for the second time. Expected: tell returns, and something says that the space is exhausted.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check optuna==5.0.0
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)
space = {"x": optuna.distributions.IntDistribution(1, 3)}
for sampler in (optuna.samplers.GridSampler({"x": [1, 2, 3]}), optuna.samplers.BruteForceSampler()):
    study = optuna.create_study(sampler=sampler)
    raised = []
    for value in (0.0, 1.0, 2.0):
        trial = study.ask(space)
        try:
            study.tell(trial, value)
        except RuntimeError as error:
            raised.append((value, str(error)))
    states = [trial.state.name for trial in study.trials]
    again = study.ask(space).params
    print(type(sampler).__name__, states, raised, "then", again)
    assert states == ["COMPLETE"] * 3, "it behaves otherwise now"
    assert [value for value, _ in raised] == [2.0] and "Study.stop" in raised[0][1], "it behaves otherwise now"
    assert again["x"] in (1, 2, 3), "it behaves otherwise now"
PYTHON
