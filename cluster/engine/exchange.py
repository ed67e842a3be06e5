"""The exchange: takes what places tell, has it written down, and answers each with what it runs next.

Why beside Tune's controller: that handles one message a step, and a step costs milliseconds (it shuffles all futures,
waits for one, and looks after its own books), as much with two workers as with two hundred. Here one round takes
all messages that have come; they share one append to the store and one fsync (*group commit*), and none is
answered before it is on disk. Tune keeps what it is good at: placement, resources, the start and the loss of actors.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from fairsweep.cluster.engine.bundles import LATE_S
from fairsweep.cluster.engine.conductor import Conductor
from fairsweep.cluster.engine.fleet import Fleet
from fairsweep.cluster.engine.trial import Leg, key_of

STALL_S = 1.0  # that the lock may be held


class Wires(Protocol):
    """How places are reached. They are known by name."""

    def ready(self, timeout: float) -> list[tuple[str, Mapping[str, Any] | BaseException]]:
        """What has come, after at most `timeout` seconds: what `Bundle.step` gave, or why nothing will come."""
        ...

    def send(self, place: str, legs: str = "", post: str = "") -> None:
        """Tells a place its next legs (JSON), or to go on with what it has. post: of their sweep, if it is new."""
        ...

    def stash(self, places: Sequence[str]) -> None:
        """Has places write checkpoints of what is cut off, and waits for that."""
        ...

    def early(self) -> Mapping[str, Mapping[str, Any]]:
        """What places have handed over before their message, see `Bundle.step`; each is told once."""
        ...


class Exchange:
    """Which place holds which trials, and what goes between places and a conductor (or a fleet).

    A place that has nothing to run is *parked* until there is something again. Every method takes `lock`, and so does
    whoever else asks the conductor: rounds may run in a thread of their own.
    """

    def __init__(self, conductor: Conductor | Fleet, wires: Wires, post_of: Callable[[str], str]) -> None:
        """post_of: what workers are told of a sweep, as JSON; "" is the name of the only one."""
        self.conductor, self.wires, self.post_of = conductor, wires, post_of
        self.holds: dict[str, list[str]] = {}  # place -> its trials, the one that runs first
        self.parked: dict[str, float] = {}  # place -> since when, monotonic
        self.unproven: set[str] = set()  # parked until now, and silent since: their worker may be gone
        self.broken: dict[str, BaseException] = {}  # places that will tell nothing more
        self.fatal: BaseException | None = None  # what went wrong in the driver itself; never swallowed
        self.lock = threading.RLock()
        self.stirred = threading.Event()  # a place has broken or has nothing to run, or all is over
        self._sweep: dict[str, str] = {}  # place -> the sweep that its worker was told of last
        self._bundled: dict[str, float] = {}  # places that hold several trials -> since when, monotonic
        self._asked = 0.0  # when places were last asked for what they have handed over

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Holds the lock, and keeps what goes wrong in the block; after that, nothing is done. Not to be nested."""
        with self.lock:
            if self.fatal is not None:
                raise self.fatal
            began = time.monotonic()
            try:
                yield
            except BaseException as error:
                self.fatal = error
                self.stirred.set()
                raise
            took = time.monotonic() - began
            if took > STALL_S:  # the store did not answer, or the search thought: nobody was listened to
                self.conductor.stalled(took)

    def first(self, place: str) -> tuple[str, str] | None:
        """What a new place is to begin with: legs and post, as JSON. None if no new place is needed."""
        with self.guard():
            legs = [] if self.parked else self.conductor.next_legs(1)
            return self._told(place, legs) if legs else None

    def round(self, timeout: float) -> None:
        """Takes what has come, answers it, and lets the search think while the places work."""
        came = self.wires.ready(timeout)
        early = self.wires.early() if self._some_are_late(came) else {}
        with self.guard():
            self._take_early(early)
            self._take(came)
            self.conductor.think()

    def _some_are_late(self, came: Sequence[tuple[str, Mapping[str, Any] | BaseException]]) -> bool:
        """Whether a place may have handed something over; one of those that `came` says so itself."""
        if any(isinstance(message, Mapping) and message.get("early") for _, message in came):
            return True
        now = time.monotonic()
        if not self._bundled or now - self._asked < LATE_S:
            return False
        self._asked = now
        with self.lock:
            return now - min(self._bundled.values(), default=now) > LATE_S

    def _take_early(self, early: Mapping[str, Mapping[str, Any]]) -> None:
        """Takes what has ended, or not begun, at places where another trial runs on."""
        for place, said in early.items():
            if place not in self.holds:
                continue
            lane = self._lane(place, said)
            self.conductor.reports(said["reports"], said["unbegun"], lane, said["running"])
            self._hold(place, [key_of(lane, said["running"])])
            self.stirred.set()  # there may be work for another place

    def deliver(self, place: str, message: Mapping[str, Any]) -> None:
        """Takes a message that came in another way."""
        with self.guard():
            self._take([(place, message)])

    def forget(self, place: str) -> list[str]:
        """A place is given up; the trials that it held."""
        for of_place in (self.parked, self.broken, self._sweep, self._bundled):
            of_place.pop(place, None)
        self.unproven.discard(place)
        return self.holds.pop(place, [])

    def idle(self, seconds: float) -> list[str]:
        """Places that have had nothing to run for so long."""
        return [place for place, since in self.parked.items() if time.monotonic() - since > seconds]

    def _take(self, came: Sequence[tuple[str, Mapping[str, Any] | BaseException]]) -> None:
        came = [(place, message) for place, message in came if place in self.holds]  # others were given up
        came = [(place, self._whole(place, message)) for place, message in came]
        told = [(place, message) for place, message in came if not isinstance(message, BaseException)]
        self.broken.update((place, error) for place, error in came if isinstance(error, BaseException))
        if len(told) < len(came):
            self.stirred.set()
        if told:
            self._answer(told)
        for place in list(self.parked):
            legs = self.conductor.next_legs(1)
            if not legs:
                break
            self._send(place, legs)

    def _answer(self, told: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        lanes = [self._lane(place, message) for place, message in told]
        answers = self.conductor.trade(
            [(lane, message) for lane, (_, message) in zip(lanes, told, strict=True)]
        )
        places = [place for place, _ in told]
        self.unproven.difference_update(places)
        cut_off = [place for place, answer in zip(places, answers, strict=True) if answer.cut_off]
        if cut_off:
            self.wires.stash(cut_off)
        for place, lane, answer in zip(places, lanes, answers, strict=True):
            if answer.going_on:
                self._hold(place, [key_of(lane, answer.going_on)])
                self.wires.send(place)
            elif answer.legs:
                self._send(place, answer.legs)
            else:
                self._hold(place, [])
                self.parked[place] = time.monotonic()
                self.stirred.set()

    def _whole(
        self, place: str, message: Mapping[str, Any] | BaseException
    ) -> Mapping[str, Any] | BaseException:
        """`message`; an error in its place if what was handed over before it has been lost on its way."""
        if isinstance(message, Mapping) and message.get("early") and len(self.holds[place]) > 1:
            return ConnectionError("what the place had handed over before was lost on its way")
        return message

    def _hold(self, place: str, keys: list[str]) -> None:
        self.holds[place] = keys
        self._bundled.pop(place, None)
        if len(keys) > 1:
            self._bundled[place] = time.monotonic()

    def _lane(self, place: str, message: Mapping[str, Any]) -> str:
        """The lane of what a place tells, which must be of the trials that it holds."""
        held = self.holds[place]
        running = [message["running"]] if "running" in message else []
        told = [*(report["trial"] for report in message["reports"]), *running, *message["unbegun"]]
        if told != [key.rpartition("/")[2] for key in held]:
            raise RuntimeError(f"place {place} holds {held} and reported {told}")
        return held[0].rpartition("/")[0]

    def _send(self, place: str, legs: Sequence[Leg]) -> None:
        if self.parked.pop(place, None) is not None:
            self.unproven.add(place)
        self.wires.send(place, *self._told(place, legs))

    def _told(self, place: str, legs: Sequence[Leg]) -> tuple[str, str]:
        known, sweep = self._sweep.get(place), legs[0].sweep
        self._hold(place, [leg.key for leg in legs])
        self._sweep[place] = sweep
        return json.dumps([leg.__dict__ for leg in legs]), "" if known == sweep else self.post_of(sweep)
