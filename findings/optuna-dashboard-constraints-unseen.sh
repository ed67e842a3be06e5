#!/usr/bin/env bash
# optuna-dashboard 0.21.0, Optuna 5.0.0, which its requirements (optuna>=3.6.0) let in. Constraints told the way that
# Optuna 5 has for it, `trial.set_constraint`, do not exist for the dashboard: every trial has an empty list of them, where
# those of the older way (`constraints_func` of a sampler) are listed. With either way `best_trials` of its API is the trial
# that breaks the constraint, where `study.best_trials` leaves it out. Expected: the constraints, and the same best trials.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check optuna-dashboard==0.21.0 optuna==5.0.0
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import io, json, sys

import optuna
from optuna_dashboard import wsgi

optuna.logging.set_verbosity(optuna.logging.ERROR)
storage = optuna.storages.InMemoryStorage()
answers = wsgi(storage)


def asked(path):
    """What the dashboard answers its own page, without a port."""
    request = {
        "REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": "after=0", "SERVER_NAME": "localhost",
        "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
    }
    return json.loads(b"".join(answers(request, lambda status, headers, error=None: None)))


def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    if trial.study.study_name == "set_constraint":
        trial.set_constraint("at least .5", 0.5 - x)
    return x, x


samplers = {
    "set_constraint": optuna.samplers.TPESampler(seed=0),
    "constraints_func": optuna.samplers.TPESampler(seed=0, constraints_func=lambda trial: [0.5 - trial.params["x"]]),
}
seen = {}
for name, sampler in samplers.items():
    study = optuna.create_study(study_name=name, storage=storage, directions=["minimize"] * 2, sampler=sampler)
    study.enqueue_trial({"x": 0.1})
    study.enqueue_trial({"x": 0.9})
    study.optimize(objective, n_trials=2)
    page = asked(f"/api/studies/{study._study_id}")
    best, of_page = [t.number for t in study.best_trials], [t["number"] for t in page["best_trials"]]
    seen[name] = (best, of_page, [t["constraints"] for t in page["trials"]])
    print(f"{name}: best trials {best}, of the dashboard {of_page}; its constraints {seen[name][2]}")
assert seen["set_constraint"] == ([1], [0], [[], []]), "it behaves otherwise now"
assert seen["constraints_func"] == ([1], [0], [[0.4], [-0.4]]), "it behaves otherwise now"
PYTHON
