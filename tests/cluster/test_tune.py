"""Ray Tune's trainables as they are: spaces, functions, classes and scripts, without a running Ray."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray import tune

from fairsweep.analysis.store import Store
from fairsweep.cluster.cli import run_cli
from fairsweep.cluster.engine.conductor import Leg
from fairsweep.cluster.engine.post import Post
from fairsweep.cluster.engine.worker import LegRunner
from fairsweep.cluster.tune import adapter, finding, spaces
from fairsweep.search_spaces.space import Space
from fairsweep.trainables import catalog
from fairsweep.trainables.own import adapt, known
from tests.cluster.test_conductor import Engine, engine, trials

HEAD = "import json, os, tempfile\nfrom ray import tune\n\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(text: str) -> None:
    Path("train.py").write_text(HEAD + textwrap.dedent(text))


def run(*overrides: str, name: str = "train") -> Engine:
    made = engine(Path("store"), f"trainable=train.py:{name}", "search=random", "budget.trials=3", *overrides)
    made.run()
    return made


def refused(*overrides: str, name: str = "train") -> str:
    with pytest.raises((catalog.UnknownPaper, ValueError)) as error:
        run(*overrides, name=name)
    assert "\n" not in str(error.value) and not Path("store").exists()
    return str(error.value)


# -- spaces -------------------------------------------------------------------------------------------------


def test_every_range_of_tune_is_ours_and_covers_what_tune_draws() -> None:
    """Draws of Ray 2.60 lie in our range, and reach its ends where it is one of few values."""
    param_space = {
        "a": tune.uniform(-1, 1),
        "b": tune.loguniform(1e-3, 10),
        "c": tune.quniform(0.0, 1.0, 0.25),
        "d": tune.randint(1, 4),
        "e": tune.lograndint(1, 5),
        "f": tune.qrandint(2, 8, 2),
        "g": tune.qrandint(2, 5),
        "h": tune.choice(["x", "y"]),
        "i": tune.grid_search([1, 2, 3]),
        "j": 7,
        "deep": {"lr": tune.uniform(0, 1), "type": tune.choice([1, 2])},
    }
    found = spaces.read(param_space)
    space = Space.from_mapping(found["space"], papers=False)
    assert not found["objects"] and json.loads(json.dumps(found)) == found
    rng = np.random.RandomState(0)
    for name in "abcdefg":
        parameter, drawn = space.parameters[name], set()
        for value in param_space[name].sample(size=400, random_state=rng):
            drawn.add(parameter.inside(parameter.typed(type(parameter.low)(value))))
        if name in "cdefg":
            assert {parameter.low, parameter.high} <= drawn, name
    assert space.parameters["h"].choices == ("x", "y") and space.parameters["i"].choices == (1, 2, 3)
    assert space.parameters["j"].value == 7
    config = space.sample(np.random.default_rng(0))
    whole, beside = spaces.nested(found, config, 0, None)
    assert set(whole) == set(param_space) and set(whole["deep"]) == {"lr", "type"} and beside == {}
    assert whole["deep"]["lr"] == config["deep.lr"]


def test_rounded_logarithmic_ranges_are_rounded_in_the_worker() -> None:
    found = spaces.read({"q": tune.qloguniform(0.5, 8.0, 0.5), "n": tune.qlograndint(4, 64, 4)})
    whole, beside = spaces.nested(found, {"q": 1.3, "n": 21}, 0, None)
    assert whole == beside == {"q": 1.5, "n": 20}


def test_choices_and_constants_of_any_kind_come_back_as_they_are() -> None:
    def relu() -> None: ...

    def tanh() -> None: ...

    param_space = {
        "sizes": tune.choice([[32], [64, 64]]),
        "act": tune.choice([relu, tanh]),
        "pair": tune.choice([(1, 2), (3, 4)]),
        "names": ["logloss", "error"],
        "nothing": None,
        "object": relu,
        "empty": {},
        "base": tune.randint(2, 5),
        "twice": tune.sample_from(lambda config: config["base"] * 2),
        "then": tune.sample_from(lambda config: config["twice"] + config["late"]),
        "late": tune.sample_from(lambda spec: np.random.uniform(spec.config.base, spec.config.base + 1)),
    }
    found = spaces.read(param_space)
    assert found["objects"] and set(found["space"]) == {"sizes", "act", "pair", "base"}
    config = Space.from_mapping(found["space"], papers=False).sample(np.random.default_rng(1))
    whole, beside = spaces.nested(found, config, 3, param_space)
    assert list(whole)[:8] == list(param_space)[:8]
    assert (
        whole["sizes"] in ([32], [64, 64]) and whole["act"] in (relu, tanh) and type(whole["pair"]) is tuple
    )
    assert whole["names"] == ["logloss", "error"] and whole["nothing"] is None and whole["object"] is relu
    assert whole["twice"] == 2 * whole["base"] and whole["then"] == whole["twice"] + whole["late"]
    assert beside == {name: whole[name] for name in ("twice", "then", "late")}
    assert spaces.nested(found, config, 3, param_space)[0]["late"] == whole["late"]
    assert spaces.nested(found, config, 4, param_space)[0]["late"] != whole["late"]


@pytest.mark.parametrize(
    ("param_space", "words"),
    [
        ({"x": tune.randn(1, 2)}, r"param_space\['x'\]: tune.randn has no ends, .*tune.uniform\(-5, 7\)"),
        ({"a": {"x": tune.qrandn(0, 1, 0.1)}}, r"param_space\['a.x'\]: tune.qrandn"),
        ({"x": tune.choice([{"lr": tune.uniform(0, 1)}])}, "a choice that holds ranges itself"),
        ({1: tune.uniform(0, 1)}, r"param_space\[1\]: names must be text"),
        ({"x": tune.qrandint(5, 7, 4)}, "no multiple of 4 lies in its range"),
        ({"x": tune.choice([])}, "has no choices"),
    ],
)
def test_what_cannot_be_carried_over_is_refused_by_name(param_space: Any, words: str) -> None:
    with pytest.raises(spaces.NotCarriedOver, match=f"^.*{words}"):
        spaces.read(param_space)


# -- functions and classes ----------------------------------------------------------------------------------

FUNCTION = """
def train(config):
    start, checkpoint = 0, tune.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as place, open(os.path.join(place, "at.json")) as f:
            start = json.load(f)["at"] + 1
    for at in range(start, 9):
        with tempfile.TemporaryDirectory() as place:
            with open(os.path.join(place, "at.json"), "w") as f:
                json.dump({"at": at}, f)
            tune.report({"loss": config["net"]["lr"] + 1 / (1 + at), "start": start, "name": "text", "more": {"x": at},
                         "gap": float("nan"), "large": 10**400},
                        checkpoint=tune.Checkpoint.from_directory(place))
    assert tune.get_context().get_trial_name() and os.path.isdir(tune.get_context().get_trial_dir())

param_space = {"net": {"lr": tune.loguniform(1e-3, 1.0)}, "batch": tune.choice([8, 16])}
"""


def test_a_function_is_paused_and_goes_on_from_its_checkpoint(folder: Path) -> None:
    write(FUNCTION)
    made = run("metric=loss", "scheduler=asha", "budget.steps=9", "budget.trials=6")
    rows = trials(made.store)
    assert {row["state"] for row in rows} == {"complete", "pruned"}
    results = Store("store").table("results", "s").to_pylist()
    assert {row["metric.start"] for row in results if row["step"] > 1} - {0.0}, "nobody went on"
    assert all(row["metric.more/x"] == row["step"] - 1 for row in results)
    kept = json.loads(rows[0]["attrs"], parse_constant=lambda word: pytest.fail(f"no JSON: {word}"))[
        "reported"
    ]
    assert kept == {"name": "text", "gap": "NaN", "large": 10**400}
    assert all(row["config.net.lr"] < row["value"] for row in rows)


@pytest.mark.parametrize(
    ("body", "steps", "value"),
    [
        ("return {'loss': config['x']}", 1, 1.0),
        ("return config['x']", 1, 1.0),
        ("for k in (3, 2, 1): yield {'loss': k * config['x'], 'done': k == 2}", 2, 2.0),
        ("for k in (3, 2): tune.report({'loss': k * config['x']})\n    return {'loss': config['x']}", 3, 1.0),
    ],
)
def test_a_function_reports_by_what_it_yields_or_returns(
    folder: Path, body: str, steps: int, value: float
) -> None:
    write(f"def train(config):\n    {body}\n\nspace = {{'x': tune.uniform(0.5, 1)}}\n")
    row = trials(run("metric=loss", "budget.trials=1", "space.x=1").store)[0]
    assert (row["state"], row["steps"], row["value"]) == ("complete", steps, value), row["error"]


CLASS = """
class train(tune.Trainable):
    def setup(self, config):
        self.total, self.rate = 0.0, config["rate"]
        assert os.path.isdir(self.logdir)

    def step(self):
        self.total += self.rate
        return {"score": self.total, "at": self.training_iteration, "done": self.total > 50}

    def save_checkpoint(self, folder):
        %s

    def load_checkpoint(self, checkpoint):
        %s

search_space = {"rate": tune.uniform(1, 10)}
"""
DICT = ("return {'total': self.total}", "self.total = checkpoint['total']")
FILES = (
    "open(os.path.join(folder, 'total'), 'w').write(str(self.total))",
    "self.total = float(open(os.path.join(checkpoint, 'total')).read())",
)


@pytest.mark.parametrize("kind", [DICT, FILES])
def test_a_class_is_stepped_checkpointed_and_taken_up(folder: Path, kind: tuple[str, str]) -> None:
    write(CLASS % kind)
    made = run("metric=score", "mode=max", "scheduler=asha", "budget.steps=27", "budget.trials=6")
    rows = trials(made.store)
    assert {row["state"] for row in rows} == {"complete", "pruned"}
    for row in Store("store").table("results", "s").to_pylist():
        rate = next(t["config.rate"] for t in rows if t["trial"] == row["trial"])
        assert row["metric.score"] == pytest.approx(rate * row["step"])
        assert row["metric.at"] == row["step"] - 1


def test_a_class_without_checkpoints_begins_anew(folder: Path) -> None:
    write(CLASS.replace("save_checkpoint", "unused").replace("load_checkpoint", "unused_too") % DICT)
    paper: Any = known.get("train.py:train", {"metric": "score", "mode": "max"})
    post = Post(
        "s",
        "train.py:train",
        str(folder / "kept"),
        source=known.source_of(paper).to_json(),
        metric="score",
        mode="max",
        report_s=0,
    )  # type: ignore[union-attr]
    runner = LegRunner(post)
    for _ in range(2):
        runner.take(Leg("00000-0", {"rate": 2.0}, 0, 0, 5, (3,)))
        scores = []
        while len(scores) < 3:
            scores += [row["metrics"]["score"] for row in runner.step()["rows"]]
        runner.close()
        assert scores == [2.0, 4.0, 6.0]


def test_stopping_values_of_the_tuner_end_a_trial(folder: Path) -> None:
    write("""
        def train(config):
            for k in range(100):
                tune.report({"acc": k * config["x"]})

        tuner = tune.Tuner(train, param_space={"x": tune.uniform(0.1, 0.2)},
                           run_config=tune.RunConfig(stop={"acc": 0.8}),
                           tune_config=tune.TuneConfig(metric="acc", mode="max"))
        tuner.fit()
        raise RuntimeError("what stands behind is not run")
    """)
    for row in trials(run("budget.trials=2").store):
        assert row["state"] == "complete" and 0.8 <= row["value"] < 1.0
    assert not (Path.home() / "ray_results" / "train").exists()


def test_a_tuner_may_be_named_and_its_resources_and_parameters_stay_with_it(folder: Path) -> None:
    write("""
        def body(config, data=None):
            tune.report({"loss": config["x"] + len(data), "act": config["act"]()})

        def one(): return 1
        bound = tune.with_parameters(tune.with_resources(body, {"cpu": 1}), data=[1, 2, 3])
        tuner = tune.Tuner(bound, param_space={"x": tune.uniform(0, 1), "act": tune.choice([one])},
                           tune_config=tune.TuneConfig(metric="loss", mode="min"))
    """)
    for name in ("tuner", "bound"):
        made = engine(Path(name), f"trainable=train.py:{name}", "search=random", "budget.trials=1")
        made.run()
        for row in trials(made.store):
            assert 3 <= row["value"] <= 4, row["error"]


# -- scripts ------------------------------------------------------------------------------------------------


def test_a_scripts_main_part_tells_space_metric_and_steps_and_runs_nothing(folder: Path) -> None:
    write("""
        import argparse, ray

        def train(config):
            for k in range(config["steps"]):
                tune.report({"loss": config["x"] / (1 + k)})

        if __name__ == "__main__":
            args = argparse.ArgumentParser()
            args.add_argument("--smoke", action="store_true")
            told = args.parse_args()
            ray.init(num_cpus=2)
            print("words")
            tuner = tune.Tuner(
                tune.with_resources(train, {"cpu": 1}),
                param_space={"x": tune.uniform(0, 1), "steps": 2 if told.smoke else 5,
                             "a": tune.grid_search(["p", "q"])},
                tune_config=tune.TuneConfig(metric="loss", mode="min", num_samples=3),
                run_config=tune.RunConfig(stop={"training_iteration": 4}),
            )
            tuner.fit()
            open("never", "w")
    """)
    made = run()
    assert not Path("never").exists()
    for row in trials(made.store):
        assert (row["state"], row["steps"]) == ("complete", 4) and row["config.steps"] == 5
    source = known.source_of(made.settings.paper)
    assert source is not None and source.found["metric"] == "loss"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def train(config): pass", "has no param_space; say param_space = {.*@fairsweep.trainable"),
        ("def train(config): pass\nspace = {'x': tune.randn()}", "tune.randn has no ends"),
        (
            "def train(config): pass\nspace = {'x': tune.uniform(0, 1)}",
            "metric is missing: .*metric=NAME mode=min",
        ),
        (
            "def train(config, data): pass\nspace = {'x': tune.uniform(0, 1)}",
            r"takes \(config, data\): .*with_parameters",
        ),
        (
            "def train(config): tune.report(loss=1)",
            r"tune.report\(loss=\.\.\.\) \(train.py, line 4\): takes a dict",
        ),
        (
            "from ray.air import session\ndef train(config): pass",
            r"ray.air \(train.py, line 4\): not of Tune in Ray 2.60",
        ),
        (
            "from ray import train as t, train\ndef train_(config): train.report({})\ntrain = train_",
            "train.report .*write",
        ),
        ("class train(tune.Trainable): pass\nspace = {'x': tune.uniform(0, 1)}", "metric is missing"),
    ],
)
def test_what_cannot_be_run_is_one_line(folder: Path, text: str, words: str) -> None:
    write(text)
    import re

    assert re.search(words, refused())


def test_a_class_that_never_ends_needs_to_be_told_when(folder: Path) -> None:
    write(
        "class train(tune.Trainable):\n    def step(self): return {'x': 1}\n\nspace = {'x': tune.uniform(0, 1)}\n"
    )
    assert "a class trainable ends when it is told to: say budget.steps=N" in refused("metric=x", "mode=min")


def test_population_based_trainings_ranges_are_the_space() -> None:
    scheduler = tune.schedulers.PopulationBasedTraining(
        metric="a", mode="max", hyperparam_mutations={"lr": tune.uniform(0, 1), "n": [1, 2]}
    )
    told = {"param_space": {"lr": 0.1, "k": 3}, "tune_config": tune.TuneConfig(scheduler=scheduler)}
    found = finding.told_by(told)
    assert (
        found["space"]["lr"]["high"] == 1.0
        and found["space"]["n"]["choices"] == [1, 2]
        and found["space"]["k"] == 3
    )
    assert "scheduler" in found["notes"][0]


def test_info_and_space_show_it(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapt, "ADAPTERS", [a for a in adapt.ADAPTERS if a is not adapter.adapter])
    write("""
        def train(config): pass

        tuner = tune.Tuner(train, param_space={"net": {"lr": tune.uniform(0, 1)}},
                           tune_config=tune.TuneConfig(metric="loss", mode="min"))
    """)
    assert run_cli(["info", "train.py:tuner"]) == 0
    assert "net.lr" in capsys.readouterr().out
