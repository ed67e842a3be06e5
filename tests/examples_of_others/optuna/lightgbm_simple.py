import numpy as np
import optuna
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.tree import DecisionTreeClassifier


def objective(trial):
    data, target = load_breast_cancer(return_X_y=True)
    train_x, valid_x, train_y, valid_y = train_test_split(data, target, test_size=0.25)
    param = {
        "lambda_l1": trial.suggest_float("lambda_l1", 1e-8, 10.0, log=True),
        "num_leaves": trial.suggest_int("num_leaves", 2, 256),
        "feature_fraction": trial.suggest_float("feature_fraction", 0.4, 1.0),
        "bagging_freq": trial.suggest_int("bagging_freq", 1, 7),
        "min_child_samples": trial.suggest_int("min_child_samples", 5, 100),
    }
    model = DecisionTreeClassifier(
        max_leaf_nodes=param["num_leaves"],
        max_features=param["feature_fraction"],
        min_samples_leaf=param["min_child_samples"],
    ).fit(train_x, train_y)
    return np.mean(np.rint(model.predict(valid_x)) == valid_y)


if __name__ == "__main__":
    optuna.create_study(direction="maximize").optimize(objective, n_trials=100)
