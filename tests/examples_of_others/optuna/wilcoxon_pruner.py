import numpy as np
import optuna

problems = np.random.default_rng(0).normal(size=(8, 2))


def objective(trial: optuna.Trial) -> float:
    start = trial.suggest_float("T0", 0.01, 10.0, log=True)
    patience = trial.suggest_int("patience", 10, 1000, log=True)
    results = []
    for i in np.random.permutation(len(problems)):
        results.append(float(abs(problems[i]).sum() * start + 1 / patience))
        trial.report(results[-1], i)
        if trial.should_prune():
            return sum(results) / len(results)
    return sum(results) / len(results)


if __name__ == "__main__":
    study = optuna.create_study(pruner=optuna.pruners.WilcoxonPruner(p_threshold=0.1))
    study.optimize(objective, n_trials=10)
