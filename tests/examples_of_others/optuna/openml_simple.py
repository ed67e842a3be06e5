import optuna
from sklearn.datasets import load_iris
from sklearn.tree import DecisionTreeClassifier


def objective(trial: optuna.Trial) -> float:
    data, labels = load_iris(return_X_y=True)
    model = DecisionTreeClassifier(
        max_depth=trial.suggest_int("max_depth", 2, 32, log=True),
        min_samples_leaf=trial.suggest_float("min_samples_leaf", 0.01, 0.5),
    )
    return model.fit(data, labels).score(data, labels)


study = optuna.create_study(direction="maximize")
study.optimize(objective, n_trials=15)
print("best", study.best_params, study.best_value)
