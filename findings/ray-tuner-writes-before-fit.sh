#!/usr/bin/env bash
# Ray 2.60.0 (tune). Making a `tune.Tuner`, without `fit`, writes: a new folder with tuner.pkl appears in the storage
# path (~/ray_results unless told otherwise). So a script that is only imported, to look at its param_space say, leaves
# one more experiment folder each time, and making a class trainable by hand leaves another one. Expected: a constructor
# writes nothing; `fit` does.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check 'ray[tune]==2.60.0'
mkdir "$folder/home"
cd "$folder"
HOME="$folder/home" RAY_AIR_NEW_OUTPUT=0 "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import os
from pathlib import Path

from ray import tune

results = Path(os.environ["HOME"]) / "ray_results"


def train(config):
    tune.report({"loss": config["x"]})


class Train(tune.Trainable):
    def setup(self, config):
        pass

    def step(self):
        return {"loss": 0.0}


def entries():
    return sorted(str(p.relative_to(results)) for p in results.rglob("*")) if results.exists() else []


assert entries() == []
tune.Tuner(train, param_space={"x": tune.uniform(0.0, 1.0)})
by_tuner = entries()
print("after tune.Tuner(...):", by_tuner)
Train(config={})
by_trainable = [e for e in entries() if e not in by_tuner]
print("after Train(config={}):", by_trainable)
assert any(e.endswith("tuner.pkl") for e in by_tuner) and by_trainable, "it behaves otherwise now"
PYTHON
