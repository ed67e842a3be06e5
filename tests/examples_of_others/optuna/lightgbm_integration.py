import lightgbm as lgb
import optuna


def objective(trial):
    callback = optuna.integration.LightGBMPruningCallback(trial, "auc")
    param = {"num_leaves": trial.suggest_int("num_leaves", 2, 256)}
    return lgb.train(param, lgb.Dataset([[0], [1]], label=[0, 1]), callbacks=[callback]).predict([[0]])[0]
