import optuna


def objective(single_trial, device_id):
    trial = optuna.integration.TorchDistributedTrial(single_trial)
    return trial.suggest_float("lr", 1e-5, 1e-1, log=True)
