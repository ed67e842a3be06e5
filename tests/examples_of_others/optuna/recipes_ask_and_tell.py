import optuna

study = optuna.create_study(direction="maximize")


def objective(trial):
    best = study.best_value if study.trials else 0.0
    return best + trial.suggest_float("C", 1e-7, 10.0, log=True)


for _ in range(2):
    trial = study.ask()
    study.tell(trial, trial.suggest_float("C", 1e-7, 10.0, log=True))
