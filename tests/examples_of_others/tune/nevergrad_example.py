from ray import tune
from ray.tune.search.nevergrad import NevergradSearch


def easy_objective(config):
    tune.report({"mean_loss": config["width"]})


if __name__ == "__main__":
    import nevergrad as ng

    algo = NevergradSearch(optimizer=ng.optimizers.OnePlusOne)
    tuner = tune.Tuner(
        easy_objective,
        tune_config=tune.TuneConfig(metric="mean_loss", mode="min", search_alg=algo, num_samples=10),
        param_space={"steps": 100, "width": tune.uniform(0, 20)},
    )
    tuner.fit()
