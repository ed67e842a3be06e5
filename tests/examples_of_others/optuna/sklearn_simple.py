import optuna
from sklearn.datasets import load_iris
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier


def objective(trial):
    data, labels = load_iris(return_X_y=True)
    name = trial.suggest_categorical("classifier", ["SVC", "Tree"])
    if name == "SVC":
        model = SVC(C=trial.suggest_float("svc_c", 1e-10, 1e10, log=True), max_iter=100)
    else:
        model = DecisionTreeClassifier(max_depth=trial.suggest_int("tree_max_depth", 2, 32, log=True))
    return model.fit(data[::2], labels[::2]).score(data[1::2], labels[1::2])


if __name__ == "__main__":
    study = optuna.create_study(direction="maximize")
    study.optimize(objective, n_trials=100)
    print(study.best_trial)
