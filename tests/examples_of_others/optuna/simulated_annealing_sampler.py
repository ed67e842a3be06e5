import optuna


def objective(trial):
    return trial.suggest_float("x", -100, 100) ** 2 + trial.suggest_float("y", -1, 1)


if __name__ == "__main__":
    optuna.create_study(sampler=optuna.samplers.RandomSampler()).optimize(objective, n_trials=100)
