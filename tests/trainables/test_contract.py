"""What every registered paper must do, whatever it is: the contract of `trainables.base.Paper`."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import torch

from trainables import catalog
from trainables.base import Claim, Paper, Setting

PAPERS = [slug for slug in catalog.slugs() if not slug.startswith("test_")]

torch.set_num_threads(1)


def start(slug: str, config: dict[str, Any] | None = None, seed: int = 0, steps: int | None = None) -> Paper:
    paper = catalog.get(slug)
    tiny = paper.tiny
    if config is None:
        config = {**paper.space().paper_config(tiny.data), **tiny.config}
    made = paper()
    made.setup(config, Setting(seed=seed, data=tiny.data, steps=steps or tiny.steps))
    return made


def train(paper: Paper, steps: int) -> list[dict[str, float]]:
    rows = []
    while not paper.finished and len(rows) < steps:
        rows.append(paper.step())
    return rows


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


@pytest.mark.parametrize("slug", PAPERS)
def test_improves_and_reports_what_it_declares(slug: str) -> None:
    paper = start(slug)
    rows = train(paper, paper.tiny.steps)
    declared = {m.name for m in paper.metrics if m.split != "test"}
    assert rows
    for row in rows:
        assert set(row) == declared
        assert all(isinstance(v, float) and math.isfinite(v) for v in row.values())
    objective = paper.metric(paper.objective)
    values = [row[paper.objective] for row in rows]
    best = min(values) if objective.mode == "min" else max(values)
    assert objective.better(best, values[0]), f"{paper.objective} never improved on {values[0]}"
    while not paper.finished:
        paper.step()
    tests = paper.test()
    assert set(tests) == {m.name for m in paper.metrics if m.split == "test"}
    assert all(math.isfinite(v) for v in tests.values())


@pytest.mark.parametrize("slug", PAPERS)
def test_random_points_of_the_space_train(slug: str) -> None:
    paper = catalog.get(slug)
    space = paper.space()
    for seed in range(5):
        config = {**space.sample(np.random.default_rng(seed)), **paper.tiny.config}
        made = start(slug, space.validate(space.complete(config)), seed=seed)
        for row in train(made, 1):
            assert all(math.isfinite(v) for v in row.values()), config


# What only makes a trial long, here what is trained before its first step: it stays as it is fixed.
LONG = {"dual_head_kd": {"teacher", "teacher_epochs"}}


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


@pytest.mark.parametrize("slug", PAPERS)
def test_same_seed_same_numbers_and_other_seed_other_numbers(slug: str) -> None:
    first, again, other = (train(start(slug, seed=s), 2) for s in (3, 3, 4))
    assert first == again
    assert first != other


@pytest.mark.parametrize("slug", PAPERS)
def test_trials_do_not_disturb_each_other(slug: str) -> None:
    alone = train(start(slug, seed=1), 3)
    a, b = start(slug, seed=1), start(slug, seed=2)
    mixed = []
    for _ in range(len(alone)):
        torch.rand(7)
        np.random.rand(3)
        mixed.append(a.step())
        b.step()
    assert mixed == alone


@pytest.mark.parametrize("slug", PAPERS)
def test_setup_again_leaves_nothing_of_the_last_trial(slug: str) -> None:
    fresh = start(slug, seed=5)
    used = start(slug, seed=6)
    train(used, 2)
    config = {**used.space().paper_config(used.tiny.data), **used.tiny.config}
    used.setup(config, Setting(seed=5, data=used.tiny.data, steps=used.tiny.steps))
    assert train(used, 2) == train(fresh, 2)


@pytest.mark.parametrize("slug", PAPERS)
def test_resumed_in_the_middle_equals_uninterrupted(slug: str) -> None:
    whole = start(slug)
    rows = train(whole, whole.tiny.steps)
    tests = whole.test()
    cuts = sorted({1, len(rows) // 2, len(rows) - 1} - {0})
    for cut in cuts:
        first = start(slug)
        train(first, cut)
        buffer = io.BytesIO()
        torch.save(first.state_dict(), buffer)
        buffer.seek(0)
        second = start(slug)
        second.load_state_dict(torch.load(buffer, weights_only=True))
        assert train(second, whole.tiny.steps) == rows[cut:], f"cut after step {cut}"
        assert second.test() == tests


@pytest.mark.parametrize("slug", PAPERS)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_trains_on_cuda(slug: str) -> None:
    paper = catalog.get(slug)
    made = paper()
    config = {**paper.space().paper_config(paper.tiny.data), **paper.tiny.config}
    made.setup(config, Setting(device="cuda", data=paper.tiny.data, steps=paper.tiny.steps))
    rows = train(made, 3)
    assert all(math.isfinite(v) for row in rows for v in row.values())
