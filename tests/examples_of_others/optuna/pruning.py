import numpy as np
import optuna
from sklearn.datasets import load_iris
from sklearn.linear_model import SGDClassifier


def objective(trial):
    data, labels = load_iris(return_X_y=True)
    model = SGDClassifier(alpha=trial.suggest_float("alpha", 1e-5, 1e-1, log=True), random_state=0)
    for step in range(9):
        model.partial_fit(data[::2], labels[::2], classes=np.unique(labels))
        trial.report(1.0 - model.score(data[1::2], labels[1::2]), step)
        if trial.should_prune():
            raise optuna.TrialPruned()
    return 1.0 - model.score(data[1::2], labels[1::2])


if __name__ == "__main__":
    study = optuna.create_study(pruner=optuna.pruners.MedianPruner())
    study.optimize(objective, n_trials=20)
