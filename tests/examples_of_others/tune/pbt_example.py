import random

from ray import tune
from ray.tune.schedulers import PopulationBasedTraining


class PBTBenchmarkExample(tune.Trainable):
    def setup(self, config):
        self.lr, self.accuracy = config["lr"], 0.0

    def step(self):
        self.accuracy += self.lr * random.random()
        return {"mean_accuracy": self.accuracy, "cur_lr": self.lr, "done": self.accuracy > 200}

    def save_checkpoint(self, checkpoint_dir):
        return {"accuracy": self.accuracy, "lr": self.lr}

    def load_checkpoint(self, checkpoint):
        self.accuracy = checkpoint["accuracy"]


if __name__ == "__main__":
    pbt = PopulationBasedTraining(
        perturbation_interval=5,
        hyperparam_mutations={"lr": lambda: random.uniform(0.0001, 0.02), "some_other_factor": [1, 2]},
    )
    tuner = tune.Tuner(
        PBTBenchmarkExample,
        run_config=tune.RunConfig(stop={"done": True, "training_iteration": 10}),
        tune_config=tune.TuneConfig(scheduler=pbt, metric="mean_accuracy", mode="max", num_samples=8),
        param_space={"lr": 0.0001, "some_other_factor": 1},
    )
    tuner.fit()
