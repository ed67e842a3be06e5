"""What every registered paper must do, whatever it is: the contract of `trainables.base.Paper`.

The tests of a paper share one whole run of it: what another run must equal is not computed again for each.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from fairsweep.trainables import catalog
from fairsweep.trainables.base import Claim, Paper, Setting

PAPERS = [slug for slug in catalog.slugs() if not slug.startswith("test_")]

torch.set_num_threads(1)


def start(slug: str, config: dict[str, Any] | None = None, seed: int = 0, steps: int | None = None) -> Paper:
    paper = catalog.get(slug)
    tiny = paper.tiny
    if config is None:
        config = {**paper.space().paper_config(tiny.data), **tiny.config}
    if why := paper.unsuited(config, tiny.data, None):
        pytest.skip(f"{slug}: {why}")
    made = paper()
    made.setup(config, Setting(seed=seed, data=tiny.data, steps=steps or tiny.steps))
    return made


def train(paper: Paper, steps: int) -> list[dict[str, float]]:
    rows = []
    while not paper.finished and len(rows) < steps:
        rows.append(paper.step())
    return rows


@dataclass(frozen=True)
class Whole:
    """A trial of a paper's tiny configuration from its first step to its last, seed 0, that nothing disturbed."""

    slug: str
    rows: list[dict[str, float]]
    tests: dict[str, float]


@pytest.fixture(scope="module", params=PAPERS)
def whole(request: pytest.FixtureRequest) -> Whole:
    made = start(request.param)
    rows = train(made, made.tiny.steps)
    while not made.finished:
        made.step()
    return Whole(request.param, rows, made.test())


def test_there_are_papers_of_different_tasks() -> None:
    assert {"dagnn", "biper", "pgn"} <= set(PAPERS)
    assert len({catalog.get(slug).task for slug in PAPERS}) >= 3


@pytest.mark.parametrize("slug", PAPERS)
def test_declarations(slug: str) -> None:
    paper = catalog.get(slug)
    assert paper.slug == slug
    assert paper.tiny.data in paper.datasets
    splits = {m.split for m in paper.metrics}
    assert {"validation", "test"} <= splits
    for claim in paper.claims:
        assert claim.metric in {m.name for m in paper.metrics}
        assert claim.treatment != claim.baseline
        assert claim.data is None or claim.data in paper.datasets
    assert paper.__module__.rsplit(".", 1)[-1] == slug, "one file a paper, named like its slug"


def test_a_claim_without_a_baseline_is_about_a_value() -> None:
    words = {
        "name": "n",
        "statement": "s",
        "treatment": {},
        "metric": "test_accuracy",
        "margin": 0.0,
        "origin": "direction",
    }
    assert Claim(**words, baseline=None, kind="value").arms == ({},)
    assert Claim(**words, baseline={"a": 1}).arms == ({}, {"a": 1})
    for wrong in ({"baseline": None}, {"baseline": {}, "kind": "value"}):
        with pytest.raises(ValueError, match="claim n: kind="):
            Claim(**words, **wrong)


@pytest.mark.parametrize("slug", PAPERS)
def test_claims_name_parameters_of_the_space(slug: str) -> None:
    paper = catalog.get(slug)
    names = set(paper.space().parameters)
    for claim in paper.claims:
        assert {name for arm in claim.arms for name in arm} <= names


@pytest.mark.parametrize("slug", PAPERS)
def test_fidelity_judges_nothing_before_the_minimum(slug: str) -> None:
    paper = catalog.get(slug)
    space = paper.space()
    for seed in range(20):
        fidelity = paper.fidelity(space.sample(np.random.default_rng(seed)), paper.tiny.steps)
        assert 1 <= fidelity.minimum <= fidelity.maximum <= paper.tiny.steps


def test_improves_and_reports_what_it_declares(whole: Whole) -> None:
    paper, rows = catalog.get(whole.slug), whole.rows
    declared = {m.name for m in paper.metrics if m.split != "test"}
    assert rows
    for row in rows:
        assert set(row) == declared
        assert all(isinstance(v, float) and math.isfinite(v) for v in row.values())
    objective = paper.metric(paper.objective)
    values = [row[paper.objective] for row in rows]
    best = min(values) if objective.mode == "min" else max(values)
    assert objective.better(best, values[0]), f"{paper.objective} never improved on {values[0]}"
    assert set(whole.tests) == {m.name for m in paper.metrics if m.split == "test"}
    assert all(math.isfinite(v) for v in whole.tests.values())


@pytest.mark.parametrize("slug", PAPERS)
def test_random_points_of_the_space_train(slug: str) -> None:
    paper = catalog.get(slug)
    space = paper.space()
    for seed in range(3):
        config = {**space.sample(np.random.default_rng(seed)), **paper.tiny.config}
        made = start(slug, space.validate(space.complete(config)), seed=seed)
        for row in train(made, 1):
            assert all(math.isfinite(v) for v in row.values()), config


# What only makes a trial long, such as what is trained before its first step: it stays as it is fixed.
LONG = {
    "pareto_gnn": {"field"},
    "dual_head_kd": {"teacher", "teacher_epochs"},
    "stable_gnn": {"pretrain_epochs"},
    "w2pgnn": {"solver"},
}


@pytest.mark.slow
@pytest.mark.parametrize("slug", PAPERS)
def test_random_points_of_the_whole_space_train(slug: str) -> None:
    """With what the space fixes, method and structure, free over its domain, as `space.NAME.value=null` makes it."""
    paper = catalog.get(slug)
    declared = paper.space()
    open_to = {n: p.value for n, p in declared.parameters.items() if n not in LONG.get(slug, set())}
    space = declared.freed(open_to).for_data(paper.tiny.data)
    for seed in range(20):
        config = space.validate(space.sample(np.random.default_rng(seed)))
        made = start(slug, config, seed=seed)
        for row in train(made, 1):
            assert all(math.isfinite(v) for v in row.values()), config


def test_same_seed_same_numbers_and_other_seed_other_numbers_also_beside_each_other(whole: Whole) -> None:
    a, b = start(whole.slug), start(whole.slug, seed=1)
    same, other = [], []
    for _ in range(min(2, len(whole.rows))):
        torch.rand(7)
        np.random.rand(3)
        same.append(a.step())
        other.append(b.step())
    assert same == whole.rows[: len(same)]
    assert other != same


def test_setup_again_leaves_nothing_of_the_last_trial(whole: Whole) -> None:
    used = start(whole.slug, seed=6)
    train(used, 2)
    config = {**used.space().paper_config(used.tiny.data), **used.tiny.config}
    used.setup(config, Setting(seed=0, data=used.tiny.data, steps=used.tiny.steps))
    assert train(used, 2) == whole.rows[:2]


def test_resumed_in_the_middle_equals_uninterrupted(whole: Whole) -> None:
    n = len(whole.rows)
    going, done = start(whole.slug), 0
    for cut in sorted(
        {1, n // 2, n - 1} - {0}
    ):  # each goes on where the last was cut, so a cut is resumed twice or thrice
        assert train(going, cut - done) == whole.rows[done:cut]
        saved = io.BytesIO()
        torch.save(going.state_dict(), saved)
        if cut == 1:  # that it was saved must not change how it goes on
            assert train(going, 1) == whole.rows[1:2]
        saved.seek(0)
        going, done = start(whole.slug), cut
        going.load_state_dict(torch.load(saved, weights_only=True))
    assert train(going, n) == whole.rows[done:], f"cut after step {done}"
    assert going.test() == whole.tests


@pytest.mark.parametrize("slug", PAPERS)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_trains_on_cuda(slug: str) -> None:
    paper = catalog.get(slug)
    made = paper()
    config = {**paper.space().paper_config(paper.tiny.data), **paper.tiny.config}
    made.setup(config, Setting(device="cuda", data=paper.tiny.data, steps=paper.tiny.steps))
    rows = train(made, 3)
    assert all(math.isfinite(v) for row in rows for v in row.values())
