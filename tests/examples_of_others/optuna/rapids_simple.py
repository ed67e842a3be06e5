import functools

import optuna
from sklearn.datasets import load_iris
from sklearn.tree import DecisionTreeClassifier


def objective(trial, data, labels):
    model = DecisionTreeClassifier(max_depth=trial.suggest_int("max_depth", 1, 15))
    return model.fit(data, labels).score(data, labels)


data, labels = load_iris(return_X_y=True)
bound = functools.partial(objective, data=data, labels=labels)

if __name__ == "__main__":
    study = optuna.create_study(direction="maximize")
    study.optimize(lambda trial: objective(trial, data, labels), n_trials=10)
