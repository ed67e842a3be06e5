"""Latency tables that are kept: timed once for a kind of network, and what has them timed again."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from torch import nn

from fairsweep.search_spaces import costs
from fairsweep.search_spaces.supernets import build_supernet
from fairsweep.trainables.tasks.latency import MEASUREMENTS, kept_latency, latency_file


@pytest.fixture(autouse=True)
def timings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The milliseconds that operators took, one after the other; the cache is empty."""
    monkeypatch.setenv("FAIRSWEEP_CACHE", str(tmp_path))
    found: list[float] = []

    def measured(module: nn.Module, *_: Any) -> float:
        found.append(float(torch.rand(())))
        return found[-1]

    monkeypatch.setattr(costs, "measure_latency", measured)
    return found


def test_a_table_is_timed_once_and_is_the_median_of_its_measurements(timings: list[float]) -> None:
    table = kept_latency(build_supernet("mbconv", seed=0))
    operators = len(table.entries)
    assert MEASUREMENTS == 3 and len(timings) == MEASUREMENTS * operators
    rounds = [timings[k * operators : (k + 1) * operators] for k in range(MEASUREMENTS)]
    assert [entry.value for entry in table.entries] == [median(three) for three in zip(*rounds, strict=True)]
    assert (table.kind, table.hardware, table.batch) == ("latency_ms", costs.hardware(), 1)
    net = build_supernet("mbconv", seed=1)  # other weights, the same networks
    assert kept_latency(net) == table and len(timings) == MEASUREMENTS * operators
    net.adopt_cost_table(table)
    assert net.cost(net.space.sample(0), "latency_ms") == table.cost(net.space.sample(0))


def test_other_networks_and_other_kernels_have_tables_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = build_supernet("mbconv"), build_supernet("mbconv", classes=7)
    files = {latency_file(small), latency_file(large)}
    monkeypatch.setattr("fairsweep.trainables.tasks.latency.software", lambda: "torch 0.1")
    files.add(latency_file(small))
    monkeypatch.setattr("fairsweep.trainables.tasks.latency.hardware", lambda _: "abacus")
    files.add(latency_file(small))
    assert len(files) == 4


def test_a_deleted_or_damaged_table_is_timed_again(timings: list[float]) -> None:
    net = build_supernet("mbconv")
    kept_latency(net)
    once = len(timings)
    latency_file(net).unlink()
    second = kept_latency(net)
    assert len(timings) == 2 * once
    for damaged in ("", "{}", '{"format": 1, "kind": "latency_ms"}', net.cost_table("flops").to_json()):
        latency_file(net).write_text(damaged)
        kept_latency(net)
    assert len(timings) == 6 * once
    assert kept_latency(net) != second
