import json
import os
import tempfile

from ray import tune
from ray.tune import Checkpoint


def train_func(config):
    first = 0
    checkpoint = tune.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as folder, open(os.path.join(folder, "checkpoint.json")) as f:
            first = json.load(f)["step"] + 1
    for step in range(first, 100):
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "checkpoint.json"), "w") as f:
                json.dump({"step": step}, f)
            loss = 1 / (0.1 + config["width"] * step / 100) + config["height"] * 0.1
            tune.report({"mean_loss": loss}, checkpoint=Checkpoint.from_directory(folder))


if __name__ == "__main__":
    tuner = tune.Tuner(
        train_func,
        run_config=tune.RunConfig(name="hyperband_test", stop={"training_iteration": 4}),
        tune_config=tune.TuneConfig(metric="mean_loss", mode="min", num_samples=5),
        param_space={"steps": 10, "width": tune.randint(10, 100), "height": tune.loguniform(10, 100)},
    )
    print(tuner.fit().get_best_result().checkpoint)
