"""What runs next: trials that wait, then those that have earned to go on, then new configurations.

Legs of short trials are handed out several at a time (`engine.bundles`), where nothing that is reported meanwhile could
change which they are: nobody is stopped early or for want of budget, and the search does not learn, or was asked before
(`engine.asking`).
"""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fairsweep.analysis.store import SweepWriter
from fairsweep.cluster.engine.asking import Asker
from fairsweep.cluster.engine.books import pending_row
from fairsweep.cluster.engine.judging import Judge
from fairsweep.cluster.engine.purse import Purse
from fairsweep.cluster.engine.trial import Leg, Nursery, Rules, Trial, now, trial_id
from fairsweep.search_spaces.algorithms import Algorithm, Job, Outcome, Scheduler
from fairsweep.search_spaces.space import Space


class Handing:
    """The half of a `Conductor` that hands out legs. `ahead`: trials among the active that wait at their place."""

    def __init__(
        self,
        rules: Rules,
        space: Space,
        algorithm: Algorithm,
        scheduler: Scheduler,
        writer: SweepWriter,
        columns: Mapping[str, Any],
    ) -> None:
        self.rules, self.space = rules, space
        self.algorithm, self.scheduler, self.writer = algorithm, scheduler, writer
        self.columns = dict(columns)
        self.judge = Judge(scheduler, rules.mode)
        self.trials: dict[str, Trial] = {}
        self.groups = self.judge.groups
        self.active: set[str] = set()
        self.ahead: set[str] = set()
        self.waiting: deque[str] = deque()  # asked, or to be continued, and not running
        self.stock: deque[int] = deque()  # configurations that were asked for ahead, of which nothing has run
        self.news: deque[tuple[Job, Outcome]] = (
            deque()
        )  # what the search is still to be told, in the log's order
        self.purse = Purse(rules, self.judge)
        self.asker = Asker(rules, algorithm, self.purse)
        self.jobs = self.asker.jobs
        self.nursery: Nursery | None = None
        self.places = rules.concurrent  # how many may run its legs now; fewer where others share the cluster
        self._dry = False  # there was nothing to hand out when it was last looked for
        self.halted: dict[str, str] = {}  # trials that somebody outside wants to end, and why

    @property
    def _no_more(self) -> bool:
        raise NotImplementedError

    def end(
        self, trial: Trial, state: str, reason: str, payload: Mapping[str, Any], error: str | None = None
    ) -> None:
        raise NotImplementedError

    def next_leg(self) -> Leg | None:
        """The next thing to run, or None if no slot is free, nothing is ready or the sweep is stopping."""
        if self._no_more or self.busy >= min(self.places, self.rules.concurrent):
            return None
        leg = self._hand_out()
        self._dry = leg is None
        return leg

    @property
    def wants(self) -> int:
        """How many places it could use now, those that it has included, as far as it is known."""
        offered = getattr(
            self.algorithm, "offered", 0
        )  # from outside, since it was last looked for something
        if (self._dry and not offered) or self._no_more:
            return self.busy
        left = self.rules.concurrent
        if self.rules.trials is not None and self.scheduler.name == "none":
            unbegun = self.rules.trials - len(self.jobs) + len(self.stock)
            left = max(0, unbegun) * len(self.rules.seeds) + len(self.waiting)
        return min(self.rules.concurrent, self.busy + max(1, left))

    @property
    def busy(self) -> int:
        """How many places run its legs."""
        return len(self.active) - len(self.ahead)

    def next_legs(self, most: int) -> list[Leg]:
        """The next leg, and up to `most` - 1 for its place to run after it; none if there is no next one."""
        with self.writer.batch():
            first = self.next_leg()
            return [] if first is None else [first, *self.legs_after(first, most - 1)]

    def legs_after(self, first: Leg, most: int) -> list[Leg]:
        """Up to `most` legs that can go with `first`: they are what follows, whatever is reported of it."""
        legs: list[Leg] = []
        if most <= 0 or not self.untold or self.trials[first.trial].alone:
            return legs
        most = min(most, self._fair)
        with self.writer.batch():
            while len(legs) < most and not (self.waiting and self.trials[self.waiting[0]].alone):
                if self.looks_ahead and not (self.waiting or self.stock):
                    break
                leg = self._hand_out()
                if leg is None:
                    break
                self.ahead.add(leg.trial)
                legs.append(leg)
        return legs

    @property
    def untold(self) -> bool:
        """Whether what is handed out next is the same whatever is reported until then."""
        settled = self.scheduler.name == "none" and not self.purse.limited
        return settled and (self.looks_ahead or getattr(self.algorithm, "untold", False))

    @property
    def looks_ahead(self) -> bool:
        """Whether the search learns and is asked ahead. Not where who runs next follows from who does well."""
        return self.asker.most_ahead > 0 and self.scheduler.name == "none" and not self.purse.limited

    @property
    def _fair(self) -> int:
        """How many legs one place may have ahead of those that are left, so that all end at about the same time."""
        if self.looks_ahead:
            stock = len(self.stock) * len(self.rules.seeds) + len(self.waiting)
            idle = max(0, self.rules.concurrent - self.busy)
            return math.ceil(max(0, stock - idle) / (2 * self.rules.concurrent))
        if self.rules.trials is None:
            return sys.maxsize
        unasked = (self.rules.trials - len(self.jobs)) * len(self.rules.seeds)
        return math.ceil((unasked + len(self.waiting)) / (2 * self.rules.concurrent))

    def hand_back(self, trial_ids: Sequence[str]) -> None:
        """Legs that a place has not begun: they come first when the next one is handed out."""
        for i in reversed(trial_ids):
            if i in self.active:
                self.active.discard(i)
                self.ahead.discard(i)
                self.trials[i].state = "pending"
                self.waiting.appendleft(i)
                self.writer.trial(i, state="pending")

    def _hand_out(self) -> Leg | None:
        while (trial_id := self._next_id()) in self.halted:
            self.end(self.trials[trial_id], "pruned", f"{self.halted[trial_id]} before it began", {})
        if trial_id is None:
            return None
        return self._started(self.trials[trial_id])

    def claim(self, trial_id: str) -> Leg | None:
        """Hands out this trial before all others; None if it does not wait."""
        if trial_id not in self.waiting:
            return None
        self.waiting.remove(trial_id)
        return self._started(self.trials[trial_id])

    def _started(self, trial: Trial) -> Leg:
        first = trial.state == "pending" and trial.steps == trial.born and trial.retries == 0
        trial.state, trial.reason, trial.heard = "running", "", time.monotonic()
        self.active.add(trial.id)
        self.writer.trial(trial.id, state="running", reason="", **({"started": now()} if first else {}))
        return Leg.of(trial)

    def _next_id(self, peek: bool = False) -> str | None:
        if self.waiting:
            return self.waiting[0] if peek else self.waiting.popleft()
        if not self.stock:
            self._think(lambda: bool(self.stock))
        if self.nursery is not None and self.nursery.due:
            if peek:
                return ""
            self.nursery.deliver()
            return self._next_id()
        promotable = self.judge.promotable()
        if promotable and self._affords(promotable):
            return promotable[0].id if peek else self._promote(promotable)
        if self.stock:
            if peek:
                return self.groups[self.stock[0]][0].id
            self.waiting.extend(t.id for t in self.groups[self.stock.popleft()])
            return self.waiting.popleft()
        if self.looks_ahead and self.active:
            return None  # whoever runs is one of those that are due
        if peek and self.asker.may(self._under_way()):
            return ""
        while not peek and (job := self.asker.next(self._under_way(), bool(self.active))) is not None:
            self.begin(job)
            if self.waiting:  # else none of the trials can run, and they have failed
                return self.waiting.popleft()
        if not self.active and not any(t.state == "complete" for t in self.trials.values()):
            survivor = self.judge.survivor()
            if survivor and not self._affords(survivor):
                survivor = next(filter(self._affords, self.judge.resting()), [])
            if survivor:
                return survivor[0].id if peek else self._promote(survivor)
        return None

    def _affords(self, trials: list[Trial]) -> bool:
        """Whether the configuration of `trials`, which rests, can be trained to its end."""
        return self.purse.affords(self.purse.need(trials[0].config_id), self._under_way())

    def _under_way(self) -> list[Trial]:
        """Those that run or are to run, if it matters."""
        return [self.trials[i] for i in (*self.active, *self.waiting)] if self.purse.limited else []

    def think(self, seconds: float = math.inf) -> bool:
        """Tells the search what has come to rest, and asks it for what is due. Workers may run meanwhile.

        True if some of it is left after about `seconds`. What is asked for is the same whenever this is done.
        """
        until = time.monotonic() + seconds
        self._think(lambda: time.monotonic() >= until)
        return bool(self.news)

    def _think(self, enough: Callable[[], bool]) -> None:
        with self.writer.batch() if self.looks_ahead else nullcontext():
            self._ask_due()
            while self.news and not enough():
                self.tell_next()
                self._ask_due()

    def tell_next(self) -> None:
        """Tells the search of the configuration that came to rest first."""
        job, outcome = self.news.popleft()
        self.algorithm.tell(job, outcome)
        self.asker.known.add(job.number)

    def _ask_due(self) -> None:
        if not self.looks_ahead:
            return
        while self.asker.behind:
            if self.asker.log:
                self.asker.adopt()
                continue
            job = None if self._no_more else self.asker.next([], bool(self.active))
            if job is None:
                return
            self.begin(job, ahead=True)

    def begin(self, job: Job, ahead: bool = False) -> None:
        """Makes the trials of a new configuration, which wait for their turn. ahead: in the stock."""
        self.jobs[job.number] = job
        with self.writer.batch():
            for seed in self.rules.seeds:
                trial = self.add(job, seed)
                row = pending_row(trial, job, self.rules, self.space)
                self.writer.trial(trial.id, **row, **self.columns)
            if ahead and not self.groups[job.number][0].fault:
                self.stock.append(job.number)
            else:
                self.enqueue(self.groups[job.number])

    def enqueue(self, trials: Iterable[Trial]) -> None:
        """Lets pending trials wait for their turn; one that cannot even begin has failed."""
        for trial in trials:
            if trial.fault:
                self.end(trial, "failed", "its fidelity cannot be told", {}, trial.fault)
            else:
                self.waiting.append(trial.id)

    def add(self, job: Job, seed: int) -> Trial:
        minimum, maximum, fault = self.rules.extent(job.config)
        name = trial_id(job.number, seed)
        unit = self.groups[job.number][0].id if job.number in self.groups else name
        trial = Trial(
            id=name,
            number=len(self.trials),
            config_id=job.number,
            seed=seed,
            config=dict(job.config),
            minimum=minimum,
            maximum=maximum,
            milestones=self.scheduler.milestones(minimum, maximum, unit),
            attrs=dict(job.attrs),
            fault=fault,
        )
        self.trials[trial.id] = trial
        self.judge.add(trial)
        return trial

    def _promote(self, trials: list[Trial]) -> str:
        """Sends the trials of a configuration on, and returns the first to run."""
        unit = self.judge.unit(trials[0])
        self.scheduler.promoted(unit)
        self.writer.event("promote", trial=unit)
        self.waiting.extendleft(t.id for t in reversed(trials))
        return self.waiting.popleft()

    def _release(self) -> None:
        """Sends on the trials whose configuration goes on without a pause, now that it was judged."""
        for trial in self.judge.released:
            trial.state, trial.reason = "pending", ""
            self.waiting.append(trial.id)
            self.writer.trial(trial.id, state="pending", reason="")
        self.judge.released.clear()
