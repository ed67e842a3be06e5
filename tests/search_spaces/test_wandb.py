"""Sweeps for W&B, read by W&B's own scheduler (wandb 0.31, `wandb sweep-scheduler` with the engine optuna)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import optuna
import pytest
import yaml

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
    ours = space.distributions()
    assert set(theirs) - set(ours) == {name for name, p in space.parameters.items() if p.fixed}
    for name, distribution in ours.items():
        if "values" in sweep["parameters"][name] and not isinstance(
            distribution, optuna.distributions.CategoricalDistribution
        ):  # W&B's own grid cannot begin between two multiples of the step
            assert np.allclose(on_a_grid(theirs[name]), on_a_grid(distribution)), name
        else:
            assert theirs[name] == distribution, name


def test_a_study_goes_on_with_booleans_that_wandb_reads() -> None:
    space = Space.from_mapping({"flag": {"type": "boolean", "paper": True}})
    study = optuna.create_study()
    study.ask(space.distributions())
    read = scheduler.search_space_from_sweep_config(space.to_wandb("val", "min")["parameters"])
    assert study.ask(read).params["flag"] in (False, True)  # raises for another order
