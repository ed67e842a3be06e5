"""Puts configurations before the scheduler: each is judged at a milestone by the mean over its seeds."""

from __future__ import annotations

import math
from statistics import fmean

from fairsweep.cluster.engine.trial import Trial
from fairsweep.search_spaces.algorithms import Scheduler
from fairsweep.search_spaces.algorithms.schedulers import Decision

OVER = ("complete", "failed")


class Judge:
    """Knows how far the trials of each configuration have come, and what the scheduler said of them.

    A configuration is judged at a milestone once each of its trials has come to it or has ended; a trial that
    completed before counts with its value, one that failed does not, but its configuration goes no further
    than the next milestone. Until then those that are there wait, or run on, as the scheduler wants it.
    """

    def __init__(self, scheduler: Scheduler, mode: str) -> None:
        self.scheduler, self.mode = scheduler, mode
        self.groups: dict[int, list[Trial]] = {}  # configuration -> its trials, one a seed
        self.verdicts: dict[int, dict[int, Decision]] = {}  # configuration -> milestone -> what was decided
        self.condemned: set[str] = set()  # to be stopped at their next report
        self.released: list[Trial] = []  # that were at rest and are to go on

    def add(self, trial: Trial) -> None:
        """Takes a new trial in."""
        self.groups.setdefault(trial.config_id, []).append(trial)

    def unit(self, trial: Trial) -> str:
        """What the scheduler knows the trial's configuration by: the name of its first trial."""
        return self.groups[trial.config_id][0].id

    def report(self, trial: Trial, step: int, value: float | None) -> Decision:
        """Enters the objective of a step, None if it was not measured, and says what becomes of the trial."""
        trial.steps = step
        if value is not None and math.isfinite(value):
            self.enter(trial, step, value)
        if step not in trial.milestones:
            return "stop" if trial.id in self.condemned else "continue"
        if trial.best is not None:
            now = trial.latest if self.scheduler.latest else None
            trial.judged[step] = trial.best if now is None else now
        verdict = self._verdict(trial.config_id, step)
        if trial.best is None:
            return "continue"
        if verdict is None:
            return "pause" if self.scheduler.waits else "continue"
        gone_on = verdict == "pause" and not self.scheduler.rests(self.unit(trial))
        return "continue" if gone_on else verdict

    def enter(self, trial: Trial, step: int, value: float) -> None:
        """Enters an objective that is a number; nothing is decided."""

        def better(than: float) -> bool:
            return value < than if self.mode == "min" else value > than

        trial.latest = value
        if step < trial.minimum:
            if trial.early is None or better(trial.early[0]):
                trial.early = (value, step)
        elif trial.best is None or better(trial.best):
            trial.best, trial.best_step = value, step

    def _verdict(self, config_id: int, step: int) -> Decision | None:
        verdicts = self.verdicts.setdefault(config_id, {})
        if step in verdicts:
            return verdicts[step]
        group = self.groups[config_id]
        values = []
        for trial in group:
            if step in trial.judged:
                values.append(trial.judged[step])
            elif trial.state == "complete" and trial.value is not None:
                values.append(trial.value)
            elif trial.state not in OVER and trial.steps < step:
                return None
        if not values:
            return None
        verdicts[step] = self.scheduler.report(group[0].id, step, fmean(values))
        if verdicts[step] == "continue":
            self.released += [t for t in group if t.steps == step and t.state in ("paused", "pruned")]
        elif verdicts[step] == "stop":
            self.condemned |= {t.id for t in group if t.state not in OVER}
        return verdicts[step]

    def ended(self, trial: Trial) -> None:
        """The trial is complete or has failed; those that waited for it are judged."""
        group = self.groups[trial.config_id]
        if trial.state == "failed" or all(t.state == "complete" for t in group):
            self.scheduler.ended(group[0].id, failed=any(t.state == "failed" for t in group))
        for step in sorted({t.steps for t in group if t.state not in OVER and t.steps in t.judged}):
            self._verdict(trial.config_id, step)

    def revived(self, trial: Trial) -> None:
        """A trial that had failed is run again."""
        if all(t.state != "failed" for t in self.groups[trial.config_id]):
            self.scheduler.revived(self.unit(trial))

    def rests(self, trial: Trial) -> bool:
        """Whether a trial that came to rest where it is has been given no reason to go on."""
        verdict = self.verdicts.get(trial.config_id, {}).get(trial.steps)
        if verdict is None:
            return True  # it waits for the other seeds
        return verdict == "stop" or (verdict == "pause" and self.scheduler.rests(self.unit(trial)))

    def promotable(self) -> list[Trial]:
        """The trials of the configuration that has earned to go on; none if no configuration has."""
        return self._at_rest(self.scheduler.promotable())

    def survivor(self) -> list[Trial]:
        """The trials of the paused configuration most worth finishing; none if none is paused."""
        return self._at_rest(self.scheduler.survivor())

    def resting(self) -> list[list[Trial]]:
        """The trials of each configuration that is paused, and could go on; the one that came furthest first."""
        found = [self._at_rest(group[0].id) for group in self.groups.values() if self.rests_at(group)]
        return sorted(found, key=lambda trials: -min(t.steps for t in trials))

    def rests_at(self, group: list[Trial]) -> bool:
        """Whether no trial of a configuration is under way or has failed, and one is paused."""
        states = {t.state for t in group}
        return "paused" in states and states <= {"paused", "complete"}

    def _at_rest(self, unit: str | None) -> list[Trial]:
        if unit is None:
            return []
        return [t for t in self.groups[int(unit.partition("-")[0])] if t.state in ("paused", "pruned")]
