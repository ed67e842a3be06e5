import optuna
from optuna.storages import RetryFailedTrialCallback


def objective(trial):
    lr = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
    for number in RetryFailedTrialCallback.retry_history(trial):
        print(trial.study.trials[number].user_attrs)
    return lr


if __name__ == "__main__":
    optuna.create_study(direction="maximize").optimize(objective, n_trials=10)
