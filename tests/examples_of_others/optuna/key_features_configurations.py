import optuna


def objective(trial):
    optimizer = trial.suggest_categorical("optimizer", ["MomentumSGD", "Adam"])
    layers = trial.suggest_int("num_layers", 1, 3)
    channels = trial.suggest_int("num_channels", 32, 512, log=True)
    units = trial.suggest_int("num_units", 10, 100, step=5)
    dropout = trial.suggest_float("dropout_rate", 0.0, 1.0)
    rate = trial.suggest_float("learning_rate", 1e-5, 1e-2, log=True)
    path = trial.suggest_float("drop_path_rate", 0.0, 1.0, step=0.1)
    return layers * channels + units * dropout * rate + path + (optimizer == "Adam")


study = optuna.create_study()
study.optimize(objective, n_trials=3)
