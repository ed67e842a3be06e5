import comet_ml
import optuna


def objective(trial):
    comet_ml.Experiment().log_parameters(trial.params)
    return trial.suggest_int("max_depth", 5, 20)


if __name__ == "__main__":
    optuna.create_study(direction="maximize").optimize(objective, n_trials=20)
