"""What a sweep tries next: its first configurations, then what the search algorithm proposes and the purse affords."""

from __future__ import annotations

from collections.abc import Sequence

from fairsweep.cluster.engine.purse import Purse
from fairsweep.cluster.engine.trial import Rules, Trial
from fairsweep.search_spaces.algorithms import Algorithm, Job


class Asker:
    """Asks for configurations, one at a time. A proposal for which too little is left is held until there is enough.

    jobs: all that have begun. exhausted: nothing more is to be asked for, whatever the algorithm says.
    """

    def __init__(self, rules: Rules, algorithm: Algorithm, purse: Purse) -> None:
        self.rules, self.algorithm, self.purse = rules, algorithm, purse
        self.jobs: dict[int, Job] = {}
        self.exhausted = False
        self.held: Job | None = None

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
        asked = self.algorithm.ask(1)
        if not asked:
            self.exhausted = not busy  # else it may propose something once it was told more
        return asked[0] if asked else None
