import optuna
from sklearn.datasets import load_iris
from sklearn.svm import SVC


def objective(trial):
    data, labels = load_iris(return_X_y=True)
    model = SVC(C=trial.suggest_float("svc_c", 1e-10, 1e10, log=True), gamma="auto", max_iter=100)
    return model.fit(data, labels).score(data, labels)


if __name__ == "__main__":
    study = optuna.create_study(direction="maximize")
    study.enqueue_trial({"svc_c": 1.0})
    study.optimize(objective, n_trials=10)
