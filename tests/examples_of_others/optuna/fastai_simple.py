import optuna


def objective(trial):
    total = 0.0
    if trial.suggest_categorical("apply_tfms", [True, False]):
        total += trial.suggest_int("max_rotate", 0, 45) * trial.suggest_float("max_zoom", 1, 2)
        total += trial.suggest_float("p_affine", 0.1, 1.0, step=0.1)
    for i in range(trial.suggest_int("n_layers", 2, 5)):
        total += trial.suggest_int(f"n_channels_{i}", 3, 32)
    return total


if __name__ == "__main__":
    optuna.create_study(direction="maximize").optimize(objective, n_trials=100, timeout=600)
