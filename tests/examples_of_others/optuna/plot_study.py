import optuna
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier


def objective(trial):
    data, labels = load_digits(return_X_y=True)
    model = MLPClassifier(
        hidden_layer_sizes=tuple([trial.suggest_int(f"n_units_l{i}", 4, 8) for i in range(3)]),
        learning_rate_init=trial.suggest_float("lr_init", 1e-5, 1e-1, log=True),
    )
    for step in range(3):
        model.partial_fit(data[::9], labels[::9], classes=range(10))
        value = model.score(data[1::9], labels[1::9])
        trial.report(value, step)
        if trial.should_prune():
            raise optuna.TrialPruned()
    return value


study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner())
study.optimize(objective, n_trials=100, timeout=600)
optuna.visualization.plot_optimization_history(study).show()
