#!/usr/bin/env bash
# Optuna 5.0.0, scikit-learn 1.7.2. fANOVA integrates over another measure than the one that `suggest_*` draws from, without
# a word: a range with log=True by its plain value (of 1e-5 to 1 the part above .1 is nine tenths), the choices of a
# category as columns that are each on half of the time, also together, and the ends of whole numbers by half. What
# explains .97 of the variance of uniform draws gets about a third and is no longer the first; one of eight choices that
# differs gets over .7, not .57. PED-ANOVA takes the logarithm. Expected: the measure of the search space.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check optuna==5.0.0 scikit-learn==1.7.2
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import math

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator

optuna.logging.set_verbosity(optuna.logging.WARNING)
draws = {
    "log": (FloatDistribution(1e-5, 1, log=True), lambda rng, n: 10 ** rng.uniform(-5, 0, n)),
    "category": (CategoricalDistribution(list("abcdefgh")), lambda rng, n: rng.choice(list("abcdefgh"), n)),
    "whole": (IntDistribution(1, 3), lambda rng, n: rng.integers(1, 4, n)),
}
functions = {
    "log": lambda a: min(abs(math.log10(a) + 4), 2.5),
    "category": lambda a: float(a == "c"),
    "whole": lambda a: float(a == 2),
}
for kind, (distribution, draw) in draws.items():
    rng, study = np.random.default_rng(0), optuna.create_study()
    weight = 0.5 if kind == "log" else 1.0
    for a, b in zip(draw(rng, 400).tolist(), rng.random(400).tolist()):
        study.add_trial(
            optuna.trial.create_trial(
                value=functions[kind](a) + weight * b, params={"a": a, "b": b},
                distributions={"a": distribution, "b": FloatDistribution(0, 1)},
            )
        )
    alone = np.var([functions[kind](a) for a in draw(rng, 200_000).tolist()])
    truth = alone / (alone + weight**2 / 12)
    found = FanovaImportanceEvaluator(seed=0, n_trees=16).evaluate(study)
    print(f"{kind}: a explains {truth:.2f} of the variance of uniform draws; fANOVA {found['a']:.2f}, of b {found['b']:.2f}")
    if kind == "log":
        assert truth > 0.95 and found["a"] < found["b"], "it behaves otherwise now"
        ped = PedAnovaImportanceEvaluator().evaluate(study)
        assert ped["a"] > 10 * ped["b"], "PED-ANOVA behaves otherwise now"
    else:
        assert found["a"] > truth + 0.02, "it behaves otherwise now"
PYTHON
