"""A space of architectures as a space of hyperparameters: Optuna, Hydra, W&B, Arrow and YAML say the same."""

from __future__ import annotations

import json
import warnings

import hypothesis.strategies as st
import numpy as np
import optuna
import pyarrow as pa
import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import HealthCheck, given, settings

from fairsweep.search_spaces.architectures import (
    ArchitectureError,
    ArchitectureSpace,
    create_space,
    kinds,
    sizes,
)
from fairsweep.search_spaces.architectures.cell import OPERATIONS, CellSpace
from fairsweep.search_spaces.architectures.chain import ChainSpace
from fairsweep.search_spaces.architectures.mbconv import MBConvSpace
from fairsweep.search_spaces.space import Space

FAST = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
named = st.sampled_from([create_space(kind, size) for kind in kinds() for size in sizes(kind)])
operations = st.lists(st.sampled_from(OPERATIONS[1:]), min_size=1, unique=True).map(tuple)
spaces = st.one_of(
    named,
    st.builds(CellSpace, st.integers(2, 5), operations, st.booleans()),
    st.builds(ChainSpace, st.integers(1, 12)),
    st.builds(MBConvSpace, st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)),
)
seeds = st.integers(0, 2**32 - 1)


@FAST
@given(spaces, seeds)
def test_configurations_are_architectures(space: ArchitectureSpace, seed: int) -> None:
    converted = space.to_space()
    assert converted.name == space.kind and list(converted.parameters) == [c.name for c in space.choices]
    config = space.options(space.sample(seed))
    assert converted.validate(config) == config
    drawn = space.from_options(converted.sample(np.random.default_rng(seed)))
    assert space.options(drawn) == converted.validate(space.options(drawn))
    assert converted.grid_size() == space.size


@FAST
@given(spaces, seeds)
def test_optuna_has_the_same_choices(space: ArchitectureSpace, seed: int) -> None:
    converted = space.to_space()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distributions = converted.distributions()
    for choice in space.choices:
        assert distributions[choice.name] == optuna.distributions.CategoricalDistribution(choice.options)
    a = space.sample(seed)
    trial = optuna.trial.create_trial(value=0.0, params=space.options(a), distributions=distributions)
    assert space.from_options(trial.params) == a
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    suggested = space.from_options(converted.suggest(study.ask()))
    assert space.options(suggested) == converted.validate(space.options(suggested))


@FAST
@given(spaces, seeds)
def test_hydra_words_arrow_rows_and_yaml_read_back(space: ArchitectureSpace, seed: int) -> None:
    converted, a = space.to_space(), space.sample(seed)
    config = space.options(a)
    parser = OverridesParser.create()
    words = [parser.parse_override(word) for word in converted.overrides(config)]
    assert space.from_options({w.key_or_group.removeprefix("space."): w.value() for w in words}) == a
    schema = pa.schema(converted.arrow_fields())
    assert set(schema.types) == {pa.string()}
    row = {f"config.{name}": converted.arrow_value(name, value) for name, value in config.items()}
    [back] = pa.Table.from_pylist([row], schema=schema).to_pylist()
    assert space.from_options({name.removeprefix("config."): value for name, value in back.items()}) == a
    read = yaml.safe_load(converted.to_yaml())
    assert Space.from_mapping(read, source=space.id, name=space.kind) == converted
    assert json.loads(json.dumps(converted.to_mapping())) == read


@FAST
@given(spaces, st.data())
def test_wandb_sweeps_offer_the_same_choices(space: ArchitectureSpace, data: st.DataObject) -> None:
    sweep = yaml.safe_load(yaml.safe_dump(space.to_space().to_wandb("val_accuracy", "max", "grid")))
    assert f"trainable={space.kind}" in sweep["command"]
    offered = {
        name: entry["values"] if "values" in entry else [entry["value"]]
        for name, entry in sweep["parameters"].items()
    }
    assert offered == {choice.name: list(choice.options) for choice in space.choices}
    agent = {name: data.draw(st.sampled_from(values)) for name, values in offered.items()}
    assert space.options(space.from_options(agent)) == agent


def test_a_search_may_propose_what_is_no_network() -> None:
    space = create_space("cell")
    config = {choice.name: "none" for choice in space.choices}
    assert space.to_space().validate(config) == config
    with pytest.raises(ArchitectureError, match="not a valid network"):
        space.check(space.from_options(config))
