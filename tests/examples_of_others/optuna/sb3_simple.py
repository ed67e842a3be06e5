import optuna


def sample_params(trial):
    gamma = 1.0 - trial.suggest_float("gamma", 0.0001, 0.1, log=True)
    n_steps = 2 ** trial.suggest_int("exponent_n_steps", 3, 10)
    trial.set_user_attr("gamma_", gamma)
    trial.set_user_attr("n_steps", n_steps)
    net = {"tiny": [64], "small": [64, 64]}[trial.suggest_categorical("net_arch", ["tiny", "small"])]
    return {"n_steps": n_steps, "gamma": gamma, "net": net}


def objective(trial: optuna.Trial) -> float:
    params = sample_params(trial)
    if params["n_steps"] > 512:
        return float("nan")
    for k in range(4):
        trial.report(params["gamma"] * k, k)
        if trial.should_prune():
            raise optuna.exceptions.TrialPruned()
    return params["gamma"] * 4


if __name__ == "__main__":
    optuna.create_study(direction="maximize").optimize(objective, n_trials=100)
