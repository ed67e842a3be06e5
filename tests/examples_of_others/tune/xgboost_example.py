import xgboost as xgb
from ray.tune.integration.xgboost import TuneReportCheckpointCallback


def train_breast_cancer(config: dict):
    xgb.train(config, None, callbacks=[TuneReportCheckpointCallback(frequency=1)])
