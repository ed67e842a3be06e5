"""Counting, timing, and tables that add up."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairsweep.search_spaces import costs
from fairsweep.search_spaces.architectures import ArchitectureError
from fairsweep.search_spaces.costs import CostError, CostTable, LatencyCheck, check_latency, cost_table
from fairsweep.search_spaces.supernets import Supernet, build_supernet

torch.set_num_threads(1)


class Clock:
    """Stands in for `time`: every call of a module takes `step` ms, of which `share` are spent on it."""

    def __init__(self, share: float = 1.0) -> None:
        self.now, self.share = 0.0, share

    def perf_counter_ns(self) -> int:
        return round(self.now * 1e6)

    def perf_counter(self) -> float:
        return self.now / 1e3

    def process_time(self) -> float:
        return self.share * self.now / 1e3


class Sleeper(nn.Module):
    """Takes the times given, in milliseconds, call after call."""

    def __init__(self, clock: Clock, times: list[float]) -> None:
        super().__init__()
        self.clock, self.times, self.seen = clock, iter(times), []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(
            (tuple(x.shape), self.training, torch.get_num_threads(), torch.is_inference_mode_enabled())
        )
        self.clock.now += next(self.times)
        return x


# ---- counting ----


def test_flops_are_multiply_accumulates_of_one_example() -> None:
    conv = nn.Conv2d(6, 4, 3, stride=2, padding=1, groups=2)
    assert costs.count_flops(conv, (6, 8, 8)) == 4 * (6 // 2) * 9 * 4 * 4
    assert costs.count_flops(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), (3, 2, 2)) == 12 * 5
    free = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1))
    assert costs.count_flops(free, (3, 4, 4)) == 0

    class Functional(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ x.transpose(1, 2)

    assert costs.count_flops(Functional(), (3, 7)) == 3 * 7 * 3


def test_counting_leaves_the_module_as_it_was() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    before = {k: v.clone() for k, v in module.state_dict().items()}
    costs.count_flops(module, (1, 3, 3))
    assert module.training
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


def test_parameters_are_counted_once_and_buffers_not() -> None:
    shared = nn.Linear(3, 4)
    assert costs.count_parameters(nn.Sequential(shared, nn.BatchNorm1d(4), shared)) == 3 * 4 + 4 + 8


# ---- timing ----


def test_latency_is_the_median_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(costs, "time", clock)
    module = Sleeper(clock, [500.0] * costs.WARM_UP + [3.0, 100.0, 1.0, 2.0, 4.0])
    module.add_module("kept", nn.ReLU().eval())
    assert costs.measure_latency(module, (1, 5, 5), batch=4, threads=1, repeats=5) == 3.0
    assert set(module.seen) == {((4, 1, 5, 5), False, 1, True)}
    assert module.training and not module.get_submodule("kept").training


def test_latency_sets_the_threads_and_gives_them_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(costs, "time", clock)
    module = Sleeper(clock, [1.0] * 100)
    costs.measure_latency(module, (1,), threads=2, repeats=1)
    assert {threads for _, _, threads, _ in module.seen} == {2}
    assert torch.get_num_threads() == 1
    for name in ("batch", "threads", "repeats"):
        with pytest.raises(CostError, match=f"{name}=0: must be at least 1"):
            costs.measure_latency(module, (1,), **{name: 0})


def test_a_busy_processor_is_noticed(monkeypatch: pytest.MonkeyPatch, recwarn: Any) -> None:
    for share, warned in [(0.95, 0), (0.5, 1)]:
        clock = Clock(share)
        monkeypatch.setattr(costs, "time", clock)
        recwarn.clear()
        costs.measure_latency(Sleeper(clock, [1.0] * 100), (1,))
        assert len([w for w in recwarn if "busy processor" in str(w.message)]) == warned


def test_hardware_is_named() -> None:
    assert costs.hardware().strip()
    assert costs.hardware("cpu") == costs.hardware(torch.device("cpu"))


# ---- tables ----


@pytest.fixture(scope="module")
def net() -> Supernet:
    return build_supernet("chain")


@pytest.fixture(scope="module")
def latency(net: Supernet) -> Iterator[CostTable]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tests run beside other work
        yield cost_table(net, "latency_ms", batch=2, repeats=3)


def test_cost_is_the_constant_part_and_one_entry_a_choice(net: Supernet, latency: CostTable) -> None:
    path = net.space.parse("20112")
    chosen = {
        entry.when[0]: entry.value for entry in latency.entries if entry.when
    }  # one operator an option here
    parts = [chosen[pair] for pair in net.space.options(path).items()]
    assert latency.cost(path) == pytest.approx(latency.constant + sum(parts))
    stem, head = (e.value for e in latency.entries if e.context in ("stem", "head"))
    assert latency.constant == stem + head > 0
    assert all(v > 0 for v in parts)


def test_table_says_where_it_was_measured_and_comes_back_from_json(latency: CostTable, net: Supernet) -> None:
    assert (latency.hardware, latency.threads, latency.batch) == (costs.hardware(), 1, 2)
    assert torch.__version__ in latency.software
    for table in (latency, net.cost_table("flops")):
        again = CostTable.from_json(table.to_json())
        assert again == table
        assert again.cost(net.space.sample(0)) == table.cost(net.space.sample(0))
    with pytest.raises(CostError, match=r"format=None: a cost table has format 1"):
        CostTable.from_json("{}")


def test_tables_of_other_hardware_are_not_mixed(latency: CostTable, net: Supernet) -> None:
    for field, value in [("hardware", "abacus"), ("threads", 8), ("batch", 1), ("software", "torch 0.1")]:
        other = replace(latency, **{field: value})
        with pytest.raises(CostError, match=rf"{field}: tables of .*{value}.* cannot be mixed"):
            latency.merged([other])
        if field in ("hardware", "software"):
            with pytest.raises(CostError, match=rf"{field}: .*{value}"):
                check_latency(net, other, [net.space.sample(0)])
    with pytest.raises(CostError, match="kind"):
        latency.require_same(net.cost_table("flops"))


def test_merging_takes_the_median_of_each_entry(latency: CostTable) -> None:
    def times(factor: float) -> CostTable:
        return replace(latency, entries=tuple(replace(e, value=e.value * factor) for e in latency.entries))

    assert times(1.0).merged([times(50.0), times(0.5)]) == latency


def test_costs_that_do_not_exist_or_belong_elsewhere_are_refused(net: Supernet, latency: CostTable) -> None:
    with pytest.raises(CostError, match=r"cost=watts: must be one of params, flops, latency_ms"):
        net.cost(net.space.sample(0), "watts")
    with pytest.raises(ArchitectureError, match=r"an architecture of cell/"):
        latency.cost(build_supernet("cell").space.sample(0))
    with pytest.raises(CostError, match=r"latency_ms of .* wanted"):
        check_latency(net, net.cost_table("flops"), [net.space.sample(0)])
    with pytest.raises(CostError, match=r"latency_ms of .* wanted"):
        check_latency(build_supernet("chain", channels=4), latency, [net.space.sample(0)])


def test_a_module_that_stands_in_several_places_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[Any] = []
    monkeypatch.setattr(costs, "measure_latency", lambda module, *_: measured.append(module) or 1.0)
    net = build_supernet("cell", cells=3)
    table = cost_table(net, "latency_ms")
    # 4 operations and an addition in each of 2 stages; stem, residual block, head.
    assert len(measured) == 2 * (4 + 1) + 3
    # 6 cells, 4 operations on each of 6 edges, 3 of which are added to what comes from the input node.
    assert len(table.entries) == 6 * 4 * (6 + 3) + 3
    path = net.space.architecture([3, 0, 3, 3, 0, 3])
    assert table.cost(path) == 6 * (4 + 2) + 3


def test_predictions_are_compared_with_whole_networks(
    monkeypatch: pytest.MonkeyPatch, net: Supernet, latency: CostTable
) -> None:
    given = [net.space.parse(text) for text in ("00000", "11111", "22222")]
    seen: list[Any] = []

    def timed(module: nn.Module, shape: Any, batch: int, threads: int, repeats: int, device: Any) -> float:
        seen.append((costs.count_parameters(module), tuple(shape), batch, threads, repeats))
        number = len(seen) - 1
        burst = 50 if number in (1, 3, 8) else 1  # hits each network once
        return burst * 2 * latency.cost(given[number % len(given)])

    monkeypatch.setattr(costs, "measure_latency", timed)
    check = check_latency(net, latency, given, repeats=7)
    assert seen == 3 * [(net.cost(path, "params"), net.input_shape, 2, 1, 7) for path in given]
    assert check.mean_relative_error == pytest.approx(0.5) and check.bias == pytest.approx(-0.5)
    assert check.spearman == pytest.approx(1.0) and check.kendall == pytest.approx(1.0)
    mixed = LatencyCheck((1.0, 2.0, 3.0), (2.0, 1.0, 3.0))
    assert mixed.mean_relative_error == pytest.approx((0.5 + 1 + 0) / 3)
    assert mixed.bias == pytest.approx((-0.5 + 1 + 0) / 3)
    assert mixed.kendall == pytest.approx(1 / 3) and mixed.spearman == pytest.approx(0.5)


@pytest.mark.filterwarnings("ignore:latency was measured on a busy processor")
def test_longer_work_takes_longer() -> None:
    small, large = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)
    start = time.perf_counter()
    times = costs.measure_latency(small, (8, 8, 8)), costs.measure_latency(large, (64, 32, 32))
    assert 0 < times[0] < times[1] < 1000 * (time.perf_counter() - start)
