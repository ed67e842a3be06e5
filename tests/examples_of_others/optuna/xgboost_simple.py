import optuna
from sklearn.datasets import load_breast_cancer
from sklearn.tree import DecisionTreeClassifier


def objective(trial):
    data, target = load_breast_cancer(return_X_y=True)
    param = {
        "booster": trial.suggest_categorical("booster", ["gbtree", "gblinear", "dart"]),
        "lambda": trial.suggest_float("lambda", 1e-8, 1.0, log=True),
        "subsample": trial.suggest_float("subsample", 0.2, 1.0),
    }
    if param["booster"] in ["gbtree", "dart"]:
        param["max_depth"] = trial.suggest_int("max_depth", 3, 9, step=2)
        param["min_child_weight"] = trial.suggest_int("min_child_weight", 2, 10)
        param["eta"] = trial.suggest_float("eta", 1e-8, 1.0, log=True)
        param["grow_policy"] = trial.suggest_categorical("grow_policy", ["depthwise", "lossguide"])
    if param["booster"] == "dart":
        param["sample_type"] = trial.suggest_categorical("sample_type", ["uniform", "weighted"])
        param["normalize_type"] = trial.suggest_categorical("normalize_type", ["tree", "forest"])
        param["rate_drop"] = trial.suggest_float("rate_drop", 1e-8, 1.0, log=True)
    model = DecisionTreeClassifier(max_depth=param.get("max_depth", 1), random_state=0)
    return model.fit(data[::8], target[::8]).score(data[1::8], target[1::8])


if __name__ == "__main__":
    optuna.create_study(direction="maximize").optimize(objective, n_trials=100)
