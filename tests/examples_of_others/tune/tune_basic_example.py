import ray
from ray import tune


def evaluation_fn(step, width, height):
    return 1 / (0.1 + width * step / 100) + height * 0.1


def easy_objective(config):
    for step in range(config["steps"]):
        loss = evaluation_fn(step, config["width"], config["height"])
        tune.report({"iterations": step, "mean_loss": loss})


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser()
    parser.add_argument("--smoke-test", action="store_true")
    args, _ = parser.parse_known_args()
    ray.init(configure_logging=False)
    tuner = tune.Tuner(
        easy_objective,
        tune_config=tune.TuneConfig(metric="mean_loss", mode="min", num_samples=5 if args.smoke_test else 50),
        param_space={
            "steps": 5 if args.smoke_test else 9,
            "width": tune.uniform(0, 20),
            "height": tune.uniform(-100, 100),
            "activation": tune.grid_search(["relu", "tanh"]),
        },
    )
    print(tuner.fit().get_best_result().config)
