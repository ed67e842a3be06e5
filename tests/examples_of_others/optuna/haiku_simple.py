import optuna


def objective(trial):
    width = trial.suggest_int("n_units_l1", 4, 128) + trial.suggest_int("n_units_l2", 4, 128)
    lr = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
    best = 0.0
    for step in range(60):
        if step % 20 == 0:
            accuracy = min(1.0, width * lr * (60 - step))
            best = max(best, accuracy)
            trial.report(accuracy, step)
            if trial.should_prune():
                raise optuna.exceptions.TrialPruned()
    return best


if __name__ == "__main__":
    optuna.create_study(direction="maximize").optimize(objective, n_trials=100)
