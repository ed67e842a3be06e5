"""Search spaces: every refusal, every conversion, and properties over random spaces."""

from __future__ import annotations

import functools
import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import optuna
import pyarrow as pa
import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import HealthCheck, assume, given, settings

from fairsweep.search_spaces import _yaml
from fairsweep.search_spaces import space as spaces
from fairsweep.search_spaces.space import SEARCHED, Parameter, Space, SpaceError

FAST = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
FILE = """
# Three kinds, a group and a condition.
model: {type: categorical, choices: [dagnn, gcn, appnp], paper: dagnn, value: dagnn, help: "which method"}
alpha: {type: float, low: 0.05, high: 0.5, paper: 0.1, when: {model: [appnp, gcn]}}
K: {type: int, low: 1, high: 64, log: true, paper: {default: 10, pubmed: 20}}
lr: {type: float, low: 1e-3, high: 5e-2, log: true, paper: 1e-2}
width: {type: int, low: 16, high: 250, step: 16, paper: 64}
decay: {type: boolean, paper: true}
weight_decay: {type: float, low: 1.0e-5, high: 5.0e-2, log: true, paper: 5.0e-3, when: {decay: true}}
momentum: 0.9
norm: layer
schedule:
  warmup: {type: int, low: 0, high: 5, paper: 0}
  cosine: {restart: {type: boolean, paper: false, when: {decay: true, schedule.warmup: [0, 1]}}}
"""


@pytest.fixture
def example(tmp_path: Path) -> Space:
    path = tmp_path / "example.yaml"
    path.write_text(FILE)
    return Space.from_file(path)


def refusal(call: Any) -> str:
    with pytest.raises(SpaceError) as caught:
        call()
    message = str(caught.value)
    assert len(message.splitlines()) == 1, message
    return message


# -- reading ------------------------------------------------------------------------------------------


def test_a_file_is_read_into_typed_parameters(example: Space) -> None:
    p = example.parameters
    assert example.name == "example" and example.source.endswith("example.yaml")
    assert list(p) == [
        "model", "alpha", "K", "lr", "width", "decay", "weight_decay", "momentum", "norm",
        "schedule.warmup", "schedule.cosine.restart",
    ]  # fmt: skip
    assert p["lr"] == Parameter("lr", "float", 0.001, 0.05, log=True, paper={"default": 0.01})
    assert type(p["lr"].low) is float and p["lr"].value is SEARCHED and not p["lr"].fixed
    assert p["K"].paper == {"default": 10, "pubmed": 20}
    assert p["width"].high == 240  # 250 is not reached by steps of 16 from 16
    assert p["model"].value == "dagnn" and p["model"].help == "which method"
    assert p["alpha"].when == {"model": ("appnp", "gcn")}
    assert p["momentum"] == Parameter("momentum", "float", value=0.9)
    assert p["norm"].kind == "categorical" and p["norm"].value == "layer"


def test_the_papers_configuration(example: Space) -> None:
    config = example.paper_config()
    assert config == {
        "model": "dagnn", "K": 10, "lr": 0.01, "width": 64, "decay": True, "weight_decay": 0.005,
        "momentum": 0.9, "norm": "layer", "schedule.warmup": 0, "schedule.cosine.restart": False,
    }  # fmt: skip
    assert example.paper_config("pubmed") == {**config, "K": 20}
    assert example.paper_config("cora") == config


def test_a_range_ends_where_the_data_set_does() -> None:
    k = {**I, "high": {"default": 9, "digits": 7, "iris": 3}}
    space = Space.from_mapping({"k": k, "x": F}, source="paper.yaml")
    assert space.parameters["k"].high == 9
    on_digits = space.for_data("digits")
    assert (on_digits.parameters["k"].high, on_digits.parameters["x"]) == (7, space.parameters["x"])
    drawn = {on_digits.sample(np.random.default_rng(seed))["k"] for seed in range(100)}
    assert drawn == set(range(1, 8))
    assert space.for_data("another").parameters["k"].high == 9
    assert Space.from_mapping(space.to_mapping(), source="paper.yaml") == space


def test_a_users_high_stands_in_the_place_of_that_of_the_data_set() -> None:
    k = {**I, "high": {"default": 9, "digits": 7}}
    space = Space.from_mapping({"k": k}, source="paper.yaml")
    narrowed = Space.from_mapping({"k": {**k, "high": 8}}, source="paper.yaml", declared=space)
    assert narrowed.for_data("digits").parameters["k"].high == 8
    late = Space.from_mapping({"k": {**k, "low": 8}}, source="paper.yaml", declared=space)
    assert late.for_data("another").parameters["k"].low == 8
    message = refusal(lambda: late.for_data("digits"))
    assert message == "paper.yaml: k.low=8: must be below 7, where data=digits ends"


def test_what_is_fixed_may_differ_by_data_set() -> None:
    k = {**I, "value": {"default": 4, "cifar": 9}}
    space = Space.from_mapping({"k": k, "x": F}, source="paper.yaml")
    assert [space.paper_config(data)["k"] for data in (None, "cifar", "other")] == [4, 9, 4]
    assert (
        space.for_data("cifar").parameters["k"].value == 9
        and space.for_data("other").parameters["k"].value == 4
    )
    assert space.fill({}, "cifar")["k"] == 9
    assert Space.from_mapping(space.to_mapping(), source="paper.yaml") == space
    for mine in (5, {**k, "value": 5}):
        changed = Space.from_mapping({"k": mine, "x": F}, source="paper.yaml", declared=space)
        assert changed.for_data("cifar").parameters["k"].value == 5, "a user's value is for every data set"
    free = Space.from_mapping({"k": {**k, "value": None}, "x": F}, source="paper.yaml", declared=space)
    assert (
        not free.for_data("cifar").parameters["k"].fixed and not space.freed({"k": 1}).parameters["k"].fixed
    )
    assert refusal(lambda: space.fill({"k": 4}, "cifar")).endswith("k=4: is fixed at 9")


def test_children_come_after_parents_however_they_are_written() -> None:
    child = {"type": "boolean", "paper": True, "when": {"b": True}}
    grandchild = {"type": "boolean", "paper": True, "when": {"g.c": True}}
    space = Space.from_mapping({"a": grandchild, "g": {"c": child}, "b": {"type": "boolean", "paper": True}})
    assert list(space.parameters) == ["b", "g.c", "a"]


def test_folders_can_be_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spaces, "_folders", list(spaces._folders))
    (tmp_path / "mine.yaml").write_text("x: 1")
    assert "no mine.yaml" in refusal(lambda: Space.load("mine"))
    spaces.register_folder(tmp_path)
    assert Space.load("mine").paper_config() == {"x": 1}
    assert "did you mean mine?" in refusal(lambda: Space.load("mime"))


@pytest.mark.parametrize(
    "path", sorted((Path(spaces.__file__).parent / "parameters").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_space_of_the_package_reads_and_returns(path: Path) -> None:
    space = Space.load(path.stem)
    assert Space.from_mapping(space.to_mapping(), source=space.source, name=space.name) == space
    for seed in range(20):
        config = space.sample(np.random.default_rng(seed))
        assert space.validate(config) == config
    assert space.validate(space.paper_config())


F = {"type": "float", "low": 0.0, "high": 1.0, "paper": 0.5}
I = {"type": "int", "low": 1, "high": 9, "paper": 5}  # noqa: E741
C = {"type": "categorical", "choices": ["red", "green"], "paper": "red"}
B = {"type": "boolean", "paper": True}


def without(raw: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in raw.items() if k != key}


# declaration of a space -> what the one line must contain
REFUSED: list[tuple[Any, list[str]]] = [
    (None, ["None", "must map"]),
    ([F], ["must map"]),
    ({1: F}, ["1", "name"]),
    ({True: F}, ["True", "quote"]),
    ({"a b": F}, ["'a b'", "name"]),
    ({"x": {**F, "hihg": 2}}, ["x.hihg=2", "did you mean high?"]),
    ({"x": {**C, "low": 2}}, ["x.low=2", "categorical"]),
    ({"x": {**B, "choices": [1]}}, ["x.choices=[1]", "boolean"]),
    ({"x": {**F, "type": "flaot"}}, ["x.type='flaot'", "float"]),
    ({"k": {**I, "high": {"digits": 7}}}, ["k.high.default is missing"]),
    ({"k": {**I, "value": {"cifar": 7}}}, ["k.value.default is missing"]),
    ({"k": {**I, "value": {"default": 7, "cifar": "x"}}}, ["k.value.cifar='x'", "whole number"]),
    ({"k": {**I, "high": {"default": 9, "digits": 10}}}, ["k.high.digits=10", "at most the default, 9"]),
    ({"k": {**I, "high": {"default": 9, "digits": "x"}}}, ["k.high.digits='x'", "whole number"]),
    ({"k": {**I, "high": {"default": 9, 3: 7}}}, ["k.high.3=7", "quote it"]),
    ({"k": {**I, "high": {"default": 9, "digits": 7}, "step": 2}}, ["k.step=2", "one high"]),
    ({"x": without(F, "type")}, ["x.type=None", "float"]),
    ({"x": {}}, ["x.type=None"]),
    ({"x": without(F, "low")}, ["x.low is missing"]),
    ({"x": without(I, "high")}, ["x.high is missing"]),
    ({"x": {**F, "high": None}}, ["x.high is missing"]),
    ({"x": without(C, "choices")}, ["x.choices=None", "list"]),
    ({"x": {**F, "low": True}}, ["x.low=True", "number"]),
    ({"x": {**F, "high": "much"}}, ["x.high='much'", "number"]),
    ({"x": {**F, "high": [1]}}, ["x.high=[1]", "number"]),
    ({"x": {**I, "low": 1.5}}, ["x.low=1.5", "whole number"]),
    ({"x": {**I, "high": 2**54}}, [f"x.high={2**54}", "2**53"]),
    ({"x": {**F, "high": 10**400}}, ["x.high=1000", "finite"]),
    ({"x": {**F, "high": float("nan")}}, ["x.high=nan", "finite"]),
    ({"x": {**F, "low": "-inf"}}, ["x.low='-inf'", "finite"]),
    ({"x": {**F, "low": -1.5e308, "high": 1.5e308}}, ["x.high=1.5e+308", "finite"]),
    ({"x": {**F, "low": 2.0}}, ["x.low=2.0", "high=1.0", "reversed"]),
    ({"x": {**I, "low": 9}}, ["x.low=9", "value: 9"]),
    ({"x": {**F, "log": True}}, ["x.low=0.0", "log", "above 0"]),
    ({"x": {**I, "low": -1, "log": True}}, ["x.low=-1", "above 0"]),
    ({"x": {**F, "log": "yes"}}, ["x.log='yes'", "true or false"]),
    ({"x": {**I, "log": 1}}, ["x.log=1", "true or false"]),
    ({"x": {**F, "low": 0.1, "log": True, "step": 0.1}}, ["x.step=0.1", "log"]),
    ({"x": {**I, "log": True, "step": 2}}, ["x.step=2", "log"]),
    ({"x": {**F, "step": 0}}, ["x.step=0.0", "above 0"]),
    ({"x": {**I, "step": -1}}, ["x.step=-1", "above 0"]),
    ({"x": {**I, "step": 9}}, ["x.step=9", "at most", "8"]),
    ({"x": {**I, "step": 0.5}}, ["x.step=0.5", "whole number"]),
    ({"x": {**F, "low": 1e9, "high": 1e9 + 1, "step": 1e-3}}, ["x.step=0.001", "rounding"]),
    ({"x": {**C, "choices": []}}, ["x.choices=[]", "at least one"]),
    ({"x": {**C, "choices": "red"}}, ["x.choices='red'", "list"]),
    ({"x": {**C, "choices": ["red", "red"]}}, ["x.choices='red'", "duplicate"]),
    ({"x": {**C, "choices": [1, 1.0], "paper": 1}}, ["x.choices=1.0", "duplicate of 1"]),
    ({"x": {**C, "choices": [1, True], "paper": 1}}, ["x.choices=True", "duplicate of 1"]),
    ({"x": {**C, "choices": [1, "1"], "paper": 1}}, ["x.choices=(1, '1')", "same as text"]),
    ({"x": {**C, "choices": [["red"]]}}, ["x.choices=['red']", "must be a string"]),
    ({"x": {**C, "choices": ["red", float("nan")]}}, ["x.choices=nan", "finite"]),
    ({"x": {**C, "choices": ["red", "${y}"]}}, ["x.choices='${y}'", "${"]),
    ({"x": {**C, "choices": ["red", "???"]}}, ["x.choices='???'"]),
    ({"x": {**C, "choices": ["red", "a\nb"]}}, ["x.choices='a\\nb'", "one line"]),
    ({"x": without(F, "paper")}, ["x.paper", "missing"]),
    ({"x": {**F, "paper": {"cora": 0.1}}}, ["x.paper.default", "missing"]),
    ({"x": {**F, "paper": 2}}, ["x.paper=2", "[0.0, 1.0]"]),
    ({"x": {**F, "paper": {"default": 0.5, "cora": 2}}}, ["x.paper.cora=2", "[0.0, 1.0]"]),
    ({"x": {**F, "paper": {"default": 0.5, 2020: 0.1}}}, ["x.paper.2020=0.1", "quote"]),
    ({"x": {**F, "value": 0.1, "paper": 2}}, ["x.paper=2", "[0.0, 1.0]"]),
    ({"x": {**I, "step": 2, "paper": 4}}, ["x.paper=4", "step=2"]),
    ({"x": {**C, "paper": "rde"}}, ["x.paper='rde'", "did you mean red?"]),
    ({"x": {**B, "paper": 1}}, ["x.paper=1", "true or false"]),
    ({"x": {**F, "paper": None}}, ["x.paper=None", "number"]),
    ({"x": {**F, "value": "fast"}}, ["x.value='fast'", "number"]),
    ({"x": {**I, "value": True}}, ["x.value=True", "whole number"]),
    ({"x": {**C, "value": "blue"}}, ["x.value='blue'", "red"]),
    ({"x": {**F, "help": 3}}, ["x.help=3"]),
    ({"x": {"type": "float", "value": 0.5, "log": True}}, ["x.low is missing"]),
    ({"x": None}, ["x=None", "declaration"]),
    ({"x": [1, 2]}, ["x=[1, 2]", "declaration"]),
    ({"x": float("inf")}, ["x=inf", "finite"]),
    ({"g": {"x": 1}, "g.x": 2}, ["g.x", "duplicate"]),
    ({"g": 1, "g.x": 2}, ["g.x", "duplicate", "group"]),
    ({"g": {"y": {"x": 1}}, "g.y": 2}, ["g.y", "duplicate"]),
    ({"g": {"step": 3}}, ["g.type=None"]),
    ({"g.step": 3}, ["g.step=3", "word of declarations"]),
    ({"x": {**F, "when": "y"}}, ["x.when='y'", "must map"]),
    ({"model": C, "x": {**F, "when": {"modle": "red"}}}, ["x.when.modle", "did you mean model?"]),
    ({"model": C, "x": {**F, "when": {"model": "blue"}}}, ["x.when.model='blue'", "never", "red"]),
    ({"model": C, "x": {**F, "when": {"model": ["red", "blue"]}}}, ["x.when.model='blue'", "never"]),
    ({"model": C, "x": {**F, "when": {"model": []}}}, ["x.when.model=[]"]),
    ({"b": B, "x": {**F, "when": {"b": 1}}}, ["x.when.b=1", "never", "true or false"]),
    ({"k": I, "x": {**F, "when": {"k": 10}}}, ["x.when.k=10", "never", "[1, 9]"]),
    ({"k": {**I, "step": 2}, "x": {**F, "when": {"k": 2}}}, ["x.when.k=2", "never", "step=2"]),
    ({"k": 3, "x": {**F, "when": {"k": 0.5}}}, ["x.when.k=0.5", "never", "whole number"]),
    ({"x": {**B, "when": {"x": True}}}, ["x.when.x", "x -> x"]),
    (
        {"a": {**B, "when": {"c": True}}, "b": {**B, "when": {"a": True}}, "c": {**B, "when": {"b": True}}},
        ["circle", "a -> c -> b -> a"],
    ),
    ({"d": {**B, "when": {"a": True}}, "a": {**B, "when": {"b": True}}, "b": {**B, "when": {"a": True}}},
     ["a.when.b", "circle", "a -> b -> a"]),
]  # fmt: skip


@pytest.mark.parametrize("mapping, words", REFUSED, ids=range(len(REFUSED)))
def test_a_faulty_declaration_is_refused_by_name(mapping: Any, words: list[str]) -> None:
    message = refusal(lambda: Space.from_mapping(mapping, source="paper.yaml"))
    assert message.startswith("paper.yaml: ")
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    "text, words",
    [
        ("x: 1\ny: 2\nx: 3\n", ["x", "duplicate name", "line 3"]),
        ("g:\n  x: 1\n  x: 3\n", ["x", "duplicate name", "line 3"]),
        ("x: {type: int, low: 1, low: 2}", ["low", "duplicate name"]),
        ("x: [1", ["expected"]),
        ("x: !!python/name:os.system", ["constructor"]),
        ("? [1, 2]\n: 3", ["unhashable"]),
        ("- 1", ["must map"]),
        ("", ["must map"]),
        ("yes: 1", ["true", "quote"]),
    ],
)
def test_a_faulty_file_is_refused(tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    message = refusal(lambda: Space.from_file(tmp_path / "bad.yaml"))
    assert message.startswith(str(tmp_path / "bad.yaml"))
    for word in words:
        assert word in message


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    assert "none.yaml: cannot be read" in refusal(lambda: Space.from_file(tmp_path / "none.yaml"))
    (tmp_path / "bytes.yaml").write_bytes(b"x: \xff")
    assert "bytes.yaml: cannot be read" in refusal(lambda: Space.from_file(tmp_path / "bytes.yaml"))


def test_yaml_merge_keys_still_work(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(
        "a: &a {type: float, low: 0, high: 1, paper: 0.5}\nb: {<<: *a, paper: 1.0}"
    )
    assert Space.from_file(tmp_path / "m.yaml").paper_config() == {"a": 0.5, "b": 1.0}


# -- a user's changes -----------------------------------------------------------------------------------


def changed(space: Space, **changes: Any) -> Space:
    raw = space.to_mapping()
    for path, value in changes.items():
        node, parts = raw, path.split("__")
        for part in parts[:-1]:
            node = node[part]
        node[parts[-1]] = value
    return Space.from_mapping(raw, source="trainable=example", declared=space)


def test_a_scalar_fixes_and_null_frees(example: Space) -> None:
    space = changed(example, K=5, lr="1e-1", model="appnp", momentum=0, schedule__warmup=1)
    assert space.parameters["K"].value == 5 and space.parameters["K"].low == 1
    assert space.parameters["lr"].value == 0.1  # outside the range, as a fixed value may be
    assert space.parameters["momentum"].value == 0.0
    assert space.paper_config("pubmed")["K"] == 5 and space.paper_config()["alpha"] == 0.1
    assert space.parameters["schedule.warmup"].value == 1
    assert not changed(example, model__value=None).parameters["model"].fixed
    assert changed(example, norm="batch").paper_config()["norm"] == "batch"


def test_a_narrowed_range_keeps_the_papers_value_as_it_is(example: Space) -> None:
    space = changed(example, K__high=8)
    assert space.paper_config()["K"] == 10
    assert "K=10" in refusal(lambda: space.validate(space.paper_config()))
    assert changed(example, K__high=100).parameters["K"].high == 100


# What PyYAML 6 (YAML 1.1), OmegaConf 2.3 and Hydra 1.3's overrides do not read alike, and the start of the remedy.
TWO_READINGS = {
    "on": "true", "off": "false", "yes": "true", "no": "false", "On": "true", "YES": "true", "~": "null",
    "007": "7", "00": "0", "0x1F": "31", "0b11": "3", "1__0": "10", "1:30": "90", "190:20:30.15": "685230.15",
    ".inf": "inf", "-.inf": "-inf", ".nan": "nan", "2001-01-01": "2001-01-01", "inf": None, "nan": None, "-inf": None,
}  # fmt: skip
ONE_READING = [
    "true", "True", "FALSE", "null", "Null", "1", "-1", "+1", "0", "1_000", "1_000.5", ".5", "5.", "1.0", "3.10",
    "1e5", "1E5", "1e-3", "1.e5", "1.5e3", "1e+5", "-2.5e-4", "+.5", "y", "n", "None", "08", "0o7", "a-b", "1a", "_1",
]  # fmt: skip


@pytest.mark.parametrize("word", TWO_READINGS)
def test_a_word_with_two_readings_is_refused_where_it_is_not_quoted(word: str, tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(f"x:\n  type: categorical\n  paper: mean\n  choices: [{word}, mean]\n")
    message = refusal(lambda: Space.from_file(file))
    assert f"line 4: {word}: " in message and f"quote it: '{word}'" in message
    assert TWO_READINGS[word] is None or f"write {TWO_READINGS[word]}, or" in message
    file.write_text(f"x: {{type: categorical, paper: mean, choices: ['{word}', mean]}}")
    space = Space.from_file(file)
    assert space.parameters["x"].choices == (word, "mean")
    again = Space.from_yaml(space.to_yaml())
    assert again.parameters == space.parameters


@pytest.mark.parametrize("word", ONE_READING)
def test_files_and_overrides_read_alike(word: str, tmp_path: Path) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    ours = _yaml.read(f"[{word}]", "s")[0]
    hydras = OverridesParser.create().parse_override(f"a={word}").value()
    assert (type(ours), ours) == (type(hydras), hydras)
    if word != "+.5":  # text to OmegaConf 2.3
        theirs = OmegaConf.to_container(OmegaConf.create(f"a: [{word}]"))["a"][0]  # type: ignore[call-overload, index]
        assert (type(ours), ours) == (type(theirs), theirs)
    text = _yaml.write([word])
    assert _yaml.read(text, "s") == [word]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"k": 5}, ["k=5", "did you mean K?"]),
        ({"schedule__warm": 5}, ["schedule.warm=5", "did you mean schedule.warmup"]),
        ({"K": 1.5}, ["K=1.5", "whole number"]),
        ({"K": None}, ["K=None", "whole number"]),
        ({"K__low": 100}, ["K.low=100", "reversed"]),
        ({"K__type": "float"}, ["K.type='float'", "declared as int"]),
        ({"K__paper": 100}, ["K.paper=100", "[1, 64]"]),
        ({"model": "gcnn"}, ["model='gcnn'", "did you mean gcn"]),
        ({"model__choices": ["gcn", "gat"]}, ["model.choices='gat'", "dagnn"]),
        ({"decay": "true"}, ["decay='true'", "true or false"]),
        ({"momentum": "high"}, ["momentum='high'", "number"]),
        ({"norm": 3}, ["norm=3", "string"]),
        ({"schedule": 3}, ["schedule=3", "no such parameter"]),
    ],
)
def test_a_faulty_change_is_refused(example: Space, changes: dict[str, Any], words: list[str]) -> None:
    message = refusal(lambda: changed(example, **changes))
    assert message.startswith("trainable=example: ")
    for word in words:
        assert word in message


def test_a_parameter_cannot_be_removed(example: Space) -> None:
    raw = without(example.to_mapping(), "lr")
    assert "lr: is missing" in refusal(lambda: Space.from_mapping(raw, declared=example))


def test_a_condition_on_a_changed_constant_switches_off() -> None:
    space = Space.from_mapping({"mode": "a", "x": {**F, "when": {"mode": "a"}}})
    assert space.paper_config() == {"mode": "a", "x": 0.5}
    assert changed(space, mode="b").paper_config() == {"mode": "b"}


def test_numeric_choices_can_be_extended() -> None:
    space = Space.from_mapping({"width": {"type": "categorical", "choices": [16, 32], "paper": 16}})
    assert changed(space, width__choices=[32, 64]).parameters["width"].choices == (32, 64)
    assert "width=64" in refusal(lambda: changed(space, width=64))


# -- configurations -------------------------------------------------------------------------------------


def test_values_take_their_declared_type(example: Space) -> None:
    config = {
        **example.paper_config(),
        "K": np.int64(3),
        "lr": np.float32(0.0125),
        "decay": np.True_,
        "width": 64.0,
    }
    done = example.validate(config)
    assert [type(done[n]) for n in ("K", "lr", "decay", "width")] == [int, float, bool, int]
    assert done["K"] == 3 and done["width"] == 64 and done["decay"] is True


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"KK": 3}, ["KK=3", "did you mean K?"]),
        ({"K": 0}, ["K=0", "[1, 64]"]),
        ({"K": 65}, ["K=65", "[1, 64]"]),
        ({"K": "3"}, ["K='3'", "whole number"]),
        ({"K": True}, ["K=True", "whole number"]),
        ({"K": 2.5}, ["K=2.5", "whole number"]),
        ({"lr": float("nan")}, ["lr=nan", "finite"]),
        ({"lr": None}, ["lr=None", "finite"]),
        ({"lr": [1]}, ["lr=[1]", "finite"]),
        ({"width": 65}, ["width=65", "step=16"]),
        ({"width": 256}, ["width=256", "240"]),
        ({"width": 0}, ["width=0", "step=16"]),
        ({"decay": 1}, ["decay=1", "true or false"]),
        ({"model": "gcn"}, ["model='gcn'", "fixed at 'dagnn'"]),
        ({"model": np.ones(3)}, ["model=array", "must be one of"]),
        ({"momentum": 0.8}, ["momentum=0.8", "fixed at 0.9"]),
        ({"alpha": 0.1}, ["alpha=0.1", "exists only when model=appnp or gcn"]),
        ({"decay": False}, ["weight_decay=0.005", "exists only when decay=True"]),
        ({"schedule.warmup": 2}, ["schedule.cosine.restart=False", "decay=True and schedule.warmup=0 or 1"]),
    ],
)
def test_a_faulty_configuration_is_refused(example: Space, changes: dict[str, Any], words: list[str]) -> None:
    message = refusal(lambda: example.validate({**example.paper_config(), **changes}))
    assert message.startswith(example.source)
    for word in words:
        assert word in message


def test_a_missing_parameter_is_refused(example: Space) -> None:
    assert "lr: is missing" in refusal(lambda: example.validate(without(example.paper_config(), "lr")))


def test_complete_drops_what_does_not_exist_and_refuses_what_is_unknown(example: Space) -> None:
    config = {**example.paper_config(), "decay": False, "alpha": 0.1}
    done = example.complete(without(config, "momentum"))
    assert "weight_decay" not in done and "alpha" not in done and done["momentum"] == 0.9
    assert example.validate(done) == done
    assert "lrr=1" in refusal(lambda: example.complete({**config, "lrr": 1}))


def test_a_child_of_an_inactive_parent_does_not_exist() -> None:
    space = Space.from_mapping(
        {"a": B, "b": {**B, "when": {"a": True}}, "c": {**F, "when": {"b": True}}},
    )
    assert space.complete({"a": False, "b": True, "c": 0.5}) == {"a": False}
    assert space.grid_size(2) == 1 + 1 + 2 == len(list(space.grid(2)))


def test_grid_points_are_spaced_on_the_declared_scale(example: Space) -> None:
    p = example.parameters
    assert p["lr"].points(3) == pytest.approx([0.001, 0.05**0.5 * 0.001**0.5, 0.05])
    assert p["lr"].points(3)[-1] == 0.05 and p["lr"].points(1) == [0.001]
    assert p["K"].points(4) == [1, 4, 16, 64]
    assert p["width"].points(3) == [16, 128, 240]
    assert p["schedule.warmup"].points(50) == [0, 1, 2, 3, 4, 5]
    assert p["model"].points(3) == ["dagnn"] and p["decay"].points(1) == [False, True]
    assert "points=0" in refusal(lambda: list(example.grid(0)))


def test_draws_fill_the_declared_scale() -> None:
    space = Space.from_mapping(
        {
            "lin": F,
            "log": {"type": "float", "low": 1e-4, "high": 1.0, "log": True, "paper": 0.1},
            "whole": {"type": "int", "low": 1, "high": 100, "log": True, "paper": 1},
            "die": {"type": "int", "low": 1, "high": 6, "paper": 1},
            "grid": {**F, "high": 0.3, "step": 0.1, "paper": 0.1},
        }
    )
    rng = np.random.default_rng(0)
    drawn = [space.sample(rng) for _ in range(4000)]
    share = {name: np.array([d[name] for d in drawn]) for name in space.parameters}
    assert abs((share["lin"] < 0.25).mean() - 0.25) < 0.03
    assert abs((share["log"] < 0.01).mean() - 0.5) < 0.03
    # P(k <= 10) on the log axis with half a unit at both ends: log(10.5/0.5) / log(100.5/0.5).
    assert abs((share["whole"] <= 10).mean() - np.log(21) / np.log(201)) < 0.03
    assert all(abs((share["die"] == k).mean() - 1 / 6) < 0.03 for k in range(1, 7))
    assert sorted(set(share["grid"])) == [0.0, 0.1, 0.2, 0.3]
    assert space.sample(np.random.default_rng(7)) == space.sample(np.random.default_rng(7))


# -- other tools ----------------------------------------------------------------------------------------


def test_arrow_columns_are_typed(example: Space) -> None:
    space = Space.from_mapping(
        {**example.to_mapping(), **{
            "ints": {"type": "categorical", "choices": [1, 2, None], "paper": 1},
            "floats": {"type": "categorical", "choices": [1, 2.5], "paper": 1},
            "mixed": {"type": "categorical", "choices": [1, "auto"], "paper": 1},
            "flags": {"type": "categorical", "choices": [True, None], "paper": True},
        }}
    )  # fmt: skip
    types = {field.name: field.type for field in space.arrow_fields()}
    assert types["config.lr"] == pa.float64() and types["config.K"] == pa.int64()
    assert types["config.decay"] == pa.bool_() and types["config.model"] == pa.string()
    assert types["config.ints"] == pa.int64() and types["config.floats"] == pa.float64()
    assert types["config.mixed"] == pa.string() and types["config.flags"] == pa.bool_()
    assert all(field.nullable for field in space.arrow_fields())
    assert space.arrow_value("mixed", 1) == "1" and space.arrow_value("floats", 1) == 1.0
    assert space.arrow_value("ints", None) is None


def test_wandb_sweep_of_the_example(example: Space) -> None:
    sweep = example.to_wandb("val_acc", "max", method="random", prefix="space.")
    assert sweep["metric"] == {"name": "val_acc", "goal": "maximize"} and sweep["method"] == "random"
    assert "trainable=example" in sweep["command"] and sweep["command"][-1] == "${args_no_hyphens}"
    p = sweep["parameters"]
    assert "space.model" not in p, "is fixed"
    assert p["space.decay"] == {"values": [False, True]}
    assert p["space.K"] == {"distribution": "q_log_uniform_values", "min": 1, "max": 64, "q": 1}
    assert p["space.lr"] == {"distribution": "log_uniform_values", "min": 0.001, "max": 0.05}
    assert p["space.width"] == {"distribution": "q_uniform", "min": 16, "max": 240, "q": 16}
    assert p["space.schedule.warmup"] == {"distribution": "int_uniform", "min": 0, "max": 5}
    odd = Space.from_mapping({"x": {**I, "step": 2}})
    assert odd.to_wandb("m", "min")["parameters"]["x"] == {"values": [1, 3, 5, 7, 9]}
    assert odd.to_wandb("m", "min", program="t.py", command=["a"])["program"] == "t.py"


def test_what_wandb_cannot_express_is_refused(example: Space) -> None:
    assert "mode='up'" in refusal(lambda: example.to_wandb("m", "up"))
    assert "method='bayesian'" in refusal(lambda: example.to_wandb("m", "min", method="bayesian"))
    message = refusal(lambda: example.to_wandb("m", "min", method="grid"))
    assert message.startswith(example.source) and "step" in message
    assert "no parameters" in refusal(lambda: Space.from_mapping({}).to_wandb("m", "min"))
    many = Space.from_mapping({"x": {"type": "int", "low": 1, "high": 10**6, "step": 7, "paper": 1}})
    assert "x.low=1" in refusal(lambda: many.to_wandb("m", "min"))


def test_spaces_travel_to_other_processes(example: Space) -> None:
    copy = pickle.loads(pickle.dumps(example))
    assert copy == example and copy.parameters["lr"].value is SEARCHED


# -- random spaces --------------------------------------------------------------------------------------

WORDS = st.sampled_from(["a", "b", "lr", "K", "x_1", "w-d", "value", "step", "on", "type_"])
TEXT = st.text(st.characters(codec="utf-8"), max_size=6) | st.sampled_from(
    [
        "null",
        "True",
        "1",
        "1e-3",
        "a'b",
        'a"b',
        "\\",
        "a\\'",
        "\\\\'",
        " x ",
        "a,b",
        "[a]",
        "{a: b}",
        "a=b",
        "$x",
        "é",
    ]
)
CHOICES = st.one_of(
    TEXT.filter(lambda t: t.isprintable() and "${" not in t and t != "???"),
    st.integers(-(2**53), 2**53),
    st.floats(-1e9, 1e9, allow_subnormal=False),
    st.booleans(),
    st.none(),
)


@st.composite
def numbers(draw: st.DrawFn, kind: str) -> tuple[dict[str, Any], list[Any]]:
    """A numeric domain and a few values inside it."""
    scale = draw(st.sampled_from(["linear", "log", "step"]))
    if scale == "step":
        # Decimal literals, as people write them: 0.3 is three steps of 0.1 though 3 * 0.1 is not 0.3.
        digits = 1 if kind == "int" else draw(st.sampled_from([1, 10, 100, 1000]))
        low, step = draw(st.integers(-200, 200)), draw(st.integers(1, 40))
        last, rest = draw(st.integers(1, 30)), draw(st.integers(0, step - 1))
        numerals = [low, low + last * step + rest, step, *(low + k * step for k in (0, last, last // 2))]
        low_, high_, step_, *inside = numerals if kind == "int" else [n / digits for n in numerals]
        return {"low": low_, "high": high_, "step": step_}, inside
    if kind == "int":
        low = draw(st.integers(1, 500) if scale == "log" else st.integers(-(2**52), 2**52))
        high = low + draw(st.integers(1, 1000) | st.integers(1, 2**52))
        inside = [low, high, (low + high) // 2]
    else:
        tail = st.floats(1e-12, 1e12, allow_subnormal=False)
        low = draw(tail if scale == "log" else st.floats(-1e12, 1e12, allow_subnormal=False))
        high = draw((tail if scale == "log" else st.floats(-1e12, 1e12)).filter(lambda h: h > low))
        inside = [low, high]
    if draw(st.integers(0, 3)) == 0:
        high = {"default": high, "digits": draw(st.sampled_from(inside))}
    return {"low": low, "high": high, "log": scale == "log"}, inside


@st.composite
def parameters(draw: st.DrawFn) -> tuple[Any, list[Any]]:
    """A declaration without conditions, and values that its parameter can take."""
    kind = draw(st.sampled_from(["float", "int", "categorical", "boolean", "scalar"]))
    if kind == "scalar":
        value = draw(CHOICES.filter(lambda c: c is not None))
        return value, [value]
    raw: dict[str, Any] = {"type": kind}
    if kind == "boolean":
        inside: list[Any] = [True, False]
    elif kind == "categorical":
        inside = draw(st.lists(CHOICES, min_size=1, max_size=5, unique_by=(str, lambda c: c)))
        raw["choices"] = inside
    else:
        domain, inside = draw(numbers(kind))
        raw |= domain
    raw["paper"] = draw(st.sampled_from(inside))
    if draw(st.booleans()):
        raw["paper"] = {"default": raw["paper"], "cora": draw(st.sampled_from(inside))}
    if draw(st.integers(0, 3)) == 0:
        raw["value"] = draw(st.sampled_from(inside))
        if raw["value"] is None and kind != "categorical":
            del raw["value"]
    return raw, inside


@st.composite
def random_spaces(draw: st.DrawFn) -> Space:
    names = draw(
        st.lists(st.lists(WORDS, min_size=1, max_size=3).map(".".join), min_size=1, max_size=7, unique=True)
    )
    names = [n for n in names if not {"value", "step"} & set(n.split(".")[1:])]
    names = [n for n in names if not any(other.startswith(f"{n}.") for other in names)]
    assume(names)
    flat: dict[str, Any] = {}
    inside: dict[str, list[Any]] = {}
    for name in names:
        flat[name], inside[name] = draw(parameters())
        if flat and isinstance(flat[name], dict) and draw(st.booleans()):
            parents = draw(st.lists(st.sampled_from(list(flat)), max_size=2, unique=True))
            when = {
                p: draw(st.lists(st.sampled_from(inside[p]), min_size=1, max_size=2))
                for p in parents
                if p != name
            }
            flat[name]["when"] = {p: v[0] if len(v) == 1 else v for p, v in when.items()}
    nested: dict[str, Any] = {}
    for name in draw(st.permutations(list(flat))):
        node = nested
        *groups, last = name.split(".")
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = flat[name]
    return Space.from_mapping(nested, source="random", name="random")


def same_config(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a == b and all(type(a[k]) is type(b[k]) for k in a)


@FAST
@given(random_spaces(), st.integers(0, 2**32 - 2))
def test_samples_and_suggestions_validate(space: Space, seed: int) -> None:
    config = space.sample(np.random.default_rng(seed))
    assert same_config(space.validate(config), config)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # Optuna warns of values outside its range
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        trial = study.ask()
        suggested = space.suggest(trial)
        assert same_config(space.suggest(optuna.trial.FixedTrial(space.suggestable(config))), config)
    assert same_config(space.validate(suggested), suggested)
    assert space.suggestable(suggested) == trial.params
    paper = space.paper_config("cora")
    assert same_config(space.validate(paper), paper)


@FAST
@given(random_spaces(), st.integers(0, 2**32 - 2), st.floats(0.0, 1.0))
def test_numbers_return_from_the_unit_interval(space: Space, seed: int, u: float) -> None:
    config = space.sample(np.random.default_rng(seed))
    for name, value in space.suggestable(config).items():
        p = space.parameters[name]
        assert p.middle == p.check(p.middle)
        if p.kind in ("float", "int") and p.low != p.high:
            at = p.unit(value)
            assert -1e-9 <= at <= 1 + 1e-9
            assert p.at_unit(at) == (value if p.kind == "int" else pytest.approx(value, rel=1e-6, abs=1e-300))
            assert same_config({name: p.check(p.at_unit(u))}, {name: p.at_unit(u)})


@FAST
@given(random_spaces(), st.integers(0, 2**32 - 2))
def test_distributions_are_those_searched_and_hold_the_samples(space: Space, seed: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Optuna warns when it has to change a declared range
        distributions = space.distributions()
    assert list(distributions) == [n for n, p in space.parameters.items() if p.value is SEARCHED]
    searched = space.suggestable(space.sample(np.random.default_rng(seed)))
    for name, value in searched.items():
        assert distributions[name]._contains(distributions[name].to_internal_repr(value))
    trial = optuna.trial.create_trial(
        value=0.0, params=searched, distributions={n: distributions[n] for n in searched}
    )
    assert trial.params == searched


@FAST
@given(random_spaces(), st.integers(0, 2**32 - 2))
def test_hydra_reads_overrides_back_to_the_same_configuration(space: Space, seed: int) -> None:
    config = space.sample(np.random.default_rng(seed))
    raw = space.to_mapping()
    parser = OverridesParser.create()
    for override in map(parser.parse_override, space.overrides(config)):
        node = raw
        prefix, *groups, last = override.key_or_group.split(".")
        assert prefix == "space" and not override.is_sweep_override()
        for group in groups:
            node = node[group]
        node[last] = override.value()
    fixed = Space.from_mapping(raw, declared=space)
    assert all(fixed.parameters[name].fixed for name in config)
    assert same_config(fixed.paper_config(), config)
    assert same_config(fixed.sample(np.random.default_rng(seed + 1)), config)


@FAST
@given(random_spaces())
def test_mappings_and_yaml_read_back_equal(space: Space) -> None:
    for raw in (
        space.to_mapping(),
        yaml.safe_load(space.to_yaml()),
        json.loads(json.dumps(space.to_mapping())),
    ):
        copy = Space.from_mapping(raw, source="random", name="random")
        assert copy == space and list(copy.parameters) == list(space.parameters)
    assert Space.from_mapping(space.to_mapping(), source="random", declared=space) == space


def test_a_parent_inside_a_group_does_not_part_the_group() -> None:
    space = Space.from_mapping(
        {"b": {"type": "boolean", "paper": True, "when": {"lr.b": 1}}, "lr": {"b": 1, "a": 2}}
    )
    assert list(space.parameters) == ["lr.b", "lr.a", "b"]
    assert list(Space.from_mapping(space.to_mapping()).parameters) == ["lr.b", "lr.a", "b"]


@FAST
@given(random_spaces(), st.integers(0, 2**32 - 2))
def test_arrow_columns_hold_the_values(space: Space, seed: int) -> None:
    config = space.sample(np.random.default_rng(seed))
    row = {f"config.{n}": space.arrow_value(n, v) for n, v in config.items()}
    table = pa.Table.from_pylist([row], schema=pa.schema(space.arrow_fields()))
    [back] = table.to_pylist()
    for name, parameter in space.parameters.items():
        found = back[f"config.{name}"]
        if name not in config or config[name] is None:
            assert found is None
        elif len({type(c) for c in parameter.choices if c is not None}) > 1 and isinstance(found, str):
            assert found == str(config[name])
        else:
            assert found == config[name]


@FAST
@given(random_spaces(), st.integers(1, 3))
def test_grids_are_valid_unique_and_of_the_stated_size(space: Space, points: int) -> None:
    size = space.grid_size(points)
    assume(size <= 1500)
    configs = list(space.grid(points))
    assert len(configs) == size
    assert len({json.dumps(c) for c in configs}) == size
    for config in configs:
        assert same_config(space.validate(config), config)


# -- W&B ------------------------------------------------------------------------------------------------


@functools.lru_cache(1)
def wandb_schema() -> dict[str, Any]:
    """W&B's own JSON schema of a sweep. Its package pins an old numpy, so only this file is fetched."""
    from fairsweep.trainables.base import DataError
    from fairsweep.trainables.datasets.fetch import wheel_member

    checksum = "c5976c858506ed6a78c3841c1a762b8e5fcff6e8ce9aff306175d7273651cbd9"
    try:
        return json.loads(wheel_member("sweeps", "sweeps==0.3.0", "sweeps/config/schema.json", checksum))
    except DataError as error:
        pytest.skip(str(error))


def agents_values(entry: dict[str, Any], u: float) -> Any:
    """What W&B's agent would pass for a point u of [0, 1], by W&B's documentation of each distribution."""
    if "value" in entry:
        return entry["value"]
    if "values" in entry:
        return entry["values"][min(int(u * len(entry["values"])), len(entry["values"]) - 1)]
    low, high, kind = entry["min"], entry["max"], entry["distribution"]
    if kind == "int_uniform":
        return min(low + int(u * (high - low + 1)), high)
    if "log" in kind:
        drawn = float(np.clip(np.exp(np.log(low) + u * (np.log(high) - np.log(low))), low, high))
    else:
        drawn = min(low + u * (high - low), high)  # u = 1 may round past the end
    return float(np.round(drawn / entry["q"]) * entry["q"]) if "q" in entry else drawn


@FAST
@given(space=random_spaces(), data=st.data())
def test_wandb_sweeps_are_valid_and_their_values_return(space: Space, data: st.DataObject) -> None:
    import jsonschema

    assume(not all(p.fixed for p in space.parameters.values()))
    sweep = space.to_wandb("val_loss", "min")
    jsonschema.validate(sweep, wandb_schema())
    jsonschema.validate(json.loads(json.dumps(yaml.safe_load(yaml.safe_dump(sweep)))), wandb_schema())
    assert set(sweep["parameters"]) == {name for name, p in space.parameters.items() if not p.fixed}
    points = st.floats(0, 1) | st.sampled_from([0.0, 1.0])
    agent = {name: agents_values(entry, data.draw(points)) for name, entry in sweep["parameters"].items()}
    config = space.validate(space.complete(agent))
    assert all(config[name] == pytest.approx(agent[name]) for name in config if name in agent)


@FAST
@given(space=random_spaces(), data=st.data())
def test_the_words_of_a_wandb_agent_fix_its_configuration(space: Space, data: st.DataObject) -> None:
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    assume(not all(p.fixed for p in space.parameters.values()))
    sweep = space.to_wandb("val_loss", "min", prefix="space.")
    points = st.floats(0, 1)
    agent = {name: agents_values(entry, data.draw(points)) for name, entry in sweep["parameters"].items()}
    words = create_sweep_command_args({"args": {n: {"value": v} for n, v in agent.items()}})[
        "args_no_hyphens"
    ]
    parser = OverridesParser.create()
    raw = space.to_mapping()
    for override in map(parser.parse_override, words):
        _, *groups, last = override.key_or_group.split(".")
        node = raw
        for group in groups:
            node = node[group]
        node[last] = override.value()
    fixed = Space.from_mapping(raw, declared=space)
    config = fixed.paper_config()
    assert same_config(fixed.validate(config), config)
    for name, value in config.items():
        parameter = space.parameters[name]
        if parameter.fixed:
            assert value == parameter.value
            continue
        entry = sweep["parameters"][f"space.{name}"]
        if parameter.kind == "categorical":
            assert value is parameter.choices[entry["values"].index(agent[f"space.{name}"])]
        else:
            assert value == pytest.approx(agent[f"space.{name}"])


# -- nothing but SpaceError ------------------------------------------------------------------------------

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["type", "low", "high", "log", "step", "choices", "paper", "value", "when", "help", "x", "default"]
        )
        | st.text(max_size=3) | st.integers(),
        inner, max_size=6,
    ),
    max_leaves=12,
)  # fmt: skip


@settings(FAST, max_examples=250)
@given(st.dictionaries(st.sampled_from(["x", "y", "g.z"]) | st.text(max_size=2), JUNK, max_size=3), JUNK)
def test_junk_is_refused_in_one_line_or_read(mapping: Any, extra: Any) -> None:
    typed = {
        "t": {"type": "float", "low": 0, "high": 1, "paper": 0.5, "value": extra},
        "k": {**F, "step": extra},
    }
    for raw in (mapping, extra, typed):
        try:
            space = Space.from_mapping(raw)
        except SpaceError as error:
            assert len(str(error).splitlines()) == 1
        else:
            assert space.sample(np.random.default_rng(0)) is not None


@settings(FAST, max_examples=150)
@given(random_spaces(), JUNK, st.integers(0, 99))
def test_junk_in_a_configuration_is_refused_in_one_line(space: Space, junk: Any, seed: int) -> None:
    config = space.sample(np.random.default_rng(seed))
    for name in [*config, "no such name"]:
        try:
            assert name in space.validate({**config, name: junk})
        except SpaceError as error:
            assert len(str(error).splitlines()) == 1
