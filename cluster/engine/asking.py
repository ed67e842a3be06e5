"""What a sweep tries next: its first configurations, then what the search algorithm proposes and the purse affords.

*Asking ahead*. A search that learns is asked while workers run, so that a place that becomes free finds its next
trial made. How many configurations are to have begun is a rule of counts alone (`Asker.due`): as many as have come
to an outcome, one for each slot, and some more as more becomes known, for what one outcome changes is then little.
Outcomes are told one by one, in the order of the store's rows, and after each of them what is due is asked for. So a
configuration is the same whenever it is asked for, in whatever bundles reports come, and after any interruption:
`engine.replay` goes the same way, and asks on it for what the store does not have.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from fairsweep.cluster.engine.purse import Purse
from fairsweep.cluster.engine.trial import Rules, Trial
from fairsweep.search_spaces.algorithms import Algorithm, Job

EVERY = 100  # outcomes known for each configuration that is asked for ahead


class Asker:
    """Asks for configurations, one at a time. A proposal for which too little is left is held until there is enough.

    jobs: all that have begun. known: those that the search was told of. log: those of an earlier run that it is still
    to adopt. exhausted: nothing more is to be asked for, whatever the algorithm says.
    """

    def __init__(self, rules: Rules, algorithm: Algorithm, purse: Purse) -> None:
        self.rules, self.algorithm, self.purse = rules, algorithm, purse
        self.jobs: dict[int, Job] = {}
        self.known: set[int] = set()
        self.log: deque[Job] = deque()
        self.exhausted = False
        self.held: Job | None = None
        self.on_ask: Callable[[float], None] | None = None  # told how many seconds a proposal took

    @property
    def most_ahead(self) -> int:
        """How many configurations may wait beside one for each slot; 0: each is asked for when a slot is free.

        Half as many as there are slots, unless the search says otherwise: trials that run at a time are not known to
        each other anyway, and this adds to it by no more than half.
        """
        ahead = getattr(self.algorithm, "ahead", 0)
        return self.rules.concurrent // 2 if ahead is None else int(ahead)

    @property
    def due(self) -> int:
        """How many configurations are to have begun by now. The first of a search may depend on nothing (`blind`)."""
        known = len(self.known)
        ahead = min(known // EVERY, self.most_ahead)
        return max(int(getattr(self.algorithm, "blind", 0)), known + self.rules.concurrent + ahead)

    @property
    def behind(self) -> bool:
        """Whether another one is due."""
        return len(self.jobs) - len(self.log) < self.due

    def adopt(self) -> None:
        """Has the search take over the next job of an earlier run."""
        self.algorithm.adopt(self.log.popleft())

    def adopt_all(self) -> None:
        """Has the search take over what is left of an earlier run."""
        while self.log:
            self.adopt()

    @property
    def open(self) -> bool:
        """Whether the sweep is to have another configuration, if it can be paid for."""
        some_left = self.rules.trials is None or len(self.jobs) < self.rules.trials
        return some_left and (self.held is not None or not (self.exhausted or self.algorithm.finished))

    def may(self, under_way: Sequence[Trial]) -> bool:
        """Whether `next` may give one beside the trials `under_way`."""
        return self.open and (self.held is None or self._affords(self.held, under_way))

    def next(self, under_way: Sequence[Trial], busy: bool) -> Job | None:
        """The next configuration to begin; None where there is none, or not yet. busy: trials run, and will end."""
        if not self.open:
            return None
        if busy and self.held is None and not self.purse.affords(self.purse.usual, under_way):
            return None  # what is asked for later is asked for with more known
        job, self.held = self.held or self._proposed(busy), None
        if job is not None and not self._affords(job, under_way):
            self.held, job = job, None
        return job

    def _affords(self, job: Job, under_way: Sequence[Trial]) -> bool:
        return self.purse.affords(self.purse.whole(job.config), under_way)

    def _proposed(self, busy: bool) -> Job | None:
        number = len(self.jobs)
        if number < len(self.rules.first):
            job = Job(number, dict(self.rules.first[number]), {"first": True})
            self.algorithm.adopt(job)
            return job
        began = time.perf_counter()
        asked = self.algorithm.ask(1)
        if self.on_ask is not None:
            self.on_ask(time.perf_counter() - began)
        if not asked:
            # Else it may propose something once it was told more, or has been offered more from outside.
            self.exhausted = not busy and not getattr(self.algorithm, "patient", False)
        return asked[0] if asked else None
