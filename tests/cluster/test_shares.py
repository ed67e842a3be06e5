"""How drivers share a cluster: the sum that each of them does, and what comes of it over time; without Ray."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairsweep.cluster.engine import shares
from fairsweep.cluster.engine.exchange import Exchange
from fairsweep.cluster.engine.nodes import fits
from fairsweep.cluster.engine.shares import Amounts, Claim, Share, allot, pool_of
from tests.cluster.test_conductor import engine
from tests.wires import Here, Simple


def claim(name: str, wants: int = 100, **more: object) -> Claim:
    return replace(Claim(name, float(ord(name[0])), {"CPU": 1.0}), wants=wants, **more)  # type: ignore[arg-type]


def places(cpus: float, *claims: Claim, gpus: float = 0.0) -> list[int]:
    return list(allot({"CPU": cpus, "GPU": gpus}, claims).values())


def test_places_are_shared_by_weight_and_nobody_gets_more_than_it_wants() -> None:
    assert places(4, claim("a"), claim("b")) == [2, 2]
    assert places(8, claim("a", weight=3.0), claim("b")) == [6, 2]
    assert places(8, claim("a", weight=3.0, wants=1), claim("b")) == [1, 7]
    assert places(8, claim("a", wants=0), claim("b")) == [0, 8]
    assert places(7, claim("a"), claim("b"), claim("c", weight=2.0)) == [2, 2, 3]
    assert places(3, claim("a", weight=10.0), claim("b")) == [2, 1]  # one each before anybody gets a second


def test_a_higher_priority_gets_what_it_can_use_first() -> None:
    assert places(4, claim("a", weight=9.0), claim("b", priority=1)) == [0, 4]
    assert places(4, claim("a"), claim("b", priority=1, wants=3), claim("c", priority=-1)) == [1, 3, 0]


def test_what_cannot_be_divided_goes_round() -> None:
    """3 places for two sweeps: who has had less, in turns, gets the second."""
    assert places(3, claim("a"), claim("b")) == [2, 1]
    turn = shares.TURN_S / 3  # of a place, in seconds of all
    assert places(3, claim("a", served=turn), claim("b")) == [1, 2]
    assert places(3, claim("a", served=turn), claim("b", served=turn)) == [2, 1]
    three = [claim("a"), claim("b"), claim("c")]
    assert places(2, *three) == [1, 1, 0]
    assert places(2, replace(three[0], served=400.0), *three[1:]) == [0, 1, 1]


def test_trials_of_different_size_are_compared_by_what_they_take_most_of() -> None:
    """One takes GPUs, one CPUs: each gets the same part, the one of the GPUs, the other of the CPUs."""
    gpu = claim("g", need={"CPU": 1.0, "GPU": 1.0})
    assert places(16, gpu, claim("c"), gpus=4.0) == [3, 13]  # 3/4 of the GPUs, 13/16 of the CPUs
    assert places(16, claim("w", need={"CPU": 4.0}), claim("c")) == [2, 8]
    half = claim("h", need={"CPU": 0.5, "GPU": 0.5})
    assert places(2, half, claim("i", need={"CPU": 0.5, "GPU": 0.5}), gpus=1.0) == [1, 1]


claims = st.lists(
    st.builds(
        lambda weight, priority, wants, cpus, served: (weight, priority, wants, cpus, served),
        st.sampled_from([0.5, 1.0, 2.0, 7.0]), st.integers(-1, 1), st.integers(0, 9), st.sampled_from([0.5, 1.0, 3.0]),
        st.sampled_from([0.0, 100.0, 900.0]),
    ), min_size=1, max_size=5,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(claims, st.integers(0, 20))
def test_nothing_is_given_twice_and_nothing_left_that_is_wanted(said: list[tuple], cpus: int) -> None:
    made = [
        Claim(str(k), float(k), {"CPU": need}, weight=w, priority=p, wants=n, served=s)
        for k, (w, p, n, need, s) in enumerate(said)
    ]
    pool = {"CPU": float(cpus), "GPU": 0.0}
    got = allot(pool, made)
    left = cpus - sum(got[c.id] * c.need["CPU"] for c in made)
    assert left > -1e-9
    for c in made:
        assert got[c.id] <= c.wants
        assert got[c.id] == c.wants or not fits({"CPU": left}, c.need)
    assert allot(pool, made[::-1]) == got, "each driver sees the others in another order"


def test_what_is_free_where_no_trial_fits_is_not_shared() -> None:
    """Two nodes of 3 CPUs, trials of 2: one CPU is left on each, and no place."""
    two = replace(claim("a"), need={"CPU": 2.0}, held=2)
    assert pool_of([two], [{"CPU": 1.0}, {"CPU": 1.0}])["CPU"] == 4.0
    assert pool_of([two, claim("b")], [{"CPU": 1.0}, {"CPU": 1.0}])["CPU"] == 6.0


def test_what_is_free_for_trainers_on_several_nodes_is_shared() -> None:
    """A trial of two trainers of 2 CPUs each fits on no node as a whole, and needs not."""
    spread = replace(claim("a"), need={"CPU": 4.0}, each={"CPU": 2.0}, held=1)
    free = [{"CPU": 2.0}, {"CPU": 3.0}, {"CPU": 1.0}]
    assert pool_of([spread], free)["CPU"] == 9.0
    assert Claim.from_json(spread.to_json()) == spread
    older = {k: v for k, v in json.loads(spread.to_json()).items() if k != "each"}
    assert pool_of([replace(Claim.from_json(json.dumps(older)) or spread)], free)["CPU"] == 4.0


# -- over time --------------------------------------------------------------------------------------------


class Table:
    """A board, and a cluster of CPUs on which drivers hold places. taken: by others than sweeps."""

    def __init__(self, cpus: int, taken: int = 0) -> None:
        self.cpus, self.taken, self.clock = cpus, taken, 1000.0
        self.texts: dict[str, str] = {}
        self.drivers: list[Driver] = []

    def put(self, key: str, text: str) -> None:
        self.texts[key] = text

    def entries(self) -> dict[str, str]:
        return dict(self.texts)

    def drop(self, key: str) -> None:
        self.texts.pop(key, None)

    def free(self) -> list[Amounts]:
        return [{"CPU": float(self.left)}]

    @property
    def left(self) -> int:
        return self.cpus - self.taken - sum(len(d.running) for d in self.drivers)

    def run(self, seconds: int) -> None:
        """Each second every driver beats; places that ended a trial go on, or are given up; free ones are taken."""
        for _ in range(seconds):
            self.clock += 1.0
            for driver in self.drivers:
                driver.second()


class Driver:
    """A sweep of trials that take `lasts` seconds each; its places go on with the next as long as they may."""

    def __init__(
        self, table: Table, lasts: int = 10, wants: int = 99, weight: float = 1.0, priority: int = 0
    ) -> None:
        self.table, self.lasts, self.wants = table, lasts, wants
        self.share = Share(table, {"CPU": 1.0}, weight, priority, now=lambda: table.clock)
        self.running: list[int] = []  # seconds that are left of each trial
        self.had = self.idle = 0
        table.drivers.append(self)

    def second(self) -> None:
        self.share.tell(len(self.running), self.wants)
        self.share.beat()
        most = self.wants if self.share.most is None else min(self.wants, self.share.most)
        self.running = [left - 1 for left in self.running]
        for place in [k for k, left in enumerate(self.running) if left <= 0][::-1]:
            if len(self.running) > most:
                del self.running[place]
            else:
                self.running[place] = self.lasts
        while len(self.running) < most and self.table.left > 0:
            self.running.append(self.lasts)
        self.had += len(self.running)

    def die(self) -> None:
        self.table.drivers.remove(self)


def test_one_sweep_has_all_and_is_bounded_by_nothing() -> None:
    table = Table(4)
    only = Driver(table)
    table.run(30)
    assert only.share.most is None and only.had == 4 * 30


def test_a_second_sweep_gets_its_part_within_a_trial_and_the_first_all_again() -> None:
    table = Table(4)
    first = Driver(table)
    table.run(20)
    second = Driver(table)
    table.run(first.lasts + 3)
    assert [len(first.running), len(second.running)] == [2, 2]
    table.run(60)
    second.wants = 1  # its last trial
    table.run(15)
    assert [len(first.running), len(second.running)] == [3, 1]
    second.share.stop()
    table.drop(second.share._mine.id)
    second.die()
    table.run(3)
    assert len(first.running) == 4 and first.share.most is None


def test_a_driver_that_died_drops_out_and_leaves_nothing() -> None:
    table = Table(4)
    first = Driver(table)
    second = Driver(table)
    table.run(20)
    assert len(first.running) == 2
    second.die()  # kill -9: its entry stays
    table.run(int(shares.DEAD_S) + 2)
    assert len(first.running) == 4 and first.share.most is None
    table.run(int(shares.OLD_S))
    assert list(table.texts) == [first.share._mine.id]


def test_an_entry_of_long_ago_bounds_nobody() -> None:
    table = Table(4)
    table.put("ghost", replace(claim("ghost"), at=0.0).to_json())
    table.put("odd", "{]")
    table.put("other", json.dumps({"of": "another version"}))
    only = Driver(table)
    table.run(5)
    assert len(only.running) == 4 and only.share.most is None


def test_weights_hold_over_time_whatever_trials_last() -> None:
    table = Table(9)
    drivers = [Driver(table, lasts=n, weight=w) for n, w in ((7, 1.0), (31, 2.0), (13, 1.0))]
    table.run(3000)
    total = sum(d.had for d in drivers)
    assert [round(d.had / total, 2) for d in drivers] == pytest.approx([0.25, 0.5, 0.25], abs=0.03)
    assert total > 0.97 * 9 * 3000, "places stood empty"


def test_three_sweeps_on_two_places_take_turns() -> None:
    table = Table(2)
    drivers = [Driver(table) for _ in range(3)]
    table.run(9000)
    total = sum(d.had for d in drivers)
    assert [round(d.had / total, 2) for d in drivers] == pytest.approx([1 / 3] * 3, abs=0.03)


def test_what_others_hold_is_not_shared_out() -> None:
    """6 of 10 CPUs are another's: the two sweeps share 4, and the second does not wait for places that never come."""
    table = Table(10, taken=6)
    first = Driver(table)
    table.run(20)
    second = Driver(table)
    table.run(first.lasts + int(shares.WINDOW_S) + 5)
    assert [len(first.running), len(second.running)] == [2, 2]
    table.taken = 0
    table.run(30)
    assert [len(first.running), len(second.running)] == [5, 5]


def test_a_sweep_of_higher_priority_takes_over_as_trials_end() -> None:
    table = Table(4)
    first, urgent = Driver(table), Driver(table, priority=1)
    table.run(25)
    assert [len(first.running), len(urgent.running)] == [0, 4]
    urgent.wants = 2
    table.run(25)
    assert [len(first.running), len(urgent.running)] == [2, 2]


# -- in the engine ----------------------------------------------------------------------------------------


def parked_at(exchange: Exchange) -> int:
    return len(exchange.parked)


def test_a_sweep_with_fewer_places_gives_others_up_where_a_trial_ended(tmp_path: Path) -> None:
    made = engine(tmp_path, "trainable=test_bowl", "search=random", "budget.trials=40", "budget.concurrent=4")
    wires = Here(lambda post: Simple())
    exchange = Exchange(made.conductor, wires, lambda sweep: json.dumps(asdict(made.post)))
    begun: Sequence[str] = "abcd"
    for place in begun:
        told = exchange.first(place)
        assert told is not None
        wires.send(place, *told)
    assert exchange.first("e") is None and made.conductor.wants == 4
    made.conductor.places = 2
    for _ in range(12):
        exchange.round(0)
    assert parked_at(exchange) == 2 and made.conductor.busy == 2
    assert made.conductor.wants == 4, "it could use more"
    made.conductor.places = 3
    exchange.round(0)
    assert parked_at(exchange) == 1 and made.conductor.busy == 3
    made.conductor.places = 99
    while made.conductor.active:
        exchange.round(0)
    assert made.conductor.busy <= 4 and made.conductor.finished and made.conductor.wants == 0
    made.conductor.close()


def test_what_waits_for_a_place_can_be_taken_back(tmp_path: Path) -> None:
    made = engine(tmp_path, "trainable=test_bowl", "search=random", "budget.trials=4", "budget.concurrent=4")
    leg = made.conductor.next_leg()
    assert leg is not None
    made.conductor.hand_back([leg.trial])
    again = made.conductor.next_leg()
    assert again is not None and again.trial == leg.trial
    made.conductor.hand_back([again.trial])
    made.run()
    assert made.conductor.trials[leg.trial].state == "complete"
