import numpy as np
import ray
from ray import tune
from ray.tune.schedulers import HyperBandScheduler


class MyTrainableClass(tune.Trainable):
    def setup(self, config):
        self.timestep = 0

    def step(self):
        self.timestep += 1
        v = np.tanh(float(self.timestep) / self.config.get("width", 1)) * self.config.get("height", 1)
        return {"episode_reward_mean": v}

    def save_checkpoint(self, checkpoint_dir):
        return {"timestep": self.timestep}

    def load_checkpoint(self, checkpoint):
        self.timestep = checkpoint["timestep"]


if __name__ == "__main__":
    ray.init(num_cpus=4)
    tuner = tune.Tuner(
        MyTrainableClass,
        run_config=tune.RunConfig(
            stop={"training_iteration": 6}, failure_config=tune.FailureConfig(fail_fast=True)
        ),
        tune_config=tune.TuneConfig(
            num_samples=20, metric="episode_reward_mean", mode="max", scheduler=HyperBandScheduler(max_t=200)
        ),
        param_space={"width": tune.randint(10, 90), "height": tune.randint(0, 100)},
    )
    tuner.fit()
