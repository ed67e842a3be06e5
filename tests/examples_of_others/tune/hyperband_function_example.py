import tempfile
from pathlib import Path

import numpy as np
from ray import tune
from ray.tune import Checkpoint


def train_func(config):
    first = 0
    checkpoint = tune.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as folder:
            first = int(Path(folder, "at").read_text()) + 1
    for timestep in range(first, 100):
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if timestep % 3 == 0:
                Path(folder, "at").write_text(str(timestep))
                checkpoint = Checkpoint.from_directory(folder)
            tune.report({"episode_reward_mean": np.tanh(timestep) * config["height"]}, checkpoint=checkpoint)


if __name__ == "__main__":
    tuner = tune.Tuner(
        train_func,
        run_config=tune.RunConfig(stop={"training_iteration": 8}),
        tune_config=tune.TuneConfig(num_samples=20, metric="episode_reward_mean", mode="max"),
        param_space={"height": tune.uniform(0, 100)},
    )
    tuner.fit()
