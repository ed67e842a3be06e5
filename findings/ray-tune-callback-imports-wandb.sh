#!/usr/bin/env bash
# Ray 2.60.0 (tune), wandb 0.31.0. `Tuner.fit()` with a callback of one's own that does nothing imports Weights & Biases,
# and by its source MLflow and Comet where they are installed: to count callbacks by kind for its usage statistics, it
# imports the integrations whose classes it compares with, also where RAY_USAGE_STATS_ENABLED=0. Without a callback
# nothing of it is imported. Seen: 280 modules more, .3 to .5 s of CPU with wandb alone, before the first trial starts. A `tune.Stopper`, asked
# in every step as a callback is, costs nothing. Expected: trackers are imported where their callbacks are used.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check 'ray[tune]==2.60.0' wandb==0.31.0
mkdir "$folder/home"
cat >"$folder/fit.py" <<'PYTHON'
import sys
import tempfile
import time

import ray
from ray import tune


def train(config):
    tune.report({"loss": 0.0})


class Nothing(tune.Callback):
    pass


class Never(tune.Stopper):
    def __call__(self, trial_id, result):
        return False

    def stop_all(self):
        return False


how = {"nothing": {}, "stopper": {"stop": Never()}, "callback": {"callbacks": [Nothing()]}}[sys.argv[1]]
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
with tempfile.TemporaryDirectory() as storage:
    before, began = set(sys.modules), time.process_time()
    tune.Tuner(train, run_config=tune.RunConfig(storage_path=storage, verbose=0, **how)).fit()
    new = set(sys.modules) - before
print(sys.argv[1], len(new), f"{time.process_time() - began:.2f}", "wandb" in new, file=sys.stderr)
PYTHON
cd "$folder"
export HOME="$folder/home" RAY_USAGE_STATS_ENABLED=0 TUNE_DISABLE_AUTO_CALLBACK_LOGGERS=1
for how in nothing stopper callback; do
    "$folder/venv/bin/python" -W ignore fit.py $how 2>&1 >/dev/null | grep "^$how " | tee -a seen
done
grep -q '^nothing .* False$' seen && grep -q '^stopper .* False$' seen && grep -q '^callback .* True$' seen ||
    { echo "it behaves otherwise now"; exit 1; }
