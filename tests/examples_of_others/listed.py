"""The public examples that were read and rewritten small, with what becomes of each: one table for tests and docs.

python -m tests.examples_of_others.listed     # writes the table into trainables/OTHERS.md
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "trainables" / "OTHERS.md"
BEGIN, END = "<!-- examples -->", "<!-- end of examples -->"
OPTUNA, TUTORIAL, RAY = "optuna-examples", "optuna/tutorial", "ray/tune/examples"


@dataclass(frozen=True)
class Example:
    """file: below this folder. of: where the original is. name: what is run of it. settings: words of the command.

    refused: what the refusal says, "" where it runs. note: what the docs say beside that.
    """

    file: str
    of: str
    name: str = "objective"
    settings: tuple[str, ...] = ()
    refused: str = ""
    note: str = ""


MAX = ("mode=max",)

EXAMPLES = [
    Example("optuna/quadratic.py", f"{OPTUNA}/basic/quadratic.py"),
    Example(
        "optuna/quadratic_multi_objective.py",
        f"{OPTUNA}/basic/quadratic_multi_objective.py",
        settings=("metric=[f1,f2]", "mode=[min,max]"),
    ),
    Example(
        "optuna/quadratic_constraint.py",
        f"{OPTUNA}/basic/quadratic_constraint.py",
        note="the sampler's `constraints_func` stays behind with the sampler",
    ),
    Example("optuna/constraint_of_today.py", f"{TUTORIAL}/20_recipes/002", refused="trial.set_constraint"),
    Example(
        "optuna/constraint_of_several.py",
        f"{TUTORIAL}/20_recipes/002",
        settings=("metric=[near,far]", "mode=min"),
        note="with `constraints={circle: {max: 0}}` as there",
    ),
    Example("optuna/pruning.py", f"{OPTUNA}/basic/pruning.py"),
    Example("optuna/artifact_store.py", f"{OPTUNA}/basic/artifact_store.py", refused="storage"),
    Example("optuna/sklearn_simple.py", f"{OPTUNA}/sklearn/sklearn_simple.py", settings=MAX),
    Example(
        "optuna/sklearn_additional_args.py", f"{OPTUNA}/sklearn/sklearn_additional_args.py", settings=MAX
    ),
    Example("optuna/pytorch_simple.py", f"{OPTUNA}/pytorch/pytorch_simple.py", settings=MAX),
    Example(
        "optuna/pytorch_checkpoint.py",
        f"{OPTUNA}/pytorch/pytorch_checkpoint.py",
        settings=MAX,
        refused="trial.system_attrs",
    ),
    Example(
        "optuna/pytorch_lightning_simple.py",
        f"{OPTUNA}/pytorch/pytorch_lightning_simple.py",
        refused="No module named 'lightning'",
    ),
    Example(
        "optuna/pytorch_distributed_spawn.py",
        f"{OPTUNA}/pytorch/pytorch_distributed_spawn.py",
        refused="takes device_id beside the trial",
    ),
    Example("optuna/xgboost_simple.py", f"{OPTUNA}/xgboost/xgboost_simple.py", settings=MAX),
    Example("optuna/xgboost_cv.py", f"{OPTUNA}/xgboost/xgboost_cv.py", settings=MAX),
    Example("optuna/lightgbm_simple.py", f"{OPTUNA}/lightgbm/lightgbm_simple.py", settings=MAX),
    Example(
        "optuna/lightgbm_integration.py",
        f"{OPTUNA}/lightgbm/lightgbm_integration.py",
        refused="No module named 'lightgbm'",
    ),
    Example("optuna/catboost_simple.py", f"{OPTUNA}/catboost/catboost_simple.py", settings=MAX),
    Example(
        "optuna/terminator_simple.py",
        f"{OPTUNA}/terminator/terminator_simple.py",
        settings=MAX,
        refused="trial.storage",
        note="`report_cross_validation_scores` writes into the study's storage",
    ),
    Example(
        "optuna/wilcoxon_pruner.py",
        f"{OPTUNA}/pruners/wilcoxon_pruner_tsp_sa.py",
        note="reports of instances; with `scheduler=none` all of them are run",
    ),
    Example("optuna/simulated_annealing_sampler.py", f"{OPTUNA}/samplers/simulated_annealing_sampler.py"),
    Example("optuna/max_trials_callback.py", f"{OPTUNA}/faq/max_trials_callback.py"),
    Example(
        "optuna/enqueue_trial.py",
        f"{OPTUNA}/faq/enqueue_trial.py",
        settings=MAX,
        note="what is enqueued is `search=listed` here",
    ),
    Example("optuna/dask_simple.py", f"{OPTUNA}/dask/dask_simple.py", settings=MAX),
    Example(
        "optuna/sklearn_distributed.py", f"{OPTUNA}/kubernetes/simple/sklearn_distributed.py", settings=MAX
    ),
    Example("optuna/openml_simple.py", f"{OPTUNA}/openml/openml_simple.py", settings=MAX),
    Example("optuna/plot_study.py", f"{OPTUNA}/visualization/plot_study.py", settings=MAX),
    Example(
        "optuna/sb3_simple.py",
        f"{OPTUNA}/rl/sb3_simple.py",
        settings=MAX,
        note="a returned NaN is a failed trial, as in Optuna",
    ),
    Example("optuna/haiku_simple.py", f"{OPTUNA}/haiku/haiku_simple.py", settings=MAX),
    Example("optuna/tensorboard_simple.py", f"{OPTUNA}/tensorboard/tensorboard_simple.py", settings=MAX),
    Example(
        "optuna/tensorflow_estimator_simple.py",
        f"{OPTUNA}/tensorflow/tensorflow_estimator_simple.py",
        settings=MAX,
    ),
    Example("optuna/keras_simple.py", f"{OPTUNA}/keras/keras_simple.py", settings=MAX),
    Example("optuna/fastai_simple.py", f"{OPTUNA}/fastai/fastai_simple.py", settings=MAX),
    Example("optuna/rapids_simple.py", f"{OPTUNA}/rapids/rapids_simple.py", "bound", settings=MAX),
    Example(
        "optuna/comet_integration.py",
        f"{OPTUNA}/comet/comet_integration.py",
        settings=MAX,
        refused="No module named 'comet_ml'",
    ),
    Example("optuna/key_features_configurations.py", f"{TUTORIAL}/10_key_features/002"),
    Example("optuna/key_features_distributed.py", f"{TUTORIAL}/10_key_features/004"),
    Example("optuna/recipes_attributes.py", f"{TUTORIAL}/20_recipes/003"),
    Example("optuna/recipes_reuse_best_trial.py", f"{TUTORIAL}/20_recipes/010", settings=MAX),
    Example(
        "optuna/recipes_ablation.py", f"{TUTORIAL}/20_recipes/014", "objective_conditional", settings=MAX
    ),
    Example(
        "optuna/recipes_ask_and_tell.py",
        f"{TUTORIAL}/20_recipes/009",
        settings=MAX,
        note="a study that the objective itself keeps is its own, in each worker",
    ),
    Example("tune/tune_basic_example.py", f"{RAY}/tune_basic_example.py", "easy_objective"),
    Example("tune/async_hyperband_example.py", f"{RAY}/async_hyperband_example.py", "easy_objective"),
    Example("tune/custom_func_checkpointing.py", f"{RAY}/custom_func_checkpointing.py", "train_func"),
    Example("tune/hyperband_example.py", f"{RAY}/hyperband_example.py", "MyTrainableClass"),
    Example("tune/hyperband_function_example.py", f"{RAY}/hyperband_function_example.py", "train_func"),
    Example("tune/logging_example.py", f"{RAY}/logging_example.py", "easy_objective"),
    Example(
        "tune/pbt_example.py",
        f"{RAY}/pbt_example.py",
        "PBTBenchmarkExample",
        refused=r"hyperparam_mutations['lr']: a function has no ends",
    ),
    Example("tune/pbt_function.py", f"{RAY}/pbt_function.py", "pbt_function"),
    Example("tune/optuna_example.py", f"{RAY}/optuna_example.py", "easy_objective"),
    Example(
        "tune/optuna_define_by_run_example.py",
        f"{RAY}/optuna_define_by_run_example.py",
        "easy_objective",
        refused="its Tuner has no param_space",
    ),
    Example("tune/mnist_pytorch.py", f"{RAY}/mnist_pytorch.py", "train_mnist"),
    Example(
        "tune/mnist_pytorch_trainable.py",
        f"{RAY}/mnist_pytorch_trainable.py",
        "TrainMNIST",
        refused="param_space of args",
    ),
    Example(
        "tune/nevergrad_example.py",
        f"{RAY}/nevergrad_example.py",
        "easy_objective",
        refused="No module named 'nevergrad'",
    ),
    Example(
        "tune/xgboost_example.py",
        f"{RAY}/xgboost_example.py",
        "train_breast_cancer",
        refused="No module named 'xgboost'",
    ),
    Example(
        "tune/hyperopt_conditional.py",
        f"{RAY}/hyperopt_conditional_search_space_example.py",
        "easy_objective",
        refused="No module named 'hyperopt'",
    ),
    Example("tune/ray_two_api.py", "as written for Ray 2.0 to 2.9", "train_func", refused="train.report"),
    Example(
        "tune/getting_started.py",
        "Tune's first page of documentation",
        settings=("metric=score", "mode=min"),
    ),
]


def table() -> str:
    """The table of the docs."""
    lines = ["| example | original | `fairsweep run trainable=...` | outcome |", "|---|---|---|---|"]
    for e in EXAMPLES:
        said = f"refused: `{e.refused}`" if e.refused else "runs"
        words = " ".join((f"{Path(e.file).name}:{e.name}", *e.settings))
        lines.append(
            f"| [{e.file}](../tests/examples_of_others/{e.file}) | {e.of} | `{words}` |"
            f" {said}{'; ' + e.note if e.note else ''} |"
        )
    return "\n".join(lines)


def written() -> str:
    """The docs with the table of now."""
    before, _, rest = DOCS.read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    DOCS.write_text(written(), encoding="utf-8")
