"""Runs the sweeps of a `claims` run that are left, all on the same workers.

Each sweep alone would cost the start of its workers, who import PyTorch again, the data loaded while nobody trains, and
idle slots while its last trials run. Here a slot that no open sweep can use gets the next one (`engine.fleet`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from fairsweep.analysis.store import Store
from fairsweep.cluster import display
from fairsweep.cluster.config import Settings
from fairsweep.cluster.display import FleetLines
from fairsweep.cluster.engine.fleet import Fleet, Lane
from fairsweep.cluster.engine.nodes import cluster_of
from fairsweep.cluster.errors import MissingData
from fairsweep.cluster.jobs import readiness, sweep
from fairsweep.cluster.jobs.comparing.lanes import open_lane
from fairsweep.cluster.jobs.driving import drive_fleet


class Asked(Protocol):
    """What is to be answered by a sweep, and maybe by one before it."""

    def next_sweep(self) -> Settings | None:
        """The sweep that is to run now; None once all have."""
        ...

    def ended(self) -> None:
        """The sweep that was to run has ended; its rows are in the store."""
        ...

    def impossible(self, why: str) -> None:
        """It cannot run, for data are missing."""
        ...


class Course:
    """Opens the sweeps of `asked` one after the other, and tells each of its end."""

    def __init__(self, store: Store, asked: Sequence[Asked], shown: Display, concurrent: int) -> None:
        self.store, self.shown, self.concurrent = store, shown, concurrent
        self.waiting = list(asked)
        self.open: dict[str, Asked] = {}  # by the name of its sweep
        self.told: list[dict[str, Any]] = []  # `tracking` as the workers of each were told

    def next_lane(self) -> Lane | None:
        """The next sweep; None where there is none now."""
        while self.waiting:
            asked = self.waiting.pop(0)
            settings = asked.next_sweep()
            if settings is None:
                continue
            if _finished(self.store, settings.name):
                self._over(asked)
                continue
            try:
                if not self.store.has(settings.name):
                    sweep.rehearse(settings, settings.paper)
                    sweep.preflight(settings, settings.paper)
            except MissingData as error:
                asked.impossible(str(error))
                continue
            self.open[settings.name] = asked
            lane = open_lane(settings, self.store, settings.name, "", self.concurrent, self.shown)
            self.told.append(json.loads(lane.post)["tracking"])
            return lane
        return None

    def done(self, name: str) -> None:
        """To be called when the sweep `name` has ended."""
        self._over(self.open.pop(name))

    def _over(self, asked: Asked) -> None:
        asked.ended()
        self.waiting.insert(0, asked)  # it may have another one, and is asked before the others


def _finished(store: Store, name: str) -> bool:
    return store.has(name) and str(store.read(name).sweep["state"]) == "finished"


def run_all(
    store: Store, asked: Sequence[Asked], settings: Settings, shown: Display, resume: str, name: str
) -> str:
    """Runs what is left; finished or interrupted. settings: of one of the sweeps. resume: the command that goes on."""
    room = readiness.room(cluster_of(settings), settings.budget["concurrent"], store.uri, settings.data_dir)
    for text in room.notes:
        shown.note(text)
    course = Course(store, asked, shown, room.slots)
    state = drive_fleet(settings, Fleet(room.slots, course.next_lane, course.done), shown, resume, name)
    if state == "finished":
        sweep.tell_end(store, course.told, shown.note)
    return state


class Display(display.Display):
    """Shows nothing; the base of the real one."""

    def judged(self, rows: Sequence[Mapping[str, Any]]) -> None: ...


class Lines(FleetLines, Display):
    """Lines on standard error, one for each claim that is judged."""

    def __init__(self, name: str, sweeps: int) -> None:
        super().__init__()
        self._print(f"claims {name}: {sweeps} sweeps")

    def judged(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            self._print(
                f"{row['paper']}/{row['claim']}: {row['direction_verdict']}, size {row['size_verdict']}"
            )
