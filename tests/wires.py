"""Places without Ray, for tests and benchmarks of the exchange: as many as one likes, in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from fairsweep.cluster.engine.bundles import Bundle
from fairsweep.cluster.engine.conductor import Conductor
from fairsweep.cluster.engine.exchange import Exchange
from fairsweep.cluster.engine.fleet import Fleet
from fairsweep.cluster.engine.post import Post
from fairsweep.cluster.engine.trial import Leg
from fairsweep.cluster.engine.worker import LegRunner


class Place(Protocol):
    """What runs legs: a `Bundle`, or what is made in its place."""

    def take(self, legs: Sequence[Leg]) -> None: ...

    def step(self) -> dict[str, Any]: ...


class Simple:
    """A place of no time: every trial is complete at its first step."""

    def take(self, legs: Sequence[Leg]) -> None:
        self.legs = list(legs)

    def step(self) -> dict[str, Any]:
        return {"reports": [complete(leg) for leg in self.legs], "unbegun": [], "most": 1}


class Steady:
    """A place that tells of its trials step by step, `each` steps a message; like a worker it stops at milestones."""

    def __init__(self, each: int = 1) -> None:
        self.each = each

    def take(self, legs: Sequence[Leg]) -> None:
        self.legs, self.done = list(legs), legs[0].done

    def step(self) -> dict[str, Any]:
        reports = [self._report(self.legs[0])]
        while reports[-1]["status"] == "complete" and self.legs[1:]:
            self.take(self.legs[1:])
            reports.append(self._report(self.legs[0]))
        return {"reports": reports, "unbegun": [leg.trial for leg in self.legs[1:]], "most": 1}

    def _report(self, leg: Leg) -> dict[str, Any]:
        rows: list[dict[str, Any]] = []
        while self.done < leg.maximum and len(rows) < self.each:
            self.done += 1
            x = leg.config["x"]
            loss = (x - 0.3) ** 2 + (0.5 + leg.seed / 9 - x) / self.done + (self.done * 7 % 5) / 50
            rows.append({**complete(leg)["rows"][0], "step": self.done, "wall_s": self.done / 64})
            rows[-1]["metrics"] = {"val_loss": loss, "train_loss": 0.1}
            if self.done in leg.milestones:
                break
        status = "complete" if self.done == leg.maximum else "running"
        return {**complete(leg), "rows": rows, "status": status, "cost_s": self.done / 64}


def complete(leg: Leg) -> dict[str, Any]:
    """The report on a leg that is run to its end in one step."""
    metrics = {"val_loss": (leg.config["x"] - 0.3) ** 2, "train_loss": 0.1}
    row = {"step": leg.maximum, "wall_s": 0.001, "time": 1.7e9, "metrics": metrics}
    return {
        "trial": leg.trial, "rows": [row], "status": "complete", "test": {"test_loss": 0.1}, "kept": None,
        "cost_s": 0.001, "notes": [],
    }  # fmt: skip


class Here:
    """`Wires` to places in this process. All that work tell in one round, or those that `which` picks of them."""

    def __init__(
        self,
        make: Callable[[str], Place],
        which: Callable[[list[str]], list[str]] = lambda working: working,
    ) -> None:
        """make: the place for a post (JSON)."""
        self.make, self.which = make, which
        self.places: dict[str, Place] = {}
        self.working: list[str] = []
        self.lost: dict[str, BaseException] = {}  # what comes of a place instead of its message

    def ready(self, timeout: float) -> list[tuple[str, Mapping[str, Any] | BaseException]]:
        came = list(self.which(list(self.working)))
        self.working = [place for place in self.working if place not in came]
        return [(place, self._tells(place)) for place in came]

    def _tells(self, place: str) -> Mapping[str, Any] | BaseException:
        if place in self.lost:
            return self.lost.pop(place)
        told: dict[str, Any] = json.loads(json.dumps(self.places[place].step()))
        return told

    def send(self, place: str, legs: str = "", post: str = "") -> None:
        if post:
            self.places[place] = self.make(post)
        if legs:
            self.places[place].take([Leg.from_dict(leg) for leg in json.loads(legs)])
        self.working.append(place)

    def stash(self, places: Sequence[str]) -> None:
        for place in places:
            of_place = self.places[place]
            if isinstance(of_place, Bundle):
                of_place.runner.stash()

    def early(self) -> Mapping[str, Mapping[str, Any]]:
        return {}


def real(post: str) -> Place:
    """A place that runs trials as a worker does."""
    return Bundle(LegRunner(Post(**json.loads(post))))


def exchanged(conductor: Conductor | Fleet, wires: Here, post_of: Callable[[str], str]) -> Exchange:
    """Runs what there is to run with a place for each slot, which comes when it is needed; returns the exchange."""
    exchange, k = Exchange(conductor, wires, post_of), 0
    while not conductor.finished:
        while (given := exchange.first(f"p{k}")) is not None:
            wires.send(f"p{k}", *given)
            k += 1
        exchange.round(0.0)
        for place in list(exchange.broken):
            error, held = exchange.broken[place], exchange.forget(place)
            if held:
                conductor.lost_bundle(held, str(error))
    return exchange
