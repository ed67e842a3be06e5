from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch


def easy_objective(config):
    for step in range(config["steps"]):
        tune.report({"iterations": step, "mean_loss": config["width"] / (1 + step) + config["height"]})


def run_optuna_tune(smoke_test=False):
    algo = ConcurrencyLimiter(OptunaSearch(), max_concurrent=4)
    tuner = tune.Tuner(
        easy_objective,
        tune_config=tune.TuneConfig(
            metric="mean_loss",
            mode="min",
            search_alg=algo,
            scheduler=AsyncHyperBandScheduler(),
            num_samples=10,
        ),
        param_space={
            "steps": 5,
            "width": tune.uniform(0, 20),
            "height": tune.uniform(-100, 100),
            "activation": tune.choice(["relu", "tanh"]),
        },
    )
    tuner.fit()


if __name__ == "__main__":
    run_optuna_tune()
