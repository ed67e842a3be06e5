import optuna


def objective(trial):
    x = trial.suggest_float("x", 0, 5)
    y = trial.suggest_float("y", 0, 3)
    trial.set_constraint("circle", (x - 5) ** 2 + y**2 - 25)
    return 4 * x**2 + 4 * y**2, (x - 5) ** 2 + (y - 5) ** 2


if __name__ == "__main__":
    optuna.create_study(directions=["minimize", "minimize"]).optimize(objective, n_trials=100)
