"""Several sweeps on the same workers. Each *lane* is a sweep with books of its own; Tune sees one conductor.

A sweep of few trials leaves slots idle at its end, and a Tune run of its own costs it seconds at its start. Here a slot
that no open lane can use gets the next lane, and a warm worker takes legs of one lane after those of another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fairsweep.cluster.engine.conductor import Conductor, Leg, Rules, Trial
from fairsweep.cluster.engine.trial import Answer


@dataclass(frozen=True)
class Lane:
    """An open sweep: `post` is what its workers are told (JSON). close: ends its books, and is told to by the fleet."""

    name: str
    conductor: Conductor
    post: str
    close: Callable[[], None]
    abandon: Callable[[], None]


class Fleet:
    """What `engine.bridge` needs of a conductor, for the lanes that `source` opens one after the other.

    source: the next lane; None where there is none now, though the end of an open one may bring some. A trial is known
    by `<lane>/<trial>`. done: called with the name of a lane once its books are closed, before `source` is asked again.
    """

    def __init__(
        self,
        concurrent: int,
        source: Callable[[], Lane | None],
        done: Callable[[str], None] = lambda name: None,
    ) -> None:
        self.rules = Rules("", "max", None, (), concurrent)
        self.source, self.done = source, done
        self.lanes: dict[str, Lane] = {}
        self.interrupted = False
        self._dry = False  # the source had nothing, and no lane has ended since
        self._began = time.monotonic()
        self.places = concurrent  # see `Handing.places`
        self._idle = False  # there was nothing to hand out when it was last looked for

    # -- what `bridge` asks ---------------------------------------------------------------------------

    def next_leg(self) -> Leg | None:
        """The next thing to run, of an open lane or of one that is opened for it."""
        if self.stopping or self.busy >= min(self.places, self.rules.concurrent):
            return None
        leg = self._first()
        self._idle = leg is None
        return leg

    @property
    def busy(self) -> int:
        """See `Conductor.busy`."""
        return sum(lane.conductor.busy for lane in self.lanes.values())

    @property
    def wants(self) -> int:
        """See `Conductor.wants`."""
        return self.busy if self._idle or self.stopping else self.rules.concurrent

    def _first(self) -> Leg | None:
        for lane in list(self.lanes.values()):
            leg = self._of(lane)
            if leg is not None:
                return leg
        while not self._dry:
            opened = self.source()
            if opened is None:
                self._dry = True
                break
            self.lanes[opened.name] = opened
            if self.interrupted:  # while it was opened
                opened.conductor.interrupt()
                return None
            leg = self._of(opened)
            if leg is not None:
                return leg
        return None

    def next_legs(self, most: int) -> list[Leg]:
        """See `Conductor.next_legs`; all are of one lane."""
        first = self.next_leg()
        if first is None:
            return []
        further = self.lanes[first.sweep].conductor.legs_after(first, most - 1)
        return [first, *(replace(leg, sweep=first.sweep) for leg in further)]

    def _of(self, lane: Lane) -> Leg | None:
        """The next leg of a lane. One that is over is closed."""
        leg = lane.conductor.next_leg()
        if leg is not None:
            return replace(leg, sweep=lane.name)
        if lane.conductor.finished and not self.interrupted:  # else it only has no more to run: see `close`
            self._close(lane)
        return None

    def _close(self, lane: Lane) -> None:
        lane.close()
        del self.lanes[lane.name]
        self.done(lane.name)
        self._dry = False

    def reports(
        self, payloads: Sequence[Any], unbegun: Sequence[str], lane: str, running: str = ""
    ) -> str | None:
        """See `Conductor.reports`."""
        return self.lanes[lane].conductor.reports(payloads, unbegun, running=running)

    def trade(self, messages: Sequence[tuple[str, Any]]) -> list[Answer]:
        """See `Conductor.trade`; an append for each lane. Where a trial was cut off, nobody gets legs yet."""
        answers: dict[int, Answer] = {}
        for name in dict.fromkeys(lane for lane, _ in messages):
            of_lane = [k for k, (lane, _) in enumerate(messages) if lane == name]
            heard = self.lanes[name].conductor.trade([messages[k] for k in of_lane], hand_out=False)
            answers.update(zip(of_lane, heard, strict=True))
        if not any(answer.cut_off for answer in answers.values()):
            for k, (_, message) in enumerate(messages):
                if not answers[k].going_on:
                    answers[k] = replace(answers[k], legs=self.next_legs(message["most"]))
        return [answers[k] for k in range(len(messages))]

    def think(self) -> None:
        """See `Conductor.think`."""
        for lane in self.lanes.values():
            lane.conductor.think()

    def lost(self, key: str, error: str, reason: str = "worker died", charged: bool = True) -> None:
        """See `Conductor.lost`."""
        self.lost_bundle([key], error, reason, charged)

    def lost_bundle(
        self, keys: Sequence[str], error: str, reason: str = "worker died", charged: bool = True
    ) -> None:
        """See `Conductor.lost_bundle`."""
        conductor, _ = self.find(keys[0])
        conductor.lost_bundle([self.find(key)[1] for key in keys], error, reason, charged)

    def hand_back(self, keys: Sequence[str]) -> None:
        """See `Conductor.hand_back`; all are of one lane."""
        if keys:
            self.find(keys[0])[0].hand_back([self.find(key)[1] for key in keys])

    def heard_from(self, key: str) -> None:
        """See `Conductor.heard_from`."""
        conductor, trial = self.find(key)
        conductor.heard_from(trial)

    @property
    def trials(self) -> _Trials:
        """Those of the open lanes, by key."""
        return _Trials(self)

    def post_of(self, sweep: str) -> str:
        """What the workers of an open lane are told."""
        return self.lanes[sweep].post

    def overdue(self) -> list[str]:
        """See `Conductor.overdue`."""
        return [f"{lane.name}/{i}" for lane in self.lanes.values() for i in lane.conductor.overdue()]

    def stalled(self, seconds: float) -> None:
        """See `Conductor.stalled`."""
        for lane in self.lanes.values():
            lane.conductor.stalled(seconds)

    def beat(self) -> None:
        for lane in self.lanes.values():
            lane.conductor.beat()

    @property
    def active(self) -> set[str]:
        return {f"{lane.name}/{i}" for lane in self.lanes.values() for i in lane.conductor.active}

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._began

    @property
    def stopping(self) -> bool:
        return self.interrupted

    @property
    def finished(self) -> bool:
        """Nothing runs and nothing is left to hand out."""
        return not self.active and (self.stopping or (self._dry and not self.lanes))

    def find(self, key: str) -> tuple[Conductor, str]:
        """The conductor of the lane that `key` is of, and how it knows the trial."""
        name, _, trial = key.rpartition("/")
        return self.lanes[name].conductor, trial

    # -- its end ----------------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """Hands out nothing more; running trials end at their next report, to be resumed."""
        self.interrupted = True  # first: another thread may open a lane meanwhile
        for lane in list(self.lanes.values()):
            lane.conductor.interrupt()

    def close(self) -> str:
        """Closes the books of what is open; finished or interrupted."""
        for lane in list(self.lanes.values()):
            lane.close()
            del self.lanes[lane.name]
            if not self.interrupted:
                self.done(lane.name)
        return "interrupted" if self.interrupted else "finished"

    def abandon(self) -> None:
        """Ends the books of a driver that fails. Never raises."""
        self.interrupted = True
        for lane in list(self.lanes.values()):
            lane.abandon()


class _Trials:
    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def __getitem__(self, key: str) -> Trial:
        conductor, trial = self._fleet.find(key)
        return conductor.trials[trial]
