import optuna
import torch
from sklearn.datasets import load_iris
from torch import nn


def define_model(trial):
    layers, width = [], 4
    for i in range(trial.suggest_int("n_layers", 1, 3)):
        out = trial.suggest_int(f"n_units_l{i}", 4, 16)
        layers += [nn.Linear(width, out), nn.ReLU()]
        layers.append(nn.Dropout(trial.suggest_float(f"dropout_l{i}", 0.2, 0.5)))
        width = out
    return nn.Sequential(*layers, nn.Linear(width, 3))


def objective(trial):
    data, labels = (torch.tensor(part) for part in load_iris(return_X_y=True))
    model = define_model(trial)
    name = trial.suggest_categorical("optimizer", ["Adam", "RMSprop", "SGD"])
    lr = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=lr)
    for epoch in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data.float()), labels).backward()
        optimizer.step()
        accuracy = (model(data.float()).argmax(1) == labels).float().mean().item()
        trial.report(accuracy, epoch)
        if trial.should_prune():
            raise optuna.exceptions.TrialPruned()
    return accuracy


if __name__ == "__main__":
    optuna.create_study(direction="maximize").optimize(objective, n_trials=100, timeout=600)
