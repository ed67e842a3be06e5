"""With a public data set of the paper's own, what is fixed is the paper's, and so is the length of training."""

from __future__ import annotations

import pytest

from fairsweep.cluster import config
from fairsweep.search_spaces._parameter import same
from fairsweep.trainables import catalog

PAPERS = [slug for slug in catalog.slugs() if not slug.startswith("test_")]

# What is fixed elsewhere than at the paper's value also on the paper's own data, and why.
KEPT = {
    ("oto_v2", "lmbda_mode"): "the paper's constant serves 3e5 steps; auto finds it for any number",
    ("pgn", "features"): "the same: univariate",
}
OWN = [(slug, data) for slug in PAPERS for data in catalog.get(slug).paper_steps]


@pytest.mark.parametrize("slug", PAPERS)
def test_what_differs_by_data_set_names_data_sets_of_the_paper(slug: str) -> None:
    paper = catalog.get(slug)
    named = {d for p in paper.space().parameters.values() for d in (*p.values, *p.highs)} | set(
        paper.paper_steps
    )
    assert named - {"default"} <= set(paper.datasets)
    assert all(steps > 0 for steps in paper.paper_steps.values())


@pytest.mark.parametrize(("slug", "data"), OWN)
def test_on_the_papers_own_data_the_defaults_are_the_papers(slug: str, data: str) -> None:
    space = catalog.get(slug).space()
    composed = space.for_data(data).paper_config(data)
    assert composed == space.paper_config(data) == space.fill({}, data)
    for name, value in composed.items():
        p = space.parameters[name]
        if p.paper and (slug, name) not in KEPT:
            assert same(value, p.paper.get(data, p.paper["default"])), name


def test_a_sweep_composes_them_and_the_laptops_elsewhere() -> None:
    own = config.load(["trainable=biper", "data=cifar10"])
    assert own.space.parameters["backbone"].value == "resnet18" and own.budget["steps"] == 900
    assert own.space.paper_config("cifar10")["warmup"] == 5
    laptop = config.load(["trainable=biper"])
    assert laptop.space.parameters["backbone"].value == "small" and laptop.budget["steps"] is None
    changed = config.load(["trainable=biper", "data=cifar10", "space.backbone=small", "budget.steps=3"])
    assert changed.space.parameters["backbone"].value == "small" and changed.budget["steps"] == 3
    again = config.check(own.tree)
    assert again.space.parameters["backbone"].value == "resnet18", (
        "a sweep that is resumed reads what it stored"
    )
