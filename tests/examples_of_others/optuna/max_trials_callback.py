import optuna
from optuna.study import MaxTrialsCallback


def objective(trial):
    return trial.suggest_float("x", 0, 10) ** 2


if __name__ == "__main__":
    optuna.create_study().optimize(objective, callbacks=[MaxTrialsCallback(100)])
