from hyperopt import hp
from ray import tune

config_space = {"width": hp.uniform("width", 0, 20)}


def easy_objective(config_in):
    tune.report({"mean_loss": config_in["width"]})
