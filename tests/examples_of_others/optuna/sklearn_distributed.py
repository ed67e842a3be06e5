import os

import optuna


def objective(trial):
    if trial.suggest_categorical("classifier", ["SVC", "Forest"]) == "SVC":
        return trial.suggest_float("svc_c", 1e-10, 1e10, log=True)
    return float(trial.suggest_int("rf_max_depth", 2, 32, log=True))


if __name__ == "__main__":
    study = optuna.load_study(study_name="kubernetes", storage=os.environ["POSTGRES"])
    study.optimize(objective, n_trials=20)
