#!/usr/bin/env bash
# Optuna 5.0.0, RDBStorage. `study.add_trials(trials)`, the call that takes many finished trials at once, sends as many
# statements as a loop over `add_trial`: 55 a trial of 8 parameters and 12 attributes, 31 of them questions, and one
# commit each. So 10,000 trials are 550,000 statements, each a round trip to a database across a network, and a process
# that dies in between leaves a part of them. Expected: one transaction, and inserts of many rows.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check optuna==5.0.0 sqlalchemy==2.1.9
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from collections import Counter

import optuna
import sqlalchemy

optuna.logging.set_verbosity(optuna.logging.ERROR)
TRIALS, PARAMETERS, ATTRIBUTES = 100, 8, 12
storage = optuna.storages.RDBStorage("sqlite://")  # a fresh database in memory
sent = Counter()
sqlalchemy.event.listen(
    storage.engine, "before_cursor_execute", lambda c, cursor, text, *_: sent.update([text.split()[0]])
)
sqlalchemy.event.listen(storage.engine, "commit", lambda c: sent.update(["COMMIT"]))
names = [f"p{i}" for i in range(PARAMETERS)]
trials = [
    optuna.trial.create_trial(
        params=dict.fromkeys(names, 0.5),
        distributions=dict.fromkeys(names, optuna.distributions.FloatDistribution(0, 1)),
        value=1.0,
        user_attrs={f"a{i}": i for i in range(ATTRIBUTES)},
    )
    for _ in range(TRIALS)
]
counts = {}
for how in ("add_trials", "add_trial"):
    study = optuna.create_study(storage=storage)
    sent.clear()
    if how == "add_trials":
        study.add_trials(trials)
    else:
        for trial in trials:
            study.add_trial(trial)
    counts[how] = dict(sent)
    statements = sum(n for word, n in sent.items() if word != "COMMIT")
    print(f"{TRIALS} trials by {how}: {statements} statements, {dict(sent)}")
    if how == "add_trials":
        assert statements > 2 * (PARAMETERS + ATTRIBUTES) * TRIALS, "it behaves otherwise now"
        assert sent["SELECT"] > (PARAMETERS + ATTRIBUTES) * TRIALS and sent["COMMIT"] >= TRIALS
assert counts["add_trials"] == counts["add_trial"], "it behaves otherwise now"
PYTHON
