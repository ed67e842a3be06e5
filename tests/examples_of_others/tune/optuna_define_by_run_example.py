from ray import tune
from ray.tune.search.optuna import OptunaSearch


def easy_objective(config):
    tune.report({"mean_loss": config["width"]})


def define_by_run_func(trial):
    trial.suggest_float("width", 0, 20)
    return {"steps": 100}


if __name__ == "__main__":
    algo = OptunaSearch(space=define_by_run_func, metric="mean_loss", mode="min")
    tuner = tune.Tuner(
        easy_objective,
        tune_config=tune.TuneConfig(metric="mean_loss", mode="min", search_alg=algo, num_samples=10),
    )
    tuner.fit()
