"""A training function of one's own, on a CSV file.

fairsweep run trainable=examples/own_function.py:train budget.trials=20 scheduler=asha data_dir=examples
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

import fairsweep


def read(folder: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Features [178, 13] and classes [178] of wine.csv: chemistry of wines of three cultivars."""
    with open((folder or Path(__file__).parent) / "wine.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    features = [[float(v) for k, v in row.items() if k != "cultivar"] for row in rows]
    return np.array(features), np.array([int(row["cultivar"]) for row in rows])


@fairsweep.trainable(
    space={"lr": (1e-3, 1.0, "log"), "alpha": (1e-6, 1e-1, "log"), "penalty": ["l2", "l1", "elasticnet"]},
    metric="val_loss",
    mode="min",
    steps=27,
    test=["test_accuracy"],
)
def train(config: dict[str, Any], trial: Any) -> None:
    """Logistic regression by stochastic gradient descent: one step is one epoch."""
    x, y = read(trial.data_dir)
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.2, random_state=0, stratify=y)
    x, x_val, y, y_val = train_test_split(x, y, test_size=0.25, random_state=trial.seed, stratify=y)
    scaler = StandardScaler().fit(x)
    model = trial.restore() or SGDClassifier(
        loss="log_loss",
        penalty=config["penalty"],
        alpha=config["alpha"],
        eta0=config["lr"],
        learning_rate="constant",
        random_state=trial.seed,
    )
    for _ in range(trial.step, trial.steps):
        model.partial_fit(scaler.transform(x), y, classes=[0, 1, 2])
        trial.checkpoint(model)
        trial.report(
            val_loss=log_loss(y_val, model.predict_proba(scaler.transform(x_val))),
            val_accuracy=accuracy_score(y_val, model.predict(scaler.transform(x_val))),
            test_accuracy=accuracy_score(y_test, model.predict(scaler.transform(x_test))),
        )


if __name__ == "__main__":
    sweep = fairsweep.run(train, budget={"trials": 20}, scheduler="asha", name="wine")
    print(sweep.best())
