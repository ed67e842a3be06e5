import optuna
from optuna.terminator import TerminatorCallback, report_cross_validation_scores
from sklearn.datasets import load_wine
from sklearn.model_selection import cross_val_score
from sklearn.tree import DecisionTreeClassifier


def objective(trial):
    data, target = load_wine(return_X_y=True)
    model = DecisionTreeClassifier(
        max_depth=trial.suggest_int("max_depth", 2, 32),
        min_samples_split=trial.suggest_float("min_samples_split", 0.1, 1),
        criterion=trial.suggest_categorical("criterion", ("gini", "entropy")),
    )
    scores = cross_val_score(model, data, target, cv=3)
    report_cross_validation_scores(trial, scores)
    return scores.mean()


if __name__ == "__main__":
    study = optuna.create_study(direction="maximize")
    study.optimize(objective, n_trials=50, callbacks=[TerminatorCallback()])
