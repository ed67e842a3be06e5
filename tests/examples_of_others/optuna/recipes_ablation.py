import optuna


def objective_conditional(trial: optuna.Trial) -> float:
    if trial.suggest_categorical("optimizer", ["Adam", "SGD"]) == "Adam":
        score = trial.suggest_categorical("beta1", [0.9, 0.95]) + trial.suggest_categorical(
            "beta2", [0.999, 0.9999]
        )
    else:
        score = trial.suggest_categorical("momentum", [0.0, 0.9, 0.99])
        score += trial.suggest_categorical("nesterov", [True, False])
    return score + trial.suggest_float("lr", 0.001, 0.01, step=0.001)


study = optuna.create_study(direction="maximize", sampler=optuna.samplers.BruteForceSampler())
study.optimize(objective_conditional)
