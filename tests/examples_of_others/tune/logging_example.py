from ray import tune
from ray.tune.logger import LoggerCallback


class TestLoggerCallback(LoggerCallback):
    def on_trial_result(self, iteration, trials, trial, result, **info):
        print(f"TestLogger for trial {trial}: {result}")


def easy_objective(config):
    for step in range(config["steps"]):
        tune.report({"iterations": step, "mean_loss": config["width"] / (1 + step)})


if __name__ == "__main__":
    tuner = tune.Tuner(
        easy_objective,
        run_config=tune.RunConfig(callbacks=[TestLoggerCallback()], stop={"training_iteration": 3}),
        tune_config=tune.TuneConfig(metric="mean_loss", mode="min", num_samples=5),
        param_space={"steps": 100, "width": tune.randint(10, 100), "height": tune.loguniform(10, 100)},
    )
    tuner.fit()
