import optuna
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import accuracy_score, f1_score
from sklearn.tree import DecisionTreeClassifier


def fitted(trial):
    data, labels = load_breast_cancer(return_X_y=True)
    model = DecisionTreeClassifier(ccp_alpha=trial.suggest_float("C", 1e-7, 1.0, log=True))
    return labels[1::8], model.fit(data[::8], labels[::8]).predict(data[1::8])


def objective(trial):
    return accuracy_score(*fitted(trial))


def detailed_objective(trial):
    truth, found = fitted(trial)
    return accuracy_score(truth, found), f1_score(truth, found)


study = optuna.create_study(direction="maximize")
study.optimize(objective, n_trials=10)
print(detailed_objective(study.best_trial))
