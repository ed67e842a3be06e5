import argparse

from ray import tune

parser = argparse.ArgumentParser()
parser.add_argument("--use-gpu", action="store_true", default=False)


class TrainMNIST(tune.Trainable):
    def setup(self, config):
        self.lr, self.k = config.get("lr", 0.01), 0

    def step(self):
        self.k += 1
        return {"mean_accuracy": self.lr * self.k}


if __name__ == "__main__":
    args = parser.parse_args()
    tuner = tune.Tuner(
        tune.with_resources(TrainMNIST, resources={"cpu": 3, "gpu": int(args.use_gpu)}),
        run_config=tune.RunConfig(stop={"mean_accuracy": 0.95, "training_iteration": 3}),
        tune_config=tune.TuneConfig(metric="mean_accuracy", mode="max", num_samples=20),
        param_space={"args": args, "lr": tune.uniform(0.001, 0.1), "momentum": tune.uniform(0.1, 0.9)},
    )
    tuner.fit()
