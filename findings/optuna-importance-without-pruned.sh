#!/usr/bin/env bash
# Optuna 5.0.0, scikit-learn 1.7.2. Importance is computed of COMPLETE trials alone, without a word: of 40 trials of
# 10 a + b, of which a pruner has stopped 37 (with values at the same step), fANOVA, MDI and PED-ANOVA give both parameters
# about half; of the same 40 points, all complete, a has .93 to .99. Expected: the values that pruned trials have, or a
# warning of how few trials the answer rests on.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check optuna==5.0.0 scikit-learn==1.7.2
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import random
import warnings

import optuna
from optuna.importance import (
    FanovaImportanceEvaluator,
    MeanDecreaseImpurityImportanceEvaluator,
    PedAnovaImportanceEvaluator,
    get_param_importances,
)
from optuna.trial import TrialState, create_trial

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
space = {name: optuna.distributions.FloatDistribution(0, 1) for name in "ab"}


def study(complete):
    rng, made = random.Random(0), optuna.create_study()
    for number in range(40):
        params = {"a": rng.random(), "b": rng.random()}
        value = 10 * params["a"] + params["b"]
        state = TrialState.COMPLETE if number < complete else TrialState.PRUNED
        made.add_trial(
            create_trial(state=state, value=value, params=params, distributions=space, intermediate_values={1: value})
        )
    return made


evaluators = (FanovaImportanceEvaluator(seed=0), MeanDecreaseImpurityImportanceEvaluator(seed=0), PedAnovaImportanceEvaluator())
for evaluator in evaluators:
    shares = {n: float(get_param_importances(study(n), evaluator=evaluator)["a"]) for n in (40, 3)}
    print(f"{type(evaluator).__name__}: a has {shares[40]:.2f} of 40 complete trials, {shares[3]:.2f} where 37 were pruned")
    assert shares[40] > 0.9 and 0.4 < shares[3] < 0.6, "it behaves otherwise now"
PYTHON
