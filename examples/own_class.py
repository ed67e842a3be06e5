"""A class of one's own: for a model with a state that is more than a function wants to hold.

fairsweep run trainable=examples/own_class.py:Boosting budget.trials=20 scheduler=asha
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.metrics import mean_squared_error, r2_score
from sklearn.tree import DecisionTreeRegressor

from fairsweep import Fidelity, Metric, Paper, Setting


class Boosting(Paper):
    """Gradient boosting of regression trees on sklearn's diabetes data: one step is ten trees."""

    space = {
        "rate": {"type": "float", "low": 0.01, "high": 0.5, "log": True},
        "depth": {"type": "int", "low": 1, "high": 5},
        "subsample": {"type": "float", "low": 0.3, "high": 1.0},
    }
    metrics = (Metric("val_mse", "min", "validation"), Metric("test_r2", "max", "test"))
    objective = "val_mse"

    @classmethod
    def fidelity(cls, config: Mapping[str, Any], steps: int | None = None) -> Fidelity:
        """One to 27 steps, or as many as the budget says; a value says something from the first on."""
        return Fidelity("10 trees", 1, steps or 27)

    def setup(self, config: Mapping[str, Any], setting: Setting) -> None:
        """Parts by the trial's seed, but for the test rows, which are the same for all."""
        self.config, self.steps = config, setting.steps or 27
        self.rng = np.random.default_rng(setting.seed)
        x, y = load_diabetes(return_X_y=True)
        rows = np.random.default_rng(0).permutation(len(y))
        self.test_rows, rest = rows[:100], self.rng.permutation(rows[100:])
        self.val_rows, self.train_rows = rest[:80], rest[80:]
        self.x, self.y = x, y
        self.trees: list[DecisionTreeRegressor] = []
        self.predicted = np.full(len(y), y[self.train_rows].mean())
        self.done, self.best, self.answer = 0, np.inf, self.predicted

    def step(self) -> dict[str, float]:
        """Ten more trees, each on a part of the residuals."""
        for _ in range(10):
            size = max(2, int(self.config["subsample"] * len(self.train_rows)))
            rows = self.rng.choice(self.train_rows, size, replace=False)
            tree = DecisionTreeRegressor(max_depth=self.config["depth"], random_state=0)
            tree.fit(self.x[rows], (self.y - self.predicted)[rows])
            self.trees.append(tree)
            self.predicted = self.predicted + self.config["rate"] * tree.predict(self.x)
        self.done += 1
        mse = mean_squared_error(self.y[self.val_rows], self.predicted[self.val_rows])
        if mse < self.best:
            self.best, self.answer = mse, self.predicted
        return {"val_mse": mse}

    @property
    def finished(self) -> bool:
        """Whether the budget is used up."""
        return self.done >= self.steps

    def test(self) -> dict[str, float]:
        """Of the model with the best validation value."""
        return {"test_r2": r2_score(self.y[self.test_rows], self.answer[self.test_rows])}

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs; objects that are no tensors, numbers or texts as bytes."""
        kept = (self.trees, self.predicted, self.done, self.best, self.answer, self.rng)
        return {"state": pickle.dumps(kept)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on as if nothing had happened."""
        self.trees, self.predicted, self.done, self.best, self.answer, self.rng = pickle.loads(state["state"])
