import os
import tempfile

import torch
from ray import tune
from ray.tune import Checkpoint
from sklearn.datasets import load_digits
from torch import nn


def train_mnist(config):
    should_checkpoint = config.get("should_checkpoint", False)
    data, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
    model = nn.Linear(64, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=config["lr"], momentum=config["momentum"])
    while True:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data.float() / 16), labels).backward()
        optimizer.step()
        accuracy = (model(data.float() / 16).argmax(1) == labels).float().mean()
        metrics = {"mean_accuracy": accuracy.item()}
        if should_checkpoint:
            with tempfile.TemporaryDirectory() as folder:
                torch.save(model.state_dict(), os.path.join(folder, "model.pt"))
                tune.report(metrics, checkpoint=Checkpoint.from_directory(folder))
        else:
            tune.report(metrics)


if __name__ == "__main__":
    tuner = tune.Tuner(
        tune.with_resources(train_mnist, resources={"cpu": 2, "gpu": 0}),
        tune_config=tune.TuneConfig(metric="mean_accuracy", mode="max", num_samples=50),
        run_config=tune.RunConfig(name="exp", stop={"mean_accuracy": 0.98, "training_iteration": 5}),
        param_space={"lr": tune.loguniform(1e-4, 1e-2), "momentum": tune.uniform(0.1, 0.9)},
    )
    print(tuner.fit().get_best_result().config)
