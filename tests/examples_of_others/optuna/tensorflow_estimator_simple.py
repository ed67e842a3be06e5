import tempfile
from pathlib import Path

import optuna

MODELS = tempfile.mkdtemp()


def create_optimizer(trial):
    if trial.suggest_categorical("optimizer", ["Adam", "SGD"]) == "Adam":
        return trial.suggest_float("adam_lr", 1e-5, 1e-1, log=True)
    rate = trial.suggest_float("sgd_lr", 1e-5, 1e-1, log=True)
    return rate * trial.suggest_float("sgd_momentum", 1e-5, 1e-1, log=True)


def objective(trial):
    layers = trial.suggest_int("n_layers", 1, 3)
    units = [trial.suggest_int(f"n_units_l{i}", 1, 128) for i in range(layers)]
    folder = Path(f"{MODELS}/{trial.number}")
    folder.mkdir(exist_ok=True)
    return sum(units) * create_optimizer(trial)


def main():
    optuna.create_study(direction="maximize").optimize(objective, n_trials=25, timeout=600)


if __name__ == "__main__":
    main()
