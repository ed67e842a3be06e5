import optuna


def objective(trial: optuna.trial.Trial) -> float:
    units = trial.suggest_int("NUM_UNITS", 16, 32)
    rate = trial.suggest_float("DROPOUT_RATE", 0.1, 0.2)
    return units * rate * (1 if trial.suggest_categorical("OPTIMIZER", ["sgd", "adam"]) == "sgd" else 2)


study = optuna.create_study(direction="maximize")
study.optimize(objective, n_trials=10, timeout=600, callbacks=[print])
