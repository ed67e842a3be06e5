"""Sweeps for W&B, read by W&B's own scheduler (wandb 0.31, `wandb sweep-scheduler` with the engine optuna)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import optuna
import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from fairsweep.cluster import config
from fairsweep.cluster.cli import run_cli
from fairsweep.cluster.commands.runs import _fixed as fixed
from fairsweep.search_spaces.space import Space
from fairsweep.trainables import catalog

scheduler = pytest.importorskip("wandb.sdk.sweeps.scheduler.optuna", exc_type=ImportError)


def on_a_grid(distribution: optuna.distributions.BaseDistribution) -> list[Any] | None:
    """The values that a distribution can take, low to high, if they are spaced evenly."""
    if isinstance(distribution, optuna.distributions.CategoricalDistribution):
        return list(distribution.choices)
    step = getattr(distribution, "step", None)
    if not step or distribution.log:  # type: ignore[attr-defined]
        return None
    count = math.floor((distribution.high - distribution.low) / step + 1e-9) + 1  # type: ignore[attr-defined]
    return [distribution.low + k * step for k in range(count)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("slug", sorted(set(catalog.slugs()) & set(catalog._modules())))
def test_wandbs_optuna_scheduler_reads_the_distributions_that_we_export(slug: str) -> None:
    """The same order of choices too: Optuna takes another order for another space, and learns nothing across."""
    space = Space.load(slug)
    sweep = yaml.safe_load(yaml.safe_dump(space.to_wandb("val", "min")))
    theirs = scheduler.search_space_from_sweep_config(sweep["parameters"])
    assert theirs == space.distributions()


@pytest.mark.parametrize("slug", sorted(set(catalog.slugs()) & set(catalog._modules())))
def test_what_the_command_line_says_to_wandb_and_to_optuna_is_the_same(
    slug: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(["space", slug, "--to", "wandb"]) == 0
    sweep = yaml.safe_load(capsys.readouterr().out)
    assert run_cli(["space", slug, "--to", "optuna"]) == 0
    theirs = scheduler.search_space_from_sweep_config(sweep["parameters"])
    said = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert {name: str(distribution) for name, distribution in theirs.items()} == said
    assert {"tracking=wandb", "tracking.mode=online", f"trainable={slug}"} <= set(sweep["command"])


def test_a_grid_between_multiples_of_its_step_is_listed() -> None:
    """W&B's own grid cannot begin between two multiples of the step."""
    space = Space.from_mapping({"x": {"type": "float", "low": 0.1, "high": 0.9, "step": 0.2, "paper": 0.5}})
    theirs = scheduler.search_space_from_sweep_config(space.to_wandb("val", "min")["parameters"])
    assert np.allclose(on_a_grid(theirs["x"]), on_a_grid(space.distributions()["x"]))


@pytest.mark.parametrize("slug", sorted(set(catalog.slugs()) & set(catalog._modules())))
def test_what_an_agent_passes_comes_back_as_it_was(slug: str) -> None:
    """Values of every parameter, also of those that do not exist then, by the words of W&B's own agent."""
    space = Space.load(slug).for_data(catalog.get(slug).datasets[0])
    sweep = space.to_wandb("val", "min")
    assert sweep["command"][-2:] == ["--fix", "${args_json}"]
    drawn = {name: p.draw(np.random.default_rng(1)) for name, p in space.parameters.items() if not p.fixed}
    words = create_sweep_command_args({"args": {name: {"value": value} for name, value in drawn.items()}})
    settings = config.load([f"trainable={slug}", "budget.trials=1", *fixed(words["args_json"][0])])
    found = settings.space.paper_config(settings.paper.datasets[0])
    assert found == space.validate(space.complete(drawn))
    assert all(
        type(value) is type(space.validate(space.complete(drawn))[name]) for name, value in found.items()
    )


def test_a_study_goes_on_with_booleans_that_wandb_reads() -> None:
    space = Space.from_mapping({"flag": {"type": "boolean", "paper": True}})
    study = optuna.create_study()
    study.ask(space.distributions())
    read = scheduler.search_space_from_sweep_config(space.to_wandb("val", "min")["parameters"])
    assert study.ask(read).params["flag"] in (False, True)  # raises for another order
