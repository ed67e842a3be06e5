from ray import train, tune


def train_func(config):
    for step in range(3):
        train.report({"loss": config["lr"] * step})


tuner = tune.Tuner(train_func, param_space={"lr": tune.loguniform(1e-4, 1e-1)})
tuner.fit()
