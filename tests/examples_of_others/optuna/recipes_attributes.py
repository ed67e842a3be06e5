import optuna
from sklearn.datasets import load_iris
from sklearn.svm import SVC


def objective(trial):
    data, labels = load_iris(return_X_y=True)
    model = SVC(C=trial.suggest_float("svc_c", 1e-10, 1e10, log=True), max_iter=100)
    accuracy = model.fit(data[::2], labels[::2]).score(data[1::2], labels[1::2])
    trial.set_user_attr("accuracy", accuracy)
    return 1.0 - accuracy


study = optuna.create_study(storage="sqlite:///:memory:")
study.set_user_attr("contributors", ["A", "B"])
study.optimize(objective, n_trials=1)
