"""What a benchmark takes as independent has random draws of its own."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
import pytest

from tests.benchmarks import bench_search

TABLES = [("hpobench", "car"), ("hpobench", "vehicle"), ("nb201", "cifar10"), ("nb201", "cifar100")]
SPACE = {f"x{i}": {"type": "int", "low": 0, "high": 9, "paper": 0} for i in range(4)}


def test_tables_of_one_space_do_not_share_the_draws_of_a_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bare seed gave all tables of a space the same hundred random configurations; now none of two is the same."""
    drawn: list[tuple[int, ...]] = []

    def index(space: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[int, ...]:
        drawn.append(tuple(config.values()))
        return drawn[-1]

    table = np.arange(10.0**4).reshape(10, 10, 10, 10)
    monkeypatch.setattr(bench_search, "task", lambda bench, name: (SPACE, table, None, None))
    monkeypatch.setattr(bench_search, "index", index)

    def draws(bench: str, name: str, seed: int) -> tuple[tuple[int, ...], ...]:
        drawn.clear()
        bench_search.one(("ours", "random", bench, name, seed))
        return tuple(drawn)

    runs = [draws(*at, seed) for at, seed in product(TABLES, (0, 1))]
    assert len({run[:10] for run in runs}) == len(runs)
    assert draws("nb201", "cifar10", 1) == runs[5], "a seed is repeatable"
