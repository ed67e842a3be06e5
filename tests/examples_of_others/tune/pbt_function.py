import json
import os
import random
import tempfile

from ray import tune
from ray.tune import Checkpoint
from ray.tune.schedulers import PopulationBasedTraining


def pbt_function(config):
    accuracy, step = 0.0, 1
    checkpoint = tune.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as folder, open(os.path.join(folder, "checkpoint.json")) as f:
            state = json.load(f)
        accuracy, step = state["acc"], state["step"]
    while True:
        accuracy += config["lr"] * random.random()
        metrics = {"mean_accuracy": accuracy, "cur_lr": config["lr"], "done": accuracy > 100}
        if step % config["checkpoint_interval"] == 0:
            with tempfile.TemporaryDirectory() as folder:
                with open(os.path.join(folder, "checkpoint.json"), "w") as f:
                    json.dump({"acc": accuracy, "step": step + 1}, f)
                tune.report(metrics, checkpoint=Checkpoint.from_directory(folder))
        else:
            tune.report(metrics)
        step += 1


def run_tune_pbt(smoke_test=False):
    pbt = PopulationBasedTraining(
        perturbation_interval=4,
        hyperparam_mutations={"lr": tune.uniform(0.0001, 0.02), "some_other_factor": [1, 2]},
    )
    tuner = tune.Tuner(
        pbt_function,
        run_config=tune.RunConfig(stop={"done": True, "training_iteration": 9}),
        tune_config=tune.TuneConfig(scheduler=pbt, metric="mean_accuracy", mode="max", num_samples=8),
        param_space={"lr": 0.0001, "some_other_factor": 1, "checkpoint_interval": 4},
    )
    tuner.fit()


if __name__ == "__main__":
    run_tune_pbt()
