"""By what the parts of the data are drawn: each trial's own seed, or one split_seed for all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from fairsweep.trainables import catalog
from fairsweep.trainables.base import Setting
from fairsweep.trainables.tasks.rng import TrialRNG
from fairsweep.trainables.tasks.training import NetworkPaper

# Papers that draw parts by chance, each with a set of its own that it draws them of.
DRAWN = {
    "dagnn": "csbm",
    "dual_hypergraph": "digits_pixels",
    "ncn": "synthetic_geometric",
    "diffusion_gahb": "digits",
    "information_plane": "synthetic_icosahedron",
    "final_mlp": "synthetic_multiplicative",
}

torch.set_num_threads(1)


def start(slug: str, seed: int, split_seed: int | None = None, data: str | None = None) -> NetworkPaper:
    paper = catalog.get(slug)
    data = data or DRAWN.get(slug) or paper.tiny.data
    made = paper()
    config = paper.space().complete({**paper.space().paper_config(data), **paper.tiny.config})
    made.setup(config, Setting(seed, data=data, steps=paper.tiny.steps, split_seed=split_seed))
    assert isinstance(made, NetworkPaper)
    return made


def held(paper: NetworkPaper) -> list[np.ndarray]:
    """The arrays in which a task says what is in which part."""

    def arrays(value: Any) -> Iterator[np.ndarray]:
        if isinstance(value, torch.Tensor | np.ndarray):
            yield np.asarray(value)
        elif isinstance(value, dict):
            for name in sorted(value):
                yield from arrays(value[name])
        elif isinstance(value, list | tuple):
            for one in value:
                yield from arrays(one)

    data: Any = paper.data  # type: ignore[attr-defined]
    names = ("links", "negatives", "subsets", "parts")
    return [found for name in names for found in arrays(getattr(data, name, ()))]


def alike(one: list[np.ndarray], two: list[np.ndarray]) -> bool:
    return len(one) == len(two) and all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def weights(paper: NetworkPaper) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in paper.net.parameters()])


@pytest.mark.parametrize("slug", DRAWN)
def test_one_split_seed_gives_all_trials_the_same_parts_and_other_weights(slug: str) -> None:
    one, two, other = start(slug, 3, split_seed=5), start(slug, 4, split_seed=5), start(slug, 3, split_seed=6)
    assert held(one) and alike(held(one), held(two)) and not alike(held(one), held(other))
    assert not torch.equal(weights(one), weights(two))
    assert one.step() != two.step()


@pytest.mark.parametrize("slug", DRAWN)
def test_without_one_the_trials_seed_draws_parts_and_all_else(slug: str) -> None:
    one, two = start(slug, 3), start(slug, 4)
    assert not alike(held(one), held(two))
    assert one.split_rng is one.rng.numpy, (
        "one stream, as ever: what is drawn after the parts has gone on from it"
    )
    assert alike(held(one), held(start(slug, 9, split_seed=3))), "those of a trial of that seed"


def test_the_numbers_of_sweeps_without_a_split_seed_are_those_of_ever() -> None:
    made = start("ncn", 3)
    from fairsweep.trainables.tasks.link_prediction import LinkTask

    stream = TrialRNG(3).numpy
    task = LinkTask("synthetic_geometric", None, "cpu", stream)
    assert all(torch.equal(task.links[part], made.data.links[part]) for part in task.links)  # type: ignore[attr-defined]
    assert made.rng.numpy.bit_generator.state == stream.bit_generator.state
