"""The agents of `fairsweep agent`: W&B decides what is tried, Ray runs it, many trials at a time from one driver.

W&B's server gives an agent a run when it has none, so the driver registers as many agents as trials run at a time, each
in a thread that sends its heartbeats (`Slot`). A run that is handed out is a configuration for the sweep's search,
`OutsideSearch`; its trial writes into that run. So the sweep is one of the store like any other, is resumed by its
rows, and a run that has ended there is not trained again, whatever the server says.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fairsweep.cluster.engine.conductor import Conductor, Trial, trial_id
from fairsweep.cluster.engine.trial import ENDED
from fairsweep.cluster.service.sweep_words import read
from fairsweep.cluster.service.wandb_client import Client, SweepGone, Unanswered, close_run
from fairsweep.search_spaces.algorithms import OutsideSearch
from fairsweep.search_spaces.space import Space, SpaceError

BEAT_S = 5.0  # as W&B's own agent
FLAPPING_S, FLAPPING_RUNS, FAILING_RUNS = 60.0, 3, 5  # W&B's rules of giving up
JOIN_S = 5.0


@dataclass
class Slot:
    """One agent of W&B's, and the runs that it was given and that live."""

    agent: str
    runs: dict[str, None] = field(default_factory=dict)
    stirred: threading.Event = field(default_factory=threading.Event)
    reserved: bool = False  # the server is asked for a run, which counts already
    exited: bool = False


@dataclass
class Tally:
    """How many runs were taken up, and how those ended that have."""

    taken: int = 0
    failed: int = 0
    well: int = 0
    began: float = field(default_factory=time.monotonic)

    def hopeless(self) -> str:
        """Why it is no use to go on, by W&B's rules (its variables switch them); empty if it is.

        As many fail at once where many run at a time, one that ended well is enough to go on.
        """
        if os.environ.get("WANDB_AGENT_DISABLE_FLAPPING") == "true" or self.well:
            return ""
        most = int(os.environ.get("WANDB_AGENT_MAX_INITIAL_FAILURES") or FAILING_RUNS)
        early = time.monotonic() - self.began < FLAPPING_S
        if (early and self.failed >= FLAPPING_RUNS) or self.failed >= most:
            return (
                f"the first {self.failed} runs have failed, so no more are taken (WANDB_AGENT_DISABLE_FLAPPING=true"
                " takes them all)"
            )
        return ""


class Agents:
    """The agents of one driver. `attach` is for `jobs.sweep`, `close` for its end.

    count: runs to take up; None: as many as there are. every: seconds between heartbeats of a slot. problem: why more
    were not taken, where that is no regular end.
    """

    def __init__(
        self,
        client: Client,
        space: Space,
        data: str,
        folder: str,
        count: int | None = None,
        every: float = BEAT_S,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        """folder: for files of W&B's of runs that are ended here."""
        self.client, self.space, self.data, self.folder = client, space, data, folder
        self.count, self.every, self.say = count, every, say
        self.slots: list[Slot] = []
        self.tally = Tally()
        self.problem = ""
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._first = ""
        self._gone = False  # the sweep, at the server
        self._silent = False  # the server did not answer when it was last asked

    def prepare(self) -> None:
        """Registers the first agent, before anything is written. DriverEnded, if the server refuses it."""
        self._first = self.client.register()

    def attach(self, conductor: Conductor) -> None:
        """Registers the agents and begins. Runs of trials that an earlier driver left open are theirs first."""
        search = conductor.algorithm
        assert isinstance(search, OutsideSearch)
        self.conductor, self.search = conductor, search
        open_ = [t for t in conductor.trials.values() if t.state not in ENDED and t.attrs.get("run")]
        most = conductor.rules.concurrent
        if self.count is not None:
            most = min(most, max(self.count, len(open_)))
        first = [self._first] if self._first else []
        self.slots = [
            Slot(agent) for agent in [*first, *(self.client.register() for _ in range(most - len(first)))]
        ]
        for k, trial in enumerate(open_):
            self.slots[k % most].runs[trial.attrs["run"]] = None
        on_end = conductor.on_end

        def ended(trial: Trial) -> None:
            if on_end is not None:
                on_end(trial)
            self.ended(trial)

        conductor.on_end = ended
        self._threads = [
            threading.Thread(target=self._live, args=(slot,), name=f"fairsweep-{slot.agent}", daemon=True)
            for slot in self.slots
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """The driver has ended: no more heartbeats."""
        self._over.set()
        for slot in self.slots:
            slot.stirred.set()
        until = time.monotonic() + JOIN_S
        for thread in self._threads:  # one may wait for a server that does not answer
            thread.join(max(0.0, until - time.monotonic()))

    def ended(self, trial: Trial) -> None:
        """A trial has come to rest; its slot asks for another at once."""
        run = trial.attrs.get("run", "")
        with self._lock:
            if trial.state in ENDED:
                self.tally.failed += trial.state == "failed"
                self.tally.well += trial.state != "failed"
                self.problem = self.problem or self.tally.hopeless()
            for slot in self.slots:
                if run in slot.runs:
                    del slot.runs[run]
                    slot.stirred.set()

    # -- in a slot's thread ---------------------------------------------------------------------------

    def _live(self, slot: Slot) -> None:
        try:
            while not self._over.is_set() and self._round(slot):
                slot.stirred.wait(self.every)
                slot.stirred.clear()
        except Exception as error:  # a fault of ours: without its thread a slot would wait for ever
            self.problem = self.problem or f"an agent of W&B's has ended: {type(error).__name__}: {error}"
            slot.runs.clear()
        with self._lock:
            slot.exited, slot.reserved = True, False
            if all(s.exited and not s.runs for s in self.slots) or self._over.is_set():
                self.search.close()

    def _round(self, slot: Slot) -> bool:
        """Asks W&B, where there is something to say or to ask. False: there will be nothing any more."""
        if slot.reserved and not self._open(slot):
            self._give_back(slot)
        if not slot.runs and not slot.reserved and not self._take(slot) and self._done(slot):
            return False
        if slot.reserved or (slot.runs and not self._gone):
            self._beat(slot)
        return True

    def _open(self, slot: Slot) -> bool:
        """Whether a slot may take up another run, as far as it does not depend on their number."""
        return not (slot.exited or self.problem or self.conductor.stopping)

    def _take(self, slot: Slot) -> bool:
        """Takes up a run before the server is asked for it, so that several slots never take more than `count`."""
        with self._lock:
            if not self._open(slot) or (self.count is not None and self.tally.taken >= self.count):
                return False
            self.tally.taken += 1
            slot.reserved = True
            return True

    def _give_back(self, slot: Slot) -> None:
        with self._lock:
            self.tally.taken -= 1
            slot.reserved = False

    def _taken(self, slot: Slot) -> None:
        """The server has given a run: the one that was asked for, or another one in the same answer."""
        with self._lock:
            self.tally.taken += not slot.reserved
            slot.reserved = False

    def _done(self, slot: Slot) -> bool:
        """Whether nothing is to come for a slot that has nothing; another one may give back what it has asked for."""
        with self._lock:
            return not self._open(slot) or not any(s.reserved for s in self.slots)

    def _beat(self, slot: Slot) -> None:
        try:
            commands = self.client.beat(slot.agent, list(slot.runs))
        except SweepGone:
            slot.exited = self._gone = True
            self.problem = self.problem or f"{self.client.place.path}: W&B says that the sweep is gone"
            return
        except Unanswered as error:
            if not self._silent:
                self._silent = True
                self.say(
                    f"W&B does not answer ({error}): trials go on, and it is asked again every {self.every:g} s"
                )
            return
        if self._silent:
            self._silent = False
            self.say("W&B answers again")
        for command in commands:
            self._obey(slot, command)

    def _obey(self, slot: Slot, command: Mapping[str, Any]) -> None:
        kind, run = command.get("type"), str(command.get("run_id") or "")
        if kind in ("run", "resume") and run:
            self._taken(slot)
            self._take_up(slot, run, command.get("args") or {})
        elif kind == "stop":
            self._stop(slot, run)
        elif kind == "exit":
            slot.exited = True
            for held in list(slot.runs):
                self._stop(slot, held)
        else:
            self.conductor.remark(f"W&B's server said {kind!r}, which is no command of wandb 0.31's agents")

    def _take_up(self, slot: Slot, run: str, args: Mapping[str, Any]) -> None:
        if self.search.knows(run):
            self._known(slot, run)
            return
        try:
            config = read(args, self.space, self.data, self.client.prefix)
            slot.runs[run] = None  # before it is offered: it may end at once
            self.search.offer(run, config)
        except SpaceError as error:
            slot.runs.pop(run, None)
            self.conductor.remark(f"W&B run {run} has failed: {error}")
            with self._lock:
                self.tally.failed += 1
                self.problem = self.problem or self.tally.hopeless()
            self._end_there(run, 1, {"error": str(error), "status": "failed"})

    def _known(self, slot: Slot, run: str) -> None:
        """The server gives a run once more: it goes on, or, if the server has not heard of its end, is told that."""
        trial = self._trial(run)
        if trial is not None and trial.state in ENDED:
            value = {} if trial.value is None else {self.conductor.rules.objective: trial.value}
            self._end_there(run, int(trial.state == "failed"), {**value, "status": trial.state})
        elif not any(run in other.runs for other in self.slots):
            slot.runs[run] = None

    def _stop(self, slot: Slot, run: str) -> None:
        trial = self._trial(run)
        if trial is not None:
            self.conductor.halt(trial.id, "stopped by W&B")
        elif self.search.withdraw(run):
            slot.runs.pop(run, None)
            self._end_there(run, 255, {"status": "stopped before it began"})

    def _trial(self, run: str) -> Trial | None:
        number = self.search.numbers.get(run)
        return (
            None
            if number is None
            else self.conductor.trials.get(trial_id(number, self.conductor.rules.seeds[0]))
        )

    def _end_there(self, run: str, exit_code: int, said: Mapping[str, Any]) -> None:
        try:
            close_run(self.client.place, run, exit_code, said, self.folder)
        except Unanswered as error:
            self.conductor.remark(f"W&B could not be told of the end of run {run}: {error}")
