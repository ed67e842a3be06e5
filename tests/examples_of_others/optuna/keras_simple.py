import optuna


def objective(trial):
    filters = trial.suggest_categorical("filters", [32, 64])
    size = trial.suggest_categorical("kernel_size", [3, 5])
    linear = trial.suggest_categorical("activation", ["relu", "linear"]) == "linear"
    return (
        filters * size * trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True) * (0.5 if linear else 1.0)
    )


if __name__ == "__main__":
    optuna.create_study(direction="maximize").optimize(objective, n_trials=100, timeout=600)
