"""A Ray Tune trainable as it is, with the `param_space` of its Tuner.

fairsweep run trainable=examples/tune_trainable.py:tuner budget.trials=12 scheduler=asha
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from ray import tune
from sklearn.datasets import load_digits
from torch import nn


def train(config: dict[str, Any]) -> None:
    """A small network on 8x8 digits: one report an epoch, with a checkpoint."""
    torch.manual_seed(0)
    digits = load_digits()
    x = torch.tensor(digits.data, dtype=torch.float32) / 16
    y = torch.tensor(digits.target)
    model = nn.Sequential(nn.Linear(64, config["width"]), nn.ReLU(), nn.Linear(config["width"], 10))
    optimiser = torch.optim.SGD(model.parameters(), lr=config["lr"], momentum=config["momentum"])
    epoch = 0
    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            state = torch.load(Path(folder) / "state.pt", weights_only=True)
        epoch = state["epoch"]
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
    while epoch < 9:
        for rows in torch.randperm(1200).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimiser.step()
        epoch += 1
        with torch.no_grad():
            accuracy = float((model(x[1200:]).argmax(1) == y[1200:]).float().mean())
        with tempfile.TemporaryDirectory() as folder:
            kept = {"epoch": epoch, "model": model.state_dict(), "optimiser": optimiser.state_dict()}
            torch.save(kept, Path(folder) / "state.pt")
            tune.report({"accuracy": accuracy}, checkpoint=tune.Checkpoint.from_directory(folder))


tuner = tune.Tuner(
    train,
    param_space={
        "lr": tune.loguniform(1e-3, 1.0),
        "momentum": tune.uniform(0.0, 0.99),
        "width": tune.choice([16, 32, 64]),
    },
    tune_config=tune.TuneConfig(metric="accuracy", mode="max", num_samples=12),
)

if __name__ == "__main__":  # what Ray Tune's own script would do
    print(tuner.fit().get_best_result())
