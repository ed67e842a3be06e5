import optuna
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier


def objective(trial):
    data, labels = load_digits(return_X_y=True)
    depth = trial.suggest_int("max_depth", 2, 10)
    model = RandomForestClassifier(max_depth=depth, n_estimators=trial.suggest_int("n_estimators", 1, 10))
    return model.fit(data[::9], labels[::9]).score(data[1::9], labels[1::9])


if __name__ == "__main__":
    study = optuna.create_study(storage=optuna.integration.DaskStorage(), direction="maximize")
    study.optimize(objective, n_trials=10)
