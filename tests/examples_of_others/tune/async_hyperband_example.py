from typing import Any

from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler


def easy_objective(config: dict[str, Any]) -> None:
    for step in range(config["steps"]):
        tune.report({"iterations": step, "mean_loss": 1 / (0.1 + config["width"] * step) + config["height"]})


if __name__ == "__main__":
    scheduler = AsyncHyperBandScheduler(grace_period=5, max_t=100)
    tuner = tune.Tuner(
        tune.with_resources(easy_objective, {"cpu": 1, "gpu": 0}),
        run_config=tune.RunConfig(name="asynchyperband_test", stop={"training_iteration": 6}, verbose=1),
        tune_config=tune.TuneConfig(metric="mean_loss", mode="min", scheduler=scheduler, num_samples=20),
        param_space={"steps": 100, "width": tune.uniform(10, 100), "height": tune.uniform(0, 100)},
    )
    tuner.fit()
