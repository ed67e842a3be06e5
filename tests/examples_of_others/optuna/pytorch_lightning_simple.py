import lightning.pytorch as pl
import optuna
from optuna.integration import PyTorchLightningPruningCallback


def objective(trial: optuna.trial.Trial) -> float:
    dropout = trial.suggest_float("dropout", 0.2, 0.5)
    trainer = pl.Trainer(callbacks=[PyTorchLightningPruningCallback(trial, monitor="val_acc")])
    return trainer.callback_metrics["val_acc"].item() - dropout
