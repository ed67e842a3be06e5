import tempfile
from pathlib import Path

import optuna
from sklearn.datasets import load_iris
from sklearn.model_selection import cross_val_score
from sklearn.tree import DecisionTreeClassifier

RESULTS = Path(tempfile.mkdtemp())


def objective(trial):
    data, target = load_iris(return_X_y=True)
    model = DecisionTreeClassifier(max_depth=trial.suggest_int("max_depth", 1, 9))
    scores = cross_val_score(model, data, target, cv=3)
    trial.set_user_attr("n_folds", len(scores))
    (RESULTS / f"{trial.number}.csv").write_text("\n".join(map(str, scores)))
    return scores.mean()


if __name__ == "__main__":
    optuna.create_study(direction="maximize").optimize(objective, n_trials=20)
