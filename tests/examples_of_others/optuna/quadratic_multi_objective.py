import optuna


def objective(trial):
    x = trial.suggest_float("x", -100, 100)
    y = trial.suggest_categorical("y", [-1, 0, 1])
    return x**2 + y, -((x - 2) ** 2 + y)


if __name__ == "__main__":
    optuna.create_study(directions=["minimize", "maximize"]).optimize(objective, n_trials=100)
