"""Values and ranges of a user's own that leave what a paper declares: allowed, and said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fairsweep.cluster import config
from fairsweep.cluster.jobs import sweep
from fairsweep.cluster.storage import open_store
from fairsweep.search_spaces.space import Space
from fairsweep.trainables import catalog

DECLARED = Space.from_mapping(
    {
        "lr": {"type": "float", "low": 0.001, "high": 0.1, "log": True, "paper": 0.01},
        "wide": {"type": "int", "low": 1, "high": {"default": 64, "small": 8}, "paper": 4},
        "side": {"type": "categorical", "choices": [16, 32], "paper": 16},
        "far": {"type": "float", "low": 0.0, "high": 1.0, "paper": 0.5, "value": 3.0},
        "kind": {"type": "categorical", "choices": ["a", "b"], "paper": "a"},
        "flag": {"type": "boolean", "paper": True},
    }
)  # fmt: skip


@pytest.mark.parametrize(
    "changes, said",
    [
        ({}, []),
        ({"lr": 0.1, "wide": 8, "side": 32, "kind": "b", "flag": False}, []),
        ({"lr": 1000.0}, ["space.lr=1000.0: outside the declared range, 0.001 to 0.1"]),
        (
            {"lr": {"low": 1e-6, "high": 0.05}},
            ["space.lr.low=1e-06: outside the declared range, 0.001 to 0.1"],
        ),
        ({"wide": {"high": {"default": 512}}}, ["space.wide.high=512: outside the declared range, 1 to 8"]),
        ({"side": {"choices": [16, 256]}}, ["space.side.choices=256: outside the declared range, 16 to 32"]),
        ({"far": 3.0}, []),  # the paper's declaration has it
        ({"far": 4.0}, ["space.far=4.0: outside the declared range, 0.0 to 1.0"]),
    ],
)
def test_what_leaves_the_declared_range_is_said(changes: dict[str, Any], said: list[str]) -> None:
    raw = DECLARED.to_mapping()
    for name, change in changes.items():
        raw[name] = {**raw[name], **change} if isinstance(change, dict) else change
    space = Space.from_mapping(raw, declared=DECLARED).for_data("small")
    assert space.beyond(DECLARED.for_data("small")) == said


def test_a_sweep_says_it_before_its_trials_and_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(sweep, "drive", lambda *_, notes, **__: told.extend(notes) or _Over())
    settings = config.load(["trainable=test_bowl", "space.x=100", "search=random", f"storage={tmp_path}"])
    store = open_store(settings.storage)
    paper = catalog.get("test_bowl")
    sweep._drive(settings, paper, store, "s", None, None, sweep.Room(1), sweep.Display())  # type: ignore[arg-type]
    assert told == ["space.x=100.0: outside the declared range, 0.0 to 1.0"]


class _Over:
    state = "interrupted"
