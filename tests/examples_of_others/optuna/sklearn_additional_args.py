import optuna
from sklearn.datasets import load_iris
from sklearn.svm import SVC


class Objective:
    def __init__(self, data):
        self.data, self.labels = data

    def __call__(self, trial):
        kernel = trial.suggest_categorical("kernel", ["linear", "rbf"])
        more = {"gamma": trial.suggest_float("gamma", 1e-3, 1e3, log=True)} if kernel == "rbf" else {}
        model = SVC(kernel=kernel, max_iter=100, **more)
        return model.fit(self.data[::2], self.labels[::2]).score(self.data[1::2], self.labels[1::2])


objective = Objective(load_iris(return_X_y=True))

if __name__ == "__main__":
    optuna.create_study(direction="maximize").optimize(objective, n_trials=100)
