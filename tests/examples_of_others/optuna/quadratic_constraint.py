import optuna


def objective(trial):
    x = trial.suggest_float("x", -100, 100)
    y = trial.suggest_categorical("y", [-1, 0, 1])
    return x**2 + y


def constraints(trial):
    return 1000 - trial.params["x"], trial.params["x"] - 1000


if __name__ == "__main__":
    sampler = optuna.samplers.TPESampler(constraints_func=constraints)
    optuna.create_study(sampler=sampler).optimize(objective, n_trials=100)
