"""An Optuna objective as it is: the sampler and the store are fairsweep's, the objective runs in its workers.

fairsweep run trainable=examples/optuna_objective.py:objective mode=max budget.trials=30 seeds=3
"""

from __future__ import annotations

import optuna
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC


def objective(trial: optuna.Trial) -> float:
    """Accuracy on breast cancer by three-fold cross-validation, of whichever classifier the trial chooses."""
    x, y = load_breast_cancer(return_X_y=True)
    if trial.suggest_categorical("classifier", ["svc", "forest"]) == "svc":
        c = trial.suggest_float("svc_c", 1e-3, 1e3, log=True)
        model = make_pipeline(StandardScaler(), SVC(C=c, gamma="scale"))
    else:
        depth = trial.suggest_int("max_depth", 2, 16, log=True)
        model = RandomForestClassifier(max_depth=depth, n_estimators=20, random_state=0)
    return float(cross_val_score(model, x, y, cv=3).mean())


if __name__ == "__main__":  # what Optuna's own script would do
    study = optuna.create_study(direction="maximize")
    study.optimize(objective, n_trials=30)
    print(study.best_trial)
